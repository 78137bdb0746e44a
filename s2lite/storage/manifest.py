"""The numbered manifests of a storage path, and the epoch of its writer.

Theory of operation. Manifests are immutable and numbered; the newest is the one in force. A writer
takes over by creating the next number with an epoch one higher than the newest had. Creation is
conditional, so of two servers that open at once exactly one gets a number, and the other reads the
winner's manifest and tries the number after it. From then on the loser's epoch is the higher one:
the last to open is the writer, and it fences the others off in the WAL (see `opening`).
"""

import attrs

from s2lite.codec.envelope import Header, ObjectKind
from s2lite.codec.manifest import decode_manifest, encode_manifest
from s2lite.model.errors import CorruptObject
from s2lite.model.manifest import Manifest
from s2lite.storage.creation import NumberTaken, ObjectCreator
from s2lite.storage.object_store import ObjectNotFound, ObjectStore

MANIFEST_PREFIX = "manifest/"


def manifest_key(number: int) -> str:
    """The key of a manifest."""
    return f"{MANIFEST_PREFIX}{number:020d}"


@attrs.frozen
class StoredManifest:
    """A manifest as it was read: with its number and its writer."""

    header: Header
    manifest: Manifest


async def newest_manifest(store: ObjectStore) -> StoredManifest | None:
    """The newest manifest, or None if nothing was ever written under this path.

    Raises `CorruptObject` if it is damaged: without it nothing else can be trusted.
    """
    listed = await store.list(MANIFEST_PREFIX)
    if not listed:
        return None
    newest = await _read(store, listed[-1].key)
    while True:  # a listing may be older than the store
        try:
            newest = await _read(store, manifest_key(newest.header.number + 1))
        except ObjectNotFound:
            return newest


async def _read(store: ObjectStore, key: str) -> StoredManifest:
    header, manifest = decode_manifest(key, await store.get(key))
    if manifest_key(header.number) != key:
        raise CorruptObject(key, f"it is number {header.number}")
    return StoredManifest(header, manifest)


async def write_manifest(creator: ObjectCreator, number: int, manifest: Manifest) -> None:
    """Write the manifest as this number; durable on return.

    Raises `WriterFenced` if a newer writer has taken the number, `NumberTaken` if any other has.
    """
    try:
        await creator.create(
            ObjectKind.MANIFEST,
            number,
            manifest_key(number),
            lambda header: encode_manifest(header, manifest),
        )
    except NumberTaken as taken:
        creator.refuse_newer(taken)
        raise
