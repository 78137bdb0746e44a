"""The load generators: one thread each, plain sockets, frames made in advance.

A driver is run once to warm up, reset, and run again to be measured. It checks what it is told as
far as that costs nothing: a server that loses or reorders something has no figures.
"""

import select
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import attrs

from scripts.benchmark.http1 import TIMEOUT_SECONDS, Http1Exchange
from scripts.benchmark.http2 import Http2Exchange
from scripts.benchmark.targets import Server
from scripts.benchmark.wire import BenchmarkError, acked_end, append_frame, seq_nums

MIB = 1024 * 1024
PATIENCE_SECONDS = 60.0
LARGE_BATCH_BYTES = 100_000
"""From here on it is the bytes of a batch that cost, and not the records."""

Exchange = Http1Exchange | Http2Exchange
ExchangeType = type[Http1Exchange] | type[Http2Exchange]


@attrs.frozen
class Figure:
    """One measured value."""

    name: str
    unit: str
    value: float


class Driver(Protocol):
    """What puts load on a server and counts what comes of it."""

    def run(self, seconds: float) -> None:
        """Go on for about so long."""

    def reset(self) -> None:
        """Count from here."""

    def figures(self, elapsed_seconds: float) -> list[Figure]:
        """Give what was measured since the last reset."""

    def close(self) -> None:
        """Check what can be checked only now, and close all connections."""


def latency_figures(name: str, seconds: Sequence[float]) -> list[Figure]:
    """Give the median and the 99th percentile."""
    ordered = sorted(seconds)
    return [
        Figure(f"{name} p50", "ms", ordered[len(ordered) // 2] * 1000),
        Figure(f"{name} p99", "ms", ordered[int(len(ordered) * 0.99)] * 1000),
    ]


def step(exchanges: Iterable[Exchange], until: float) -> bool:
    """Move whatever can move; False if nothing could until then."""
    exchanges = list(exchanges)
    writers = [exchange for exchange in exchanges if exchange.wants_write]
    timeout = max(0.0, until - time.perf_counter())
    readable, writable, _ = select.select(exchanges, writers, [], timeout)
    for exchange in writable:
        exchange.send_some()
    for exchange in readable:
        exchange.receive_some()
    return bool(readable or writable)


def step_or_fail(exchanges: Iterable[Exchange]) -> None:
    """Move whatever can move; raises `BenchmarkError` if that is nothing for a long time."""
    if not step(exchanges, time.perf_counter() + TIMEOUT_SECONDS):
        raise BenchmarkError(f"nothing happened for {TIMEOUT_SECONDS} s")


def check_patience(started: float) -> None:
    """Raise `BenchmarkError` if something that takes a moment has been going on for too long."""
    if time.perf_counter() - started > PATIENCE_SECONDS:
        raise BenchmarkError(f"not done after {PATIENCE_SECONDS:.0f} s")


def append_session(server: Server, kind: ExchangeType, basin: str, stream: str) -> Exchange:
    """Open an append session."""
    headers = {"s2-basin": basin, "content-type": "s2s/proto"}
    return kind.open(server.address, "POST", f"/v1/streams/{stream}/records", headers)


def read_session(
    server: Server, kind: ExchangeType, basin: str, stream: str, query: str, *, keep: bool = False
) -> Exchange:
    """Open a read session."""
    headers = {"s2-basin": basin, "content-type": "s2s/proto"}
    path = f"/v1/streams/{stream}/records?{query}"
    return kind.open(server.address, "GET", path, headers, keep=keep)


@attrs.define(eq=False)
class PipelinedAppends:
    """One append session with up to `window` batches unacked, topped up `burst` at a time."""

    exchange: Exchange
    records: int
    body_bytes: int
    window: int
    burst: int
    _prepared: Any
    _sent: int = 0
    _base: int = 0

    @classmethod
    def open(
        cls,
        server: Server,
        kind: ExchangeType,
        stream: tuple[str, str],
        *,
        records: int,
        body_bytes: int,
        window: int,
        burst: int,
    ) -> "PipelinedAppends":
        """Open the session on a stream, given as basin and name."""
        exchange = append_session(server, kind, *stream)
        prepared = kind.prepare(append_frame(records, body_bytes), burst)
        return cls(exchange, records, body_bytes, window, burst, prepared)

    def run(self, seconds: float) -> None:
        """Append for so long."""
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            self._top_up()
            step_or_fail([self.exchange])

    def append(self, batches: int) -> None:
        """Append at least so many more, and wait until all are acked."""
        goal, started = self._sent + batches, time.perf_counter()
        while self._sent < goal:
            self._top_up()
            step_or_fail([self.exchange])
            check_patience(started)
        self._settle()

    def reset(self) -> None:
        """Count acks from here."""
        self._base = self.exchange.scanner.frames

    def figures(self, elapsed_seconds: float) -> list[Figure]:
        """Give the rate of what was acked, in the unit that this size of batch is about."""
        batches = (self.exchange.scanner.frames - self._base) / elapsed_seconds
        if self.body_bytes * self.records >= LARGE_BATCH_BYTES:
            rate = batches * self.records * self.body_bytes / MIB
            return [Figure("bodies", "MiB/s", rate)]
        if self.records > 1:
            return [Figure("records", "/s", batches * self.records)]
        return [Figure("appends", "/s", batches)]

    def close(self) -> None:
        """Wait for all acks; the last one must end where all records do."""
        self._settle()
        self.exchange.close()
        expected = self._sent * self.records
        if (end := acked_end(self.exchange.scanner.last)) != expected:
            raise BenchmarkError(f"appended {expected} records, acked are {end}")

    def _top_up(self) -> None:
        while self._sent - self.exchange.scanner.frames <= self.window - self.burst:
            self.exchange.write(self._prepared)
            self._sent += self.burst

    def _settle(self) -> None:
        started = time.perf_counter()
        while self.exchange.scanner.frames < self._sent:
            step_or_fail([self.exchange])
            check_patience(started)


@attrs.define(eq=False)
class CatchUpReads:
    """Read sessions one after the other, each from the start of the stream to `records`."""

    server: Server
    kind: ExchangeType
    stream: tuple[str, str]
    records: int
    body_bytes: int
    _reads: int = 0

    def run(self, seconds: float) -> None:
        """Read for so long, and to the end of the last read."""
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            scanner = self._read(keep=False).scanner
            if scanner.payload_bytes < self.records * self.body_bytes:
                raise BenchmarkError(f"a read had only {scanner.payload_bytes} bytes")
            self._reads += 1

    def check(self) -> None:
        """Read once and look at every record; raises `BenchmarkError` if one is not there."""
        payloads = self._read(keep=True).scanner.payloads
        found = [seq_num for payload in payloads for seq_num in seq_nums(payload)]
        if found != list(range(self.records)):
            raise BenchmarkError(f"expected {self.records} records in order, read {len(found)}")

    def reset(self) -> None:
        """Count from here."""
        self._reads = 0

    def figures(self, elapsed_seconds: float) -> list[Figure]:
        """Give the rate of what was read."""
        mib = self._reads * self.records * self.body_bytes / MIB
        return [Figure("bodies", "MiB/s", mib / elapsed_seconds)]

    def close(self) -> None:
        """Do nothing: each read closes its connection."""

    def _read(self, *, keep: bool) -> Exchange:
        query = f"seq_num=0&count={self.records}"
        exchange = read_session(self.server, self.kind, *self.stream, query, keep=keep)
        started = time.perf_counter()
        while not exchange.ended:
            step_or_fail([exchange])
            check_patience(started)
        exchange.close()
        return exchange


@attrs.define(eq=False)
class PacedAppends:
    """An append session that sends one batch every `interval_seconds`, whatever the acks do."""

    exchange: Exchange
    interval_seconds: float
    _prepared: Any
    _due: float

    @classmethod
    def open(
        cls, server: Server, stream: tuple[str, str], frame: bytes, interval_seconds: float
    ) -> "PacedAppends":
        """Open the session on a stream, given as basin and name."""
        exchange = append_session(server, Http1Exchange, *stream)
        prepared = Http1Exchange.prepare(frame)
        return cls(exchange, interval_seconds, prepared, time.perf_counter())

    @property
    def due(self) -> float:
        """When the next batch is to be sent."""
        return self._due

    def send_due(self) -> None:
        """Send the next batch if its time has come."""
        if time.perf_counter() >= self._due:
            self.exchange.write(self._prepared)
            self._due += self.interval_seconds


@attrs.define(eq=False)
class PingPong:
    """One small append in flight; measured to its ack and, with a follower, to its delivery.

    `load` are other sessions that append meanwhile, and are driven from the same thread.
    """

    appender: Exchange
    follower: Exchange | None
    load: Sequence[PacedAppends]
    _prepared: Any
    _acked: list[float] = attrs.field(factory=list)
    _delivered: list[float] = attrs.field(factory=list)
    _sent: int = 0

    @classmethod
    def open(
        cls,
        server: Server,
        stream: tuple[str, str],
        *,
        body_bytes: int,
        follow: bool = False,
        load: Sequence[PacedAppends] = (),
    ) -> "PingPong":
        """Open the sessions on a stream, given as basin and name."""
        follower = None
        if follow:
            follower = read_session(server, Http1Exchange, *stream, "seq_num=0")
            while not follower.scanner.frames:  # it says where it is as soon as it follows
                step_or_fail([follower])
        prepared = Http1Exchange.prepare(append_frame(1, body_bytes))
        appender = append_session(server, Http1Exchange, *stream)
        return cls(appender, follower, load, prepared)

    def run(self, seconds: float) -> None:
        """Append for so long."""
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            self._one()

    def reset(self) -> None:
        """Measure from here."""
        self._acked.clear()
        self._delivered.clear()

    def figures(self, elapsed_seconds: float) -> list[Figure]:
        """Give the latencies."""
        figures = latency_figures("ack", self._acked)
        if self._delivered:
            figures += latency_figures("delivery", self._delivered)
        return figures

    def close(self) -> None:
        """Close all sessions; the last ack must end where all records do."""
        if acked_end(self.appender.scanner.last) != self._sent:
            raise BenchmarkError("the last ack is not that of the last append")
        for exchange in self._exchanges():
            exchange.close()

    def _exchanges(self) -> list[Exchange]:
        followers = [] if self.follower is None else [self.follower]
        return [self.appender, *followers, *(load.exchange for load in self.load)]

    def _one(self) -> None:
        acks = self.appender.scanner
        delivered = None if self.follower is None else self.follower.scanner
        acks_before = acks.frames
        delivered_before = delivered.payload_bytes if delivered else 0
        pending = {"ack", "delivery"} if delivered else {"ack"}
        exchanges = self._exchanges()
        sent_at = time.perf_counter()
        give_up_at = sent_at + TIMEOUT_SECONDS
        self.appender.write(self._prepared)
        self._sent += 1
        while pending:
            step(exchanges, min([give_up_at, *(load.due for load in self.load)]))
            now = time.perf_counter()
            if "ack" in pending and acks.frames > acks_before:
                pending.discard("ack")
                self._acked.append(now - sent_at)
            # The batch is larger than a heartbeat, which may come in between.
            size = delivered.payload_bytes - delivered_before if delivered else 0
            if "delivery" in pending and size > len(self._prepared) // 2:
                pending.discard("delivery")
                self._delivered.append(now - sent_at)
            for load in self.load:
                load.send_due()
            if now > give_up_at:
                raise BenchmarkError(f"no {pending} for {TIMEOUT_SECONDS} s")
