"""One supervised actor and many clients that do all there is to do, at random.

What must hold whatever the schedule:
* nothing that was sent is lost unless the incarnation it was sent to has ended;
* nothing that was refused or withdrawn arrives;
* what one client sends arrives in order, and once;
* every question ends, with its own answer or with a named error, and no reply is set twice.
"""

from __future__ import annotations

import random

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import (
    Actor,
    ActorCrashed,
    ActorRef,
    ActorSpec,
    ActorState,
    ActorStopped,
    CrashReport,
    MailboxFull,
    Reply,
    RestartKind,
    RestartPolicy,
    StopReason,
    open_supervisor,
)
from actors.testing import run_seeded


class Boom(Exception):
    pass


def is_boom(error: BaseException) -> bool:
    if isinstance(error, ExceptionGroup):  # several of the actor's tasks at once
        return all(is_boom(part) for part in error.exceptions)
    return isinstance(error, Boom)


@attrs.frozen(eq=False)
class Note:
    """A message that says who sent it and which of the sender's messages it is."""

    client: int
    number: int
    reply: Reply[tuple[int, int]] | None = None
    then: str = "answer"


@attrs.define(eq=False)
class Drama:
    """The script of one run, and what came of it."""

    rng: random.Random
    crash_chance: float
    lives: int = 0
    endings: int = 0
    arrived: list[tuple[int, int]] = attrs.field(factory=list)
    sent: dict[tuple[int, int], int] = attrs.field(factory=dict)
    withheld: set[tuple[int, int]] = attrs.field(factory=set)
    outcomes: list[str] = attrs.field(factory=list)
    wakes: int = 0
    heeded: int = 0

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    async def pause(self) -> None:
        if self.chance(0.5):
            await trio.sleep(self.rng.choice([0, 0, 0.01, 0.1, 1]))


@attrs.define(eq=False)
class Hero(Actor[Note]):
    drama: Drama
    kept: list[Note] = attrs.field(factory=list)

    async def started(self) -> None:
        self.drama.lives += 1
        self.context.start_soon(self.answer_later)
        await self.drama.pause()

    async def receive(self, message: Note) -> None:
        self.drama.arrived.append((message.client, message.number))
        await self.drama.pause()
        match message.then:
            case "crash":
                raise Boom
            case "crash in a task":
                self.context.start_soon(self.crash)
            case "keep":
                self.kept.append(message)
            case _:
                self.answer(message)

    async def woken(self) -> None:
        self.drama.heeded = self.drama.wakes
        await self.drama.pause()

    async def drained(self) -> None:
        if self.drama.chance(0.3):
            self.answer_all()

    async def stopping(self, reason: StopReason) -> None:
        await self.drama.pause()
        self.answer_all()

    async def answer_later(self) -> None:
        while True:
            await trio.sleep(0.5)
            self.answer_all()

    async def crash(self) -> None:
        await self.drama.pause()
        raise Boom

    def answer_all(self) -> None:
        kept, self.kept = self.kept, []
        for message in kept:
            self.answer(message)

    def answer(self, message: Note) -> None:
        if message.reply is not None and not message.reply.abandoned:
            message.reply.set((message.client, message.number))


@attrs.define(eq=False)
class Client:
    drama: Drama
    ref: ActorRef[Note]
    client: int

    async def run(self, messages: int) -> None:
        for number in range(messages):
            await self.send(number)
            if self.drama.chance(0.2):
                self.drama.wakes += 1
                self.ref.wake()
            await self.drama.pause()

    async def send(self, number: int) -> None:
        """Send one message in one way or another, and note what became of it."""
        drama, key = self.drama, (self.client, number)
        how = drama.rng.choice(["tell", "tell_nowait", "ask", "begin_ask", "begin_ask_nowait"])
        outcome = "cancelled"
        with trio.CancelScope() as scope:
            if drama.chance(0.3):
                scope.deadline = trio.current_time() + drama.rng.choice([0, 0.005, 0.05, 0.7])
            try:
                outcome = await self.send_by(how, key)
            except MailboxFull:
                outcome = "full"
            except ActorStopped:
                outcome = "stopped"
            except ActorCrashed as error:
                outcome = "crashed" if is_boom(error.cause) else repr(error)
        drama.outcomes.append(outcome)
        if how != "ask" and outcome != "sent":
            # A call that raises, cancelled or not, has sent nothing, unless it waits for an answer.
            assert key not in drama.sent
            drama.withheld.add(key)

    async def send_by(self, how: str, key: tuple[int, int]) -> str:
        drama, ref, then = self.drama, self.ref, self.choose()
        # Counted before the call: by the time it returns the incarnation that took the message may
        # have ended.
        endings = drama.endings
        match how:
            case "tell":
                await ref.tell(Note(*key, None, then))
            case "tell_nowait":
                ref.tell_nowait(Note(*key, None, then))
            case "ask":
                answer: tuple[int, int] = await ref.ask(lambda reply: Note(*key, reply, then))
                assert answer == key
                return "answered"
            case "begin_ask":
                await self.wait_apart(await ref.begin_ask(lambda r: Note(*key, r, then)), key)
            case _:
                await self.wait_apart(ref.begin_ask_nowait(lambda r: Note(*key, r, then)), key)
        drama.sent[key] = endings
        return "sent"

    async def wait_apart(self, reply: Reply[tuple[int, int]], key: tuple[int, int]) -> None:
        """Wait for the answer to what has been sent, whatever the deadline for sending it was."""
        drama = self.drama
        with trio.CancelScope(shield=True):
            try:
                assert await reply.wait() == key
                drama.outcomes.append("answered")
            except (ActorCrashed, ActorStopped) as error:
                drama.outcomes.append(type(error).__name__)

    def choose(self) -> str:
        drama = self.drama
        if drama.chance(drama.crash_chance):
            return drama.rng.choice(["crash", "crash in a task"])
        return drama.rng.choice(["answer", "keep"])


async def perform(
    seed: int, clients: int, capacity: int, crash_chance: float, stop_early: bool
) -> Drama:
    drama = Drama(random.Random(seed), crash_chance)
    policy = RestartPolicy(RestartKind.PERMANENT, max_restarts=10_000, max_delay_seconds=1)
    crashes: list[CrashReport] = []

    def note_crash(report: CrashReport) -> None:
        drama.endings += 1
        crashes.append(report)

    with trio.fail_after(100_000):
        async with open_supervisor("stage", rng=drama.rng, on_crash=note_crash) as supervisor:
            spec = ActorSpec("hero", lambda: Hero(drama), policy, mailbox_capacity=capacity)
            ref = supervisor.start_soon(spec)
            async with trio.open_nursery() as nursery:
                for client in range(clients):
                    nursery.start_soon(Client(drama, ref, client).run, 12)
                if stop_early:
                    await trio.sleep(drama.rng.uniform(0, 5))
                    drama.endings += 1
                    await supervisor.stop(ref)
            if not stop_early:
                await settle(drama, ref)
    assert all(is_boom(report.error) for report in crashes)
    assert ref.state in (ActorState.STOPPED, ActorState.CRASHED)
    assert ref.pending_asks == 0
    return drama


async def settle(drama: Drama, ref: ActorRef[Note]) -> None:
    """Let the actor finish what it has, and check that it has heard every wake-up by then."""
    await trio.sleep(60)
    assert ref.state is ActorState.RUNNING
    assert (ref.queued_messages, ref.pending_asks) == (0, 0)
    if drama.endings == 0:
        assert drama.heeded == drama.wakes


def check(drama: Drama, clients: int) -> None:
    for client in range(clients):
        numbers = [number for sender, number in drama.arrived if sender == client]
        assert numbers == sorted(set(numbers)), "out of order, or twice"
    arrived = set(drama.arrived)
    for key, endings_before in drama.sent.items():
        assert key in arrived or drama.endings > endings_before, "lost by a living actor"
    assert not arrived & drama.withheld, "refused or withdrawn, and yet it came"


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    clients=st.integers(1, 6),
    capacity=st.integers(1, 4),
    crash_chance=st.sampled_from([0, 0.05, 0.3]),
    stop_early=st.booleans(),
)
def test_whatever_the_schedule_messages_and_answers_keep_their_promises(
    seed: int, clients: int, capacity: int, crash_chance: float, stop_early: bool
) -> None:
    drama = run_seeded(seed, perform, seed, clients, capacity, crash_chance, stop_early)
    check(drama, clients)


@pytest.mark.slow
def test_the_random_clients_meet_every_kind_of_outcome() -> None:
    outcomes: set[str] = set()
    for seed in range(10):
        drama = run_seeded(seed, perform, seed, 5, 2, 0.2, seed % 2 == 0)
        outcomes.update(drama.outcomes)
    assert outcomes == {
        "answered",
        "sent",
        "cancelled",
        "full",
        "stopped",
        "crashed",
        "ActorCrashed",
        "ActorStopped",
    }


def test_a_seed_replays_exactly() -> None:
    def trace(seed: int) -> tuple[list[tuple[int, int]], list[str], int]:
        drama = run_seeded(seed, perform, seed, 5, 2, 0.1, False)
        return drama.arrived, drama.outcomes, drama.lives

    assert trace(3) == trace(3)
    assert trace(3) != trace(4)
