"""The unflushed part of the log against a plain list of all of it."""

from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from s2lite.model.config import BasinConfig, StreamConfig
from s2lite.model.log import AppendEntry, BasinRecord, StreamId, StreamRecord, StreamState
from s2lite.model.names import BasinName, StreamName
from s2lite.model.records import SequencedBatch
from s2lite.storage.layout import Layout
from s2lite.storage.memtable import (
    ENTRY_COST_BYTES,
    FACT_COST_BYTES,
    FEW_ENTRIES,
    Memtable,
)

ONE, TWO = StreamId(b"1" * 16), StreamId(b"2" * 16)
BASIN = BasinName("basin-one")


@attrs.define(eq=False)
class Log:
    """Batches in the order they were appended, numbered and stamped like a stream's."""

    memtable: Memtable
    batches: list[tuple[StreamId, SequencedBatch]] = attrs.field(factory=list)

    def append(
        self, stream: StreamId, count: int = 1, *, timestamp: int | None = None, size: int = 10
    ) -> SequencedBatch:
        mine = [batch for each, batch in self.batches if each == stream]
        first = mine[-1].end_seq_num if mine else 0
        last_timestamp = mine[-1].last_timestamp if mine else 0
        timestamp = last_timestamp if timestamp is None else timestamp
        batch = SequencedBatch(first, count, last_timestamp, timestamp, 8 * count, b"p" * size)
        self.batches.append((stream, batch))
        self.memtable.add(AppendEntry(stream, batch))
        return batch


@pytest.fixture
def memtable() -> Memtable:
    return Memtable(Layout(memtable_bytes=2000, wal_objects=4), wal_end=7)


@pytest.fixture
def log(memtable: Memtable) -> Log:
    return Log(memtable)


def state_of(stream: StreamId) -> StreamState:
    return StreamState(StreamRecord(stream, BASIN, StreamName("s"), StreamConfig(), 0))


def firsts(memtable: Memtable, stream: StreamId, start: int, end: int) -> list[int]:
    return [entry.batch.first_seq_num for entry in memtable.find(stream, start, end)]


# --- finding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen_at", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 6, [0, 2, 5]),
        (0, 0, []),
        (0, 1, [0]),
        (1, 2, [0]),
        (2, 3, [2]),
        (1, 3, [0, 2]),
        (4, 5, [2]),
        (4, 6, [2, 5]),
        (5, 99, [5]),
        (6, 99, []),
    ],
)
def test_a_range_finds_the_batches_with_records_in_it_in_both_tables(
    log: Log, start: int, end: int, expected: list[int], frozen_at: int
) -> None:
    for index, count in enumerate((2, 3, 1)):
        if index == frozen_at:
            log.memtable.freeze()
        log.append(ONE, count)
        log.append(TWO, count)
    assert firsts(log.memtable, ONE, start, end) == expected


@pytest.mark.parametrize("limit", range(5))
def test_no_more_batches_are_found_than_asked_for(log: Log, limit: int) -> None:
    log.append(ONE)
    log.append(ONE)
    log.memtable.freeze()
    log.append(ONE)
    found = log.memtable.find(ONE, 0, 99, limit)
    assert [entry.batch.first_seq_num for entry in found] == [0, 1, 2][:limit]


def test_a_stream_without_batches_has_none(memtable: Memtable) -> None:
    memtable.freeze()
    assert firsts(memtable, ONE, 0, 99) == []
    assert memtable.first_at_or_after(ONE, 0) is None
    memtable.drop(ONE)


@pytest.mark.parametrize("frozen_at", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [(0, 0), (1, 0), (10, 0), (11, 1), (20, 1), (21, 3), (30, 3), (31, None)],
)
def test_a_timestamp_finds_the_first_batch_that_reaches_it(
    log: Log, timestamp: int, expected: int | None, frozen_at: int
) -> None:
    for index, stamp in enumerate((10, 20, 20, 30)):
        if index == frozen_at:
            log.memtable.freeze()
        log.append(ONE, timestamp=stamp)
    assert log.memtable.first_at_or_after(ONE, timestamp) == expected


# --- tables -----------------------------------------------------------------------------------


def test_a_frozen_table_stays_as_it_is_and_is_gone_when_released(log: Log) -> None:
    log.append(ONE)
    log.memtable.stream_changed(ONE, state_of(ONE))
    log.memtable.advanced(7)
    table = log.memtable.freeze()
    log.append(ONE)
    log.memtable.stream_changed(TWO, None)
    log.memtable.basin_changed(BASIN, None)
    log.memtable.drop(ONE)
    log.memtable.advanced(8)
    assert [entry.batch.first_seq_num for entry in table.entries(ONE)] == [0]
    assert (table.facts.streams, table.facts.basins) == ({ONE: state_of(ONE)}, {})
    assert (table.wal_end, table.wal_objects) == (8, 1)
    active = log.memtable.active
    assert (active.facts.streams, active.facts.basins) == ({TWO: None}, {BASIN: None})
    assert (active.wal_end, active.wal_objects) == (9, 1)
    assert firsts(log.memtable, ONE, 0, 99) == [0]
    log.memtable.release()
    assert log.memtable.frozen is None
    assert firsts(log.memtable, ONE, 0, 99) == []


def test_a_table_without_wal_objects_ends_where_the_one_before_it_does(memtable: Memtable) -> None:
    assert memtable.freeze().wal_end == 7
    memtable.release()
    assert memtable.freeze().wal_end == 7


def test_facts_have_the_newest_state_of_what_changed(memtable: Memtable) -> None:
    record = BasinRecord(BASIN, BasinConfig(), 5)
    newer = replace(state_of(ONE), trim_point=3)
    memtable.basin_changed(BASIN, None)
    memtable.basin_changed(BASIN, record)
    memtable.stream_changed(ONE, state_of(ONE))
    memtable.stream_changed(ONE, newer)
    memtable.stream_changed(TWO, state_of(TWO))
    memtable.stream_changed(TWO, None)
    facts = memtable.active.facts
    assert (facts.basins, facts.streams) == ({BASIN: record}, {ONE: newer, TWO: None})


def test_a_table_is_empty_without_batches_and_facts() -> None:
    changes: list[Callable[[Memtable], object]] = [
        lambda memtable: memtable.advanced(7),
        lambda memtable: Log(memtable).append(ONE),
        lambda memtable: memtable.stream_changed(ONE, None),
        lambda memtable: memtable.basin_changed(BASIN, None),
    ]
    assert [_is_empty_after(change) for change in changes] == [True, False, False, False]


def _is_empty_after(change: Callable[[Memtable], object]) -> bool:
    memtable = Memtable(Layout())
    change(memtable)
    return memtable.active.is_empty


# --- budget -----------------------------------------------------------------------------------


def test_what_is_counted_is_payloads_entries_and_facts_of_both_tables(log: Log) -> None:
    memtable = log.memtable
    log.append(ONE, size=10)
    log.append(TWO, size=20)
    assert memtable.size_bytes == 30 + 2 * ENTRY_COST_BYTES
    memtable.freeze()
    memtable.stream_changed(ONE, state_of(ONE))
    memtable.stream_changed(ONE, None)
    memtable.basin_changed(BASIN, None)
    assert memtable.size_bytes == 30 + 2 * ENTRY_COST_BYTES + 2 * FACT_COST_BYTES
    memtable.release()
    assert memtable.size_bytes == 2 * FACT_COST_BYTES


def test_a_flush_is_due_when_the_table_is_full_and_writing_stalls_when_two_are(log: Log) -> None:
    memtable = log.memtable
    log.append(ONE, size=1599)
    memtable.advanced(7)
    assert not memtable.flush_due
    log.append(ONE, size=1)
    memtable.advanced(8)
    assert (memtable.flush_due, memtable.stalled) == (True, False)
    memtable.freeze()
    log.append(ONE, size=1599)
    memtable.advanced(9)
    assert (memtable.flush_due, memtable.stalled) == (False, False)
    log.append(ONE, size=1)
    memtable.advanced(10)
    assert (memtable.flush_due, memtable.stalled) == (False, True)
    memtable.release()
    assert (memtable.flush_due, memtable.stalled) == (True, False)


def test_a_flush_is_due_after_so_many_wal_objects_however_small(memtable: Memtable) -> None:
    for number in range(4):
        assert not memtable.flush_due
        memtable.advanced(7 + number)
    assert memtable.flush_due


def test_no_flush_is_due_while_a_wal_object_is_applied_in_part(log: Log) -> None:
    memtable = log.memtable
    seen: list[tuple[bool, bool]] = []
    changes: list[Callable[[], object]] = [
        lambda: log.append(ONE, size=5000),
        lambda: memtable.stream_changed(ONE, None),
        lambda: memtable.basin_changed(BASIN, None),
    ]
    for change in changes:
        change()
        seen.append((memtable.whole, memtable.flush_due))
        memtable.advanced(7)
        seen.append((memtable.whole, memtable.flush_due))
    assert seen == [(False, False), (True, True)] * 3


def test_whoever_flushes_is_told_after_each_wal_object() -> None:
    seen: list[int] = []
    memtable = Memtable(Layout(wal_objects=1))
    memtable.on_pending = lambda: seen.append(memtable.active.wal_end)
    memtable.advanced(0)
    memtable.advanced(1)
    assert seen == [1, 2]


def test_dropping_a_stream_hides_its_batches_and_leaves_the_others(log: Log) -> None:
    log.append(ONE)
    log.append(TWO)
    log.memtable.drop(ONE)
    assert firsts(log.memtable, ONE, 0, 99) == []
    assert firsts(log.memtable, TWO, 0, 99) == [0]
    assert log.memtable.active.stream_ids == [TWO]


def test_the_pieces_of_a_table_are_all_there_is_in_it_with_the_containers_last(log: Log) -> None:
    for _ in range(FEW_ENTRIES + 1):
        log.append(ONE)
    log.append(TWO)
    log.memtable.drop(ONE)
    log.memtable.stream_changed(ONE, state_of(ONE))
    record = BasinRecord(BASIN, BasinConfig(), 5)
    log.memtable.basin_changed(BASIN, record)
    *values, two, one = log.memtable.active.pieces()
    assert isinstance(two, tuple)
    assert isinstance(one, list)
    assert (len(two), len(one)) == (1, FEW_ENTRIES + 1)
    assert {id(each) for each in values} >= {id(record), *map(id, one), *map(id, two)}
    assert len(values) == 2 + len(one) + len(two)


def test_few_batches_of_a_stream_and_many_are_found_alike(log: Log) -> None:
    for count in range(1, FEW_ENTRIES + 3):
        log.append(ONE)
        assert firsts(log.memtable, ONE, 0, 99) == list(range(count))
        assert [each.batch.first_seq_num for each in log.memtable.active.entries(ONE)] == list(
            range(count)
        )


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.sampled_from([ONE, TWO]), st.integers(0, 60)),
            st.tuples(st.just("drop"), st.sampled_from([ONE, TWO]), st.just(0)),
            st.tuples(st.sampled_from(["freeze", "release"]), st.just(ONE), st.just(0)),
        ),
        max_size=60,
    )
)
def test_any_history_shows_the_right_batches(history: list[tuple[str, StreamId, int]]) -> None:
    log = Log(Memtable(Layout()))
    frozen: dict[StreamId, list[int]] = {ONE: [], TWO: []}
    active: dict[StreamId, list[int]] = {ONE: [], TWO: []}
    for step, stream, value in history:
        match step:
            case "append":
                batch = log.append(stream, 1 + value % 3, size=value)
                active[stream].append(batch.first_seq_num)
            case "drop":
                log.memtable.drop(stream)
                active[stream] = []
            case "freeze" if log.memtable.frozen is None:
                log.memtable.freeze()
                frozen, active = active, {ONE: [], TWO: []}
            case "release":
                log.memtable.release()
                frozen = {ONE: [], TWO: []}
            case _:
                pass
        for each in (ONE, TWO):
            assert firsts(log.memtable, each, 0, 10**6) == frozen[each] + active[each]
