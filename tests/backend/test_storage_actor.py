"""The log writer: what shares an object, in which order it is announced, and how it ends."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import ActorSpec, RestartsExhausted, open_supervisor
from actors.testing import VirtualClock
from s2lite.backend.catalog import Catalog, DurableState
from s2lite.backend.engine import NO_RESTART
from s2lite.backend.storage_actor import (
    STORAGE_MAILBOX_CAPACITY,
    StorageActor,
    StorageClient,
    StorageStatus,
    Submit,
    Written,
)
from s2lite.codec.envelope import WriterIdentity
from s2lite.model.config import BasinConfig
from s2lite.model.errors import StorageError, StorageFailed, WriterFenced
from s2lite.model.log import AppendEntry, BasinCreated, BasinRecord, BasinRemoved, StreamId
from s2lite.model.names import BasinName
from s2lite.model.records import SequencedBatch
from s2lite.storage.creation import ObjectCreator
from s2lite.storage.damage import Damage
from s2lite.storage.layout import Layout
from s2lite.storage.memtable import Memtable
from s2lite.storage.ownership import WRITES_PROVEN_SECONDS, Ownership
from s2lite.storage.pacing import BURST, Pacing
from s2lite.storage.wal import read_wal, wal_key, write_fence
from tests.fakes.object_store import FakeObjectStore, Fault, Latency, Op


def creation(text: str) -> BasinCreated:
    return BasinCreated(BasinRecord(BasinName(text), BasinConfig(), 0))


@attrs.define(eq=False)
class Writer:
    """A log writer, and a note of what it announced."""

    store: FakeObjectStore
    client: StorageClient
    state: DurableState
    ownership: Ownership
    clock: VirtualClock
    announced: list[tuple[str, StorageError | None]] = attrs.field(factory=list)

    def submit(self, *names: str) -> None:
        """Submit each as a submission of its own."""
        for name in names:
            self.submit_together(name)

    def submit_together(self, *names: str) -> None:
        label = " ".join(names)
        self.client.submit(
            [creation(name) for name in names],
            lambda error: self._note(label, names, error),
        )

    def _note(self, label: str, names: Sequence[str], error: StorageError | None) -> None:
        if error is None:
            assert all(self.state.catalog.basin(BasinName(name)) for name in names)
        self.announced.append((label, error))

    @property
    def durable(self) -> list[str]:
        return [label for label, error in self.announced if error is None]

    @property
    def puts(self) -> list[str]:
        return [each.key for each in self.store.operations(Op.PUT_NEW)]


@asynccontextmanager
async def running(
    store: FakeObjectStore | None = None,
    wal_in_flight: int = 1,
    first_number: int = 0,
    *,
    pacing: Pacing | None = None,
    layout: Layout | None = None,
    lease_seconds: float | None = None,
) -> AsyncIterator[Writer]:
    store, clock = store or FakeObjectStore(Random(1)), VirtualClock()
    creator = ObjectCreator(store, WriterIdentity(1, bytes(16)), Random(1))
    ownership = Ownership(store, clock, creator.writer, lambda: 1, Random(1), lease_seconds)
    ownership.proved(ownership.now())
    memtable = Memtable(layout or Layout(), first_number)
    state, status = DurableState(Catalog(), memtable, Damage()), StorageStatus()
    spec = ActorSpec(
        "log writer",
        lambda: StorageActor(
            creator, ownership, state, status, first_number, wal_in_flight, pacing or Pacing()
        ),
        NO_RESTART,
        STORAGE_MAILBOX_CAPACITY,
    )
    async with open_supervisor("storage") as supervisor:
        ref = await supervisor.start(spec)
        client = StorageClient(ref, status)
        ownership.on_fenced = client.fail
        yield Writer(store, client, state, ownership, clock)


def names(count: int) -> list[str]:
    return [f"basin-{number:04}" for number in range(count)]


# --- group commit -----------------------------------------------------------------------------


async def test_a_single_submission_is_written_at_once(autojump_clock: MockClock) -> None:
    async with running() as writer:
        writer.submit("a")
        await wait_all_tasks_blocked()
        assert writer.durable == ["a"]
        assert trio.current_time() == 0.0


async def test_a_steady_stream_of_submissions_does_not_put_off_the_first() -> None:
    async with running() as writer:

        async def submitting(name: str) -> None:
            for number in range(200):
                writer.submit(f"{name}-{number}")
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for name in names(10):
                nursery.start_soon(submitting, name)
        # Every pass of the scheduler brought more; a writer that waits for one that does not would
        # hardly have begun.
        assert len(writer.puts) >= 5


@pytest.mark.parametrize("late", [0, 1])
async def test_what_is_ready_to_be_submitted_shares_an_object(late: int) -> None:
    """Whoever comes in the scheduler's pass in which the writer hears of the first joins, too."""
    async with running() as writer:

        async def submitting(name: str, passes: int) -> None:
            for _ in range(passes):
                await trio.lowlevel.checkpoint()
            writer.submit(name)

        async with trio.open_nursery() as nursery:
            for number, name in enumerate(names(20)):
                nursery.start_soon(submitting, name, late if number % 2 else 0)
        await wait_all_tasks_blocked()
        assert writer.puts == [wal_key(0)]
        assert sorted(writer.durable) == names(20)


async def test_what_is_submitted_while_an_object_is_written_goes_into_the_next() -> None:
    async with running() as writer:
        gate = writer.store.hold(wal_key(0))
        writer.submit("first")
        await gate.wait_held()
        for name in names(100):
            writer.submit(name)
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        assert writer.puts == [wal_key(0)]
        assert writer.durable == []
        gate.release()
        await wait_all_tasks_blocked()
        assert writer.puts == [wal_key(0), wal_key(1)]
        assert writer.durable == ["first", *names(100)]


async def test_the_log_holds_the_submissions_in_their_order() -> None:
    async with running(first_number=7) as writer:
        gate = writer.store.hold("wal/")
        writer.submit("first")
        await gate.wait_held()
        writer.submit(*names(5))
        writer.submit_together("x", "y")
        gate.release()
        await wait_all_tasks_blocked()
        found = []
        for number in (7, 8):
            _, entries = await read_wal(writer.store, number)
            found += [each.record.name for each in entries if isinstance(each, BasinCreated)]
        assert found == ["first", *names(5), "x", "y"]


async def test_an_object_is_closed_at_its_target_size() -> None:
    async with running() as writer:
        gate = writer.store.hold(wal_key(0))
        writer.submit("first")
        await gate.wait_held()
        size = Layout().wal_object_bytes // 4 + 1
        for name in names(7):
            writer.client.ref.tell_nowait(_sized(writer, name, size))
        gate.release()
        await wait_all_tasks_blocked()
        counts = [len((await read_wal(writer.store, number))[1]) for number in range(4)]
        assert counts == [1, 3, 3, 1]


async def test_an_object_is_closed_at_its_greatest_number_of_entries() -> None:
    async with running(layout=Layout(wal_object_entries=3)) as writer:
        gate = writer.store.hold(wal_key(0))
        writer.submit("first")
        await gate.wait_held()
        for name in names(7):
            writer.submit(name)
        gate.release()
        await wait_all_tasks_blocked()
        counts = [len((await read_wal(writer.store, number))[1]) for number in range(4)]
        assert counts == [1, 3, 3, 1]


async def test_a_submission_above_the_target_size_is_an_object_of_its_own() -> None:
    async with running() as writer:
        gate = writer.store.hold(wal_key(0))
        writer.submit("first")
        await gate.wait_held()
        for name, size in (("small", 1), ("huge", Layout().wal_object_bytes * 2), ("tiny", 1)):
            writer.client.ref.tell_nowait(_sized(writer, name, size))
        gate.release()
        await wait_all_tasks_blocked()
        assert writer.durable == ["first", "small", "huge", "tiny"]
        assert len(writer.puts) == 4


def _sized(writer: Writer, name: str, size_bytes: int) -> Submit:
    return Submit([creation(name)], lambda error: writer._note(name, [name], error), size_bytes)


# --- several objects in flight ------------------------------------------------------------------


async def test_no_more_objects_are_in_flight_than_allowed() -> None:
    async with running(wal_in_flight=3) as writer:
        gate = writer.store.hold("wal/")
        for name in names(6):
            writer.submit(name)
            await wait_all_tasks_blocked()
        assert len(writer.puts) == 3
        gate.release()
        await wait_all_tasks_blocked()
        assert len(writer.puts) == 4
        assert writer.durable == names(6)


async def test_objects_that_complete_out_of_order_are_announced_in_order() -> None:
    async with running(wal_in_flight=4) as writer:
        gates = [writer.store.hold(wal_key(number)) for number in range(4)]
        for name in names(4):
            writer.submit(name)
            await wait_all_tasks_blocked()
        seen = []
        for number in (2, 1, 3, 0):
            gates[number].release()
            await wait_all_tasks_blocked()
            seen.append(len(writer.durable))
        assert seen == [0, 0, 0, 4]
        assert writer.durable == names(4)


async def test_an_object_that_waits_for_an_older_one_keeps_its_slot() -> None:
    """Or the numbers in flight would reach further than an opener fences."""
    async with running(wal_in_flight=2) as writer:
        gate = writer.store.hold(wal_key(0))
        for name in names(4):
            writer.submit(name)
            await wait_all_tasks_blocked()
        assert writer.puts == [wal_key(0), wal_key(1)]
        gate.release()
        await wait_all_tasks_blocked()
        assert writer.durable == names(4)


async def test_nothing_of_an_object_shows_before_all_older_ones_are_durable() -> None:
    async with running(wal_in_flight=2) as writer:
        gate = writer.store.hold(wal_key(0))
        for name in ("one", "two"):
            writer.submit(name)
            await wait_all_tasks_blocked()
        assert wal_key(1) in writer.store.objects
        assert writer.state.catalog.basin(BasinName("two")) is None
        gate.release()
        await wait_all_tasks_blocked()
        assert writer.state.catalog.basin(BasinName("two")) is not None


async def test_under_random_latencies_announcements_keep_the_order(
    autojump_clock: MockClock,
) -> None:
    store = FakeObjectStore(Random(3), Latency.all(0.0, 1.0))
    async with running(store, wal_in_flight=4) as writer:
        rng = Random(5)
        for name in names(200):
            writer.submit(name)
            if rng.random() < 0.3:
                await trio.sleep(rng.uniform(0, 0.5))
        await writer.client.settle()
        assert writer.durable == names(200)
        assert 10 < len(writer.puts) < 150


# --- pacing -------------------------------------------------------------------------------------


async def test_the_first_submissions_after_a_pause_do_not_wait(autojump_clock: MockClock) -> None:
    async with running(pacing=Pacing(1.0)) as writer:
        for name in names(BURST):
            writer.submit(name)
            await wait_all_tasks_blocked()
        assert writer.durable == names(BURST)
        assert trio.current_time() == 0.0


async def test_under_steady_load_objects_are_an_interval_apart(autojump_clock: MockClock) -> None:
    async with running(pacing=Pacing(1.0), wal_in_flight=4) as writer:
        for name in names(1000):
            writer.submit(name)
            await trio.sleep(0.1)
        assert BURST + 98 <= len(writer.puts) <= BURST + 102
        await writer.client.settle()
        assert writer.durable == names(1000)


async def test_an_object_that_is_full_does_not_wait(autojump_clock: MockClock) -> None:
    async with running(pacing=Pacing(1000.0, burst=1)) as writer:
        size = Layout().wal_object_bytes // 4
        for name in names(10):
            writer.client.ref.tell_nowait(_sized(writer, name, size))
            await wait_all_tasks_blocked()
        assert writer.durable == names(9)
        assert len(writer.puts) == 3
        await trio.sleep(1001)
        assert writer.durable == names(10)


async def test_an_object_with_all_the_entries_it_may_have_does_not_wait(
    autojump_clock: MockClock,
) -> None:
    layout = Layout(wal_object_entries=3)
    async with running(layout=layout, pacing=Pacing(1000.0, burst=1)) as writer:
        writer.submit("first")
        await wait_all_tasks_blocked()
        for name in names(7):
            writer.submit(name)
            await wait_all_tasks_blocked()
        assert writer.durable == ["first", *names(6)]
        await trio.sleep(1001)
        assert writer.durable == ["first", *names(7)]


# --- falling behind -----------------------------------------------------------------------------

TWO_OBJECTS = Layout(wal_objects=2)
"""A flush is due after every two objects."""


async def test_while_the_memtable_is_full_twice_over_nothing_is_written(
    autojump_clock: MockClock,
) -> None:
    async with running(layout=TWO_OBJECTS) as writer:
        memtable, status = writer.state.memtable, writer.client.status
        for name in ("a", "b"):
            writer.submit(name)
            await wait_all_tasks_blocked()
        assert memtable.flush_due
        memtable.freeze()
        for name in ("c", "d", "e", "f"):
            writer.submit(name)
            await wait_all_tasks_blocked()
        assert memtable.stalled
        assert writer.durable == ["a", "b", "c", "d"]
        assert len(writer.puts) == 4
        stalled = [(status.stalled_since, status.stalled_seconds)]

        await trio.sleep(3)
        memtable.release()
        writer.client.flushed()
        await wait_all_tasks_blocked()
        assert writer.durable == ["a", "b", "c", "d", "e", "f"]
        assert len(writer.puts) == 5
        stalled.append((status.stalled_since, status.stalled_seconds))
        assert stalled == [(0.0, 0.0), (None, 3.0)]


async def test_a_flush_that_ends_while_nothing_waits_starts_nothing() -> None:
    async with running(layout=TWO_OBJECTS) as writer:
        writer.client.flushed()
        await wait_all_tasks_blocked()
        assert writer.puts == []


async def test_the_memtable_is_told_when_an_object_has_been_applied_completely() -> None:
    async with running(wal_in_flight=2, first_number=5) as writer:
        gate = writer.store.hold(wal_key(5))
        for name in ("a", "b"):
            writer.submit(name)
            await wait_all_tasks_blocked()
        assert writer.state.memtable.wal_end == 5
        gate.release()
        await wait_all_tasks_blocked()
        assert writer.state.memtable.wal_end == 7


# --- proofs of ownership ------------------------------------------------------------------------


async def test_behind_a_lock_only_objects_are_put(autojump_clock: MockClock) -> None:
    async with running() as writer:
        for name in names(3):
            writer.submit(name)
            await wait_all_tasks_blocked()
            writer.clock.suspend(24 * 3600)
        assert [each.op for each in writer.store.log] == [Op.PUT_NEW] * 3


async def test_an_announced_object_renews_the_lease(autojump_clock: MockClock) -> None:
    async with running(lease_seconds=1.0) as writer:
        await trio.sleep(5)
        writer.submit("a")
        await wait_all_tasks_blocked()
        assert writer.ownership.is_current
        assert [each.op for each in writer.store.log] == [Op.PUT_NEW]


@pytest.mark.parametrize(("age", "current"), [(0.9, True), (1.1, False)])
async def test_the_lease_counts_from_the_start_of_the_newest_object_announced(
    autojump_clock: MockClock, age: float, current: bool
) -> None:
    async with running(wal_in_flight=2, lease_seconds=1.0) as writer:
        await trio.sleep(5)
        gate = writer.store.hold(wal_key(0), after_effect=True)
        writer.submit("a")
        await trio.sleep(3)
        writer.submit("b")
        await trio.sleep(age)
        gate.release()
        await wait_all_tasks_blocked()
        assert writer.durable == ["a", "b"]
        assert writer.ownership.is_current is current


async def test_an_object_that_waits_for_an_older_one_proves_nothing(
    autojump_clock: MockClock,
) -> None:
    async with running(wal_in_flight=2, lease_seconds=1.0) as writer:
        await trio.sleep(5)
        gate = writer.store.hold(wal_key(0))
        for name in ("a", "b"):
            writer.submit(name)
            await wait_all_tasks_blocked()
        assert wal_key(1) in writer.store.objects
        assert not writer.ownership.is_current
        gate.release()


async def test_a_minute_after_the_last_proof_the_manifests_are_read_before_the_ack(
    autojump_clock: MockClock,
) -> None:
    async with running(lease_seconds=1.0) as writer:
        writer.clock.suspend(WRITES_PROVEN_SECONDS + 1)
        gate = writer.store.hold("manifest/", Op.GET_RANGE)
        writer.submit("a")
        await gate.wait_held()
        assert wal_key(0) in writer.store.objects
        assert writer.durable == []
        assert writer.client.ref.idle, "the actor goes on meanwhile"
        gate.release()
        await wait_all_tasks_blocked()
        assert writer.durable == ["a"]


# --- settling -----------------------------------------------------------------------------------


async def test_settling_with_nothing_submitted_returns_at_once(autojump_clock: MockClock) -> None:
    async with running() as writer:
        with trio.fail_after(1):
            await writer.client.settle()


async def test_settling_waits_for_everything_submitted_before(autojump_clock: MockClock) -> None:
    store = FakeObjectStore(Random(1), Latency.all(1.0, 1.0))
    async with running(store) as writer:
        writer.submit("a")
        await trio.sleep(0.5)
        writer.submit("b")
        await writer.client.settle()
        assert writer.durable == ["a", "b"]


async def test_settling_does_not_wait_for_what_is_submitted_after(
    autojump_clock: MockClock,
) -> None:
    """With others submitting all the time there is always something in flight."""
    store = FakeObjectStore(Random(1), Latency.all(1.0, 1.0))
    async with running(store) as writer, trio.open_nursery() as nursery:

        async def busy() -> None:
            for name in names(10_000):
                writer.submit(name)
                await trio.sleep(0.1)

        nursery.start_soon(busy)
        await trio.sleep(5.05)
        with trio.fail_after(3):
            await writer.client.settle()
        nursery.cancel_scope.cancel()


async def test_settling_a_stream_waits_for_its_own_batches_only(autojump_clock: MockClock) -> None:
    async with running() as writer:
        gates = [writer.store.hold(wal_key(number)) for number in range(3)]
        mine, other, idle = (StreamId(bytes([number]) * 16) for number in range(3))
        done: list[str] = []

        async def settling(name: str, stream_id: StreamId | None) -> None:
            await (
                writer.client.settle()
                if stream_id is None
                else writer.client.settle_stream(stream_id)
            )
            done.append(name)

        async with trio.open_nursery() as nursery:
            for stream_id in (mine, other, mine):
                writer.client.submit([batch_of(stream_id)], lambda error: None)
                await wait_all_tasks_blocked()
                if stream_id is mine:
                    nursery.start_soon(settling, f"mine {len(done)}", mine)
                nursery.start_soon(settling, "idle", idle)
                await wait_all_tasks_blocked()
            nursery.start_soon(settling, "other", other)
            nursery.start_soon(settling, "all", None)
            await wait_all_tasks_blocked()
            assert done == ["idle"] * 3
            gates[0].release()
            await wait_all_tasks_blocked()
            nursery.start_soon(settling, "mine later", mine)
            await wait_all_tasks_blocked()
            assert done[3:] == ["mine 0"]
            gates[1].release()
            await wait_all_tasks_blocked()
            # The second and third submission shared an object.
            assert sorted(done[4:]) == ["all", "mine 2", "mine later", "other"]
        await writer.client.settle_stream(mine)


def batch_of(stream_id: StreamId) -> AppendEntry:
    return AppendEntry(stream_id, SequencedBatch(0, 1, 0, 0, 8, b"payload"))


# --- failure --------------------------------------------------------------------------------------


async def until_it_fails(
    scenario: Callable[[Writer], Awaitable[None]], wal_in_flight: int = 2
) -> tuple[Writer, BaseException | None]:
    """Run the scenario until the writer gives up; the writer, and what it gave up with."""
    writer: Writer | None = None
    try:
        async with running(wal_in_flight=wal_in_flight) as writer:
            await scenario(writer)
            await trio.sleep_forever()
    except RestartsExhausted as failure:
        assert writer is not None
        return writer, failure.cause
    raise AssertionError("it did not fail")


@pytest.mark.parametrize("error", [StorageFailed, WriterFenced])
async def test_a_failed_write_fails_everything_and_stops_the_writer(
    autojump_clock: MockClock, error: type[StorageError]
) -> None:
    async def scenario(writer: Writer) -> None:
        writer.submit("before")
        await wait_all_tasks_blocked()
        if error is WriterFenced:
            newer = WriterIdentity(2, bytes(16))
            await write_fence(ObjectCreator(writer.store, newer, Random(2)), 1)
        else:
            writer.store.fail_next(Op.PUT_NEW, wal_key(1), Fault.REFUSED)
        gate = writer.store.hold(wal_key(1))
        for name in names(5):
            writer.submit(name)
            await wait_all_tasks_blocked()
        gate.release()

    writer, cause = await until_it_fails(scenario)
    assert isinstance(cause, error)
    assert [label for label, _ in writer.announced] == ["before", *names(5)]
    assert writer.durable == ["before"]
    assert {type(failure) for _, failure in writer.announced[1:]} == {error}
    assert isinstance(writer.client.status.failure, error)


async def test_after_a_failure_an_object_written_later_is_not_announced(
    autojump_clock: MockClock,
) -> None:
    async def scenario(writer: Writer) -> None:
        gates = [writer.store.hold(wal_key(number)) for number in (0, 1)]
        for name in ("one", "two"):
            writer.submit(name)
            await wait_all_tasks_blocked()
        gates[1].release()
        await wait_all_tasks_blocked()
        gates[0].fail(WriterFenced())

    writer, _ = await until_it_fails(scenario)
    assert writer.durable == []
    assert writer.state.catalog.basin(BasinName("two")) is None


async def test_after_a_failure_a_submission_fails_at_once_and_settling_says_why(
    autojump_clock: MockClock,
) -> None:
    settling: list[StorageError] = []

    async def scenario(writer: Writer) -> None:
        writer.store.fail_next(Op.PUT_NEW, "wal/", Fault.REFUSED)
        writer.submit("a")
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
            writer.submit("b")
            assert len(writer.announced) == 2
            try:
                await writer.client.settle()
            except StorageError as error:
                settling.append(error)

    writer, cause = await until_it_fails(scenario)
    assert [error for _, error in writer.announced] == [cause, cause]
    assert settling == [cause]


async def test_a_removal_is_applied_with_the_rest_of_its_submission() -> None:
    async with running() as writer:
        done: list[StorageError | None] = []
        writer.client.submit([creation("gone"), BasinRemoved(BasinName("gone"))], done.append)
        await wait_all_tasks_blocked()
        assert done == [None]
        assert writer.state.catalog.basin(BasinName("gone")) is None


async def test_a_reader_that_finds_a_newer_writer_stops_this_one(
    autojump_clock: MockClock,
) -> None:
    refused: list[StorageError] = []

    async def scenario(writer: Writer) -> None:
        writer.submit("before")
        await wait_all_tasks_blocked()
        gate = writer.store.hold(wal_key(1), after_effect=True)
        writer.submit("in flight")
        await gate.wait_held()
        writer.submit("queued")
        await wait_all_tasks_blocked()
        # The write is done, but the log writer has not heard of it yet.
        writer.client.ref.tell_nowait(Written(1, writer.ownership.now()))
        writer.ownership.lose(WriterFenced.by(2))
        writer.submit("after")
        try:
            await writer.ownership.ensure_current()
        except WriterFenced as error:
            refused.append(error)

    writer, cause = await until_it_fails(scenario)
    assert isinstance(cause, WriterFenced)
    assert "epoch 2" in str(cause)
    assert refused == [cause]
    assert writer.durable == ["before"]
    assert sorted(label for label, _ in writer.announced) == [
        "after",
        "before",
        "in flight",
        "queued",
    ]
