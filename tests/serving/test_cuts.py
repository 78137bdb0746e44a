"""Connections that end at every byte of a request and of a response."""

import socket
import struct
from collections.abc import Callable

import pytest
import trio

from tests.serving.clients import PATIENCE_SECONDS, H1Client, frame
from tests.serving.conftest import Server, StartServer

# on, for 0 seconds: a close is a reset
LINGER_RESET = struct.pack("ii", 1, 0)

H1_REQUEST = (
    b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n"
)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)


def head(method: bytes, path: bytes) -> bytes:
    """A header block of HPACK: :path and :authority "a" are literals."""
    number = {b"GET": b"\x82", b"POST": b"\x83"}[method]
    return number + b"\x86\x44" + bytes([len(path)]) + path + b"\x01\x01a"


def h2_request(path: bytes) -> bytes:
    """A request with a body in two frames, and another one in between."""
    return (
        PREFACE
        + frame(1, 4, 1, head(b"POST", path))
        + frame(0, 0, 1, b"hello")
        + frame(1, 5, 3, head(b"GET", b"/hello"))
        + frame(0, 1, 1, b"world")
    )


H2_REQUEST = h2_request(b"/echo")


async def half_close(client: H1Client) -> bytes:
    """Send no more, and read whatever there is."""
    assert isinstance(client.stream, trio.SocketStream)
    await client.stream.send_eof()
    return await client.read_to_eof()


async def reset(client: H1Client) -> bytes:
    """Be gone without a goodbye."""
    assert isinstance(client.stream, trio.SocketStream)
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    await client.aclose()
    return b""


async def cut_at_every_byte(server: Server, request: bytes, *, gently: bool) -> list[bytes]:
    """What came back for each length of the request's beginning, the whole one last."""
    answers = []
    for length in range(len(request) + 1):
        client = await H1Client.connect(server.port)
        await client.send(request[:length])
        answers.append(await (half_close(client) if gently else reset(client)))
        await client.aclose()
    return answers


@pytest.mark.parametrize("gently", [True, False], ids=["half-close", "reset"])
@pytest.mark.parametrize("request_bytes", [H1_REQUEST, H2_REQUEST], ids=["HTTP/1.1", "HTTP/2"])
async def test_a_request_may_break_off_anywhere(
    start_server: StartServer, errors: Callable[[], list[str]], request_bytes: bytes, gently: bool
) -> None:
    server = await start_server()
    await cut_at_every_byte(server, request_bytes, gently=gently)
    await server.app.until_idle()
    assert await server.is_healthy()
    assert errors() == []


async def test_only_a_whole_request_has_a_whole_answer(start_server: StartServer) -> None:
    server = await start_server()
    answers = await cut_at_every_byte(server, H1_REQUEST, gently=True)
    last_chunk = b"\r\n0\r\n\r\n"
    assert [last_chunk in answer for answer in answers] == [*[False] * len(H1_REQUEST), True]


@pytest.mark.parametrize("path", [b"/hello", b"/endless", b"/megabyte"])
@pytest.mark.parametrize("version", [1, 2])
async def test_a_client_may_go_anywhere_in_a_response(
    start_server: StartServer, errors: Callable[[], list[str]], path: bytes, version: int
) -> None:
    server = await start_server()
    if version == 1:
        request = b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path
    else:
        request = PREFACE + frame(1, 5, 1, head(b"GET", path))
    lengths = range(1, 70) if path == b"/hello" else [*range(1, 180, 2), 1000, 20_000]
    for length in lengths:
        client = await H1Client.connect(server.port)
        await client.send(request)
        got = 0
        with trio.fail_after(PATIENCE_SECONDS):
            while got < length and (data := await client.stream.receive_some(length - got)):
                got += len(data)
        await reset(client)
    await server.app.until_idle()
    assert await server.is_healthy()
    assert errors() == []


async def test_bytes_may_come_one_by_one(start_server: StartServer) -> None:
    server = await start_server()
    for request_bytes, answer in (
        (H1_REQUEST.replace(b"/echo", b"/length"), b"\r\n\r\n10"),
        (h2_request(b"/length"), b"10"),
    ):
        client = await server.h1()
        for byte in request_bytes:
            await client.send(bytes([byte]))
        await client.read_until(answer)
