"""The numbered manifests of a storage path, and the epoch of its writer.

Theory of operation. Manifests are immutable and numbered; the newest is the one in force. A writer
takes over by creating the next number with an epoch one higher than the newest had. Creation is
conditional, so of two servers that open at once exactly one gets a number, and the other reads the
winner's manifest and tries the number after it. From then on the loser's epoch is the higher one:
the last to open is the writer, and it fences the others off in the WAL (see `opening`).

An opener that finds the newest manifest damaged goes by the one before it. Nothing is lost by that:
all that the newest two manifests name is kept, and what the older one does not name is replayed.
"""

import random

import attrs

from s2lite.codec.envelope import Header, ObjectKind
from s2lite.codec.manifest import decode_manifest, encode_manifest
from s2lite.model.errors import CorruptObject
from s2lite.model.manifest import Manifest
from s2lite.storage.creation import NumberTaken, ObjectCreator
from s2lite.storage.damage import Damage, refuse_newer_format
from s2lite.storage.numbered import numbered
from s2lite.storage.objects.object_store import ObjectNotFound, ObjectStore
from s2lite.storage.retry import retrying

MANIFEST_PREFIX = "manifest/"


def manifest_key(number: int) -> str:
    """The key of a manifest."""
    return f"{MANIFEST_PREFIX}{number:020d}"


@attrs.frozen
class StoredManifest:
    """A manifest as it was read: with its number and its writer."""

    header: Header
    manifest: Manifest


async def read_manifest(store: ObjectStore, number: int) -> StoredManifest:
    """The manifest of this number; raises `ObjectNotFound`, and `CorruptObject` if damaged."""
    key = manifest_key(number)
    return _decode(key, await store.get(key))


async def newest_manifest(store: ObjectStore) -> StoredManifest | None:
    """The newest manifest, or None if nothing was ever written under this path.

    Raises `CorruptObject` if it is damaged: without it nothing else can be trusted.
    """
    listed = numbered(await store.list(MANIFEST_PREFIX), MANIFEST_PREFIX)
    if not listed:
        return None
    newest = await read_manifest(store, _number_of(listed[-1].key))
    while True:  # a listing may be older than the store
        try:
            newest = await read_manifest(store, newest.header.number + 1)
        except ObjectNotFound:
            return newest


@attrs.frozen
class FoundManifests:
    """What an opener finds: the newest manifest it can read, and the highest number there is.

    The number is 0 if there is none. Only damage makes it higher than that of the `newest`.
    """

    newest: StoredManifest | None
    number: int

    @property
    def is_whole(self) -> bool:
        """Whether the newest manifest there is can be read, or there is none."""
        return self.number == (0 if self.newest is None else self.newest.header.number)

    @property
    def highest_epoch(self) -> int:
        """No writer of these manifests had a higher epoch than this.

        Each manifest that cannot be read may have begun an epoch of its own.
        """
        if self.newest is None:
            return self.number
        return self.newest.header.writer.epoch + self.number - self.newest.header.number


async def find_manifests(store: ObjectStore, damage: Damage, rng: random.Random) -> FoundManifests:
    """The newest manifest that can be read; the damaged ones above it are reported.

    Raises `StorageFailed` if the store does not answer, and `NewerFormat` if a manifest was written
    by a newer version of this server.
    """
    everything = await retrying(MANIFEST_PREFIX, lambda: store.list(MANIFEST_PREFIX), rng)
    listed = numbered(everything, MANIFEST_PREFIX)
    newest, number = None, _number_of(listed[-1].key) if listed else 0
    for info in reversed(listed):
        try:
            newest = await _read_or_report(store, _number_of(info.key), damage, rng)
        except ObjectNotFound:
            continue  # it was collected since
        if newest is not None:
            break
    while listed:  # a listing may be older than the store
        try:
            newer = await _read_or_report(store, number + 1, damage, rng)
        except ObjectNotFound:
            break
        newest, number = newer or newest, number + 1
    return FoundManifests(newest, number)


def _number_of(key: str) -> int:
    return int(key.removeprefix(MANIFEST_PREFIX))


async def _read_or_report(
    store: ObjectStore, number: int, damage: Damage, rng: random.Random
) -> StoredManifest | None:
    key = manifest_key(number)
    data = await retrying(key, lambda: store.get(key), rng)
    try:
        return _decode(key, data)
    except CorruptObject as error:
        refuse_newer_format(key, data)
        damage.report(key, error.reason)
        return None


def _decode(key: str, data: bytes) -> StoredManifest:
    header, manifest = decode_manifest(key, data)
    if manifest_key(header.number) != key:
        raise CorruptObject(key, f"it is number {header.number}")
    return StoredManifest(header, manifest)


async def write_manifest(creator: ObjectCreator, number: int, manifest: Manifest) -> bytes:
    """Write the manifest as this number, and return the object's bytes; durable on return.

    Raises `WriterFenced` if a newer writer has taken the number, `NumberTaken` if any other has.
    """
    written = b""

    def encode(header: Header) -> bytes:
        nonlocal written
        written = encode_manifest(header, manifest)
        return written

    try:
        await creator.create(ObjectKind.MANIFEST, number, manifest_key(number), encode)
    except NumberTaken as taken:
        creator.refuse_newer(taken)
        raise
    return written
