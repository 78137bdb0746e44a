"""Reading batches back, whether they are still in memory, in segments, or some of each."""

from itertools import pairwise
from random import Random

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple
from trio.testing import MockClock

from s2lite.model.errors import CorruptObject, StorageFailed
from s2lite.model.log import LostRange, StreamId
from s2lite.model.manifest import Run
from s2lite.storage.layout import KIB, MIB, Layout
from s2lite.storage.objects.metered_store import MeteredObjectStore
from s2lite.storage.reader import READ_CHUNK_BYTES, StreamCursor
from s2lite.storage.segments import segment_key
from tests.fakes.object_store import FakeObjectStore, Fault, Latency, Op
from tests.storage.run_log import (
    ALL,
    ONE,
    SMALL,
    THREE,
    TWO,
    RunLog,
    entry_of,
    open_run_log,
    payload_of,
    seq_nums,
    state_of,
    timestamp_of,
)


def fake(log: RunLog) -> FakeObjectStore:
    assert isinstance(log.store, FakeObjectStore)
    return log.store


def gets(log: RunLog) -> int:
    """How many requests there were since the last time."""
    store = fake(log)
    count = len(store.operations(Op.GET_RANGE)) + len(store.operations(Op.GET))
    store.log.clear()
    return count


def forget(log: RunLog) -> None:
    """Empty the cache."""
    while log.cache._kept:
        log.cache._kept.popitem()
    log.cache.used_bytes = 0
    gets(log)


# --- where it comes from ------------------------------------------------------------------------


async def test_what_is_in_memory_is_read_without_a_request() -> None:
    async with open_run_log() as log:
        log.append(ONE, times=2)
        log.memtable.freeze()
        log.append(ONE, times=2)
        assert seq_nums(await log.read()) == [0, 1, 2, 3]
        assert seq_nums(await log.read(start=1, end=3)) == [1, 2]
        assert gets(log) == 0


async def test_a_batch_is_the_same_from_memory_and_from_the_store() -> None:
    async with open_run_log() as log:
        log.append(ONE, 2, times=3)
        in_memory = await log.read_all()
        await log.flush()
        stored = await log.read_all()
        assert list(map(astuple, stored)) == list(map(astuple, in_memory))


async def test_batches_come_in_order_from_runs_and_both_tables() -> None:
    async with open_run_log() as log:
        for _ in range(3):
            log.append(ONE, times=5)
            log.append(TWO, times=3)
            await log.flush()
        log.append(ONE)
        log.memtable.freeze()
        log.append(ONE)
        for start in range(17):
            assert seq_nums(await log.read_all(start=start)) == list(range(start, 17))
        assert seq_nums(await log.read_all(TWO)) == list(range(9))
        assert await log.read(THREE) == []
        assert await log.read(start=17) == []


async def test_a_read_takes_a_chunk_at_a_time_but_at_least_one_batch() -> None:
    sizes = (READ_CHUNK_BYTES + 1, READ_CHUNK_BYTES // 2, READ_CHUNK_BYTES // 2, 8)
    async with open_run_log() as log:
        for size in sizes:
            log.append(ONE, metered=size)
        for _ in ("in memory", "stored"):
            assert seq_nums(await log.read()) == [0]
            assert seq_nums(await log.read(start=1)) == [1, 2]
            assert seq_nums(await log.read(start=3)) == [3]
            await log.flush()


async def test_a_read_takes_no_more_records_than_a_batch_of_a_session_may_have() -> None:
    async with open_run_log(layout=attrs.evolve(SMALL, segment_bytes=10**6)) as log:
        log.append(ONE, 300, times=5, size=1)
        for _ in ("in memory", "stored"):
            assert seq_nums(await log.read()) == list(range(900))
            await log.flush()


async def test_a_gap_in_a_stream_is_passed_over_up_to_the_end_of_the_range() -> None:
    async with open_run_log() as log:
        entries = [entry_of(ONE, 0), entry_of(TWO, 5), entry_of(TWO, 8), entry_of(THREE, 0)]
        log.runs = [Run(0, await log.write(entries))]
        assert await log.read(TWO, 0, 5) == []
        assert await log.read(TWO, 6, 8) == []
        assert seq_nums(await log.read(TWO, 0, 6)) == [5]
        assert seq_nums(await log.read(TWO)) == [5, 8]


# --- what has expired or is lost ----------------------------------------------------------------


async def test_expired_batches_are_passed_over() -> None:
    async with open_run_log() as log:
        for expires in (10, None, 20, 10, 30):
            log.append(ONE, expires=expires)
        for _ in ("in memory", "stored"):
            for now, left in ((9, [0, 1, 2, 3, 4]), (10, [1, 2, 4]), (20, [1, 4]), (30, [1])):
                assert seq_nums(await log.read_all(now_ms=now)) == left
            await log.flush()


async def test_any_number_of_expired_batches_is_skipped_to_the_next_that_is_there() -> None:
    async with open_run_log() as log:
        log.append(ONE, times=3000, expires=5, metered=READ_CHUNK_BYTES)
        log.append(ONE)
        for _ in ("in memory", "stored"):
            assert seq_nums(await log.read(now_ms=5)) == [3000]
            await log.flush()


async def test_what_has_expired_as_a_whole_is_not_fetched() -> None:
    async with open_run_log() as log:
        for _ in range(10):
            log.append(ONE, times=20, expires=5)
            await log.flush()
        log.append(ONE)
        await log.flush()
        forget(log)
        assert seq_nums(await log.read(now_ms=5)) == [200]
        assert gets(log) == 2


async def test_blocks_that_have_expired_are_not_fetched() -> None:
    async with open_run_log(layout=attrs.evolve(SMALL, segment_bytes=10**6)) as log:
        log.append(ONE, times=20, expires=5)
        log.append(ONE)
        [info] = (await log.flush()).segments
        forget(log)
        assert seq_nums(await log.read(now_ms=5)) == [20]
        assert log.cache.used_bytes < (info.size_bytes - info.footer_offset) + 2 * 64


async def test_a_range_in_which_all_has_expired_is_empty() -> None:
    async with open_run_log() as log:
        log.append(ONE, times=20, expires=5)
        await log.flush()
        log.append(ONE, times=20, expires=5)
        log.append(ONE)
        assert await log.read(end=40, now_ms=5) == []
        assert seq_nums(await log.read(end=41, now_ms=5)) == [40]


async def test_a_read_stops_before_what_is_lost_and_the_next_one_fails() -> None:
    async with open_run_log() as log:
        log.append(ONE, times=5)
        await log.flush()
        log.append(ONE, times=5)
        state = state_of(ONE, 10, [LostRange(7, 9, "too bad"), LostRange(3, 6, "gone")])
        cursor = log.reader.cursor(ONE)
        for start, end, expected in (
            (0, 10, [0, 1, 2]),
            (6, 10, [6]),
            (9, 10, [9]),
            (0, 2, [0, 1]),
        ):
            assert seq_nums(await cursor.read(state, start, end, 0)) == expected
        for start in (3, 5, 7, 8):
            with pytest.raises(CorruptObject, match=r"records 3 to 5|records 7 to 8"):
                await cursor.read(state, start, 10, 0)
        assert not log.damage


async def test_what_is_lost_is_not_passed_over_because_all_before_it_has_expired() -> None:
    async with open_run_log() as log:
        log.append(ONE, times=3, expires=5)
        state = state_of(ONE, 9, [LostRange(3, 6, "gone")])
        cursor = log.reader.cursor(ONE)
        with pytest.raises(CorruptObject):
            await cursor.read(state, 0, 9, 5)
        assert await cursor.read(state, 0, 3, 5) == []


# --- how many requests it takes -----------------------------------------------------------------


async def million(log: RunLog) -> int:
    """Fill one stream with a million records in three runs."""
    for run in range(3):
        log.append(ONE, 1000, times=(700, 200, 100)[run], size=10)
        await log.flush()
    return log.tail(ONE)


@pytest.mark.slow
async def test_a_seek_in_a_million_records_takes_an_index_and_a_piece_of_data() -> None:
    layout = Layout(block_bytes=16 * KIB, segment_bytes=3 * MIB, footer_bytes=MIB)
    async with open_run_log(layout=layout) as log:
        tail = await million(log)
        assert [len(run.segments) for run in log.runs] == [3, 1, 1]
        for start in (0, 1, 250_000, 699_999, 700_000, 899_500, tail - 1):
            forget(log)
            batches = await log.read(start=start, end=tail)
            assert batches[0].first_seq_num <= start < batches[0].end_seq_num
            assert gets(log) == 2


@pytest.mark.slow
async def test_a_seek_by_timestamp_looks_at_few_indexes() -> None:
    layout = Layout(block_bytes=16 * KIB, segment_bytes=8 * MIB, footer_bytes=MIB)
    async with open_run_log(layout=layout) as log:
        tail = await million(log)
        for seq_num in (0, 1, 350_000, 700_001, 899_500, tail - 1):
            forget(log)
            start = await log.reader.first_at_or_after(ONE, timestamp_of(seq_num))
            assert start is not None
            batches = await log.read(start=start, end=tail)
            assert batches[0].first_seq_num <= seq_num // 3 * 3 < batches[0].end_seq_num
            assert gets(log) <= 3
        assert await log.reader.first_at_or_after(ONE, timestamp_of(tail) + 1) is None


async def test_indexes_of_many_runs_are_read_eight_at_a_time(autojump_clock: MockClock) -> None:
    async with open_run_log() as log:
        for _ in range(20):
            for stream_id in (ONE, TWO, THREE):
                log.append(stream_id)
            await log.flush()
        forget(log)
        fake(log).latency = Latency.all(1, 1)
        started = trio.current_time()
        assert seq_nums(await log.read(TWO, 19)) == [19]
        assert gets(log) == 20 + 1
        assert trio.current_time() - started == pytest.approx(3 + 1)
        assert seq_nums(await log.read(TWO, 10, 11)) == [10]
        assert gets(log) == 1


async def test_runs_that_cannot_have_the_stream_are_not_looked_at() -> None:
    async with open_run_log() as log:
        for stream_id in (ONE, THREE, ONE, THREE):
            log.append(stream_id, times=5)
            await log.flush()
        forget(log)
        assert await log.read(TWO) == []
        assert gets(log) == 0
        assert seq_nums(await log.read(THREE, 5)) == [5, 6, 7, 8]  # the segment ends there
        assert gets(log) == 2


async def test_a_run_that_begins_with_the_stream_makes_older_ones_irrelevant() -> None:
    async with open_run_log() as log:
        for _ in range(5):
            for stream_id in (ONE, TWO, THREE):
                log.append(stream_id)
            await log.flush()
        log.append(TWO, times=2)
        log.append(THREE)
        await log.flush()
        forget(log)
        assert seq_nums(await log.read(TWO, 6)) == [6]
        assert gets(log) == 2


async def test_adjacent_blocks_are_one_request() -> None:
    async with open_run_log(layout=attrs.evolve(SMALL, segment_bytes=10**6)) as log:
        log.append(ONE, times=50)
        await log.flush()
        forget(log)
        assert len(await log.read()) == 50
        assert gets(log) == 2


async def test_a_timestamp_in_memory_needs_no_request() -> None:
    async with open_run_log() as log:
        log.append(ONE, times=10)
        await log.flush()
        log.append(ONE, times=10)
        forget(log)
        assert await log.reader.first_at_or_after(ONE, timestamp_of(15)) == 15
        assert await log.reader.first_at_or_after(ONE, timestamp_of(19) + 1) is None
        assert gets(log) == 0


# --- reading ahead ------------------------------------------------------------------------------

BIG = Layout(segment_bytes=8 * MIB)


async def test_sequential_reading_does_not_wait_for_the_store(autojump_clock: MockClock) -> None:
    async with open_run_log(layout=BIG, budget=32 * MIB) as log:
        log.append(ONE, times=300, size=64 * KIB, metered=64 * KIB)
        await log.flush()
        forget(log)
        fake(log).latency = Latency.all(0.1, 0.1)
        cursor = log.reader.cursor(ONE)
        waited, position = [], 0
        while position < 300:
            started = trio.current_time()
            batches = await log.read(ONE, position, cursor=cursor)
            waited.append(trio.current_time() - started)
            position = batches[-1].end_seq_num
            await trio.sleep(0.1)
        assert sum(waited) < 0.9
        assert gets(log) < 30
        assert log.cache.used_bytes <= 32 * MIB


async def test_a_jump_reads_no_further_than_one_call_needs(autojump_clock: MockClock) -> None:
    async with open_run_log(layout=BIG, budget=32 * MIB) as log:
        log.append(ONE, times=300, size=64 * KIB, metered=64 * KIB)
        await log.flush()
        cursor = log.reader.cursor(ONE)
        forget(log)
        for start in (0, 200, 100, 250, 50):
            await log.read(ONE, start, cursor=cursor)
            await trio.testing.wait_all_tasks_blocked()
        assert gets(log) <= 5 + 3
        assert log.cache.used_bytes < 5 * 600 * KIB
        for _ in range(4):
            start = (await log.read(ONE, start, cursor=cursor))[-1].end_seq_num
        assert len(await log.read(ONE, start, cursor=cursor)) > 10
        assert len(await log.read(ONE, 0, cursor=cursor)) < 10


async def test_many_cursors_share_the_cache_and_fetch_little_twice(
    autojump_clock: MockClock,
) -> None:
    budget, readers, per_stream = 10 * MIB, 10, 120
    streams = [StreamId(b"%016d" % n) for n in range(readers)]
    metered = MeteredObjectStore(FakeObjectStore(Random(1), Latency.all(0.01, 0.05)))
    async with open_run_log(metered, BIG, budget) as log:
        for stream_id in streams:
            log.append(stream_id, times=per_stream, size=64 * KIB, metered=64 * KIB)
        await log.flush()
        used: list[int] = []

        async def read_all(stream_id: StreamId) -> None:
            cursor, position = log.reader.cursor(stream_id), 0
            while position < per_stream:
                batches = await log.read(stream_id, position, cursor=cursor)
                position = batches[-1].end_seq_num
                used.append(log.cache.used_bytes)
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            for stream_id in streams:
                nursery.start_soon(read_all, stream_id)
        assert max(used) <= budget
        stored = sum(run.size_bytes for run in log.runs)
        assert metered.counts.get_bytes < 1.3 * stored
        assert metered.counts.gets < readers * per_stream // 3


async def test_a_cursor_that_is_gone_leaves_its_share_to_the_others() -> None:
    async with open_run_log(layout=BIG, budget=32 * MIB) as log:
        one, other = log.reader.cursor(ONE), log.reader.cursor(TWO)
        assert log.reader.reads_ahead(one) == 16 * MIB
        assert log.reader.reads_ahead(other) == 8 * MIB
        del one
        assert log.reader.reads_ahead(other) == 16 * MIB


@pytest.mark.parametrize("budget", [0, 100, 1000])
async def test_however_small_the_cache_all_is_read(budget: int) -> None:
    async with open_run_log(budget=budget) as log:
        log.append(ONE, times=50)
        await log.flush()
        assert seq_nums(await log.read_all()) == list(range(50))
        await trio.testing.wait_all_tasks_blocked()
        assert log.cache.used_bytes <= max(budget, 2000)


# --- damage and failures ------------------------------------------------------------------------


def break_at(log: RunLog, key: str, offset: int) -> None:
    data = bytearray(fake(log).objects[key].data)
    data[offset] ^= 1
    fake(log).damage(key, bytes(data))
    forget(log)


async def test_what_comes_before_a_damaged_block_and_behind_it_is_read() -> None:
    async with open_run_log(layout=attrs.evolve(SMALL, segment_bytes=10**6)) as log:
        log.append(ONE, times=10)
        log.append(TWO, times=3)
        [info] = (await log.flush()).segments
        key = segment_key(info.object_id)
        break_at(log, key, (await log.segments.footer(info)).row(4).offset)
        assert seq_nums(await log.read()) == [0, 1, 2, 3]
        assert not log.damage
        with pytest.raises(CorruptObject) as caught:
            await log.read(start=4)
        assert caught.value.key == key
        assert log.damage == [(key, ONE)]
        assert seq_nums(await log.read(start=5)) == [5, 6, 7, 8, 9]
        assert seq_nums(await log.read(TWO)) == [0, 1, 2]


@pytest.mark.parametrize("segment_bytes", [256, 10**6])
async def test_a_damaged_index_hides_its_own_range_only(segment_bytes: int) -> None:
    async with open_run_log(layout=attrs.evolve(SMALL, segment_bytes=segment_bytes)) as log:
        for stream_id in (ONE, TWO, THREE):
            log.append(stream_id, times=3)
        await log.flush()
        for stream_id in (ONE, TWO, THREE):
            log.append(stream_id, times=2)
        await log.flush()
        [info] = [s for s in log.runs[1].segments if s.first <= (TWO, 3) and s.end > (TWO, 3)]
        for stream_id in (ONE, TWO, THREE):
            log.append(stream_id, times=3)
        await log.flush()
        log.append(TWO, times=2)
        key = segment_key(info.object_id)
        break_at(log, key, info.footer_offset)
        assert seq_nums(await log.read_all(TWO, end=3)) == [0, 1, 2]
        for start in (3, 4):
            with pytest.raises(CorruptObject) as caught:
                await log.read(TWO, start)
            assert caught.value.key == key
        assert log.damage == [(key, TWO)] * 2
        forget(log)
        assert seq_nums(await log.read_all(TWO, 5)) == list(range(5, 10))
        assert seq_nums(await log.read_all(TWO, 8)) == [8, 9]


async def test_a_timestamp_that_may_be_behind_a_damaged_index_is_refused() -> None:
    async with open_run_log(layout=attrs.evolve(SMALL, segment_bytes=10**6)) as log:
        for _ in range(3):
            log.append(ONE, times=6)
            await log.flush()
        [info] = log.runs[1].segments
        break_at(log, segment_key(info.object_id), info.footer_offset)
        first = log.reader.first_at_or_after
        assert await first(ONE, 0) == 0
        assert await first(ONE, timestamp_of(3)) == 3
        assert await first(ONE, timestamp_of(15)) == 15
        for seq_num in (6, 9, 12):
            with pytest.raises(CorruptObject):
                await first(ONE, timestamp_of(seq_num))


async def test_a_timestamp_in_a_damaged_block_leads_there() -> None:
    async with open_run_log(layout=attrs.evolve(SMALL, block_bytes=150)) as log:
        log.append(ONE, times=6)
        [info, *_] = (await log.flush()).segments
        break_at(log, segment_key(info.object_id), (await log.segments.footer(info)).row(1).offset)
        start = await log.reader.first_at_or_after(ONE, timestamp_of(3))
        assert start == 2
        with pytest.raises(CorruptObject):
            await log.read(ONE, start)


async def test_a_segment_that_the_manifest_names_and_the_store_has_not_is_damage() -> None:
    async with open_run_log() as log:
        log.append(ONE, times=2)
        [info] = (await log.flush()).segments
        forget(log)
        await log.store.delete(segment_key(info.object_id))
        with pytest.raises(CorruptObject, match="it is missing"):
            await log.read()
        with pytest.raises(CorruptObject, match="it is missing"):
            await log.reader.first_at_or_after(ONE, 0)
        log.append(ONE, times=2)
        assert seq_nums(await log.read(start=2)) == [2, 3]


@pytest.mark.parametrize("held", ["footer", "blocks"])
async def test_a_segment_that_is_replaced_and_deleted_meanwhile_is_read_in_its_new_place(
    held: str, autojump_clock: MockClock
) -> None:
    async with open_run_log() as log:
        for _ in range(2):
            log.append(ONE, times=3)
            await log.flush()
        before = log.runs
        old = [segment_key(segment.object_id) for segment in log.manifest.value.segments]
        await log.merge(0, 2)
        [replaced] = log.runs
        log.runs = before
        forget(log)
        if held == "blocks":
            for segment in log.manifest.value.segments:
                await log.segments.footer(segment)
        gate = fake(log).hold(old[0], Op.GET_RANGE)
        found: list[int] = []

        async def reading() -> None:
            found.extend(seq_nums(await log.read_all()))

        async def seeking() -> None:
            first = await log.reader.first_at_or_after(ONE, 0)
            assert first == 0

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reading)
            nursery.start_soon(seeking)
            await gate.wait_held()
            log.runs = [replaced]
            for key in old:
                await log.store.delete(key)
            gate.release()
        assert found == list(range(6))


async def test_a_flush_during_a_read_loses_nothing(autojump_clock: MockClock) -> None:
    async with open_run_log() as log:
        log.append(ONE, times=3, expires=5)
        await log.flush()
        log.append(ONE, times=3)
        forget(log)
        gate = fake(log).hold("segment/", Op.GET_RANGE)
        found: list[int] = []

        async def reading() -> None:
            found.extend(seq_nums(await log.read(end=6, now_ms=4)))
            found.extend(seq_nums(await log.read(start=3, end=6, now_ms=4)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reading)
            await gate.wait_held()
            await log.flush()
            gate.release()
        assert found == list(range(6))


async def test_a_store_that_does_not_answer_fails_the_read_and_the_next_one_tries_again(
    autojump_clock: MockClock,
) -> None:
    async with open_run_log() as log:
        log.append(ONE)
        await log.flush()
        forget(log)
        fake(log).fail_next(Op.GET_RANGE, "segment/", Fault.ERROR_BEFORE, times=2)
        assert seq_nums(await log.read()) == [0]
        forget(log)
        fake(log).fail_next(Op.GET_RANGE, "segment/", Fault.REFUSED)
        with pytest.raises(StorageFailed):
            await log.read()
        assert seq_nums(await log.read()) == [0]


async def test_failures_while_reading_ahead_are_nobodys() -> None:
    async with open_run_log(layout=BIG) as log:
        log.append(ONE, times=30, size=64 * KIB, metered=64 * KIB)
        [info] = (await log.flush()).segments
        forget(log)
        cursor = log.reader.cursor(ONE)
        position = 0
        for _ in range(2):
            position = (await log.read(ONE, position, cursor=cursor))[-1].end_seq_num
        await log.store.delete(segment_key(info.object_id))
        await trio.testing.wait_all_tasks_blocked()

        async def read_on() -> None:
            start = position
            while start < 30:
                start = (await log.read(ONE, start, cursor=cursor))[-1].end_seq_num

        with pytest.raises(CorruptObject, match="it is missing"):
            await read_on()


# --- timestamps -----------------------------------------------------------------------------------


async def test_a_timestamp_leads_to_the_batch_that_reaches_it() -> None:
    async with open_run_log() as log:
        first = log.reader.first_at_or_after
        assert await first(ONE, 0) is None
        for _ in range(3):
            log.append(ONE, times=4)
            log.append(TWO)
            await log.flush()
        log.append(ONE, times=2)
        for stamp in range(timestamp_of(13) + 1):
            wanted = next(n for n in range(14) if timestamp_of(n) >= stamp)
            assert await first(ONE, stamp) == wanted
        assert await first(ONE, timestamp_of(13) + 1) is None
        assert await first(THREE, 0) is None


# --- anything -------------------------------------------------------------------------------------

STREAMS = (ONE, TWO, THREE)

layouts = st.builds(
    Layout,
    entry_bytes=st.sampled_from((0, 60, 1000)),
    block_bytes=st.sampled_from((1, 100, 10_000)),
    segment_bytes=st.sampled_from((1, 300, 10_000)),
    footer_bytes=st.sampled_from((1, 200, 10_000)),
)
appends = st.tuples(
    st.sampled_from(STREAMS),
    st.integers(1, 4),
    st.sampled_from((None, None, 1000, 2000)),
    st.sampled_from((8, READ_CHUNK_BYTES // 8, READ_CHUNK_BYTES)),
)
steps = st.one_of(appends, st.sampled_from(("flush", "merge")))
reads = st.tuples(
    st.sampled_from(STREAMS),
    st.integers(0, 60),
    st.one_of(st.integers(0, 60), st.just(ALL)),
    st.sampled_from((0, 1000, 2000)),
)


def left_of(log: RunLog, stream_id: StreamId, now_ms: int) -> list[int]:
    """The records of the stream that have not expired."""
    batches = [
        entry.batch
        for entry in log.appended.get(stream_id, ())
        if entry.expires_at_ms is None or entry.expires_at_ms > now_ms
    ]
    return seq_nums(batches)


async def check_read(
    log: RunLog, cursor: StreamCursor, start: int, end: int, now_ms: int
) -> int | None:
    """Read once and check what comes; where to go on, or None if nothing came."""
    stream_id = cursor.stream_id
    left = left_of(log, stream_id, now_ms)
    wanted = [each for each in left if start <= each < end]
    batches = await log.read(stream_id, start, end, now_ms, cursor)
    if not batches:
        assert not wanted
        return None
    for one, other in pairwise(batches):
        assert one.end_seq_num <= other.first_seq_num
    assert batches[0].end_seq_num > start
    assert batches[-1].first_seq_num < end
    numbers = seq_nums(batches)
    assert set(numbers) <= set(left)
    assert [n for n in numbers if start <= n < end] == [n for n in wanted if n <= numbers[-1]]
    for batch in batches:
        first, following = batch.first_seq_num, batch.end_seq_num
        assert batch.payload == payload_of(stream_id, first, following, 20)
        assert batch.first_timestamp == timestamp_of(first)
        assert batch.last_timestamp == timestamp_of(following - 1)
    assert len(batches) == 1 or sum(each.metered_bytes for each in batches) <= READ_CHUNK_BYTES
    return batches[-1].end_seq_num


@pytest.mark.slow
@given(
    layouts,
    st.sampled_from((0, 200, 2000, 100_000)),
    st.lists(steps, max_size=40),
    st.booleans(),
    st.lists(reads, min_size=1, max_size=6),
)
def test_whatever_lies_wherever_it_is_read_in_order(
    layout: Layout,
    budget: int,
    todo: list[tuple[StreamId, int, int | None, int] | str],
    frozen: bool,
    wanted: list[tuple[StreamId, int, int, int]],
) -> None:
    async def check() -> None:
        store = FakeObjectStore(Random(1), Latency.all(0, 1))
        async with open_run_log(store, layout, budget) as log:
            for step in todo:
                if step == "flush":
                    await log.flush()
                elif step == "merge" and len(log.runs) > 1:
                    await log.merge(0, 2)
                elif isinstance(step, tuple):
                    stream_id, count, expires, metered = step
                    log.append(stream_id, count, expires=expires, metered=metered // count)
            if frozen:
                log.memtable.freeze()
                log.append(ONE)
            for stream_id, start, end, now_ms in wanted:
                cursor = log.reader.cursor(stream_id)
                position: int | None = start
                while position is not None:
                    position = await check_read(log, cursor, position, end, now_ms)
            for stream_id in STREAMS:
                await check_timestamps(log, stream_id)

    trio.run(check, clock=MockClock(autojump_threshold=0))


async def check_timestamps(log: RunLog, stream_id: StreamId) -> None:
    tail = log.tail(stream_id)
    for stamp in range(0, timestamp_of(tail) + 10, 5):
        found = await log.reader.first_at_or_after(stream_id, stamp)
        reaching = [n for n in range(tail) if timestamp_of(n) >= stamp]
        if not reaching:
            assert found is None
            continue
        assert found is not None
        [batch, *_] = await log.read(stream_id, found)
        assert batch.first_seq_num == found <= reaching[0] < batch.end_seq_num
