"""A server that another one has replaced: what it says is current or an error, at every door."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock

from actors import RestartsExhausted
from s2lite.backend.backend import Backend, Purpose
from s2lite.backend.stream_handle import StreamHandle
from s2lite.codec.envelope import WriterIdentity
from s2lite.model.config import BasinConfig, StreamConfigLayer
from s2lite.model.errors import SeqNumMismatch, StorageError, WriterFenced
from s2lite.model.manifest import Manifest
from s2lite.model.names import BasinName, StreamName
from s2lite.model.reads import DeliveredBatch, FromTimestamp, Heartbeat, ReadRequest
from s2lite.model.resources import ListRequest
from s2lite.settings import BucketStorage, MemoryStorage, Settings
from s2lite.storage.creation import ObjectCreator
from s2lite.storage.manifest import write_manifest
from tests.backend.world import BASIN, FROM_START, STREAM, append_of, following, new_stream
from tests.fakes.backend import running_backend
from tests.fakes.object_store import FakeObjectStore, Op

OTHER_STREAM = StreamName("other")


@attrs.define(eq=False)
class World:
    """A server on a bucket, with a stream that has one record and was just idle for a while."""

    store: FakeObjectStore
    backend: Backend
    stream: StreamHandle

    async def replace(self) -> None:
        """Another server takes the next epoch."""
        newer = ObjectCreator(self.store, WriterIdentity(2, bytes(16)), Random(9))
        number = self.backend.ownership.manifest_number() + 1
        await write_manifest(newer, number, Manifest())

    def forget(self) -> None:
        self.store.log.clear()

    @property
    def looks(self) -> int:
        """How often the manifests were looked at."""
        return len(self.store.operations(Op.GET_RANGE, "manifest/"))


@asynccontextmanager
async def a_world(*, shared: bool = True) -> AsyncIterator[World]:
    store = FakeObjectStore(Random(1))
    settings = Settings(storage=BucketStorage("bucket") if shared else MemoryStorage())
    async with running_backend(store, settings=settings) as backend:
        stream = await new_stream(backend)
        await stream.append(append_of("one"))
        await trio.sleep(30)
        world = World(store, backend, stream)
        world.forget()
        yield world


async def first_of_a_session(world: World, request: ReadRequest) -> None:
    async with world.stream.read_session(request) as session:
        async for _ in session:
            return


async def second_heartbeat(world: World) -> None:
    """The first one is from before the replacement."""
    heartbeats = 0
    async with world.stream.read_session(following(1)) as session:
        async for event in session:
            assert isinstance(event, Heartbeat)
            heartbeats += 1
            if heartbeats == 2:
                return
            await world.replace()


Question = Callable[[World], Awaitable[object]]

QUESTIONS: dict[str, Question] = {
    "tail": lambda world: world.stream.check_tail(),
    "read": lambda world: world.stream.read(FROM_START),
    "read by time": lambda world: world.stream.read(ReadRequest(FromTimestamp(0))),
    "session": lambda world: first_of_a_session(world, FROM_START),
    "session at the tail": lambda world: first_of_a_session(world, following(1)),
    "basins": lambda world: world.backend.list_basins(ListRequest()),
    "streams": lambda world: world.backend.list_streams(BASIN, ListRequest()),
    "basin config": lambda world: world.backend.basin_config(BASIN),
    "stream config": lambda world: world.backend.stream_config(BASIN, STREAM),
}

REFUSALS: dict[str, Question] = {
    "append that does not match": lambda world: world.stream.append(append_of("x", match=7)),
    "no such stream": lambda world: world.backend.open_stream(BASIN, OTHER_STREAM, Purpose.READ),
    "no such stream to append to": lambda world: world.backend.open_stream(
        BASIN, OTHER_STREAM, Purpose.APPEND
    ),
    "no such stream to delete": lambda world: world.backend.delete_stream(BASIN, OTHER_STREAM),
    "a stream that exists": lambda world: world.backend.create_stream(
        BASIN, STREAM, StreamConfigLayer(), None
    ),
    "a basin that exists": lambda world: world.backend.ensure_basin(BASIN, BasinConfig()),
    "no such basin": lambda world: world.backend.delete_basin(BasinName("no-such-basin")),
}


async def until_fenced(scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run it in a server that ends because it has been replaced."""
    with pytest.raises((RestartsExhausted, WriterFenced)) as caught:
        await _run(scenario)
    error = caught.value
    assert isinstance(error.cause if isinstance(error, RestartsExhausted) else error, WriterFenced)


async def _run(scenario: Callable[[World], Awaitable[None]]) -> None:
    async with a_world() as world:
        with trio.CancelScope(shield=True):
            await scenario(world)
        await trio.sleep_forever()


@pytest.mark.parametrize("question", [*QUESTIONS, *REFUSALS])
async def test_once_replaced_it_answers_no_question(
    autojump_clock: MockClock, question: str
) -> None:
    async def scenario(world: World) -> None:
        await world.replace()
        with pytest.raises(WriterFenced):
            await (QUESTIONS | REFUSALS)[question](world)

    await until_fenced(scenario)


async def test_once_replaced_it_sends_no_heartbeat(autojump_clock: MockClock) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(WriterFenced):
            await second_heartbeat(world)

    await until_fenced(scenario)


@pytest.mark.parametrize("wait", [0, None])
async def test_once_replaced_it_does_not_take_its_own_tail_for_the_end(
    autojump_clock: MockClock, wait: int | None
) -> None:
    async def scenario(world: World) -> None:
        async with world.stream.read_session(following(0, wait=wait)) as session:
            assert isinstance(await anext(session), DeliveredBatch)
            await trio.sleep(5)
            await world.replace()
            with pytest.raises(WriterFenced):
                await anext(session)

    await until_fenced(scenario)


async def test_once_replaced_it_does_not_say_that_a_read_has_waited_in_vain(
    autojump_clock: MockClock,
) -> None:
    async def scenario(world: World) -> None:
        async with world.stream.read_session(following(1, wait=3)) as session:
            assert isinstance(await anext(session), Heartbeat)
            await world.replace()
            with pytest.raises(WriterFenced):
                await anext(session)

    await until_fenced(scenario)


async def test_an_append_that_finds_a_newer_writer_is_not_acked_and_ends_the_server(
    autojump_clock: MockClock,
) -> None:
    async def scenario(world: World) -> None:
        await trio.sleep(60)
        await world.replace()
        with pytest.raises(StorageError):
            await world.stream.append(append_of("two"))

    await until_fenced(scenario)


@pytest.mark.parametrize("question", QUESTIONS)
async def test_each_question_costs_one_look_and_within_the_lease_none(
    autojump_clock: MockClock, question: str
) -> None:
    async with a_world() as world:
        for _ in range(3):
            await QUESTIONS[question](world)
        assert world.looks == 1


async def test_acks_take_the_place_of_looks(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        for _ in range(10):
            await world.stream.append(append_of("more"))
            await world.stream.check_tail()
            await trio.sleep(5)
        assert world.looks == 0


async def test_an_idle_server_makes_no_requests(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await trio.sleep(200)
        assert world.store.log == []


async def test_behind_a_lock_nothing_is_ever_looked_at(autojump_clock: MockClock) -> None:
    async with a_world(shared=False) as world:
        for ask in QUESTIONS.values():
            await ask(world)
            await trio.sleep(5)
        with pytest.raises(SeqNumMismatch):
            await REFUSALS["append that does not match"](world)
        assert world.looks == 0
