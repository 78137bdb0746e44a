"""Clients that speak HTTP/1.1 and HTTP/2 by the byte, and misbehave when told to."""

from collections.abc import Callable
from typing import Any

import attrs
import h2.config
import h2.connection
import h2.events
import h2.settings
import trio

Headers = list[tuple[bytes, bytes]]

PATIENCE_SECONDS = 10

# :method GET, :scheme http, :path / from HPACK's static table, :authority "a" in full
GET_HEAD = b"\x82\x86\x84\x01\x01a"


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame that no state machine has looked at."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big")
    return head + payload


@attrs.define(eq=False)
class Answer:
    """What has arrived of one HTTP/2 response."""

    status: int | None = None
    headers: dict[bytes, bytes] = attrs.Factory(dict)
    body: bytearray = attrs.Factory(bytearray)
    frames: int = 0
    unacknowledged: int = 0
    ended: bool = False
    reset: int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None


class H2Client:
    """An HTTP/2 client that reads only while it waits for something (`until`)."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.answers: dict[int, Answer] = {}
        self.events: list[h2.events.Event] = []
        self.returns_credit = True
        self.eof = False

    @classmethod
    async def connect(cls, port: int, *, window_bytes: int | None = None) -> "H2Client":
        client = cls(await trio.open_tcp_stream("127.0.0.1", port))
        client.h2.initiate_connection()
        if window_bytes is not None:
            client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window_bytes})
            client.h2.increment_flow_control_window(window_bytes)
        await client.flush()
        await client.until(lambda: client.saw(h2.events.RemoteSettingsChanged))
        return client

    def saw(self, kind: type[h2.events.Event]) -> bool:
        return any(isinstance(event, kind) for event in self.events)

    async def flush(self) -> None:
        if data := self.h2.data_to_send():
            await self.stream.send_all(data)

    async def request(
        self,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Headers | None = None,
        end: bool = True,
    ) -> int:
        """Send a request head and return the number of its stream."""
        stream_id = self.h2.get_next_available_stream_id()
        head = [
            (b":method", method.encode()),
            (b":scheme", b"http"),
            (b":authority", b"localhost"),
            (b":path", path.encode("latin-1")),
        ]
        self.h2.send_headers(stream_id, head + (headers or []), end_stream=end)
        self.answers[stream_id] = Answer()
        await self.flush()
        return stream_id

    async def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send a body chunk, waiting for window as a decent client does."""
        view = memoryview(data)
        while view or end:
            window = self.h2.local_flow_control_window(stream_id)
            size = min(window, self.h2.max_outbound_frame_size, len(view))
            if size or not view:
                last = end and size == len(view)
                self.h2.send_data(stream_id, bytes(view[:size]), end_stream=last)
                view = view[size:]
                await self.flush()
                if last:
                    return
            else:
                before = window
                await self.until(
                    lambda before=before: self.h2.local_flow_control_window(stream_id) > before  # type: ignore[misc]  # bound early on purpose
                )

    async def reset(self, stream_id: int, code: int = 0) -> None:
        self.h2.reset_stream(stream_id, code)
        await self.flush()

    async def answer(self, stream_id: int) -> Answer:
        """Read until this response is over and return it."""
        await self.until(lambda: self.answers[stream_id].over)
        return self.answers[stream_id]

    async def get(self, path: str = "/") -> Answer:
        return await self.answer(await self.request(path))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Read until the condition holds; fail if the server ends the connection first."""
        with trio.fail_after(PATIENCE_SECONDS):
            while not condition():
                if not await self.read_once():
                    raise EOFError("the server closed the connection")

    async def until_eof(self) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            while await self.read_once():
                pass

    async def read_once(self) -> bool:
        try:
            data = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            self.eof = True
            return False
        for event in self.h2.receive_data(bytes(data)):
            self.events.append(event)
            self._note(event)
        await self.flush()
        return True

    def _note(self, event: h2.events.Event) -> None:
        answer = self.answers.get(getattr(event, "stream_id", None) or 0)
        if answer is None:
            return
        match event:
            case h2.events.ResponseReceived():
                headers: dict[Any, Any] = dict(event.headers or [])
                answer.status = int(headers[b":status"])
                answer.headers = headers
            case h2.events.DataReceived():
                answer.body += event.data or b""
                answer.frames += 1
                answer.unacknowledged += event.flow_controlled_length or 0
                if self.returns_credit and event.stream_id:
                    self.h2.acknowledge_received_data(answer.unacknowledged, event.stream_id)
                    answer.unacknowledged = 0
            case h2.events.StreamEnded():
                answer.ended = True
            case h2.events.StreamReset():
                answer.reset = int(event.error_code or 0)

    async def read_raw_until(self, mark: bytes) -> None:
        """Read past these bytes without looking at what else there is."""
        buffer = b""
        with trio.fail_after(PATIENCE_SECONDS):
            while mark not in buffer:
                data = await self.stream.receive_some(2**20)
                assert data, "the server closed the connection"
                buffer = buffer[-len(mark) :] + data

    async def round_trip(self) -> None:
        """Return once the server has seen everything sent so far."""
        seen = len(self.events)
        self.h2.ping(b"are you?")
        await self.flush()
        await self.until(
            lambda: any(isinstance(e, h2.events.PingAckReceived) for e in self.events[seen:])
        )

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)


class H1Client:
    """An HTTP/1.1 client that sends what it is given and returns what it gets."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    @classmethod
    async def connect(cls, port: int) -> "H1Client":
        return cls(await trio.open_tcp_stream("127.0.0.1", port))

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def read_until(self, mark: bytes) -> bytes:
        """Return everything up to and including the mark."""
        with trio.fail_after(PATIENCE_SECONDS):
            while mark not in self.buffer:
                data = await self.stream.receive_some(65536)
                if not data:
                    raise EOFError(f"closed after {self.buffer!r}")
                self.buffer += data
        found, _, self.buffer = self.buffer.partition(mark)
        return found + mark

    async def read_to_eof(self) -> bytes:
        """Return everything until the server closes; a reset raises `trio.BrokenResourceError`."""
        with trio.fail_after(PATIENCE_SECONDS):
            while data := await self.stream.receive_some(65536):
                self.buffer += data
        found, self.buffer = self.buffer, b""
        return found

    async def get(self, path: str = "/") -> bytes:
        """Send a GET and return the body of the response, which must declare its length."""
        await self.send(b"GET %s HTTP/1.1\r\nhost: localhost\r\n\r\n" % path.encode())
        return await self.read_response()

    async def read_response(self) -> bytes:
        head = await self.read_until(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        with trio.fail_after(PATIENCE_SECONDS):
            while len(self.buffer) < length:
                data = await self.stream.receive_some(65536)
                assert data, "closed inside a body"
                self.buffer += data
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return body

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)
