from __future__ import annotations

import functools

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
    CrashReport,
    Reply,
    StopReason,
    Supervisor,
)
from actors._actor import TURNS_PER_CHECKPOINT
from actors.testing import Probe


async def start(
    supervisor: Supervisor,
    actor: Actor[int],
    *,
    mailbox_capacity: float = 16,
    stop_timeout_seconds: float = 30,
) -> ActorRef[int]:
    spec = ActorSpec(
        "it",
        lambda: actor,
        mailbox_capacity=mailbox_capacity,
        stop_timeout_seconds=stop_timeout_seconds,
    )
    return await supervisor.start(spec)


async def test_started_runs_before_the_first_message(supervisor: Supervisor) -> None:
    probe: Probe[int] = Probe()
    ref = supervisor.start_soon(ActorSpec("it", lambda: probe))
    await ref.tell(1)
    await wait_all_tasks_blocked()
    assert probe.events == ["started", "receive", "drained"]


async def test_drained_runs_once_each_time_the_mailbox_has_been_emptied(
    supervisor: Supervisor,
) -> None:
    probe: Probe[int] = Probe()
    ref = await start(supervisor, probe)
    for burst in (3, 1):
        for number in range(burst):
            ref.tell_nowait(number)
        await wait_all_tasks_blocked()
    assert probe.events[1:] == ["receive"] * 3 + ["drained", "receive", "drained"]


async def test_a_message_that_comes_during_drained_is_handled_and_drained_again(
    supervisor: Supervisor,
) -> None:
    class Echo(Probe[int]):
        async def drained(self) -> None:
            await super().drained()
            if len(self.messages) < 3:
                self.context.ref.tell_nowait(0)

    probe = Echo()
    ref = await start(supervisor, probe)
    await ref.tell(0)
    await wait_all_tasks_blocked()
    assert probe.events[1:] == ["receive", "drained"] * 3


async def test_waking_an_idle_actor_runs_woken_at_once(supervisor: Supervisor) -> None:
    probe: Probe[int] = Probe()
    ref = await start(supervisor, probe)
    await wait_all_tasks_blocked()
    ref.wake()
    await wait_all_tasks_blocked()
    assert probe.events == ["started", "woken"]


async def test_wake_ups_coalesce_and_run_before_the_next_message(supervisor: Supervisor) -> None:
    gate = trio.Event()

    async def wait(_message: int) -> None:
        await gate.wait()

    probe = Probe(wait)
    ref = await start(supervisor, probe, mailbox_capacity=1)
    await ref.tell(1)
    await wait_all_tasks_blocked()
    ref.tell_nowait(2)
    for _ in range(5):
        ref.wake()  # the mailbox is full
    gate.set()
    await wait_all_tasks_blocked()
    assert probe.events == ["started", "receive", "woken", "receive", "drained"]


async def test_woken_runs_before_a_message_that_came_in_the_same_step(
    supervisor: Supervisor,
) -> None:
    probe: Probe[int] = Probe()
    ref = await start(supervisor, probe)
    await wait_all_tasks_blocked()
    ref.tell_nowait(1)
    ref.wake()
    await wait_all_tasks_blocked()
    assert probe.events == ["started", "woken", "receive", "drained"]


async def test_a_wake_up_during_woken_runs_it_again(supervisor: Supervisor) -> None:
    class Restless(Probe[int]):
        async def woken(self) -> None:
            await super().woken()
            if self.events.count("woken") < 3:
                self.context.ref.wake()

    probe = Restless()
    ref = await start(supervisor, probe)
    ref.wake()
    await wait_all_tasks_blocked()
    assert probe.events.count("woken") == 3


async def test_a_wake_up_while_starting_is_not_lost(supervisor: Supervisor) -> None:
    probe: Probe[int] = Probe()
    ref = supervisor.start_soon(ActorSpec("it", lambda: probe))
    ref.wake()
    await wait_all_tasks_blocked()
    assert probe.events == ["started", "woken"]


async def test_a_busy_actor_lets_other_tasks_run(supervisor: Supervisor) -> None:
    probe: Probe[int] = Probe()
    ref = await start(supervisor, probe, mailbox_capacity=10_000)
    handled_at_each_turn = []
    for number in range(10 * TURNS_PER_CHECKPOINT):
        ref.tell_nowait(number)
    while len(probe.messages) < 10 * TURNS_PER_CHECKPOINT:
        await trio.lowlevel.checkpoint()
        handled_at_each_turn.append(len(probe.messages))
    assert len(handled_at_each_turn) >= 10


async def test_a_stop_of_its_own_lets_the_current_message_finish_and_drops_the_rest(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    class Quitter(Probe[int]):
        async def receive(self, message: int) -> None:
            self.context.stop()
            await trio.sleep(1)
            await super().receive(message)

    probe = Quitter()
    ref = await start(supervisor, probe)
    ref.tell_nowait(1)
    ref.tell_nowait(2)
    await ref.wait_stopped()
    assert probe.messages == [1]
    assert probe.stop_reason is StopReason.SELF
    assert ref.state is ActorState.STOPPED


async def test_the_reply_to_a_kept_question_can_be_set_while_stopping(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    class Keeper(Actor[Reply[str]]):
        def __init__(self) -> None:
            self.kept: list[Reply[str]] = []

        async def receive(self, message: Reply[str]) -> None:
            self.kept.append(message)

        async def stopping(self, reason: StopReason) -> None:
            await trio.sleep(1)
            self.kept[0].set(f"bye: {reason.value}")

    ref = await supervisor.start(ActorSpec("keeper", Keeper))
    reply = await ref.begin_ask(lambda reply: reply)
    await wait_all_tasks_blocked()
    await supervisor.stop(ref)
    assert await reply.wait() == "bye: requested"


async def test_a_task_of_the_actor_runs_until_the_actor_has_stopped(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    events = []

    class Parent(Actor[int]):
        async def started(self) -> None:
            self.context.start_soon(self.tick, "tick")

        async def tick(self, word: str) -> None:
            try:
                while True:
                    events.append(word)
                    await trio.sleep(1)
            finally:
                events.append("task over")

        async def stopping(self, reason: StopReason) -> None:
            await trio.sleep(1)
            events.append("stopped")

    ref = await supervisor.start(ActorSpec("parent", Parent))
    await trio.sleep(1.5)
    await supervisor.stop(ref)
    assert events == ["tick", "tick", "tick", "stopped", "task over"]


async def test_a_task_that_ends_by_itself_does_not_end_the_actor(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    probe: Probe[int] = Probe()
    ref = await start(supervisor, probe)
    probe.context.start_soon(trio.sleep, 1)
    await trio.sleep(2)
    assert ref.state is ActorState.RUNNING


async def test_a_failing_task_crashes_the_actor(
    supervisor: Supervisor, crashes: list[CrashReport], autojump_clock: MockClock
) -> None:
    failure = ValueError("boom")

    async def fail() -> None:
        await trio.sleep(1)
        raise failure

    probe: Probe[int] = Probe()
    ref = await start(supervisor, probe)
    probe.context.start_soon(fail)
    await ref.wait_stopped()
    with pytest.raises(ActorCrashed) as caught:
        await ref.tell(1)
    assert caught.value.cause is failure
    assert probe.stop_reason is None
    (report,) = crashes
    assert report.error is failure
    assert report.doing.startswith("task ")
    assert report.doing.endswith("fail")


async def test_two_failures_at_once_are_reported_as_a_group(
    supervisor: Supervisor, crashes: list[CrashReport]
) -> None:
    async def fail(error: Exception) -> None:
        raise error

    probe: Probe[int] = Probe()
    ref = await start(supervisor, probe)
    probe.context.start_soon(fail, ValueError("one"))
    probe.context.start_soon(fail, LookupError("two"))
    await ref.wait_stopped()
    error = crashes[0].error
    assert isinstance(error, ExceptionGroup)
    assert {type(part) for part in error.exceptions} == {ValueError, LookupError}


async def test_a_group_of_one_from_an_inner_nursery_is_unwrapped(
    supervisor: Supervisor, crashes: list[CrashReport]
) -> None:
    async def fail(_message: int) -> None:
        async with trio.open_nursery(), trio.open_nursery():
            raise ValueError("deep inside")

    ref = await start(supervisor, Probe(fail))
    await ref.tell(1)
    await ref.wait_stopped()
    assert isinstance(crashes[0].error, ValueError)


@attrs.define(eq=False)
class FailsIn(Actor[int]):
    hook: str

    async def started(self) -> None:
        self.fail_in("started")

    async def receive(self, message: int) -> None:
        self.fail_in("receive")

    async def woken(self) -> None:
        self.fail_in("woken")

    async def drained(self) -> None:
        self.fail_in("drained")

    async def stopping(self, reason: StopReason) -> None:
        self.fail_in("stopping")

    def fail_in(self, hook: str) -> None:
        if hook == self.hook:
            raise ValueError(hook)


@pytest.mark.parametrize(
    ("hook", "doing"),
    [
        ("started", "started"),
        ("receive", "receive int"),
        ("woken", "woken"),
        ("drained", "drained"),
        ("stopping", "stopping"),
    ],
)
async def test_a_failing_hook_is_a_crash_and_is_named_in_the_report(
    supervisor: Supervisor, crashes: list[CrashReport], hook: str, doing: str
) -> None:
    ref = supervisor.start_soon(ActorSpec("it", lambda: FailsIn(hook)))
    ref.wake()
    ref.tell_nowait(1)
    await wait_all_tasks_blocked()
    supervisor.stop_soon(ref)
    await ref.wait_stopped()
    assert ref.state is ActorState.CRASHED
    (report,) = crashes
    assert (report.actor, report.doing, str(report.error)) == ("it", doing, hook)


async def test_an_actor_without_receive_crashes_on_a_message(
    supervisor: Supervisor, crashes: list[CrashReport]
) -> None:
    ref: ActorRef[int] = await supervisor.start(ActorSpec("mute", Actor))
    await ref.tell(1)
    await ref.wait_stopped()
    assert isinstance(crashes[0].error, NotImplementedError)


async def test_a_message_that_takes_longer_than_the_stop_timeout_is_cancelled(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def hang(_message: int) -> None:
        await trio.sleep_forever()

    probe = Probe(hang)
    ref = await start(supervisor, probe, stop_timeout_seconds=5)
    await ref.tell(1)
    await wait_all_tasks_blocked()
    started_at = trio.current_time()
    await supervisor.stop(ref)
    assert trio.current_time() - started_at == 5
    assert ref.state is ActorState.STOPPED
    assert probe.stop_reason is StopReason.CANCELLED
    assert "did not stop within 5 s" in caplog.text


async def test_a_stopping_hook_that_hangs_is_cancelled_after_the_stop_timeout(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    class Hangs(Actor[int]):
        async def stopping(self, reason: StopReason) -> None:
            await trio.sleep_forever()

    ref = await supervisor.start(ActorSpec("it", Hangs, stop_timeout_seconds=2))
    with trio.fail_after(3):
        await supervisor.stop(ref)
    assert "did not stop within 2 s" in caplog.text


async def test_an_actor_that_stops_in_time_is_not_bound_by_its_timeout(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    ref = await start(supervisor, Probe(), stop_timeout_seconds=2)
    await trio.sleep(10)
    await supervisor.stop(ref)
    assert caplog.text == ""


async def test_idle_means_waiting_for_a_message_and_owing_no_answer(
    supervisor: Supervisor,
) -> None:
    gate = trio.Event()

    async def wait(_message: int) -> None:
        await gate.wait()

    ref = await start(supervisor, Probe(wait))
    await wait_all_tasks_blocked()
    idle = [ref.idle]
    await ref.tell(1)
    idle.append(ref.idle)
    gate.set()
    await wait_all_tasks_blocked()
    idle.append(ref.idle)
    assert idle == [True, False, True]


async def test_cancelling_a_message_inside_the_actor_does_not_harm_it(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    async def give_up(_message: int) -> None:
        with trio.move_on_after(1):
            await trio.sleep_forever()

    probe = Probe(give_up)
    ref = await start(supervisor, probe)
    await ref.tell(1)
    await ref.tell(2)
    await trio.sleep(3)
    assert probe.messages == [1, 2]
    assert ref.state is ActorState.RUNNING


async def test_starting_a_task_does_not_print_the_actor(supervisor: Supervisor) -> None:
    # An actor's repr can be as large as all it holds, and tasks are started on hot paths.
    class Large(Actor[int]):
        def __repr__(self) -> str:
            raise AssertionError("somebody printed the actor")

        async def receive(self, message: int) -> None:
            self.context.start_soon(self.work)
            self.context.start_soon(functools.partial(self.work))

        async def work(self) -> None:
            pass

    ref = await start(supervisor, Large())
    await ref.tell(1)
    await wait_all_tasks_blocked()
    assert ref.state is ActorState.RUNNING
