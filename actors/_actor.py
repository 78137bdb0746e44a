"""Actor: what a subclass writes, its lifecycle, and the receive loop that drives it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVarTuple, Unpack

import attrs
import trio

from ._mailbox import NOTHING, M, Mailbox
from ._ref import ActorRef, ActorState, Cell, StopReason

Ts = TypeVarTuple("Ts")

logger = logging.getLogger("actors")

TURNS_PER_CHECKPOINT = 32
"""How many messages an actor may handle before other tasks get their turn.

A checkpoint costs about as much as the rest of the loop, so every message would be too often; 32
messages of 50 us each keep the others waiting for under 2 ms.
"""

_NONE = object()


@attrs.define(eq=False)
class ActorContext(Generic[M]):
    """What an actor may do about itself; there is one for each incarnation."""

    ref: ActorRef[M]
    _incarnation: Incarnation[M]
    _nursery: trio.Nursery

    @property
    def name(self) -> str:
        """The name the actor was started under."""
        return self.ref.name

    def start_soon(self, function: Callable[[Unpack[Ts]], Awaitable[object]], *args: *Ts) -> None:
        """Start a task inside the actor's life.

        Its failure crashes the actor. It is cancelled when the actor ends, after `stopping`.
        """
        name = getattr(function, "__qualname__", type(function).__qualname__)
        self._nursery.start_soon(
            self._incarnation.run_task, name, function, args, name=f"{self.name}: {name}"
        )

    def stop(self) -> None:
        """Stop the actor after the message it is handling now; the queued ones are dropped."""
        self._incarnation.cell.request_stop(StopReason.SELF)


class Actor(Generic[M]):
    """A task with a mailbox: it handles one message at a time, so its state needs no lock.

    Subclass it and override what is needed; every hook does nothing by default but `receive`. A
    supervisor makes a fresh instance for each incarnation. `context` is there from `started` on,
    not in the constructor. Any exception out of a hook, or out of a task of `context.start_soon`,
    is a crash.
    """

    context: ActorContext[M]

    async def started(self) -> None:
        """Prepare; runs before the first message, though messages may be queued meanwhile.

        A wake-up from before a crash is not repeated after it, so look around here as in `woken`.
        If this is cancelled there will be no `stopping`: nothing has started.
        """

    async def receive(self, message: M) -> None:
        """Handle one message. While this waits the mailbox stands still."""
        raise NotImplementedError(f"{type(self).__name__} does not take messages")

    async def woken(self) -> None:
        """Look at what has changed outside; runs once after any number of `ActorRef.wake`.

        It runs before the next message is handled, or at once if there is none.
        """

    async def drained(self) -> None:
        """Act on what has been gathered: the mailbox has just been emptied.

        Runs once per emptying, before the actor waits for more. If the actor is told to stop first
        it does not run; `stopping` does.
        """

    async def stopping(self, reason: StopReason) -> None:
        """Finish in an orderly way; runs before the ref is marked stopped.

        New messages are refused by now and queued ones dropped, but replies that the actor has kept
        can still be set, and its tasks still run. It does not run after a crash. With
        `StopReason.CANCELLED` the actor is being cancelled: only what is done without waiting, or
        in a shielded scope, will happen.
        """


@attrs.define(eq=False)
class Incarnation(Generic[M]):
    """One life of an actor, from the factory to its end."""

    cell: Cell[M]
    ref: ActorRef[M]
    factory: Callable[[], Actor[M]]
    has_run: bool = attrs.field(default=False, init=False)
    doing: str = attrs.field(default="started", init=False)
    _message: Any = attrs.field(default=_NONE, init=False)
    _failed_task: str | None = attrs.field(default=None, init=False)

    async def run(self) -> None:
        """Live until stopped; raises what the actor fails with, in a group if from a nursery."""
        with trio.CancelScope() as self.cell.life:
            async with trio.open_nursery() as nursery:
                await self._live(nursery)
                nursery.cancel_scope.cancel()
        if self.cell.life.cancelled_caught:
            logger.warning(
                "actor %s did not stop within %g s and was cancelled",
                self.cell.name,
                self.cell.stop_timeout_seconds,
            )

    async def run_task(
        self,
        name: str,
        function: Callable[[Unpack[Ts]], Awaitable[object]],
        args: tuple[*Ts],
    ) -> None:
        """Run a task of the actor and, if it fails, remember that it was the one."""
        try:
            await function(*args)
        except Exception:
            self._failed_task = self._failed_task or name
            raise

    def describe(self) -> str:
        """Return what the actor was doing when it ended, for the crash report."""
        if self._failed_task is not None:
            return f"task {self._failed_task}"
        if self._message is _NONE:
            return self.doing
        return f"{self.doing} {type(self._message).__name__}"

    async def _live(self, nursery: trio.Nursery) -> None:
        cell = self.cell
        actor = self.factory()
        actor.context = ActorContext(self.ref, self, nursery)
        await actor.started()
        if cell.stop_reason is None:
            self.has_run = True
            cell.move_to(ActorState.RUNNING)
        try:
            await self._receive_until_closed(actor, cell.mailbox)
        except trio.Cancelled:
            # If the nursery is the one being cancelled then a task of the actor has crashed.
            if not nursery.cancel_scope.cancel_called:
                self.doing = "stopping"
                await self._stop_cancelled(actor)
            raise
        assert cell.stop_reason is not None
        self.doing = "stopping"
        await actor.stopping(cell.stop_reason)

    async def _stop_cancelled(self, actor: Actor[M]) -> None:
        self.cell.mailbox.close(self.cell.stopped_error)
        self.cell.move_to(ActorState.STOPPING)
        await actor.stopping(StopReason.CANCELLED)

    async def _receive_until_closed(self, actor: Actor[M], mailbox: Mailbox[M]) -> None:
        """Run the receive loop.

        Anything can have happened during an `await`, so it goes back to the top after each: first
        whether the mailbox is closed, then the wake-up, then the message.
        """
        turns = 0
        undrained = False
        while mailbox.refusal is None:
            turns += 1
            if turns == TURNS_PER_CHECKPOINT:
                turns = 0
                await trio.lowlevel.checkpoint()
            elif mailbox.wake_requested:
                mailbox.wake_requested = False
                self.doing = "woken"
                await actor.woken()
            elif (message := mailbox.take()) is not NOTHING:
                undrained = True
                self.doing = "receive"
                self._message = message
                await actor.receive(message)
                self._message = _NONE
            elif undrained:
                undrained = False
                self.doing = "drained"
                await actor.drained()
            else:
                turns = 0
                await mailbox.park()
