"""The control plane: who wins, what is answered when, and what a restart finds."""

from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import RestartsExhausted
from s2lite.backend.backend import Backend, Purpose
from s2lite.core.provisioning import Decision
from s2lite.model.config import (
    BasinConfig,
    BasinReconfiguration,
    StorageClass,
    StreamCipher,
    StreamConfig,
    StreamConfigLayer,
    StreamReconfiguration,
    TimestampingMode,
)
from s2lite.model.errors import (
    BasinDeletionPending,
    BasinExists,
    BasinNotFound,
    InvalidInput,
    OutcomeUnknown,
    S2LiteError,
    StorageError,
    StorageFailed,
    StreamExists,
    StreamNotFound,
    WriterFenced,
)
from s2lite.model.names import BasinName, StreamName
from s2lite.model.positions import StreamPosition
from s2lite.model.resources import ListRequest, Provisioned, ProvisionResult
from s2lite.storage.manifest import newest_manifest
from s2lite.storage.objects.object_store import StoreRefused
from tests.backend.world import BASIN, STREAM, append_of, new_stream, open_stream, read_all
from tests.fakes.backend import START_MS, running_backend
from tests.fakes.object_store import FakeObjectStore, Latency, Op

EMPTY = StreamConfigLayer()
OTHER = BasinName("other-basin")
ON_BOTH = BasinConfig(create_stream_on_append=True, create_stream_on_read=True)
CREATED, NOOP = ProvisionResult.CREATED, ProvisionResult.NOOP


@pytest.fixture
def store() -> FakeObjectStore:
    return FakeObjectStore(Random(1))


@attrs.define(eq=False)
class Asked:
    """A request that runs on its own, and how it ended."""

    answer: object = None
    error: S2LiteError | None = None
    done: bool = False

    async def run(self, request: Callable[[], Awaitable[object]]) -> None:
        try:
            self.answer = await request()
        except S2LiteError as error:
            self.error = error
        self.done = True


def ask(nursery: trio.Nursery, request: Callable[[], Awaitable[object]]) -> Asked:
    asked = Asked()
    nursery.start_soon(asked.run, request)
    return asked


async def list_basins(backend: Backend) -> list[str]:
    return [info.name for info in (await backend.list_basins(ListRequest())).items]


async def list_streams(backend: Backend) -> list[str]:
    return [info.name for info in (await backend.list_streams(BASIN, ListRequest())).items]


# --- concurrency -------------------------------------------------------------------------------


async def test_of_many_creates_at_once_exactly_one_creates(store: FakeObjectStore) -> None:
    async with running_backend(store) as backend:
        async with trio.open_nursery() as nursery:
            basins = [
                ask(nursery, lambda: backend.create_basin(BASIN, BasinConfig(), None))
                for _ in range(20)
            ]
        async with trio.open_nursery() as nursery:
            streams = [
                ask(nursery, lambda: backend.create_stream(BASIN, STREAM, EMPTY, None))
                for _ in range(20)
            ]
    for asked, exists in ((basins, BasinExists), (streams, StreamExists)):
        outcomes = Counter(type(each.answer or each.error) for each in asked)
        assert outcomes == {Provisioned: 1, exists: 19}


async def test_of_many_creates_with_one_token_one_creates_and_the_others_replay(
    store: FakeObjectStore,
) -> None:
    async with running_backend(store) as backend, trio.open_nursery() as nursery:
        asked = [
            ask(nursery, lambda: backend.create_basin(BASIN, BasinConfig(), "token"))
            for _ in range(10)
        ]
    answers = [each.answer for each in asked if isinstance(each.answer, Provisioned)]
    assert Counter(answer.result for answer in answers) == {CREATED: 1, NOOP: 9}
    assert len({answer.info for answer in answers}) == 1


async def test_many_requests_share_a_commit(store: FakeObjectStore) -> None:
    async with running_backend(store) as backend:
        await backend.create_basin(BASIN, BasinConfig(), None)
        before = len(store.operations(Op.PUT_NEW))
        async with trio.open_nursery() as nursery:
            for number in range(100):
                name = StreamName(f"s{number}")
                ask(nursery, lambda name=name: backend.create_stream(BASIN, name, EMPTY, None))  # type: ignore[misc]  # bound early
        assert len(store.operations(Op.PUT_NEW)) - before <= 3
        assert len(await list_streams(backend)) == 100


# --- answers wait for what they rest on ----------------------------------------------------------


async def test_no_answer_of_any_kind_reveals_what_is_not_durable(store: FakeObjectStore) -> None:
    async with running_backend(store) as backend:
        await backend.create_basin(BASIN, ON_BOTH, None)
        gate = store.hold("wal/")
        async with trio.open_nursery() as nursery:
            creating = ask(nursery, lambda: backend.create_stream(BASIN, STREAM, EMPTY, "t"))
            await wait_all_tasks_blocked()
            waiting = [
                ask(nursery, request)
                for request in (
                    lambda: backend.create_stream(BASIN, STREAM, EMPTY, None),  # exists
                    lambda: backend.create_stream(BASIN, STREAM, EMPTY, "t"),  # replay
                    lambda: backend.ensure_stream(BASIN, STREAM, EMPTY),  # noop
                    lambda: backend.open_stream(BASIN, STREAM, Purpose.APPEND),  # lost the race
                    lambda: backend.create_basin(BASIN, BasinConfig(), None),  # exists
                )
            ]
            await wait_all_tasks_blocked()
            assert not creating.done
            assert not any(each.done for each in waiting)
            assert await list_streams(backend) == []
            with pytest.raises(StreamNotFound):
                await backend.stream_config(BASIN, STREAM)
            with pytest.raises(StreamNotFound):
                await backend.delete_stream(BASIN, STREAM)
            gate.release()
    assert isinstance(waiting[0].error, StreamExists)
    assert [_result(each) for each in waiting[1:3]] == [NOOP, NOOP]
    assert waiting[3].error is None
    assert isinstance(waiting[4].error, BasinExists)


def _result(asked: Asked) -> ProvisionResult:
    assert isinstance(asked.answer, Provisioned)
    return asked.answer.result


async def test_a_config_is_shown_and_obeyed_once_it_is_durable(store: FakeObjectStore) -> None:
    async with running_backend(store) as backend:
        stream = await new_stream(backend)
        gate = store.hold("wal/")
        change = StreamReconfiguration(timestamping_mode=TimestampingMode.CLIENT_REQUIRE)
        async with trio.open_nursery() as nursery:
            patching = ask(nursery, lambda: backend.reconfigure_stream(BASIN, STREAM, change))
            await wait_all_tasks_blocked()
            assert not patching.done
            assert await backend.stream_config(BASIN, STREAM) == StreamConfig()
            gate.release()
        expected = StreamConfig(timestamping_mode=TimestampingMode.CLIENT_REQUIRE)
        assert patching.answer == await backend.stream_config(BASIN, STREAM) == expected
        with pytest.raises(InvalidInput):
            await stream.append(append_of("no timestamp"))


async def test_a_decision_builds_on_those_that_are_not_durable_yet(
    store: FakeObjectStore,
) -> None:
    """PATCH upon PATCH, without waiting, loses neither."""
    async with running_backend(store) as backend:
        await backend.create_basin(BASIN, BasinConfig(), None)
        gate = store.hold("wal/")
        async with trio.open_nursery() as nursery:
            for change in (
                BasinReconfiguration(create_stream_on_append=True),
                BasinReconfiguration(stream_cipher=StreamCipher.AEGIS_256),
                BasinReconfiguration(create_stream_on_read=True),
            ):
                ask(nursery, lambda change=change: backend.reconfigure_basin(BASIN, change))  # type: ignore[misc]  # bound early
                await wait_all_tasks_blocked()
            gate.release()
        expected = attrs.evolve(ON_BOTH, stream_cipher=StreamCipher.AEGIS_256)
        assert await backend.basin_config(BASIN) == expected


async def test_a_stream_that_is_created_and_a_basin_that_is_deleted_at_once_agree(
    store: FakeObjectStore,
) -> None:
    async with running_backend(store) as backend:
        await backend.create_basin(BASIN, ON_BOTH, None)
        gate = store.hold("wal/")
        async with trio.open_nursery() as nursery:
            deleting = ask(nursery, lambda: backend.delete_basin(BASIN))
            await wait_all_tasks_blocked()
            late = [
                ask(nursery, lambda: backend.create_stream(BASIN, STREAM, EMPTY, None)),
                ask(nursery, lambda: backend.open_stream(BASIN, STREAM, Purpose.READ)),
                ask(nursery, lambda: backend.create_basin(BASIN, BasinConfig(), None)),
            ]
            await wait_all_tasks_blocked()
            assert not any(each.done for each in [deleting, *late])
            gate.release()
        assert {type(each.error) for each in late} == {BasinDeletionPending}


# --- failure --------------------------------------------------------------------------------------


async def test_when_the_store_fails_what_is_not_durable_fails_with_it(
    store: FakeObjectStore,
) -> None:
    asked: list[Asked] = []
    healths: list[StorageError | None] = []

    async def scenario() -> None:
        async with running_backend(store) as backend:
            await backend.create_basin(BASIN, BasinConfig(), None)
            healths.append(backend.health())
            gate = store.hold("wal/")
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    for request in (
                        lambda: backend.create_stream(BASIN, STREAM, EMPTY, None),
                        lambda: backend.create_basin(BASIN, BasinConfig(), None),
                    ):
                        asked.append(ask(nursery, request))
                        await wait_all_tasks_blocked()
                    gate.fail(StoreRefused("wal/", "disk full"))
                healths.append(backend.health())
            await trio.sleep_forever()

    with pytest.raises(RestartsExhausted) as caught:
        await scenario()
    assert isinstance(caught.value.cause, StorageFailed)
    assert [type(each.error) for each in asked] == [StorageFailed, StorageFailed]
    assert healths[0] is None
    assert isinstance(healths[1], StorageFailed)


async def test_a_decision_that_breaks_costs_only_its_own_request(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    """The owner of the catalog crashes, and its successor knows what was decided before."""

    def broken(view: object) -> Decision[None]:
        raise RuntimeError("a mistake in the program")

    async with running_backend(store) as backend:
        gate = store.hold("wal/")
        async with trio.open_nursery() as nursery:
            creating = ask(nursery, lambda: backend.create_basin(BASIN, BasinConfig(), None))
            await wait_all_tasks_blocked()
            crashing = ask(nursery, lambda: backend._mutate(broken))
            await wait_all_tasks_blocked()
            again = ask(nursery, lambda: backend.create_basin(BASIN, BasinConfig(), None))
            await trio.sleep(0.5)
            gate.release()
        assert isinstance(creating.error, OutcomeUnknown)
        assert isinstance(crashing.error, OutcomeUnknown)
        assert isinstance(again.error, BasinExists)
        assert (await backend.create_basin(OTHER, BasinConfig(), None)).result is CREATED


# --- restart --------------------------------------------------------------------------------------


async def test_a_restart_finds_everything_as_it_was(store: FakeObjectStore) -> None:
    layer = StreamConfigLayer(storage_class=StorageClass.STANDARD)
    async with running_backend(store) as backend:
        await backend.create_basin(BASIN, ON_BOTH, "token")
        await backend.create_stream(BASIN, STREAM, layer, "again")
        await backend.ensure_basin(OTHER, BasinConfig())
        await backend.delete_basin(OTHER)
        before = await _everything(backend)
    async with running_backend(store, seed=1) as backend:
        await wait_all_tasks_blocked()
        assert await _everything(backend) == before
        assert (await backend.create_basin(BASIN, ON_BOTH, "token")).result is NOOP
        assert (await backend.create_stream(BASIN, STREAM, layer, "again")).result is NOOP


async def _everything(backend: Backend) -> list[object]:
    return [
        [info for info in (await backend.list_basins(ListRequest())).items if info.name == BASIN],
        await backend.list_streams(BASIN, ListRequest()),
        await backend.basin_config(BASIN),
        await backend.stream_config(BASIN, STREAM),
    ]


async def test_an_orderly_end_makes_durable_what_was_asked_for(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    store.latency = Latency.all(1.0, 1.0)
    async with running_backend(store) as backend, trio.open_nursery() as nursery:
        nursery.start_soon(backend.create_basin, BASIN, BasinConfig(), None)
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    async with running_backend(store, seed=1) as backend:
        assert await list_basins(backend) == [BASIN]


async def test_only_an_orderly_end_is_recorded_as_one(store: FakeObjectStore) -> None:
    async with running_backend(store):
        running = await newest_manifest(store)
    ended = await newest_manifest(store)
    assert running is not None
    assert ended is not None
    assert (running.manifest.closed_cleanly, ended.manifest.closed_cleanly) == (False, True)


async def test_a_server_whose_path_was_taken_over_acks_nothing_more(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    errors: list[S2LiteError | None] = []

    async def old_server(task_status: trio.TaskStatus[Backend]) -> None:
        async with running_backend(store) as backend:
            await new_stream(backend)
            task_status.started(backend)
            await trio.sleep_forever()

    async def old_server_until_it_ends(task_status: trio.TaskStatus[Backend]) -> None:
        with pytest.raises(RestartsExhausted) as caught:
            await old_server(task_status)
        assert isinstance(caught.value.cause, WriterFenced)

    async with trio.open_nursery() as nursery:
        old: Backend = await nursery.start(old_server_until_it_ends)
        async with running_backend(store, seed=1) as new:
            stream = await open_stream(new)
            await stream.append(append_of("new"))
            with pytest.raises(WriterFenced) as caught:
                await (await open_stream(old)).append(append_of("old"))
            errors += [caught.value, old.health(), new.health()]
            assert await read_all(stream) == ["new"]
    assert [type(error) for error in errors] == [WriterFenced, WriterFenced, type(None)]


# --- streams that come to be by being used ------------------------------------------------------


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("allowed", [False, True])
async def test_each_purpose_has_its_flag(purpose: Purpose, allowed: bool) -> None:
    config = BasinConfig(
        create_stream_on_append=(purpose is Purpose.APPEND) == allowed,
        create_stream_on_read=(purpose is Purpose.READ) == allowed,
    )
    async with running_backend() as backend:
        await backend.create_basin(BASIN, config, None)
        if allowed:
            handle = await backend.open_stream(BASIN, STREAM, purpose)
            assert await handle.check_tail() == StreamPosition.ZERO
            assert await list_streams(backend) == [STREAM]
        else:
            with pytest.raises(StreamNotFound):
                await backend.open_stream(BASIN, STREAM, purpose)
            assert await list_streams(backend) == []


async def test_a_missing_basin_is_not_found_whatever_is_asked_of_it() -> None:
    async with running_backend() as backend:
        for purpose in Purpose:
            with pytest.raises(BasinNotFound):
                await backend.open_stream(BASIN, STREAM, purpose)
        for request in (
            lambda: backend.create_stream(BASIN, STREAM, EMPTY, None),
            lambda: backend.ensure_stream(BASIN, STREAM, EMPTY),
            lambda: backend.reconfigure_stream(BASIN, STREAM, StreamReconfiguration()),
            lambda: backend.reconfigure_basin(BASIN, BasinReconfiguration()),
            lambda: backend.delete_basin(BASIN),
        ):
            with pytest.raises(BasinNotFound):
                await request()
        with pytest.raises(StreamNotFound):
            await backend.stream_config(BASIN, STREAM)
        with pytest.raises(StreamNotFound):
            await backend.delete_stream(BASIN, STREAM)
        with pytest.raises(BasinNotFound):
            await backend.basin_config(BASIN)
        assert await list_streams(backend) == []


async def test_an_auto_created_stream_has_its_basins_defaults_and_cipher() -> None:
    async with running_backend() as backend:
        config = attrs.evolve(
            ON_BOTH,
            default_stream_config=StreamConfigLayer(timestamping_mode=TimestampingMode.ARRIVAL),
            stream_cipher=StreamCipher.AES_256_GCM,
        )
        await backend.create_basin(BASIN, config, None)
        handle = await backend.open_stream(
            BASIN, STREAM, Purpose.APPEND, StreamConfigLayer(storage_class=StorageClass.STANDARD)
        )
        assert handle.cipher is StreamCipher.AES_256_GCM
        assert await backend.stream_config(BASIN, STREAM) == StreamConfig(
            StorageClass.STANDARD, timestamping_mode=TimestampingMode.ARRIVAL
        )


async def test_of_many_first_appends_one_creates_the_stream_and_all_succeed(
    autojump_clock: MockClock,
) -> None:
    for seed in range(5):
        store = FakeObjectStore(Random(seed), Latency.all(0.0, 0.1))
        async with running_backend(store) as backend:
            await backend.create_basin(BASIN, ON_BOTH, None)

            async def first_append(number: int, backend: Backend = backend) -> None:
                handle = await open_stream(backend)
                await handle.append(append_of(f"{number}"))

            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(first_append, number)
            handle = await open_stream(backend)
            assert sorted(await read_all(handle)) == [str(number) for number in range(10)]
            assert len(await list_streams(backend)) == 1


async def test_a_flag_that_is_switched_off_holds_for_the_next_miss() -> None:
    async with running_backend() as backend:
        await backend.create_basin(BASIN, ON_BOTH, None)
        await open_stream(backend, "one")
        change = BasinReconfiguration(create_stream_on_append=False)
        await backend.reconfigure_basin(BASIN, change)
        with pytest.raises(StreamNotFound):
            await open_stream(backend, "two")


async def test_creation_time_is_the_wall_clock_in_milliseconds(autojump_clock: MockClock) -> None:
    async with running_backend() as backend:
        await trio.sleep(2.5)
        provisioned = await backend.create_basin(BASIN, BasinConfig(), None)
        assert provisioned.info.created_at_ms == START_MS + 2500
