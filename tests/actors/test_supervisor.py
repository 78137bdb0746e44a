from __future__ import annotations

import logging
import random
from collections.abc import Callable

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import (
    PERMANENT,
    TRANSIENT,
    Actor,
    ActorCrashed,
    ActorRef,
    ActorSpec,
    ActorState,
    ActorStopped,
    CrashReport,
    Reply,
    RestartKind,
    RestartPolicy,
    RestartsExhausted,
    StopReason,
    Supervisor,
    SupervisorClosed,
    open_supervisor,
)
from actors.testing import Probe

Message = Reply[int] | Exception | str


@attrs.define(eq=False)
class Life(Actor[Message]):
    """Knows which incarnation it is; an exception as a message crashes it, a string stops it."""

    number: int

    async def receive(self, message: Message) -> None:
        match message:
            case Reply():
                message.set(self.number)
            case str():
                self.context.stop()
            case _:
                raise message


@attrs.define(eq=False)
class Lives:
    """A factory of incarnations that counts them."""

    made: int = 0

    def __call__(self) -> Life:
        self.made += 1
        return Life(self.made)


def which(reply: Reply[int]) -> Message:
    return reply


def lives_spec(policy: RestartPolicy, name: str = "life") -> ActorSpec[Message]:
    return ActorSpec(name, Lives(), policy)


def failing_factory() -> Actor[int]:
    raise OSError("no device")


class Unwilling(Actor[int]):
    async def started(self) -> None:
        raise OSError("not today")


# --- starting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", [failing_factory, Unwilling])
async def test_start_raises_what_the_actor_failed_to_start_with_and_does_not_restart_it(
    supervisor: Supervisor, crashes: list[CrashReport], factory: Callable[[], Actor[int]]
) -> None:
    with pytest.raises(ActorCrashed) as caught:
        await supervisor.start(ActorSpec("bad", factory, PERMANENT))
    assert isinstance(caught.value.cause, OSError)
    assert [report.restart_in_seconds for report in crashes] == [None]
    assert supervisor.children == ()


async def test_a_child_started_in_the_background_is_restarted_until_it_starts(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    attempts = []

    def flaky() -> Actor[int]:
        attempts.append(trio.current_time())
        if len(attempts) < 3:
            raise OSError("not yet")
        return Probe()

    policy = RestartPolicy(RestartKind.TRANSIENT, first_delay_seconds=1, multiplier=2)
    ref = supervisor.start_soon(ActorSpec("flaky", flaky, policy))
    await ref.wait_started()
    assert [time - attempts[0] for time in attempts] == [0, 1, 3]


async def test_cancelling_start_stops_the_child(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    class Slow(Actor[int]):
        async def started(self) -> None:
            await trio.sleep(100)

    with trio.move_on_after(1):
        await supervisor.start(ActorSpec("slow", Slow, PERMANENT, stop_timeout_seconds=5))
    (ref,) = supervisor.children
    with trio.fail_after(6):
        await ref.wait_stopped()


async def test_nothing_can_be_started_once_the_supervisor_is_closing() -> None:
    async with open_supervisor("short") as supervisor:
        pass
    with pytest.raises(SupervisorClosed):
        supervisor.start_soon(ActorSpec("late", Probe[int]))


async def test_a_child_stopped_while_it_starts_finishes_starting_and_never_runs(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    class Slow(Probe[int]):
        async def started(self) -> None:
            await trio.sleep(5)
            await super().started()

        async def stopping(self, reason: StopReason) -> None:
            await super().stopping(reason)
            states.append(self.context.ref.state)

    states = []
    probe = Slow()
    ref = supervisor.start_soon(ActorSpec("slow", lambda: probe))

    async def wait_started() -> None:
        with pytest.raises(ActorStopped):
            await ref.wait_started()
        states.append(ref.state)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_started)
        await trio.sleep(1)
        supervisor.stop_soon(ref)
        await trio.sleep(1)
        ref.wake()
        await ref.wait_stopped()
    assert probe.events == ["started", "stopping"]
    assert states == [ActorState.STOPPING, ActorState.STOPPING]


async def test_a_child_stopped_before_its_first_step_never_comes_to_be(
    supervisor: Supervisor,
) -> None:
    lives = Lives()
    ref = supervisor.start_soon(ActorSpec("life", lives, PERMANENT))
    supervisor.stop_soon(ref)
    await ref.wait_stopped()
    assert (ref.state, lives.made) == (ActorState.STOPPED, 0)


# --- restarting -------------------------------------------------------------------------------


async def test_a_crashed_permanent_child_is_restarted_behind_the_same_ref(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    ref = await supervisor.start(lives_spec(PERMANENT))
    assert await ref.ask(which) == 1
    await ref.tell(ValueError())
    pending = ref.begin_ask_nowait(which)
    with pytest.raises(ActorCrashed):
        await pending.wait()
    assert await ref.ask(which) == 2


async def test_messages_sent_during_the_back_off_wait_for_the_next_incarnation(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    policy = RestartPolicy(RestartKind.PERMANENT, first_delay_seconds=5)
    ref = await supervisor.start(lives_spec(policy))
    await ref.tell(ValueError())
    await wait_all_tasks_blocked()
    assert ref.state is ActorState.STARTING
    started_at = trio.current_time()
    assert await ref.ask(which) == 2
    assert trio.current_time() - started_at == pytest.approx(5)


async def test_each_incarnation_starts_with_an_empty_mailbox(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    ref = await supervisor.start(lives_spec(PERMANENT))
    ref.tell_nowait(ValueError())
    for _ in range(3):
        ref.tell_nowait(ValueError("never seen"))
    with pytest.raises(ActorCrashed):
        await ref.ask(which)
    assert await ref.ask(which) == 2


@pytest.mark.parametrize(
    ("kind", "ending", "restarted"),
    [
        (RestartKind.PERMANENT, "crash", True),
        (RestartKind.PERMANENT, "stop itself", True),
        (RestartKind.PERMANENT, "be stopped", False),
        (RestartKind.TRANSIENT, "crash", True),
        (RestartKind.TRANSIENT, "stop itself", False),
        (RestartKind.TEMPORARY, "crash", False),
        (RestartKind.TEMPORARY, "stop itself", False),
    ],
)
async def test_the_policy_decides_which_ends_are_final(
    supervisor: Supervisor,
    autojump_clock: MockClock,
    kind: RestartKind,
    ending: str,
    restarted: bool,
) -> None:
    spec = lives_spec(RestartPolicy(kind))
    ref = await supervisor.start(spec)
    match ending:
        case "crash":
            await ref.tell(ValueError())
        case "stop itself":
            await ref.tell("stop")
        case _:
            supervisor.stop_soon(ref)
    await trio.sleep(10)
    assert (ref.state is ActorState.RUNNING) is restarted
    assert ref.state.final is not restarted


async def test_a_crash_takes_no_sibling_with_it(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    sibling = await supervisor.start(lives_spec(PERMANENT, "sibling"))
    ref = await supervisor.start(ActorSpec("life", Lives()))
    await ref.tell(ValueError())
    await ref.wait_stopped()
    await trio.sleep(10)
    assert await sibling.ask(which) == 1


async def test_back_off_grows_within_the_window_and_jitter_is_repeatable(
    autojump_clock: MockClock,
) -> None:
    policy = RestartPolicy(RestartKind.PERMANENT, max_restarts=9, first_delay_seconds=1, jitter=0.5)

    async def delays(seed: int) -> list[float | None]:
        crashes: list[CrashReport] = []
        async with open_supervisor(
            "s", rng=random.Random(seed), on_crash=crashes.append
        ) as supervisor:
            ref = await supervisor.start(lives_spec(policy))
            for number in range(1, 5):
                await ref.tell(ValueError())
                await wait_all_tasks_blocked()
                assert await ref.ask(which) == number + 1
        return [report.restart_in_seconds for report in crashes]

    first, same, other = await delays(1), await delays(1), await delays(2)
    assert first == same != other
    for plain, delay in zip((1, 2, 4, 8), first, strict=True):
        assert delay is not None
        assert 0.5 * plain <= delay <= 1.5 * plain


async def test_stopping_a_child_during_its_back_off_ends_it_at_once(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    policy = RestartPolicy(RestartKind.PERMANENT, first_delay_seconds=10)
    ref = await supervisor.start(lives_spec(policy))
    await ref.tell(ValueError())
    await wait_all_tasks_blocked()
    queued = ref.begin_ask_nowait(which)
    started_at = trio.current_time()
    await supervisor.stop(ref)
    assert trio.current_time() == started_at
    assert ref.state is ActorState.STOPPED
    with pytest.raises(ActorStopped):
        await queued.wait()


async def test_a_permanent_child_that_is_stopping_itself_can_be_stopped_for_good(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    made = []

    class Leaver(Actor[int]):
        async def started(self) -> None:
            made.append(self)
            self.context.stop()

        async def stopping(self, reason: StopReason) -> None:
            await trio.sleep(1)

    ref: ActorRef[int] = supervisor.start_soon(ActorSpec("leaver", Leaver, PERMANENT))
    await wait_all_tasks_blocked()
    await supervisor.stop(ref)
    assert (ref.state, len(made)) == (ActorState.STOPPED, 1)


# --- giving up --------------------------------------------------------------------------------


async def crash(ref: ActorRef[Message], error: Exception) -> None:
    with pytest.raises(ActorCrashed):
        await ref.ask(lambda _reply: error)


async def test_one_restart_too_many_fails_the_supervisor_and_stops_the_siblings_in_order(
    autojump_clock: MockClock,
) -> None:
    stopped = []

    class Sibling(Probe[int]):
        async def stopping(self, reason: StopReason) -> None:
            await trio.sleep(1)
            stopped.append((self.context.name, reason))

    cause = ValueError("the last one")
    policy = RestartPolicy(RestartKind.PERMANENT, max_restarts=2, first_delay_seconds=0)
    body_cancelled = False
    with pytest.raises(RestartsExhausted) as caught:  # noqa: PT012 - the block is what is tested
        async with open_supervisor("root", on_crash=lambda report: None) as supervisor:
            for name in "ab":
                await supervisor.start(ActorSpec(name, Sibling))
            ref = await supervisor.start(lives_spec(policy))
            for _ in range(2):
                await crash(ref, ValueError())
            try:
                await ref.tell(cause)
                await trio.sleep_forever()
            except trio.Cancelled:
                body_cancelled = True
                raise
    assert (caught.value.supervisor, caught.value.actor) == ("root", "life")
    assert caught.value.cause is caught.value.__cause__ is cause
    assert body_cancelled
    assert stopped == [("b", StopReason.SHUTDOWN), ("a", StopReason.SHUTDOWN)]


async def test_restarts_spread_over_more_than_the_window_go_on_for_ever(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    policy = RestartPolicy(RestartKind.PERMANENT, max_restarts=1, window_seconds=10)
    ref = await supervisor.start(lives_spec(policy))
    for number in range(1, 6):
        assert await ref.ask(which) == number
        await crash(ref, ValueError())
        await trio.sleep(11)


async def test_an_error_of_the_block_is_raised_together_with_giving_up() -> None:
    policy = RestartPolicy(RestartKind.PERMANENT, max_restarts=0)
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the block is what is tested
        async with open_supervisor("root", on_crash=lambda report: None) as supervisor:
            ref = await supervisor.start(lives_spec(policy))
            try:
                await ref.tell(ValueError())
                await trio.sleep_forever()
            finally:
                raise LookupError("while leaving")
    assert {type(error) for error in caught.value.exceptions} == {RestartsExhausted, LookupError}


async def test_an_inner_supervisor_that_gives_up_fails_the_outer_block(
    autojump_clock: MockClock,
) -> None:
    policy = RestartPolicy(RestartKind.PERMANENT, max_restarts=0)
    outer_probe: Probe[int] = Probe()
    with pytest.raises(RestartsExhausted):  # noqa: PT012 - the blocks are what is tested
        async with open_supervisor("outer") as outer:
            await outer.start(ActorSpec("probe", lambda: outer_probe))
            async with open_supervisor("inner", on_crash=lambda report: None) as inner:
                ref = await inner.start(lives_spec(policy))
                await ref.tell(ValueError())
                await trio.sleep_forever()
    assert outer_probe.stop_reason is StopReason.SHUTDOWN


async def test_a_supervisor_inside_an_actor_is_restarted_with_it(
    supervisor: Supervisor, crashes: list[CrashReport], autojump_clock: MockClock
) -> None:
    inner_refs: list[ActorRef[Message]] = []

    class Branch(Actor[int]):
        async def started(self) -> None:
            self.context.start_soon(self.supervise)

        async def supervise(self) -> None:
            policy = RestartPolicy(RestartKind.PERMANENT, max_restarts=0)
            async with open_supervisor("inner", on_crash=lambda report: None) as inner:
                inner_refs.append(await inner.start(lives_spec(policy)))
                await trio.sleep_forever()

    await supervisor.start(ActorSpec("branch", Branch, TRANSIENT))
    await wait_all_tasks_blocked()
    await crash(inner_refs[0], ValueError())
    await trio.sleep(10)
    assert [type(report.error) for report in crashes] == [RestartsExhausted]
    assert await inner_refs[1].ask(which) == 1


# --- shutting down ----------------------------------------------------------------------------


async def test_leaving_the_block_stops_the_children_in_reverse_order(
    autojump_clock: MockClock,
) -> None:
    events = []

    class Child(Actor[int]):
        async def stopping(self, reason: StopReason) -> None:
            events.append(f"{self.context.name} stopping")
            await trio.sleep(1)
            events.append(f"{self.context.name} stopped: {reason.value}")

    async with open_supervisor("root") as supervisor:
        for name in ("one", "two"):
            await supervisor.start(ActorSpec(name, Child))
    assert events == [
        "two stopping",
        "two stopped: shutdown",
        "one stopping",
        "one stopped: shutdown",
    ]


async def test_a_child_that_crashes_while_others_are_being_stopped_is_not_restarted(
    autojump_clock: MockClock,
) -> None:
    class Slow(Actor[int]):
        async def stopping(self, reason: StopReason) -> None:
            await ref.tell(ValueError())
            await trio.sleep(10)

    crashes: list[CrashReport] = []
    async with open_supervisor("root", on_crash=crashes.append) as supervisor:
        ref = await supervisor.start(lives_spec(PERMANENT))
        await supervisor.start(ActorSpec("slow", Slow))
    assert [report.restart_in_seconds for report in crashes] == [None]
    assert ref.state is ActorState.CRASHED


async def test_peers_can_be_stopped_together(autojump_clock: MockClock) -> None:
    class Slow(Actor[int]):
        async def stopping(self, reason: StopReason) -> None:
            await trio.sleep(1)

    async with open_supervisor("root", stop_together=True) as supervisor:
        for _ in range(5):
            await supervisor.start(ActorSpec("slow", Slow))
        started_at = trio.current_time()
    assert trio.current_time() - started_at == pytest.approx(1)


async def test_an_error_of_the_block_stops_the_children_and_comes_out_as_it_is() -> None:
    probe: Probe[int] = Probe()
    error = LookupError("mine")
    with pytest.raises(LookupError) as caught:  # noqa: PT012 - the block is what is tested
        async with open_supervisor("root") as supervisor:
            await supervisor.start(ActorSpec("probe", lambda: probe))
            raise error
    assert caught.value is error
    assert error.__context__ is None
    assert probe.stop_reason is StopReason.SHUTDOWN


async def test_cancellation_from_outside_cancels_all_children_and_fails_their_asks(
    autojump_clock: MockClock,
) -> None:
    events = []

    class Child(Actor[Reply[int]]):
        async def receive(self, message: Reply[int]) -> None:
            await trio.sleep_forever()

        async def stopping(self, reason: StopReason) -> None:
            events.append(f"{self.context.name}: {reason.value}")
            await trio.sleep(1)
            events.append("never")

    replies: list[Reply[int]] = []
    refs: list[ActorRef[Reply[int]]] = []
    with trio.move_on_after(1) as scope:
        async with open_supervisor("root") as supervisor:
            for name in ("busy", "idle"):
                refs.append(await supervisor.start(ActorSpec(name, Child, PERMANENT)))
            replies.append(await refs[0].begin_ask(lambda reply: reply))
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert sorted(events) == ["busy: cancelled", "idle: cancelled"]
    assert [ref.state for ref in refs] == [ActorState.STOPPED] * 2
    with pytest.raises(ActorStopped):
        await replies[0].wait()


async def test_cancellation_during_the_shutdown_ends_it(autojump_clock: MockClock) -> None:
    class Stubborn(Actor[int]):
        async def stopping(self, reason: StopReason) -> None:
            await trio.sleep_forever()

    with trio.move_on_after(3) as scope:
        async with open_supervisor("root") as supervisor:
            ref = await supervisor.start(ActorSpec("stubborn", Stubborn))
    assert scope.cancelled_caught
    assert ref.state is ActorState.STOPPED


async def test_a_failure_while_being_cancelled_is_reported_and_does_not_stop_the_cancellation(
    autojump_clock: MockClock,
) -> None:
    crashes: list[CrashReport] = []

    class Sore(Actor[int]):
        async def stopping(self, reason: StopReason) -> None:
            raise ValueError("on the way out")

    with trio.move_on_after(1) as scope:
        async with open_supervisor("root", on_crash=crashes.append) as supervisor:
            ref = await supervisor.start(ActorSpec("sore", Sore, PERMANENT))
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert [str(report.error) for report in crashes] == ["on the way out"]
    assert ref.state.final


async def test_a_crash_that_comes_with_a_cancellation_stays_with_the_actor(
    autojump_clock: MockClock,
) -> None:
    crashes: list[CrashReport] = []

    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in a task")

    class Parent(Actor[int]):
        async def started(self) -> None:
            self.context.start_soon(fail_when_cancelled)

    with trio.move_on_after(1) as scope:
        async with open_supervisor("root", on_crash=crashes.append) as supervisor:
            ref = await supervisor.start(ActorSpec("parent", Parent, PERMANENT))
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert [report.restart_in_seconds for report in crashes] == [None]
    assert ref.state is ActorState.CRASHED


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_is_not_a_crash_and_goes_all_the_way_up(
    error: type[BaseException],
) -> None:
    async def interrupt(_message: int) -> None:
        raise error

    crashes: list[CrashReport] = []
    refs: list[ActorRef[int]] = []
    with pytest.raises(error):  # noqa: PT012 - the block is what is tested
        async with open_supervisor("root", on_crash=crashes.append) as supervisor:
            refs.append(
                await supervisor.start(ActorSpec("it", lambda: Probe(interrupt), PERMANENT))
            )
            refs.append(await supervisor.start(ActorSpec("sibling", Probe[int], PERMANENT)))
            await refs[0].tell(1)
            await trio.sleep_forever()
    assert crashes == []
    with pytest.raises(ActorCrashed) as caught:
        await refs[0].tell(1)
    assert isinstance(caught.value.cause, error)
    assert refs[1].state is ActorState.STOPPED


async def test_stopping_someone_elses_child_does_nothing(supervisor: Supervisor) -> None:
    ref = await supervisor.start(lives_spec(PERMANENT))
    async with open_supervisor("other") as other:
        other.stop_soon(ref)
    assert await ref.ask(which) == 1


async def test_children_are_listed_in_the_order_of_their_start_until_they_are_over(
    supervisor: Supervisor,
) -> None:
    refs = [await supervisor.start(ActorSpec(name, Probe[int])) for name in "abc"]
    await supervisor.stop(refs[1])
    assert supervisor.children == (refs[0], refs[2])


# --- crash reports ----------------------------------------------------------------------------


async def test_a_crash_report_says_what_was_pending(
    supervisor: Supervisor, crashes: list[CrashReport], autojump_clock: MockClock
) -> None:
    policy = RestartPolicy(RestartKind.PERMANENT, first_delay_seconds=2, jitter=0)
    ref = await supervisor.start(lives_spec(policy))
    await wait_all_tasks_blocked()
    failure = ValueError("boom")
    ref.tell_nowait(failure)
    ref.begin_ask_nowait(which)
    ref.begin_ask_nowait(which)
    ref.tell_nowait("stop")
    await wait_all_tasks_blocked()
    expected = CrashReport(
        actor="life",
        error=failure,
        doing="receive ValueError",
        restarts=0,
        pending_asks=2,
        queued_messages=3,
        restart_in_seconds=2,
    )
    assert [attrs.asdict(report) for report in crashes] == [attrs.asdict(expected)]
    await ref.wait_started()
    await crash(ref, ValueError())
    assert crashes[1].restarts == 1


async def test_crashes_are_logged_by_default_with_name_and_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_supervisor("root") as supervisor:
        ref = await supervisor.start(ActorSpec("life", Lives()))
        await crash(ref, ValueError("what went wrong"))
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("actors", logging.ERROR)
    assert "actor life crashed in receive ValueError" in record.message
    assert "raise message" in caplog.text
    assert "what went wrong" in caplog.text


async def test_a_crash_handler_that_fails_costs_no_more_than_a_log_entry(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    def fail(report: CrashReport) -> None:
        raise LookupError("no log")

    async with open_supervisor("root", on_crash=fail) as supervisor:
        ref = await supervisor.start(lives_spec(PERMANENT))
        await crash(ref, ValueError())
        assert await ref.ask(which) == 2
    assert "the crash handler failed" in caplog.text
    assert "no log" in caplog.text


async def test_on_end_is_called_when_the_child_is_over_for_good(
    supervisor: Supervisor, autojump_clock: MockClock
) -> None:
    ends = []
    policy = RestartPolicy(RestartKind.TRANSIENT)
    ref = supervisor.start_soon(lives_spec(policy), on_end=lambda: ends.append(ref.state))
    await ref.wait_started()
    await crash(ref, ValueError())
    await ref.wait_started()
    assert ends == []
    await ref.tell("stop")
    await ref.wait_stopped()
    assert ends == [ActorState.STOPPED]
