"""S2S sessions by the byte, over HTTP/1.1 in full duplex and over HTTP/2."""

from collections.abc import Mapping
from typing import Protocol

import attrs
import h11
import trio

from tests.api.frames import Frame
from tests.serving.clients import H2Client

PATIENCE_SECONDS = 10
S2S = {"content-type": "s2s/proto"}


@attrs.frozen
class Head:
    """The head of a response."""

    status: int
    headers: Mapping[str, str]


class Session(Protocol):
    """One exchange, both of whose bodies are open."""

    async def head(self) -> Head:
        """Wait for the response's head."""

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Send a piece of the request's body; `end` closes the client's half."""

    async def frame(self, patience_seconds: float = PATIENCE_SECONDS) -> Frame | None:
        """The next frame, or None when the response has ended in good order."""

    async def rest(self) -> bytes:
        """Everything up to the end of the response that has not been taken as frames."""

    async def aclose(self) -> None:
        """Cut the connection."""


def _cut(buffer: bytearray) -> Frame | None:
    """Take a frame off the buffer if it has a whole one."""
    end = 3 + int.from_bytes(buffer[:3], "big")
    if len(buffer) < 3 or len(buffer) < end:
        return None
    frame = Frame(buffer[3], bytes(buffer[4:end]))
    del buffer[:end]
    return frame


@attrs.define(eq=False)
class H1Session:
    """A chunked request and a chunked response on one HTTP/1.1 connection."""

    stream: trio.SocketStream
    connection: h11.Connection = attrs.field(factory=lambda: h11.Connection(h11.CLIENT))
    _head: Head | None = None
    _body: bytearray = attrs.field(factory=bytearray)
    _ended: bool = False

    @classmethod
    async def open(
        cls, port: int, method: str, path: str, headers: Mapping[str, str]
    ) -> "H1Session":
        """Connect and send a request head; a GET has no body."""
        session = cls(await trio.open_tcp_stream("127.0.0.1", port))
        framing = {} if method == "GET" else {"transfer-encoding": "chunked"}
        everything = {"host": "localhost", **framing, **headers}
        await session._send(
            h11.Request(method=method, target=path, headers=list(everything.items()))
        )
        if method == "GET":
            await session._send(h11.EndOfMessage())
        return session

    async def _send(self, event: h11.Event) -> None:
        if data := self.connection.send(event):
            await self.stream.send_all(data)

    async def head(self) -> Head:
        with trio.fail_after(PATIENCE_SECONDS):
            while self._head is None:
                await self._read_event()
        return self._head

    async def send(self, data: bytes, *, end: bool = False) -> None:
        if data:
            await self._send(h11.Data(data=data))
        if end:
            await self._send(h11.EndOfMessage())

    async def frame(self, patience_seconds: float = PATIENCE_SECONDS) -> Frame | None:
        with trio.fail_after(patience_seconds):
            while (frame := _cut(self._body)) is None and not self._ended:
                await self._read_event()
        assert frame is not None or not self._body, "the response ended inside a frame"
        return frame

    async def rest(self) -> bytes:
        with trio.fail_after(PATIENCE_SECONDS):
            while not self._ended:
                await self._read_event()
        return bytes(self._body)

    async def _read_event(self) -> None:
        event = self.connection.next_event()
        match event:
            case h11.NEED_DATA:
                # A premature end makes the next call raise: never taken for an end of the body.
                self.connection.receive_data(bytes(await self.stream.receive_some(65536)))
            case h11.Response():
                headers = {name.decode(): value.decode() for name, value in event.headers}
                self._head = Head(event.status_code, headers)
            case h11.Data():
                self._body += event.data
            case h11.EndOfMessage():
                self._ended = True
            case _:
                raise AssertionError(f"unexpected {event}")

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)


@attrs.define(eq=False)
class H2Session:
    """One stream of an HTTP/2 connection of its own."""

    client: H2Client
    stream_id: int

    @classmethod
    async def open(
        cls, port: int, method: str, path: str, headers: Mapping[str, str]
    ) -> "H2Session":
        """Connect and send a request head; a GET has no body."""
        client = await H2Client.connect(port, window_bytes=10 * 1024 * 1024)
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        stream_id = await client.request(path, method=method, headers=pairs, end=method == "GET")
        return cls(client, stream_id)

    async def head(self) -> Head:
        answer = self.client.answers[self.stream_id]
        await self.client.until(lambda: answer.status is not None)
        assert answer.status is not None
        headers = {name.decode(): value.decode() for name, value in answer.headers.items()}
        return Head(answer.status, headers)

    async def send(self, data: bytes, *, end: bool = False) -> None:
        await self.client.send(self.stream_id, data, end=end)

    async def frame(self, patience_seconds: float = PATIENCE_SECONDS) -> Frame | None:
        answer = self.client.answers[self.stream_id]
        with trio.fail_after(patience_seconds):
            while (frame := _cut(answer.body)) is None and not answer.over:
                if not await self.client.read_once():
                    raise EOFError("the server closed the connection")
        if frame is None:
            assert answer.ended, "the response was reset"
            assert not answer.body, "the response ended inside a frame"
        return frame

    async def rest(self) -> bytes:
        answer = await self.client.answer(self.stream_id)
        assert answer.ended
        return bytes(answer.body)

    async def aclose(self) -> None:
        await self.client.aclose()
