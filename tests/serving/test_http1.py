"""HTTP/1.1 in every order of events."""

import json
import logging
from collections.abc import Callable

import pytest
import trio
import trio.testing

from tests.serving.conftest import StartServer

KIB = 1024


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def post(path: str, *headers: bytes) -> bytes:
    lines = [b"POST %s HTTP/1.1" % path.encode(), b"host: localhost", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


CHUNKED = b"transfer-encoding: chunked"


async def test_a_session_is_full_duplex_on_one_exchange(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(post("/echo", CHUNKED))
    head = await client.read_until(b"\r\n\r\n")  # before any input
    assert head.startswith(b"HTTP/1.1 200 ")
    for turn in (b"one", b"two"):
        await client.send(chunk(turn))
        await client.read_until(chunk(turn))
    await client.send(b"0\r\n\r\n")
    await client.read_until(b"0\r\n\r\n")
    assert await client.get("/hello") == b"hello"


async def test_the_scope_has_the_path_as_sent(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(b"GET /scope?a=%2F&b HTTP/1.1\r\nHost: localhost\r\nX-Y: z\r\n\r\n")
    await client.read_until(b"\r\n\r\n")
    (scope,) = server.app.notes
    assert (scope["raw_path"], scope["query_string"]) == (b"/scope", b"a=%2F&b")
    assert scope["headers"] == [(b"host", b"localhost"), (b"x-y", b"z")]
    assert (scope["http_version"], scope["method"], scope["client"][0]) == (
        "1.1",
        "GET",
        "127.0.0.1",
    )


async def test_a_connection_serves_many_requests(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h1()
    for length in (0, 10, 300 * KIB):
        await client.send(post("/length", b"content-length: %d" % length) + bytes(length))
        assert await client.read_response() == b"%d" % length


async def test_pipelined_requests_are_answered_in_order(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h1()
    three = post("/length", b"content-length: 3") + b"abc"
    await client.send(three + b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n" + three)
    assert [await client.read_response() for _ in range(3)] == [b"3", b"hello", b"3"]


async def test_an_early_answer_leaves_the_connection_usable(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h1()
    size = 4 * 2**20
    await client.send(post("/refuse", b"content-length: %d" % size))
    assert await client.read_response() == b"no"
    await client.send(bytes(size))
    assert await client.get("/hello") == b"hello"


async def test_an_early_answer_reaches_a_client_that_reads_only_after_sending(
    start_server: StartServer,
) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(post("/refuse", CHUNKED))
    for _ in range(100):
        await client.send(chunk(bytes(64 * KIB)))
    await client.send(b"0\r\n\r\n")
    assert await client.read_response() == b"no"
    assert await client.get("/hello") == b"hello"


async def test_a_request_that_was_answered_early_is_read_only_so_far(
    start_server: StartServer,
) -> None:
    server = await start_server(drain_bytes=100 * KIB)
    client = await server.h1()
    await client.send(post("/refuse", CHUNKED))
    assert await client.read_response() == b"no"
    with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
        while True:
            await client.send(chunk(bytes(64 * KIB)))
    assert await server.is_healthy()


async def test_a_request_that_was_answered_early_is_awaited_only_so_long(
    start_server: StartServer, patient_clock: trio.testing.MockClock
) -> None:
    server = await start_server(drain_seconds=5)
    client = await server.h1()
    await client.send(post("/refuse", b"content-length: 1000"))
    assert await client.read_response() == b"no"
    began = trio.current_time()
    assert await client.read_to_eof() == b""
    assert 5 <= trio.current_time() - began < 6


@pytest.mark.slow
async def test_a_body_is_read_no_faster_than_the_application_does(
    start_server: StartServer,
) -> None:
    server = await start_server(stream_window_bytes=100 * KIB)
    client = await server.h1()
    size = 64 * 2**20
    await client.send(post("/unread", b"content-length: %d" % size))
    sent = 0
    with trio.move_on_after(0.3):
        while True:
            await client.send(bytes(2**20))
            sent += 2**20
    assert sent < size / 2  # what the kernel holds, and little more


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"rubbish\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no host
        (b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: ten\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: odd\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nhost: x\r\nlong: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: x\r\nlong: " + b"x" * 300_000, 431),
        (b"POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
async def test_a_malformed_request_is_answered_and_ends_its_connection(
    start_server: StartServer, request_bytes: bytes, status: int
) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(request_bytes)
    head = await client.read_until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close\r\n" in head.lower()
    assert await client.read_to_eof() == b""
    assert await server.is_healthy()


async def test_a_large_head_is_accepted(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(b"GET /hello HTTP/1.1\r\nhost: x\r\nlong: " + b"x" * 60_000 + b"\r\n\r\n")
    assert await client.read_response() == b"hello"


async def test_an_idle_connection_is_closed_but_not_earlier(
    start_server: StartServer, patient_clock: trio.testing.MockClock
) -> None:
    server = await start_server(keep_alive_seconds=180)
    client, silent = await server.h1(), await server.h1()
    for _ in range(3):
        await trio.sleep(170)
        assert await client.get("/hello") == b"hello"
    began = trio.current_time()
    await trio.sleep(175)
    assert await client.read_to_eof() == b""
    assert 180 <= trio.current_time() - began < 181
    assert await silent.read_to_eof() == b""


@pytest.mark.slow
async def test_a_head_that_drips_in_is_cut_off(
    start_server: StartServer, patient_clock: trio.testing.MockClock
) -> None:
    server = await start_server(head_timeout_seconds=30)
    client = await server.h1()
    assert await client.get("/hello") == b"hello"
    await trio.sleep(100)
    began = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
        for letter in b"GET /hello HTTP/1.1\r\nhost: " + b"x" * 100:
            await client.send(bytes([letter]))
            await trio.sleep(1)
    assert 30 <= trio.current_time() - began < 33


async def test_a_body_may_take_its_time(
    start_server: StartServer, patient_clock: trio.testing.MockClock
) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(post("/length", b"content-length: 2") + b"a")
    await trio.sleep(3600)
    await client.send(b"b")
    assert await client.read_response() == b"2"


async def test_a_client_that_goes_is_reported(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(b"GET /until-gone HTTP/1.1\r\nhost: x\r\n\r\n")
    await client.read_until(b"\r\n\r\n")
    await client.aclose()
    await server.app.until_idle()
    assert server.app.notes == ["http.disconnect"]


async def test_a_client_that_goes_inside_its_request_is_reported(
    start_server: StartServer,
) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(post("/echo", CHUNKED) + chunk(b"half"))
    await client.read_until(chunk(b"half"))
    await client.aclose()
    await server.app.until_idle()
    assert server.app.notes == ["disconnect"]


async def test_a_client_that_half_closes_gets_its_answer(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(post("/unread", b"content-length: 5") + b"hello")
    assert isinstance(client.stream, trio.SocketStream)
    await client.stream.send_eof()
    await client.read_until(b"\r\n\r\n")
    server.app.gate.set()
    assert await client.read_to_eof() == chunk(b"5") + b"0\r\n\r\n"


@pytest.mark.slow
async def test_a_client_that_does_not_read_gets_no_more_than_fits(
    start_server: StartServer,
) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
    await trio.sleep(0.3)
    sent = len(server.app.notes)
    assert 0 < sent * 10_000 < 32 * 2**20
    await client.aclose()
    await server.app.until_idle()
    assert server.app.notes[-1] == "ClientDisconnected"


async def test_a_failing_application_gives_500_and_the_connection_goes_on(
    start_server: StartServer, errors: Callable[[], list[str]]
) -> None:
    server = await start_server()
    client = await server.h1()
    for path in ("/fail", "/bad-header", "/silent"):
        assert json.loads(await client.get(path)) == {"code": "other", "message": "internal error"}
    assert await client.get("/hello") == b"hello"
    assert errors() == [
        "application error in GET /fail",
        "application error in GET /bad-header",
        "application gave no complete response to GET /silent",
    ]


async def test_a_chunked_answer_that_breaks_off_has_no_last_chunk(
    start_server: StartServer,
) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(b"GET /fail-late HTTP/1.1\r\nhost: x\r\n\r\n")
    await client.read_until(b"\r\n\r\n")
    assert await client.read_to_eof() == chunk(b"so far")


async def test_an_answer_of_known_length_breaks_off_short(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(b"GET /fail-short HTTP/1.1\r\nhost: x\r\n\r\n")
    await client.read_until(b"\r\n\r\n")
    assert await client.read_to_eof() == b"so far"


async def test_an_http10_client_sees_an_answer_that_breaks_off_as_a_reset(
    start_server: StartServer,
) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(b"GET /fail-late HTTP/1.0\r\n\r\n")
    with pytest.raises(trio.BrokenResourceError):
        await client.read_to_eof()


async def test_an_http10_client_is_served(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(b"GET /hello HTTP/1.0\r\n\r\n")
    assert (await client.read_to_eof()).endswith(b"\r\n\r\nhello")


async def test_a_client_that_asks_before_sending_is_told_to_go_on(
    start_server: StartServer,
) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(post("/length", b"content-length: 5", b"expect: 100-continue"))
    assert (await client.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    await client.send(b"hello")
    assert await client.read_response() == b"5"


async def test_a_head_request_has_no_body(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h1()
    for path in (b"/hello", b"/fail"):
        await client.send(b"HEAD %s HTTP/1.1\r\nhost: x\r\n\r\n" % path)
        assert b"content-length: " in await client.read_until(b"\r\n\r\n")
    assert await client.get("/hello") == b"hello"


async def test_responses_are_dated_and_anonymous(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
    head = (await client.read_until(b"\r\n\r\n")).lower()
    assert b"\r\ndate: " in head
    assert b"server:" not in head


async def test_nothing_is_printed_and_no_header_value_is_logged(
    start_server: StartServer,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    server = await start_server()
    for path in ("/hello", "/fail", "/fail-late", "/missing"):
        client = await server.h1()
        await client.send(
            b"GET %s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer t0ps3cret\r\n\r\n" % path.encode()
        )
        await client.read_until(b"\r\n\r\n")
    assert "t0ps3cret" not in caplog.text
    assert capfd.readouterr() == ("", "")


async def test_an_upgrade_to_something_else_is_ignored(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h1()
    await client.send(
        b"GET /hello HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    )
    assert await client.read_response() == b"hello"
    assert await client.get("/hello") == b"hello"
