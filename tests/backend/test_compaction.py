"""When the log is compacted."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors import ActorSpec, open_supervisor
from s2lite.backend.tasks.compaction import (
    COMPACTION_RESTARTS,
    FIRST_PASS_SECONDS,
    TOUCHED_SECONDS,
    WEIGHING_INTERVAL_SECONDS,
    CompactionActor,
    CompactionClient,
)
from s2lite.storage.compaction import CATALOG_OBJECTS
from s2lite.storage.layout import Layout
from s2lite.storage.segments import segment_key
from tests.fakes.object_store import FakeObjectStore, Fault, Latency, Op
from tests.storage.engine import TINY, Engine, open_engine, stream_id

ONE, TWO, THREE = stream_id(1), stream_id(2), stream_id(3)
WIDE = attrs.evolve(TINY, fanout=100)


@attrs.define(eq=False)
class Compacting:
    engine: Engine
    client: CompactionClient

    async def flush(self) -> None:
        for stream in (ONE, TWO, THREE):
            if not (stream in self.engine.streams and self.engine.streams[stream].removed):
                self.engine.append(stream, 3)
        await self.engine.flush()
        self.client.flushed()
        await wait_all_tasks_blocked()


@asynccontextmanager
async def running(
    layout: Layout = WIDE, store: FakeObjectStore | None = None
) -> AsyncIterator[Compacting]:
    async with (
        open_engine(store, layout, epoch=2 if store else 1) as engine,
        open_supervisor("tasks") as supervisor,
    ):
        ref = await supervisor.start(
            ActorSpec(
                "compaction",
                lambda: CompactionActor(engine.compactor, engine.fates),
                COMPACTION_RESTARTS,
            )
        )
        client = CompactionClient(ref, engine.fates)
        engine.touched = client.touched
        yield Compacting(engine, client)


async def test_runs_are_merged_when_there_are_enough(autojump_clock: object) -> None:
    async with running(TINY) as compacting:
        for expected in ([0], [0, 0], [1], [1, 0]):
            await compacting.flush()
            assert compacting.engine.tiers == expected
        compacting.engine.check()


async def test_the_catalog_is_compacted_too(autojump_clock: object) -> None:
    async with running() as compacting:
        for _ in range(CATALOG_OBJECTS + 1):
            await compacting.flush()
        assert len(compacting.engine.manifest.value.catalog) == 1
        await compacting.engine.check_catalog()


async def test_the_space_of_removed_streams_is_given_back_soon(autojump_clock: object) -> None:
    async with running() as compacting:
        await compacting.flush()
        compacting.engine.remove(ONE)
        compacting.engine.remove(TWO)
        await trio.sleep(TOUCHED_SECONDS / 2)
        assert compacting.engine.numbers(ONE) != []
        await trio.sleep(TOUCHED_SECONDS)
        assert compacting.engine.numbers(ONE) == compacting.engine.numbers(TWO) == []
        compacting.engine.check()


async def test_segments_are_not_weighed_all_the_time(autojump_clock: object) -> None:
    async with running() as compacting:
        await compacting.flush()
        for _ in range(1000):
            trim_point = compacting.engine.append(ONE).batch.first_seq_num
            compacting.engine.trim(ONE, trim_point)
            await trio.sleep(0.1)
        compacting.engine.segments.cache.hits = compacting.engine.segments.cache.misses = 0
        for _ in range(3000):
            trim_point = compacting.engine.append(ONE).batch.first_seq_num
            compacting.engine.trim(ONE, trim_point)
            await trio.sleep(0.1)
        cache = compacting.engine.segments.cache
        assert 1 <= cache.hits + cache.misses <= 300 / WEIGHING_INTERVAL_SECONDS + 1


async def test_expired_records_go_when_they_expire(autojump_clock: object) -> None:
    async with running() as compacting:
        engine = compacting.engine
        now_ms = engine.clock.now_ms()
        engine.append(ONE, 3, expires_at_ms=now_ms + 10_000_000)
        engine.append(TWO, 3, expires_at_ms=now_ms + 20_000_000)
        await compacting.engine.flush()
        compacting.client.flushed()
        await trio.sleep(9_999)
        assert (engine.numbers(ONE), engine.numbers(TWO)) == ([0, 1, 2], [0, 1, 2])
        await trio.sleep(2)
        assert (engine.numbers(ONE), engine.numbers(TWO)) == ([], [0, 1, 2])
        await trio.sleep(10_000)
        assert engine.tiers == []


async def test_what_was_removed_before_a_restart_is_reclaimed_after_a_while(
    autojump_clock: object,
) -> None:
    async with running() as compacting:
        await compacting.flush()
        streams = compacting.engine.streams
        store = compacting.engine.store
    async with running(store=store) as compacting:
        compacting.engine.streams = streams
        streams[ONE].removed = streams[TWO].removed = True
        await trio.sleep(FIRST_PASS_SECONDS - 1)
        assert compacting.engine.numbers(ONE) != []
        await trio.sleep(2)
        assert compacting.engine.numbers(ONE) == []
        compacting.engine.check()
        store.log.clear()
        await trio.sleep(10**6)
        assert store.log == []


async def test_an_idle_server_without_segments_makes_no_request(autojump_clock: object) -> None:
    async with running() as compacting:
        compacting.engine.store.log.clear()
        await trio.sleep(10**6)
        assert compacting.engine.store.log == []


async def test_it_goes_on_when_the_store_is_back(autojump_clock: object) -> None:
    async with running(TINY) as compacting:
        await compacting.flush()
        await compacting.flush()
        compacting.engine.store.fail_next(Op.GET_RANGE, "segment/", Fault.REFUSED, times=4)
        await compacting.flush()
        assert compacting.engine.tiers == [0, 0, 0]
        await trio.sleep(120)
        assert compacting.engine.tiers == [1]
        assert compacting.engine.failures == []


async def test_a_look_that_fails_is_taken_again(autojump_clock: object) -> None:
    async with running() as compacting:
        await compacting.flush()
        compacting.engine.store.fail_next(Op.GET_RANGE, "segment/", Fault.REFUSED)
        compacting.engine.remove(ONE)
        compacting.engine.remove(TWO)
        await trio.sleep(FIRST_PASS_SECONDS / 2)
        assert compacting.engine.numbers(ONE) == []


async def test_damage_keeps_nobody_busy(autojump_clock: object) -> None:
    async with running(TINY) as compacting:
        await compacting.flush()
        info = compacting.engine.manifest.value.segments[0]
        compacting.engine.store.damage(segment_key(info.object_id), b"")
        await compacting.flush()
        await compacting.flush()
        compacting.engine.store.log.clear()
        await trio.sleep(FIRST_PASS_SECONDS * 2)
        compacting.engine.store.log.clear()
        await trio.sleep(10**6)
        assert compacting.engine.store.log == []
        assert list(compacting.engine.damage.items) == [segment_key(info.object_id)]


async def test_a_failure_of_the_manifest_is_told(autojump_clock: object) -> None:
    async with running(TINY) as compacting:
        await compacting.flush()
        await compacting.flush()
        compacting.engine.store.latency = Latency(put_new=(1, 1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(compacting.flush)
            await trio.sleep(3.5)  # the flush is over, the merge has begun
            compacting.engine.store.fail_next(Op.PUT_NEW, "manifest/", Fault.REFUSED)
            await trio.sleep(2)
        assert len(compacting.engine.failures) == 1


@pytest.mark.parametrize("seconds", [0.0, 2.0])
async def test_trims_during_a_look_are_looked_at_later(
    autojump_clock: object, seconds: float
) -> None:
    async with running() as compacting:
        await compacting.flush()
        compacting.engine.store.latency = Latency(get_range=(1, 1))
        compacting.engine.remove(ONE)
        await trio.sleep(TOUCHED_SECONDS + seconds)
        compacting.engine.remove(TWO)
        await trio.sleep(2 * WEIGHING_INTERVAL_SECONDS)
        assert compacting.engine.numbers(ONE) == compacting.engine.numbers(TWO) == []
        compacting.engine.check()


async def test_a_segment_that_was_replaced_before_it_was_weighed_is_not_taken_for_damaged(
    autojump_clock: object,
) -> None:
    """The pass over all segments takes a while, and what was merged meanwhile may be deleted."""
    async with running(TINY) as compacting:
        engine = compacting.engine
        for _ in range(2):
            await compacting.flush()
        waiting = list(engine.manifest.value.segments)
        await compacting.flush()
        assert engine.tiers == [1]
        for info in waiting:
            await engine.store.delete(segment_key(info.object_id))
    async with running(TINY, engine.store) as again:
        fates = again.engine.fates
        fates.unweighed = waiting
        await fates.weigh_some(len(waiting))
        assert (again.engine.damage.count, fates.blocked) == (0, set())
