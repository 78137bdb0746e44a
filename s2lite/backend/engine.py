"""The log engine, put together: opened, recovered, and supervised for as long as it is used.

The order of start and shutdown is the nesting: the cache; the log writer and the flushes, without
which it cannot go on; compaction and collection, which only make things smaller. At an orderly end
the latter stop first. Then what was submitted is made durable and flushed, and a manifest says that
nothing follows.
"""

import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import trio
from prometheus_client import CollectorRegistry

from actors import (
    PERMANENT,
    Actor,
    ActorRef,
    ActorSpec,
    RestartKind,
    RestartPolicy,
    open_supervisor,
)
from actors.clock import Clock
from s2lite.backend.catalog import Catalog, DurableState
from s2lite.backend.engine_metrics import (
    register_log_metrics,
    register_memory_metrics,
    register_store_metrics,
)
from s2lite.backend.storage_actor import (
    STORAGE_MAILBOX_CAPACITY,
    StorageActor,
    StorageClient,
    StorageStatus,
)
from s2lite.backend.tasks.collection import CollectionActor, CollectionClient
from s2lite.backend.tasks.compaction import COMPACTION_RESTARTS, CompactionActor, CompactionClient
from s2lite.backend.tasks.flushing import FlushActor, FlushClient
from s2lite.model.errors import CorruptObject, StorageFailed
from s2lite.model.log import StreamId
from s2lite.storage.block_cache import open_block_cache
from s2lite.storage.collection import Collector
from s2lite.storage.compaction import Compactor
from s2lite.storage.damage import Damage
from s2lite.storage.fates import SegmentFates
from s2lite.storage.layout import Layout
from s2lite.storage.memtable import Memtable
from s2lite.storage.objects.metered_store import MeteredObjectStore
from s2lite.storage.objects.object_store import ObjectStore
from s2lite.storage.opening import OpenedLog, open_log
from s2lite.storage.ownership import Ownership
from s2lite.storage.pacing import Pacing
from s2lite.storage.reader import LogReader
from s2lite.storage.retention import Retention
from s2lite.storage.segments import Segments

_log = logging.getLogger("s2lite.backend")

NO_RESTART = RestartPolicy(RestartKind.PERMANENT, max_restarts=0)
"""For the log writer and the flushes: what they had not announced is in doubt, and only opening the
log anew tells."""

CLOSING_SECONDS = 5.0
"""How long the last writes and the last flush may take when all requests have been answered."""

TASK_STOP_SECONDS = 1.0
"""What still waits for the store then must not hold up the end: the next start takes it up."""


@attrs.frozen
class EngineOptions:
    """What may be chosen about the engine; `s2lite.settings` explains each.

    `read_lease_seconds` is None where a lock keeps other writers out.
    """

    layout: Layout
    wal_in_flight: int
    flush_interval_seconds: float
    read_lease_seconds: float | None
    gc_min_age_seconds: float
    read_cache_bytes: int


@attrs.frozen(eq=False)
class Engine:
    """What the backend uses of the log engine."""

    state: DurableState
    storage: StorageClient
    log: LogReader
    ownership: Ownership
    damage: Damage


@asynccontextmanager
async def open_engine(
    store: ObjectStore,
    options: EngineOptions,
    *,
    clock: Clock,
    rng: random.Random,
    registry: CollectorRegistry,
) -> AsyncIterator[Engine]:
    """Become the writer of the store, recover its state, and keep it in order.

    On leaving the block everything that was submitted is durable. Raises `StorageError` if the
    store cannot be opened, and `RestartsExhausted` caused by one if it fails later.
    """
    metered = MeteredObjectStore(store)
    damage = Damage()
    memtable = Memtable(options.layout)
    state = DurableState(Catalog(), memtable, damage)
    log = await open_log(
        metered,
        rng=rng,
        clock=clock,
        wal_in_flight=options.wal_in_flight,
        lease_seconds=options.read_lease_seconds,
        state=state,
        damage=damage,
    )
    async with AsyncExitStack() as stack:
        cache = await stack.enter_async_context(open_block_cache(options.read_cache_bytes))
        segments = Segments(metered, cache, rng)
        collector = Collector(metered, log.manifest, clock, options.gc_min_age_seconds)
        log.manifest.on_commit = collector.committed  # from the first commit on
        parts = _Parts(options, clock, rng, state, log, segments, damage, collector)
        storage, flushes = await _start_writing(stack, parts)
        await stack.enter_async_context(_closing(log, storage, flushes, memtable))
        collection = await _start_collection(stack, parts)
        await _start_compaction(stack, parts, storage, collection)
        register_store_metrics(registry, metered.counts)
        register_memory_metrics(registry, memtable, cache)
        register_log_metrics(registry, log.manifest, storage.status, damage)
        reader = LogReader(memtable, log.manifest, segments, parts.found_damaged)
        yield Engine(state, storage, reader, log.ownership, damage)


@attrs.frozen(eq=False)
class _Parts:
    """What the engine's actors are made of, and what they tell each other."""

    options: EngineOptions
    clock: Clock
    rng: random.Random
    state: DurableState
    log: OpenedLog
    segments: Segments
    damage: Damage
    collector: Collector
    on_flushed: list[Callable[[], None]] = attrs.field(factory=list)

    @property
    def retention(self) -> Retention:
        """What may be dropped, by what is durable."""
        return Retention(self.state.floor_of, self.clock)

    def flushed(self) -> None:
        """A flush has ended."""
        for tell in self.on_flushed:
            tell()

    def found_damaged(self, error: CorruptObject, stream_id: StreamId) -> None:
        """A reader of the stream met damage."""
        self.damage.report(error.key, error.reason, [stream_id])


async def _start_writing(stack: AsyncExitStack, parts: _Parts) -> tuple[StorageClient, FlushClient]:
    options, log, status = parts.options, parts.log, StorageStatus()
    supervisor = await stack.enter_async_context(open_supervisor("storage", rng=parts.rng))

    def log_writer() -> StorageActor:
        return StorageActor(
            log.creator,
            log.ownership,
            parts.state,
            status,
            log.next_wal_number,
            options.wal_in_flight,
            Pacing(options.flush_interval_seconds),
        )

    def flusher() -> FlushActor:
        memtable, manifest = parts.state.memtable, log.manifest
        return FlushActor(memtable, manifest, parts.retention, options.layout, parts.flushed)

    writing = ActorSpec("log writer", log_writer, NO_RESTART, STORAGE_MAILBOX_CAPACITY)
    storage = StorageClient(supervisor.start_soon(writing), status)
    log.ownership.on_fenced = storage.fail
    parts.on_flushed.append(storage.flushed)
    flushing = ActorSpec("flusher", flusher, NO_RESTART, stop_timeout_seconds=TASK_STOP_SECONDS)
    return storage, FlushClient(supervisor.start_soon(flushing))


@asynccontextmanager
async def _closing(
    log: OpenedLog, storage: StorageClient, flushes: FlushClient, memtable: Memtable
) -> AsyncIterator[None]:
    """At an orderly end, wait for what was submitted, and record that nothing more will come.

    A store that does not answer must not hold that up: the next start can do the rest.
    """
    yield
    is_settled = False
    with trio.move_on_after(CLOSING_SECONDS) as limit:
        await storage.settle()
        is_settled = True
        await flushes.flush_all()
        await log.close(memtable.wal_end)
    if limit.cancelled_caught and not is_settled:
        raise StorageFailed(
            f"the object store has not taken the last writes within {CLOSING_SECONDS:.0f} s"
            " of the end: nobody was told that they succeeded, and they may have failed"
        )
    if limit.cancelled_caught:
        _log.warning(
            "not all was flushed within %.0f s of the end; the next start replays it",
            CLOSING_SECONDS,
        )


async def _start_collection(stack: AsyncExitStack, parts: _Parts) -> CollectionClient:
    collector = parts.collector
    ref = await _start_task(stack, parts, "collection", lambda: CollectionActor(collector))
    collection = CollectionClient(ref, collector)
    parts.log.manifest.on_commit = collection.committed
    return collection


async def _start_compaction(
    stack: AsyncExitStack, parts: _Parts, storage: StorageClient, collection: CollectionClient
) -> None:
    manifest, retention, damage = parts.log.manifest, parts.retention, parts.damage
    fates = SegmentFates(manifest, parts.segments, retention, damage)
    compactor = Compactor(
        manifest,
        parts.segments,
        retention,
        parts.options.layout,
        damage,
        on_garbage=collection.abandoned,
        commit_failed=storage.fail,
    )
    ref = await _start_task(
        stack,
        parts,
        "compaction",
        lambda: CompactionActor(compactor, fates),
        COMPACTION_RESTARTS,
    )
    compaction = CompactionClient(ref, fates)
    parts.on_flushed.append(compaction.flushed)
    parts.state.on_shrunk = compaction.touched


async def _start_task(
    stack: AsyncExitStack,
    parts: _Parts,
    name: str,
    factory: Callable[[], Actor[None]],
    policy: RestartPolicy = PERMANENT,
) -> ActorRef[None]:
    """Start a background task; one that fails is restarted, and takes nobody with it."""
    supervisor = await stack.enter_async_context(open_supervisor(name, rng=parts.rng))
    return supervisor.start_soon(
        ActorSpec(name, factory, policy, stop_timeout_seconds=TASK_STOP_SECONDS)
    )
