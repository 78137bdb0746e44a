"""Writes segments, and reads their parts back.

A segment is read in parts: its footer says where a stream's blocks are, and any number of adjacent
blocks are one range read. Nothing is given to anyone before it is verified.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Final, NamedTuple

import attrs
import trio

from s2lite.codec.envelope import ObjectKind, checksum
from s2lite.codec.segment import (
    ENTRY_OVERHEAD_BYTES,
    NEVER_MS,
    BlockRow,
    Footer,
    SegmentBuilder,
    decode_block,
    decode_footer,
    encode_entry,
    footer_range,
)
from s2lite.model.errors import CorruptObject, StorageError
from s2lite.model.limits import MAX_BATCH_RECORDS
from s2lite.model.log import AppendEntry
from s2lite.model.manifest import ObjectId, SegmentInfo
from s2lite.model.records import SequencedBatch
from s2lite.storage.block_cache import BlockCache, CacheItem, CacheKey
from s2lite.storage.creation import ObjectCreator
from s2lite.storage.layout import MIB, Layout
from s2lite.storage.objects.object_store import ObjectStore, ObjectTooShort
from s2lite.storage.retry import retrying
from s2lite.storage.slices import Slices

SEGMENT_PREFIX: Final = "segment/"

REQUESTS_AT_ONCE: Final = 4
REQUEST_BYTES: Final = 1 * MIB
"""A long range is read by so many requests at once, each of them at least this large."""


def segment_key(object_id: ObjectId) -> str:
    """The key of a segment."""
    return f"{SEGMENT_PREFIX}{object_id}"


@attrs.define(eq=False)
class _Block:
    """Entries of one stream that become a block."""

    pieces: list[bytes] = attrs.field(factory=list)
    size_bytes: int = 0
    first: AppendEntry | None = None
    last: AppendEntry | None = None
    expires_at_ms: int = 0

    def add(self, entry: AppendEntry) -> None:
        self.pieces.extend(encode_entry(entry))
        self.size_bytes += _size_bytes(entry)
        self.first = self.first or entry
        self.last = entry
        expires_at_ms = NEVER_MS if entry.expires_at_ms is None else entry.expires_at_ms
        self.expires_at_ms = max(self.expires_at_ms, expires_at_ms)


@attrs.define(eq=False)
class RunWriter:
    """Writes the segments of one run. Use it in `async with`, from one task.

    Theory of operation. Entries pass through three stages: small neighbours are joined to one entry
    (`_joining`), entries become a block (`_block`), blocks a segment (`_builder`). A segment that
    is complete is written while the next one is put together, and that one waits for it: so at most
    two are in memory. Leaving the block before `finish` has returned abandons the write under way.
    """

    creator: ObjectCreator
    new_object_id: Callable[[], ObjectId]
    layout: Layout
    created: list[ObjectId] = attrs.field(factory=list, init=False)
    """The ids used so far, for whoever cleans up after a failure."""
    _segments: list[SegmentInfo] = attrs.field(factory=list, init=False)
    _joining: list[AppendEntry] = attrs.field(factory=list, init=False)
    _joining_records: int = attrs.field(default=0, init=False)
    _joining_bytes: int = attrs.field(default=0, init=False)
    _block: _Block = attrs.field(factory=_Block, init=False)
    _builder: SegmentBuilder = attrs.field(factory=SegmentBuilder, init=False)
    _slices: Slices = attrs.field(factory=Slices, init=False)
    _nursery_manager: AbstractAsyncContextManager[trio.Nursery] = attrs.field(init=False)
    _nursery: trio.Nursery = attrs.field(init=False)
    _written: trio.Event = attrs.field(init=False)
    _failure: Exception | None = attrs.field(default=None, init=False)

    async def __aenter__(self) -> "RunWriter":
        self._nursery_manager = trio.open_nursery()
        self._nursery = await self._nursery_manager.__aenter__()
        self._written = trio.Event()
        self._written.set()
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The nursery is not told of the error: it would raise it again inside a group.
        self._nursery.cancel_scope.cancel()
        await self._nursery_manager.__aexit__(None, None, None)

    async def add(self, entry: AppendEntry) -> None:
        """Add a batch; they come in the order of `StreamKey`.

        A batch may be joined with its neighbours, and is never divided. Raises what writing an
        earlier segment has raised: `StorageError`, and then nothing more can be added.
        """
        if not self._may_join(entry):
            await self._end_joining()
        self._joining.append(entry)
        self._joining_records += entry.batch.count
        self._joining_bytes += len(entry.batch.payload)
        await self._slices.worked(len(entry.batch.payload))

    async def add_block(self, row: BlockRow, data: bytes | memoryview) -> None:
        """Add a whole block of another segment, which was verified, as it is. Raises like `add`."""
        await self._end_block()
        self._builder.add_block(
            row.stream_id,
            row.first_seq_num,
            row.end_seq_num,
            row.first_timestamp,
            row.last_timestamp,
            row.expires_at_ms,
            (data,),
            row.checksum,
        )
        await self._slices.worked(len(data))
        await self._end_segment_if_full()

    async def finish(self) -> tuple[SegmentInfo, ...]:
        """End the run; all of its segments are durable on return. None if nothing was added.

        Raises like `add`.
        """
        await self._end_block()
        if self._builder.block_bytes:
            await self._end_segment()
        await self._wait_written()
        return tuple(self._segments)

    # --- entries ------------------------------------------------------------------------------

    def _may_join(self, entry: AppendEntry) -> bool:
        """Whether the entry continues those that are being joined, and still fits in."""
        if not self._joining:
            return True
        last = self._joining[-1]
        return (
            entry.stream_id == last.stream_id
            and entry.batch.first_seq_num == last.batch.end_seq_num
            and _second(entry.expires_at_ms) == _second(last.expires_at_ms)
            and self._joining_records + entry.batch.count <= MAX_BATCH_RECORDS
            and self._joining_bytes + len(entry.batch.payload) <= self.layout.entry_bytes
        )

    async def _end_joining(self) -> None:
        if not self._joining:
            return
        entry = _joined(self._joining)
        self._joining, self._joining_records, self._joining_bytes = [], 0, 0
        last = self._block.last
        full = self._block.size_bytes + _size_bytes(entry) > self.layout.block_bytes
        if last is not None and (full or last.stream_id != entry.stream_id):
            await self._flush_block()
        self._block.add(entry)

    # --- blocks and segments ------------------------------------------------------------------

    async def _end_block(self) -> None:
        await self._end_joining()
        await self._flush_block()

    async def _flush_block(self) -> None:
        block, self._block = self._block, _Block()
        if block.first is None or block.last is None:
            return
        self._builder.add_block(
            block.first.stream_id,
            block.first.batch.first_seq_num,
            block.last.batch.end_seq_num,
            block.first.batch.first_timestamp,
            block.last.batch.last_timestamp,
            block.expires_at_ms,
            block.pieces,
        )
        await self._slices.worked(block.size_bytes)
        await self._end_segment_if_full()

    async def _end_segment_if_full(self) -> None:
        builder, layout = self._builder, self.layout
        if (
            builder.block_bytes >= layout.segment_bytes
            or builder.footer_bytes >= layout.footer_bytes
        ):
            await self._end_segment()

    async def _end_segment(self) -> None:
        """Have the segment written in the background, once the one before it has been."""
        await self._wait_written()
        builder, self._builder = self._builder, SegmentBuilder()
        object_id = self.new_object_id()
        self.created.append(object_id)
        self._written = trio.Event()
        self._nursery.start_soon(self._write, object_id, builder)

    async def _write(self, object_id: ObjectId, builder: SegmentBuilder) -> None:
        try:
            await self.creator.create(
                ObjectKind.SEGMENT, object_id.number, segment_key(object_id), builder.finish
            )
            self._segments.append(builder.info(object_id))
        except Exception as error:
            self._failure = error
        self._written.set()

    async def _wait_written(self) -> None:
        await self._written.wait()
        if self._failure is not None:
            raise self._failure


def _size_bytes(entry: AppendEntry) -> int:
    return ENTRY_OVERHEAD_BYTES + len(entry.batch.payload)


def _second(expires_at_ms: int | None) -> int | None:
    return None if expires_at_ms is None else expires_at_ms // 1000


def _joined(entries: list[AppendEntry]) -> AppendEntry:
    """Adjacent batches as one, which expires when the last of them does."""
    if len(entries) == 1:
        return entries[0]
    first, last = entries[0].batch, entries[-1].batch
    batch = SequencedBatch(
        first_seq_num=first.first_seq_num,
        count=last.end_seq_num - first.first_seq_num,
        first_timestamp=first.first_timestamp,
        last_timestamp=last.last_timestamp,
        metered_bytes=sum(entry.batch.metered_bytes for entry in entries),
        payload=b"".join([entry.batch.payload for entry in entries]),
    )
    expiries = [entry.expires_at_ms for entry in entries if entry.expires_at_ms is not None]
    return AppendEntry(entries[0].stream_id, batch, max(expiries, default=None))


class Place(NamedTuple):
    """Where a block is."""

    segment: SegmentInfo
    row: BlockRow


@attrs.frozen(eq=False)
class Segments:
    """Reads segments; safe to use from many tasks at once.

    Requests are made again until they are answered. All that is read here raises `StorageFailed` if
    that takes too long, `ObjectNotFound` if the segment is not there, and `CorruptObject`.
    """

    store: ObjectStore
    cache: BlockCache
    rng: random.Random

    async def footer(self, info: SegmentInfo) -> Footer:
        """The index of a segment."""
        return await footer_in(self.start_footer(info))

    def start_footer(self, info: SegmentInfo) -> CacheItem:
        """Have the index read, if it has not been; `footer_in` waits for it."""
        key = _footer_key(info)
        item = self.cache.look(key)
        if item is None:
            size_bytes = footer_range(info)[1]
            [item] = self.cache.load([(key, size_bytes)], partial(self._load_footer, info))
        return item

    def kept_footer(self, info: SegmentInfo) -> Footer | None:
        """The index of a segment, if that needs no request."""
        footer = self.cache.peek(_footer_key(info))
        return footer if isinstance(footer, Footer) else None

    def start_blocks(self, places: Sequence[Place]) -> list[CacheItem]:
        """Have blocks read that have not been; `entries_in` waits for one and decodes it.

        Those that lie back to back are read together.
        """
        found = [self.cache.look(_block_key(place)) for place in places]
        missing = [place for place, item in zip(places, found, strict=True) if item is None]
        loaded = self._load_blocks(missing)
        return [next(loaded) if item is None else item for item in found]

    def read_ahead(self, places: Iterable[Place]) -> None:
        """Have blocks read that will be asked for; whoever asks learns what came of it."""
        missing = [place for place in places if _block_key(place) not in self.cache]
        for _ in self._load_blocks(missing):
            pass

    def _load_blocks(self, places: Sequence[Place]) -> Iterator[CacheItem]:
        for group in _adjacent(places):
            for part in _parts(group, self.cache.budget_bytes):
                sizes = [(_block_key(place), place.row.size) for place in part]
                rows = [place.row for place in part]
                yield from self.cache.load(sizes, partial(self._load, part[0].segment, rows))

    async def _load_footer(self, info: SegmentInfo) -> list[Footer]:
        key = segment_key(info.object_id)
        data = await self._read(key, *footer_range(info))
        return [decode_footer(key, info, data)]

    async def _load(
        self, info: SegmentInfo, rows: Sequence[BlockRow]
    ) -> list[bytes | StorageError]:
        """Read blocks that lie back to back, and verify them: a bad one does not spoil the others.

        Each is a copy: a part of what was read would keep all of that in memory.
        """
        key = segment_key(info.object_id)
        start = rows[0].offset
        view = memoryview(await self._read(key, start, rows[-1].offset + rows[-1].size - start))
        loaded: list[bytes | StorageError] = []
        for row in rows:
            block = bytes(view[row.offset - start :][: row.size])
            if checksum(block) == row.checksum:
                loaded.append(block)
            else:
                reason = f"the checksum of the block at {row.offset} does not match"
                loaded.append(CorruptObject(key, reason))
            await trio.lowlevel.checkpoint()
        return loaded

    async def _read(self, key: str, start: int, size: int) -> bytes:
        try:
            return await retrying(
                key, lambda: self.store.get_range(key, start, size), self.rng, size
            )
        except ObjectTooShort as error:
            raise CorruptObject(key, f"it is cut short at {error.size} bytes") from error


async def footer_in(item: CacheItem) -> Footer:
    """The footer, once it has been read. Raises what `Segments` says."""
    footer = await item.value()
    assert isinstance(footer, Footer)
    return footer


async def entries_in(place: Place, item: CacheItem) -> list[AppendEntry]:
    """The entries of a block, once it has been read. Raises what `Segments` says."""
    data = await item.value()
    assert isinstance(data, bytes)
    return decode_block(segment_key(place.segment.object_id), place.row, data)


def _footer_key(info: SegmentInfo) -> CacheKey:
    return info.object_id, info.footer_offset


def _block_key(place: Place) -> CacheKey:
    return place.segment.object_id, place.row.offset


def _adjacent(places: Sequence[Place]) -> Iterator[list[Place]]:
    """Divide into groups that lie back to back."""
    group: list[Place] = []
    for place in places:
        if group and not _follows(group[-1], place):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _follows(one: Place, other: Place) -> bool:
    return (
        one.segment.object_id == other.segment.object_id
        and one.row.offset + one.row.size == other.row.offset
    )


def _parts(group: Sequence[Place], max_bytes: int) -> Iterator[list[Place]]:
    """Divide what lies back to back into what one request reads: `max_bytes`, or one block."""
    total = sum(place.row.size for place in group)
    requests = min(REQUESTS_AT_ONCE, max(1, total // REQUEST_BYTES))
    part: list[Place] = []
    size = 0
    for place in group:
        if part and (size >= total / requests or size + place.row.size > max_bytes):
            yield part
            part, size = [], 0
        part.append(place)
        size += place.row.size
    if part:
        yield part
