"""The API on a real backend, whose objects are in memory."""

from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from actors.clock import SystemClock
from s2lite.api.app import build_app
from s2lite.api.asgi import ASGIApp
from s2lite.backend.backend import Backend
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.backend import running_backend

BASIN = "test-basin"


@pytest.fixture
async def registry() -> CollectorRegistry:
    """What `/metrics` shows."""
    return CollectorRegistry()


@pytest.fixture
async def backend(registry: CollectorRegistry) -> AsyncIterator[Backend]:
    """A backend without basins."""
    async with running_backend(registry=registry) as running:
        yield running


@pytest.fixture
async def app(backend: Backend, registry: CollectorRegistry) -> ASGIApp:
    """The whole application."""
    return build_app(backend, clock=SystemClock(), registry=registry)


@pytest.fixture
async def bare(app: ASGIApp) -> AsgiClient:
    """A client of a server that has no basins."""
    return AsgiClient(app)


@pytest.fixture
async def basin(bare: AsgiClient) -> AsgiClient:
    """A client of the basin `test-basin`, which has no streams."""
    assert (await bare.request_json("POST", "/v1/basins", {"basin": BASIN})).status == 201
    return AsgiClient(bare.app, {"s2-basin": BASIN})


@pytest.fixture
async def client(basin: AsgiClient) -> AsgiClient:
    """A client of the basin `test-basin` with the stream `s`."""
    assert (await basin.request_json("POST", "/v1/streams", {"stream": "s"})).status == 201
    return basin
