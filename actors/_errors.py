"""What can go wrong with an actor, one class per outcome a caller treats differently."""

from __future__ import annotations

import attrs


class ActorError(Exception):
    """The root of every error this package raises on its own account."""


@attrs.define
class ActorCrashed(ActorError):
    """The actor failed with `cause` before it answered; whether it acted on the message is unknown.

    `cause` is what the actor raised: the exception itself when there was one, an exception group
    when several of its tasks failed at once.
    """

    name: str
    cause: BaseException

    def __attrs_post_init__(self) -> None:
        self.__cause__ = self.cause

    def __str__(self) -> str:
        return f"actor {self.name} crashed: {self.cause!r}"


@attrs.define
class ActorStopped(ActorError):
    """The actor was stopped, on purpose, before it answered or before it took the message."""

    name: str

    def __str__(self) -> str:
        return f"actor {self.name} was stopped"


@attrs.define
class MailboxFull(ActorError):
    """There was no room for the message, and the caller had asked not to wait. Nothing was sent."""

    name: str

    def __str__(self) -> str:
        return f"the mailbox of actor {self.name} is full"


@attrs.define
class ReplyAlreadySet(ActorError):
    """The actor answered the same question twice, which is a mistake in the actor."""

    name: str

    def __str__(self) -> str:
        return f"actor {self.name} answered the same question twice"


@attrs.define
class ReplyAbandoned(ActorError):
    """The reply was waited for again after the asker had given up on it."""

    name: str

    def __str__(self) -> str:
        return f"the question to actor {self.name} was abandoned by its asker"


@attrs.define
class RestartsExhausted(ActorError):
    """A child ended more often than its restart policy allows, so its supervisor gave up.

    `cause` is what the child failed with last, or None when it kept stopping of its own accord.
    """

    supervisor: str
    actor: str
    cause: BaseException | None

    def __attrs_post_init__(self) -> None:
        self.__cause__ = self.cause

    def __str__(self) -> str:
        return f"supervisor {self.supervisor} gave up on actor {self.actor}: {self.cause!r}"


@attrs.define
class SupervisorClosed(ActorError):
    """The supervisor is shutting down or gone, so it starts nothing any more."""

    name: str

    def __str__(self) -> str:
        return f"supervisor {self.name} is closed"


@attrs.define
class SubscriptionLagged(ActorError):
    """The subscriber fell too far behind and lost `missed_items` items.

    Everything published up to the moment this is raised and not yet received is lost, and
    everything published from then on is queued again.
    """

    missed_items: int

    def __str__(self) -> str:
        return f"the subscriber lagged and lost {self.missed_items} items"


@attrs.define
class BroadcastClosed(ActorError):
    """Nothing more will come: the broadcast, or this subscription to it, was closed.

    `error` is what the publisher closed it with, None for an orderly end.
    """

    error: BaseException | None = None

    def __attrs_post_init__(self) -> None:
        self.__cause__ = self.error

    def __str__(self) -> str:
        return (
            "the broadcast is closed"
            if self.error is None
            else f"the broadcast failed: {self.error!r}"
        )
