"""From DELETE to a free name: what is refused in between, and that a crash does not stop it."""

from collections.abc import Awaitable, Callable
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from s2lite.backend.backend import Backend, Purpose
from s2lite.backend.tasks.deletion import RECHECK_SECONDS, STREAMS_LISTED
from s2lite.model.config import (
    BasinConfig,
    BasinReconfiguration,
    RetentionPolicy,
    StreamConfigLayer,
    StreamReconfiguration,
    TimestampingMode,
)
from s2lite.model.errors import (
    BasinDeletionPending,
    S2LiteError,
    StreamDeletionPending,
    StreamNotFound,
    StreamUnavailable,
)
from s2lite.model.names import StreamName
from s2lite.model.positions import StreamPosition
from s2lite.model.reads import DeliveredBatch, FromSeqNum, Heartbeat, ReadEvent, ReadRequest
from s2lite.model.records import Fence
from s2lite.model.resources import ListRequest, ProvisionResult
from s2lite.storage.wal import wal_key
from tests.backend.world import (
    BASIN,
    STREAM,
    append_of,
    bodies,
    collect,
    following,
    new_stream,
    open_stream,
    read_all,
)
from tests.fakes.backend import START_MS, running_backend
from tests.fakes.object_store import FakeObjectStore, Gate, Op

EMPTY = StreamConfigLayer()
ON_BOTH = BasinConfig(create_stream_on_append=True, create_stream_on_read=True)
TERMINAL = "\xff" * 8


@pytest.fixture
def store() -> FakeObjectStore:
    return FakeObjectStore(Random(1))


async def listed(backend: Backend) -> list[tuple[str, bool]]:
    items = (await backend.list_streams(BASIN, ListRequest())).items
    return [(info.name, info.deleted_at_ms is not None) for info in items]


async def held_removal(nursery: trio.Nursery, store: FakeObjectStore, backend: Backend) -> Gate:
    """Delete the stream, and hold the write that would remove it: its deletion is pending."""
    gate = store.hold("wal/")
    nursery.start_soon(backend.delete_stream, BASIN, STREAM)
    await gate.wait_held()
    number = int(gate.held[0].key.removeprefix("wal/"))
    removal = store.hold(wal_key(number + 1))
    gate.release()
    await removal.wait_held()
    return removal


async def test_a_deleted_stream_is_gone_and_its_name_is_free(store: FakeObjectStore) -> None:
    async with running_backend(store) as backend:
        stream = await new_stream(backend)
        await stream.append(append_of("a", Fence("token"), "c"))
        await backend.delete_stream(BASIN, STREAM)
        await wait_all_tasks_blocked()
        assert await listed(backend) == []
        with pytest.raises(StreamNotFound):
            await open_stream(backend)
        again = await new_stream(backend)
        assert await again.check_tail() == StreamPosition.ZERO
        ack = await again.append(append_of("first", match=0, token=""))
        assert ack.start.seq_num == 0
        assert await read_all(again) == ["first"]


async def test_what_is_answered_while_deletion_is_pending(store: FakeObjectStore) -> None:
    async with running_backend(store) as backend, trio.open_nursery() as nursery:
        stream = await new_stream(backend)
        await stream.append(append_of("a"))
        removal = await held_removal(nursery, store, backend)
        (info,) = (await backend.list_streams(BASIN, ListRequest())).items
        assert info.deleted_at_ms is not None
        assert info.deleted_at_ms >= START_MS
        for purpose in Purpose:
            with pytest.raises(StreamDeletionPending):
                await backend.open_stream(BASIN, STREAM, purpose)
        with pytest.raises(StreamDeletionPending):
            await backend.stream_config(BASIN, STREAM)
        await backend.delete_stream(BASIN, STREAM)  # once more is no error
        outcomes: dict[str, object] = {}

        async def asking(name: str, request: Callable[[], Awaitable[object]]) -> None:
            try:
                outcomes[name] = await request()
            except S2LiteError as error:
                outcomes[name] = type(error)

        nursery.start_soon(
            asking,
            "reconfigure",
            lambda: backend.reconfigure_stream(BASIN, STREAM, StreamReconfiguration()),
        )
        nursery.start_soon(asking, "append", lambda: stream.append(append_of("late")))
        await wait_all_tasks_blocked()
        assert outcomes == {"append": StreamDeletionPending}
        # This comes after the decision to remove, so it rests on that and waits for it.
        removal.release()
        await wait_all_tasks_blocked()
        assert outcomes == {"append": StreamDeletionPending, "reconfigure": StreamNotFound}


async def test_a_stream_whose_deletion_is_durable_is_pending_for_requests_decided_then(
    store: FakeObjectStore,
) -> None:
    """Even while a change to the stream that was decided before is still under way."""
    async with running_backend(store) as backend, trio.open_nursery() as nursery:
        await new_stream(backend)
        deletion = store.hold("wal/")
        nursery.start_soon(backend.delete_stream, BASIN, STREAM)
        await deletion.wait_held()
        number = int(deletion.held[0].key.removeprefix("wal/"))
        nursery.start_soon(backend.reconfigure_stream, BASIN, STREAM, StreamReconfiguration())
        await wait_all_tasks_blocked()
        following_write = store.hold(wal_key(number + 1))
        deletion.release()
        await following_write.wait_held()
        assert await listed(backend) == [(STREAM, True)]
        outcome: list[type[S2LiteError]] = []

        async def putting() -> None:
            try:
                await backend.ensure_stream(BASIN, STREAM, EMPTY)
            except S2LiteError as error:
                outcome.append(type(error))

        nursery.start_soon(putting)
        await wait_all_tasks_blocked()
        following_write.release()
        await wait_all_tasks_blocked()
        assert outcome == [StreamDeletionPending]


@pytest.mark.parametrize("mode", TimestampingMode)
async def test_deletion_needs_neither_token_nor_timestamp(mode: TimestampingMode) -> None:
    async with running_backend() as backend:
        stream = await new_stream(backend, config=StreamConfigLayer(timestamping_mode=mode))
        await stream.append(append_of(Fence("token"), timestamps=[1]))
        await backend.delete_stream(BASIN, STREAM)
        await wait_all_tasks_blocked()
        assert await listed(backend) == []


async def test_appends_accepted_before_the_deletion_are_acked_and_later_ones_refused(
    store: FakeObjectStore,
) -> None:
    async with running_backend(store) as backend, trio.open_nursery() as nursery:
        stream = await new_stream(backend)
        gate = store.hold("wal/")
        order: list[str] = []

        async def appending(text: str) -> None:
            try:
                await stream.append(append_of(text))
                order.append(f"{text} acked")
            except StreamDeletionPending:
                order.append(f"{text} refused")

        async def deleting() -> None:
            await backend.delete_stream(BASIN, STREAM)
            order.append("deleted")

        nursery.start_soon(appending, "before")
        await wait_all_tasks_blocked()
        nursery.start_soon(deleting)
        await wait_all_tasks_blocked()
        nursery.start_soon(appending, "after")
        await wait_all_tasks_blocked()
        assert order == ["after refused"]
        gate.release()
        await wait_all_tasks_blocked()
        assert order == ["after refused", "before acked", "deleted"]


async def test_a_follower_gets_the_terminal_record_and_then_the_end(
    autojump_clock: MockClock,
) -> None:
    events: list[ReadEvent] = []
    errors: list[S2LiteError] = []

    async with running_backend() as backend, trio.open_nursery() as nursery:
        stream = await new_stream(backend)
        await stream.append(append_of("a"))

        async def follow() -> None:
            try:
                async with stream.read_session(following(1)) as session:
                    async for event in session:
                        events.append(event)
            except StreamUnavailable as error:
                errors.append(error)

        nursery.start_soon(follow)
        await wait_all_tasks_blocked()
        await backend.delete_stream(BASIN, STREAM)
        await wait_all_tasks_blocked()
    heartbeat, terminal = events
    assert isinstance(heartbeat, Heartbeat)
    assert isinstance(terminal, DeliveredBatch)
    assert bodies(terminal) == [TERMINAL]
    assert terminal.tail == StreamPosition(2, START_MS)
    assert len(errors) == 1


async def test_whoever_comes_to_follow_a_deleted_stream_is_told_before_it_is_removed(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    async with running_backend(store) as backend, trio.open_nursery() as nursery:
        stream = await new_stream(backend)
        removal = await held_removal(nursery, store, backend)
        with trio.fail_after(60), pytest.raises(StreamUnavailable):
            await collect(stream, following(1), [])
        removal.release()


async def test_a_handle_of_a_stream_that_is_gone_can_do_nothing() -> None:
    async with running_backend() as backend:
        stream = await new_stream(backend)
        await stream.append(append_of("a"))
        await backend.delete_stream(BASIN, STREAM)
        await wait_all_tasks_blocked()
        await new_stream(backend)
        with pytest.raises(StreamUnavailable):
            await stream.append(append_of("late"))
        with pytest.raises(StreamUnavailable):
            async with stream.append_session():
                pass
        assert await stream.read(ReadRequest(FromSeqNum(0))) is None
        with pytest.raises(StreamUnavailable):
            await stream.read(ReadRequest(FromSeqNum(2), wait_seconds=5))


@pytest.mark.parametrize("stage", ["marked", "removed"])
async def test_a_crash_in_the_middle_of_a_deletion_only_delays_it(
    store: FakeObjectStore, stage: str
) -> None:
    async with running_backend(store) as backend, trio.open_nursery() as nursery:
        stream = await new_stream(backend)
        await stream.append(append_of("a"))
        removal = await held_removal(nursery, store, backend)
        crashed = store.fork(Random(2))
        removal.release()
        await wait_all_tasks_blocked()
        if stage == "removed":
            crashed = store.fork(Random(2))
    async with running_backend(crashed, seed=3) as backend:
        await wait_all_tasks_blocked()
        assert await listed(backend) == []
        assert await (await new_stream(backend)).check_tail() == StreamPosition.ZERO


async def test_a_crash_before_the_deletion_is_durable_undoes_it(store: FakeObjectStore) -> None:
    async with running_backend(store) as backend, trio.open_nursery() as nursery:
        stream = await new_stream(backend)
        await stream.append(append_of("a"))
        gate = store.hold("wal/")
        nursery.start_soon(backend.delete_stream, BASIN, STREAM)
        await gate.wait_held()
        crashed = store.fork(Random(2))
        gate.release()
    async with running_backend(crashed, seed=3) as backend:
        stream = await open_stream(backend)
        await stream.append(append_of("b"))
        assert await read_all(stream) == ["a", "b"]


async def test_a_deletion_whose_client_went_away_is_finished_all_the_same(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    async with running_backend(store) as backend:
        await new_stream(backend)
        gate = store.hold("wal/")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.delete_stream, BASIN, STREAM)
            await gate.wait_held()
            nursery.cancel_scope.cancel()
        gate.release()
        await trio.sleep(RECHECK_SECONDS + 1)
        assert await listed(backend) == []


# --- basins ---------------------------------------------------------------------------------------


async def test_an_empty_basin_is_gone_at_once_and_can_be_made_again() -> None:
    async with running_backend() as backend:
        await backend.create_basin(BASIN, BasinConfig(), "token")
        await backend.delete_basin(BASIN)
        await wait_all_tasks_blocked()
        assert (await backend.list_basins(ListRequest())).items == ()
        again = await backend.create_basin(BASIN, BasinConfig(), "token")
        assert again.result is ProvisionResult.CREATED


async def test_a_basin_takes_its_streams_with_it(autojump_clock: MockClock) -> None:
    async with running_backend() as backend:
        for number in range(30):
            stream = await new_stream(backend, f"s{number}")
            await stream.append(append_of("a"))
        await backend.delete_basin(BASIN)
        await wait_all_tasks_blocked()
        assert (await backend.list_basins(ListRequest())).items == ()
        assert await listed(backend) == []
        assert await (await new_stream(backend, "s0")).check_tail() == StreamPosition.ZERO


async def test_the_streams_of_a_large_basin_go_together(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    streams = STREAMS_LISTED + 1
    async with running_backend(store) as backend:
        await backend.create_basin(BASIN, ON_BOTH, None)
        async with trio.open_nursery() as nursery:
            for number in range(streams):
                name = StreamName(f"s{number}")
                nursery.start_soon(backend.create_stream, BASIN, name, EMPTY, None)
        before = len(store.operations(Op.PUT_NEW, "wal/"))
        await backend.delete_basin(BASIN)
        await wait_all_tasks_blocked()
        assert (await backend.list_basins(ListRequest())).items == ()
        # One for each deletion and each removal would be twice as many as there are streams.
        assert len(store.operations(Op.PUT_NEW, "wal/")) - before < streams / 2


async def test_what_is_answered_while_a_basin_goes(store: FakeObjectStore) -> None:
    async with running_backend(store) as backend, trio.open_nursery() as nursery:
        await backend.create_basin(BASIN, ON_BOTH, None)
        stream = await new_stream(backend)
        deletion = store.hold("wal/")
        nursery.start_soon(backend.delete_basin, BASIN)
        await deletion.wait_held()
        number = int(deletion.held[0].key.removeprefix("wal/"))
        terminal = store.hold(wal_key(number + 1))
        deletion.release()
        await terminal.wait_held()  # the basin is marked, its stream is not yet
        (info,) = (await backend.list_basins(ListRequest())).items
        assert info.deleted_at_ms is not None
        assert await backend.basin_config(BASIN) == ON_BOTH
        assert await listed(backend) == [(STREAM, False)]
        assert await (await open_stream(backend)).check_tail() == await stream.check_tail()
        await backend.delete_basin(BASIN)  # once more is no error
        for request in (
            lambda: backend.create_basin(BASIN, ON_BOTH, None),
            lambda: backend.ensure_basin(BASIN, ON_BOTH),
            lambda: backend.reconfigure_basin(BASIN, BasinReconfiguration()),
            lambda: backend.create_stream(BASIN, StreamName("new"), EMPTY, None),
            lambda: backend.create_stream(BASIN, STREAM, EMPTY, None),
            lambda: backend.ensure_stream(BASIN, STREAM, EMPTY),
            lambda: backend.reconfigure_stream(BASIN, STREAM, StreamReconfiguration()),
            lambda: backend.open_stream(BASIN, StreamName("new"), Purpose.APPEND),
            lambda: backend.open_stream(BASIN, StreamName("new"), Purpose.READ),
        ):
            with pytest.raises(BasinDeletionPending):
                await request()
        terminal.release()


async def test_a_missing_stream_of_a_basin_that_goes_is_not_found_without_the_flag(
    store: FakeObjectStore,
) -> None:
    async with running_backend(store) as backend, trio.open_nursery() as nursery:
        await new_stream(backend)
        deletion = store.hold("wal/")
        nursery.start_soon(backend.delete_basin, BASIN)
        await deletion.wait_held()
        number = int(deletion.held[0].key.removeprefix("wal/"))
        terminal = store.hold(wal_key(number + 1))
        deletion.release()
        await terminal.wait_held()
        for purpose in Purpose:
            with pytest.raises(StreamNotFound):
                await backend.open_stream(BASIN, StreamName("new"), purpose)
        terminal.release()


@pytest.mark.parametrize("writes", range(6))
async def test_a_crash_anywhere_in_the_deletion_of_a_basin_only_delays_it(writes: int) -> None:
    store = FakeObjectStore(Random(1))
    async with running_backend(store) as backend, trio.open_nursery() as nursery:
        for name in ("one", "two"):
            await new_stream(backend, name)
        number = max(int(key.removeprefix("wal/")) for key in store.objects if "wal" in key)
        gate = store.hold(wal_key(number + 2 + writes))
        await backend.delete_basin(BASIN)
        await wait_all_tasks_blocked()
        crashed = store.fork(Random(2))
        gate.release()
        nursery.cancel_scope.cancel()
    async with running_backend(crashed, seed=3) as backend:
        await wait_all_tasks_blocked()
        assert (await backend.list_basins(ListRequest())).items == ()
        assert await listed(backend) == []


async def test_removed_streams_keep_nothing_in_memory(store: FakeObjectStore) -> None:
    async with running_backend(store) as backend:
        for _ in range(5):
            stream = await new_stream(
                backend, config=StreamConfigLayer(retention_policy=RetentionPolicy(None))
            )
            await stream.append(append_of("x" * 1000))
            await backend.delete_stream(BASIN, STREAM)
            await wait_all_tasks_blocked()
        assert not backend.log.memtable.active.stream_ids
        assert len(backend.path.streams) == 0
        assert store.operations(Op.GET_RANGE) == []
