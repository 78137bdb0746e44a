"""A server with many streams that nobody uses: what it asks of its store. Hours pass in seconds."""

import random

import attrs
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from actors.testing import VirtualClock
from s2lite.backend.backend import Backend, Purpose
from s2lite.codec import s2_pb2
from s2lite.codec.protobuf import append_input_from
from s2lite.model.config import BasinConfig, RetentionPolicy, StreamConfigLayer
from s2lite.model.names import BasinName, StreamName
from s2lite.server import Environment, open_backend
from s2lite.settings import BucketStorage, MemoryStorage, Settings
from s2lite.storage.objects.metered_store import MeteredObjectStore, StoreCounts
from s2lite.storage.objects.object_store import MemoryObjectStore

BASIN = BasinName("idle-basin")
CREATORS = 256
SETTLING_HOURS = 3
"""Until everything is flushed and compacted, and what that left behind is collected."""


@attrs.frozen
class IdleResult:
    """Calls of the store while streams were made, until all was tidy, and from then on."""

    shared: bool
    streams: int
    making: StoreCounts
    settling: StoreCounts
    idle_hours: float
    idle: StoreCounts


def measure_idle(streams: int, hours: float, *, shared: bool) -> IdleResult:
    """Make the streams, wait until all is tidy, and then count for so many hours."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    return trio.run(_measure, streams, hours, shared, clock=clock)


async def _measure(streams: int, hours: float, shared: bool) -> IdleResult:
    store = MeteredObjectStore(MemoryObjectStore())
    settings = Settings(storage=BucketStorage("bucket") if shared else MemoryStorage())
    rng = random.Random(1)  # noqa: S311  (so that all runs are alike)
    environment = Environment(VirtualClock(), rng)
    async with open_backend(store, settings, environment, CollectorRegistry()) as backend:
        await _make(backend, streams)
        made = attrs.evolve(store.counts)
        await trio.sleep(SETTLING_HOURS * 3600)
        settled = attrs.evolve(store.counts)
        await trio.sleep(hours * 3600)
        counts = attrs.evolve(store.counts)
    settling, idle = _since(settled, made), _since(counts, settled)
    return IdleResult(shared, streams, made, settling, hours, idle)


async def _make(backend: Backend, streams: int) -> None:
    # Records that never expire: those that do are work to be done, and not idleness.
    forever = StreamConfigLayer(retention_policy=RetentionPolicy(None))
    await backend.create_basin(BASIN, BasinConfig(forever, create_stream_on_append=True), None)
    names = iter(range(streams))

    async def make_some() -> None:
        for number in names:
            name = StreamName(f"stream-{number}")
            stream = await backend.open_stream(BASIN, name, Purpose.APPEND)
            message = s2_pb2.AppendInput()
            message.records.add(body=b"%d" % number)
            await stream.append(append_input_from(message))

    async with trio.open_nursery() as nursery:
        for _ in range(CREATORS):
            nursery.start_soon(make_some)


def _since(now: StoreCounts, then: StoreCounts) -> StoreCounts:
    return StoreCounts(
        **{name: value - getattr(then, name) for name, value in attrs.asdict(now).items()}
    )
