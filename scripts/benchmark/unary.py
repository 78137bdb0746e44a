"""Unary appends: each request waits for its answer, many at a time."""

import selectors
import socket
import time
from collections.abc import Mapping, Sequence

import attrs
import h2.connection
import h2.events

from scripts.benchmark.drivers import Figure, latency_figures
from scripts.benchmark.http1 import RECEIVE_BYTES, TIMEOUT_SECONDS, connect, request_head
from scripts.benchmark.http2 import begin_connection, check_alive, check_status, header_list
from scripts.benchmark.targets import Server
from scripts.benchmark.wire import BenchmarkError, append_message, whole_response_bytes


def _headers(basin: str, message: bytes) -> Mapping[str, str]:
    return {
        "s2-basin": basin,
        "content-type": "application/protobuf",
        "accept": "application/protobuf",
        "content-length": str(len(message)),
    }


@attrs.define(eq=False)
class _Latencies:
    """When each request under way was sent, and how long the answered ones took."""

    taken: list[float] = attrs.field(factory=list)
    _sent_at: dict[int, float] = attrs.field(factory=dict)

    def sent(self, key: int) -> None:
        self._sent_at[key] = time.perf_counter()

    def answered(self, key: int) -> None:
        self.taken.append(time.perf_counter() - self._sent_at.pop(key))

    def figures(self, elapsed_seconds: float) -> list[Figure]:
        rate = Figure("requests", "/s", len(self.taken) / elapsed_seconds)
        return [rate, *latency_figures("answer", self.taken)]


@attrs.define(eq=False)
class UnaryHttp1:
    """Keep-alive connections with one request at a time, each appending to its own stream."""

    _connections: Sequence[tuple[socket.socket, bytes]]
    _selector: selectors.BaseSelector = attrs.field(factory=selectors.DefaultSelector)
    _latencies: _Latencies = attrs.field(factory=_Latencies)
    _received: dict[int, bytearray] = attrs.field(factory=dict)
    _started: bool = False

    @classmethod
    def open(
        cls, server: Server, basin: str, streams: Sequence[str], body_bytes: int
    ) -> "UnaryHttp1":
        """Connect once for each stream."""
        message = append_message(1, body_bytes)
        headers = _headers(basin, message)
        return cls(
            [
                (
                    connect(server.address),
                    request_head("POST", f"/v1/streams/{stream}/records", headers) + message,
                )
                for stream in streams
            ]
        )

    def run(self, seconds: float) -> None:
        """Keep a request under way on each connection for so long."""
        if not self._started:
            self._start()
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            ready = self._selector.select(TIMEOUT_SECONDS)
            if not ready:
                raise BenchmarkError(f"no answer for {TIMEOUT_SECONDS} s")
            for key, _ in ready:
                self._receive(*self._connections[key.data])

    def reset(self) -> None:
        """Count from here."""
        self._latencies.taken.clear()

    def figures(self, elapsed_seconds: float) -> list[Figure]:
        """Give the rate, and the time from a request to its answer."""
        return self._latencies.figures(elapsed_seconds)

    def close(self) -> None:
        """Close the connections; the requests under way are given up."""
        self._selector.close()
        for opened, _ in self._connections:
            opened.close()

    def _start(self) -> None:
        self._started = True
        for index, (opened, request) in enumerate(self._connections):
            self._selector.register(opened, selectors.EVENT_READ, index)
            self._received[opened.fileno()] = bytearray()
            self._send(opened, request)

    def _send(self, opened: socket.socket, request: bytes) -> None:
        self._latencies.sent(opened.fileno())
        opened.sendall(request)

    def _receive(self, opened: socket.socket, request: bytes) -> None:
        received = self._received[opened.fileno()]
        data = opened.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("the server closed a connection")
        received += data
        length = whole_response_bytes(received)
        if length is not None and len(received) >= length:
            self._latencies.answered(opened.fileno())
            received.clear()
            self._send(opened, request)


@attrs.define(eq=False)
class UnaryHttp2:
    """One connection with a request under way for each stream."""

    basin: str
    message: bytes
    _socket: socket.socket
    _connection: h2.connection.H2Connection
    _idle: list[str]
    _streams: dict[int, str] = attrs.field(factory=dict)
    _latencies: _Latencies = attrs.field(factory=_Latencies)

    @classmethod
    def open(
        cls, server: Server, basin: str, streams: Sequence[str], body_bytes: int
    ) -> "UnaryHttp2":
        """Connect."""
        opened = connect(server.address)
        message = append_message(1, body_bytes)
        return cls(basin, message, opened, begin_connection(), list(streams))

    def run(self, seconds: float) -> None:
        """Keep a request under way for each stream for so long."""
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            while self._idle:
                self._send(self._idle.pop())
            self._socket.sendall(self._connection.data_to_send())
            data = self._socket.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            for event in self._connection.receive_data(data):
                self._take(event)

    def reset(self) -> None:
        """Count from here."""
        self._latencies.taken.clear()

    def figures(self, elapsed_seconds: float) -> list[Figure]:
        """Give the rate, and the time from a request to its answer."""
        return self._latencies.figures(elapsed_seconds)

    def close(self) -> None:
        """Close the connection; the requests under way are given up."""
        self._socket.close()

    def _send(self, stream: str) -> None:
        connection = self._connection
        stream_id = connection.get_next_available_stream_id()
        head = header_list(
            "POST", f"/v1/streams/{stream}/records", _headers(self.basin, self.message)
        )
        connection.send_headers(stream_id, head)
        connection.send_data(stream_id, self.message, end_stream=True)
        self._streams[stream_id] = stream
        self._latencies.sent(stream_id)

    def _take(self, event: h2.events.Event) -> None:
        check_alive(event)
        match event:
            case h2.events.ResponseReceived():
                check_status(event)
            case h2.events.DataReceived():
                self._connection.acknowledge_received_data(
                    event.flow_controlled_length or 0, event.stream_id or 0
                )
            case h2.events.StreamEnded(stream_id=stream_id):
                assert stream_id is not None
                self._latencies.answered(stream_id)
                self._idle.append(self._streams.pop(stream_id))
