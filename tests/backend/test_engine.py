"""Random programs for a whole engine in tiny pieces, with crashes, compared with a model.

`S2LITE_ENGINE_EXAMPLES=2000` runs so many programs instead of a few, and `S2LITE_ENGINE_FIRST=123`
begins with that one. A program is a function of its number; one that fails is made as short as
possible and shown with what it takes to run it again.
"""

import os
import traceback
from collections import Counter
from random import Random

import pytest

from s2lite.storage.layout import Layout
from tests.backend.engine_world import (
    TINY,
    Append,
    Check,
    CheckAll,
    Crash,
    Create,
    Delete,
    DeleteBasin,
    Follow,
    Profile,
    Program,
    Reconfigure,
    ReconfigureBasin,
    Records,
    Restart,
    Step,
    Together,
    Wait,
    World,
    run_program,
    shortest_failing,
)

DEFAULT_EXAMPLES = 16
EXAMPLES = int(os.environ.get("S2LITE_ENGINE_EXAMPLES", DEFAULT_EXAMPLES))
FIRST = int(os.environ.get("S2LITE_ENGINE_FIRST", "0"))

SIZES = (0, 1, 10, 10, 50, 50, 200, 200, 700, 3000)
AGES = (None, None, None, 3, 60, 1000, 100_000)
PAUSES = (0.01, 0.5, 2, 10, 61, 400, 4000, 90_000)

LAYOUTS = (
    TINY,
    TINY,
    Layout(
        memtable_bytes=4_000,
        wal_object_bytes=1_000,
        wal_objects=4,
        entry_bytes=200,
        block_bytes=300,
        segment_bytes=1_000,
        footer_bytes=400,
        fanout=3,
    ),
    Layout(
        memtable_bytes=30_000, wal_objects=40, block_bytes=4_000, segment_bytes=20_000, fanout=4
    ),
)


def profile_of(number: int) -> Profile:
    rng = Random(f"profile {number}")
    shared = rng.random() < 0.4
    return Profile(
        layout=rng.choice(LAYOUTS),
        latency_seconds=rng.choice([0.0, 0.02, 0.1]),
        error_rate=rng.choice([0.0, 0.0, 0.03]),
        shared=shared,
        wal_in_flight=rng.choice([1, 1, 2, 4]),
        flush_interval_seconds=rng.choice([0.0, 0.0, 0.05]),
        read_cache_bytes=rng.choice([500, 20_000, 1_000_000]),
        gc_min_age_seconds=rng.choice([3600.0, 10_000.0] if shared else [0.0, 0.0, 60.0]),
    )


def program_of(number: int) -> list[Step]:
    rng = Random(f"program {number}")
    steps: list[Step] = []
    for _ in range(rng.randint(20, 100)):
        steps += steps_of(rng)
    return steps


def steps_of(rng: Random) -> list[Step]:
    basin, stream, roll = rng.choice([0, 0, 0, 1]), rng.randint(0, 3), rng.random()
    if roll < 0.04:
        # Whole segments of one stream, which a merge need not rewrite.
        batch = Records((700,) * 3)
        return [Append(basin, stream, (batch,) * 10)] * rng.randint(1, 4)
    if roll < 0.08:
        # What lies in between goes first, and leaves a gap.
        small = Append(basin, stream, (Records(),))
        keep, expire = Reconfigure(basin, stream, None), Reconfigure(basin, stream, 3)
        return [keep, small, expire, small, keep, small, Wait(10), *big_appends(rng, basin)]
    return [step_of(rng)]


def big_appends(rng: Random, basin: int) -> list[Step]:
    """Enough for a flush."""
    return [Append(basin, rng.randint(4, 8), (Records((3000,)),) * 5)]


def step_of(rng: Random) -> Step:
    basin, stream = rng.choice([0, 0, 0, 1]), min(rng.randint(0, 5), rng.randint(0, 20))
    roll = rng.random()
    if roll < 0.40:
        return append_of(rng, basin, stream)
    if roll < 0.55:
        streams = rng.sample(range(12), rng.randint(2, 8))
        return Together(tuple(append_of(rng, basin, each) for each in streams))
    if roll < 0.60:
        return Create(basin, stream, rng.choice(AGES))
    if roll < 0.63:
        return Delete(basin, stream)
    if roll < 0.66:
        return Reconfigure(basin, stream, rng.choice(AGES))
    if roll < 0.67:
        return ReconfigureBasin(basin, rng.choice(AGES))
    if roll < 0.68:
        return DeleteBasin(basin)
    if roll < 0.73:
        return Follow(basin, stream, rng.random())
    if roll < 0.82:
        return Check(basin, stream)
    if roll < 0.84:
        return CheckAll()
    if roll < 0.92:
        return Wait(rng.choice(PAUSES))
    if roll < 0.98:
        return Crash(min(rng.randint(1, 100), rng.randint(1, 100)), rng.random() < 0.5)
    return Restart()


def append_of(rng: Random, basin: int, stream: int) -> Append:
    return Append(basin, stream, tuple(records_of(rng) for _ in range(rng.choice([1, 1, 2, 5]))))


def records_of(rng: Random) -> Records:
    count = rng.choice([1, 1, 2, 3, 10])
    return Records(
        sizes=tuple(rng.choice(SIZES) for _ in range(count)),
        fence=rng.choice(["", "a", "b"]) if rng.random() < 0.06 else None,
        trim=rng.choice([rng.random(), 1.0, 2.0]) if rng.random() < 0.06 else None,
        age_ms=rng.choice([0, 1, 1000, 10**7]) if rng.random() < 0.3 else None,
        match=rng.random() < 0.2,
        token=rng.random() < 0.2,
        wrong=rng.random() < 0.04,
    )


def live_through(number: int) -> World:
    """Run a program; if it fails, look for the shortest part of it that does, and show that."""
    profile = profile_of(number)
    try:
        return run_program(number, program_of(number), profile)
    except Exception as error:
        raise AssertionError(explained(number, profile, kind_of(error))) from first_of(error)


def explained(number: int, profile: Profile, kind: str) -> str:
    def fails(program: Program) -> bool:
        try:
            run_program(number, program, profile)
        except Exception as error:
            return kind_of(error) == kind
        return False

    shown = "".join(f"    {step},\n" for step in shortest_failing(program_of(number), fails))
    return f"program {number}, {kind}:\nrun_program({number}, [\n{shown}], {profile})"


def kind_of(error: BaseException) -> str:
    """What a failure is about, so that a shorter program is one that fails in the same way."""
    first = first_of(error)
    frames = traceback.extract_tb(first.__traceback__)
    return f"{type(first).__name__} in {frames[-1].name}, line {frames[-1].lineno}"


def first_of(error: BaseException) -> BaseException:
    """The first error of a group of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@pytest.mark.slow
def test_the_engine_does_what_the_model_does() -> None:
    counts: Counter[str] = Counter()
    for number in range(FIRST, FIRST + EXAMPLES):
        counts += live_through(number).counts
    if EXAMPLES >= DEFAULT_EXAMPLES:
        check_that_all_was_there(counts)


def check_that_all_was_there(counts: Counter[str]) -> None:
    """What has not happened has not been tested."""
    written = ("put_new segment", "put_new catalog", "delete wal", "delete segment")
    done = ("crashes", "resolved", "refusals", "deletions", "followed", "acks", "reads")
    rare = {what: counts[what] for what in (*written, *done) if counts[what] < 10}
    assert not rare


@pytest.mark.slow
def test_the_same_program_runs_the_same_way_twice() -> None:
    def trace(number: int) -> list[object]:
        world = live_through(number)
        return [world.counts, sorted(world.store.objects), world.clock.now_ms()]

    assert trace(1) == trace(1)
