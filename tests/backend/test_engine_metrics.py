"""What the log engine says of itself."""

from random import Random

from prometheus_client import CollectorRegistry
from trio.testing import wait_all_tasks_blocked

from s2lite.backend.engine_metrics import Tally, register_request_metrics
from s2lite.model.reads import FromSeqNum, ReadRequest
from s2lite.settings import MIB, Settings
from s2lite.storage.layout import Layout
from tests.backend.world import append_of, following, new_stream
from tests.fakes.backend import running_backend
from tests.fakes.object_store import FakeObjectStore, Op


def value(registry: CollectorRegistry, name: str) -> float:
    """What a scrape would find under the name."""
    found = registry.get_sample_value(f"s2lite_{name}")
    assert found is not None, f"there is no s2lite_{name}"
    return found


async def test_every_memory_budget_is_told_with_what_is_used_of_it() -> None:
    registry = CollectorRegistry()
    store = FakeObjectStore(Random(1))
    settings = Settings(append_inflight_bytes=3 * MIB, read_cache_bytes=5 * MIB)
    async with running_backend(store, settings=settings, registry=registry) as backend:
        stream = await new_stream(backend)
        assert value(registry, "append_inflight_limit_bytes") == 3 * MIB
        assert value(registry, "read_cache_limit_bytes") == 5 * MIB
        assert value(registry, "memtable_limit_bytes") == 2 * settings.layout.memtable_bytes
        assert value(registry, "append_inflight_bytes") == 0
        before = value(registry, "memtable_bytes")
        async with stream.read_session(following(0)) as session:
            await anext(session)
            await stream.append(append_of("x" * 1000))
            assert value(registry, "follower_backlog_bytes") > 1000
            await anext(session)
            assert value(registry, "follower_backlog_bytes") == 0
        assert value(registry, "memtable_bytes") > before + 1000


async def test_appends_in_flight_are_told_until_they_are_durable() -> None:
    registry = CollectorRegistry()
    store = FakeObjectStore(Random(1))
    async with running_backend(store, registry=registry) as backend:
        stream = await new_stream(backend)
        gate = store.hold("wal/")
        async with stream.append_session() as session:
            pending = await session.submit(append_of("x" * 1000))
            await gate.wait_held()
            assert value(registry, "append_inflight_bytes") == 1008
            gate.release()
            await pending.wait()
        assert value(registry, "append_inflight_bytes") == 0


async def test_requests_to_the_store_are_counted_by_kind() -> None:
    registry = CollectorRegistry()
    store = FakeObjectStore(Random(1))
    async with running_backend(store, registry=registry) as backend:
        await (await new_stream(backend)).append(append_of("a"))
        await wait_all_tasks_blocked()
        assert value(registry, "store_puts_total") == len(store.operations(Op.PUT_NEW))
        assert value(registry, "store_lists_total") == len(store.operations(Op.LIST)) > 0
        stored = sum(len(each.data) for each in store.objects.values())
        assert value(registry, "store_put_bytes_total") == stored


async def test_segments_and_the_cache_show_what_was_flushed_and_read_back() -> None:
    registry = CollectorRegistry()
    store = FakeObjectStore(Random(1))
    settings = Settings(layout=Layout(memtable_bytes=1))
    async with running_backend(store, settings=settings, registry=registry) as backend:
        stream = await new_stream(backend)
        await stream.append(append_of("x" * 1000))
        await wait_all_tasks_blocked()
        assert value(registry, "runs") == value(registry, "segments") == 1
        assert value(registry, "segment_bytes") > 1000
        assert value(registry, "read_cache_bytes") == 0
        for _ in range(2):
            await stream.read(ReadRequest(FromSeqNum(0)))
        assert value(registry, "read_cache_bytes") > 1000
        assert value(registry, "read_cache_misses_total") > 0
        assert value(registry, "read_cache_hits_total") > 0
        assert value(registry, "damaged_objects") == 0
        assert value(registry, "write_stall_seconds_total") == 0


def test_a_reading_is_taken_when_somebody_asks() -> None:
    registry = CollectorRegistry()
    tally = Tally()
    register_request_metrics(registry, tally)
    tally.add(7)
    tally.add(-2)
    assert value(registry, "request_buffer_bytes") == 5
