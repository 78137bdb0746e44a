"""ActorRef (tell, ask), and what a ref shares with the actor behind it.

Theory of operation
-------------------
The `ActorRef` is what callers hold. It stays the same for the whole life of a supervised child,
across restarts. The `Cell` behind it belongs to this package alone: it is where the ref, the
running actor and its supervisor meet, and holds the lifecycle state, the request to stop, and the
mailbox of the current incarnation. A crash closes that mailbox and a restart puts an empty one in
its place, so a message that was too late for one incarnation is never taken for one to the next.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import attrs
import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from ._errors import ActorCrashed, ActorError, ActorStopped, MailboxFull
from ._mailbox import M, Mailbox, Reply, T

M_contra = TypeVar("M_contra", contravariant=True)


class ActorState(enum.Enum):
    """Where an actor is in its life; STOPPED and CRASHED are final.

    A child that crashed and waits to be restarted is STARTING: its mailbox is open and empty.
    """

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    CRASHED = "crashed"

    @property
    def final(self) -> bool:
        """Whether the actor is over for good."""
        return self in (ActorState.STOPPED, ActorState.CRASHED)


class StopReason(enum.Enum):
    """Why an actor is being stopped, as told to `Actor.stopping`."""

    SELF = "self"
    """It asked for it, with `ActorContext.stop`."""
    REQUESTED = "requested"
    """`Supervisor.stop` or `Registry.stop_key`."""
    IDLE = "idle"
    """Its registry found it unused for long enough."""
    SHUTDOWN = "shutdown"
    """Its supervisor or registry is being closed, or has given up."""
    CANCELLED = "cancelled"
    """It was cancelled from outside, or overran its stop timeout: no `await` will succeed."""


@attrs.define(eq=False)
class Cell(Generic[M]):
    """What a ref, the actor behind it and its supervisor share; see the module's docstring."""

    name: str
    capacity: float
    stop_timeout_seconds: float
    mailbox: Mailbox[M] = attrs.field(init=False)
    state: ActorState = attrs.field(default=ActorState.STARTING, init=False)
    stop_reason: StopReason | None = attrs.field(default=None, init=False)
    life: trio.CancelScope | None = attrs.field(default=None, init=False)
    pause: trio.CancelScope | None = attrs.field(default=None, init=False)
    _changed: trio.Event | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.mailbox = Mailbox(self.name, self.capacity)

    def move_to(self, state: ActorState) -> None:
        """Change the state and tell whoever waits for a change."""
        self.state = state
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def wait_change(self) -> None:
        """Wait until the state changes, from the moment of the call."""
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    def request_stop(self, reason: StopReason) -> None:
        """Have the actor stop after what it is doing now; refuses messages from this moment on.

        A second request changes only the reason. That matters to an actor that was stopping of its
        own accord, and might have been restarted: it is then stopped for good.
        """
        if self.state.final or (self.stop_reason is not None and reason is StopReason.SELF):
            return
        self.stop_reason = reason
        self.mailbox.close(self.stopped_error)
        if self.pause is not None:
            self.pause.cancel()
        if self.life is not None:
            self.bound(self.life)
        if self.state is not ActorState.STOPPING:
            self.move_to(ActorState.STOPPING)

    def bound(self, life: trio.CancelScope) -> None:
        """Give the actor's current life no more than the stop timeout, from now."""
        deadline = trio.current_time() + self.stop_timeout_seconds
        life.deadline = min(life.deadline, deadline)

    def reopen(self) -> None:
        """Get ready for the next incarnation: an open and empty mailbox, no stop requested."""
        self.mailbox = Mailbox(self.name, self.capacity)
        self.stop_reason = None
        self.move_to(ActorState.STARTING)

    def end_life(self, cause: BaseException | None) -> None:
        """Close the books of one incarnation: every open question fails, now."""
        if cause is None:
            self.mailbox.close(self.stopped_error)
        else:
            self.mailbox.close(lambda: ActorCrashed(self.name, cause))
        self.mailbox.fail_pending()

    @property
    def stopped_error(self) -> Callable[[], ActorError]:
        """What makes a new error that says the actor was stopped.

        Not a method of the cell: that and the mailbox would keep each other alive, for Python's
        collector of cycles to find.
        """
        return partial(ActorStopped, self.name)


@attrs.define(eq=False)
class ActorRef(Generic[M_contra]):
    """The address of an actor: how everybody else talks to it.

    It stays valid across restarts. Messages from one sender arrive in the order in which they were
    sent; a crash or a stop loses the messages still queued. Everything that waits for room sends
    the message or, when cancelled, does not, and every question ends with an answer or an error.
    """

    _cell: Cell[M_contra]

    @property
    def name(self) -> str:
        """The name the actor was started under, for logs and errors."""
        return self._cell.name

    @property
    def state(self) -> ActorState:
        """Where the actor is in its life now."""
        return self._cell.state

    @property
    def queued_messages(self) -> int:
        """How many messages wait in the mailbox, those of blocked senders not counted."""
        return len(self._cell.mailbox)

    @property
    def pending_asks(self) -> int:
        """How many questions are unanswered, whether still queued or kept by the actor."""
        return len(self._cell.mailbox.pending)

    @property
    def idle(self) -> bool:
        """Whether it is running, waits for a message, and owes nobody an answer."""
        mailbox = self._cell.mailbox
        return mailbox.parked and not mailbox.pending

    def __repr__(self) -> str:
        return f"<ActorRef {self.name} {self.state.value}>"

    async def tell(self, message: M_contra) -> None:
        """Send a message, waiting for room in the mailbox.

        Raises ActorStopped or ActorCrashed if the actor is over, or ends while this waits.
        """
        await checkpoint_if_cancelled()
        mailbox = self._cell.mailbox
        if mailbox.offer(message):
            await cancel_shielded_checkpoint()
        else:
            await mailbox.put(message)

    def tell_nowait(self, message: M_contra) -> None:
        """Send a message now; raises MailboxFull if there is no room, otherwise like `tell`."""
        if not self._cell.mailbox.offer(message):
            raise MailboxFull(self.name)

    def wake(self) -> None:
        """Have `Actor.woken` run: before the next message, or at once if the actor is idle.

        Never blocks and never fails, needs no room in the mailbox, and does nothing once the actor
        is stopping or over. Calls coalesce: however many there are before `woken` starts, it runs
        once. Must be called in the trio thread.
        """
        mailbox = self._cell.mailbox
        if mailbox.refusal is None:
            mailbox.wake()

    async def ask(self, make: Callable[[Reply[T]], M_contra]) -> T:
        """Send the message that `make` builds around a reply, and wait for the answer.

        Cancelling it while it waits for room sends nothing; after that it abandons the reply, and
        whether the actor acts on the message is up to the actor. Raises what the actor fails the
        reply with, or ActorStopped or ActorCrashed if it ends first.
        """
        await checkpoint_if_cancelled()
        reply: Reply[T] = Reply(self._cell.mailbox)
        if not self._offer_ask(reply, message := make(reply)):
            await self._put_ask(reply, message)
        return await reply.wait()

    async def begin_ask(
        self,
        make: Callable[[Reply[T]], M_contra],
        on_disposed: Callable[[Reply[T]], None] | None = None,
    ) -> Reply[T]:
        """Send as `ask` does, waiting for room but not for the answer.

        `on_disposed` is called once, when the question is over for the actor as well: it has
        answered, or has ended. An asker that gives up does not bring that about, so an actor that
        skips an abandoned question has to answer it all the same. If this raises, nothing was sent,
        and `on_disposed` may or may not have been called.
        """
        await checkpoint_if_cancelled()
        reply: Reply[T] = Reply(self._cell.mailbox, on_disposed)
        if self._offer_ask(reply, message := make(reply)):
            await cancel_shielded_checkpoint()
        else:
            await self._put_ask(reply, message)
        return reply

    def begin_ask_nowait(
        self,
        make: Callable[[Reply[T]], M_contra],
        on_disposed: Callable[[Reply[T]], None] | None = None,
    ) -> Reply[T]:
        """Send as `begin_ask` does, waiting for nothing; raises MailboxFull if there is no room."""
        reply: Reply[T] = Reply(self._cell.mailbox, on_disposed)
        if not self._offer_ask(reply, make(reply)):
            reply.withdraw()
            raise MailboxFull(self.name)
        return reply

    async def wait_started(self) -> None:
        """Wait until the actor is running; raises ActorStopped or ActorCrashed if that is over."""
        await checkpoint()
        while self.state is ActorState.STARTING:
            await self._cell.wait_change()
        if self.state is not ActorState.RUNNING:
            raise self._cell.mailbox.error()

    async def wait_stopped(self) -> None:
        """Wait until the actor is over for good, stopped or crashed."""
        await checkpoint()
        while not self.state.final:
            await self._cell.wait_change()

    def _offer_ask(self, reply: Reply[T], message: M_contra) -> bool:
        mailbox = self._cell.mailbox
        if not mailbox.offer(message):
            return False
        mailbox.pending[reply] = None
        return True

    async def _put_ask(self, reply: Reply[T], message: M_contra) -> None:
        # The reply is registered first: the actor may take the message and crash before this task
        # runs again.
        mailbox = self._cell.mailbox
        mailbox.pending[reply] = None
        try:
            await mailbox.put(message)
        except BaseException:
            reply.withdraw()
            raise
