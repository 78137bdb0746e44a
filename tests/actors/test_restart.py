from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import RestartKind, RestartPolicy, RestartWindow


@pytest.mark.parametrize(
    ("kind", "after_crash", "after_stop"),
    [
        (RestartKind.PERMANENT, True, True),
        (RestartKind.TRANSIENT, True, False),
        (RestartKind.TEMPORARY, False, False),
    ],
)
def test_the_kind_says_which_ends_call_for_a_restart(
    kind: RestartKind, after_crash: bool, after_stop: bool
) -> None:
    policy = RestartPolicy(kind)
    assert policy.wants_restart(crashed=True) is after_crash
    assert policy.wants_restart(crashed=False) is after_stop


def test_delays_grow_up_to_the_maximum() -> None:
    policy = RestartPolicy(first_delay_seconds=0.5, multiplier=3, max_delay_seconds=10)
    delays = [policy.delay_seconds(before, None) for before in range(5)]
    assert delays == [0.5, 1.5, 4.5, 10, 10]


def test_a_delay_after_very_many_restarts_is_the_maximum_and_not_an_overflow() -> None:
    assert RestartPolicy().delay_seconds(100_000, None) == RestartPolicy().max_delay_seconds


def test_jitter_comes_from_the_random_that_was_passed_in() -> None:
    policy = RestartPolicy(jitter=0.5)
    one, same, other = (policy.delay_seconds(3, random.Random(seed)) for seed in (1, 1, 2))
    assert one == same != other


@given(st.integers(0, 50), st.floats(0, 3), st.integers())
def test_jitter_stays_within_its_share_of_the_delay(before: int, jitter: float, seed: int) -> None:
    policy = RestartPolicy(jitter=jitter)
    plain = policy.delay_seconds(before, None)
    delay = policy.delay_seconds(before, random.Random(seed))
    assert max(0, plain * (1 - jitter)) - 1e-9 <= delay <= plain * (1 + jitter) + 1e-9


def test_the_window_admits_as_many_restarts_as_the_policy_says() -> None:
    window = RestartWindow(RestartPolicy(max_restarts=2, window_seconds=10))
    assert [window.admit(now) for now in (0, 1, 2, 9.9)] == [0, 1, None, None]


def test_a_restart_counts_until_the_window_has_passed() -> None:
    window = RestartWindow(RestartPolicy(max_restarts=2, window_seconds=10))
    assert [window.admit(now) for now in (0, 5, 10, 11, 15)] == [0, 1, 1, None, 1]


def test_a_policy_without_restarts_admits_none() -> None:
    assert RestartWindow(RestartPolicy(max_restarts=0)).admit(0) is None


@given(
    max_restarts=st.integers(0, 5),
    window_seconds=st.floats(0.5, 20),
    gaps=st.lists(st.floats(0, 10), max_size=40),
)
def test_the_window_agrees_with_counting_everything_that_was_ever_admitted(
    max_restarts: int, window_seconds: float, gaps: list[float]
) -> None:
    window = RestartWindow(RestartPolicy(max_restarts=max_restarts, window_seconds=window_seconds))
    now = 0.0
    admitted: list[float] = []
    for gap in gaps:
        now += gap
        recent = sum(1 for time in admitted if now - time < window_seconds)
        expected = recent if recent < max_restarts else None
        assert window.admit(now) == expected
        if expected is not None:
            admitted.append(now)


@pytest.mark.parametrize(
    "bad",
    [
        {"max_restarts": -1},
        {"window_seconds": 0},
        {"first_delay_seconds": -0.1},
        {"max_delay_seconds": -1},
        {"multiplier": 0},
        {"jitter": -0.5},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        RestartPolicy(**bad)  # type: ignore[arg-type]  # the keys are the names of number fields
