"""Where reads start and end: the tables of the API, and record-by-record admission as the model."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2lite.core.reads import Allowance, locate, may_follow, unary_request
from s2lite.model.errors import ReadPastTail
from s2lite.model.limits import MAX_BATCH_BYTES, MAX_BATCH_RECORDS, U64_MAX
from s2lite.model.positions import StreamPosition
from s2lite.model.reads import (
    FromSeqNum,
    FromTailOffset,
    FromTimestamp,
    ReadLimits,
    ReadRequest,
    ReadStart,
)

TAIL = StreamPosition(10, 1000)
PAST = "past the tail"

UNARY = unary_request(ReadRequest())
UNARY_WAITING = unary_request(ReadRequest(wait_seconds=5))
UNBOUNDED = ReadRequest()
UNBOUNDED_NO_WAIT = ReadRequest(wait_seconds=0)
BOUNDED = ReadRequest(limits=ReadLimits(count=3))
KINDS = {
    "unary": UNARY,
    "unary, wait": UNARY_WAITING,
    "unbounded": UNBOUNDED,
    "unbounded, wait 0": UNBOUNDED_NO_WAIT,
    "bounded": BOUNDED,
}

Located = int | FromTimestamp | str


def located(kind: str, start: ReadStart, clamp: bool, tail: StreamPosition = TAIL) -> Located:
    request = attrs.evolve(KINDS[kind], start=start, clamp=clamp)
    try:
        return locate(request, tail)
    except ReadPastTail:
        return PAST


# --- the start --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "clamp", "expected"),
    [
        (FromSeqNum(4), False, [4, 4, 4, 4, 4]),
        (FromSeqNum(4), True, [4, 4, 4, 4, 4]),
        (FromSeqNum(9), False, [9, 9, 9, 9, 9]),
        (FromSeqNum(10), False, [PAST, 10, 10, 10, PAST]),
        (FromTailOffset(0), False, [PAST, 10, 10, 10, PAST]),
        (FromTailOffset(3), False, [7, 7, 7, 7, 7]),
        (FromTailOffset(10), False, [0, 0, 0, 0, 0]),
        (FromTailOffset(999), False, [0, 0, 0, 0, 0]),
        (FromSeqNum(11), False, [PAST] * 5),
        (FromSeqNum(U64_MAX), False, [PAST] * 5),
        (FromSeqNum(11), True, [PAST, 10, 10, 10, PAST]),
        (FromTimestamp(1000), False, [FromTimestamp(1000)] * 5),
        (FromTimestamp(0), False, [FromTimestamp(0)] * 5),
        (FromTimestamp(1001), False, [PAST] * 5),
        (FromTimestamp(1001), True, [PAST, 10, 10, 10, PAST]),
    ],
)
def test_the_start_of_a_read_of_each_kind(
    start: ReadStart, clamp: bool, expected: list[Located]
) -> None:
    assert [located(kind, start, clamp) for kind in KINDS] == expected


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (FromSeqNum(0), [True, False, False, False, True]),
        (FromTailOffset(5), [True, False, False, False, True]),
        (FromTimestamp(0), [False] * 5),
        (FromTimestamp(1), [True] * 5),
        (FromSeqNum(1), [True] * 5),
    ],
)
def test_on_an_empty_stream_which_reads_are_past_the_tail(
    start: ReadStart, expected: list[bool]
) -> None:
    results = [located(kind, start, False, StreamPosition.ZERO) for kind in KINDS]
    assert [result == PAST for result in results] == expected


def test_a_read_past_the_tail_says_what_the_tail_is() -> None:
    with pytest.raises(ReadPastTail) as caught:
        locate(attrs.evolve(UNBOUNDED, start=FromSeqNum(11)), TAIL)
    assert caught.value.tail == TAIL


def test_count_zero_at_the_tail_without_wait_is_past_the_tail() -> None:
    request = unary_request(ReadRequest(limits=ReadLimits(count=0)))
    with pytest.raises(ReadPastTail):
        locate(request, TAIL)
    assert locate(attrs.evolve(request, start=FromSeqNum(3)), TAIL) == 3


@pytest.mark.parametrize(
    ("limits", "wait", "expected"),
    [
        (ReadLimits(), None, True),
        (ReadLimits(), 0, True),
        (ReadLimits(), 5, True),
        (ReadLimits(count=3), None, False),
        (ReadLimits(bytes=3), None, False),
        (ReadLimits(until=U64_MAX), None, False),
        (ReadLimits(count=0), None, False),
        (ReadLimits(count=3), 0, False),
        (ReadLimits(count=3), 1, True),
        (ReadLimits(until=3), 1, True),
    ],
)
def test_a_read_may_follow_if_it_waits_or_has_no_bound(
    limits: ReadLimits, wait: int | None, expected: bool
) -> None:
    assert may_follow(ReadRequest(limits=limits, wait_seconds=wait)) is expected


@pytest.mark.parametrize(
    ("limits", "wait", "expected_limits", "expected_wait"),
    [
        (ReadLimits(), None, ReadLimits(MAX_BATCH_RECORDS, MAX_BATCH_BYTES), 0),
        (ReadLimits(5, 6, 7), 8, ReadLimits(5, 6, 7), 8),
        (ReadLimits(0, 0), 0, ReadLimits(0, 0), 0),
        (
            ReadLimits(2000, 2**21),
            3600,
            ReadLimits(MAX_BATCH_RECORDS, MAX_BATCH_BYTES),
            60,
        ),
    ],
)
def test_a_unary_read_is_bounded_to_a_batch_and_a_minute(
    limits: ReadLimits, wait: int | None, expected_limits: ReadLimits, expected_wait: int
) -> None:
    bounded = unary_request(ReadRequest(FromSeqNum(1), True, limits, wait))
    assert bounded == ReadRequest(FromSeqNum(1), True, expected_limits, expected_wait)


# --- the end ----------------------------------------------------------------------------------


@attrs.frozen
class Record:
    timestamp: int
    metered_bytes: int


@attrs.frozen
class Totals:
    count: int
    metered_bytes: int
    first_timestamp: int
    last_timestamp: int


def totals(records: list[Record]) -> Totals:
    size = sum(each.metered_bytes for each in records)
    return Totals(len(records), size, records[0].timestamp, records[-1].timestamp)


def batch(*sizes: int, timestamp: int = 0) -> list[Record]:
    return [Record(timestamp, size) for size in sizes]


@pytest.mark.parametrize(
    ("limits", "admitted"),
    [
        (ReadLimits(), 3),
        (ReadLimits(count=0), 0),
        (ReadLimits(count=2), 2),
        (ReadLimits(count=3), 3),
        (ReadLimits(bytes=0), 0),
        (ReadLimits(bytes=9), 0),  # no exception for the first record
        (ReadLimits(bytes=10), 1),
        (ReadLimits(bytes=29), 1),
        (ReadLimits(bytes=30), 2),
        (ReadLimits(count=1, bytes=30), 1),
        (ReadLimits(until=100), 0),
        (ReadLimits(until=101), 3),
    ],
)
def test_the_first_record_over_a_limit_ends_the_read(limits: ReadLimits, admitted: int) -> None:
    records = batch(10, 20, 5, timestamp=100)
    count, size = Allowance.of(limits).admitted_prefix(records)
    assert count == admitted
    assert size == sum(each.metered_bytes for each in records[:admitted])


def test_a_later_smaller_record_does_not_get_in_past_one_that_did_not_fit() -> None:
    assert Allowance.of(ReadLimits(bytes=15)).admitted_prefix(batch(10, 20, 5)) == (1, 10)


def test_until_takes_none_of_several_records_with_that_timestamp() -> None:
    records = [Record(1, 8), Record(2, 8), Record(2, 8), Record(3, 8)]
    assert Allowance.of(ReadLimits(until=2)).admitted_prefix(records) == (1, 8)


@pytest.mark.parametrize("limits", [ReadLimits(count=0), ReadLimits(bytes=0)])
def test_a_zero_limit_is_not_used_up_before_a_record_turns_up(limits: ReadLimits) -> None:
    allowance = Allowance.of(limits)
    assert not allowance.used_up
    assert allowance.admitted_prefix(batch(8)) == (0, 0)


@pytest.mark.parametrize("limits", [ReadLimits(count=2), ReadLimits(bytes=20)])
def test_an_exact_fit_uses_a_limit_up(limits: ReadLimits) -> None:
    allowance = Allowance.of(limits)
    allowance.take(1, 10)
    assert not allowance.used_up
    allowance.take(1, 10)
    assert allowance.used_up


sizes = st.integers(8, 20)
streams = st.lists(
    st.lists(st.tuples(st.integers(0, 3), sizes), min_size=1, max_size=5), min_size=1, max_size=8
)
limits_strategy = st.builds(
    ReadLimits,
    st.none() | st.integers(0, 12),
    st.none() | st.integers(0, 150),
    st.none() | st.integers(0, 20),
)


@given(streams, limits_strategy)
def test_limits_on_batches_admit_what_going_through_the_records_admits(
    stream: list[list[tuple[int, int]]], limits: ReadLimits
) -> None:
    now = 0
    batches: list[list[Record]] = []
    for steps in stream:
        batches.append([])
        for step, size in steps:
            now += step
            batches[-1].append(Record(now, size))

    # The rule of the API, word for word, one record after the other.
    expected: list[Record] = []
    for record in (record for each in batches for record in each):
        if limits.count is not None and len(expected) + 1 > limits.count:
            break
        taken = sum(each.metered_bytes for each in expected)
        if limits.bytes is not None and taken + record.metered_bytes > limits.bytes:
            break
        if limits.until is not None and record.timestamp >= limits.until:
            break
        expected.append(record)

    allowance = Allowance.of(limits)
    delivered: list[Record] = []
    for records in batches:
        if allowance.used_up:
            break
        if allowance.admits_whole(totals(records)):
            count, size = len(records), totals(records).metered_bytes
            assert allowance.admitted_prefix(records) == (count, size)
        else:
            count, size = allowance.admitted_prefix(records)
            assert count < len(records)
        assert not (allowance.admits_none(totals(records)) and count)
        allowance.take(count, size)
        delivered += records[:count]
        if count < len(records):
            break
    assert delivered == expected
