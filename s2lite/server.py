"""The composition root: builds every component, wires the supervision tree, serves, shuts down.

The order of start and shutdown is the nesting of the blocks below: store, log writer, catalog,
streams, background tasks, HTTP last. A component that fails for good fails the block around it, and
so the process, with an exit code that says why.
"""

import logging
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import trio
from prometheus_client import CollectorRegistry

from actors import PERMANENT, ActorSpec, open_registry, open_supervisor
from actors.clock import Clock
from s2lite.api.app import build_app
from s2lite.backend.backend import Backend
from s2lite.backend.budget import ByteBudget
from s2lite.backend.catalog import Catalog
from s2lite.backend.catalog_actor import (
    CATALOG_MAILBOX_CAPACITY,
    CatalogActor,
    CatalogClient,
    Overlay,
)
from s2lite.backend.engine import TASK_STOP_SECONDS, Engine, EngineOptions, open_engine
from s2lite.backend.engine_metrics import (
    Tally,
    register_request_metrics,
    register_traffic_metrics,
)
from s2lite.backend.metrics import AppendMetrics
from s2lite.backend.storage_actor import StorageClient
from s2lite.backend.stream_actor import STREAM_MAILBOX_CAPACITY, StreamActor, StreamMessage
from s2lite.backend.stream_handle import AppendPath, StreamRegistry
from s2lite.backend.tasks.deletion import DeletionActor, DeletionClient
from s2lite.heap import keep_frozen
from s2lite.model.errors import S2LiteError, StreamUnavailable
from s2lite.model.log import StreamId
from s2lite.serving.listener import serve
from s2lite.serving.settings import BoundAddress, ServingSettings
from s2lite.settings import Settings
from s2lite.storage.objects.object_store import ObjectStore
from s2lite.stores import open_store

_log = logging.getLogger("s2lite")


@attrs.define
class CannotListen(S2LiteError):
    """The address or port cannot be had."""

    host: str
    port: int
    reason: str

    def __str__(self) -> str:
        return f"cannot listen on {self.host}:{self.port}: {self.reason}"


@attrs.frozen(eq=False)
class Environment:
    """Time and chance: everything in the server that is not determined by its input."""

    clock: Clock
    rng: random.Random


@asynccontextmanager
async def open_backend(
    store: ObjectStore, settings: Settings, environment: Environment, registry: CollectorRegistry
) -> AsyncIterator[Backend]:
    """Become the writer of the store, recover its state, and run everything behind the API.

    On leaving the block, everything that was given a position is durable. Raises `StorageError` if
    the store cannot be opened, and `RestartsExhausted` caused by one if it fails later.
    """
    clock, rng = environment.clock, environment.rng
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            open_engine(store, _engine_options(settings), clock=clock, rng=rng, registry=registry)
        )
        known = engine.state.catalog
        catalog = await _start_catalog(stack, known, engine.storage, rng)
        backlog = Tally()
        streams = await _open_streams(stack, engine, settings, environment, backlog)
        # Opened after the streams, and so closed before: tasks use streams to the last.
        deletion = await _start_deletion(stack, known, catalog, streams, rng)
        budget = ByteBudget(settings.append_inflight_bytes)
        register_traffic_metrics(registry, budget, backlog)
        yield Backend(
            catalog=known,
            catalog_client=catalog,
            deletion=deletion,
            path=AppendPath(streams, budget, AppendMetrics.register(registry), engine.ownership),
            log=engine.log,
            ownership=engine.ownership,
            storage_status=engine.storage.status,
            damage=engine.damage,
            clock=clock,
            rng=rng,
        )


def _engine_options(settings: Settings) -> EngineOptions:
    return EngineOptions(
        layout=settings.layout,
        wal_in_flight=settings.wal_in_flight,
        flush_interval_seconds=settings.flush_interval_seconds,
        # A lock, or being in one process, tells that there is no other writer.
        read_lease_seconds=settings.read_lease_seconds if settings.shared else None,
        gc_min_age_seconds=settings.gc_min_age_seconds,
        read_cache_bytes=settings.read_cache_bytes,
    )


async def _start_catalog(
    stack: AsyncExitStack, catalog: Catalog, storage: StorageClient, rng: random.Random
) -> CatalogClient:
    supervisor = await stack.enter_async_context(open_supervisor("catalog", rng=rng))
    ref = supervisor.start_soon(
        ActorSpec(
            "catalog",
            lambda: CatalogActor(Overlay(catalog), storage),
            PERMANENT,
            CATALOG_MAILBOX_CAPACITY,
            stop_timeout_seconds=TASK_STOP_SECONDS,
        )
    )
    return CatalogClient(ref)


async def _start_deletion(
    stack: AsyncExitStack,
    catalog: Catalog,
    catalog_client: CatalogClient,
    streams: StreamRegistry,
    rng: random.Random,
) -> DeletionClient:
    supervisor = await stack.enter_async_context(open_supervisor("tasks", rng=rng))
    ref = supervisor.start_soon(
        ActorSpec(
            "deletion",
            lambda: DeletionActor(catalog, catalog_client, streams),
            PERMANENT,
            stop_timeout_seconds=TASK_STOP_SECONDS,
        )
    )
    return DeletionClient(ref)


async def _open_streams(
    stack: AsyncExitStack,
    engine: Engine,
    settings: Settings,
    environment: Environment,
    backlog: Tally,
) -> StreamRegistry:
    catalog, storage = engine.state.catalog, engine.storage
    clock, rng = environment.clock, environment.rng

    def spec_of(stream_id: StreamId) -> ActorSpec[StreamMessage]:
        entry = catalog.stream_by_id(stream_id)
        if entry is None:
            raise StreamUnavailable("the stream was deleted")
        return ActorSpec(
            f"stream {stream_id.hex()}",
            lambda: StreamActor(entry, storage, clock, rng, backlog.add),
            mailbox_capacity=STREAM_MAILBOX_CAPACITY,
            stop_timeout_seconds=TASK_STOP_SECONDS,
        )

    return await stack.enter_async_context(
        open_registry("streams", spec_of, idle_seconds=settings.stream_idle_seconds)
    )


async def run_server(
    settings: Settings,
    environment: Environment,
    registry: CollectorRegistry,
    *,
    shutdown: trio.Event,
    task_status: trio.TaskStatus[list[BoundAddress]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set; then drain, make everything durable, and return.

    Reports the addresses it listens on once it is ready. Raises as `open_store` and `open_backend`
    do, and `CannotListen`.
    """
    serving = ServingSettings(
        host=settings.host, port=settings.port, grace_seconds=settings.grace_seconds
    )
    async with (
        open_store(settings.storage) as store,
        open_backend(store, settings, environment, registry) as backend,
    ):
        app = build_app(backend, clock=environment.clock, registry=registry, cors=settings.cors)
        buffered = Tally()
        register_request_metrics(registry, buffered)
        try:
            await serve(
                app,
                serving,
                shutdown=shutdown,
                buffered=buffered.add,
                task_status=task_status,
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise CannotListen(settings.host, settings.port, reason) from error


async def run_until_signalled(
    settings: Settings, environment: Environment, registry: CollectorRegistry
) -> None:
    """Serve until SIGINT or SIGTERM; one that comes before the server is ready ends the start.

    Raises as `run_server` does.
    """
    shutdown = trio.Event()
    async with trio.open_nursery() as nursery:
        starting = nursery.cancel_scope

        async def serving(task_status: trio.TaskStatus[list[BoundAddress]]) -> None:
            await run_server(
                settings, environment, registry, shutdown=shutdown, task_status=task_status
            )
            nursery.cancel_scope.cancel()

        async def watching(task_status: trio.TaskStatus[None]) -> None:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                task_status.started()
                async for number in signals:
                    _log.info("%s: shutting down", signal.Signals(number).name)
                    shutdown.set()
                    if not ready.is_set():
                        starting.cancel()

        ready = trio.Event()
        await nursery.start(watching)
        addresses: list[BoundAddress] = await nursery.start(serving)
        ready.set()
        nursery.start_soon(keep_frozen)
        _announce(settings, addresses)


def _announce(settings: Settings, addresses: list[BoundAddress]) -> None:
    """Say where the server is, and what to tell a client."""
    for address in addresses:
        _log.info("listening on %s:%d", address.host, address.port)
    if settings.host not in ("127.0.0.1", "localhost", "::1"):
        _log.info("anyone who can reach this port can read and write: there is no authentication")
    url = f"http://localhost:{addresses[0].port}"
    _log.info(
        "point a client here:\n\nexport S2_ACCOUNT_ENDPOINT=%s\nexport S2_BASIN_ENDPOINT=%s\n"
        "export S2_ACCESS_TOKEN=ignored\n",
        url,
        url,
    )
