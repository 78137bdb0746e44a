"""When the memtable is flushed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors import ActorSpec, RestartKind, RestartPolicy, RestartsExhausted, open_supervisor
from s2lite.backend.tasks.flushing import FLUSH_AGE_SECONDS, FlushActor, FlushClient
from s2lite.storage.layout import Layout
from tests.fakes.object_store import Fault, Op
from tests.storage.engine import TINY, Engine, open_engine, stream_id

ONE = stream_id(1)
NEVER_FULL = attrs.evolve(TINY, memtable_bytes=10**9, wal_objects=10**9)


@attrs.define(eq=False)
class Flushing:
    engine: Engine
    client: FlushClient
    room: list[bool]
    """Whether a table was still frozen, each time somebody was told that there is room again."""


@asynccontextmanager
async def running(layout: Layout = NEVER_FULL) -> AsyncIterator[Flushing]:
    async with open_engine(layout=layout) as engine, open_supervisor("flush") as supervisor:
        room: list[bool] = []

        def flushed() -> None:
            room.append(engine.memtable.frozen is None)

        ref = await supervisor.start(
            ActorSpec(
                "flush",
                lambda: FlushActor(
                    engine.memtable, engine.manifest, engine.retention, layout, flushed
                ),
                RestartPolicy(RestartKind.PERMANENT, max_restarts=0),
            )
        )
        yield Flushing(engine, FlushClient(ref), room)


async def test_a_full_table_is_flushed_at_once(autojump_clock: object) -> None:
    async with running(attrs.evolve(NEVER_FULL, memtable_bytes=5000)) as flushing:
        engine = flushing.engine
        engine.append(ONE, size=3000)
        await wait_all_tasks_blocked()
        assert engine.tiers == []
        engine.append(ONE, size=3000)
        await wait_all_tasks_blocked()
        assert engine.tiers == [0]
        assert flushing.room == [True]
        engine.check()


async def test_a_table_that_fills_during_a_flush_is_flushed_after_it(
    autojump_clock: object,
) -> None:
    async with running(attrs.evolve(NEVER_FULL, memtable_bytes=5000)) as flushing:
        engine = flushing.engine
        gate = engine.store.hold("segment/")
        engine.append(ONE, size=5000)
        await gate.wait_held()
        engine.append(ONE, size=5000)
        await wait_all_tasks_blocked()
        assert engine.memtable.stalled
        gate.release()
        await wait_all_tasks_blocked()
        assert (engine.tiers, flushing.room) == ([0, 0], [True, True])
        engine.check()


async def test_a_table_is_flushed_some_time_after_its_first_batch(autojump_clock: object) -> None:
    async with running() as flushing:
        engine = flushing.engine
        await trio.sleep(1000)
        for _ in range(2):
            engine.append(ONE)
            await trio.sleep(FLUSH_AGE_SECONDS / 2 - 1)
        assert engine.tiers == []
        await trio.sleep(5)
        assert engine.tiers == [0]
        engine.append(ONE)
        await trio.sleep(FLUSH_AGE_SECONDS - 1)
        assert engine.tiers == [0]
        await trio.sleep(2)
        assert engine.tiers == [0, 0]


async def test_nothing_is_written_while_nothing_changes(autojump_clock: object) -> None:
    async with running() as flushing:
        flushing.engine.append(ONE)
        await trio.sleep(10 * FLUSH_AGE_SECONDS)
        flushing.engine.store.log.clear()
        await trio.sleep(100 * FLUSH_AGE_SECONDS)
        assert flushing.engine.store.log == []


async def test_an_old_table_waits_for_the_end_of_a_wal_object(autojump_clock: object) -> None:
    async with running() as flushing:
        engine = flushing.engine
        engine.append(ONE)
        await trio.sleep(FLUSH_AGE_SECONDS - 1)
        engine.memtable.stream_changed(ONE, engine.streams[ONE].state)
        await trio.sleep(10)
        assert engine.tiers == []
        engine.memtable.advanced(engine.wal_number)
        await wait_all_tasks_blocked()
        assert engine.tiers == [0]


async def test_at_the_end_everything_is_flushed(autojump_clock: object) -> None:
    async with running() as flushing:
        await flushing.client.flush_all()
        assert flushing.engine.manifest.number == 0
        flushing.engine.append(ONE)
        await flushing.client.flush_all()
        assert flushing.engine.tiers == [0]
        assert flushing.engine.memtable.active.is_empty
        assert flushing.engine.memtable.frozen is None


@pytest.mark.parametrize("prefix", ["segment/", "catalog/", "manifest/"])
async def test_a_flush_that_fails_fails_whoever_supervises_it(
    autojump_clock: object, prefix: str
) -> None:
    async def live() -> None:
        async with running() as flushing:
            flushing.engine.store.fail_next(Op.PUT_NEW, prefix, Fault.REFUSED)
            flushing.engine.append(ONE)
            await trio.sleep(2 * FLUSH_AGE_SECONDS)

    with pytest.raises(RestartsExhausted):
        await live()
