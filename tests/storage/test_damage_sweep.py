"""Whatever byte of whatever object is damaged: the path opens, says so, and the rest is intact."""

from collections.abc import Iterator
from random import Random

import attrs
import pytest

from actors.testing import VirtualClock
from s2lite.backend.catalog import Catalog, DurableState
from s2lite.codec.envelope import HEADER_BYTES
from s2lite.codec.segment import decode_footer, footer_range
from s2lite.model.config import BasinConfig, StreamConfig
from s2lite.model.errors import CorruptObject
from s2lite.model.log import (
    AppendEntry,
    BasinCreated,
    BasinRecord,
    LogEntry,
    StreamCreated,
    StreamDeleted,
    StreamId,
    StreamRecord,
    StreamRemoved,
)
from s2lite.model.names import BasinName, StreamName
from s2lite.model.records import SequencedBatch
from s2lite.storage.block_cache import open_block_cache
from s2lite.storage.damage import Damage
from s2lite.storage.flush import flush
from s2lite.storage.layout import Layout
from s2lite.storage.memtable import Memtable
from s2lite.storage.opening import OpenedLog, open_log
from s2lite.storage.reader import LogReader
from s2lite.storage.retention import Retention
from s2lite.storage.segments import Segments, segment_key
from s2lite.storage.wal import wal_key, write_wal
from tests.fakes.object_store import FakeObjectStore

BASIN = BasinName("test-basin")
ONE, TWO, THREE, GONE = (StreamId(name * 16) for name in (b"1", b"2", b"3", b"x"))
LAYOUT = Layout(entry_bytes=1, block_bytes=120, segment_bytes=300)

Record = tuple[StreamId, int]


def created(stream_id: StreamId) -> StreamCreated:
    name = StreamName(stream_id.decode())
    return StreamCreated(StreamRecord(stream_id, BASIN, name, StreamConfig(), 0))


def payload(stream_id: StreamId, seq_num: int) -> bytes:
    return stream_id[:1] + b" %d" % seq_num


def batch(stream_id: StreamId, seq_num: int, trim_point: int | None = None) -> AppendEntry:
    data = payload(stream_id, seq_num)
    return AppendEntry(
        stream_id,
        SequencedBatch(seq_num, 1, seq_num, seq_num, 8, data),
        trim_point=trim_point,
        fencing_token="token" if seq_num == 2 else None,
    )


@attrs.define(eq=False)
class Path:
    """A storage path with a server on it that is made of little more than its storage."""

    store: FakeObjectStore
    damage: Damage = attrs.field(factory=Damage)
    state: DurableState = attrs.field(init=False)
    log: OpenedLog = attrs.field(init=False)
    next_number: int = 0

    async def open(self, seed: int) -> "Path":
        self.state = DurableState(Catalog(), Memtable(LAYOUT), self.damage)
        self.log = await open_log(
            self.store,
            rng=Random(seed),
            clock=VirtualClock(),
            wal_in_flight=1,
            lease_seconds=None,
            state=self.state,
            damage=self.damage,
        )
        self.next_number = self.log.next_wal_number
        return self

    async def write(self, *entries: LogEntry) -> str:
        """Write one WAL object, and return its key."""
        number, self.next_number = self.next_number, self.next_number + 1
        await write_wal(self.log.creator, number, entries)
        self.state.apply_all(entries)
        self.state.advanced(number)
        return wal_key(number)

    async def flush(self) -> None:
        retention = Retention(self.state.floor_of, VirtualClock())
        await flush(self.state.memtable.freeze(), self.log.manifest, retention, LAYOUT)
        self.state.memtable.release()

    def tails(self) -> dict[StreamId, int]:
        entries = ((each, self.state.catalog.stream_by_id(each)) for each in (ONE, TWO, THREE))
        return {each: entry.tail.seq_num for each, entry in entries if entry is not None}

    async def readable(self) -> dict[Record, bytes]:
        """Every record that can be read."""
        found: dict[Record, bytes] = {}
        async with open_block_cache(10**6) as cache:
            segments = Segments(self.store, cache, Random(1))
            reader = LogReader(self.state.memtable, self.log.manifest, segments)
            for stream_id, tail in self.tails().items():
                found |= await self._of_stream(reader, stream_id, tail)
        return found

    async def _of_stream(
        self, reader: LogReader, stream_id: StreamId, tail: int
    ) -> dict[Record, bytes]:
        entry = self.state.catalog.stream_by_id(stream_id)
        assert entry is not None
        found: dict[Record, bytes] = {}
        cursor, position = reader.cursor(stream_id), entry.trim_point
        while position < tail:
            try:
                batches = await cursor.read(entry.state, position, tail, 0)
            except CorruptObject:
                position += 1
                continue
            if not batches:
                break
            for each in batches:
                for seq_num in range(each.first_seq_num, each.end_seq_num):
                    found[stream_id, seq_num] = each.payload
            position = batches[-1].end_seq_num
        return found


@attrs.frozen
class Original:
    """The path before it is damaged, and what is where: by the key of the object."""

    store: FakeObjectStore
    records: dict[Record, bytes]
    held_by: dict[str, set[Record]]
    replayed: set[str]


async def make(*, closed: bool) -> Original:
    """Two flushes, and a log that goes on after them."""
    store = FakeObjectStore(Random(1))
    path = await Path(store).open(1)
    await path.write(BasinCreated(BasinRecord(BASIN, BasinConfig(), 0)), created(ONE))
    await path.write(created(TWO), created(GONE), batch(ONE, 0), batch(GONE, 0), batch(ONE, 1))
    await path.write(*(batch(TWO, seq_num) for seq_num in range(6)), StreamDeleted(GONE, 1))
    await path.flush()
    await path.write(batch(ONE, 2), batch(ONE, 3), StreamRemoved(GONE), batch(TWO, 6, trim_point=2))
    await path.flush()
    replayed = {
        await path.write(batch(ONE, 4), created(THREE), batch(THREE, 0)): {(ONE, 4), (THREE, 0)},
        await path.write(batch(ONE, 5), batch(THREE, 1), batch(TWO, 7), batch(ONE, 6)): {
            (ONE, 5),
            (THREE, 1),
            (TWO, 7),
            (ONE, 6),
        },
        await path.write(batch(THREE, 2)): {(THREE, 2)},
    }
    # Without its creation there is no stream to read.
    first = next(iter(replayed))
    replayed[first] |= {(THREE, seq_num) for seq_num in range(3)}
    held_by: dict[str, set[Record]] = {key: set(records) for key, records in replayed.items()}
    for info in path.log.manifest.value.segments:
        key = segment_key(info.object_id)
        start, length = footer_range(info)
        footer = decode_footer(key, info, await store.get_range(key, start, length))
        held_by[key] = {
            (row.stream_id, seq_num)
            for row in footer.rows()
            for seq_num in range(row.first_seq_num, row.end_seq_num)
        }
    if closed:
        await path.log.close(path.next_number)
    records = await path.readable()
    assert records == {
        (stream_id, seq_num): payload(stream_id, seq_num)
        for stream_id, seq_nums in ((ONE, range(7)), (TWO, range(2, 8)), (THREE, range(3)))
        for seq_num in seq_nums
    }
    return Original(store, records, held_by, set(replayed))


async def check(
    original: Original, key: str, data: bytes | None, *, again: bool = True, told: bool = True
) -> Path:
    """Open with one object that is damaged, or None for one that is gone; maybe twice."""
    store = original.store.fork(Random(2))
    if data is None:
        del store.objects[key]
    else:
        store.damage(key, data)
    path = await Path(store).open(3)
    found = await path.readable()
    missing = {record for record in original.records if record not in found}
    assert missing <= original.held_by.get(key, set()), "more is gone than was in it"
    assert all(original.records[record] == found[record] for record in found)
    if missing and told and not key.startswith("segment/"):
        assert path.damage.count, "it was not reported"
    if again:  # what is left is left for good
        await path.flush()
        assert await path.readable() == found
        assert await (await Path(store).open(5)).readable() == found
    return path


def flips(data: bytes) -> Iterator[bytes]:
    """All bytes of the header, and every seventh of the others."""
    for index in (*range(HEADER_BYTES), *range(HEADER_BYTES, len(data), 7), len(data) - 1):
        yield data[:index] + bytes((data[index] ^ (1 << index % 8),)) + data[index + 1 :]


KINDS = ("manifest/", "wal/", "catalog/", "segment/")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_a_flipped_bit_costs_no_more_than_what_it_is_in(kind: str) -> None:
    original = await make(closed=False)
    keys = [key for key in original.store.objects if key.startswith(kind)]
    assert len(keys) > 2
    for key in keys:
        flipped = list(flips(original.store.objects[key].data))
        if kind == "wal/" and key not in original.replayed:
            flipped = flipped[::20]  # nobody reads it any more
        for count, data in enumerate(flipped):
            await check(original, key, data, again=count % 10 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_object_that_is_cut_short_or_gone_costs_no_more_than_what_is_in_it(
    kind: str, closed: bool
) -> None:
    original = await make(closed=closed)
    for key in [key for key in original.store.objects if key.startswith(kind)]:
        data = original.store.objects[key].data
        for length in (0, 1, HEADER_BYTES - 1, HEADER_BYTES, len(data) // 2, len(data) - 1):
            await check(original, key, data[:length])
        # Nothing tells of the last object of a log whose writer did not say where it ended.
        is_last = not closed and key == max(original.replayed)
        await check(original, key, None, told=not is_last)


async def test_a_catalog_object_that_is_damaged_twice_leaves_the_records_where_they_are() -> None:
    """The tails that it said are read from the segments, so that no number is given again."""
    original = await make(closed=False)
    catalogs = sorted(key for key in original.store.objects if key.startswith("catalog/"))
    newest = [key for key in catalogs if key.startswith(catalogs[-1].removesuffix(".copy"))]
    assert len(newest) == 2
    for key in newest:
        original.store.damage(key, b"")
    path = await Path(original.store).open(3)
    assert list(path.damage.items) == newest
    assert not path.damage.catalog_is_whole
    found = await path.readable()
    # The trim point is lost with the rest of the row, and so what it hid is seen again.
    trimmed = {(TWO, seq_num): payload(TWO, seq_num) for seq_num in range(2)}
    assert found == original.records | trimmed
    assert path.tails() == {ONE: 7, TWO: 8, THREE: 3}
    assert path.state.floor_of(StreamId(b"?" * 16)) == 0
    assert path.state.catalog.stream_by_id(GONE) is not None


async def test_the_manifest_tells_of_the_end_of_a_segment_whose_index_is_damaged_as_well() -> None:
    original = await make(closed=False)
    for key in sorted(key for key in original.store.objects if key.startswith("catalog/"))[-2:]:
        original.store.damage(key, b"")
    for key in [key for key in original.store.objects if key.startswith("segment/")]:
        data = original.store.objects[key].data
        original.store.damage(key, data[:100] if key.endswith("1") else data[:-25] + bytes(25))
    path = await Path(original.store).open(3)
    assert path.tails() == {ONE: 7, TWO: 8, THREE: 3}
    two = path.state.catalog.stream_by_id(TWO)
    assert two is not None
    assert two.state.lost == ()  # they are where they were, if they cannot be read
    assert {"catalog/", "segment/"} <= {key[:8] for key in path.damage.items}
    assert await path.readable() == {
        record: data
        for record, data in original.records.items()
        if not any(record in held for key, held in original.held_by.items() if key[0] == "s")
    }


async def test_what_is_damaged_is_a_lost_range_of_its_stream_and_of_no_other() -> None:
    original = await make(closed=False)
    key = sorted(original.replayed)[1]
    data = original.store.objects[key].data
    path = await check(original, key, data.replace(payload(TWO, 7), b"2 x"))
    states = {each: path.state.catalog.stream_by_id(each) for each in (ONE, TWO, THREE)}
    lost = {each: entry.state.lost for each, entry in states.items() if entry is not None}
    assert [(each.start, each.end) for each in lost[TWO]] == [(7, 8)]
    assert key in lost[TWO][0].reason
    assert lost[ONE] == lost[THREE] == ()
    assert path.damage.objects[0].streams == {TWO}


async def test_a_log_object_that_is_gone_leaves_gaps_that_are_known() -> None:
    original = await make(closed=False)
    key = sorted(original.replayed)[1]
    path = await check(original, key, None)
    one, three = (path.state.catalog.stream_by_id(each) for each in (ONE, THREE))
    assert three is not None
    assert [(each.start, each.end) for each in three.state.lost] == [(1, 2)]
    assert key in three.state.lost[0].reason
    assert path.damage.objects[0].streams == {THREE}
    assert one is not None
    assert one.tail.seq_num == 5  # nothing that is left tells that there was more
