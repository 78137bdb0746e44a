"""What is appended and read, in slices of time, so that the server can be looked at in between."""

import itertools
import selectors
import socket
import time
from collections.abc import Iterator
from typing import Any, Protocol

import attrs

from scripts.benchmark.drivers import Exchange, append_session, read_session, step_or_fail
from scripts.benchmark.http1 import (
    RECEIVE_BYTES,
    TIMEOUT_SECONDS,
    Http1Exchange,
    connect,
    request_head,
)
from scripts.benchmark.targets import Server
from scripts.benchmark.wire import (
    BenchmarkError,
    acked_end,
    append_frame,
    append_message,
    whole_response_bytes,
)

BASIN = "long-run-basin"


class Load(Protocol):
    """Something that is done for long, and counts what is done."""

    record_bytes: int
    goal: int

    @property
    def records(self) -> int:
        """How many records there were so far."""

    def run(self, seconds: float) -> None:
        """Go on for about so long, or to the end."""

    def close(self) -> None:
        """Check what can be checked only now, and close all connections."""


def create_basin(server: Server) -> None:
    """Make a basin whose streams come to be when they are first appended to."""
    server.call("POST", "/v1/basins", {"basin": BASIN, "config": {"create_stream_on_append": True}})


@attrs.define(eq=False)
class _Connection:
    """One keep-alive connection with at most one request under way."""

    opened: socket.socket
    received: bytearray = attrs.field(factory=bytearray)
    busy: bool = False


@attrs.define(eq=False)
class ManyStreams:
    """Unary appends over a few connections, to one stream after the other, round and round."""

    record_bytes: int
    goal: int
    batch: int
    _requests: Iterator[bytes]
    _connections: list[_Connection]
    _selector: selectors.BaseSelector = attrs.field(factory=selectors.DefaultSelector)
    _sent: int = 0
    _acked: int = 0

    @classmethod
    def open(
        cls,
        server: Server,
        *,
        streams: int,
        records: int,
        record_bytes: int,
        batch: int,
        connections: int,
    ) -> "ManyStreams":
        """Connect; the streams come with their first append."""
        message = append_message(batch, record_bytes)
        headers = {
            "s2-basin": BASIN,
            "content-type": "application/protobuf",
            "accept": "application/protobuf",
            "content-length": str(len(message)),
        }
        heads = [
            request_head("POST", f"/v1/streams/s{number}/records", headers)
            for number in range(streams)
        ]
        requests = (head + message for head in itertools.cycle(heads))
        opened = [_Connection(connect(server.address)) for _ in range(connections)]
        return cls(record_bytes, records, batch, requests, opened)

    @property
    def records(self) -> int:
        """How many are acked."""
        return self._acked * self.batch

    def run(self, seconds: float) -> None:
        """Keep a request under way on each connection."""
        for connection in self._connections:
            if not connection.busy:
                self._send(connection)
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline and self.records < self.goal:
            ready = self._selector.select(TIMEOUT_SECONDS)
            if not ready:
                raise BenchmarkError(f"no answer for {TIMEOUT_SECONDS} s")
            for key, _ in ready:
                self._receive(key.data)

    def close(self) -> None:
        """Close the connections."""
        self._selector.close()
        for connection in self._connections:
            connection.opened.close()

    def _send(self, connection: _Connection) -> None:
        if self._sent * self.batch >= self.goal:
            return
        if connection.opened not in self._selector.get_map():
            self._selector.register(connection.opened, selectors.EVENT_READ, connection)
        self._sent += 1
        connection.busy = True
        connection.opened.sendall(next(self._requests))

    def _receive(self, connection: _Connection) -> None:
        data = connection.opened.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("the server closed a connection")
        received = connection.received
        received += data
        length = whole_response_bytes(received)
        if length is not None and len(received) >= length:
            received.clear()
            connection.busy = False
            self._acked += 1
            self._send(connection)


@attrs.define(eq=False)
class OneStream:
    """One append session of large batches."""

    record_bytes: int
    goal: int
    batch: int
    window: int
    _exchange: Exchange
    _prepared: Any
    _sent: int = 0

    @classmethod
    def open(
        cls, server: Server, *, records: int, record_bytes: int, batch: int, window: int = 16
    ) -> "OneStream":
        """Open the session."""
        exchange = append_session(server, Http1Exchange, BASIN, "large")
        prepared = Http1Exchange.prepare(append_frame(batch, record_bytes))
        return cls(record_bytes, records, batch, window, exchange, prepared)

    @property
    def records(self) -> int:
        """How many are acked."""
        return self._exchange.scanner.frames * self.batch

    def run(self, seconds: float) -> None:
        """Append for so long."""
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline and self.records < self.goal:
            acked = self._exchange.scanner.frames
            while self._sent - acked < self.window and self._sent * self.batch < self.goal:
                self._exchange.write(self._prepared)
                self._sent += 1
            step_or_fail([self._exchange])

    def close(self) -> None:
        """Close the session; the last ack must end where all records do."""
        self._exchange.close()
        if (end := acked_end(self._exchange.scanner.last)) != self._sent * self.batch:
            raise BenchmarkError(f"appended {self._sent * self.batch} records, acked are {end}")


@attrs.define(eq=False)
class ReadBack:
    """One read session over all that `OneStream` has appended."""

    record_bytes: int
    goal: int
    _exchange: Exchange

    @classmethod
    def open(cls, server: Server, *, records: int, record_bytes: int) -> "ReadBack":
        """Open the session."""
        query = f"seq_num=0&count={records}"
        return cls(
            record_bytes, records, read_session(server, Http1Exchange, BASIN, "large", query)
        )

    @property
    def records(self) -> int:
        """How many were read: by their bytes, until all are there."""
        if self._exchange.ended:
            return self.goal
        return min(self.goal - 1, self._exchange.scanner.payload_bytes // self.record_bytes)

    def run(self, seconds: float) -> None:
        """Read for so long."""
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline and not self._exchange.ended:
            step_or_fail([self._exchange])

    def close(self) -> None:
        """Close the session; there must have been enough bytes for all records."""
        self._exchange.close()
        if (found := self._exchange.scanner.payload_bytes) < self.goal * self.record_bytes:
            raise BenchmarkError(f"read only {found} bytes")
