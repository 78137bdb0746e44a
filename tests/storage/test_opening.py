"""Becoming the only writer of a path: replay, fences, late arrivals, and what goes wrong."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import TypeVar

import attrs
import outcome
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.testing import run_seeded
from s2lite.codec.envelope import ObjectKind, read_header
from s2lite.model.errors import (
    CorruptObject,
    StorageError,
    StorageFailed,
    WriterFenced,
)
from s2lite.storage.manifest import manifest_key, newest_manifest
from s2lite.storage.object_store import ObjectInfo, ObjectStore
from s2lite.storage.wal import wal_key, write_wal
from tests.fakes.object_store import FakeObjectStore, Fault, FaultRates, Gate, Latency, Op
from tests.storage.log_writer import LogWriter, entry

T = TypeVar("T")


@pytest.fixture
def store() -> FakeObjectStore:
    return FakeObjectStore(Random(1))


def writer(store: ObjectStore, seed: int, in_flight: int = 1, lease: float = 0.0) -> LogWriter:
    return LogWriter(store, Random(seed), in_flight, lease)


def kinds(store: FakeObjectStore) -> list[tuple[str, int]]:
    """Kind and epoch of each WAL object, by number."""
    found = []
    for key in sorted(store.objects):
        if key.startswith("wal/"):
            header = read_header(key, store.objects[key].data)
            found.append((header.kind.name, header.writer.epoch))
    return found


FENCE, WAL = ObjectKind.FENCE.name, ObjectKind.WAL.name


# --- an orderly life --------------------------------------------------------------------------


async def test_a_fresh_path_is_opened_empty_with_the_first_epoch(store: FakeObjectStore) -> None:
    one = await writer(store, 1).open()
    assert one.epoch == 1
    assert one.replayed == []
    assert kinds(store) == [(FENCE, 1)]
    assert one.opened.next_wal_number == 1


async def test_opening_again_replays_everything_in_order(store: FakeObjectStore) -> None:
    one = await writer(store, 1).open()
    await one.write(*"abc")
    two = await writer(store, 2).open()
    assert two.replayed == ["a", "b", "c"]
    await two.write("d")
    three = await writer(store, 3).open()
    assert three.replayed == ["a", "b", "c", "d"]
    assert [one.epoch, two.epoch, three.epoch] == [1, 2, 3]


async def test_the_places_of_replayed_entries_are_where_they_can_be_read(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1).open()
    await one.write("a", "b")
    two = await writer(store, 2).open()
    assert two.replayed == ["a", "b"]
    assert kinds(store) == [(FENCE, 1), (WAL, 1), (WAL, 1), (FENCE, 2)]


async def test_what_was_closed_cleanly_is_opened_again_with_a_new_epoch(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1, in_flight=4).open()
    await one.write("a")
    await one.opened.close()
    two = await writer(store, 2).open()
    assert two.replayed == ["a"]
    assert two.epoch == 2


async def test_a_writer_that_was_replaced_cannot_close_cleanly(store: FakeObjectStore) -> None:
    one = await writer(store, 1).open()
    await writer(store, 2).open()
    with pytest.raises(WriterFenced):
        await one.opened.close()
    newest = await newest_manifest(store)
    assert newest is not None
    assert not newest.manifest.closed_cleanly


async def test_a_lost_object_in_the_middle_is_not_taken_for_the_end_of_the_log(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1).open()
    await one.write(*"abc")
    await store.delete(wal_key(2))
    with pytest.raises(CorruptObject) as caught:
        await writer(store, 2).open()
    assert caught.value.key == wal_key(2)
    assert wal_key(3) in caught.value.reason
    assert kinds(store) == [(FENCE, 1), (WAL, 1), (WAL, 1)]  # and nothing was fenced off


async def test_what_was_written_out_of_order_before_a_crash_is_no_lost_object(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1, in_flight=3).open()
    await write_wal(one.opened.creator, one.opened.next_wal_number + 2, [entry("never acked")])
    two = await writer(store, 2).open()
    assert two.replayed == []


# --- the lease and the window -------------------------------------------------------------------


async def time_to_open(store: FakeObjectStore, seed: int) -> tuple[float, LogWriter]:
    start = trio.current_time()
    opened = await writer(store, seed, lease=3.0).open()
    return trio.current_time() - start, opened


async def test_the_read_lease_is_waited_out_unless_the_last_writer_closed_cleanly(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    fresh, _ = await time_to_open(store, 1)
    after_crash, two = await time_to_open(store, 2)
    await two.opened.close()
    after_close, three = await time_to_open(store, 3)
    after_close_and_crash, _ = await time_to_open(store, 4)
    assert [fresh, after_crash, after_close, after_close_and_crash] == [0.0, 3.0, 0.0, 3.0]
    assert three.epoch == 3


async def test_the_fences_stand_before_the_lease_is_waited_out(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    one = await writer(store, 1).open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer(store, 2, lease=3.0).open)
        await trio.sleep(1)
        with pytest.raises(WriterFenced):
            await one.write("late")


async def test_every_number_the_old_writer_may_still_be_writing_is_fenced(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1, in_flight=4).open()
    await one.write("a")
    two = await writer(store, 2, in_flight=2).open()
    assert kinds(store) == [(FENCE, 1), (WAL, 1)] + [(FENCE, 2)] * 4
    assert two.opened.next_wal_number == 6


async def test_after_a_clean_close_one_fence_is_enough(store: FakeObjectStore) -> None:
    one = await writer(store, 1, in_flight=4).open()
    await one.write("a")
    await one.opened.close()
    await writer(store, 2).open()
    assert kinds(store) == [(FENCE, 1), (WAL, 1), (FENCE, 2)]


async def test_an_opener_that_dies_before_its_fences_leaves_the_window_to_the_next(
    store: FakeObjectStore,
) -> None:
    await writer(store, 1, in_flight=4).open()
    gate = store.hold("wal/")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer(store, 2).open)
        await gate.wait_held()
        nursery.cancel_scope.cancel()
    gate.release()
    three = await writer(store, 3).open()
    assert three.epoch == 3
    assert kinds(store)[1:] == [(FENCE, 3)] * 4


@pytest.mark.parametrize("stop", range(1, 9))
async def test_an_opener_that_dies_at_any_request_leaves_a_path_that_opens_again(
    stop: int,
) -> None:
    store = FakeObjectStore(Random(1))
    one = await writer(store, 1, in_flight=3).open()
    await one.write("a", "b")
    gate = store.hold("wal/" if stop > 1 else "manifest/", after_effect=stop % 2 == 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer(store, 2).open)
        await gate.wait_held()
        for _ in range(stop // 3):  # let it get on to the second and third fence
            gate.release()
            gate = store.hold("wal/", after_effect=stop % 2 == 0)
            await gate.wait_held()
        nursery.cancel_scope.cancel()
    gate.release()
    three = await writer(store, 3).open()
    assert three.replayed == ["a", "b"]
    await three.write("c")
    assert (await writer(store, 4).open()).replayed == ["a", "b", "c"]


# --- an old writer that is not dead -------------------------------------------------------------


@attrs.define(eq=False)
class Held:
    """A writer with writes held at the store, as one that was stopped or cut off."""

    writer: LogWriter
    gate: Gate
    error: StorageError | None = None
    done: trio.Event = attrs.field(factory=trio.Event)

    async def write(self, *texts: str) -> None:
        try:
            await self.writer.write(*texts)
        except StorageError as error:
            self.error = error
        self.done.set()


async def holding(
    nursery: trio.Nursery,
    store: FakeObjectStore,
    old: LogWriter,
    *texts: str,
    after_effect: bool = False,
) -> Held:
    held = Held(old, store.hold("wal/", after_effect=after_effect))
    nursery.start_soon(held.write, *texts)
    await held.gate.wait_held(min(len(texts), old.in_flight))
    return held


async def opened_past(held: Held, new: LogWriter) -> LogWriter:
    """Open for a new writer, whose own requests the gate must not stop."""
    waiting = list(held.gate.held)
    passing = FakeObjectStore(Random(9), objects=_store_of(held).objects)
    new.store = passing
    await new.open()
    assert held.gate.held == waiting
    return new


def _store_of(held: Held) -> FakeObjectStore:
    assert isinstance(held.writer.store, FakeObjectStore)
    return held.writer.store


async def test_a_write_that_arrives_after_the_fence_counts_for_nobody(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1).open()
    await one.write("a")
    async with trio.open_nursery() as nursery:
        held = await holding(nursery, store, one, "late")
        two = await opened_past(held, writer(store, 2))
        held.gate.release()
    assert isinstance(held.error, WriterFenced)
    assert one.acked == ["a"]
    assert two.replayed == ["a"]
    assert (await writer(store, 3).open()).replayed == ["a"]


async def test_a_write_that_was_faster_than_the_fence_is_replayed(
    store: FakeObjectStore,
) -> None:
    """The opener saw the number free, and the old writer's object landed before its fence."""
    one = await writer(store, 1).open()
    fence = store.hold("wal/")
    async with trio.open_nursery() as nursery:
        two = writer(store, 2)
        nursery.start_soon(two.open)
        await fence.wait_held()
        one.store = FakeObjectStore(Random(9), objects=store.objects)
        one.log = attrs.evolve(
            one.opened, creator=attrs.evolve(one.opened.creator, store=one.store)
        )
        await one.write("a")
        fence.release()
    assert one.acked == two.replayed == ["a"]
    assert kinds(store) == [(FENCE, 1), (WAL, 1), (FENCE, 2)]


async def test_a_write_whose_answer_was_lost_on_the_way_is_replayed_and_acked(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1).open()
    async with trio.open_nursery() as nursery:
        held = await holding(nursery, store, one, "a", after_effect=True)
        two = await opened_past(held, writer(store, 2))
        held.gate.release()
    assert one.acked == two.replayed == ["a"]
    with pytest.raises(WriterFenced):
        await one.write("b")


@pytest.mark.parametrize("landed", [(1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)])
async def test_of_writes_in_flight_those_after_a_gap_are_skipped_for_ever(
    landed: tuple[int, ...],
) -> None:
    """Numbers 1 to 3 are in flight; those in `landed` have arrived, the others come later."""
    store = FakeObjectStore(Random(1))
    one = await writer(store, 1, in_flight=3).open()
    gates = {number: store.hold(wal_key(number)) for number in (1, 2, 3)}
    outcome = Held(one, gates[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outcome.write, "one", "two", "three")
        for gate in gates.values():
            await gate.wait_held()
        for number in landed:
            gates[number].release()
        await wait_all_tasks_blocked()
        two = await opened_past(outcome, writer(store, 2))
        for gate in gates.values():
            gate.release()
    prefix = [text for number, text in enumerate(("one", "two", "three"), 1)
              if all(each in landed for each in range(1, number + 1))]  # fmt: skip
    assert one.acked == two.replayed == prefix
    await two.write("after")
    assert (await writer(store, 3).open()).replayed == [*prefix, "after"]
    assert outcome.error is None if landed == (1, 2, 3) else isinstance(outcome.error, WriterFenced)


async def test_an_ambiguous_write_is_found_to_be_ours(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    one = await writer(store, 1).open()
    store.fail_next(Op.PUT_NEW, "wal/", Fault.ERROR_AFTER)
    await one.write("a")
    assert one.acked == ["a"]


async def test_an_ambiguous_write_is_found_to_be_fenced(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    one = await writer(store, 1).open()
    outcome = Held(one, store.hold("nothing/"))
    store.fail_next(Op.PUT_NEW, "wal/", Fault.ERROR_BEFORE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outcome.write, "a")
        await trio.sleep(0.01)
        await writer(store, 2).open()
    assert isinstance(outcome.error, WriterFenced)
    assert one.acked == []


async def test_a_writer_that_slept_for_long_learns_it_from_its_next_write(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1).open()
    for seed in range(2, 6):
        later = await writer(store, seed).open()
        await later.write(f"by {seed}")
    with pytest.raises(WriterFenced):
        await one.write("late")


# --- several openers ----------------------------------------------------------------------------


async def test_of_two_that_open_at_once_the_one_with_the_higher_epoch_writes(
    autojump_clock: MockClock,
) -> None:
    for seed in range(30):
        await _open_two(seed)


async def _open_two(seed: int) -> None:
    store = FakeObjectStore(Random(seed), Latency.all(0.0, 1.0))
    writers = [writer(store, 2 * seed, in_flight=2), writer(store, 2 * seed + 1, in_flight=3)]
    failures: list[LogWriter] = []

    async def opening(one: LogWriter) -> None:
        try:
            await one.open()
        except WriterFenced:
            failures.append(one)

    async with trio.open_nursery() as nursery:
        for each in writers:
            nursery.start_soon(opening, each)
    opened = sorted((each for each in writers if each.log is not None), key=lambda w: w.epoch)
    assert opened
    assert len({each.epoch for each in opened}) == len(opened)
    await opened[-1].write("mine")
    for loser in opened[:-1]:
        with pytest.raises(WriterFenced):
            await loser.write("not mine")
    assert (await writer(store, 1000).open()).replayed == ["mine"]


async def test_an_opener_that_is_overtaken_gives_up(store: FakeObjectStore) -> None:
    """It has its epoch, and before it has its fence another server opens and writes."""
    gate = store.hold("wal/")
    errors: list[type[StorageError]] = []

    async def opening() -> None:
        try:
            await writer(store, 1).open()
        except StorageError as error:
            errors.append(type(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(opening)
        await gate.wait_held()
        passing = FakeObjectStore(Random(9), objects=store.objects)
        two = await writer(passing, 2).open()
        await two.write("a", "b")
        gate.release()
    assert errors == [WriterFenced]
    assert two.epoch == 2
    await two.write("c")


# --- damage and trouble -------------------------------------------------------------------------


async def test_a_damaged_wal_object_is_named(store: FakeObjectStore) -> None:
    one = await writer(store, 1).open()
    await one.write("a", "b")
    data = bytearray(store.objects[wal_key(1)].data)
    data[-20] ^= 1
    store.damage(wal_key(1), bytes(data))
    with pytest.raises(CorruptObject) as caught:
        await writer(store, 2).open()
    assert caught.value.key == wal_key(1)


async def test_a_damaged_manifest_is_named(store: FakeObjectStore) -> None:
    await writer(store, 1).open()
    store.damage(manifest_key(1), b"")
    with pytest.raises(CorruptObject) as caught:
        await writer(store, 2).open()
    assert caught.value.key == manifest_key(1)


@pytest.mark.parametrize("op", [Op.LIST, Op.GET, Op.PUT_NEW])
async def test_a_store_that_is_briefly_away_does_not_keep_a_path_from_being_opened(
    store: FakeObjectStore, autojump_clock: MockClock, op: Op
) -> None:
    one = await writer(store, 1).open()
    await one.write("a")
    for prefix in ("manifest/", "wal/"):
        store.fail_next(op, prefix, Fault.ERROR_BEFORE, times=2)
    assert (await writer(store, 2).open()).replayed == ["a"]


@pytest.mark.parametrize("op", [Op.LIST, Op.GET, Op.PUT_NEW])
async def test_a_store_that_stays_away_fails_the_opening(
    store: FakeObjectStore, autojump_clock: MockClock, op: Op
) -> None:
    await writer(store, 1).open()
    for prefix in ("manifest/", "wal/"):
        store.fail_next(op, prefix, Fault.ERROR_BEFORE, times=10_000)
    with pytest.raises(StorageFailed):
        await writer(store, 2).open()
    assert 30 < trio.current_time() < 200


# --- any interleaving ---------------------------------------------------------------------------


@attrs.define(eq=False)
class Process:
    """The store as a process sees it that can be stopped and killed.

    What it has sent goes on without it: a request whose sender is cancelled still arrives, and an
    answer to a stopped process waits until that goes on.
    """

    store: FakeObjectStore
    network: trio.Nursery
    rng: Random
    _runs: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self._runs.set()

    async def put_new(self, key: str, data: bytes) -> None:
        await self._request(lambda: self.store.put_new(key, data))

    async def get(self, key: str) -> bytes:
        return await self._request(lambda: self.store.get(key))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        return await self._request(lambda: self.store.get_range(key, start, length))

    async def list(self, prefix: str, start_after: str = "") -> list[ObjectInfo]:
        return await self._request(lambda: self.store.list(prefix, start_after))

    async def delete(self, key: str) -> None:
        await self._request(lambda: self.store.delete(key))

    async def stop_for(self, seconds: float) -> None:
        """Be stopped, as by SIGSTOP, for so long."""
        self._runs = trio.Event()
        await trio.sleep(seconds)
        self._runs.set()

    async def _request(self, send: Callable[[], Awaitable[T]]) -> T:
        await self._runs.wait()
        answers: list[outcome.Outcome[T]] = []
        answered = trio.Event()
        way_there = self.rng.choice([0.0] * 6 + [0.2, 1.0, 30.0])

        async def underway() -> None:
            await trio.sleep(way_there)
            answers.append(await outcome.acapture(send))
            answered.set()

        self.network.start_soon(underway)
        await answered.wait()
        await self._runs.wait()
        return answers[0].unwrap()


@attrs.define(eq=False)
class Simulation:
    """Writers that open one path one after the other or at once, write, stop, and are killed."""

    seed: int
    flaw: str = ""
    rng: Random = attrs.field(init=False)
    store: FakeObjectStore = attrs.field(init=False)
    writers: list[LogWriter] = attrs.field(factory=list)
    served_at: list[tuple[int, list[str]]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.rng = Random(self.seed)
        self.store = FakeObjectStore(
            Random(self.seed + 1),
            Latency.all(0.0, 0.5),
            FaultRates(error_before=0.05, error_after=0.1),
        )

    async def run(self) -> list[str]:
        """Live through it, and return what the last writer of all finds."""
        async with trio.open_nursery() as network:
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(self._life, Process(self.store, network, self.rng))
                    await trio.sleep(self.rng.choice([0.0, 0.3, 2.0, 20.0]))
            await trio.sleep(60)  # whatever is still on its way arrives
        self.store.latency, self.store.faults = Latency(), FaultRates()
        last = await LogWriter(self.store, Random(self.seed + 2)).open()
        return last.replayed

    async def _life(self, process: Process) -> None:
        writer = LogWriter(
            process,
            Random(self.rng.random()),
            self.rng.randint(1, 4),
            acks_out_of_order=self.flaw == "acks out of order",
            trusts_what_exists=self.flaw == "trusts what exists",
        )
        with trio.move_on_after(self.rng.choice([1.0, 10.0, 60.0, 200.0])):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pauses, process)
                with suppress(WriterFenced, StorageFailed):
                    await self._serve(writer)
                nursery.cancel_scope.cancel()

    async def _serve(self, writer: LogWriter) -> None:
        await writer.open()
        # Whatever an earlier writer has acked by the time this one serves, it must know. (That a
        # later one has already taken over it may not know yet: it will when it writes.)
        known = [
            text for other in self.writers if other.epoch < writer.epoch for text in other.acked
        ]
        self.served_at.append((len(writer.replayed), known))
        assert set(known) <= set(writer.replayed), "an opener does not know what was acked"
        self.writers.append(writer)
        for round_ in range(self.rng.randint(1, 4)):
            texts = [f"{writer.epoch}.{round_}.{n}" for n in range(self.rng.randint(1, 6))]
            await writer.write(*texts)
            await trio.sleep(self.rng.choice([0.0, 1.0, 5.0]))
        if self.rng.random() < 0.3:
            await writer.opened.close()

    async def _pauses(self, process: Process) -> None:
        while True:
            await trio.sleep(self.rng.uniform(0.1, 10.0))
            await process.stop_for(self.rng.choice([0.1, 2.0, 40.0]))


def simulate(seed: int, flaw: str = "") -> tuple[Simulation, list[str]]:
    simulation = Simulation(seed, flaw)
    return simulation, run_seeded(seed, simulation.run)


def check(simulation: Simulation, final: list[str]) -> None:
    """Everything a writer was told or told others is what the log begins with, in that order."""
    assert len(set(final)) == len(final), "something was replayed twice"
    for writer in simulation.writers:
        assert final[: len(writer.known)] == writer.known
    epochs = [writer.epoch for writer in simulation.writers]
    assert len(set(epochs)) == len(epochs)


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(4))
def test_whatever_the_interleaving_what_was_acked_stays_and_no_two_writers_disagree(
    batch: int,
) -> None:
    acked = contested = 0
    for seed in range(batch * 60, batch * 60 + 60):
        simulation, final = simulate(seed)
        check(simulation, final)
        acked += sum(len(writer.acked) for writer in simulation.writers)
        contested += any(writer.error for writer in simulation.writers)
    assert acked > 200
    assert contested > 5


@pytest.mark.slow
@pytest.mark.parametrize("flaw", ["acks out of order", "trusts what exists"])
def test_the_simulation_finds_out_a_writer_that_breaks_the_rules(flaw: str) -> None:
    def is_caught(seed: int) -> bool:
        try:
            check(*simulate(seed, flaw))
        except (AssertionError, ExceptionGroup):
            return True
        return False

    assert any(is_caught(seed) for seed in range(100))


def test_a_seed_lives_through_the_same_twice() -> None:
    def trace(seed: int) -> list[object]:
        simulation, final = simulate(seed)
        return [final, [(w.epoch, w.acked) for w in simulation.writers], simulation.served_at]

    assert trace(3) == trace(3)
    assert trace(3) != trace(4)
