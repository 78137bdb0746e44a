import pytest

from s2lite.api.query import Query
from s2lite.api.read_parameters import ReadParameters
from s2lite.codec.sse import BatchEventId
from s2lite.model.errors import InvalidInput
from s2lite.model.limits import U64_MAX
from s2lite.model.reads import (
    FromSeqNum,
    FromTailOffset,
    FromTimestamp,
    ReadLimits,
    ReadRequest,
)


def parsed(query: str) -> ReadParameters:
    return ReadParameters.parse(Query(query.encode()))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ReadRequest(FromTailOffset(0))),
        ("seq_num=3&foo=1", ReadRequest(FromSeqNum(3))),
        ("timestamp=7&until=8", ReadRequest(FromTimestamp(7), limits=ReadLimits(until=8))),
        ("tail_offset=2&clamp=true", ReadRequest(FromTailOffset(2), clamp=True)),
        (
            "seq_num=0&count=5&bytes=10&wait=0",
            ReadRequest(FromSeqNum(0), limits=ReadLimits(5, 10), wait_seconds=0),
        ),
        ("seq_num=0&until=0", ReadRequest(FromSeqNum(0), limits=ReadLimits(until=0))),
    ],
)
def test_parameters_make_a_request(query: str, expected: ReadRequest) -> None:
    assert parsed(query).to_request() == expected


@pytest.mark.parametrize(
    "query", ["seq_num=0&timestamp=0", "seq_num=0&tail_offset=0", "timestamp=5&until=5"]
)
def test_parameters_that_contradict_each_other_are_invalid(query: str) -> None:
    parameters = parsed(query)
    with pytest.raises(InvalidInput):
        parameters.to_request()


def test_a_resumed_read_starts_behind_the_event_with_what_is_left_of_the_limits() -> None:
    request = parsed("timestamp=9&count=5&bytes=100&until=50&wait=3&clamp=true").to_request(
        BatchEventId(seq_num=7, count=2, metered_bytes=150)
    )
    limits = ReadLimits(count=3, bytes=0, until=50)
    assert request == ReadRequest(FromSeqNum(8), clamp=True, limits=limits, wait_seconds=3)


def test_a_resumed_read_has_no_start_timestamp_to_compare_with_until() -> None:
    request = parsed("timestamp=9&until=9").to_request(BatchEventId(0, 1, 8))
    assert request.start == FromSeqNum(1)


def test_a_resumed_read_saturates() -> None:
    assert parsed("").to_request(BatchEventId(U64_MAX, 1, 8)).start == FromSeqNum(U64_MAX)


def test_a_resumed_read_must_still_have_one_start() -> None:
    parameters = parsed("seq_num=0&timestamp=0")
    with pytest.raises(InvalidInput):
        parameters.to_request(BatchEventId(0, 1, 8))
