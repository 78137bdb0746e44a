from __future__ import annotations

import functools
import gc
import math
import weakref

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import (
    Actor,
    ActorCrashed,
    ActorRef,
    ActorSpec,
    ActorState,
    ActorStopped,
    MailboxFull,
    Reply,
    StopReason,
    Supervisor,
)


@attrs.frozen(eq=False)
class Add:
    """Answered at once with the new total."""

    amount: int
    reply: Reply[int]


@attrs.frozen(eq=False)
class Keep:
    """Kept, to be answered by the test."""

    reply: Reply[str]


@attrs.frozen
class Fail:
    error: BaseException


Message = int | Add | Keep | Fail


@attrs.define(eq=False)
class Counter(Actor[Message]):
    total: int = 0
    seen: list[int] = attrs.field(factory=list)
    kept: list[Reply[str]] = attrs.field(factory=list)
    gate: trio.Event | None = None

    async def receive(self, message: Message) -> None:
        if self.gate is not None:
            await self.gate.wait()
        match message:
            case int():
                self.seen.append(message)
            case Add(amount, reply):
                if not reply.abandoned:
                    self.total += amount
                reply.set(self.total)
            case Keep(reply):
                self.kept.append(reply)
            case Fail(error):
                raise error


async def start(supervisor: Supervisor, actor: Counter, capacity: float = 16) -> ActorRef[Message]:
    return await supervisor.start(ActorSpec("counter", lambda: actor, mailbox_capacity=capacity))


def state_of(ref: ActorRef[Message]) -> ActorState:
    # A call, because a type checker takes what it has learnt about an attribute for lasting.
    return ref.state


async def test_messages_arrive_in_the_order_in_which_they_were_told(
    supervisor: Supervisor,
) -> None:
    actor = Counter()
    ref = await start(supervisor, actor, capacity=3)
    for number in range(100):
        await ref.tell(number)
    await wait_all_tasks_blocked()
    assert actor.seen == list(range(100))


async def test_ask_returns_the_answer(supervisor: Supervisor) -> None:
    ref = await start(supervisor, Counter())
    assert await ref.ask(functools.partial(Add, 2)) == 2
    total: int = await ref.ask(lambda reply: Add(3, reply))
    assert total == 5


async def test_an_answer_may_come_long_after_receive_has_returned(supervisor: Supervisor) -> None:
    actor = Counter()
    ref = await start(supervisor, actor)
    first = await ref.begin_ask(Keep)
    second = await ref.begin_ask(Keep)
    await wait_all_tasks_blocked()
    assert ref.pending_asks == 2
    actor.kept[1].set("two")
    actor.kept[0].fail(LookupError("one"))
    assert await second.wait() == "two"
    with pytest.raises(LookupError):
        await first.wait()
    assert ref.pending_asks == 0


async def test_tell_nowait_refuses_when_the_mailbox_is_full(supervisor: Supervisor) -> None:
    actor = Counter(gate=trio.Event())
    ref = await start(supervisor, actor, capacity=2)
    await ref.tell(0)
    await wait_all_tasks_blocked()
    ref.tell_nowait(1)
    ref.tell_nowait(2)
    with pytest.raises(MailboxFull):
        ref.tell_nowait(3)
    with pytest.raises(MailboxFull):
        ref.begin_ask_nowait(Keep)
    assert (ref.queued_messages, ref.pending_asks) == (2, 0)
    assert actor.gate is not None
    actor.gate.set()
    await wait_all_tasks_blocked()
    assert actor.seen == [0, 1, 2]


async def test_a_mailbox_without_a_bound_takes_everything(supervisor: Supervisor) -> None:
    actor = Counter(gate=trio.Event())
    ref = await start(supervisor, actor, capacity=math.inf)
    for number in range(5000):
        ref.tell_nowait(number)
    assert ref.queued_messages == 5000
    assert actor.gate is not None
    actor.gate.set()
    await wait_all_tasks_blocked()
    assert actor.seen == list(range(5000))


async def test_a_capacity_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="mailbox_capacity"):
        ActorSpec("counter", Counter, mailbox_capacity=0)


@pytest.mark.parametrize("how", ["tell", "ask", "begin_ask"])
async def test_cancelling_while_waiting_for_room_sends_nothing(
    supervisor: Supervisor, how: str, autojump_clock: MockClock
) -> None:
    actor = Counter(gate=trio.Event())
    ref = await start(supervisor, actor, capacity=1)
    await ref.tell(0)
    await wait_all_tasks_blocked()
    await ref.tell(1)
    replies: list[Reply[int]] = []

    def add(reply: Reply[int]) -> Add:
        replies.append(reply)
        return Add(100, reply)

    with trio.move_on_after(1) as scope:
        match how:
            case "tell":
                await ref.tell(2)
            case "ask":
                await ref.ask(add)
            case _:
                await ref.begin_ask(add)
    assert scope.cancelled_caught
    assert all(reply.abandoned for reply in replies)
    assert ref.pending_asks == 0
    assert actor.gate is not None
    actor.gate.set()
    await wait_all_tasks_blocked()
    assert (actor.seen, actor.total) == ([0, 1], 0)


async def test_sending_in_a_cancelled_scope_sends_nothing(supervisor: Supervisor) -> None:
    actor = Counter()
    ref = await start(supervisor, actor)
    with trio.CancelScope() as scope:
        scope.cancel()
        await ref.tell(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await ref.begin_ask(Keep)
    await wait_all_tasks_blocked()
    assert (actor.seen, actor.kept, ref.pending_asks) == ([], [], 0)


async def test_the_actor_can_skip_what_was_abandoned_in_the_queue(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    actor = Counter(gate=trio.Event())
    ref = await start(supervisor, actor)
    await ref.tell(0)
    with trio.move_on_after(1):
        await ref.ask(functools.partial(Add, 100))
    assert actor.gate is not None
    actor.gate.set()
    assert await ref.ask(functools.partial(Add, 1)) == 1


async def test_answering_an_abandoned_question_does_not_harm_the_actor(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    actor = Counter()
    ref = await start(supervisor, actor)
    with trio.move_on_after(1):
        await ref.ask(Keep)
    actor.kept[0].set("too late")
    actor.kept[0].set("and again")
    assert await ref.ask(functools.partial(Add, 1)) == 1


async def test_a_crash_fails_the_asks_that_are_queued_or_kept(
    supervisor: Supervisor,
) -> None:
    ref = await start(supervisor, Counter())
    kept = await ref.begin_ask(Keep)
    await wait_all_tasks_blocked()
    failure = ValueError("boom")
    await ref.tell(Fail(failure))
    queued = ref.begin_ask_nowait(Keep)
    for reply in (kept, queued):
        with pytest.raises(ActorCrashed) as caught:
            await reply.wait()
        assert caught.value.cause is failure
        assert caught.value.__cause__ is failure
        assert caught.value.name == "counter"
    assert ref.state is ActorState.CRASHED


async def test_an_answer_after_the_crash_is_ignored(supervisor: Supervisor) -> None:
    actor = Counter()
    ref = await start(supervisor, actor)
    reply = await ref.begin_ask(Keep)
    await ref.tell(Fail(ValueError()))
    await ref.wait_stopped()
    actor.kept[0].set("too late")
    actor.kept[0].set("twice")
    with pytest.raises(ActorCrashed):
        await reply.wait()


async def test_asking_an_actor_that_is_over_raises_at_once(supervisor: Supervisor) -> None:
    stopped = await start(supervisor, Counter())
    crashed = await start(supervisor, Counter())
    await supervisor.stop(stopped)
    await crashed.tell(Fail(ValueError()))
    await crashed.wait_stopped()
    for ref, error in ((stopped, ActorStopped), (crashed, ActorCrashed)):
        with pytest.raises(error):
            await ref.ask(Keep)
        with pytest.raises(error):
            await ref.tell(1)
        with pytest.raises(error):
            ref.tell_nowait(1)
        with pytest.raises(error):
            await ref.wait_started()
        ref.wake()
        await ref.wait_stopped()


@pytest.mark.parametrize("end", ["stop", "crash"])
async def test_senders_waiting_for_room_are_released_when_the_actor_ends(
    supervisor: Supervisor, end: str
) -> None:
    actor = Counter(gate=trio.Event())
    ref = await start(supervisor, actor, capacity=1)
    await ref.tell(Fail(ValueError()) if end == "crash" else 0)
    await wait_all_tasks_blocked()
    await ref.tell(1)
    expected = ActorCrashed if end == "crash" else ActorStopped
    released = []

    async def send(ask: bool) -> None:
        with pytest.raises(expected):
            await (ref.ask(Keep) if ask else ref.tell(2))
        released.append(ask)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, True)
        nursery.start_soon(send, False)
        await wait_all_tasks_blocked()
        assert actor.gate is not None
        if end == "stop":
            supervisor.stop_soon(ref)
        actor.gate.set()
    assert sorted(released) == [False, True]
    assert ref.pending_asks == 0


async def test_an_actor_that_is_told_to_stop_takes_nothing_more_at_once(
    supervisor: Supervisor,
) -> None:
    actor = Counter(gate=trio.Event())
    ref = await start(supervisor, actor)
    handled = ref.begin_ask_nowait(functools.partial(Add, 1))
    await wait_all_tasks_blocked()
    queued = ref.begin_ask_nowait(functools.partial(Add, 1))
    supervisor.stop_soon(ref, StopReason.REQUESTED)
    assert state_of(ref) is ActorState.STOPPING
    with pytest.raises(ActorStopped):
        ref.tell_nowait(1)
    assert actor.gate is not None
    actor.gate.set()
    assert await handled.wait() == 1
    with pytest.raises(ActorStopped):
        await queued.wait()
    await ref.wait_stopped()
    assert state_of(ref) is ActorState.STOPPED
    assert actor.total == 1


async def test_a_message_to_an_actor_that_is_still_starting_waits_for_it(
    supervisor: Supervisor,
) -> None:
    ref: ActorRef[Message] = supervisor.start_soon(ActorSpec("counter", Counter))
    assert state_of(ref) is ActorState.STARTING
    assert await ref.ask(functools.partial(Add, 4)) == 4
    assert state_of(ref) is ActorState.RUNNING


async def test_a_ref_of_a_wide_message_type_serves_as_one_of_a_narrower_type(
    supervisor: Supervisor,
) -> None:
    wide = await start(supervisor, Counter())
    narrow: ActorRef[Add] = wide
    assert await narrow.ask(functools.partial(Add, 1)) == 1
    assert narrow.name == "counter"
    assert "running" in repr(narrow)


async def test_a_question_is_disposed_of_when_the_actor_has_answered(
    supervisor: Supervisor,
) -> None:
    actor = Counter()
    ref = await start(supervisor, actor)
    disposed: list[Reply[str]] = []
    reply: Reply[str] = await ref.begin_ask(Keep, disposed.append)
    await wait_all_tasks_blocked()
    assert disposed == []
    actor.kept[0].set("one")
    assert disposed == [reply]
    assert reply.succeeded


async def test_giving_up_does_not_dispose_of_a_question_but_the_late_answer_does(
    supervisor: Supervisor,
) -> None:
    actor = Counter()
    ref = await start(supervisor, actor)
    disposed: list[Reply[str]] = []
    reply: Reply[str] = await ref.begin_ask(Keep, disposed.append)
    await wait_all_tasks_blocked()
    reply.abandon()
    assert disposed == []
    actor.kept[0].set("too late")
    assert disposed == [reply]
    assert not reply.succeeded


@pytest.mark.parametrize("abandoned", [False, True])
async def test_the_end_of_the_actor_disposes_of_every_question(
    supervisor: Supervisor, abandoned: bool
) -> None:
    ref = await start(supervisor, Counter())
    disposed: list[Reply[str]] = []
    reply: Reply[str] = await ref.begin_ask(Keep, disposed.append)
    await wait_all_tasks_blocked()
    if abandoned:
        reply.abandon()
    await supervisor.stop(ref)
    assert disposed == [reply]
    assert not reply.succeeded


async def test_nothing_of_an_actor_that_was_stopped_is_left_for_the_collector_of_cycles(
    supervisor: Supervisor,
) -> None:
    gc.disable()
    try:
        ref = await supervisor.start(ActorSpec("counter", Counter))
        cell = weakref.ref(ref._cell)
        await supervisor.stop(ref)
        del ref
        await wait_all_tasks_blocked()
        assert cell() is None
    finally:
        gc.enable()
