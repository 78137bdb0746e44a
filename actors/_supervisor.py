"""Supervisor: a nursery that starts, restarts and stops children.

Theory of operation
-------------------
Each child is one task in the supervisor's nursery, `_Child.run`, which lives one incarnation after
the other. An incarnation ends in one of three ways, and `_Child._live_once` tells them apart:

* It stopped. Nothing was raised.
* It crashed: an `Exception` came out. An incarnation is a nursery of its own, so what comes out is
  a group, possibly mixed with the `Cancelled` of an outer scope; the exceptions in it are the
  crash, and stay here.
* The rest, `Cancelled`, `KeyboardInterrupt` and their like, is not the child's business: it goes on
  to the supervisor's nursery as trio wants it, and ends the child on the way.

Stopping from outside is a request, `Cell.request_stop`, which anybody can make without waiting. It
also puts a deadline on the scope the incarnation lives in, so that no stop takes longer than the
child's timeout, without a task to watch it.

When a child has used up its restarts its task does not raise, because that would cancel all of its
siblings in mid-air. It leaves the error with the supervisor and cancels the body of
`open_supervisor`; leaving that body is what an orderly shutdown looks like anyway, and the error is
raised at the end of it.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic

import attrs
import trio

from ._actor import Actor, Incarnation
from ._errors import RestartsExhausted, SupervisorClosed
from ._groups import bare_errors, split_crash, without_cancellation
from ._mailbox import M
from ._ref import ActorRef, ActorState, Cell, StopReason
from ._restart import TEMPORARY, RestartPolicy, RestartWindow

logger = logging.getLogger("actors")

DEFAULT_MAILBOX_CAPACITY = 1024
DEFAULT_STOP_TIMEOUT_SECONDS = 30.0


@attrs.frozen(eq=False)
class ActorSpec(Generic[M]):
    """What a supervisor needs to know to start a child, and to start it again.

    `factory` makes a fresh actor for each incarnation. `mailbox_capacity` counts messages, at least
    1; `math.inf` is for actors whose senders are held back by other means, such as a byte permit
    taken before the message is sent. After `stop_timeout_seconds` a stopping actor is cancelled.
    """

    name: str
    factory: Callable[[], Actor[M]]
    policy: RestartPolicy = TEMPORARY
    mailbox_capacity: float = attrs.field(
        default=DEFAULT_MAILBOX_CAPACITY, validator=attrs.validators.ge(1)
    )
    stop_timeout_seconds: float = DEFAULT_STOP_TIMEOUT_SECONDS


@attrs.frozen(eq=False)
class CrashReport:
    """An actor has crashed: what it failed with, and what that took with it.

    `doing` names the hook, and the type of the message, that the actor was last in. `restarts`
    counts those before this crash. `restart_in_seconds` is None if there will be no restart.
    """

    actor: str
    error: Exception
    doing: str
    restarts: int
    pending_asks: int
    queued_messages: int
    restart_in_seconds: float | None


CrashHandler = Callable[[CrashReport], None]


def log_crash(report: CrashReport) -> None:
    """Log the crash, with its traceback, to the logger "actors". The default crash handler."""
    logger.error(
        "actor %s crashed in %s (restarts before: %d, asks failed: %d, messages dropped: %d, %s)",
        report.actor,
        report.doing,
        report.restarts,
        report.pending_asks,
        report.queued_messages,
        "not restarted"
        if report.restart_in_seconds is None
        else f"restart in {report.restart_in_seconds:.3f} s",
        exc_info=report.error,
    )


@attrs.define(eq=False)
class Supervisor:
    """Starts children, restarts them by their policies, and stops them; see `open_supervisor`."""

    name: str
    _nursery: trio.Nursery
    _body: trio.CancelScope
    _rng: random.Random | None
    _on_crash: CrashHandler
    _stop_together: bool
    _children: dict[Cell[Any], _Child[Any]] = attrs.field(factory=dict, init=False)
    _closing: bool = attrs.field(default=False, init=False)
    _failure: RestartsExhausted | None = attrs.field(default=None, init=False)

    @property
    def children(self) -> tuple[ActorRef[Any], ...]:
        """The children that are not over, in the order in which they were started."""
        return tuple(child.ref for child in self._children.values())

    def start_soon(
        self, spec: ActorSpec[M], *, on_end: Callable[[], None] | None = None
    ) -> ActorRef[M]:
        """Start a child without waiting for it; messages may be sent to the ref at once.

        If it fails to start that is a crash like any other. `on_end` is called when the child is
        over for good, in the same step in which its ref becomes stopped or crashed; it must not
        raise. Raises SupervisorClosed if the supervisor is shutting down.
        """
        return self._start(spec, on_end).ref

    async def start(self, spec: ActorSpec[M]) -> ActorRef[M]:
        """Start a child and wait until it runs.

        A child that fails before it has ever run is not restarted: ActorCrashed is raised, with
        what it failed with as the cause. Cancelling this stops the child. Raises SupervisorClosed
        if the supervisor is shutting down.
        """
        child = self._start(spec, None)
        child.must_start = True
        try:
            await child.ref.wait_started()
        except trio.Cancelled:
            child.cell.request_stop(StopReason.REQUESTED)
            raise
        return child.ref

    def stop_soon(self, ref: ActorRef[Any], reason: StopReason = StopReason.REQUESTED) -> None:
        """Have a child stop for good after what it is doing now; does nothing if it is over."""
        child = self._children.get(ref._cell)
        if child is not None:
            child.cell.request_stop(reason)

    async def stop(self, ref: ActorRef[Any], reason: StopReason = StopReason.REQUESTED) -> None:
        """Stop a child for good and wait until it is over.

        Cancelling this does not take the request back. An actor that waits for its own end here
        waits until its stop timeout: it has `ActorContext.stop`.
        """
        self.stop_soon(ref, reason)
        await ref.wait_stopped()

    def _start(self, spec: ActorSpec[M], on_end: Callable[[], None] | None) -> _Child[M]:
        if self._closing:
            raise SupervisorClosed(self.name)
        child = _Child(self, spec, on_end)
        self._children[child.cell] = child
        self._nursery.start_soon(child.run, name=f"actor {spec.name}")
        return child

    def _give_up(self, failure: RestartsExhausted) -> None:
        if self._failure is None:
            self._failure = failure
        self._body.cancel()

    def _report(self, report: CrashReport) -> None:
        try:
            self._on_crash(report)
        except Exception:
            # A report that cannot be delivered must not cost more than the crash did.
            logger.exception("the crash handler failed on %s", report)

    async def _shut_down(self) -> None:
        self._closing = True
        children = tuple(reversed(self._children.values()))
        if self._stop_together:
            for child in children:
                child.cell.request_stop(StopReason.SHUTDOWN)
        for child in children:
            child.cell.request_stop(StopReason.SHUTDOWN)
            await child.ref.wait_stopped()

    async def _fail(self) -> None:
        if self._failure is not None:
            raise self._failure


@contextlib.asynccontextmanager
async def open_supervisor(
    name: str,
    *,
    rng: random.Random | None = None,
    on_crash: CrashHandler = log_crash,
    stop_together: bool = False,
) -> AsyncIterator[Supervisor]:
    """Open a supervisor, and shut it down on leaving the block.

    Shutting down stops the children one by one, the last started first, each with its `stopping`
    hook; with `stop_together` all at once, for children that are each other's peers. If the block
    is cancelled from outside then all of them are cancelled at once instead.

    If a child uses up its restarts the block is cancelled, the other children are stopped as above,
    and RestartsExhausted is raised. Supervisors nest: as blocks, where an inner one that gives up
    fails the outer block, or as a task of an actor, which then crashes and is restarted.

    `rng` is for the jitter of restart delays; without one there is none. `on_crash` is told of
    every crash; what it raises is logged and goes no further. What the block raises comes out as it
    is, unless there is more than one error, in which case it is in a group.
    """
    with bare_errors():
        async with trio.open_nursery() as nursery:
            supervisor = Supervisor(name, nursery, trio.CancelScope(), rng, on_crash, stop_together)
            try:
                with supervisor._body:
                    yield supervisor
            finally:
                try:
                    await supervisor._shut_down()
                finally:
                    # In a task, so that it joins whatever else is on its way out.
                    nursery.start_soon(supervisor._fail)


@attrs.define(eq=False)
class _Child(Generic[M]):
    """One child of a supervisor, over all of its incarnations."""

    supervisor: Supervisor
    spec: ActorSpec[M]
    on_end: Callable[[], None] | None
    must_start: bool = attrs.field(default=False, init=False)
    cell: Cell[M] = attrs.field(init=False)
    ref: ActorRef[M] = attrs.field(init=False)
    _window: RestartWindow = attrs.field(init=False)
    _has_run: bool = attrs.field(default=False, init=False)
    _restarts: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        spec = self.spec
        self.cell = Cell(spec.name, spec.mailbox_capacity, spec.stop_timeout_seconds)
        self.ref = ActorRef(self.cell)
        self._window = RestartWindow(spec.policy)

    async def run(self) -> None:
        """Live one incarnation after the other; raises nothing but what no child may keep."""
        cause: BaseException | None = None
        try:
            while self.cell.stop_reason is None:
                incarnation = Incarnation(self.cell, self.ref, self.spec.factory)
                crash, rest = await _outcome(incarnation)
                cause = crash or without_cancellation(rest)
                self._has_run = self._has_run or incarnation.has_run
                delay = None if rest is not None else self._next_delay(crash)
                self._close_books(incarnation, cause, delay)
                if rest is not None:
                    raise rest
                if delay is None:
                    break
                cause = None
                await self._pause(delay)
        finally:
            self._finish(cause)

    def _next_delay(self, crash: Exception | None) -> float | None:
        """Return how long to wait before the next incarnation, None if there will be none."""
        policy, supervisor = self.spec.policy, self.supervisor
        if (
            supervisor._closing
            or self.cell.stop_reason not in (None, StopReason.SELF)
            or (self.must_start and not self._has_run)
            or not policy.wants_restart(crash is not None)
        ):
            return None
        before = self._window.admit(trio.current_time())
        if before is None:
            supervisor._give_up(RestartsExhausted(supervisor.name, self.spec.name, crash))
            return None
        return policy.delay_seconds(before, supervisor._rng)

    def _close_books(
        self, incarnation: Incarnation[M], cause: BaseException | None, delay: float | None
    ) -> None:
        """Fail what is open, report a crash, and open an empty mailbox if there is to be more."""
        mailbox = self.cell.mailbox
        pending_asks = len(mailbox.pending)
        self.cell.end_life(cause)
        if isinstance(cause, Exception):
            self.supervisor._report(
                CrashReport(
                    actor=self.spec.name,
                    error=cause,
                    doing=incarnation.describe(),
                    restarts=self._restarts,
                    pending_asks=pending_asks,
                    queued_messages=mailbox.dropped,
                    restart_in_seconds=delay,
                )
            )
        if delay is not None:
            self._restarts += 1
            self.cell.reopen()

    async def _pause(self, delay_seconds: float) -> None:
        with trio.CancelScope() as self.cell.pause:
            await trio.sleep(delay_seconds)
        self.cell.pause = None

    def _finish(self, cause: BaseException | None) -> None:
        self.cell.end_life(cause)
        self.cell.move_to(ActorState.STOPPED if cause is None else ActorState.CRASHED)
        del self.supervisor._children[self.cell]
        if self.on_end is not None:
            self.on_end()


async def _outcome(
    incarnation: Incarnation[Any],
) -> tuple[Exception | None, BaseException | None]:
    """Let it live; return its crash, and what else came out of it, which has to go on."""
    try:
        await incarnation.run()
    except BaseException as error:  # split_crash hands back all that is not a crash
        return split_crash(error)
    return None, None
