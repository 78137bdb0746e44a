"""One life of an engine, and a crash at every one of its calls of the store in turn.

The scenario goes through all that writes: appends, several flushes, merges, compaction of the
catalog, collection, trims, deletions, and the close. It is run once to count the calls, and then
with a server that dies at call k, before or after its effect; the next server must show the same.

By default a part of the calls is tried, another one for each kind of death; all of them with
`S2LITE_ENGINE_CRASHES=all`.
"""

import os
from collections.abc import Iterator
from functools import cache

import attrs
import pytest

from tests.backend.engine_world import (
    Append,
    Check,
    CheckAll,
    Create,
    Delete,
    DeleteBasin,
    Follow,
    Profile,
    Reconfigure,
    Records,
    Restart,
    Step,
    Together,
    Wait,
    World,
    run_program,
)

SAMPLES = 16
"""So many deaths are tried by default."""

BASE = Profile(latency_seconds=0.02)
PROFILES = {
    "one write at a time": BASE,
    "a bucket, four writes at a time": attrs.evolve(
        BASE, shared=True, wal_in_flight=4, gc_min_age_seconds=3600.0
    ),
}


def several(*sizes: int, trim: float | None = None, fence: str | None = None) -> Records:
    return Records(sizes, fence=fence, trim=trim)


def round_of(number: int) -> Iterator[Step]:
    """Enough for a flush, with something to do for whoever compacts it later."""
    busy = tuple(several(50, 300, 700) for _ in range(4))
    yield Together(tuple(Append(0, stream, busy) for stream in range(4)))
    yield Append(0, number % 4, (several(10, 10, trim=0.8), several(2500)))
    yield Create(0, 10 + number, age_seconds=20)
    yield Append(0, 10 + number, (several(0, 1, 2), several(100, fence=f"{number}")))
    yield Append(1, 0, (several(400, 400),))
    if number % 3 == 2:
        yield Delete(0, 10 + number - 2)
        yield Reconfigure(0, 3, age_seconds=30 + number)
    yield Wait(11)


def scenario() -> list[Step]:
    """Everything there is, in one life."""
    steps: list[Step] = [Create(0, 0), Follow(0, 0)]
    for number in range(8):
        steps += round_of(number)
    steps += [DeleteBasin(1), Delete(0, 1), Wait(4000), Append(0, 2, (several(30),)), Wait(4000)]
    steps += [Check(0, 2), Check(0, 0), Restart()]
    # What the next server finds has to bear more than being looked at.
    steps += [*round_of(8), Wait(4000), CheckAll()]
    return steps


@cache
def whole_life(name: str) -> World:
    return run_program(1, scenario(), PROFILES[name])


def calls_of_the_first_server(name: str) -> int:
    return whole_life(name).calls_of_servers[0]


def crash_points(name: str) -> list[tuple[int, bool]]:
    count = calls_of_the_first_server(name)
    every = [(call, after) for after in (False, True) for call in range(1, count + 1)]
    if os.environ.get("S2LITE_ENGINE_CRASHES") == "all":
        return every
    step = max(1, len(every) // SAMPLES)
    return every[::step]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROFILES)
def test_the_scenario_goes_through_everything(name: str) -> None:
    counts = whole_life(name).counts
    expected = {
        "put_new wal": 50,
        "put_new segment": 20,
        "put_new catalog": 20,
        "put_new manifest": 10,
        "delete wal": 20,
        "delete segment": 10,
        "delete catalog": 4,
        "deletions": 3,
        "basin deletions": 1,
        "followed": 50,
    }
    assert {what: counts[what] for what, least in expected.items() if counts[what] < least} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROFILES)
def test_nothing_is_lost_by_a_crash_at_any_call_of_the_store(name: str) -> None:
    for crash_at in crash_points(name):
        try:
            world = run_program(1, scenario(), PROFILES[name], crash_at)
        except Exception as error:
            raise AssertionError(f"{name}, crash at {crash_at}") from error
        assert world.counts["crashes"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("loses", ["wal/", "segment/", "catalog/"])
def test_a_store_that_forgets_an_object_it_has_answered_for_is_caught(loses: str) -> None:
    """Without this the tests above might see nothing at all."""
    name = "one write at a time"
    forgetful = attrs.evolve(PROFILES[name], loses=loses)
    caught = 0
    for crash_at in crash_points(name)[1::5]:
        try:
            run_program(1, scenario(), forgetful, crash_at)
        except Exception:
            caught += 1
    assert caught
