import pytest

from s2lite.model.errors import InvalidInput
from s2lite.model.reads import (
    FromSeqNum,
    FromTailOffset,
    FromTimestamp,
    ReadLimits,
    ReadRequest,
    choose_start,
)


def test_a_read_starts_where_the_one_parameter_says() -> None:
    assert choose_start(0, None, None) == FromSeqNum(0)
    assert choose_start(None, 0, None) == FromTimestamp(0)
    assert choose_start(None, None, 3) == FromTailOffset(3)


def test_a_read_starts_at_the_tail_unless_told_otherwise() -> None:
    assert choose_start(None, None, None) == FromTailOffset(0)
    assert ReadRequest().start == FromTailOffset(0)


@pytest.mark.parametrize("given", [(0, 0, None), (0, None, 0), (None, 0, 0), (1, 2, 3)])
def test_more_than_one_start_is_refused(given: tuple[int | None, int | None, int | None]) -> None:
    with pytest.raises(InvalidInput, match="only one"):
        choose_start(*given)


@pytest.mark.parametrize(("start", "until"), [(5, 5), (6, 5), (0, 0)])
def test_a_start_timestamp_at_or_after_until_is_refused(start: int, until: int) -> None:
    with pytest.raises(InvalidInput, match="below `until`"):
        ReadRequest(FromTimestamp(start), limits=ReadLimits(until=until))


def test_until_is_compared_only_with_a_start_timestamp() -> None:
    assert ReadRequest(FromSeqNum(9), limits=ReadLimits(until=0)).limits.until == 0
    assert ReadRequest(FromTimestamp(4), limits=ReadLimits(until=5)).limits.until == 5


def test_a_resumed_read_starts_after_the_last_record_and_has_the_rest_of_its_limits() -> None:
    request = ReadRequest(
        FromTimestamp(3), clamp=True, limits=ReadLimits(5, 100, 9), wait_seconds=2
    )
    assert request.resumed_after(7, 2, 30) == ReadRequest(
        FromSeqNum(8), clamp=True, limits=ReadLimits(3, 70, 9), wait_seconds=2
    )


def test_a_resumed_read_cannot_have_less_than_no_limit_left() -> None:
    request = ReadRequest(limits=ReadLimits(5, 100))
    assert request.resumed_after(7, 6, 101).limits == ReadLimits(0, 0)
    assert ReadRequest().resumed_after(7, 6, 101).limits == ReadLimits()


def test_a_resumed_read_does_not_start_beyond_the_last_possible_seq_num() -> None:
    assert ReadRequest().resumed_after(2**64 - 1, 0, 0).start == FromSeqNum(2**64 - 1)
