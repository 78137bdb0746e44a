"""Reading batches back, whether they are still in memory, in the store, or some of each."""

from random import Random

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from s2lite.codec.envelope import WriterIdentity
from s2lite.model.errors import CorruptObject, StorageError
from s2lite.model.log import AppendEntry, StreamId
from s2lite.model.records import SequencedBatch
from s2lite.storage.creation import ObjectCreator
from s2lite.storage.memtable import Memtable
from s2lite.storage.object_store import ObjectNotFound, StoreUnavailable
from s2lite.storage.reader import READ_CHUNK_BYTES, LogReader
from s2lite.storage.wal import wal_key, write_wal
from tests.fakes.object_store import FakeObjectStore, Fault, Op

ONE, TWO = StreamId(b"1" * 16), StreamId(b"2" * 16)
ALL = 10**9


@attrs.define(eq=False)
class Log:
    """A WAL whose objects hold what the test says."""

    budget: int
    store: FakeObjectStore = attrs.field(factory=lambda: FakeObjectStore(Random(1)))
    memtable: Memtable = attrs.field(init=False)
    reader: LogReader = attrs.field(init=False)
    next_number: int = 0
    tails: dict[StreamId, int] = attrs.field(factory=lambda: {ONE: 0, TWO: 0})

    def __attrs_post_init__(self) -> None:
        self.memtable = Memtable(self.budget)
        self.reader = LogReader(self.store, self.memtable)

    def batch(
        self, stream: StreamId, *, expires: int | None = None, metered: int = 8, size: int = 10
    ) -> AppendEntry:
        seq_num = self.tails[stream]
        self.tails[stream] += 1
        payload = (b"%d " % seq_num + stream).ljust(size, b".")[:size]
        batch = SequencedBatch(seq_num, 1, seq_num, seq_num, metered, payload)
        return AppendEntry(stream, batch, expires_at_ms=expires)

    async def commit(self, *entries: AppendEntry) -> None:
        creator = ObjectCreator(self.store, WriterIdentity(1, bytes(16)), Random(1))
        for located in await write_wal(creator, self.next_number, entries):
            assert isinstance(located.entry, AppendEntry)
            self.memtable.add(located.entry, located.location)
        self.next_number += 1

    async def read(self, start: int = 0, end: int = ALL, now_ms: int = 0) -> list[int]:
        return [b.first_seq_num for b in await self.reader.read(ONE, start, end, now_ms)]


async def test_a_batch_is_the_same_from_memory_and_from_the_store() -> None:
    in_memory, stored = Log(1000), Log(0)
    for log in (in_memory, stored):
        await log.commit(log.batch(ONE), log.batch(TWO), log.batch(ONE))
    one = await in_memory.reader.read(ONE, 0, ALL, 0)
    other = await stored.reader.read(ONE, 0, ALL, 0)
    assert [attrs.asdict(batch) for batch in one] == [attrs.asdict(batch) for batch in other]
    assert not in_memory.store.operations(Op.GET_RANGE)
    assert len(stored.store.operations(Op.GET_RANGE)) == 2


async def test_neighbours_in_one_object_are_fetched_together() -> None:
    log = Log(0)
    await log.commit(*(log.batch(ONE) for _ in range(10)))
    await log.commit(*(log.batch(ONE) for _ in range(10)))
    assert await log.read(2) == list(range(2, 20))
    assert len(log.store.operations(Op.GET_RANGE)) == 2


async def test_batches_of_which_only_the_newest_are_in_memory() -> None:
    log = Log(25)
    await log.commit(*(log.batch(ONE) for _ in range(3)))
    await log.commit(*(log.batch(ONE) for _ in range(3)))
    assert await log.read() == list(range(6))
    assert len(log.store.operations(Op.GET_RANGE)) == 2


@pytest.mark.parametrize("budget", [0, 1000])
async def test_expired_batches_are_passed_over(budget: int) -> None:
    log = Log(budget)
    expiries = (10, None, 20, 10, 30)
    await log.commit(*(log.batch(ONE, expires=each) for each in expiries))
    assert await log.read(now_ms=9) == [0, 1, 2, 3, 4]
    assert await log.read(now_ms=10) == [1, 2, 4]
    assert await log.read(now_ms=20) == [1, 4]
    assert await log.read(now_ms=30) == [1]


async def test_a_read_skips_any_number_of_expired_batches_to_the_next_that_is_there() -> None:
    log = Log(0)
    old = [log.batch(ONE, expires=5, metered=READ_CHUNK_BYTES) for _ in range(20)]
    await log.commit(*old, log.batch(ONE))
    assert await log.read(now_ms=5) == [20]


async def test_a_read_takes_a_chunk_at_a_time_but_at_least_one_batch() -> None:
    log = Log(0)
    sizes = (READ_CHUNK_BYTES + 1, READ_CHUNK_BYTES // 2, READ_CHUNK_BYTES // 2, 8)
    await log.commit(*(log.batch(ONE, metered=each) for each in sizes))
    assert await log.read() == [0]
    assert await log.read(1) == [1, 2]
    assert await log.read(3) == [3]
    assert await log.read(4) == []


async def test_a_read_of_another_stream_or_range_finds_nothing() -> None:
    log = Log(0)
    await log.commit(log.batch(TWO))
    assert await log.read() == []
    assert await log.reader.read(TWO, 1, ALL, 0) == []


async def test_batches_that_are_evicted_or_trimmed_while_they_are_read_are_still_delivered() -> (
    None
):
    log = Log(20)
    await log.commit(*(log.batch(ONE) for _ in range(4)))
    gate = log.store.hold("wal/", Op.GET_RANGE)
    read: list[int] = []

    async def reading() -> None:
        read.extend(await log.read())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reading)
        await gate.wait_held()
        await log.commit(*(log.batch(TWO) for _ in range(4)))
        log.memtable.trim(ONE, 4)
        gate.release()
    assert read == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("fault", "error"), [(Fault.ERROR_BEFORE, StoreUnavailable), (None, ObjectNotFound)]
)
async def test_a_batch_that_cannot_be_read_fails_that_read_alone(
    fault: Fault | None, error: type[StorageError]
) -> None:
    log = Log(0)
    await log.commit(log.batch(ONE))
    await log.commit(log.batch(TWO))
    if fault is not None:
        log.store.fail_next(Op.GET_RANGE, wal_key(0), fault)
    else:
        await log.store.delete(wal_key(0))
    with pytest.raises(error):
        await log.read()
    assert len(await log.reader.read(TWO, 0, ALL, 0)) == 1


async def test_a_damaged_batch_is_found_and_the_others_are_read() -> None:
    log = Log(0)
    await log.commit(*(log.batch(ONE) for _ in range(3)))
    data = bytearray(log.store.objects[wal_key(0)].data)
    data[data.index(b"1 1111")] ^= 1
    log.store.damage(wal_key(0), bytes(data))
    with pytest.raises(CorruptObject) as caught:
        await log.read()
    assert caught.value.key == wal_key(0)
    assert await log.read(0, 1) == [0]
    assert await log.read(2) == [2]


async def test_an_object_that_is_cut_short_fails_the_read() -> None:
    log = Log(0)
    await log.commit(log.batch(ONE))
    log.store.damage(wal_key(0), log.store.objects[wal_key(0)].data[:70])
    with pytest.raises(CorruptObject):
        await log.read()


def test_a_timestamp_leads_to_the_batch_that_reaches_it() -> None:
    log = Log(0)
    assert log.reader.first_at_or_after(ONE, 0) is None

    async def fill() -> None:
        await log.commit(*(log.batch(ONE) for _ in range(3)))

    trio.run(fill)
    assert [log.reader.first_at_or_after(ONE, each) for each in range(4)] == [0, 1, 2, None]


@pytest.mark.slow
@given(st.integers(0, 80), st.lists(st.lists(st.booleans(), min_size=1, max_size=6), max_size=6))
def test_whatever_is_in_memory_all_of_it_is_read_in_order(
    budget: int, objects: list[list[bool]]
) -> None:
    async def check() -> None:
        log = Log(budget)
        for mine in objects:
            await log.commit(*(log.batch(ONE if each else TWO) for each in mine))
        count = log.tails[ONE]
        for start in range(count):
            batches = await log.reader.read(ONE, start, ALL, 0)
            assert [b.first_seq_num for b in batches] == list(range(start, count))
            assert all(b.payload.startswith(b"%d " % b.first_seq_num) for b in batches)

    trio.run(check, clock=MockClock(autojump_threshold=0))
