"""What to compact next, and what becomes of the runs then.

Theory of operation. A flush makes a run of tier 0. As soon as `fanout` runs of one tier lie next to
each other, the oldest of them are merged into one of the next tier, so that a record is written
once per tier, there are fewer than `fanout` runs of each, and their number grows with the logarithm
of the log. Only neighbours are merged, and the result takes their place: in a stream the older of
two runs always has the lower seq_nums.

Before that, segments that are dead as a whole are dropped, which costs nothing. After that,
segments that are mostly dead are rewritten alone, because a merge may be far off. Segments in
`blocked` cannot be read: what needs them is left undone, and they divide the runs around them.

A run that was left behind like that may lie, with its lower tier, before a newer one of a higher.
It counts as one of the higher, or it would never be merged any more.
"""

import enum
from collections.abc import Container, Iterable, Mapping, Sequence

import attrs

from s2lite.model.manifest import ObjectId, Run, SegmentInfo


class Fate(enum.Enum):
    """How much of a segment is dead: trimmed, expired, or of a stream that is gone."""

    LIVE = enum.auto()
    MOSTLY_DEAD = enum.auto()
    DEAD = enum.auto()


Fates = Mapping[ObjectId, Fate]
"""The segments that are not live, by id."""


@attrs.frozen
class Drop:
    """Forget dead segments."""

    segments: frozenset[ObjectId]


@attrs.frozen
class Merge:
    """Put adjacent runs together into one of this tier."""

    runs: tuple[Run, ...]
    tier: int


@attrs.frozen
class Rewrite:
    """Write what is left of a segment anew."""

    segment: SegmentInfo


Job = Drop | Merge | Rewrite


def next_job(
    runs: Sequence[Run], fanout: int, fates: Fates, blocked: Container[ObjectId]
) -> Job | None:
    """The next thing to do; None if all is as it should be."""
    dead = _with_fate(runs, Fate.DEAD, fates)
    if dead:
        return Drop(frozenset(segment.object_id for segment in dead))
    merge = _next_merge(runs, fanout, blocked)
    if merge is not None:
        return merge
    for segment in _with_fate(runs, Fate.MOSTLY_DEAD, fates):
        if segment.object_id not in blocked:
            return Rewrite(segment)
    return None


def applied(
    job: Job, runs: Sequence[Run], written: tuple[SegmentInfo, ...] = ()
) -> tuple[Run, ...]:
    """The runs after the job, whose result is the segments `written`.

    There may be newer runs than when the job was chosen, but nothing else may have changed.
    """
    match job:
        case Drop(segments):
            left = [
                Run(run.tier, tuple(s for s in run.segments if s.object_id not in segments))
                for run in runs
            ]
        case Merge(inputs, tier):
            first = runs.index(inputs[0])
            after = first + len(inputs)
            assert tuple(runs[first:after]) == inputs
            left = [*runs[:first], Run(tier, written), *runs[after:]]
        case Rewrite(segment):
            left = [Run(run.tier, _replaced(run.segments, segment, written)) for run in runs]
    return tuple(run for run in left if run.segments)


def _with_fate(runs: Iterable[Run], fate: Fate, fates: Fates) -> list[SegmentInfo]:
    if not fates:
        return []
    return [
        segment for run in runs for segment in run.segments if fates.get(segment.object_id) is fate
    ]


def _next_merge(runs: Sequence[Run], fanout: int, blocked: Container[ObjectId]) -> Merge | None:
    """The merge of the lowest tier that has enough runs."""
    for tier in sorted({run.tier for run in runs}):
        for stretch in _stretches(runs, tier, blocked):
            if len(stretch) >= fanout:
                inputs = tuple(stretch[:fanout])
                return Merge(inputs, max(run.tier for run in inputs) + 1)
    return None


def _stretches(runs: Sequence[Run], tier: int, blocked: Container[ObjectId]) -> list[list[Run]]:
    """Stretches of adjacent runs of that tier or lower, up to the newest of that tier in each."""
    stretches: list[list[Run]] = [[]]
    lower: list[Run] = []
    for run in runs:
        if run.tier > tier or _is_blocked(run, blocked):
            stretches.append([])
            lower = []
        elif run.tier < tier:
            lower.append(run)
        else:
            stretches[-1] += [*lower, run]
            lower = []
    return stretches


def _is_blocked(run: Run, blocked: Container[ObjectId]) -> bool:
    return any(segment.object_id in blocked for segment in run.segments)


def _replaced(
    segments: tuple[SegmentInfo, ...], old: SegmentInfo, new: tuple[SegmentInfo, ...]
) -> tuple[SegmentInfo, ...]:
    if old not in segments:
        return segments
    index = segments.index(old)
    return (*segments[:index], *new, *segments[index + 1 :])
