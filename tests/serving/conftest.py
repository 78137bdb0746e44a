"""A server in the test's own nursery."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from s2lite.serving.listener import serve
from s2lite.serving.settings import ServingSettings
from tests.serving.apps import Playground
from tests.serving.clients import H1Client, H2Client


@attrs.define(eq=False)
class Server:
    """A running server."""

    app: Any
    port: int
    shutdown: trio.Event
    done: trio.Event = attrs.Factory(trio.Event)
    clients: list[H1Client | H2Client] = attrs.Factory(list)

    async def h1(self) -> H1Client:
        """Connect; the test need not close it."""
        client = await H1Client.connect(self.port)
        self.clients.append(client)
        return client

    async def h2(self, *, window_bytes: int | None = None) -> H2Client:
        """Connect; the test need not close it."""
        client = await H2Client.connect(self.port, window_bytes=window_bytes)
        self.clients.append(client)
        return client

    async def is_healthy(self) -> bool:
        """Whether a new connection is served."""
        return await (await self.h1()).get("/hello") == b"hello"

    async def stop(self) -> None:
        self.shutdown.set()
        await self.done.wait()


StartServer = Callable[..., Awaitable[Server]]


@pytest.fixture
async def start_server(nursery: trio.Nursery) -> AsyncIterator[StartServer]:
    """Start servers; settings are keyword arguments."""
    servers: list[Server] = []

    async def start(app: Any = None, **settings: Any) -> Server:
        app = app or Playground()
        shutdown = trio.Event()

        async def run(task_status: trio.TaskStatus[Server]) -> None:
            async with trio.open_nursery() as inner:
                addresses = await inner.start(
                    partial(
                        serve,
                        app,
                        ServingSettings(host="127.0.0.1", port=0, **settings),
                        shutdown=shutdown,
                    )
                )
                server = Server(app, addresses[0].port, shutdown)
                task_status.started(server)
            server.done.set()

        server: Server = await nursery.start(run)
        servers.append(server)
        return server

    yield start
    for server in servers:
        for client in server.clients:
            await client.aclose()


@pytest.fixture
def patient_clock() -> trio.testing.MockClock:
    """A clock that jumps, but not while the kernel still has to hand over what was sent."""
    return trio.testing.MockClock(autojump_threshold=0.02)


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the server has logged as an error so far."""
    caplog.set_level(logging.DEBUG, logger="s2lite.serving")
    return lambda: [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
