"""Binding, accepting, and shutting down."""

import errno
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import h2.events
import pytest
import trio
import trio.testing

from s2lite.serving.listener import _accept_one, serve
from s2lite.serving.settings import BoundAddress, ServingSettings
from tests.serving.apps import Playground
from tests.serving.clients import H1Client, H2Client
from tests.serving.conftest import Server, StartServer


async def test_the_bound_address_is_reported(nursery: trio.Nursery) -> None:
    settings = ServingSettings(host="127.0.0.1", port=0)
    addresses = await nursery.start(partial(serve, Playground(), settings, shutdown=trio.Event()))
    assert addresses == [BoundAddress("127.0.0.1", addresses[0].port)]
    assert addresses[0].port > 0


async def test_an_address_in_use_is_an_error(start_server: StartServer) -> None:
    server = await start_server()
    settings = ServingSettings(host="127.0.0.1", port=server.port)
    with pytest.raises(OSError, match="use"):
        await serve(Playground(), settings, shutdown=trio.Event())


async def test_connections_beyond_the_limit_wait(start_server: StartServer) -> None:
    server = await start_server(max_connections=2)
    first, second, third = [await server.h1() for _ in range(3)]
    assert await first.get("/hello") == b"hello"
    assert await second.get("/hello") == b"hello"
    with trio.move_on_after(0.05) as scope:
        await third.get("/hello")
    assert scope.cancelled_caught
    await first.aclose()
    assert await third.read_response() == b"hello"


class _ShortListener:
    """Fails for want of descriptors once, then accepts."""

    def __init__(self) -> None:
        self.errors = [OSError(errno.EMFILE, "too many open files")]

    async def accept(self) -> str:
        if self.errors:
            raise self.errors.pop()
        return "a stream"


async def test_a_shortage_of_descriptors_passes(autojump_clock: trio.testing.MockClock) -> None:
    stream: object = await _accept_one(cast("Any", _ShortListener()))
    assert stream == "a stream"
    assert trio.current_time() > 0


async def refuses(server: Server) -> bool:
    try:
        client = await H1Client.connect(server.port)
    except OSError:
        return True
    await client.aclose()
    return False


async def test_shutdown_closes_idle_connections_and_is_done(
    start_server: StartServer, patient_clock: trio.testing.MockClock
) -> None:
    server = await start_server()
    h1, h2, silent = await server.h1(), await server.h2(), await server.h1()
    await h1.get("/hello")
    await h2.get("/hello")
    began = trio.current_time()
    await server.stop()
    assert trio.current_time() - began < 1
    assert await h1.read_to_eof() == b""
    assert await silent.read_to_eof() == b""
    await h2.until_eof()


async def test_what_is_under_way_is_finished_after_shutdown(start_server: StartServer) -> None:
    server = await start_server()
    h1, h2 = await server.h1(), await server.h2()
    await h1.send(b"GET /gated HTTP/1.1\r\nhost: x\r\n\r\n")
    stream_id = await h2.request("/gated")
    await h2.round_trip()
    server.shutdown.set()
    await trio.testing.wait_all_tasks_blocked()
    assert await refuses(server)
    assert (await h2.get("/hello")).body == b"hello"  # new requests too
    server.app.gate.set()
    head = await h1.read_until(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert await h1.read_to_eof() == b"opened"
    assert (await h2.answer(stream_id)).body == b"opened"
    await h2.until_eof()
    await server.done.wait()


async def test_no_goodbye_is_sent_while_streams_are_open(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h2()
    stream_id = await client.request("/echo", method="POST", end=False)
    await client.until(lambda: client.answers[stream_id].status == 200)
    server.shutdown.set()
    for _ in range(3):
        await client.send(stream_id, b"x")
        await client.round_trip()
    assert not client.saw(h2.events.ConnectionTerminated)
    await client.send(stream_id, b"", end=True)
    assert (await client.answer(stream_id)).body == b"xxx"
    await client.until_eof()


@pytest.mark.parametrize("path", ["/endless", "/gated", "/until-gone", "/unread", "/echo"])
async def test_no_client_holds_up_shutdown(
    start_server: StartServer, patient_clock: trio.testing.MockClock, path: str
) -> None:
    server = await start_server(grace_seconds=10)
    h1, h2 = await server.h1(), await server.h2(window_bytes=2**30)
    await h1.send(b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n" % path.encode())
    await h2.request(path, method="POST", end=False)
    half = await server.h1()
    await half.send(b"GET / HT")
    await trio.testing.wait_all_tasks_blocked(0.01)  # nobody reads
    began = trio.current_time()
    await server.stop()
    assert trio.current_time() - began <= 10.5
    assert server.app.running == 0


async def test_cancelling_cuts_everything_at_once(patient_clock: trio.testing.MockClock) -> None:
    app = Playground()
    settings = ServingSettings(host="127.0.0.1", port=0)
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(partial(serve, app, settings, shutdown=trio.Event()))
        client = await H2Client.connect(addresses[0].port, window_bytes=2**30)
        await client.request("/endless")
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    assert app.running == 0
    await client.aclose()


# Self-signed, of a key that protects nothing, until 2126.
CERTIFICATE = Path(__file__).with_name("localhost.pem")


@pytest.fixture
async def tls_port(nursery: trio.Nursery) -> int:
    """The port of a server that speaks TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    context.set_alpn_protocols(["h2", "http/1.1"])
    settings = ServingSettings(host="127.0.0.1", port=0, handshake_timeout_seconds=5)
    addresses: list[BoundAddress] = await nursery.start(
        partial(serve, Playground(), settings, shutdown=trio.Event(), ssl_context=context)
    )
    return addresses[0].port


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_tls_selects_the_protocol_by_alpn(tls_port: int, protocol: str) -> None:
    client_side = ssl.create_default_context(cafile=CERTIFICATE)
    client_side.set_alpn_protocols([protocol])
    stream = await trio.open_ssl_over_tcp_stream(
        "127.0.0.1", tls_port, https_compatible=True, ssl_context=client_side
    )
    await stream.do_handshake()
    if protocol == "h2":
        h2 = H2Client(stream)
        h2.h2.initiate_connection()
        await h2.flush()
        assert (await h2.get("/hello")).body == b"hello"
    else:
        h1 = H1Client(stream)
        assert await h1.get("/hello") == b"hello"
    await trio.aclose_forcefully(stream)


async def connect_by_tls(port: int, protocol: str) -> trio.SSLStream[trio.SocketStream]:
    client_side = ssl.create_default_context(cafile=CERTIFICATE)
    client_side.set_alpn_protocols([protocol])
    stream = await trio.open_ssl_over_tcp_stream(
        "127.0.0.1", port, https_compatible=True, ssl_context=client_side
    )
    await stream.do_handshake()
    assert stream.selected_alpn_protocol() == protocol
    return stream


async def test_sessions_over_tls_do_not_wait_for_each_other(tls_port: int) -> None:
    client = H2Client(await connect_by_tls(tls_port, "h2"))
    client.h2.initiate_connection()
    client.h2.increment_flow_control_window(2**24)
    await client.flush()
    await client.until(lambda: client.saw(h2.events.RemoteSettingsChanged))
    client.returns_credit = False
    unread = await client.request("/megabyte")
    stalled = await client.request("/unread", method="POST", end=False)
    await client.send(stalled, bytes(2 * 2**20))
    session = await client.request("/echo", method="POST", end=False)
    for turn in range(1, 4):
        await client.send(session, b"ping")
        await client.until(lambda turn=turn: client.answers[session].body == b"ping" * turn)  # type: ignore[misc]  # bound early on purpose
    brisk = await client.request("/length", method="POST", end=False)
    await client.send(brisk, bytes(3 * 2**20), end=True)
    assert (await client.answer(brisk)).body == b"%d" % (3 * 2**20)
    client.h2.increment_flow_control_window(2**20, unread)
    await client.flush()
    assert len((await client.answer(unread)).body) == 2**20
    await client.aclose()


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_a_client_may_vanish_from_tls_at_any_point(
    tls_port: int, errors: Callable[[], list[str]], protocol: str
) -> None:
    hello = await H1Client.connect(tls_port)
    await hello.send(b"\x16\x03\x01\x02\x00\x01")  # the first bytes of a handshake
    await hello.aclose()
    for sent in (b"", b"GET /megabyte HT", b"GET /megabyte HTTP/1.1\r\nhost: x\r\n\r\n"):
        stream = await connect_by_tls(tls_port, protocol)
        await stream.send_all(sent or b"PRI")
        await trio.aclose_forcefully(stream)  # without the goodbye of TLS
    last = H1Client(await connect_by_tls(tls_port, "http/1.1"))
    assert await last.get("/hello") == b"hello"
    await last.aclose()
    assert errors() == []


async def test_a_client_without_tls_is_let_go(
    tls_port: int, errors: Callable[[], list[str]]
) -> None:
    client = await H1Client.connect(tls_port)
    await client.send(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
    with suppress(trio.BrokenResourceError):
        await client.read_to_eof()
    assert errors() == []
    await client.aclose()


async def test_a_handshake_that_does_not_come_is_given_up(
    tls_port: int,
    patient_clock: trio.testing.MockClock,
    errors: Callable[[], list[str]],
) -> None:
    client = await H1Client.connect(tls_port)
    assert await client.read_to_eof() == b""
    assert trio.current_time() < 6
    assert errors() == []
    await client.aclose()
