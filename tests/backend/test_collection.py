"""The collector as a part of the server: it works when there is something to do, and only then."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio
from trio.testing import MockClock

from actors import PERMANENT, ActorSpec, RestartsExhausted, open_supervisor
from actors.testing import VirtualClock
from s2lite.backend.tasks.collection import CollectionActor, CollectionClient
from s2lite.model.errors import WriterFenced
from s2lite.storage.collection import PAUSE_SECONDS, RETRY_SECONDS, SHARED_MIN_AGE_SECONDS
from s2lite.storage.segments import segment_key
from s2lite.storage.wal import wal_key
from tests.fakes.object_store import FakeObjectStore, Fault, Latency, Op
from tests.storage.path_writer import PathWriter

HOUR = SHARED_MIN_AGE_SECONDS


@pytest.fixture
def store() -> FakeObjectStore:
    return FakeObjectStore(Random(1))


@asynccontextmanager
async def collecting(writer: PathWriter, seed: int = 0) -> AsyncIterator[CollectionClient]:
    """The writer's collector, at work."""
    collector = writer.collector
    async with open_supervisor("tasks", rng=Random(seed)) as supervisor:
        ref = supervisor.start_soon(
            ActorSpec(
                "collection",
                lambda: CollectionActor(collector),
                PERMANENT,
                stop_timeout_seconds=1.0,
            )
        )
        client = CollectionClient(ref, collector)
        writer.manifest.on_commit = client.committed
        yield client


async def test_garbage_goes_when_it_is_old_enough_and_then_there_are_no_requests(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    writer = await PathWriter.open(store, VirtualClock())
    async with collecting(writer):
        await trio.sleep(10 * HOUR)
        assert [each.op for each in store.log if each.start > 0] == []
        for _ in range(3):
            await writer.write(5)
            await writer.flush()
        await writer.compact()
        before = set(store.objects)
        await trio.sleep(HOUR - 1)
        assert set(store.objects) == before
        await trio.sleep(PAUSE_SECONDS + 1)
        assert len(store.objects) < len(before)
        await trio.sleep(2 * HOUR)
        assert set(store.objects) == writer.needed()
        requests = len(store.log)
        await trio.sleep(100 * HOUR)
        assert len(store.log) == requests


async def test_without_a_minimum_age_garbage_goes_at_once_but_not_in_many_small_rounds(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    writer = await PathWriter.open(store, VirtualClock(), min_age=0.0, lease=None)
    async with collecting(writer):
        for _ in range(50):
            await writer.write()
            await writer.flush()
            await trio.sleep(0.1 * PAUSE_SECONDS)
        await trio.sleep(PAUSE_SECONDS)
        assert set(store.objects) == writer.needed()
        # One extra commit a round.
        assert writer.manifest.number <= 1 + 50 + 7


async def test_what_was_handed_over_goes(store: FakeObjectStore, autojump_clock: MockClock) -> None:
    writer = await PathWriter.open(store, VirtualClock(), min_age=0.0, lease=None)
    async with collecting(writer) as client:
        key = segment_key(await writer.make_segment())
        await trio.sleep(PAUSE_SECONDS)
        assert key in store.objects
        client.abandoned([key])
        await trio.sleep(2 * PAUSE_SECONDS)
        assert key not in store.objects


@pytest.mark.parametrize("op", [Op.LIST, Op.PUT_NEW])
async def test_a_store_that_fails_is_tried_again_later(
    store: FakeObjectStore,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    op: Op,
) -> None:
    writer = await PathWriter.open(store, VirtualClock(), min_age=0.0, lease=None)
    await writer.flush()
    store.fail_next(op, "manifest/" if op is Op.PUT_NEW else "", Fault.REFUSED, times=2)
    async with collecting(writer):
        await trio.sleep(2 * RETRY_SECONDS - 1)
        assert wal_key(0) in store.objects
        await trio.sleep(2)
        assert set(store.objects) == writer.needed()
    assert len(caplog.messages) == 2


async def test_a_crash_is_survived_and_the_store_is_not_listed_again(
    store: FakeObjectStore, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    writer = await PathWriter.open(store, VirtualClock(), lease=None)
    async with collecting(writer):
        await writer.flush()
        await writer.flush()
        await trio.sleep(HOUR / 2)
        gate = store.hold("wal/", Op.DELETE)
        await gate.wait_held()
        gate.fail(RuntimeError("a bug"))  # type: ignore[arg-type]  # that is the point
        await trio.sleep(3 * HOUR)
        assert set(store.objects) == writer.needed()
    assert "collection crashed" in caplog.text
    assert sum(each.key == "" for each in store.operations(Op.LIST)) == 1


async def test_a_writer_that_was_fenced_off_does_not_go_on(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    writer = await PathWriter.open(store, VirtualClock())

    async def live() -> None:
        async with collecting(writer):
            await writer.flush()
            await writer.flush()
            await PathWriter.open(store, VirtualClock(), seed=1)
            await trio.sleep(2 * HOUR)

    with pytest.raises(RestartsExhausted) as caught:
        await live()
    assert isinstance(caught.value.__cause__, WriterFenced)
    assert store.operations(Op.DELETE) == []


async def test_a_round_does_not_hold_up_the_end_and_the_next_start_finishes_it(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    clock = VirtualClock()
    first = await PathWriter.open(store, clock, min_age=0.0, lease=None)
    await first.write(100)
    await first.flush()
    store.latency = Latency(delete=(0.4, 0.4))
    async with collecting(first):
        await trio.sleep(0.5)
        ended = trio.current_time()
    assert trio.current_time() - ended <= 1.0
    assert first.needed() < set(store.objects)
    second = await PathWriter.open(store, clock, min_age=0.0, lease=None, seed=1)
    async with collecting(second):
        await trio.sleep(60)
        assert set(store.objects) == second.needed()
