"""Running one target over a range of inputs, within bounds of time and memory."""

import faulthandler
import gc
import random
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import attrs

from scripts.fuzzing.mutation import Mutator
from scripts.fuzzing.target import Target

MIB: Final = 1024 * 1024

CASE_CPU_SECONDS: Final = 5.0
"""An input that takes longer has found something quadratic: the largest takes some 0.3 s."""

HANG_SECONDS: Final = 120.0
"""Time by the wall, after which the process ends itself with a traceback."""

CASE_PEAK_BYTES: Final = 160 * MIB
"""What one input may add to the peak of the process: some dozen times the largest input."""

LEAK_BYTES: Final = 256 * MIB
"""What a run may add to the memory of the process in the end."""

ADDRESS_SPACE_BYTES: Final = 8 * 1024 * MIB


@attrs.frozen
class FailedCase:
    """An input that was not handled as it should be."""

    target: str
    seed: int
    case: int
    what: str

    @property
    def reproduction(self) -> str:
        """The command that feeds it again."""
        return (
            f".venv/bin/python scripts/fuzz --only {self.target} --seed {self.seed}"
            f" --first {self.case} --count 1"
        )


class _Slow(Exception):
    """The input took too long."""


def rng_of(target: str, seed: int, case: int) -> random.Random:
    """The chance of one case: the same in every run, whatever came before."""
    return random.Random(f"{target}/{seed}/{case}")  # noqa: S311


def run(
    target: Target, seed: int, first: int, count: int, progress: Callable[[int], None]
) -> FailedCase | None:
    """Check cases up to the first that fails; `progress` is told how many were checked."""
    seeds = target.seeds()
    gc.collect()
    start = _rss_bytes()
    with _bounds():
        for case in range(first, first + count):
            what = _problem(target, seeds, rng_of(target.name, seed, case))
            if what is not None:
                return FailedCase(target.name, seed, case, what)
            progress(1)
    gc.collect()
    grown = _rss_bytes() - start
    if grown > LEAK_BYTES:
        return FailedCase(target.name, seed, first, f"all of it left {grown // MIB} MiB behind")
    return None


def _problem(target: Target, seeds: list[bytes], rng: random.Random) -> str | None:
    """What is wrong with how one case was handled, None if nothing is."""
    peak = _peak_bytes()
    # By CPU time: the machine may be busy with something else.
    signal.setitimer(signal.ITIMER_VIRTUAL, CASE_CPU_SECONDS)
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    try:
        target.check(Mutator(rng, seeds))
    except _Slow:
        return f"it took more than {CASE_CPU_SECONDS} s:\n{traceback.format_exc()}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        faulthandler.cancel_dump_traceback_later()
    grown = _peak_bytes() - peak
    return f"it took {grown // MIB} MiB of memory" if grown > CASE_PEAK_BYTES else None


@contextmanager
def _bounds() -> Iterator[None]:
    def too_slow(_number: int, _frame: FrameType | None) -> None:
        raise _Slow

    before = signal.signal(signal.SIGVTALRM, too_slow)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, hard))
    try:
        yield
    finally:
        signal.signal(signal.SIGVTALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _rss_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


class Progress:
    """A line that says how far a run is, every few seconds."""

    def __init__(self, total: int, say: Callable[[str], None], every_seconds: float = 5.0) -> None:
        self._total = total
        self._say = say
        self._every = every_seconds
        self._began = self._said = time.monotonic()
        self._done = 0

    def add(self, target: str, inputs: int) -> None:
        """Note that so many inputs were handled."""
        self._done += inputs
        now = time.monotonic()
        if now - self._said >= self._every:
            self._said = now
            rate = self._done / (now - self._began)
            self._say(f"{self._done:,} of {self._total:,} inputs, {rate:,.0f}/s, at {target}")
