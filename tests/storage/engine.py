"""The parts of the log engine that flush and compact, on one store, and what should be in them.

What is in the runs is read from the objects themselves, without cache, reader or retries.
"""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
from msgspec.structs import replace

from actors.clock import Clock
from actors.testing import VirtualClock
from s2lite.codec.envelope import WriterIdentity
from s2lite.codec.segment import NEVER_MS, Footer, decode_block, decode_footer, footer_range
from s2lite.core.compaction import Job, next_job
from s2lite.model.config import BasinConfig, StreamConfig
from s2lite.model.errors import StorageError
from s2lite.model.log import AppendEntry, BasinRecord, StreamId, StreamRecord, StreamState
from s2lite.model.manifest import Manifest, SegmentInfo, StreamKey
from s2lite.model.names import BasinName, StreamName
from s2lite.model.positions import StreamPosition
from s2lite.model.records import SequencedBatch
from s2lite.storage.block_cache import open_block_cache
from s2lite.storage.catalog_objects import load_catalog
from s2lite.storage.compaction import Compactor
from s2lite.storage.creation import ObjectCreator
from s2lite.storage.current_manifest import CurrentManifest
from s2lite.storage.damage import Damage
from s2lite.storage.fates import SegmentFates
from s2lite.storage.flush import flush
from s2lite.storage.layout import Layout
from s2lite.storage.manifest import newest_manifest
from s2lite.storage.memtable import Memtable
from s2lite.storage.ownership import Ownership
from s2lite.storage.retention import Retention
from s2lite.storage.segments import Segments, segment_key
from tests.fakes.object_store import FakeObjectStore

BASIN = BasinName("basin-one")

TINY = Layout(
    memtable_bytes=4096,
    wal_objects=8,
    entry_bytes=64,
    block_bytes=256,
    segment_bytes=1024,
    footer_bytes=760,
    fanout=3,
)


def stream_id(number: int) -> StreamId:
    return StreamId(number.to_bytes(16, "big"))


@attrs.define(eq=False)
class ModelStream:
    """A stream as it should be.

    `records` says what each record is; a batch has its range of records, its expiry and the number
    of its WAL object; `states` has every state it ever had and the number of the WAL object.
    """

    state: StreamState
    records: list[bytes] = attrs.field(factory=list)
    batches: list[tuple[range, int | None, int]] = attrs.field(factory=list)
    states: list[tuple[int, StreamState | None]] = attrs.field(factory=list)
    removed: bool = False

    def flushed(self, wal_floor: int) -> set[int]:
        """The records in WAL objects below the floor."""
        return {number for batch, _, wal in self.batches if wal < wal_floor for number in batch}

    def alive(self, now_ms: int) -> set[int]:
        """The records that must be there."""
        if self.removed:
            return set()
        return {
            number
            for batch, expires_at_ms, _ in self.batches
            if batch.stop > self.state.trim_point
            and (expires_at_ms is None or expires_at_ms > now_ms)
            for number in batch
        }

    def state_at(self, wal_floor: int) -> StreamState | None:
        """Its state as the WAL objects below the floor made it."""
        return next((state for wal, state in reversed(self.states) if wal < wal_floor), None)


@attrs.define(eq=False)
class Engine:
    """Appends to a memtable, flushes and compacts; `streams` is the model."""

    store: FakeObjectStore
    clock: Clock
    layout: Layout
    memtable: Memtable
    manifest: CurrentManifest
    damage: Damage
    segments: Segments
    streams: dict[StreamId, ModelStream] = attrs.field(factory=dict)
    garbage: list[str] = attrs.field(factory=list)
    failures: list[StorageError] = attrs.field(factory=list)
    touched: Callable[[StreamId], None] = attrs.field(init=False)
    """Told of trims and removals, as whoever compacts is."""
    retention: Retention = attrs.field(init=False)
    compactor: Compactor = attrs.field(init=False)
    fates: SegmentFates = attrs.field(init=False)
    wal_number: int = 0

    def __attrs_post_init__(self) -> None:
        self.retention = Retention(self.floor_of, self.clock)
        self.compactor = Compactor(
            self.manifest,
            self.segments,
            self.retention,
            self.layout,
            self.damage,
            self.garbage.extend,
            self.failures.append,
        )
        self.fates = SegmentFates(self.manifest, self.segments, self.retention, self.damage)
        self.touched = self.fates.touch

    def floor_of(self, stream: StreamId) -> int | None:
        model = self.streams.get(stream)
        return None if model is None or model.removed else model.state.trim_point

    # --- what clients do ------------------------------------------------------------------------

    def create(self, stream: StreamId) -> None:
        record = StreamRecord(stream, BASIN, StreamName(stream.hex()), StreamConfig(), 0)
        self.streams[stream] = ModelStream(StreamState(record))
        self.memtable.basin_changed(BASIN, BasinRecord(BASIN, BasinConfig(), 0))
        self._change(stream, self.streams[stream].state)

    def append(
        self, stream: StreamId, count: int = 1, expires_at_ms: int | None = None, size: int = 0
    ) -> AppendEntry:
        """Append a batch of records of about this size; each is stamped with its number."""
        if stream not in self.streams:
            self.create(stream)
        model = self.streams[stream]
        start, end = model.state.tail.seq_num, model.state.tail.seq_num + count
        records = [b"%x.%d%s;" % (stream[-1], each, b"." * size) for each in range(start, end)]
        payload = b"".join(records)
        batch = SequencedBatch(start, count, start, end - 1, len(payload), payload)
        entry = AppendEntry(stream, batch, expires_at_ms)
        model.records.extend(records)
        model.batches.append((range(start, end), expires_at_ms, self.wal_number))
        self.memtable.add(entry)
        self._change(stream, replace(model.state, tail=StreamPosition(end, end - 1)))
        return entry

    def trim(self, stream: StreamId, trim_point: int) -> None:
        model = self.streams[stream]
        self._change(stream, replace(model.state, trim_point=trim_point))
        self.touched(stream)

    def remove(self, stream: StreamId) -> None:
        self.streams[stream].removed = True
        self.memtable.drop(stream)
        self._change(stream, None)
        self.touched(stream)

    def _change(self, stream: StreamId, state: StreamState | None) -> None:
        if state is not None:
            self.streams[stream].state = state
        self.streams[stream].states.append((self.wal_number, state))
        self.memtable.stream_changed(stream, state)
        self.memtable.advanced(self.wal_number)
        self.wal_number += 1

    # --- what the server does -------------------------------------------------------------------

    async def flush(self) -> None:
        self.memtable.freeze()
        await self.flush_frozen()

    async def flush_frozen(self) -> None:
        assert self.memtable.frozen is not None
        await flush(self.memtable.frozen, self.manifest, self.retention, self.layout)
        self.memtable.release()

    async def compact_once(self) -> Job | None:
        """Do the next job, if there is one."""
        await self.fates.judge()
        runs = self.manifest.value.runs
        job = next_job(runs, self.layout.fanout, self.fates.known, self.fates.blocked)
        if job is not None:
            blocked = await self.compactor.carry_out(job, self.fates.known)
            if blocked is not None:
                self.fates.blocked.add(blocked)
        return job

    async def compact(self) -> list[Job]:
        """Do all there is to do."""
        jobs: list[Job] = []
        await self.fates.weigh_touched()
        while (job := await self.compact_once()) is not None:
            jobs.append(job)
            assert len(jobs) < 100, "it never ends"
        await self.compactor.compact_catalog()
        return jobs

    # --- what there is ----------------------------------------------------------------------------

    def check(self, store: FakeObjectStore | None = None, manifest: Manifest | None = None) -> None:
        """Whether the runs have all records they must have, and only those they may have.

        Those of this engine, or of a store as a crash left it.
        """
        now_ms = self.clock.now_ms()
        manifest = manifest or self.manifest.value
        found = contents(store or self.store, manifest)
        for stream, model in self.streams.items():
            numbers: list[int] = []
            for batch in found.pop(stream, []):
                start, end = batch.first_seq_num, batch.end_seq_num
                assert batch.payload == b"".join(model.records[start:end])
                assert batch.metered_bytes == len(batch.payload)
                assert (batch.first_timestamp, batch.last_timestamp) == (start, end - 1)
                numbers += range(start, end)
            assert numbers == sorted(set(numbers)), "out of order"
            flushed = model.flushed(manifest.wal_floor)
            assert set(numbers) <= flushed, "a replay would repeat them"
            must = model.alive(now_ms) & flushed
            assert must <= set(numbers), f"lost {sorted(must - set(numbers))}"
        assert not found, "streams that never were"

    async def check_catalog(
        self, store: FakeObjectStore | None = None, manifest: Manifest | None = None
    ) -> None:
        """Whether the catalog objects say what the WAL below the floor made of the streams."""
        manifest, damage = manifest or self.manifest.value, Damage()
        facts = await load_catalog(store or self.store, manifest.catalog, damage, random.Random(0))
        assert damage.count == 0
        states = {stream: m.state_at(manifest.wal_floor) for stream, m in self.streams.items()}
        assert facts.streams == {each: state for each, state in states.items() if state is not None}

    async def check_crash(self, store: FakeObjectStore) -> None:
        """Whether what a crash left in the store is all that it must be."""
        stored = await newest_manifest(store)
        manifest = Manifest() if stored is None else stored.manifest
        self.check(store, manifest)
        await self.check_catalog(store, manifest)

    def numbers(self, stream: StreamId) -> list[int]:
        """The records of the stream that are in the runs, wanted or not."""
        batches = contents(self.store, self.manifest.value).get(stream, [])
        return [n for batch in batches for n in range(batch.first_seq_num, batch.end_seq_num)]

    def check_reclaimed(self) -> None:
        """Whether no segment is dead for the most part, as its footer tells."""
        for info in self.manifest.value.segments:
            rows = list(footer_of(self.store, info).rows())
            kept = [
                row.size
                for row in rows
                if self.retention.keeps(
                    row.stream_id,
                    row.end_seq_num,
                    None if row.expires_at_ms == NEVER_MS else row.expires_at_ms,
                )
            ]
            assert sum(kept) * 2 >= sum(row.size for row in rows)

    @property
    def tiers(self) -> list[int]:
        return [run.tier for run in self.manifest.value.runs]


class RecordingStore(FakeObjectStore):
    """Remembers what a crash would leave: before the first object is put, and after each."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.left: list[FakeObjectStore] = [self.fork(rng)]

    def _put(self, key: str, data: bytes) -> None:
        super()._put(key, data)
        self.left.append(self.fork(random.Random(0)))


def footer_of(store: FakeObjectStore, info: SegmentInfo) -> Footer:
    key = segment_key(info.object_id)
    start, length = footer_range(info)
    return decode_footer(key, info, store.objects[key].data[start : start + length])


def contents(store: FakeObjectStore, manifest: Manifest) -> dict[StreamId, list[SequencedBatch]]:
    """All batches in the runs, oldest run first, each verified to be where it belongs."""
    found: dict[StreamId, list[SequencedBatch]] = {}
    for run in manifest.runs:
        last = StreamKey(stream_id(0), 0)
        for info in run.segments:
            assert last <= info.first
            for row in footer_of(store, info).rows():
                assert last <= (row.stream_id, row.first_seq_num)
                last = StreamKey(row.stream_id, row.end_seq_num)
                key = segment_key(info.object_id)
                data = store.objects[key].data[row.offset : row.offset + row.size]
                found.setdefault(row.stream_id, []).extend(
                    entry.batch for entry in decode_block(key, row, data)
                )
            assert last == info.end
    return found


@asynccontextmanager
async def open_engine(
    store: FakeObjectStore | None = None,
    layout: Layout = TINY,
    clock: Clock | None = None,
    *,
    epoch: int = 1,
) -> AsyncIterator[Engine]:
    """An engine on a store that is empty or was left by an engine of an older epoch."""
    clock = clock or VirtualClock()
    rng = random.Random(epoch)
    store = store or FakeObjectStore(rng)
    creator = ObjectCreator(store, WriterIdentity(epoch, bytes(16)), rng)
    ownership = Ownership(store, clock, creator.writer, lambda: manifest.number, rng, None)
    stored = await newest_manifest(store)
    number, value = (stored.header.number, stored.manifest) if stored else (0, Manifest())
    manifest = CurrentManifest(creator, ownership, number, value, value)
    async with open_block_cache(1024 * 1024) as cache:
        yield Engine(
            store,
            clock,
            layout,
            Memtable(layout, value.wal_floor),
            manifest,
            Damage(),
            Segments(store, cache, rng),
        )
