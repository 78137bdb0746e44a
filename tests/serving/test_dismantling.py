"""A connection that has ended is gone at once: it leaves nothing for the garbage collector."""

import gc
from collections.abc import Iterator

import pytest
import trio

from s2lite.serving.connection import Connection
from s2lite.serving.exchange import Exchange
from s2lite.serving.h2_machine import ServerH2Connection
from s2lite.serving.http1 import Http1
from s2lite.serving.http2 import Http2
from tests.serving.conftest import StartServer

PARTS = (Connection, Http1, Http2, Exchange, ServerH2Connection)


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def parts() -> list[str]:
    """The kinds of what is left of connections."""
    return [type(each).__name__ for each in gc.get_objects() if isinstance(each, PARTS)]


async def gone() -> None:
    """Wait for what closed connections consisted of to be freed; only references can do it."""
    with trio.move_on_after(5):
        while parts():  # noqa: ASYNC110  (nobody tells when an object is freed)
            await trio.sleep(0.01)
    assert parts() == []


async def test_after_requests_over_http1(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h1()
    for _ in range(3):
        assert await client.get("/hello") == b"hello"
    assert set(parts()) >= {"Connection", "Http1"}
    await client.aclose()
    await gone()


async def test_after_requests_over_http2(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h2()
    for _ in range(3):
        number = await client.request("/hello")
        await client.until(lambda number=number: client.answers[number].over)  # type: ignore[misc]  # bound early on purpose
    assert set(parts()) >= {"Connection", "Http2", "ServerH2Connection"}
    await client.aclose()
    await gone()


@pytest.mark.parametrize("protocol", ["h1", "h2"])
async def test_after_a_client_that_went_in_the_middle_of_a_request(
    start_server: StartServer, protocol: str
) -> None:
    server = await start_server()
    if protocol == "h1":
        one = await server.h1()
        await one.stream.send_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc")
        await trio.sleep(0.05)
        await one.aclose()
    else:
        two = await server.h2()
        number = await two.request("/echo", method="POST", end=False)
        await two.send(number, b"abc")
        await trio.sleep(0.05)
        await two.aclose()
    await gone()
