"""Opens a storage path: becomes its only writer, and replays what earlier writers left.

Theory of operation. A writer numbers its WAL objects densely and acknowledges in order, so what it
acknowledged is a prefix without gaps. The opener

1. takes the next epoch by creating the next manifest;
2. walks the WAL upwards from the floor, replaying, until it meets a free number;
3. creates a *fence* there. Creation is conditional: either the fence stands, and the old writer can
   never complete that prefix any further, or the old writer was faster, and its object is replayed
   like the others and the next number tried;
4. fences the numbers after it that the old writer may still have writes in flight to. What turns
   up there has an epoch lower than the fence before it; it was never acknowledged, and nobody
   replays it.

After that the old writer cannot create an object that counts, whatever it had in flight and however
long it was stopped, and every number from `next_wal_number` on is this writer's to give.
"""

import logging
import random
from collections.abc import Callable

import attrs
import trio

from s2lite.codec.envelope import Header, ObjectKind, WriterIdentity
from s2lite.codec.wal import LocatedEntry
from s2lite.model.errors import CorruptObject, WriterFenced
from s2lite.model.manifest import Manifest
from s2lite.storage.creation import NumberTaken, ObjectCreator
from s2lite.storage.manifest import MANIFEST_PREFIX, StoredManifest, newest_manifest, write_manifest
from s2lite.storage.object_store import ObjectNotFound, ObjectStore
from s2lite.storage.retry import retrying
from s2lite.storage.wal import WAL_PREFIX, read_wal, wal_key, write_fence

_log = logging.getLogger("s2lite.storage")


@attrs.frozen(eq=False)
class OpenedLog:
    """A path of which this process is the writer."""

    creator: ObjectCreator
    manifest_number: int
    manifest: Manifest
    next_wal_number: int

    async def close(self) -> None:
        """Record that everything was written, so that the next opener need not wait.

        Only for a writer without writes in flight. Raises `WriterFenced` if another took over.
        """
        closed = attrs.evolve(self.manifest, closed_cleanly=True)
        await write_manifest(self.creator, self.manifest_number + 1, closed)


@attrs.define(eq=False)
class _Replay:
    """Walks the WAL, applying what counts."""

    store: ObjectStore
    rng: random.Random
    epoch: int
    apply: Callable[[LocatedEntry], None]
    number: int
    fence_epoch: int = 0
    replayed: int = 0

    async def run_to_end(self) -> None:
        """Replay up to the first free number."""
        while True:
            try:
                header, entries = await retrying(
                    wal_key(self.number), lambda: read_wal(self.store, self.number), self.rng
                )
            except ObjectNotFound:
                return
            self._replay(header, entries)

    async def check_unbroken(self, reach: int) -> None:
        """Raise `CorruptObject` if the log goes on where no writer gets to without this number.

        An object that was lost would otherwise pass for the end of the log, and everything after it
        would silently be dropped.
        """
        key, last = wal_key(self.number), wal_key(self.number + reach - 1)
        beyond = await retrying(
            WAL_PREFIX, lambda: self.store.list(WAL_PREFIX, start_after=last), self.rng
        )
        if not beyond:
            return
        try:
            await retrying(key, lambda: read_wal(self.store, self.number), self.rng)
        except ObjectNotFound:
            raise CorruptObject(key, f"it is missing, but `{beyond[0].key}` is there") from None
        # A newer writer has come since the walk ended: trying to set the fence will tell.

    def _replay(self, header: Header, entries: list[LocatedEntry]) -> None:
        epoch = header.writer.epoch
        if epoch > self.epoch:
            raise WriterFenced
        self.number += 1
        if epoch < self.fence_epoch:
            return  # a late arrival of a writer that was already fenced off: never acknowledged
        if header.kind is ObjectKind.FENCE:
            self.fence_epoch = epoch
        for entry in entries:
            self.apply(entry)
        self.replayed += len(entries)


async def open_log(
    store: ObjectStore,
    *,
    rng: random.Random,
    wal_in_flight: int,
    read_lease_seconds: float,
    apply: Callable[[LocatedEntry], None],
) -> OpenedLog:
    """Become the writer of the path and apply every durable entry, in order.

    `wal_in_flight` is how many WAL objects this writer will have in flight at most. Unless the last
    writer closed cleanly, waits `read_lease_seconds`: the time for which that writer may still take
    itself for the current one. Raises `CorruptObject` if the manifest or a WAL object is damaged or
    lost, `WriterFenced` if another server opened the path meanwhile, and `StorageFailed` if the
    store is away. What an opening that failed or was cancelled leaves behind can be opened again.
    """
    writer_id = rng.randbytes(16)
    previous, opened = await _take_epoch(store, rng, writer_id, wal_in_flight)
    replay = _Replay(store, rng, opened.creator.writer.epoch, apply, opened.manifest.wal_floor)
    next_wal_number = await _fence(opened.creator, replay, _reach_of(previous))
    if previous is not None and not previous.manifest.closed_cleanly:
        await trio.sleep(read_lease_seconds)
    _log.info(
        "opened as the writer of epoch %d: replayed %d entries, next WAL object is %d",
        opened.creator.writer.epoch,
        replay.replayed,
        next_wal_number,
    )
    return attrs.evolve(opened, next_wal_number=next_wal_number)


async def _take_epoch(
    store: ObjectStore, rng: random.Random, writer_id: bytes, wal_in_flight: int
) -> tuple[StoredManifest | None, OpenedLog]:
    while True:
        previous = await retrying(MANIFEST_PREFIX, lambda: newest_manifest(store), rng)
        number = 1 if previous is None else previous.header.number + 1
        epoch = 1 if previous is None else previous.header.writer.epoch + 1
        manifest = Manifest(
            wal_floor=0 if previous is None else previous.manifest.wal_floor,
            # Kept at the larger until a fence stands: this opener may die before it has set one.
            wal_in_flight=max(wal_in_flight, _reach_of(previous)),
        )
        creator = ObjectCreator(store, WriterIdentity(epoch, writer_id), rng)
        try:
            await write_manifest(creator, number, manifest)
        except (NumberTaken, WriterFenced):
            continue
        return previous, OpenedLog(creator, number, manifest, next_wal_number=0)


def _reach_of(previous: StoredManifest | None) -> int:
    """How many numbers from the first free one on an earlier writer may still write to."""
    if previous is None or previous.manifest.closed_cleanly:
        return 1
    return previous.manifest.wal_in_flight


async def _fence(creator: ObjectCreator, replay: _Replay, reach: int) -> int:
    """Replay to the end, fence it off, and return the first number that is ours to give."""
    while True:
        await replay.run_to_end()
        await replay.check_unbroken(reach)
        try:
            await write_fence(creator, replay.number)
            break
        except NumberTaken:
            continue  # the old writer was faster: replay its object
    first = replay.number
    for number in range(first + 1, first + reach):
        try:
            await write_fence(creator, number)
        except NumberTaken as taken:
            creator.refuse_newer(taken)
    return first + reach
