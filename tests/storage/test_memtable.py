"""The index of batches against a plain list of all of them."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2lite.codec.wal import EntryLocation
from s2lite.model.log import AppendEntry, StreamId
from s2lite.model.records import SequencedBatch
from s2lite.storage.memtable import IndexedBatch, Memtable

ONE, TWO = StreamId(b"1" * 16), StreamId(b"2" * 16)


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
        location = EntryLocation(len(self.batches), 64, size)
        self.batches.append((stream, batch))
        self.memtable.add(AppendEntry(stream, batch), location)
        return batch


@pytest.fixture
def memtable() -> Memtable:
    return Memtable(100)


@pytest.fixture
def log(memtable: Memtable) -> Log:
    return Log(memtable)


def firsts(memtable: Memtable, stream: StreamId, start: int, end: int) -> list[int]:
    return [batch.first_seq_num for batch in memtable.batches(stream, start, end)]


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
def test_a_range_finds_the_batches_with_records_in_it(
    log: Log, start: int, end: int, expected: list[int]
) -> None:
    for count in (2, 3, 1):
        log.append(ONE, count)
        log.append(TWO, count)
    assert firsts(log.memtable, ONE, start, end) == expected


def test_a_stream_without_batches_has_none(memtable: Memtable) -> None:
    assert firsts(memtable, ONE, 0, 99) == []
    assert memtable.first_at_or_after(ONE, 0) is None
    memtable.trim(ONE, 5)
    memtable.drop(ONE)


@pytest.mark.parametrize(
    ("timestamp", "expected"), [(0, 0), (1, 0), (10, 0), (11, 1), (20, 1), (21, 3), (30, 3)]
)
def test_a_timestamp_finds_the_first_batch_that_reaches_it(
    log: Log, timestamp: int, expected: int
) -> None:
    for stamp in (10, 20, 20, 30):
        log.append(ONE, timestamp=stamp)
    found = log.memtable.first_at_or_after(ONE, timestamp)
    assert found is not None
    assert found.first_seq_num == expected


def test_a_timestamp_above_the_last_finds_nothing(log: Log) -> None:
    log.append(ONE, timestamp=10)
    assert log.memtable.first_at_or_after(ONE, 11) is None


@pytest.mark.parametrize(
    ("trim_point", "left"), [(0, [0, 2, 5]), (1, [0, 2, 5]), (2, [2, 5]), (4, [2, 5]), (6, [])]
)
def test_trimming_drops_the_batches_that_lie_wholly_below(
    log: Log, trim_point: int, left: list[int]
) -> None:
    for count in (2, 3, 1):
        log.append(ONE, count)
    log.append(TWO)
    log.memtable.trim(ONE, trim_point)
    assert firsts(log.memtable, ONE, 0, 99) == left
    assert firsts(log.memtable, TWO, 0, 99) == [0]
    assert log.memtable.payload_bytes == 10 * (len(left) + 1)


def test_dropping_a_stream_frees_its_payloads_and_leaves_the_others(log: Log) -> None:
    log.append(ONE)
    log.append(TWO)
    log.memtable.drop(ONE)
    assert firsts(log.memtable, ONE, 0, 99) == []
    assert firsts(log.memtable, TWO, 0, 99) == [0]
    assert log.memtable.payload_bytes == 10


def payloads(memtable: Memtable, stream: StreamId) -> list[bool]:
    return [batch.payload is not None for batch in memtable.batches(stream, 0, 10**6)]


def test_the_oldest_payloads_go_when_the_budget_is_exceeded_but_no_batch_does(log: Log) -> None:
    for _ in range(12):
        log.append(ONE, size=10)
    assert payloads(log.memtable, ONE) == [False, False] + [True] * 10
    assert log.memtable.payload_bytes == 100


def test_a_payload_larger_than_the_budget_is_not_kept(log: Log) -> None:
    log.append(ONE, size=50)
    log.append(ONE, size=101)
    assert payloads(log.memtable, ONE) == [False, False]
    assert log.memtable.payload_bytes == 0
    log.append(ONE, size=50)
    assert payloads(log.memtable, ONE) == [False, False, True]


def test_trimmed_batches_do_not_pile_up_in_memory(log: Log) -> None:
    """A stream that is trimmed as it grows never exceeds the budget, so nothing is ever evicted."""
    for _ in range(1000):
        batch = log.append(ONE)
        log.memtable.trim(ONE, batch.end_seq_num - 1)
    assert len(log.memtable._resident) <= 4


def test_a_batch_gives_back_what_was_sequenced(log: Log) -> None:
    batch = log.append(ONE, 3, timestamp=7)
    (indexed,) = log.memtable.batches(ONE, 0, 9)
    assert indexed.payload is not None
    again = indexed.with_payload(indexed.payload)
    assert attrs.asdict(again) == attrs.asdict(batch)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from([ONE, TWO]), st.integers(0, 60)),
        st.tuples(st.just("trim"), st.sampled_from([ONE, TWO]), st.integers(0, 40)),
        st.tuples(st.just("drop"), st.sampled_from([ONE, TWO]), st.just(0)),
    ),
    max_size=60,
)


@given(steps)
def test_any_history_keeps_the_right_batches_and_counts_their_payloads(
    history: list[tuple[str, StreamId, int]],
) -> None:
    log = Log(Memtable(100))
    kept: dict[StreamId, list[int]] = {ONE: [], TWO: []}
    ends: dict[tuple[StreamId, int], int] = {}
    for step, stream, value in history:
        if step == "append":
            batch = log.append(stream, 1 + value % 3, size=value)
            kept[stream].append(batch.first_seq_num)
            ends[stream, batch.first_seq_num] = batch.end_seq_num
        elif step == "trim":
            log.memtable.trim(stream, value)
            kept[stream] = [each for each in kept[stream] if ends[stream, each] > value]
        else:
            log.memtable.drop(stream)
            kept[stream] = []
        resident: list[IndexedBatch] = []
        for each in (ONE, TWO):
            assert firsts(log.memtable, each, 0, 10**6) == kept[each]
            resident += [b for b in log.memtable.batches(each, 0, 10**6) if b.payload is not None]
        assert log.memtable.payload_bytes == sum(len(b.payload or b"") for b in resident) <= 100
