"""For tests: wall time that follows trio's clock, a seeded scheduler, and an actor that notes all.

Nothing in here is needed to run actors.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar, TypeVarTuple, Unpack

import attrs
import trio
import trio.testing

from ._actor import Actor
from ._mailbox import M
from ._ref import StopReason

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def _trio_time() -> float | None:
    try:
        return trio.current_time()
    except RuntimeError:
        return None


@attrs.define(eq=False)
class VirtualClock:
    """A `Clock` that starts at `start_ms` and then keeps pace with trio's clock.

    Under trio's `MockClock` wall time is thus part of the test. Time counts from where the clock is
    made or, if that is outside of a trio run, from where it is first read in one.
    """

    start_ms: int = 1_700_000_000_000
    _origin: float | None = attrs.field(factory=_trio_time, init=False)
    _stepped_ms: int = attrs.field(default=0, init=False)
    _suspended_seconds: float = attrs.field(default=0.0, init=False)

    def now_ms(self) -> int:
        """Return the wall time in milliseconds since the epoch."""
        now = _trio_time()
        if now is None or self._origin is None:
            self._origin = now
            elapsed_ms = 0
        else:
            # Rounded to the microsecond first: 0.3 s must not come out as 299 ms.
            elapsed_ms = round((now - self._origin) * 1_000_000) // 1000
        return self.start_ms + elapsed_ms + self._stepped_ms

    def elapsed_seconds(self) -> float:
        """Return trio's time plus whatever `suspend` added."""
        return (_trio_time() or 0.0) + self._suspended_seconds

    def suspend(self, seconds: float) -> None:
        """Let time pass that no timer notices, as when the machine sleeps."""
        self._suspended_seconds += seconds
        self._stepped_ms += round(seconds * 1000)

    def step(self, delta_ms: int) -> None:
        """Set the wall time forward, or back if negative, as an operator or NTP would."""
        self._stepped_ms += delta_ms


@attrs.define(eq=False)
class Probe(Actor[M]):
    """An actor that notes all that happens to it, and leaves the handling to `on_message`.

    `events` has the hooks in the order in which they ran, `messages` the messages alone. An
    exception out of `on_message` crashes it, as in any actor.
    """

    on_message: Callable[[M], Awaitable[object]] | None = None
    messages: list[M] = attrs.field(factory=list)
    events: list[str] = attrs.field(factory=list)
    stop_reason: StopReason | None = None

    async def started(self) -> None:
        """Note it."""
        self.events.append("started")

    async def receive(self, message: M) -> None:
        """Note the message, and hand it to `on_message`."""
        self.events.append("receive")
        self.messages.append(message)
        if self.on_message is not None:
            await self.on_message(message)

    async def woken(self) -> None:
        """Note it."""
        self.events.append("woken")

    async def drained(self) -> None:
        """Note it."""
        self.events.append("drained")

    async def stopping(self, reason: StopReason) -> None:
        """Note it and the reason."""
        self.events.append("stopping")
        self.stop_reason = reason


@contextlib.contextmanager
def seeded_scheduler(seed: int) -> Iterator[None]:
    """Make the order in which trio runs its tasks a function of `seed`, inside the block.

    Trio shuffles the tasks that are ready to run, so that nobody relies on an order. This seeds the
    shuffle, and has trio sort them first, so that a run can be repeated exactly. It reaches into
    two private names of trio, there being no public ones, and raises RuntimeError if a version of
    trio has them no more.
    """
    module: Any = trio._core._run
    rng = getattr(module, "_r", None)
    if not isinstance(rng, random.Random) or not hasattr(module, "_ALLOW_DETERMINISTIC_SCHEDULING"):
        raise RuntimeError(f"trio {trio.__version__} has no scheduler that can be seeded")
    state, deterministic = rng.getstate(), module._ALLOW_DETERMINISTIC_SCHEDULING
    rng.seed(seed)
    module._ALLOW_DETERMINISTIC_SCHEDULING = True
    try:
        yield
    finally:
        rng.setstate(state)
        module._ALLOW_DETERMINISTIC_SCHEDULING = deterministic


def run_seeded(seed: int, function: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
    """Run `function` under a seeded scheduler and a clock that jumps whenever all tasks wait."""
    with seeded_scheduler(seed):
        return trio.run(function, *args, clock=trio.testing.MockClock(autojump_threshold=0))
