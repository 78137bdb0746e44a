"""How far apart writes are: not at all after a pause, the interval under steady load."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2lite.storage.pacing import BURST, Pacing


def write_times(pacing: Pacing, count: int, wanted_at: Callable[[float], float]) -> list[float]:
    """When each write starts, if it is wanted at a time that depends on the one before."""
    times: list[float] = []
    now = 0.0
    for _ in range(count):
        now = wanted_at(now)
        now += pacing.seconds_to_wait(now)
        pacing.take(now)
        times.append(now)
    return times


def at_once(now: float) -> float:
    return now


def test_after_a_pause_a_burst_goes_out_at_once() -> None:
    assert write_times(Pacing(0.05), BURST, at_once) == [0.0] * BURST


def test_after_a_burst_writes_are_an_interval_apart() -> None:
    times = write_times(Pacing(0.05), BURST + 100, at_once)[BURST - 1 :]
    assert [after - before for before, after in pairwise(times)] == pytest.approx([0.05] * 100)


def test_writes_that_are_further_apart_than_the_interval_never_wait() -> None:
    times = write_times(Pacing(0.05), 100, lambda now: now + 0.06)
    assert [after - before for before, after in pairwise(times)] == pytest.approx([0.06] * 99)


def test_a_pause_gives_back_what_it_was_long_enough_for() -> None:
    pacing = Pacing(1.0, burst=3)
    write_times(pacing, 3, at_once)
    assert [pacing.seconds_to_wait(now) for now in (0.0, 0.75, 1.0, 2.0)] == [1.0, 0.25, 0.0, 0.0]
    pacing.take(2.0)
    pacing.take(2.0)
    assert pacing.seconds_to_wait(2.0) == 1.0


def test_tokens_are_not_saved_up_beyond_a_burst() -> None:
    pacing = Pacing(1.0, burst=3)
    for _ in range(3):
        pacing.take(1000.0)
    assert pacing.seconds_to_wait(1000.0) == 1.0


def test_whoever_does_not_wait_leaves_no_debt() -> None:
    pacing = Pacing(1.0, burst=3)
    for _ in range(50):
        pacing.take(0.0)
    assert pacing.seconds_to_wait(0.0) == 1.0


def test_without_an_interval_nobody_waits() -> None:
    assert write_times(Pacing(), 1000, at_once) == [0.0] * 1000


@given(
    st.floats(0.001, 1),
    st.integers(1, 30),
    st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_in_any_time_there_are_no_more_writes_than_paid_for(
    interval: float, burst: int, gaps: list[float]
) -> None:
    gap = iter(gaps)
    times = write_times(Pacing(interval, burst), len(gaps), lambda now: now + next(gap))
    for first, start in enumerate(times):
        for count, end in enumerate(times[first:], 1):
            assert count <= burst + (end - start) / interval + 1e-6
