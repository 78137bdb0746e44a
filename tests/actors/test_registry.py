from __future__ import annotations

import random
from collections.abc import AsyncIterator

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import (
    PERMANENT,
    Actor,
    ActorCrashed,
    ActorRef,
    ActorSpec,
    ActorState,
    ActorStopped,
    CrashReport,
    Registry,
    Reply,
    StopReason,
    SupervisorClosed,
    open_registry,
)
from actors.testing import run_seeded

IDLE_SECONDS = 60

Message = Reply[int] | Exception | str


@attrs.define(eq=False)
class World:
    """What the actors of a test do, and what has become of them."""

    start_seconds: float = 0
    stop_seconds: float = 0
    start_error: Exception | None = None
    started: list[str] = attrs.field(factory=list)
    stopped: list[tuple[str, StopReason]] = attrs.field(factory=list)

    def spec(self, key: str) -> ActorSpec[Message]:
        return ActorSpec(f"item/{key}", lambda: Item(self, key), PERMANENT)


@attrs.define(eq=False)
class Item(Actor[Message]):
    """Answers with its serial number; a string stops it, an exception crashes it."""

    world: World
    key: str
    serial: int = 0

    async def started(self) -> None:
        self.world.started.append(self.key)
        self.serial = len(self.world.started)
        await trio.sleep(self.world.start_seconds)
        if self.world.start_error is not None:
            raise self.world.start_error

    async def receive(self, message: Message) -> None:
        match message:
            case Reply():
                message.set(self.serial)
            case str():
                self.context.stop()
            case _:
                raise message

    async def stopping(self, reason: StopReason) -> None:
        await trio.sleep(self.world.stop_seconds)
        self.world.stopped.append((self.key, reason))


def serial(reply: Reply[int]) -> Message:
    return reply


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def registry(
    world: World, crashes: list[CrashReport]
) -> AsyncIterator[Registry[str, Message]]:
    async with open_registry(
        "items", world.spec, idle_seconds=IDLE_SECONDS, on_crash=crashes.append
    ) as registry:
        yield registry


def state_of(ref: ActorRef[Message]) -> ActorState:
    return ref.state


async def test_a_lease_starts_the_actor_and_the_next_one_finds_it_running(
    registry: Registry[str, Message], world: World
) -> None:
    assert registry.running("a") is None
    async with registry.lease("a") as ref, registry.lease("a") as same:
        assert ref is same is registry.running("a")
        assert await ref.ask(serial) == 1
    async with registry.lease("a") as again, registry.lease("b") as other:
        assert again is ref
        assert await other.ask(serial) == 2
    assert world.started == ["a", "b"]
    assert (list(registry), len(registry), "a" in registry) == (["a", "b"], 2, True)


async def test_many_leases_at_once_start_one_actor(
    registry: Registry[str, Message], world: World, autojump_clock: MockClock
) -> None:
    world.start_seconds = 5
    serials = []

    async def use() -> None:
        async with registry.lease("a") as ref:
            serials.append(await ref.ask(serial))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(use)
    assert serials == [1] * 20
    assert world.started == ["a"]


async def test_a_failure_to_start_is_told_to_all_who_wait_and_the_next_lease_tries_afresh(
    registry: Registry[str, Message], world: World, autojump_clock: MockClock
) -> None:
    world.start_seconds = 5
    failure = world.start_error = OSError("no such thing")
    errors = []

    async def use() -> None:
        with pytest.raises(ActorCrashed) as caught:
            await registry.lease("a").__aenter__()
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(use)
    assert [error.cause for error in errors] == [failure] * 3
    assert len({id(error) for error in errors}) == 3
    assert (world.started, len(registry)) == (["a"], 0)
    world.start_error = None
    async with registry.lease("a") as ref:
        assert await ref.ask(serial) == 2


async def test_cancelling_the_first_who_waits_does_not_cancel_the_start_for_the_others(
    registry: Registry[str, Message], world: World, autojump_clock: MockClock
) -> None:
    world.start_seconds = 5
    serials = []

    async def use(scope: trio.CancelScope) -> None:
        with scope:
            async with registry.lease("a") as ref:
                serials.append(await ref.ask(serial))

    first = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(use, first)
        await wait_all_tasks_blocked()
        nursery.start_soon(use, trio.CancelScope())
        await wait_all_tasks_blocked()
        first.cancel()
    assert first.cancelled_caught
    assert (serials, world.started) == ([1], ["a"])


async def test_an_actor_whose_only_waiter_was_cancelled_becomes_idle(
    registry: Registry[str, Message], world: World, autojump_clock: MockClock
) -> None:
    world.start_seconds = 5
    with trio.move_on_after(1):
        await registry.lease("a").__aenter__()
    await trio.sleep(10)
    assert registry.running("a") is not None
    await trio.sleep(IDLE_SECONDS)
    assert world.stopped == [("a", StopReason.IDLE)]


async def test_a_start_longer_than_the_idle_time_is_not_interrupted(
    registry: Registry[str, Message], world: World, autojump_clock: MockClock
) -> None:
    world.start_seconds = 3.5 * IDLE_SECONDS
    with trio.move_on_after(1):
        await registry.lease("a").__aenter__()
    await trio.sleep(3.6 * IDLE_SECONDS)
    assert registry.running("a") is not None


async def test_a_leased_actor_is_never_stopped_for_idleness(
    registry: Registry[str, Message], world: World, autojump_clock: MockClock
) -> None:
    async with registry.lease("a") as ref:
        async with registry.lease("a"):
            await trio.sleep(1)
        await trio.sleep(100 * IDLE_SECONDS)
        assert await ref.ask(serial) == 1
    assert world.stopped == []


async def test_an_actor_is_stopped_when_unused_for_the_idle_time_and_not_earlier(
    registry: Registry[str, Message], world: World, autojump_clock: MockClock
) -> None:
    async with registry.lease("a"):
        pass
    await trio.sleep(IDLE_SECONDS - 1)
    async with registry.lease("a") as ref:
        pass
    await trio.sleep(IDLE_SECONDS - 1)
    assert state_of(ref) is ActorState.RUNNING
    await trio.sleep(2)
    assert state_of(ref) is ActorState.STOPPED
    assert (world.stopped, len(registry)) == ([("a", StopReason.IDLE)], 0)


async def test_idle_actors_are_stopped_each_in_its_own_time(
    registry: Registry[str, Message], world: World, autojump_clock: MockClock
) -> None:
    for key in "abc":
        async with registry.lease(key):
            await trio.sleep(10)
    gone_at: list[tuple[str, int]] = []
    for seconds in range(1, IDLE_SECONDS + 10):
        await trio.sleep(1)
        while len(gone_at) < len(world.stopped):
            gone_at.append((world.stopped[len(gone_at)][0], seconds))
    # "c" was left at second 0, "b" and "a" 10 and 20 seconds earlier; a sweep in the same
    # instant as the look may come after it.
    assert [key for key, _ in gone_at] == ["a", "b", "c"]
    for (_, seconds), due in zip(gone_at, (40, 50, 60), strict=True):
        assert due <= seconds <= due + 1


async def test_a_lease_during_passivation_waits_for_the_end_and_starts_a_new_actor(
    registry: Registry[str, Message], world: World, autojump_clock: MockClock
) -> None:
    world.stop_seconds = 5
    async with registry.lease("a") as ref:
        pass
    await trio.sleep(IDLE_SECONDS + 1)
    assert state_of(ref) is ActorState.STOPPING
    assert registry.running("a") is None
    asked_at = trio.current_time()
    async with registry.lease("a") as new:
        assert trio.current_time() - asked_at == pytest.approx(4)
        assert new is not ref
        assert world.stopped == [("a", StopReason.IDLE)]
        assert await new.ask(serial) == 2


@attrs.define(eq=False)
class Busy(Actor[Reply[int] | float]):
    kept: list[Reply[int]] = attrs.field(factory=list)

    async def receive(self, message: Reply[int] | float) -> None:
        if isinstance(message, Reply):
            self.kept.append(message)
        else:
            await trio.sleep(message)


@pytest.mark.parametrize("reason", ["a message in hand", "an answer owed"])
async def test_an_unused_actor_that_has_something_to_do_is_given_more_time(
    autojump_clock: MockClock, reason: str
) -> None:
    busy = Busy()

    def spec(key: str) -> ActorSpec[Reply[int] | float]:
        return ActorSpec(key, lambda: busy)

    async with open_registry("busy", spec, idle_seconds=IDLE_SECONDS) as registry:
        async with registry.lease("a") as ref:
            reply = await ref.begin_ask(lambda reply: reply)
            if reason == "a message in hand":
                await ref.tell(1.5 * IDLE_SECONDS)
                await wait_all_tasks_blocked()
                busy.kept[0].set(0)
        await trio.sleep(1.7 * IDLE_SECONDS)
        assert ref.state is ActorState.RUNNING
        if not reply.settled:
            busy.kept[0].set(0)
        await trio.sleep(IDLE_SECONDS)
        assert len(registry) == 0


async def test_a_crashed_actor_is_dropped_and_started_afresh_by_the_next_lease(
    registry: Registry[str, Message], crashes: list[CrashReport]
) -> None:
    async with registry.lease("other") as other, registry.lease("a") as ref:
        pending: Reply[int] = await ref.begin_ask(lambda _reply: ValueError("boom"))
        with pytest.raises(ActorCrashed):
            await pending.wait()
        with pytest.raises(ActorCrashed):
            await ref.ask(serial)
        assert "a" not in registry
        async with registry.lease("a") as new:
            assert await new.ask(serial) == 3
        assert await other.ask(serial) == 1
    assert [report.actor for report in crashes] == ["item/a"]
    assert [report.restart_in_seconds for report in crashes] == [None]


async def test_an_old_lease_does_not_count_for_the_new_actor(
    registry: Registry[str, Message], world: World, autojump_clock: MockClock
) -> None:
    async with registry.lease("a") as ref:
        await ref.tell("stop")
        await ref.wait_stopped()
        async with registry.lease("a"):
            pass
        await trio.sleep(IDLE_SECONDS + 1)
        assert world.stopped == [("a", StopReason.SELF), ("a", StopReason.IDLE)]


async def test_stop_key_stops_a_leased_actor_and_waits_for_it(
    registry: Registry[str, Message], world: World, autojump_clock: MockClock
) -> None:
    world.stop_seconds = 5
    async with registry.lease("a") as ref:
        await registry.stop_key("a")
        assert ref.state is ActorState.STOPPED
        with pytest.raises(ActorStopped):
            await ref.ask(serial)
    assert world.stopped == [("a", StopReason.REQUESTED)]
    await registry.stop_key("a")
    await registry.stop_key("never started")


async def test_closing_the_registry_stops_all_of_its_actors_together(
    world: World, autojump_clock: MockClock
) -> None:
    world.stop_seconds = 5
    async with open_registry("items", world.spec, idle_seconds=IDLE_SECONDS) as registry:
        for key in "abc":
            async with registry.lease(key):
                pass
        closed_at = trio.current_time()
    assert trio.current_time() - closed_at == pytest.approx(5)
    assert sorted(world.stopped) == [(key, StopReason.SHUTDOWN) for key in "abc"]
    with pytest.raises(SupervisorClosed):
        await registry.lease("a").__aenter__()
    assert len(registry) == 0


async def test_an_error_in_the_block_of_a_registry_comes_out_as_it_is(world: World) -> None:
    with pytest.raises(LookupError):
        async with (
            open_registry("items", world.spec, idle_seconds=1) as registry,
            registry.lease("a"),
        ):
            raise LookupError


async def test_what_make_spec_raises_comes_out_of_the_lease() -> None:
    def refuse(key: str) -> ActorSpec[int]:
        raise LookupError(key)

    async with open_registry("items", refuse, idle_seconds=1) as registry:
        with pytest.raises(LookupError, match="a"):
            await registry.lease("a").__aenter__()
        assert len(registry) == 0


async def test_an_idle_time_that_is_not_positive_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="idle_seconds"):
        await open_registry("items", world.spec, idle_seconds=0).__aenter__()


async def test_one_task_serves_all_idle_actors(
    registry: Registry[str, Message], world: World, autojump_clock: MockClock
) -> None:
    def tasks() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    before = tasks()
    for number in range(50):
        async with registry.lease(str(number)):
            pass
    await wait_all_tasks_blocked()
    assert tasks() == before + 50
    await trio.sleep(2 * IDLE_SECONDS)
    assert tasks() == before
    assert len(world.stopped) == 50


# --- under random schedules -------------------------------------------------------------------


@attrs.define(eq=False)
class Town:
    """Users of a registry who do all there is to do, at random, and check what must hold."""

    rng: random.Random
    registry: Registry[int, Message] | None = None
    alive: dict[int, int] = attrs.field(factory=dict)
    leases: dict[ActorRef[Message], int] = attrs.field(factory=dict)
    released_at: dict[ActorRef[Message], float] = attrs.field(factory=dict)
    outcomes: list[str] = attrs.field(factory=list)
    made: int = 0

    def spec(self, key: int) -> ActorSpec[Message]:
        return ActorSpec(f"citizen/{key}", lambda: Citizen(self, key))

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    async def pause(self, most_seconds: float) -> None:
        if self.chance(0.7):
            await trio.sleep(self.rng.choice([0, 0.1, 1, most_seconds]))

    async def user(self, visits: int) -> None:
        for _ in range(visits):
            with trio.CancelScope() as scope:
                if self.chance(0.2):
                    scope.deadline = trio.current_time() + self.rng.choice([0, 0.1, 1, 3])
                self.outcomes.append(await self.visit(self.rng.randrange(3)))
            if scope.cancelled_caught:
                self.outcomes.append("cancelled")
            await self.pause(15)

    async def visit(self, key: int) -> str:
        assert self.registry is not None
        try:
            async with self.registry.lease(key) as ref:
                return await self.use(key, ref)
        except ActorStopped:
            return "stopped"
        except ActorCrashed as error:
            return "crashed" if isinstance(error.cause, OSError) else repr(error)

    async def use(self, key: int, ref: ActorRef[Message]) -> str:
        self.leases[ref] = self.leases.get(ref, 0) + 1
        try:
            first = await ref.ask(serial)
            await self.pause(12)
            if self.chance(0.1):
                await ref.tell(OSError("crash") if self.chance(0.5) else "stop")
            elif self.chance(0.05):
                assert self.registry is not None
                await self.registry.stop_key(key)
            assert await ref.ask(serial) == first, "a ref leads to one actor"
        finally:
            self.leases[ref] -= 1
            self.released_at[ref] = trio.current_time()
        return "served"


@attrs.define(eq=False)
class Citizen(Actor[Message]):
    town: Town
    key: int
    number: int = 0

    async def started(self) -> None:
        town = self.town
        assert self.key not in town.alive, "two actors for one key"
        town.made += 1
        self.number = town.alive[self.key] = town.made
        self.context.start_soon(self.live)
        await town.pause(2)
        if town.chance(0.1):
            raise OSError("failed to start")

    async def live(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            del self.town.alive[self.key]

    async def receive(self, message: Message) -> None:
        match message:
            case Reply():
                await self.town.pause(1)
                message.set(self.number)
            case str():
                self.context.stop()
            case _:
                raise message

    async def stopping(self, reason: StopReason) -> None:
        town = self.town
        if reason is StopReason.IDLE:
            ref = self.context.ref
            assert not town.leases.get(ref), "stopped for idleness while leased"
            idle_for = trio.current_time() - town.released_at.get(ref, 0)
            assert idle_for >= TOWN_IDLE_SECONDS - 1e-6, "stopped for idleness too early"
        await town.pause(2)


TOWN_IDLE_SECONDS = 10


async def live_in_town(seed: int, users: int) -> Town:
    town = Town(random.Random(seed))
    crashes: list[CrashReport] = []
    with trio.fail_after(10_000):
        async with open_registry(
            "town", town.spec, idle_seconds=TOWN_IDLE_SECONDS, on_crash=crashes.append
        ) as registry:
            town.registry = registry
            async with trio.open_nursery() as nursery:
                for _ in range(users):
                    nursery.start_soon(town.user, 8)
            await trio.sleep(4 * TOWN_IDLE_SECONDS)
            assert len(registry) == 0, "an unused actor was never stopped"
    assert not town.alive
    unexpected = [report.error for report in crashes if not isinstance(report.error, OSError)]
    assert not unexpected
    return town


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), users=st.integers(1, 6))
def test_one_actor_to_a_key_and_none_stopped_under_its_users_whatever_the_schedule(
    seed: int, users: int
) -> None:
    town = run_seeded(seed, live_in_town, seed, users)
    assert len(town.outcomes) == 8 * users


def test_the_random_users_meet_every_kind_of_outcome() -> None:
    outcomes = [o for seed in range(5) for o in run_seeded(seed, live_in_town, seed, 6).outcomes]
    assert set(outcomes) == {"served", "cancelled", "stopped", "crashed"}
