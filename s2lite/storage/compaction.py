"""Carries out compaction jobs: merges runs, rewrites segments, merges catalog objects.

Theory of operation. A merge reads the rows of its inputs' footers in order of their keys and never
looks at the blocks of those that are dead. Of each input it reads what it needs front to back, in
ranges of which one is ahead of the one in use; memory is bounded by the number of inputs and not by
their size. Blocks that are large and wholly wanted are copied as they are; small ones are taken
apart, so that small neighbours end up in one block. Large segments that overlap with no other input
are not read at all: the new run names them as they are.

Only here are runs ever replaced, by one job at a time. Flushes append runs meanwhile, which is why
a job is applied to the newest manifest, where it finds its runs by what they are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Final, NamedTuple

import attrs
import trio

from s2lite.codec.envelope import checksum
from s2lite.codec.segment import NEVER_MS, BlockRow, decode_block
from s2lite.core.compaction import Drop, Fates, Job, Merge, Rewrite, applied
from s2lite.model.errors import CorruptObject, StorageError
from s2lite.model.log import AppendEntry, CatalogFacts
from s2lite.model.manifest import Manifest, ObjectId, SegmentInfo, StreamKey
from s2lite.storage.catalog_objects import (
    catalog_copy_key,
    catalog_key,
    load_catalog,
    write_catalog_object,
)
from s2lite.storage.current_manifest import CurrentManifest, Edit
from s2lite.storage.damage import Damage
from s2lite.storage.layout import KIB, MIB, Layout
from s2lite.storage.objects.object_store import ObjectNotFound, ObjectTooShort
from s2lite.storage.retention import Retention
from s2lite.storage.retry import retrying
from s2lite.storage.segments import RunWriter, Segments, segment_key
from s2lite.storage.slices import Slices

CATALOG_OBJECTS: Final = 16
"""So many catalog objects may be in force: each costs two reads at the next start."""

RANGE_BYTES: Final = 2 * MIB
"""How much is read of an input at once; twice as much is held of each."""

GAP_BYTES: Final = 64 * KIB
"""Dead blocks up to this size are read along: a request costs more."""

OnGarbage = Callable[[Iterable[str]], None]
"""Takes the keys of objects that may have been written and will never be named."""


@attrs.frozen(eq=False)
class Compactor:
    """Carries out one job at a time.

    `commit_failed` is told when a manifest could not be written: nobody knows then which one is in
    force, so the process has to end.
    """

    manifest: CurrentManifest
    segments: Segments
    retention: Retention
    layout: Layout
    damage: Damage
    on_garbage: OnGarbage
    commit_failed: Callable[[StorageError], None]

    async def carry_out(self, job: Job, fates: Fates) -> ObjectId | None:
        """Do the job and commit its result; durable on return.

        Returns None, or the segment whose damage keeps the job from being done: then nothing has
        changed. Raises `StorageFailed` and `WriterFenced`; what was written is garbage then.
        """
        written: tuple[SegmentInfo, ...] = ()
        if not isinstance(job, Drop):
            merge = _Merge(self, _inputs_of(job))
            try:
                written = await merge.run(_movable(job, fates, self.layout))
            except BaseException as error:
                self.on_garbage([segment_key(each) for each in merge.created])
                damaged = merge.damaged_input(error)
                if damaged is None:
                    raise
                return damaged
        await self._commit(
            lambda newest: attrs.evolve(newest, runs=applied(job, newest.runs, written))
        )
        return None

    async def compact_catalog(self) -> None:
        """Merge all catalog objects into one, if there are too many and none is damaged.

        Raises as `carry_out` does.
        """
        merged = self.manifest.value.catalog
        if len(merged) <= CATALOG_OBJECTS:
            return
        creator = self.manifest.creator
        facts = await self._load_whole(merged)
        if facts is None:
            return  # merged, what may yet be repaired would be lost
        written: tuple[ObjectId, ...] = ()
        if facts.basins or facts.streams:
            written = (self.manifest.new_object_id(),)
            try:
                await write_catalog_object(creator, written[0], facts)
            except BaseException:
                self.on_garbage([catalog_key(written[0]), catalog_copy_key(written[0])])
                raise

        def edit(newest: Manifest) -> Manifest:
            return attrs.evolve(newest, catalog=written + newest.catalog[len(merged) :])

        await self._commit(edit)

    async def _load_whole(self, ids: Sequence[ObjectId]) -> CatalogFacts | None:
        """What these catalog objects say; None if any of it cannot be read.

        If what was lost was in the WAL, they are whole all the same, and must not pile up.
        """
        creator, damage = self.manifest.creator, self.damage
        if not damage.catalog_is_whole and any(
            catalog_key(each) in damage.items and catalog_copy_key(each) in damage.items
            for each in ids
        ):
            return None  # as was found before
        found = Damage()
        facts = await load_catalog(creator.store, ids, found, creator.rng)
        for each in found.objects:
            damage.report(each.key, each.reason)
        if not found.catalog_is_whole:
            damage.catalog_is_whole = False
            return None
        return facts

    async def _commit(self, edit: Edit) -> None:
        try:
            await self.manifest.commit(edit)
        except StorageError as error:
            self.commit_failed(error)
            raise


def _inputs_of(job: Merge | Rewrite) -> list[tuple[SegmentInfo, ...]]:
    if isinstance(job, Rewrite):
        return [(job.segment,)]
    return [run.segments for run in job.runs]


def _movable(job: Merge | Rewrite, fates: Fates, layout: Layout) -> frozenset[ObjectId]:
    """The segments of a merge that can be named by the result as they are."""
    if isinstance(job, Rewrite):
        return frozenset()
    return frozenset(
        segment.object_id
        for segment in _lonely([segment for run in job.runs for segment in run.segments])
        if segment.size_bytes * 2 >= layout.segment_bytes and segment.object_id not in fates
    )


def _lonely(segments: Iterable[SegmentInfo]) -> Iterator[SegmentInfo]:
    """Those whose range of keys overlaps that of no other."""
    in_order = sorted(segments, key=lambda segment: segment.first)
    before = None
    for index, segment in enumerate(in_order):
        after = in_order[index + 1].first if index + 1 < len(in_order) else None
        if (before is None or before <= segment.first) and (after is None or segment.end <= after):
            yield segment
        before = segment.end if before is None else max(before, segment.end)


class _Block(NamedTuple):
    """A block that is wanted, and its bytes as they were read."""

    segment: SegmentInfo
    row: BlockRow
    data: memoryview


_Piece = _Block | SegmentInfo
"""What an input consists of: blocks, and segments that are named as they are."""


@attrs.frozen(eq=False)
class _Range:
    """Blocks that were read by one request, the last one first: there can be very many."""

    segment: SegmentInfo
    rows: list[BlockRow]
    start: int
    data: memoryview

    def pop_first(self) -> _Block:
        row = self.rows.pop()
        return _Block(self.segment, row, self.data[row.offset - self.start :][: row.size])


@attrs.define(eq=False)
class _Input:
    """One run of a merge, piece by piece in order; read by a task of its own, one range ahead."""

    segments: Sequence[SegmentInfo]
    compactor: Compactor
    movable: frozenset[ObjectId]
    _range: _Range | None = None
    _sender: trio.MemorySendChannel[_Range | SegmentInfo | StorageError] = attrs.field(init=False)
    _receiver: trio.MemoryReceiveChannel[_Range | SegmentInfo | StorageError] = attrs.field(
        init=False
    )
    _slices: Slices = attrs.field(factory=Slices)

    def __attrs_post_init__(self) -> None:
        self._sender, self._receiver = trio.open_memory_channel(0)

    async def next(self) -> _Piece | None:
        """The next piece, None after the last. Raises what reading it has raised."""
        if self._range is None or not self._range.rows:
            self._range = None
            try:
                received = await self._receiver.receive()
            except trio.EndOfChannel:
                return None
            if isinstance(received, StorageError):
                raise received
            if isinstance(received, SegmentInfo):
                return received
            self._range = received
        return self._range.pop_first()

    async def read(self) -> None:
        """Read it all; what goes wrong is raised by `next`."""
        async with self._sender:
            try:
                for segment in self.segments:
                    if segment.object_id in self.movable:
                        await self._sender.send(segment)
                    else:
                        await self._read_segment(segment)
            except StorageError as error:
                await self._sender.send(error)

    async def _read_segment(self, segment: SegmentInfo) -> None:
        footer = await self.compactor.segments.footer(segment)
        retention = self.compactor.retention
        rows: list[BlockRow] = []
        for row in footer.rows():
            await self._slices.worked()
            if not retention.keeps(row.stream_id, row.end_seq_num, _expiry(row)):
                continue
            if rows and not _in_one_range(rows, row):
                await self._read_range(segment, rows)
                rows = []
            rows.append(row)
        if rows:
            await self._read_range(segment, rows)

    async def _read_range(self, segment: SegmentInfo, rows: list[BlockRow]) -> None:
        creator, key = self.compactor.manifest.creator, segment_key(segment.object_id)
        start, end = rows[0].offset, rows[-1].offset + rows[-1].size
        data = await retrying(
            key,
            lambda: creator.store.get_range(key, start, end - start),
            creator.rng,
            end - start,
        )
        rows.reverse()
        await self._sender.send(_Range(segment, rows, start, memoryview(data)))


@attrs.define(eq=False)
class _Merge:
    """Merges runs, given by their segments from oldest to newest, into the segments of one."""

    compactor: Compactor
    runs: Sequence[Sequence[SegmentInfo]]
    _inputs: list[_Input] = attrs.field(factory=list)
    # The next piece of each input that is not at its end; the index makes every item comparable.
    _heap: list[tuple[StreamKey, int, _Piece]] = attrs.field(factory=list)
    _writers: list[RunWriter] = attrs.field(factory=list)

    @property
    def created(self) -> list[ObjectId]:
        """The ids of all segments that may have been written."""
        return [object_id for writer in self._writers for object_id in writer.created]

    def damaged_input(self, error: BaseException) -> ObjectId | None:
        """The input that the error says is damaged; it is reported. None if it says otherwise."""
        match error:
            case CorruptObject(key, reason):
                pass
            case ObjectNotFound(key):
                reason = "it is missing"
            case ObjectTooShort(key, size=size):
                reason = f"it is cut short at {size} bytes"
            case _:
                return None
        for segment in (segment for run in self.runs for segment in run):
            if segment_key(segment.object_id) == key:
                self.compactor.damage.report(key, reason)
                return segment.object_id
        return None

    async def run(self, movable: frozenset[ObjectId]) -> tuple[SegmentInfo, ...]:
        """Write the result; all of it is durable on return, and not named by any manifest yet."""
        failure: StorageError | None = None
        result: tuple[SegmentInfo, ...] = ()
        async with trio.open_nursery() as nursery:
            for segments in self.runs:
                self._inputs.append(_Input(segments, self.compactor, movable))
                nursery.start_soon(self._inputs[-1].read)
            try:
                result = await self._write()
            except StorageError as error:
                failure = error  # raised below, where the nursery does not put it into a group
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return result

    async def _write(self) -> tuple[SegmentInfo, ...]:
        for index in range(len(self._inputs)):
            await self._advance(index)
        result: list[SegmentInfo] = []
        while self._heap:
            moved = await self._write_blocks(result)
            if moved is not None:
                result.append(moved)
        return tuple(result)

    async def _write_blocks(self, result: list[SegmentInfo]) -> SegmentInfo | None:
        """Write blocks up to the next segment that is named as it is, which is returned."""
        manifest = self.compactor.manifest
        moved: SegmentInfo | None = None
        async with RunWriter(
            manifest.creator, manifest.new_object_id, self.compactor.layout
        ) as writer:
            self._writers.append(writer)
            while self._heap and moved is None:
                _, index, piece = heappop(self._heap)
                if isinstance(piece, SegmentInfo):
                    moved = piece
                else:
                    await self._write_block(writer, piece)
                await self._advance(index)
            result.extend(await writer.finish())
        return moved

    async def _write_block(self, writer: RunWriter, block: _Block) -> None:
        retention, layout = self.compactor.retention, self.compactor.layout
        key, row, data = segment_key(block.segment.object_id), block.row, block.data
        floor = retention.floor_of(row.stream_id)
        if floor is not None and floor <= row.first_seq_num and row.size * 2 >= layout.block_bytes:
            if checksum(data) != row.checksum:
                raise CorruptObject(key, f"the checksum of the block at {row.offset} is wrong")
            await writer.add_block(row, data)
            return
        for entry in decode_block(key, row, data):
            if _keeps(retention, entry):
                await writer.add(entry)

    async def _advance(self, index: int) -> None:
        piece = await self._inputs[index].next()
        if piece is not None:
            heappush(self._heap, (_key(piece), index, piece))


def _key(piece: _Piece) -> StreamKey:
    if isinstance(piece, SegmentInfo):
        return piece.first
    return StreamKey(piece.row.stream_id, piece.row.first_seq_num)


def _expiry(row: BlockRow) -> int | None:
    return None if row.expires_at_ms == NEVER_MS else row.expires_at_ms


def _keeps(retention: Retention, entry: AppendEntry) -> bool:
    return retention.keeps(entry.stream_id, entry.batch.end_seq_num, entry.expires_at_ms)


def _in_one_range(rows: list[BlockRow], row: BlockRow) -> bool:
    end = rows[-1].offset + rows[-1].size
    in_reach = row.offset + row.size - rows[0].offset <= RANGE_BYTES
    return in_reach and 0 <= row.offset - end <= GAP_BYTES
