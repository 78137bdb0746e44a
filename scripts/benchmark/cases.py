"""What is measured."""

from collections.abc import Callable, Mapping

import attrs

from scripts.benchmark.drivers import (
    CatchUpReads,
    Driver,
    ExchangeType,
    PacedAppends,
    PingPong,
    PipelinedAppends,
)
from scripts.benchmark.http1 import Http1Exchange
from scripts.benchmark.http2 import Http2Exchange
from scripts.benchmark.targets import Server
from scripts.benchmark.unary import UnaryHttp1, UnaryHttp2
from scripts.benchmark.wire import append_frame

SMALL_BYTES = 100
LARGE_BYTES = 1000
LARGE_RECORDS = 1000  # 1,008,000 metered bytes: the API allows 1 MiB a batch

HOT_RECORDS = 32_000
COLD_RECORDS = 64_000
FILL_AFTER_COLD_BATCHES = 128  # pushes the first 64 MiB out of a cache of twice that, and more

LOAD_STREAMS = 4
LOAD_RECORDS = 100
LOAD_MIB_PER_SECOND = 20

Start = Callable[[Server, str], Driver]


@attrs.frozen
class Case:
    """One thing to measure: `start` makes the driver on a new basin of this name."""

    description: str
    start: Start


def _unary_http1(concurrency: int) -> Start:
    def start(server: Server, basin: str) -> Driver:
        streams = [f"s{number}" for number in range(concurrency)]
        server.create(basin, *streams)
        return UnaryHttp1.open(server, basin, streams, SMALL_BYTES)

    return start


def _unary_http2(concurrency: int) -> Start:
    def start(server: Server, basin: str) -> Driver:
        streams = [f"s{number}" for number in range(concurrency)]
        server.create(basin, *streams)
        return UnaryHttp2.open(server, basin, streams, SMALL_BYTES)

    return start


def _session(
    kind: ExchangeType, *, records: int, body_bytes: int, window: int, burst: int
) -> Start:
    def start(server: Server, basin: str) -> Driver:
        server.create(basin, "s")
        return PipelinedAppends.open(
            server,
            kind,
            (basin, "s"),
            records=records,
            body_bytes=body_bytes,
            window=window,
            burst=burst,
        )

    return start


def _small_session(kind: ExchangeType) -> Start:
    return _session(kind, records=1, body_bytes=SMALL_BYTES, window=512, burst=32)


def _medium_session(kind: ExchangeType) -> Start:
    return _session(kind, records=100, body_bytes=SMALL_BYTES, window=64, burst=4)


def _large_session(kind: ExchangeType) -> Start:
    return _session(kind, records=LARGE_RECORDS, body_bytes=LARGE_BYTES, window=16, burst=1)


def _fill(server: Server, basin: str, batches: int) -> None:
    server.create(basin, "s")
    appends = PipelinedAppends.open(
        server,
        Http1Exchange,
        (basin, "s"),
        records=LARGE_RECORDS,
        body_bytes=LARGE_BYTES,
        window=16,
        burst=1,
    )
    appends.append(batches)
    appends.close()


def _reads(kind: ExchangeType, *, records: int, further_batches: int = 0) -> Start:
    def start(server: Server, basin: str) -> Driver:
        _fill(server, basin, records // LARGE_RECORDS + further_batches)
        reads = CatchUpReads(server, kind, (basin, "s"), records, LARGE_BYTES)
        reads.check()
        return reads

    return start


def _ack(server: Server, basin: str) -> Driver:
    server.create(basin, "s")
    return PingPong.open(server, (basin, "s"), body_bytes=SMALL_BYTES)


def _follow(server: Server, basin: str) -> Driver:
    server.create(basin, "s")
    return PingPong.open(server, (basin, "s"), body_bytes=SMALL_BYTES, follow=True)


def _loaded_follow(server: Server, basin: str) -> Driver:
    others = [f"load{number}" for number in range(LOAD_STREAMS)]
    server.create(basin, "s", *others)
    frame = append_frame(LOAD_RECORDS, LARGE_BYTES)
    batch_mib = LOAD_RECORDS * LARGE_BYTES / (1024 * 1024)
    interval = LOAD_STREAMS * batch_mib / LOAD_MIB_PER_SECOND
    load = [PacedAppends.open(server, (basin, other), frame, interval) for other in others]
    return PingPong.open(server, (basin, "s"), body_bytes=SMALL_BYTES, follow=True, load=load)


CASES: Mapping[str, Case] = {
    "unary-1": Case("unary appends of 1 x 100 B, 1 connection", _unary_http1(1)),
    "unary-64": Case("the same, 64 connections and streams", _unary_http1(64)),
    "unary-64-h2": Case("the same, 64 at a time on 1 HTTP/2 connection", _unary_http2(64)),
    "session-small": Case(
        "append session, batches of 1 x 100 B, 512 unacked", _small_session(Http1Exchange)
    ),
    "session-small-h2": Case("the same over HTTP/2", _small_session(Http2Exchange)),
    "session-medium": Case(
        "append session, batches of 100 x 100 B, 64 unacked", _medium_session(Http1Exchange)
    ),
    "session-large": Case(
        "append session, batches of 1000 x 1000 B, 16 unacked", _large_session(Http1Exchange)
    ),
    "session-large-h2": Case("the same over HTTP/2", _large_session(Http2Exchange)),
    "read": Case(
        "catch-up read session, 32 MB just written", _reads(Http1Exchange, records=HOT_RECORDS)
    ),
    "read-h2": Case("the same over HTTP/2", _reads(Http2Exchange, records=HOT_RECORDS)),
    "read-cold": Case(
        "catch-up read session, 64 MB with 128 MB written since",
        _reads(Http1Exchange, records=COLD_RECORDS, further_batches=FILL_AFTER_COLD_BATCHES),
    ),
    "ack": Case("append session, 1 x 100 B, one in flight", _ack),
    "follow": Case("the same, with a follower on the stream", _follow),
    "follow-loaded": Case(
        "the same, while 4 other sessions append 20 MiB/s together", _loaded_follow
    ),
}
