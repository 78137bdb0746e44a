"""HTTP/2 with the h2 library: sessions, and unary requests that share one connection."""

import socket
from collections import deque
from collections.abc import Mapping

import attrs
import h2.config
import h2.connection
import h2.events
from h2.settings import SettingCodes

from scripts.benchmark.http1 import RECEIVE_BYTES, Address, connect
from scripts.benchmark.wire import BenchmarkError, FrameScanner

# What the clients in wide use (hyper) announce.
STREAM_WINDOW_BYTES = 2 * 1024 * 1024
CONNECTION_WINDOW_BYTES = 5 * 1024 * 1024
_MAX_UNSENT_BYTES = 1024 * 1024


def header_list(method: str, path: str, headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Make the header list of a request."""
    pseudo = [
        (":method", method),
        (":path", path),
        (":scheme", "http"),
        (":authority", "localhost"),
    ]
    return [*pseudo, *headers.items()]


def begin_connection() -> h2.connection.H2Connection:
    """Make the client's side of a connection, its preface and settings ready to be sent."""
    config = h2.config.H2Configuration(client_side=True, header_encoding=None)
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    connection.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES})
    connection.increment_flow_control_window(CONNECTION_WINDOW_BYTES - 65_535)
    return connection


def check_status(event: h2.events.ResponseReceived) -> None:
    """Raise `BenchmarkError` unless the response is a 200."""
    status = dict(event.headers or []).get(b":status")
    if status != b"200":
        raise BenchmarkError(f"answered {status!r}")


def check_alive(event: h2.events.Event) -> None:
    """Raise `BenchmarkError` if the server gave up a stream or the connection."""
    if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
        raise BenchmarkError(f"the server ended it: {event}")


@attrs.define(eq=False)
class Http2Exchange:
    """A session over a connection of its own, with the interface of `Http1Exchange`."""

    scanner: FrameScanner
    _socket: socket.socket
    _connection: h2.connection.H2Connection
    _stream_id: int
    ended: bool = False
    _frames: deque[memoryview] = attrs.field(factory=deque)
    _unsent: bytearray = attrs.field(factory=bytearray)

    @classmethod
    def open(
        cls,
        address: Address,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        keep: bool = False,
    ) -> "Http2Exchange":
        """Connect and send the head of the request, a POST with a body or a GET."""
        opened = connect(address)
        connection = begin_connection()
        stream_id = connection.get_next_available_stream_id()
        head = header_list(method, path, headers)
        connection.send_headers(stream_id, head, end_stream=method == "GET")
        opened.sendall(connection.data_to_send())
        opened.setblocking(False)
        return cls(FrameScanner(keep), opened, connection, stream_id)

    @property
    def wants_write(self) -> bool:
        """Whether something waits to be sent and may be."""
        return bool(self._unsent)

    def fileno(self) -> int:
        """Give the descriptor to wait for."""
        return self._socket.fileno()

    @staticmethod
    def prepare(frame: bytes, copies: int = 1) -> list[memoryview]:
        """Make of a frame what `write` takes: each copy is sent in DATA frames of its own."""
        return [memoryview(frame)] * copies

    def write(self, prepared: list[memoryview]) -> None:
        """Send as much as flow control and the socket take; the rest when they take more."""
        self._frames.extend(prepared)
        self.send_some()

    def send_some(self) -> None:
        """Send what waits, as far as flow control and the socket take it."""
        self._frame_some()
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                return
            del self._unsent[:sent]
            self._frame_some()

    def receive_some(self) -> None:
        """Take what has arrived."""
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("the server closed the connection of a session")
        for event in self._connection.receive_data(data):
            self._take(event)
        self._unsent += self._connection.data_to_send()
        self.send_some()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _frame_some(self) -> None:
        connection, stream_id = self._connection, self._stream_id
        while self._frames and len(self._unsent) < _MAX_UNSENT_BYTES:
            room = min(
                connection.local_flow_control_window(stream_id), connection.max_outbound_frame_size
            )
            if room <= 0:
                break
            frame = self._frames.popleft()
            if len(frame) > room:
                self._frames.appendleft(frame[room:])
                frame = frame[:room]
            connection.send_data(stream_id, bytes(frame))
            self._unsent += connection.data_to_send()

    def _take(self, event: h2.events.Event) -> None:
        check_alive(event)
        match event:
            case h2.events.DataReceived():
                self.scanner.feed(memoryview(event.data or b""))
                self._connection.acknowledge_received_data(
                    event.flow_controlled_length or 0, self._stream_id
                )
            case h2.events.ResponseReceived():
                check_status(event)
            case h2.events.StreamEnded():
                self.ended = True
