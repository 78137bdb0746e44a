"""The composed server in process: its life from opening a store to the end, good or bad."""

import random
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from actors import ActorError
from actors.clock import SystemClock
from s2lite.api.app import build_app
from s2lite.backend.backend import Backend, Purpose
from s2lite.backend.engine import CLOSING_SECONDS, TASK_STOP_SECONDS
from s2lite.backend.stream_handle import StreamHandle
from s2lite.codec.protobuf import decode_append_input
from s2lite.model.config import BasinConfig, StreamConfigLayer
from s2lite.model.errors import (
    BasinNotFound,
    OutcomeUnknown,
    S2LiteError,
    StorageError,
    StorageFailed,
    StreamUnavailable,
    WriterFenced,
)
from s2lite.model.names import BasinName, StreamName
from s2lite.model.records import AppendAck, AppendInput
from s2lite.server import CannotListen, Environment, run_server
from s2lite.settings import LocalStorage, Settings
from s2lite.storage.objects.local_store import StoreLocked
from s2lite.storage.objects.object_store import StoreRefused
from s2lite.stores import open_store
from tests.api.frames import append_message
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.backend import running_backend
from tests.fakes.object_store import FakeObjectStore, Fault, Latency, Op

BASIN = BasinName("test-basin")
STREAM = StreamName("s")
WAL = "wal/"

PATIENCE_SECONDS = 300
"""On virtual time: a server that should have ended and did not fails the test at once."""


def batch(body: bytes) -> AppendInput:
    """A batch of one record."""
    return decode_append_input(append_message(body))


async def prepare(backend: Backend) -> StreamHandle:
    """Make the stream and return a handle on it."""
    await backend.create_basin(BASIN, BasinConfig(), None)
    await backend.create_stream(BASIN, STREAM, StreamConfigLayer(), None)
    return await backend.open_stream(BASIN, STREAM, Purpose.APPEND)


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group, with what caused the end of an actor in place of that end."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    cause = error.__cause__
    return leaves(cause) if isinstance(error, ActorError) and cause is not None else [error]


@attrs.define(eq=False)
class Ending:
    """How a backend ended; empty if it did so in good order."""

    errors: list[BaseException] = attrs.Factory(list)

    def kinds(self) -> set[type[BaseException]]:
        return {type(error) for error in self.errors}


@asynccontextmanager
async def noting_its_end(
    backend: AbstractAsyncContextManager[Backend],
) -> AsyncIterator[tuple[Backend, Ending]]:
    """Open a backend, and note with what errors its block ends, instead of raising them."""
    ending = Ending()
    try:
        async with backend as opened:
            yield opened, ending
    except* (ActorError, StorageError) as group:
        ending.errors = leaves(group)


async def until_it_ends() -> None:
    """Wait for the block around to end by itself."""
    with trio.fail_after(PATIENCE_SECONDS):
        await trio.sleep_forever()


@pytest.fixture
def store() -> FakeObjectStore:
    """A store on virtual time, whose writes take a while."""
    return FakeObjectStore(random.Random(1), Latency(put_new=(0.02, 0.05)))


# --- a store that fails -------------------------------------------------------------------------


async def test_a_store_that_refuses_ends_the_server_and_fails_what_is_pending(
    store: FakeObjectStore, autojump_clock: trio.testing.MockClock
) -> None:
    outcomes: list[object] = []

    async def append(handle: StreamHandle, body: bytes) -> None:
        outcomes.append(await outcome_of(lambda: handle.append(batch(body))))

    async with noting_its_end(running_backend(store)) as (backend, ending):
        client = AsgiClient(build_app(backend, clock=SystemClock(), registry=CollectorRegistry()))
        handle = await prepare(backend)
        await handle.append(batch(b"good"))
        assert (await client.request("GET", "/health")).body == b"OK"
        gate = store.hold(WAL)
        with trio.fail_after(PATIENCE_SECONDS, shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(append, handle, b"in flight")
                await gate.wait_held()
                nursery.start_soon(append, handle, b"queued behind it")
                await trio.testing.wait_all_tasks_blocked()
                store.fail_next(Op.PUT_NEW, WAL, Fault.REFUSED, times=99)
                gate.fail(StoreRefused("wal", "not allowed"))
            assert isinstance(backend.health(), StorageFailed)
            answer = await client.request("GET", "/health")
            assert (answer.status, answer.body) == (503, b"Panic")
            late = await outcome_of(lambda: handle.append(batch(b"late")))
            assert isinstance(late, (StorageError, StreamUnavailable, OutcomeUnknown))
        await until_it_ends()
    assert len(outcomes) == 2
    assert all(isinstance(each, (StorageFailed, OutcomeUnknown)) for each in outcomes), outcomes
    assert StorageFailed in ending.kinds()


async def outcome_of(operation: Callable[[], Awaitable[object]]) -> object:
    """The result or the error of an operation."""
    try:
        return await operation()
    except (StorageError, StreamUnavailable, OutcomeUnknown) as error:
        return error


async def test_a_store_that_is_away_for_a_while_only_delays(
    store: FakeObjectStore, autojump_clock: trio.testing.MockClock
) -> None:
    async with running_backend(store) as backend:
        handle = await prepare(backend)
        store.fail_next(Op.PUT_NEW, WAL, Fault.ERROR_BEFORE, times=5)
        store.fail_next(Op.PUT_NEW, WAL, Fault.ERROR_AFTER)
        assert (await handle.append(batch(b"a"))).end.seq_num == 1
        assert backend.health() is None


async def test_a_store_that_stays_away_ends_the_server(
    store: FakeObjectStore, autojump_clock: trio.testing.MockClock
) -> None:
    async with noting_its_end(running_backend(store)) as (backend, ending):
        handle = await prepare(backend)
        store.fail_next(Op.PUT_NEW, WAL, Fault.ERROR_BEFORE, times=10**6)
        with pytest.raises((StorageFailed, OutcomeUnknown, trio.Cancelled)):
            await handle.append(batch(b"a"))
        await until_it_ends()
    assert StorageFailed in ending.kinds()
    assert 55 < trio.current_time() < 120


async def test_what_was_submitted_is_durable_when_the_backend_has_ended(
    store: FakeObjectStore, autojump_clock: trio.testing.MockClock
) -> None:
    async with running_backend(store) as backend:
        handle = await prepare(backend)
        async with handle.append_session() as session:
            pending = [await session.submit(batch(b"%d" % i)) for i in range(20)]
            await trio.testing.wait_all_tasks_blocked()  # sequenced, and on its way to the store
            assert not pending[-1].done
    async with running_backend(store) as backend:
        handle = await backend.open_stream(BASIN, STREAM, Purpose.READ)
        assert (await handle.check_tail()).seq_num == 20


# --- two servers on one store -------------------------------------------------------------------


# --- a store that does not answer at the end ------------------------------------------------------


@pytest.mark.parametrize("prefix", ["segment/", "catalog/", "manifest/"])
async def test_a_flush_that_hangs_does_not_hold_up_the_end_and_loses_nothing(
    store: FakeObjectStore, autojump_clock: trio.testing.MockClock, prefix: str
) -> None:
    async with running_backend(store) as backend:
        handle = await prepare(backend)
        ack = await handle.append(batch(b"acked"))
        store.hold(prefix)
        stopped_at = trio.current_time()
    assert trio.current_time() - stopped_at <= CLOSING_SECONDS + 3 * TASK_STOP_SECONDS
    async with running_backend(store.fork(random.Random(2)), seed=2) as backend:
        handle = await backend.open_stream(BASIN, STREAM, Purpose.READ)
        assert await handle.check_tail() == ack.tail


@pytest.mark.parametrize("starts_anew", [False, True])
async def test_writes_that_hang_do_not_hold_up_the_end_but_are_no_success(
    store: FakeObjectStore, autojump_clock: trio.testing.MockClock, starts_anew: bool
) -> None:
    async with noting_its_end(running_backend(store)) as (backend, ending):
        handle = await prepare(backend)
        store.hold(WAL)
        with trio.move_on_after(1):
            await handle.append(batch(b"given up"))
        if starts_anew:
            # The stream's next actor waits for what the last one has left.
            [stream_id] = backend.path.streams
            await backend.path.streams.stop_key(stream_id)
            with trio.move_on_after(1):
                await handle.append(batch(b"never submitted"))
        stopped_at = trio.current_time()
    assert trio.current_time() - stopped_at <= CLOSING_SECONDS + 3 * TASK_STOP_SECONDS
    assert ending.kinds() == {StorageFailed}


async def test_a_newer_writer_ends_the_older_which_acks_nothing_any_more(
    store: FakeObjectStore, autojump_clock: trio.testing.MockClock
) -> None:
    acked_by_the_old: list[int] = []

    async with running_backend(store) as first:
        acked_by_the_old.append((await (await prepare(first)).append(batch(b"0"))).start.seq_num)
    async with noting_its_end(running_backend(store, seed=1)) as (old, ending):
        handle = await old.open_stream(BASIN, STREAM, Purpose.APPEND)
        acked_by_the_old.append((await handle.append(batch(b"1"))).start.seq_num)
        with trio.fail_after(PATIENCE_SECONDS, shield=True):
            async with running_backend(store, seed=2) as new:
                taken_over = await new.open_stream(BASIN, STREAM, Purpose.APPEND)
                tail = (await taken_over.check_tail()).seq_num
                for i in range(3):
                    refusal = await outcome_of(lambda: handle.append(batch(b"lost")))
                    assert isinstance(
                        refusal, (WriterFenced, OutcomeUnknown, StreamUnavailable, StorageError)
                    )
                    ack = await taken_over.append(batch(b"new %d" % i))
                    assert ack.start.seq_num == tail + i
                assert isinstance(old.health(), WriterFenced)
                assert new.health() is None
        await until_it_ends()
    assert WriterFenced in ending.kinds()
    assert acked_by_the_old == [0, 1]
    assert tail == 2


async def test_writers_that_take_over_at_any_moment_leave_what_each_has_acked(
    store: FakeObjectStore, autojump_clock: trio.testing.MockClock
) -> None:
    rng = random.Random(7)
    acked: dict[int, bytes] = {}
    endings: list[BaseException] = []

    async def write(writer: int, after: float) -> None:
        await trio.sleep(after)
        try:
            async with running_backend(store, seed=writer) as backend:
                await append_until_fenced(backend, writer)
                await until_it_ends()
        except* (ActorError, StorageError) as group:
            endings.extend(leaves(group))

    async def append_until_fenced(backend: Backend, writer: int) -> None:
        handle = await backend.open_stream(BASIN, STREAM, Purpose.APPEND)
        for i in range(10**6):
            append_input = batch(body := b"%d:%d" % (writer, i))
            ack = await outcome_of(partial(handle.append, append_input))
            if not isinstance(ack, AppendAck):
                return
            assert ack.start.seq_num not in acked
            acked[ack.start.seq_num] = body

    async with running_backend(store) as backend:
        await prepare(backend)
    async with trio.open_nursery() as nursery:
        moment = 0.0
        for writer in range(1, 9):
            nursery.start_soon(write, writer, moment)
            moment += rng.uniform(0.0, 1.0)
        await trio.sleep(moment + 1)
        nursery.cancel_scope.cancel()
    async with running_backend(store, seed=99) as backend:
        client = AsgiClient(
            build_app(backend, clock=SystemClock(), registry=CollectorRegistry()),
            {"s2-basin": BASIN},
        )
        read = await client.request("GET", f"/v1/streams/{STREAM}/records?seq_num=0")
        records: list[dict[str, Any]] = read.json()["records"]
    assert {type(error) for error in endings} == {WriterFenced}
    found = {record["seq_num"]: record["body"].encode() for record in records}
    assert list(found) == list(range(len(found)))
    assert acked.items() <= found.items()
    assert len({body.partition(b":")[0] for body in acked.values()}) > 3


# --- the whole server ---------------------------------------------------------------------------


@attrs.define(eq=False)
class Running:
    """A server in this process."""

    shutdown: trio.Event = attrs.Factory(trio.Event)
    url: str = ""
    ended: trio.Event = attrs.Factory(trio.Event)
    errors: list[BaseException] = attrs.Factory(list)

    async def run(
        self, settings: Settings, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run a server, noting the errors that it ends with, if it has started."""
        environment = Environment(SystemClock(), random.Random(3))
        try:
            async with trio.open_nursery() as nursery:
                (address,) = await nursery.start(
                    lambda task_status: run_server(
                        settings,
                        environment,
                        CollectorRegistry(),
                        shutdown=self.shutdown,
                        task_status=task_status,
                    )
                )
                self.url = f"http://127.0.0.1:{address.port}"
                task_status.started()
        except* (ActorError, S2LiteError) as group:
            self.errors = leaves(group)
        self.ended.set()


def on_this_machine(storage: LocalStorage) -> Settings:
    return Settings(storage=storage, host="127.0.0.1", port=0)


@pytest.mark.slow
async def test_a_server_serves_until_it_is_told_to_stop_and_leaves_everything_behind(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    settings = on_this_machine(LocalStorage(tmp_path / "new"))
    for status in (201, 409):
        server = Running()
        await nursery.start(server.run, settings)
        async with httpx.AsyncClient(base_url=server.url) as client:
            made = await client.post("/v1/basins", json={"basin": BASIN})
            assert made.status_code == status
        server.shutdown.set()
        await server.ended.wait()
        assert server.errors == []


@pytest.mark.slow
async def test_a_server_whose_directory_disappears_ends_with_the_reason(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    server = Running()
    await nursery.start(server.run, on_this_machine(LocalStorage(tmp_path / "root")))
    async with httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.post("/v1/basins", json={"basin": BASIN})).status_code == 201
        shutil.rmtree(tmp_path / "root")
        try:
            answer = await client.post("/v1/basins", json={"basin": "other-basin"})
        except httpx.TransportError:
            pass  # the server was gone before it could answer
        else:
            assert answer.status_code in (500, 503)
    await server.ended.wait()
    assert [type(error) for error in server.errors] == [StorageFailed]


@pytest.mark.slow
async def test_a_server_without_its_port_lets_go_of_its_directory(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    settings = on_this_machine(LocalStorage(tmp_path))
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        unlucky = Running()
        with pytest.raises(RuntimeError):  # trio's word for: it ended before it had started
            await nursery.start(unlucky.run, attrs.evolve(settings, port=taken.getsockname()[1]))
    assert [type(error) for error in unlucky.errors] == [CannotListen]
    server = Running()
    await nursery.start(server.run, settings)
    server.shutdown.set()
    await server.ended.wait()
    assert server.errors == []


async def test_a_directory_has_one_store_at_a_time(tmp_path: Path) -> None:
    async with open_store(LocalStorage(tmp_path)):
        with pytest.raises(StoreLocked) as refusal:
            async with open_store(LocalStorage(tmp_path)):
                raise AssertionError("opened twice")
        assert str(tmp_path) in str(refusal.value)
    async with open_store(LocalStorage(tmp_path)):
        pass


async def test_a_store_in_memory_begins_empty(autojump_clock: trio.testing.MockClock) -> None:
    for _ in range(2):
        async with running_backend() as backend:
            with pytest.raises(BasinNotFound):
                await backend.basin_config(BASIN)
            await prepare(backend)
