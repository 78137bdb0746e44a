"""Reads a stream's batches back, from memory or from segments.

Theory of operation. A stream's records are in the runs, oldest first, then in the frozen table and
then in the active one. Which those are is taken in one step, without waiting, and so what a read
looks at is the log as of one moment; a run that is replaced while it is being read leaves the store
sooner or later, and then the read looks again.

A cursor that is read sequentially has the next blocks read into the cache while its caller is busy
with what it got. How far ahead doubles each time, as long as all cursors that read ahead can have
what they read ahead in half of the cache.
"""

from collections.abc import Callable, Iterable
from typing import Final
from weakref import WeakSet

import attrs
import trio

from s2lite.model.errors import CorruptObject, StorageError
from s2lite.model.limits import MAX_BATCH_RECORDS, U64_MAX
from s2lite.model.log import AppendEntry, LostRange, StreamId, StreamState
from s2lite.model.records import SequencedBatch
from s2lite.storage.block_cache import BlockCache, CacheItem
from s2lite.storage.current_manifest import CurrentManifest
from s2lite.storage.layout import KIB, MIB
from s2lite.storage.locating import Locator, Runs, SegmentReplaced
from s2lite.storage.memtable import Memtable
from s2lite.storage.objects.object_store import ObjectNotFound
from s2lite.storage.segments import Place, Segments, entries_in

READ_CHUNK_BYTES: Final = MIB
"""How much metered data one call returns, at most, once it has one batch: a session's batch."""

MIN_READ_AHEAD_BYTES: Final = 256 * KIB
MAX_READ_AHEAD_BYTES: Final = 8 * MIB

OnDamage = Callable[[CorruptObject, StreamId], None]
"""Told of damage that a read of the stream has met, each time."""


def _nobody(error: CorruptObject, stream_id: StreamId) -> None:
    pass


@attrs.frozen(eq=False)
class LogReader:
    """Reads durable batches of any stream; safe to use from many tasks at once."""

    memtable: Memtable
    manifest: CurrentManifest
    segments: Segments
    on_damage: OnDamage = _nobody
    locator: Locator = attrs.field(init=False)
    _reading_ahead: "WeakSet[StreamCursor]" = attrs.field(factory=WeakSet, init=False)

    @locator.default
    def _make_locator(self) -> Locator:
        return Locator(self.manifest, self.segments)

    def cursor(self, stream_id: StreamId) -> "StreamCursor":
        """A place in the stream to read from, for one task; it needs no closing."""
        return StreamCursor(stream_id, self)

    async def first_at_or_after(self, stream_id: StreamId, timestamp: int) -> int | None:
        """The first seq_num of the first batch whose last record is stamped `timestamp` or later.

        None if there is no such batch. It may have expired or been trimmed. If damage makes it
        unknown which batch of several it is, it is the first of them: reading there raises. Raises
        `StorageError` if not even that is known.
        """
        while True:
            runs = self.manifest.value.runs
            in_memory = self.memtable.first_at_or_after(stream_id, timestamp)
            oldest = self.memtable.find(stream_id, 0, U64_MAX, 1)
            if oldest and oldest[0].batch.first_timestamp < timestamp:
                await trio.lowlevel.checkpoint()
                return in_memory
            try:
                place = await self.locator.first_at_or_after(runs, stream_id, timestamp)
                return in_memory if place is None else await self._in_block(place, timestamp)
            except SegmentReplaced:
                await trio.lowlevel.checkpoint()

    async def _in_block(self, place: Place, timestamp: int) -> int:
        try:
            [item] = self.segments.start_blocks([place])
            entries = await self.entries(place, item)
        except CorruptObject:
            return place.row.first_seq_num
        batches = (entry.batch for entry in entries)
        reaching = (each.first_seq_num for each in batches if each.last_timestamp >= timestamp)
        return next(reaching, place.row.first_seq_num)

    async def entries(self, place: Place, item: CacheItem) -> list[AppendEntry]:
        """The entries of a block that is being read.

        Raises `SegmentReplaced` if the manifest no longer names its segment, and `StorageError`.
        """
        try:
            return await entries_in(place, item)
        except ObjectNotFound as error:
            raise self.locator.missing(place.segment) from error

    def reads_ahead(self, cursor: "StreamCursor") -> int:
        """How many bytes the cursor may read ahead: all that do share half of the cache."""
        self._reading_ahead.add(cursor)
        return self.cache.budget_bytes // 2 // len(self._reading_ahead)

    def reads_ahead_no_more(self, cursor: "StreamCursor") -> None:
        """Leave the room to others."""
        self._reading_ahead.discard(cursor)

    @property
    def cache(self) -> BlockCache:
        """Where blocks are read to."""
        return self.segments.cache


@attrs.define(eq=False)
class _ReadAhead:
    """How a cursor reads ahead, from one jump to the next.

    `window_bytes` is how far, if nobody else did. A read that gets to `next_from` has more read:
    half of what was read ahead is left then.
    """

    window_bytes: int = MIN_READ_AHEAD_BYTES
    next_from: int = 0
    is_under_way: bool = False


@attrs.define(eq=False)
class StreamCursor:
    """Reads one stream, best from where the last read ended. Made by `LogReader.cursor`."""

    stream_id: StreamId
    log: LogReader
    _last_start: int = -1
    _last_end: int = -1
    _ahead: _ReadAhead = attrs.field(factory=_ReadAhead)

    async def read(
        self, state: StreamState, start: int, end: int, now_ms: int
    ) -> list[SequencedBatch]:
        """The next batches with records in [start, end) that have not expired at `now_ms`.

        The first and last may reach beyond the range. Empty only if there is none in all of the
        range. Raises `CorruptObject` if what comes next is damaged or, as `state` says, lost, and
        `StorageFailed` if the store does not answer.
        """
        lost = min((each for each in state.lost if start < each.end), default=None, key=_start)
        if lost is None or lost.start >= end:
            batches = await self._read(start, end, now_ms)
        else:
            batches = await self._read(start, lost.start, now_ms)
            if not batches:
                raise _lost_error(state, lost)
        if batches:
            self._last_start, self._last_end = start, batches[-1].end_seq_num
        return batches

    async def _read(self, start: int, end: int, now_ms: int) -> list[SequencedBatch]:
        sequential = self._last_start <= start <= self._last_end
        if not sequential:
            self._stop_reading_ahead()
        position = start
        while position < end:
            try:
                batches, position = await self._look(position, end, now_ms)
            except SegmentReplaced:
                await trio.lowlevel.checkpoint()
                continue
            except CorruptObject as error:
                self.log.on_damage(error, self.stream_id)
                raise
            if batches:
                if sequential:
                    self._read_ahead(batches[-1].end_seq_num, end, now_ms)
                return batches
        return []

    async def _look(self, start: int, end: int, now_ms: int) -> tuple[list[SequencedBatch], int]:
        """The next batches, as far as they are at hand together, and where to go on if none is."""
        runs = self.log.manifest.value.runs
        in_memory = self.log.memtable.find(self.stream_id, start, end, MAX_BATCH_RECORDS)
        if not (in_memory and in_memory[0].batch.first_seq_num <= start):
            places = await self._places(runs, start, end, now_ms)
            if places:
                return await self._from_blocks(places, start, end, now_ms)
        self._stop_reading_ahead()
        await trio.lowlevel.checkpoint()
        chunk = _Chunk(start, end, now_ms)
        chunk.take(in_memory)
        more = len(in_memory) == MAX_BATCH_RECORDS
        return chunk.batches, in_memory[-1].batch.end_seq_num if more else end

    async def _places(self, runs: Runs, start: int, end: int, now_ms: int) -> list[Place]:
        return await self.log.locator.stretch(
            runs,
            self.stream_id,
            start,
            end,
            now_ms,
            max_bytes=min(self._ahead.window_bytes, READ_CHUNK_BYTES),
            max_records=MAX_BATCH_RECORDS,
        )

    async def _from_blocks(
        self, places: list[Place], start: int, end: int, now_ms: int
    ) -> tuple[list[SequencedBatch], int]:
        chunk = _Chunk(start, end, now_ms)
        items = self.log.segments.start_blocks(places)
        for place, item in zip(places, items, strict=True):
            try:
                entries = await self.log.entries(place, item)
            except StorageError:
                if chunk.batches:
                    break
                raise
            if not chunk.take(entries):
                break
            await trio.lowlevel.checkpoint()
        return chunk.batches, places[-1].row.end_seq_num

    # --- reading ahead ------------------------------------------------------------------------

    def _read_ahead(self, start: int, end: int, now_ms: int) -> None:
        """Have the blocks from `start` on read in the background, unless that was done."""
        ahead = self._ahead
        if ahead.is_under_way or start < ahead.next_from:
            return
        ahead.window_bytes = min(2 * ahead.window_bytes, MAX_READ_AHEAD_BYTES)
        max_bytes = min(ahead.window_bytes, self.log.reads_ahead(self))
        ahead.is_under_way = True
        start_soon = self.log.cache.nursery.start_soon
        start_soon(self._start_reading, ahead, start, end, now_ms, max_bytes)

    async def _start_reading(
        self, ahead: _ReadAhead, start: int, end: int, now_ms: int, max_bytes: int
    ) -> None:
        runs = self.log.manifest.value.runs
        try:
            found = await self.log.locator.stretch(
                runs, self.stream_id, start, end, now_ms, max_bytes=max_bytes, far=True
            )
        except StorageError:
            ahead.next_from = end  # whoever reads there learns of it
        else:
            places = _within(max_bytes, found)
            self.log.segments.read_ahead(places)
            first_half = _within(max_bytes // 2, places)
            ahead.next_from = first_half[-1].row.end_seq_num if first_half else start
        ahead.is_under_way = False

    def _stop_reading_ahead(self) -> None:
        self._ahead = _ReadAhead()
        self.log.reads_ahead_no_more(self)


@attrs.define(eq=False)
class _Chunk:
    """What one call returns, as it grows."""

    start: int
    end: int
    now_ms: int
    batches: list[SequencedBatch] = attrs.field(factory=list)
    _metered_bytes: int = 0
    _records: int = 0

    def take(self, entries: Iterable[AppendEntry]) -> bool:
        """Take those that are wanted, in order; False if they do not all fit in."""
        for entry in entries:
            if not self._wants(entry):
                continue
            batch = entry.batch
            self._metered_bytes += batch.metered_bytes
            self._records += batch.count
            if self.batches and (
                self._metered_bytes > READ_CHUNK_BYTES or self._records > MAX_BATCH_RECORDS
            ):
                return False
            self.batches.append(batch)
        return True

    def _wants(self, entry: AppendEntry) -> bool:
        batch, expires_at_ms = entry.batch, entry.expires_at_ms
        return (
            batch.end_seq_num > self.start
            and batch.first_seq_num < self.end
            and (expires_at_ms is None or expires_at_ms > self.now_ms)
        )


def _within(max_bytes: int, places: Iterable[Place]) -> list[Place]:
    """The first of them, as many as have no more bytes than that."""
    chosen: list[Place] = []
    for place in places:
        max_bytes -= place.row.size
        if max_bytes < 0:
            break
        chosen.append(place)
    return chosen


def _start(lost: LostRange) -> int:
    return lost.start


def _lost_error(state: StreamState, lost: LostRange) -> CorruptObject:
    stream = f"{state.record.basin}/{state.record.name}"
    return CorruptObject(stream, f"records {lost.start} to {lost.end - 1} are lost: {lost.reason}")
