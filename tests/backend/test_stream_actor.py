"""Appends: what is acked when, in which order, and what becomes of those that are given up."""

from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import Reply, RestartsExhausted
from actors.testing import VirtualClock
from s2lite.backend.backend import Backend
from s2lite.backend.stream_actor import Append
from s2lite.backend.stream_handle import StreamHandle
from s2lite.model.config import (
    RetentionPolicy,
    StreamConfigLayer,
    StreamReconfiguration,
    TimestampingMode,
)
from s2lite.model.errors import (
    FencingTokenMismatch,
    InvalidInput,
    OutcomeUnknown,
    S2LiteError,
    SeqNumMismatch,
    StorageError,
    StorageFailed,
    StreamUnavailable,
    WriterFenced,
)
from s2lite.model.log import StreamId
from s2lite.model.positions import StreamPosition
from s2lite.model.reads import FromSeqNum, ReadRequest
from s2lite.model.records import AppendAck, AppendBatch, AppendInput, Fence, Trim
from s2lite.settings import Settings
from s2lite.storage.layout import Layout
from s2lite.storage.wal import wal_key
from tests.backend.world import (
    BASIN,
    STREAM,
    append_of,
    following,
    new_stream,
    open_stream,
    read_all,
    seq_nums,
)
from tests.fakes.backend import START_MS, running_backend
from tests.fakes.object_store import FakeObjectStore, Gate, Latency, Op

INFINITE = StreamConfigLayer(retention_policy=RetentionPolicy(None))


@pytest.fixture
def store() -> FakeObjectStore:
    return FakeObjectStore(Random(1))


@attrs.define(eq=False)
class Appends:
    """Appends that run on their own, and the order in which they were answered."""

    stream: StreamHandle
    nursery: trio.Nursery
    answers: list[tuple[str, object]] = attrs.field(factory=list)

    async def start(self, name: str, append: AppendInput) -> None:
        """Start one, and let it be sequenced."""
        self.nursery.start_soon(self._run, name, append)
        await wait_all_tasks_blocked()

    async def _run(self, name: str, append: AppendInput) -> None:
        try:
            self.answers.append((name, await self.stream.append(append)))
        except S2LiteError as error:
            self.answers.append((name, error))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.answers]

    def kinds(self) -> dict[str, type]:
        return {name: type(answer) for name, answer in self.answers}


def last_wal_number(store: FakeObjectStore) -> int:
    return max(int(key.removeprefix("wal/")) for key in store.objects if key.startswith("wal/"))


def hold_next(store: FakeObjectStore, count: int) -> list[Gate]:
    """A gate for each of the next WAL objects."""
    first = last_wal_number(store) + 1
    return [store.hold(wal_key(number)) for number in range(first, first + count)]


# --- acks -------------------------------------------------------------------------------------


async def test_an_ack_says_where_the_batch_went(autojump_clock: MockClock) -> None:
    async with running_backend() as backend:
        stream = await new_stream(backend)
        first = await stream.append(append_of("a", "b", timestamps=[5, 7]))
        second = await stream.append(append_of("c"))
        now = StreamPosition(3, START_MS)
        assert first == AppendAck(StreamPosition(0, 5), StreamPosition(2, 7), StreamPosition(2, 7))
        assert second == AppendAck(StreamPosition(2, START_MS), now, now)
        assert await stream.check_tail() == now


async def test_nothing_shows_of_an_append_before_it_is_durable(store: FakeObjectStore) -> None:
    async with running_backend(store) as backend, trio.open_nursery() as nursery:
        stream = await new_stream(backend)
        gate = store.hold("wal/")
        appends = Appends(stream, nursery)
        await appends.start("a", append_of("a"))
        assert appends.names == []
        assert await stream.check_tail() == StreamPosition.ZERO
        assert await read_all(stream) == []
        gate.release()
        await wait_all_tasks_blocked()
        assert appends.names == ["a"]
        assert (await stream.check_tail()).seq_num == 1
        assert await read_all(stream) == ["a"]


async def test_after_an_ack_every_reader_sees_the_records(autojump_clock: MockClock) -> None:
    store = FakeObjectStore(Random(2), Latency.all(0.0, 0.2))
    settings = Settings(wal_in_flight=4)
    async with running_backend(store, settings=settings) as backend:
        stream = await new_stream(backend)

        async def append_and_look(number: int) -> None:
            ack = await stream.append(append_of(f"{number}", f"{number}!"))
            assert (await stream.check_tail()).seq_num >= ack.end.seq_num
            found = await read_all(await open_stream(backend), ack.start.seq_num)
            assert found[:2] == [f"{number}", f"{number}!"]

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(append_and_look, number)
        assert (await stream.check_tail()).seq_num == 100


async def test_acks_leave_in_the_order_of_the_numbers_whichever_object_is_first(
    store: FakeObjectStore,
) -> None:
    settings = Settings(wal_in_flight=3)
    async with (
        running_backend(store, settings=settings) as backend,
        trio.open_nursery() as nursery,
    ):
        stream = await new_stream(backend)
        gates = hold_next(store, 3)
        appends = Appends(stream, nursery)
        for name in "abc":
            await appends.start(name, append_of(name))
        for gate in reversed(gates):
            assert appends.names == []
            assert await stream.check_tail() == StreamPosition.ZERO
            gate.release()
            await wait_all_tasks_blocked()
        assert sorted(appends.names) == ["a", "b", "c"]


# --- refusals ---------------------------------------------------------------------------------


async def test_a_refusal_waits_for_the_records_it_counts(store: FakeObjectStore) -> None:
    settings = Settings(wal_in_flight=2)
    async with (
        running_backend(store, settings=settings) as backend,
        trio.open_nursery() as nursery,
    ):
        stream = await new_stream(backend)
        first, second = hold_next(store, 2)
        appends = Appends(stream, nursery)
        await appends.start("a", append_of("a"))
        await appends.start("mismatch at 1", append_of("x", match=0))
        await appends.start("b", append_of("b"))
        await appends.start("mismatch at 2", append_of("x", match=0))
        assert appends.names == []
        first.release()
        await wait_all_tasks_blocked()
        assert sorted(appends.names) == ["a", "mismatch at 1"]
        assert (await stream.check_tail()).seq_num == 1
        second.release()
        await wait_all_tasks_blocked()
        assert sorted(appends.names[2:]) == ["b", "mismatch at 2"]
        errors = [each for _, each in appends.answers if isinstance(each, SeqNumMismatch)]
        assert [error.next_seq_num for error in errors] == [1, 2]


async def test_a_refusal_on_durable_state_is_immediate(store: FakeObjectStore) -> None:
    async with running_backend(store) as backend:
        stream = await new_stream(backend)
        await stream.append(append_of("a"))
        count = len(store.operations(Op.PUT_NEW))
        with pytest.raises(SeqNumMismatch):
            await stream.append(append_of("x", match=0))
        with pytest.raises(FencingTokenMismatch):
            await stream.append(append_of("x", token="t"))
        assert len(store.operations(Op.PUT_NEW)) == count


async def test_a_fence_is_in_force_when_accepted_and_told_when_durable(
    store: FakeObjectStore,
) -> None:
    settings = Settings(wal_in_flight=2)
    async with (
        running_backend(store, settings=settings) as backend,
        trio.open_nursery() as nursery,
    ):
        stream = await new_stream(backend)
        fence, later = hold_next(store, 2)
        appends = Appends(stream, nursery)
        await appends.start("fence", append_of(Fence("new"), token=""))
        await appends.start("old token", append_of("x", token=""))
        await appends.start("new token", append_of("y", token="new"))
        await appends.start("old token again", append_of("x", token=""))
        assert appends.names == []
        fence.release()
        await wait_all_tasks_blocked()
        assert sorted(appends.names) == ["fence", "old token", "old token again"]
        later.release()
        await wait_all_tasks_blocked()
        assert appends.kinds() == {
            "fence": AppendAck,
            "old token": FencingTokenMismatch,
            "old token again": FencingTokenMismatch,
            "new token": AppendAck,
        }


async def test_a_missing_timestamp_is_refused_at_once(store: FakeObjectStore) -> None:
    mode = StreamConfigLayer(timestamping_mode=TimestampingMode.CLIENT_REQUIRE)
    async with running_backend(store) as backend, trio.open_nursery() as nursery:
        stream = await new_stream(backend, config=mode)
        gate = store.hold("wal/")
        appends = Appends(stream, nursery)
        await appends.start("ok", append_of("a", timestamps=[1]))
        await appends.start("bad", append_of("a", "b", timestamps=[1, None]))
        assert appends.kinds() == {"bad": InvalidInput}
        gate.release()


@pytest.mark.parametrize("error", [StorageFailed, WriterFenced])
async def test_when_a_write_fails_every_waiting_answer_is_that_failure(
    store: FakeObjectStore, error: type[StorageError]
) -> None:
    answers: list[tuple[str, object]] = []

    async def scenario() -> None:
        async with running_backend(store) as backend:
            stream = await new_stream(backend)
            gate = store.hold("wal/")
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    appends = Appends(stream, nursery, answers)
                    await appends.start("ack", append_of("a"))
                    await appends.start("refusal", append_of("b", match=0))
                    gate.fail(error())
                await wait_all_tasks_blocked()
                async with trio.open_nursery() as nursery:
                    await Appends(stream, nursery, answers).start("later", append_of("c"))
                if error is StorageFailed:
                    assert await stream.check_tail() == StreamPosition.ZERO
                else:  # a newer writer may have a newer tail
                    with pytest.raises(WriterFenced):
                        await stream.check_tail()
            await trio.sleep_forever()

    with pytest.raises(RestartsExhausted) as caught:
        await scenario()
    assert isinstance(caught.value.cause, error)
    kinds = {name: type(answer) for name, answer in answers}
    assert kinds["ack"] is kinds["refusal"] is error
    assert kinds["later"] in (error, StreamUnavailable)


# --- sessions ---------------------------------------------------------------------------------


async def test_a_session_acks_in_order() -> None:
    async with running_backend() as backend:
        stream = await new_stream(backend)
        async with stream.append_session() as session:
            pending = [await session.submit(append_of(f"{n}")) for n in range(50)]
            acks = [await each.wait() for each in pending]
        assert [ack.start.seq_num for ack in acks] == list(range(50))
        assert await read_all(stream) == [str(n) for n in range(50)]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (append_of("x", match=99), SeqNumMismatch),
        (append_of("x", token="t"), FencingTokenMismatch),
    ],
)
async def test_after_one_input_failed_nothing_later_of_the_session_is_applied(
    bad: AppendInput, error: type[S2LiteError]
) -> None:
    async with running_backend() as backend:
        stream = await new_stream(backend)
        async with stream.append_session() as session:
            pending = [
                await session.submit(append)
                for append in (append_of("a"), bad, append_of("b"), append_of(Fence("c")))
            ]
            assert (await pending[0].wait()).end.seq_num == 1
            with pytest.raises(error):
                await pending[1].wait()
            for late in pending[2:]:
                with pytest.raises(StreamUnavailable):
                    await late.wait()
        ack = await stream.append(append_of("d", token=""))
        assert ack.start.seq_num == 1
        assert await read_all(stream) == ["a", "d"]


async def test_a_session_that_failed_for_a_timestamp_applies_nothing_more() -> None:
    mode = StreamConfigLayer(timestamping_mode=TimestampingMode.CLIENT_REQUIRE)
    async with running_backend() as backend:
        stream = await new_stream(backend, config=mode)
        async with stream.append_session() as session:
            bad = await session.submit(append_of("a"))
            late = await session.submit(append_of("b", timestamps=[1]))
            with pytest.raises(InvalidInput):
                await bad.wait()
            with pytest.raises(StreamUnavailable):
                await late.wait()
        assert await stream.check_tail() == StreamPosition.ZERO


async def test_the_failure_of_one_session_is_not_that_of_another() -> None:
    async with running_backend() as backend:
        stream = await new_stream(backend)
        async with stream.append_session() as one, stream.append_session() as other:
            bad = await one.submit(append_of("x", match=9))
            good = await other.submit(append_of("a"))
            with pytest.raises(SeqNumMismatch):
                await bad.wait()
            assert (await good.wait()).start.seq_num == 0


async def test_a_pending_ack_knows_when_it_is_done(store: FakeObjectStore) -> None:
    async with running_backend(store) as backend:
        stream = await new_stream(backend)
        gate = store.hold("wal/")
        async with stream.append_session() as session:
            pending = await session.submit(append_of("a"))
            await wait_all_tasks_blocked()
            before = pending.done
            gate.release()
            await wait_all_tasks_blocked()
            assert (before, pending.done) == (False, True)
            await pending.wait()


async def test_what_a_session_has_submitted_outlives_it_as_a_whole(
    store: FakeObjectStore,
) -> None:
    async with running_backend(store) as backend:
        stream = await new_stream(backend)
        gate = store.hold("wal/")
        async with stream.append_session() as session:
            for number in range(5):
                await session.submit(append_of(f"{number}", f"{number}!"))
            await wait_all_tasks_blocked()
        gate.release()
        await wait_all_tasks_blocked()
        assert await read_all(stream) == [f"{n}{end}" for n in range(5) for end in ("", "!")]


# --- cancellation -----------------------------------------------------------------------------


async def test_an_append_given_up_before_it_is_sequenced_leaves_nothing(
    store: FakeObjectStore,
) -> None:
    async with running_backend(store) as backend:
        stream = await new_stream(backend)
        async with trio.open_nursery() as nursery:
            appends = Appends(stream, nursery)
            with trio.CancelScope() as scope:
                scope.cancel()
                await stream.append(append_of("given up"))
            await appends.start("kept", append_of("kept"))
        assert await read_all(stream) == ["kept"]


def _giving_up(reply: Reply[AppendAck]) -> Append:
    return Append(append_of("given up"), None, reply)


async def test_an_append_given_up_in_the_mailbox_is_skipped(store: FakeObjectStore) -> None:
    """Its asker has gone by the time the stream's owner comes to it."""
    async with running_backend(store) as backend:
        stream = await new_stream(backend)
        entry = backend.catalog.stream(BASIN, STREAM)
        assert entry is not None
        async with (
            backend.path.streams.lease(entry.record.stream_id) as ref,
            stream.append_session() as session,
        ):
            pending = await session.submit(append_of("first"))
            # Neither of these waits, so the owner cannot run in between.
            reply = ref.begin_ask_nowait(_giving_up)
            reply.abandon()
            last = await session.submit(append_of("last"))
            await pending.wait()
            assert (await last.wait()).start.seq_num == 1
        assert await read_all(stream) == ["first", "last"]


async def test_an_append_given_up_while_it_is_written_takes_effect_as_a_whole(
    store: FakeObjectStore,
) -> None:
    async with running_backend(store) as backend:
        stream = await new_stream(backend)
        gate = store.hold("wal/")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.append, append_of("a", "b", Fence("t")))
            await gate.wait_held()
            nursery.cancel_scope.cancel()
        gate.release()
        await wait_all_tasks_blocked()
        assert (await stream.check_tail()).seq_num == 3
        with pytest.raises(FencingTokenMismatch):
            await stream.append(append_of("x", token=""))


@pytest.mark.parametrize("seed", range(5))
async def test_appends_given_up_at_random_leave_whole_batches_and_no_gap(
    autojump_clock: MockClock, seed: int
) -> None:
    store, rng = FakeObjectStore(Random(seed), Latency.all(0.0, 0.3)), Random(seed)
    settings = Settings(wal_in_flight=2, append_inflight_bytes=1)
    async with running_backend(store, settings=settings) as backend:
        stream = await new_stream(backend)
        acked: list[str] = []

        async def appending(number: int) -> None:
            await trio.sleep(rng.uniform(0, 1))
            with trio.move_on_after(rng.uniform(0, 0.5)):
                await stream.append(append_of(f"{number}", f"{number}", f"{number}"))
                acked.append(f"{number}")

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(appending, number)
        await trio.sleep(5)
        found = await read_all(stream)
        assert found[::3] == found[1::3] == found[2::3]
        assert len(set(found)) * 3 == len(found)
        assert set(acked) <= set(found)
        assert backend.path.budget.used_bytes == 0
        assert acked


# --- the budget -------------------------------------------------------------------------------


async def test_appends_beyond_the_budget_wait_and_are_not_refused(
    store: FakeObjectStore,
) -> None:
    settings = Settings(append_inflight_bytes=1)  # that is, one largest batch
    async with (
        running_backend(store, settings=settings) as backend,
        trio.open_nursery() as nursery,
    ):
        stream = await new_stream(backend)
        gate = store.hold("wal/")
        appends = Appends(stream, nursery)
        for name in ("one", "two", "three"):
            await appends.start(name, append_of("x" * 600_000))
        budget = backend.path.budget
        assert 600_000 < budget.used_bytes <= budget.total_bytes
        assert appends.names == []
        gate.release()
        await wait_all_tasks_blocked()
        assert sorted(appends.names) == ["one", "three", "two"]
        assert budget.used_bytes == 0


async def test_the_budget_comes_back_whatever_becomes_of_an_append() -> None:
    async with running_backend() as backend:
        stream = await new_stream(backend)
        await stream.append(append_of("a"))
        with pytest.raises(SeqNumMismatch):
            await stream.append(append_of("b", match=0))
        async with stream.append_session() as session:
            await session.submit(append_of("c", match=0))
            await session.submit(append_of("d"))
        await wait_all_tasks_blocked()
        assert backend.path.budget.used_bytes == 0


# --- coming and going of the owner ------------------------------------------------------------


def stream_id_of(backend: Backend) -> StreamId:
    entry = backend.catalog.stream(BASIN, STREAM)
    assert entry is not None
    return entry.record.stream_id


async def test_an_idle_stream_goes_to_sleep_and_wakes_up_as_it_was(
    autojump_clock: MockClock,
) -> None:
    async with running_backend(settings=Settings(stream_idle_seconds=60)) as backend:
        stream = await new_stream(backend)
        await stream.append(append_of("a", "b", Fence("token"), Trim(1), timestamps=[1, 2, 3, 9]))
        assert stream_id_of(backend) in backend.path.streams
        await trio.sleep(61)
        assert stream_id_of(backend) not in backend.path.streams
        with pytest.raises(FencingTokenMismatch) as caught:
            await stream.append(append_of("x", token=""))
        assert caught.value.actual == "token"
        ack = await stream.append(append_of("c", token="token", match=4, timestamps=[0]))
        assert ack.start == StreamPosition(4, 9)
        await stream.append(append_of(Trim(0)))
        found = await stream.read(ReadRequest(FromSeqNum(0)))
        assert seq_nums(found) == [1, 2, 3, 4, 5]


async def test_a_stream_with_a_session_or_a_follower_does_not_go_to_sleep(
    autojump_clock: MockClock,
) -> None:
    async with running_backend(settings=Settings(stream_idle_seconds=60)) as backend:
        stream = await new_stream(backend)
        async with stream.append_session() as session:
            await trio.sleep(200)
            await (await session.submit(append_of("a"))).wait()
        async with stream.read_session(following(1)) as reading:
            await anext(reading)
            await trio.sleep(200)
            assert stream_id_of(backend) in backend.path.streams
        await trio.sleep(61)
        assert stream_id_of(backend) not in backend.path.streams


async def test_a_stream_is_usable_while_others_keep_the_log_busy(
    autojump_clock: MockClock,
) -> None:
    """The first append to a stream must not wait for a pause in everybody else's."""
    store = FakeObjectStore(Random(1), Latency.all(0.1, 0.1))
    async with running_backend(store) as backend, trio.open_nursery() as nursery:
        busy, quiet = await new_stream(backend, "busy"), await new_stream(backend, "quiet")

        async def keep_busy() -> None:
            while True:
                await busy.append(append_of("x"))

        for _ in range(3):
            nursery.start_soon(keep_busy)
            await trio.sleep(0.03)
        await trio.sleep(1)
        with trio.fail_after(1):
            await quiet.append(append_of("a"))
        nursery.cancel_scope.cancel()


async def test_a_stream_that_crashes_takes_nobody_with_it_and_works_again(
    store: FakeObjectStore,
) -> None:
    async with running_backend(store) as backend, trio.open_nursery() as nursery:
        stream, other = await new_stream(backend), await new_stream(backend, "other")
        await stream.append(append_of("a", Fence("t")))
        gate = store.hold("wal/")
        appends = Appends(stream, nursery)
        await appends.start("in flight", append_of("b", Fence("u")))
        broken = AppendInput(AppendBatch([], count=1, metered_bytes=8, timestamps=[None]))
        await appends.start("broken", broken)
        assert appends.kinds() == {"in flight": OutcomeUnknown, "broken": OutcomeUnknown}
        # The next use waits for what was in flight, and knows it.
        await appends.start("next", append_of("c", token="t"))
        assert len(appends.names) == 2
        gate.release()
        await wait_all_tasks_blocked()
        assert appends.kinds()["next"] is FencingTokenMismatch
        ack = await stream.append(append_of("c", token="u", match=4))
        assert ack.start.seq_num == 4
        await other.append(append_of("fine"))


async def test_a_reconfigured_stream_obeys_with_the_next_append(
    autojump_clock: MockClock,
) -> None:
    async with running_backend() as backend:
        stream = await new_stream(backend, config=INFINITE)
        async with stream.append_session() as session:
            await (await session.submit(append_of("kept"))).wait()
            change = StreamReconfiguration(retention_policy=RetentionPolicy(10))
            await backend.reconfigure_stream(BASIN, STREAM, change)
            await (await session.submit(append_of("for ten seconds"))).wait()
        await trio.sleep(9)
        assert await read_all(stream) == ["kept", "for ten seconds"]
        await trio.sleep(1)
        assert await read_all(stream) == ["kept"]
        assert (await stream.check_tail()).seq_num == 2


async def test_appends_run_on_while_the_stream_is_reconfigured(
    autojump_clock: MockClock,
) -> None:
    store = FakeObjectStore(Random(4), Latency.all(0.0, 0.1))
    async with running_backend(store) as backend:
        stream = await new_stream(backend)

        async def reconfigure() -> None:
            for age in range(1000, 1010):
                change = StreamReconfiguration(retention_policy=RetentionPolicy(age))
                await backend.reconfigure_stream(BASIN, STREAM, change)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reconfigure)
            async with stream.append_session() as session:
                pending = [await session.submit(append_of(f"{n}")) for n in range(40)]
                for each in pending:
                    await each.wait()
        assert await read_all(stream) == [str(n) for n in range(40)]


# --- restart ----------------------------------------------------------------------------------


async def test_a_restart_finds_what_was_acked_and_goes_on_from_there(
    store: FakeObjectStore,
) -> None:
    async with running_backend(store) as backend:
        stream = await new_stream(backend)
        await stream.append(append_of("a", "b", Fence("t"), timestamps=[1, 2, 3]))
        await stream.append(append_of(Trim(1), timestamps=[4]))
        crashed = store.fork(Random(2))
    async with running_backend(crashed, seed=5) as backend:
        stream = await open_stream(backend)
        assert await stream.check_tail() == StreamPosition(4, 4)
        assert seq_nums(await stream.read(ReadRequest(FromSeqNum(0)))) == [1, 2, 3]
        with pytest.raises(FencingTokenMismatch):
            await stream.append(append_of("x", token=""))
        ack = await stream.append(append_of("c", match=4, token="t", timestamps=[0]))
        assert ack.start == StreamPosition(4, 4)


async def test_records_expire_at_the_same_time_after_a_restart(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    ten_seconds = StreamConfigLayer(retention_policy=RetentionPolicy(10))
    clock = VirtualClock(START_MS)
    async with running_backend(store, clock=clock) as backend:
        stream = await new_stream(backend, config=ten_seconds)
        await stream.append(append_of("a"))
        await trio.sleep(5)
        await stream.append(append_of("b"))
    async with running_backend(store, clock=clock, seed=5) as backend:
        stream = await open_stream(backend)
        assert await read_all(stream) == ["a", "b"]
        await trio.sleep(5)
        assert await read_all(stream) == ["b"]


async def test_what_was_read_back_from_the_store_is_what_was_appended(
    store: FakeObjectStore,
) -> None:
    settings = Settings(layout=Layout(memtable_bytes=1))
    async with running_backend(store, settings=settings) as backend:
        stream = await new_stream(backend)
        for number in range(10):
            await stream.append(append_of(f"{number}"))
        assert await read_all(stream, 3) == [str(n) for n in range(3, 10)]
        assert store.operations(Op.GET_RANGE)
