"""The bounded mailbox behind an `ActorRef`, and Reply, the slot an answer goes into.

Theory of operation
-------------------
A mailbox belongs to one incarnation of an actor. It knows every `Reply` that went in with a message
and has not been settled, whether the message still waits or the actor has put the reply away for
later. That is the whole reason why nobody waits forever: whoever ends the incarnation closes the
mailbox, which releases every blocked sender, and then fails what is left in `pending`. (`pending`
is a dict and not a set so that they fail in the order in which they were asked; the order of a set
would differ from run to run.)

The queue is a trio memory channel. Waking needs no room in it: `wake` sets a flag, and only if the
actor is parked with nothing to do does it hand over something to get it running. A channel hands a
value straight to a parked receiver, so `WAKE` takes no slot. `parked` says that the receiver waits;
whoever hands it a value clears it in the same step.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Generic, Literal, TypeVar

import attrs
import trio
from trio.lowlevel import checkpoint

from ._errors import ActorError, ReplyAbandoned, ReplyAlreadySet

M = TypeVar("M")
T = TypeVar("T")


class Signal(enum.Enum):
    """What a mailbox gives or takes in place of a message."""

    NOTHING = enum.auto()
    WAKE = enum.auto()


NOTHING: Final = Signal.NOTHING
WAKE: Final = Signal.WAKE


class _ReplyState(enum.Enum):
    PENDING = enum.auto()
    ANSWERED = enum.auto()
    CLOSED = enum.auto()  # failed by this package: the actor crashed or stopped
    ABANDONED = enum.auto()


_PENDING = _ReplyState.PENDING
_ANSWERED = _ReplyState.ANSWERED


@attrs.define(eq=False)
class Reply(Generic[T]):
    """The slot an answer goes into: the actor sets or fails it once, the asker waits for it.

    An actor may answer at any time, in `receive` or long after it returned. If the actor crashes or
    stops first, the reply fails by itself, and an answer that comes after that is ignored, as is
    one that nobody waits for any more. One made without an actor (`Reply()`) works just as well.
    """

    _mailbox: Mailbox[Any] | None = attrs.field(default=None, repr=False)
    _on_disposed: Callable[[Reply[T]], None] | None = attrs.field(default=None, repr=False)
    _state: _ReplyState = attrs.field(default=_PENDING, init=False)
    _value: T | None = attrs.field(default=None, init=False, repr=False)
    _error: BaseException | None = attrs.field(default=None, init=False)
    _waiter: trio.lowlevel.Task | None = attrs.field(default=None, init=False, repr=False)

    @property
    def settled(self) -> bool:
        """Whether `wait` would return or raise at once."""
        return self._state is not _PENDING

    @property
    def succeeded(self) -> bool:
        """Whether the actor has answered with a value."""
        return self._state is _ANSWERED and self._error is None

    @property
    def abandoned(self) -> bool:
        """Whether the asker has given up, so that the actor may skip the work."""
        return self._state is _ReplyState.ABANDONED

    def set(self, value: T) -> None:
        """Answer with `value`; does nothing if the asker has gone or the actor's end came first.

        Raises ReplyAlreadySet if the actor has answered before.
        """
        if self._state is _PENDING:
            self._value = value
            self._settle(_ANSWERED)
        else:
            self._answer_late()

    def fail(self, error: BaseException) -> None:
        """Answer with an error, which `wait` raises; otherwise like `set`."""
        if self._state is _PENDING:
            self._error = error
            self._settle(_ANSWERED)
        else:
            self._answer_late()

    def abandon(self) -> None:
        """Give up on the answer; does nothing if the reply is settled. For the asker to call."""
        if self._state is _PENDING:
            self._settle(_ReplyState.ABANDONED)

    def withdraw(self) -> None:
        """Give up on a question that was never sent; for this package."""
        self._on_disposed = None
        self.abandon()

    async def wait(self) -> T:
        """Wait for the answer and return it, or raise what the actor failed it with.

        Cancelling it abandons the reply. A settled reply can be waited for again, with the same
        outcome; only one task at a time may wait. Raises ActorCrashed or ActorStopped if the actor
        ended before it answered, ReplyAbandoned if the asker has given up before.
        """
        if self._state is not _PENDING:
            await checkpoint()
        elif self._waiter is not None:
            raise trio.BusyResourceError("another task is waiting for this reply")
        else:
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._give_up)
        if self._error is not None:
            raise self._error
        if self._state is _ReplyState.ABANDONED:
            raise ReplyAbandoned(self._actor_name())
        return self._value  # type: ignore[return-value]  # None only if the answer is None

    def _close(self, error: ActorError) -> None:
        if self._state is _PENDING:
            self._error = error
            self._settle(_ReplyState.CLOSED)
        else:
            self._dispose()

    def _answer_late(self) -> None:
        if self._state is _ANSWERED:
            raise ReplyAlreadySet(self._actor_name())
        self._dispose()

    def _settle(self, state: _ReplyState) -> None:
        self._state = state
        # An abandoned question that somebody wants to see the end of stays open until the actor
        # answers it all the same, or ends.
        if state is not _ReplyState.ABANDONED or self._on_disposed is None:
            self._dispose()
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            trio.lowlevel.reschedule(waiter)

    def _dispose(self) -> None:
        if self._mailbox is not None:
            self._mailbox.pending.pop(self, None)
        if self._on_disposed is not None:
            on_disposed, self._on_disposed = self._on_disposed, None
            on_disposed(self)

    def _give_up(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._waiter = None
        self.abandon()
        return trio.lowlevel.Abort.SUCCEEDED

    def _actor_name(self) -> str:
        return "(none)" if self._mailbox is None else self._mailbox.name


class Mailbox(Generic[M]):
    """The bounded queue of one incarnation of an actor, and the questions it has not answered."""

    __slots__ = (
        "_arriving",
        "_handed",
        "_incoming",
        "_outgoing",
        "dropped",
        "name",
        "parked",
        "pending",
        "refusal",
        "wake_requested",
    )

    def __init__(self, name: str, capacity: float) -> None:
        self.name = name
        self.pending: dict[Reply[Any], None] = {}
        self.refusal: Callable[[], ActorError] | None = None
        self.dropped = 0
        self.wake_requested = False
        self.parked = False
        # A message handed to the parked receiver, before and after that has run again.
        self._arriving = False
        self._handed: M | Literal[Signal.NOTHING] = NOTHING
        self._outgoing, self._incoming = trio.open_memory_channel[M | Signal](capacity)

    def __len__(self) -> int:
        """Return how many messages wait, those of blocked senders not counted."""
        if self.refusal is not None:
            return 0
        handed = self._arriving or self._handed is not NOTHING
        return self._incoming.statistics().current_buffer_used + handed

    # The senders' side.

    def offer(self, message: M) -> bool:
        """Put the message in if there is room, and say whether there was."""
        if self.refusal is not None:
            raise self.refusal()
        try:
            self._outgoing.send_nowait(message)
        except trio.WouldBlock:
            return False
        if self.parked:
            self.parked = False
            self._arriving = True
        return True

    async def put(self, message: M) -> None:
        """Wait for room; all or nothing under cancellation. For when `offer` said no."""
        try:
            await self._outgoing.send(message)
        except trio.BrokenResourceError:
            raise self.error() from None

    def wake(self) -> None:
        """Have the actor woken before its next message, or at once if it is parked."""
        self.wake_requested = True
        if self.parked:
            self.parked = False
            with suppress(trio.WouldBlock):  # it was cancelled, and is about to find out
                self._outgoing.send_nowait(WAKE)

    # The actor's side.

    def take(self) -> M | Literal[Signal.NOTHING]:
        """Take the next message if there is one, and let the sender in that has waited longest."""
        if self._handed is not NOTHING:
            handed, self._handed = self._handed, NOTHING
            return handed
        try:
            while isinstance(message := self._incoming.receive_nowait(), Signal):
                pass
        except trio.WouldBlock:
            return NOTHING
        return message

    async def park(self) -> None:
        """Wait for a message, a wake-up, or the end. For when `take` has just given nothing."""
        self.parked = True
        try:
            message = await self._incoming.receive()
        except trio.ClosedResourceError:
            return
        finally:
            self.parked = self._arriving = False
        if not isinstance(message, Signal):
            self._handed = message

    # The end.

    def close(self, refusal: Callable[[], ActorError]) -> None:
        """Drop what is queued and refuse what comes; questions stay pending until `fail_pending`.

        Closing again changes what later callers are told: an actor may crash while it is stopping.
        """
        self.dropped += len(self)
        self.refusal = refusal
        self._handed = NOTHING
        self._incoming.close()

    def fail_pending(self) -> None:
        """Fail every question that is still open, each with an error of its own."""
        for reply in tuple(self.pending):
            reply._close(self.error())

    def error(self) -> ActorError:
        """Return a new error that says why the mailbox is closed."""
        assert self.refusal is not None
        return self.refusal()
