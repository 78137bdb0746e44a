"""A whole backend in memory, on virtual time if the test has it."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from actors.clock import Clock
from actors.testing import VirtualClock
from s2lite.backend.backend import Backend
from s2lite.server import Environment, open_backend
from s2lite.settings import Settings
from s2lite.storage.objects.object_store import MemoryObjectStore, ObjectStore

START_MS = 1_700_000_000_000


@asynccontextmanager
async def running_backend(
    store: ObjectStore | None = None,
    *,
    settings: Settings | None = None,
    clock: Clock | None = None,
    registry: CollectorRegistry | None = None,
    seed: int = 0,
) -> AsyncIterator[Backend]:
    """A backend that writes to `store`: a fresh one in memory, unless one is given."""
    environment = Environment(clock or VirtualClock(START_MS), random.Random(seed))
    async with open_backend(
        store if store is not None else MemoryObjectStore(),
        settings or Settings(),
        environment,
        registry or CollectorRegistry(),
    ) as backend:
        yield backend
