"""What is compacted next, and that it comes to an end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2lite.core.compaction import Drop, Fate, Fates, Job, Merge, Rewrite, applied, next_job
from s2lite.model.log import StreamId
from s2lite.model.manifest import ObjectId, Run, SegmentInfo, StreamKey

FANOUT = 3


def segment(number: int) -> SegmentInfo:
    key = StreamKey(StreamId(bytes(16)), number)
    return SegmentInfo(ObjectId(1, number), 100, 90, key, StreamKey(key.stream_id, number + 1))


def runs_of(tiers: str, segments: int = 1) -> tuple[Run, ...]:
    """Runs of these tiers; the segments of run n are numbered from 10 n on."""
    return tuple(
        Run(int(tier), tuple(segment(10 * index + n) for n in range(segments)))
        for index, tier in enumerate(tiers)
    )


def ids(*numbers: int) -> frozenset[ObjectId]:
    return frozenset(ObjectId(1, number) for number in numbers)


def fates_of(*, dead: tuple[int, ...] = (), mostly: tuple[int, ...] = ()) -> Fates:
    return dict.fromkeys(ids(*dead), Fate.DEAD) | dict.fromkeys(ids(*mostly), Fate.MOSTLY_DEAD)


def tiers(runs: tuple[Run, ...]) -> str:
    return "".join(str(run.tier) for run in runs)


@pytest.mark.parametrize(
    ("before", "blocked", "after"),
    [
        ("", (), None),
        ("0", (), None),
        ("00", (), None),
        ("000", (), "1"),
        ("0000", (), "10"),  # the oldest first
        ("10", (), None),
        ("1000", (), "11"),
        ("11000", (), "111"),  # the lower tier first
        ("111", (), "2"),
        ("11100", (), "200"),
        ("22211100", (), "22" + "2200"),
        ("2110", (), None),
        ("21011", (), "221"),  # one that was left behind counts as one of the higher
        ("0110", (), "20"),
        ("01", (), None),
        ("000", (10,), None),
        ("0000", (10,), None),
        ("00000", (10,), "001"),  # neighbours only
        ("000000", (0, 40), "0100"),
        ("1000", (0,), "11"),
        ("111000", (10,), "1111"),
    ],
)
def test_enough_adjacent_runs_of_a_tier_are_merged_into_one_of_the_next(
    before: str, blocked: tuple[int, ...], after: str | None
) -> None:
    runs = runs_of(before)
    job = next_job(runs, FANOUT, {}, ids(*blocked))
    if after is None:
        assert job is None
    else:
        assert isinstance(job, Merge)
        assert tiers(applied(job, runs, (segment(99),))) == after


@pytest.mark.parametrize(
    ("fates", "blocked", "expected"),
    [
        (fates_of(), (), None),
        (fates_of(dead=(1, 10)), (), Drop(ids(1, 10))),
        (fates_of(dead=(1,), mostly=(0,)), (), Drop(ids(1))),
        (fates_of(dead=(1,)), (1,), Drop(ids(1))),  # it need not be read for that
        (fates_of(mostly=(1, 10)), (), Rewrite(segment(1))),
        (fates_of(mostly=(1, 10)), (1,), Rewrite(segment(10))),
        (fates_of(mostly=(1,)), (1,), None),
        (fates_of(dead=(77,), mostly=(78,)), (), None),  # those are gone already
    ],
)
def test_dead_segments_are_dropped_and_mostly_dead_ones_rewritten(
    fates: Fates, blocked: tuple[int, ...], expected: Job | None
) -> None:
    assert next_job(runs_of("10", segments=2), FANOUT, fates, ids(*blocked)) == expected


def test_a_merge_comes_before_a_rewrite_because_it_may_make_that_unnecessary() -> None:
    job = next_job(runs_of("000"), FANOUT, fates_of(mostly=(0,)), ids())
    assert isinstance(job, Merge)


def test_dropping_leaves_the_other_segments_and_no_empty_run() -> None:
    runs = runs_of("210", segments=2)
    assert applied(Drop(ids(0, 10, 11)), runs) == (Run(2, (segment(1),)), runs[2])


def test_a_rewritten_segment_is_replaced_where_it_was_by_any_number_of_others() -> None:
    runs = runs_of("10", segments=3)
    job = Rewrite(segment(11))
    one = Run(0, (segment(10), segment(98), segment(99), segment(12)))
    assert applied(job, runs, (segment(98), segment(99))) == (runs[0], one)
    assert applied(job, runs) == (runs[0], Run(0, (segment(10), segment(12))))
    assert applied(Rewrite(segment(0)), runs_of("0")) == ()


def test_a_merge_takes_the_place_of_its_inputs_whatever_came_after_them() -> None:
    runs = runs_of("2000")
    job = next_job(runs, FANOUT, {}, ids())
    assert job is not None
    newer = Run(0, (segment(77),))
    assert applied(job, (*runs, newer), (segment(99),)) == (runs[0], Run(1, (segment(99),)), newer)
    assert applied(job, (*runs, newer)) == (runs[0], newer)


class Simulation:
    """Jobs done on segments that only have an age (the number of their oldest part)."""

    def __init__(self, fanout: int) -> None:
        self.fanout = fanout
        self.runs: tuple[Run, ...] = ()
        self.fates: dict[ObjectId, Fate] = {}
        self.blocked: set[ObjectId] = set()
        self.ages: dict[ObjectId, frozenset[int]] = {}
        self.gone: frozenset[int] = frozenset()
        self.flushed = 0

    def flush(self) -> None:
        self.flushed += 1
        new = self._write(frozenset({self.flushed}))
        self.runs = (*self.runs, Run(0, (new,)))

    def do_all(self) -> int:
        jobs = 0
        while (job := next_job(self.runs, self.fanout, self.fates, self.blocked)) is not None:
            self._do(job)
            jobs += 1
            assert jobs <= 10 * self.flushed
        return jobs

    def _do(self, job: Job) -> None:
        written: tuple[SegmentInfo, ...] = ()
        match job:
            case Drop(segments):
                self.gone = self.gone.union(*(self.ages[each] for each in segments))
            case Merge(runs, _):
                inputs = [s for run in runs for s in run.segments]
                assert not any(s.object_id in self.blocked for s in inputs)
                written = (self._write(self._content(inputs)),)
            case Rewrite(old):
                assert old.object_id not in self.blocked
                written = (self._write(self._content([old])),)
        before = self._content(self.segments())
        self.runs = applied(job, self.runs, written)
        assert self._content(self.segments()) == before - self.gone

    def segments(self) -> list[SegmentInfo]:
        return [segment for run in self.runs for segment in run.segments]

    def check_order(self) -> None:
        ages = [sorted(self._content(run.segments)) for run in self.runs]
        flat = [age for each in ages for age in each]
        assert flat == sorted(set(range(1, self.flushed + 1)) - self.gone)

    def _write(self, content: frozenset[int]) -> SegmentInfo:
        new = segment(1000 + len(self.ages))
        self.ages[new.object_id] = content
        return new

    def _content(self, segments: tuple[SegmentInfo, ...] | list[SegmentInfo]) -> frozenset[int]:
        return frozenset().union(*(self.ages[s.object_id] for s in segments))


steps = st.lists(
    st.tuples(
        st.sampled_from(["flush", "flush", "flush", "flush", "dead", "mostly", "block", "restart"]),
        st.integers(0, 10**6),
    ),
    max_size=80,
)


@given(steps, st.integers(2, 5))
def test_any_history_keeps_the_order_and_ends_with_few_runs(
    history: list[tuple[str, int]], fanout: int
) -> None:
    simulation = Simulation(fanout)
    for step, choice in history:
        segments = simulation.segments()
        if step == "flush":
            simulation.flush()
        elif step == "restart":
            simulation.blocked.clear()
        elif segments:
            chosen = segments[choice % len(segments)].object_id
            match step:
                case "dead":
                    simulation.fates[chosen] = Fate.DEAD
                case "mostly":
                    simulation.fates.setdefault(chosen, Fate.MOSTLY_DEAD)
                case _:
                    simulation.blocked.add(chosen)
        if choice % 3:
            simulation.do_all()
            simulation.check_order()
    simulation.blocked.clear()
    simulation.do_all()
    simulation.check_order()
    assert simulation.do_all() == 0
    tiers_left = [run.tier for run in simulation.runs]
    assert len(tiers_left) <= len(set(tiers_left)) * (fanout - 1)
    if "block" not in {step for step, _ in history}:
        assert tiers_left == sorted(tiers_left, reverse=True)
        assert all(fanout**tier <= simulation.flushed for tier in tiers_left)
    assert not any(s.object_id in simulation.fates for s in simulation.segments())


@pytest.mark.parametrize("fanout", [2, 3, 8])
def test_a_record_is_written_once_per_tier(fanout: int) -> None:
    simulation = Simulation(fanout)
    for _ in range(fanout**3):
        simulation.flush()
        simulation.do_all()
    assert [run.tier for run in simulation.runs] == [3]
