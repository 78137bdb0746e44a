"""A log in few lines: what is appended, what is flushed to runs, and a reader of it."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random

import attrs

from actors.testing import VirtualClock
from s2lite.codec.envelope import WriterIdentity
from s2lite.model.config import StreamConfig
from s2lite.model.errors import CorruptObject
from s2lite.model.log import AppendEntry, LostRange, StreamId, StreamRecord, StreamState
from s2lite.model.manifest import Manifest, ObjectId, Run, SegmentInfo
from s2lite.model.names import BasinName, StreamName
from s2lite.model.positions import StreamPosition
from s2lite.model.records import SequencedBatch
from s2lite.storage.block_cache import BlockCache, open_block_cache
from s2lite.storage.creation import ObjectCreator
from s2lite.storage.current_manifest import CurrentManifest
from s2lite.storage.layout import Layout
from s2lite.storage.memtable import Memtable
from s2lite.storage.objects.object_store import ObjectStore
from s2lite.storage.ownership import Ownership
from s2lite.storage.reader import LogReader, StreamCursor
from s2lite.storage.segments import Place, RunWriter, Segments, entries_in
from tests.fakes.object_store import FakeObjectStore

ONE, TWO, THREE = (StreamId(digit * 16) for digit in (b"1", b"2", b"3"))
ALL = 2**64 - 1

SMALL = Layout(entry_bytes=0, block_bytes=64, segment_bytes=256, footer_bytes=2**20)
"""Blocks of one batch of 20 bytes, or two of 8; segments of three or four blocks."""


def timestamp_of(seq_num: int) -> int:
    """Some records share their timestamp with the next, and between others there is a gap."""
    return seq_num // 3 * 10


def payload_of(stream_id: StreamId, start: int, end: int, size: int) -> bytes:
    """What records of that size look like, so that each can be told from any other."""
    records = (b"%c%d;" % (stream_id[0], seq_num) for seq_num in range(start, end))
    return b"".join(record.ljust(size, b".") for record in records)


def batch_of(
    stream_id: StreamId, first: int, count: int = 1, *, size: int = 20, metered: int = 8
) -> SequencedBatch:
    """A batch of records of that size, each metered like that."""
    return SequencedBatch(
        first,
        count,
        timestamp_of(first),
        timestamp_of(first + count - 1),
        metered * count,
        payload_of(stream_id, first, first + count, size),
    )


def entry_of(
    stream_id: StreamId, first: int, count: int = 1, *, expires: int | None = None, size: int = 20
) -> AppendEntry:
    """An entry with such a batch."""
    return AppendEntry(stream_id, batch_of(stream_id, first, count, size=size), expires)


def state_of(stream_id: StreamId, tail: int, lost: Sequence[LostRange] = ()) -> StreamState:
    """The state of a stream with that tail."""
    name = StreamName(f"stream-{stream_id[0]}")
    record = StreamRecord(stream_id, BasinName("the-basin"), name, StreamConfig(), 0)
    return StreamState(record, StreamPosition(tail, timestamp_of(tail)), lost=tuple(lost))


async def write_run(
    creator: ObjectCreator,
    layout: Layout,
    entries: Sequence[AppendEntry],
    new_object_id: Callable[[], ObjectId],
) -> tuple[SegmentInfo, ...]:
    """Write the entries, in order already, as a run."""
    async with RunWriter(creator, new_object_id, layout) as writer:
        for entry in entries:
            await writer.add(entry)
        return await writer.finish()


async def all_entries(segments: Segments, info: SegmentInfo) -> list[AppendEntry]:
    """All that is in a segment."""
    footer = await segments.footer(info)
    places = [Place(info, row) for row in footer.rows()]
    entries: list[AppendEntry] = []
    for place, item in zip(places, segments.start_blocks(places), strict=True):
        entries.extend(await entries_in(place, item))
    return entries


@attrs.define(eq=False)
class RunLog:
    """Streams with what was appended to them, in runs and in memory."""

    store: ObjectStore
    cache: BlockCache
    layout: Layout = SMALL
    memtable: Memtable = attrs.field(init=False)
    manifest: CurrentManifest = attrs.field(init=False)
    segments: Segments = attrs.field(init=False)
    reader: LogReader = attrs.field(init=False)
    appended: dict[StreamId, list[AppendEntry]] = attrs.field(factory=dict)
    damage: list[tuple[str, StreamId]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        writer = WriterIdentity(1, bytes(16))
        creator = ObjectCreator(self.store, writer, Random(1))
        ownership = Ownership(self.store, VirtualClock(), writer, lambda: 1, Random(1), None)
        self.manifest = CurrentManifest(creator, ownership, 1, Manifest(), Manifest())
        self.memtable = Memtable(self.layout)
        self.segments = Segments(self.store, self.cache, Random(1))
        self.reader = LogReader(self.memtable, self.manifest, self.segments, self._on_damage)

    def _on_damage(self, error: CorruptObject, stream_id: StreamId) -> None:
        self.damage.append((error.key, stream_id))

    @property
    def runs(self) -> tuple[Run, ...]:
        return self.manifest.value.runs

    @runs.setter
    def runs(self, runs: Sequence[Run]) -> None:
        self.manifest.value = attrs.evolve(self.manifest.value, runs=tuple(runs))

    def tail(self, stream_id: StreamId) -> int:
        entries = self.appended.get(stream_id)
        return entries[-1].batch.end_seq_num if entries else 0

    def append(
        self,
        stream_id: StreamId,
        count: int = 1,
        *,
        times: int = 1,
        expires: int | None = None,
        size: int = 20,
        metered: int = 8,
    ) -> None:
        """Append batches of `count` records to the stream; they are in memory."""
        for _ in range(times):
            batch = batch_of(stream_id, self.tail(stream_id), count, size=size, metered=metered)
            entry = AppendEntry(stream_id, batch, expires)
            self.appended.setdefault(stream_id, []).append(entry)
            self.memtable.add(entry)
        self.memtable.advanced(0)

    async def flush(self) -> Run:
        """Write what is in memory as a run."""
        table = self.memtable.frozen or self.memtable.freeze()
        entries = [entry for each in sorted(table.stream_ids) for entry in table.entries(each)]
        run = Run(0, await self.write(entries))
        if run.segments:
            self.runs = (*self.runs, run)
        self.memtable.release()
        return run

    async def merge(self, first: int, count: int) -> None:
        """Put one run in the place of several; their segments stay in the store."""
        merged = self.runs[first : first + count]
        entries: list[AppendEntry] = []
        for run in merged:
            for info in run.segments:
                entries.extend(await all_entries(self.segments, info))
        entries.sort(key=lambda entry: (entry.stream_id, entry.batch.first_seq_num))
        run = Run(1, await self.write(entries))
        self.runs = (*self.runs[:first], run, *self.runs[first + count :])

    async def write(self, entries: Sequence[AppendEntry]) -> tuple[SegmentInfo, ...]:
        return await write_run(
            self.manifest.creator, self.layout, entries, self.manifest.new_object_id
        )

    async def read(
        self,
        stream_id: StreamId = ONE,
        start: int = 0,
        end: int = ALL,
        now_ms: int = 0,
        cursor: StreamCursor | None = None,
    ) -> list[SequencedBatch]:
        cursor = cursor or self.reader.cursor(stream_id)
        state = state_of(stream_id, self.tail(stream_id))
        return await cursor.read(state, start, end, now_ms)

    async def read_all(
        self, stream_id: StreamId = ONE, start: int = 0, end: int = ALL, now_ms: int = 0
    ) -> list[SequencedBatch]:
        """All of the range, with one cursor."""
        cursor = self.reader.cursor(stream_id)
        found: list[SequencedBatch] = []
        while batches := await self.read(stream_id, start, end, now_ms, cursor):
            found.extend(batches)
            start = batches[-1].end_seq_num
        return found


@asynccontextmanager
async def open_run_log(
    store: ObjectStore | None = None, layout: Layout = SMALL, budget: int = 2**20
) -> AsyncIterator[RunLog]:
    """A log without anything in it; its cache holds that many bytes."""
    async with open_block_cache(budget) as cache:
        yield RunLog(store or FakeObjectStore(Random(1)), cache, layout)


def seq_nums(batches: Sequence[SequencedBatch]) -> list[int]:
    """The numbers of all records."""
    return [each for batch in batches for each in range(batch.first_seq_num, batch.end_seq_num)]
