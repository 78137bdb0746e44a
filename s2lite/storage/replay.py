"""Replays the WAL of a path: every entry that counts, in order, and what is left of the damaged.

Theory of operation. The objects are listed and read ahead, and applied strictly by their numbers. A
number that is free ends the log, unless there are objects further on than any writer gets without
it: then it was lost. So was an object that does not verify, but for those entries of it that do. No
damage stops the replay; what it costs is reported, to `Damage` and to the state that is replayed.
"""

import logging
import random
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import attrs
import trio

from s2lite.codec.envelope import HEADER_BYTES, Header, ObjectKind, WriterIdentity
from s2lite.codec.wal import (
    LostEntry,
    decode_wal_object,
    encode_wal_object,
    salvage_wal_object,
)
from s2lite.model.errors import CorruptObject, WriterFenced
from s2lite.model.log import AppendEntry, CatalogFacts, LogEntry, StreamId
from s2lite.model.positions import StreamPosition
from s2lite.storage.damage import Damage, refuse_newer_format
from s2lite.storage.fetching import Wanted, fetching
from s2lite.storage.numbered import numbered
from s2lite.storage.objects.object_store import ObjectInfo, ObjectNotFound, ObjectStore
from s2lite.storage.retry import retrying
from s2lite.storage.wal import WAL_PREFIX, wal_key

_log = logging.getLogger("s2lite.storage")

SLICE_ENTRIES: Final = 1000
"""So many entries are applied before other tasks get their turn."""

PROGRESS_SECONDS: Final = 1.0
"""How often a replay that takes longer than this says how far it is."""

MAX_MISSING_NAMED: Final = 100
"""Of objects that are missing in a row, so many are reported by name."""

MIB: Final = 1024 * 1024


class LogState(Protocol):
    """What an opening recovers. None of the methods waits."""

    def load(self, facts: CatalogFacts) -> None:
        """Take rows of the catalog: all basins first, then streams, in parts; nothing is None."""

    def reached(self, stream_id: StreamId, end: StreamPosition) -> None:
        """The stream has records up to `end`, whatever the catalog says; comes before entries."""

    def apply(self, entry: LogEntry) -> None:
        """Take the next entry of the log."""

    def lost(self, lost: LostEntry, error: CorruptObject) -> None:
        """An entry of the log is gone, or if it has no stream, nobody knows what, for `error`."""

    def advanced(self, wal_number: int) -> None:
        """All that counts of the WAL objects up to this one was applied."""


@attrs.frozen
class _WalObject:
    """A WAL object as far as it can be read."""

    header: Header
    entries: Sequence[LogEntry]
    lost: Sequence[LostEntry] = ()
    error: CorruptObject | None = None


@attrs.define(eq=False)
class Replay:
    """Walks the WAL from `number` on, applying what counts.

    `writer` is who replays. `reach` is how many numbers from the first free one on an earlier
    writer may have written to, and `wal_end` where it said that the log ends, if it did.
    """

    store: ObjectStore
    rng: random.Random
    writer: WriterIdentity
    state: LogState
    damage: Damage
    number: int
    reach: int
    wal_end: int | None = None
    applied: int = 0
    _fence_epoch: int = 0
    _highest_epoch: int = 0
    _after_fence: bool = False

    async def run_to_end(self) -> None:
        """Replay up to the first free number.

        Raises `WriterFenced` if a newer writer has come, `StorageFailed` if the store does not
        answer, and `NewerFormat` if an object was written by a newer version of this server.
        """
        while True:
            listed = await self._list()
            if listed and listed[0].key == wal_key(self.number):
                await self._replay_listed(listed)
            elif not await self._replay_unlisted() and not self._skip_missing(listed):
                return

    def fenced(self, number: int) -> None:
        """The number was taken by a fence, or by an object that counts for nobody."""
        self.number = number + 1
        self.state.advanced(number)

    async def _list(self) -> list[ObjectInfo]:
        before = wal_key(self.number - 1) if self.number else ""
        listed = await retrying(
            WAL_PREFIX, lambda: self.store.list(WAL_PREFIX, start_after=before), self.rng
        )
        return numbered(listed, WAL_PREFIX)

    async def _replay_listed(self, listed: Sequence[ObjectInfo]) -> None:
        """Replay the listed objects up to the first gap."""
        row = list(_without_gap(listed, self.number))
        progress = _Progress(len(row), sum(each.size_bytes for each in row))
        async with fetching(self.store, row, self.rng) as objects:
            while (fetched := await objects.next()) is not None:
                if fetched.data is None:
                    return  # look again: it was there, and is missing now
                await self._replay(fetched.wanted.key, fetched.data)
                progress.advance(fetched.wanted.size_bytes)

    async def _replay_unlisted(self) -> bool:
        """Replay the next object, if there is one: a listing may be older than the store."""
        key = wal_key(self.number)
        try:
            data = await retrying(key, lambda: self.store.get(key), self.rng)
        except ObjectNotFound:
            return False
        await self._replay(key, data)
        return True

    def _skip_missing(self, listed: Sequence[ObjectInfo]) -> bool:
        """Go on behind objects that must have been there; whether there were any.

        An object that was lost would otherwise pass for the end of the log, and everything after it
        would silently be dropped.
        """
        first = self.number
        if listed and listed[-1].key >= wal_key(first + self.reach):
            self.number = _number_of(listed[0])
            reason = f"it is missing, but `{listed[-1].key}` is there"
        elif self.wal_end is not None and first < self.wal_end:
            self.number = min([self.wal_end, *map(_number_of, listed[:1])])
            reason = f"it is missing, but the log was closed at number {self.wal_end}"
        else:
            return False
        for number in range(first, min(self.number, first + MAX_MISSING_NAMED)):
            self.damage.report(wal_key(number), reason)
        self._lost_unseen(CorruptObject(wal_key(first), reason))
        return True

    # --- one object -------------------------------------------------------------------------------

    async def _replay(self, key: str, data: bytes) -> None:
        number = self.number
        self.number += 1
        try:
            found = self._read(key, data)
        except CorruptObject as error:
            self._lost_object(error, data)
        else:
            if self._counts(found.header):
                await self._apply(found)
        self.state.advanced(number)
        await trio.lowlevel.checkpoint()

    def _counts(self, header: Header) -> bool:
        """Whether the object belongs to the log; takes note of its fence if it is one."""
        epoch = header.writer.epoch
        # An epoch can be given twice if a manifest was lost: to two writers, of which one must go.
        if epoch >= self.writer.epoch and header.writer != self.writer:
            raise WriterFenced.by(epoch)
        self._highest_epoch = max(self._highest_epoch, epoch)
        if epoch < self._fence_epoch:
            return False  # a late arrival of a writer that was already fenced off: never acked
        self._after_fence = header.kind is ObjectKind.FENCE
        if self._after_fence:
            self._fence_epoch = epoch
        return True

    def _read(self, key: str, data: bytes) -> _WalObject:
        """What can be read of an object; raises `CorruptObject` if that is nothing."""
        try:
            found = _WalObject(*decode_wal_object(key, data))
        except CorruptObject as error:
            refuse_newer_format(key, data)
            self.damage.report(key, error.reason)
            salvaged = salvage_wal_object(key, data)
            found = _WalObject(salvaged.header, salvaged.entries, salvaged.lost, salvaged.error)
        if wal_key(found.header.number) != key:
            raise CorruptObject(key, f"it is number {found.header.number}")
        return found

    async def _apply(self, found: _WalObject) -> None:
        for count, entry in enumerate(_in_order(found), 1):
            if isinstance(entry, LostEntry):
                self._lost_entry(entry, found.error)
            else:
                self.state.apply(entry)
                self.applied += 1
            if count % SLICE_ENTRIES == 0:
                await trio.lowlevel.checkpoint()

    def _lost_entry(self, lost: LostEntry, error: CorruptObject | None) -> None:
        assert error is not None, "entries are only lost from objects that are damaged"
        if lost.stream_id is None:
            self._lost_unseen(error)
        else:
            self.state.lost(lost, error)

    def _lost_object(self, error: CorruptObject, data: bytes) -> None:
        """Nothing of the object can be trusted, whose it is included."""
        self.damage.report(error.key, error.reason)
        if data[HEADER_BYTES:] != _FENCE_BODY:
            self._after_fence = False
            self._lost_unseen(error)
        elif not self._after_fence:
            # The first fence of some writer, and so of one that came after all before it. What
            # arrived late of those must not pass for a part of the log.
            self._fence_epoch = self._highest_epoch + 1
            self._after_fence = True

    def _lost_unseen(self, error: CorruptObject) -> None:
        self.damage.catalog_is_whole = False
        self.state.lost(LostEntry(None), error)


_FENCE_BODY: Final = encode_wal_object(
    Header(ObjectKind.FENCE, 0, WriterIdentity(0, bytes(16)), 0), ()
)[HEADER_BYTES:]


def _number_of(info: ObjectInfo) -> int:
    return int(info.key.removeprefix(WAL_PREFIX))


def _without_gap(listed: Sequence[ObjectInfo], number: int) -> Iterator[Wanted]:
    for info in listed:
        if info.key != wal_key(number):
            return
        yield Wanted(info.key, info.size)
        number += 1


def _in_order(found: _WalObject) -> Iterator[LogEntry | LostEntry]:
    """All entries, so that what was lost of a stream comes before what follows it in the stream."""
    lost: defaultdict[StreamId | None, deque[LostEntry]] = defaultdict(deque)
    for each in found.lost:
        lost[each.stream_id].append(each)
    yield from lost.pop(None, ())
    for entry in found.entries:
        if lost and isinstance(entry, AppendEntry):
            of_stream = lost[entry.stream_id]
            while of_stream and of_stream[0].first_seq_num < entry.batch.first_seq_num:
                yield of_stream.popleft()
        yield entry
    for of_stream in lost.values():
        yield from of_stream


@attrs.define(eq=False)
class _Progress:
    """Says now and then how far a long replay is."""

    objects: int
    size_bytes: int
    _objects_done: int = 0
    _bytes_done: int = 0
    _said_at: float = attrs.field(factory=trio.current_time)

    def advance(self, size_bytes: int) -> None:
        """One more object was replayed."""
        self._objects_done += 1
        self._bytes_done += size_bytes
        now = trio.current_time()
        if now - self._said_at >= PROGRESS_SECONDS:
            self._said_at = now
            _log.info(
                "replaying the log: %d of %d objects, %.1f of %.1f MiB, %d %%",
                self._objects_done,
                self.objects,
                self._bytes_done / MIB,
                self.size_bytes / MIB,
                100 * self._bytes_done // max(self.size_bytes, 1),
            )
