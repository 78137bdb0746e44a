"""No client ends more than its own connection. The stock server is the null control."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing
from hypercorn.config import Config
from hypercorn.trio import serve as stock_serve

from tests.serving.apps import Playground
from tests.serving.clients import GET_HEAD, PATIENCE_SECONDS, H1Client, H2Client, frame
from tests.serving.conftest import StartServer

Abuse = Callable[[H2Client], Awaitable[None]]


async def abuse_the_stock_server(port: int, abuse: Abuse) -> None:
    with suppress(EOFError, OSError, trio.BrokenResourceError):  # it is going down
        client = await H2Client.connect(port)
        try:
            await abuse(client)
        finally:
            await client.aclose()


@asynccontextmanager
async def stock_server(app: Any) -> AsyncIterator[int]:
    """Run hypercorn as shipped; raises what ends it."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[list[str]]) -> None:
            await stock_serve(app, config, shutdown_trigger=stop.wait, task_status=task_status)

        binds: list[str] = await nursery.start(run)
        yield int(binds[0].rpartition(":")[2])
        stop.set()


def leaves(error: BaseException) -> set[type[BaseException]]:
    if isinstance(error, BaseExceptionGroup):
        return set().union(*(leaves(inner) for inner in error.exceptions))
    return {type(error)}


async def send_data_after_the_response_has_ended(client: H2Client) -> None:
    stream_id = await client.request("/refuse", method="POST", end=False)
    await client.until(lambda: client.answers[stream_id].ended)
    await client.stream.send_all(frame(0, 0, stream_id, b"late"))
    await client.round_trip()


async def say_goodbye_in_the_middle_of_responses(client: H2Client) -> None:
    for _ in range(3):
        await client.request("/trickle")
    await client.until(lambda: all(answer.frames for answer in client.answers.values()))
    client.h2.close_connection()
    await client.stream.send_all(client.h2.data_to_send())
    with trio.move_on_after(0.1):
        while await client.stream.receive_some(65536):
            pass


async def test_the_stock_server_dies_of_late_data() -> None:
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
        async with stock_server(Playground()) as port:
            await abuse_the_stock_server(port, send_data_after_the_response_has_ended)
            await trio.sleep(PATIENCE_SECONDS)
    assert KeyError in leaves(caught.value)


@pytest.fixture
def unlucky_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make likely what else is one case in twenty: that a send falls into a `send_eof`.

    A sender passes a checkpoint (for a lock) before `send_all`, and `send_eof` contains one.
    """
    send_all, send_eof = trio.SocketStream.send_all, trio.SocketStream.send_eof

    async def send_all_late(stream: trio.SocketStream, data: bytes) -> None:
        await trio.sleep(0.002)
        await send_all(stream, data)

    async def send_eof_slowly(stream: trio.SocketStream) -> None:
        with stream._send_conflict_detector:
            await trio.sleep(0.01)
        await send_eof(stream)

    monkeypatch.setattr(trio.SocketStream, "send_all", send_all_late)
    monkeypatch.setattr(trio.SocketStream, "send_eof", send_eof_slowly)


@pytest.mark.slow
@pytest.mark.usefixtures("unlucky_schedule")
async def test_the_stock_server_dies_when_a_close_races_a_send() -> None:
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
        async with stock_server(Playground()) as port:
            for _ in range(30):  # it survives one in two: the sender may be an application
                await abuse_the_stock_server(port, say_goodbye_in_the_middle_of_responses)
    assert trio.BusyResourceError in leaves(caught.value)


async def test_late_data_is_dropped_and_its_connection_serves_on(start_server: StartServer) -> None:
    server = await start_server()
    await send_data_after_the_response_has_ended(await server.h2())
    assert await server.is_healthy()


@pytest.mark.slow
@pytest.mark.usefixtures("unlucky_schedule")
async def test_a_close_cannot_race_a_send(
    start_server: StartServer, errors: Callable[[], list[str]]
) -> None:
    server = await start_server()
    for _ in range(3):
        await say_goodbye_in_the_middle_of_responses(await server.h2())
    assert await server.is_healthy()
    assert errors() == []


async def send_and_wait_for_the_end(client: H1Client, data: bytes) -> None:
    await client.send(data)
    with trio.fail_after(5):
        try:
            while await client.stream.receive_some(65536):
                pass
        except trio.BrokenResourceError:
            pass


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",  # a TLS handshake
        b"GET / HTTP/1.1\r\nauthorization: Bearer secret\x00\r\n\r\n",
        b"POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nsecret\r\n",
        b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: secret\r\n\r\n",
        PREFACE[:18] + b"secret" * 100,
        PREFACE + frame(0, 0, 0, b"secret"),  # DATA on no stream
        PREFACE + frame(0, 0, 5, b"secret"),  # DATA on a stream that is idle
        PREFACE + frame(1, 4, 1, b"\xff\xff\xff\xff\xffsecret"),  # not HPACK
        PREFACE + frame(1, 4, 2, GET_HEAD),  # a stream of the server's
        PREFACE + frame(1, 4, 1, GET_HEAD) + frame(1, 4, 1, GET_HEAD),  # trailers that go on
        PREFACE + frame(1, 5, 1, GET_HEAD) + frame(0, 0, 1, b"more") + frame(8, 0, 0, b"\0\0\0\0"),
        PREFACE + frame(9, 4, 1, GET_HEAD),  # CONTINUATION of nothing
        PREFACE + frame(4, 0, 0, b"\0\4\xff\xff\xff\xff"),  # a window too large
        PREFACE + frame(8, 0, 0, b"\x7f\xff\xff\xff") * 2,  # the same by WINDOW_UPDATE
        PREFACE + frame(0, 8, 1, b"\xff"),  # padding longer than the frame
        PREFACE + frame(3, 0, 1, b"secret"),  # RST_STREAM of a wrong length
        PREFACE + frame(4, 0, 0, b"short"),
        PREFACE + b"\xff\xff\xff\0\0\0\0\0\1",  # a frame too large
        PREFACE + frame(7, 0, 0, bytes(8)) + frame(1, 5, 1, GET_HEAD),  # goodbye, and a request
    ],
)
async def test_a_client_that_breaks_the_protocol_loses_its_connection_and_no_other(
    start_server: StartServer,
    caplog: pytest.LogCaptureFixture,
    errors: Callable[[], list[str]],
    data: bytes,
) -> None:
    server = await start_server()
    bystander = await server.h2()
    stream_id = await bystander.request("/echo", method="POST", end=False)
    await send_and_wait_for_the_end(await server.h1(), data)
    await bystander.send(stream_id, b"still here", end=True)
    assert (await bystander.answer(stream_id)).body == b"still here"
    assert await server.is_healthy()
    assert errors() == []
    assert "secret" not in caplog.text


async def test_a_defect_of_ours_ends_one_connection_and_is_logged_once(
    start_server: StartServer, errors: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server()

    def defect(*_: Any) -> None:
        raise KeyError("a defect")

    with monkeypatch.context() as patched:
        # Nothing from outside reaches such code any more, so it has to be planted.
        patched.setattr("s2lite.serving.http2.Http2._data_received", defect)
        client = await server.h2()
        stream_id = await client.request("/echo", method="POST", end=False)
        await client.send(stream_id, b"x")
        await client.until_eof()
    assert await server.is_healthy()
    assert len(errors()) == 1


@pytest.mark.parametrize("path", ["/echo", "/until-gone", "/endless", "/gated", "/unread"])
@pytest.mark.parametrize("version", [1, 2])
async def test_a_client_may_vanish_at_any_point(
    start_server: StartServer, errors: Callable[[], list[str]], path: str, version: int
) -> None:
    server = await start_server()
    if version == 1:
        h1 = await server.h1()
        await h1.send(
            b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf" % path.encode()
        )
        await trio.testing.wait_all_tasks_blocked(0.01)
        await h1.aclose()
    else:
        h2 = await server.h2()
        stream_id = await h2.request(path, method="POST", end=False)
        await h2.send(stream_id, b"half")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await h2.aclose()
    server.app.gate.set()
    await server.app.until_idle()
    assert await server.is_healthy()
    assert errors() == []


async def test_a_send_that_fails_is_not_held_against_the_application(
    start_server: StartServer, errors: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server()
    send_all = trio.SocketStream.send_all

    async def send_to_nobody(stream: trio.SocketStream, data: bytes) -> None:
        if stream.socket.getsockname()[1] == server.port:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError  # and whoever reads has not noticed
        await send_all(stream, data)

    clients = [await server.h1() for _ in range(10)]  # which task is first is left to chance
    monkeypatch.setattr(trio.SocketStream, "send_all", send_to_nobody)
    for client in clients:
        await client.send(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        assert await client.read_to_eof() == b""
    await server.app.until_idle()
    assert errors() == []
