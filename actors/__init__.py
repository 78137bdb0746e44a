"""Supervised actors on trio: bounded mailboxes, typed replies, restarts, registries, broadcasts.

An `Actor` is a task that handles one message at a time. Everybody else has its `ActorRef`, which
can `tell` it something or `ask` it something. A `Supervisor` starts it, restarts it when it
crashes, and stops it. A `Registry` keeps one actor per key, running only while it is used. A
`Broadcast` hands items to many subscribers, none of which can slow down the publisher.
"""

from ._actor import Actor, ActorContext
from ._broadcast import Broadcast, Subscription
from ._errors import (
    ActorCrashed,
    ActorError,
    ActorStopped,
    BroadcastClosed,
    MailboxFull,
    ReplyAbandoned,
    ReplyAlreadySet,
    RestartsExhausted,
    SubscriptionLagged,
    SupervisorClosed,
)
from ._mailbox import Reply
from ._ref import ActorRef, ActorState, StopReason
from ._registry import Lease, Registry, open_registry
from ._restart import PERMANENT, TEMPORARY, TRANSIENT, RestartKind, RestartPolicy, RestartWindow
from ._supervisor import (
    ActorSpec,
    CrashHandler,
    CrashReport,
    Supervisor,
    log_crash,
    open_supervisor,
)

__all__ = [
    "PERMANENT",
    "TEMPORARY",
    "TRANSIENT",
    "Actor",
    "ActorContext",
    "ActorCrashed",
    "ActorError",
    "ActorRef",
    "ActorSpec",
    "ActorState",
    "ActorStopped",
    "Broadcast",
    "BroadcastClosed",
    "CrashHandler",
    "CrashReport",
    "Lease",
    "MailboxFull",
    "Registry",
    "Reply",
    "ReplyAbandoned",
    "ReplyAlreadySet",
    "RestartKind",
    "RestartPolicy",
    "RestartWindow",
    "RestartsExhausted",
    "StopReason",
    "Subscription",
    "SubscriptionLagged",
    "Supervisor",
    "SupervisorClosed",
    "log_crash",
    "open_registry",
    "open_supervisor",
]
