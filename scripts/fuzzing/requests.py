"""Whole requests to the API in memory: each is answered, and none is answered 500.

A case is a life of its own: a server with a basin and some streams, and a few dozen requests one
after the other, sessions among them. Time is virtual, so that a request may wait for a minute.
"""

import json
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from actors.testing import VirtualClock
from s2lite.api.app import build_app
from s2lite.api.asgi import ASGIApp, Event, Scope
from s2lite.server import Environment, open_backend
from s2lite.settings import Settings
from s2lite.storage.objects.object_store import MemoryObjectStore
from scripts.fuzzing.mutation import Mutator
from scripts.fuzzing.target import Target, expect
from scripts.fuzzing.wire import (
    MAX_HEAD_BYTES,
    append_bodies,
    append_messages,
    control_bodies,
    frame_streams,
    header_values,
)

REQUESTS: Final = 25
START_MS: Final = 1_700_000_000_000

ANSWER_SECONDS: Final = 70.0
"""Virtual time: a read waits for a minute at most before it is answered."""

SESSION_SECONDS: Final = 40.0
"""For so long a client listens to a session, and then it goes."""

LEAVE_SECONDS: Final = 5.0
"""For so long an application may work for a client that has gone."""

_METHODS: Final = ("GET", "GET", "GET", "POST", "POST", "POST", "PUT", "PATCH", "DELETE", "HEAD",
                   "OPTIONS", "BREW")  # fmt: skip
_PATHS: Final = (
    b"/v1/streams/s/records", b"/v1/streams/s/records", b"/v1/streams/s/records",
    b"/v1/streams/other/records", b"/v1/streams/s/records/tail", b"/v1/streams", b"/v1/streams/s",
    b"/v1/streams/a%2Fb", b"/v1/basins", b"/v1/basins/some-basin", b"/v1/basins/other-basin",
    b"/v1/access-tokens", b"/v1/access-tokens/t", b"/v1/metrics", b"/v1/metrics/some-basin/s",
    b"/v1/locations/default", b"/health", b"/ping", b"/metrics", b"/", b"http://x/v1/streams",
)  # fmt: skip
_QUERIES: Final = (
    b"", b"", b"seq_num=0", b"seq_num=0&count=10&wait=1", b"timestamp=1&until=9999999999999",
    b"tail_offset=2&bytes=100&clamp=true", b"seq_num=18446744073709551615&clamp=true&wait=0",
    b"prefix=s&start_after=a&limit=10", b"detail", b"limit=0", b"wait=4294967295",
)  # fmt: skip
_JSON, _PROTOBUF, _S2S = b"application/json", b"application/protobuf", b"s2s/proto"
_SHAPES: Final = (
    ("GET", b"/v1/streams/s/records", _JSON), ("GET", b"/v1/streams/s/records", _S2S),
    ("POST", b"/v1/streams/s/records", _JSON), ("POST", b"/v1/streams/s/records", _PROTOBUF),
    ("POST", b"/v1/streams/s/records", _S2S), ("POST", b"/v1/streams/new/records", _S2S),
    ("GET", b"/v1/streams/s/records/tail", _JSON), ("GET", b"/v1/streams", _JSON),
    ("POST", b"/v1/streams", _JSON), ("PUT", b"/v1/streams/put", _JSON),
    ("PATCH", b"/v1/streams/s", _JSON), ("GET", b"/v1/streams/s", _JSON),
    ("POST", b"/v1/basins", _JSON), ("PUT", b"/v1/basins/put-basin", _JSON),
    ("PATCH", b"/v1/basins/some-basin", _JSON), ("GET", b"/v1/basins", _JSON),
    ("POST", b"/v1/access-tokens", _JSON), ("PUT", b"/v1/locations/default", _JSON),
)  # fmt: skip
_CONTENT_TYPES: Final = (b"application/json", b"application/protobuf", b"s2s/proto", b"text/plain")
_ACCEPTS: Final = (b"*/*", b"text/event-stream", b"application/protobuf", b"application/json")
_OTHER_HEADERS: Final = (
    b"accept-encoding", b"content-encoding", b"s2-request-token", b"s2-format", b"last-event-id",
    b"s2-stream-config", b"s2-encryption-key", b"origin", b"access-control-request-method",
    b"authorization", b"range", b"if-none-match", b"expect", b"cookie", b"host", b"x-request-id",
)  # fmt: skip


@attrs.frozen
class Fuzzed:
    """One request."""

    method: str
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    chunks: list[bytes]
    hangs_up: bool
    """Whether the client goes in the middle of the body."""

    def __str__(self) -> str:
        return f"{self.method} {self.path[:500]!r}?{self.query[:500]!r} {str(self.headers)[:2000]}"

    def scope(self) -> Scope:
        """How a server puts it."""
        return {
            "type": "http",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path.decode("latin-1"),
            "raw_path": self.path,
            "query_string": self.query,
            "root_path": "",
            "headers": self.headers,
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 80),
            "extensions": {},
        }


def bodies() -> list[bytes]:
    """Bodies of every kind of request."""
    return [*append_bodies(), *append_messages(), *control_bodies(), *frame_streams(), b""]


_BODIES: Final = {
    _JSON: [*append_bodies(), *control_bodies(), *control_bodies()],
    _PROTOBUF: append_messages(),
    _S2S: frame_streams(),
}


class _Maker:
    """Makes requests that get far: as a rule only one part of each is damaged."""

    def __init__(self, mutator: Mutator) -> None:
        self._bodies = mutator
        self._rng = mutator.rng
        self._values = Mutator(mutator.rng, header_values())

    def request(self) -> Fuzzed:
        rng = self._rng
        method, path, content_type = rng.choice(_SHAPES)
        if rng.random() < 0.2:  # parts that do not go together
            method, path = rng.choice(_METHODS), self._one(_PATHS, 0.3)
            content_type = self._one(_CONTENT_TYPES, 0.1)
        return Fuzzed(
            method=method,
            path=_graphic(path.replace(b"?", b"").replace(b"#", b"")),
            query=_graphic(self._one(_QUERIES, 0.3)),
            headers=[(name, _printable(value)) for name, value in self._headers(content_type)],
            chunks=self._bodies.chunks(self._body(content_type)),
            hangs_up=rng.random() < 0.1,
        )

    def _one(self, choices: Sequence[bytes], damage: float) -> bytes:
        value = self._rng.choice(choices)
        return self._values.damaged(value) if self._rng.random() < damage else value

    def _headers(self, content_type: bytes) -> list[tuple[bytes, bytes]]:
        rng = self._rng
        headers = [
            (b"s2-basin", self._one((b"some-basin",), 0.05)),
            (b"content-type", content_type),
            (b"accept", self._one(_ACCEPTS, 0.1)),
        ]
        headers = [pair for pair in headers if rng.random() < 0.95]
        for name in rng.sample(_OTHER_HEADERS, rng.choice((0, 0, 1, 1, 2, 5))):
            headers.append((name, self._values.damaged()))
        return headers

    def _body(self, content_type: bytes) -> bytes:
        body = self._rng.choice(_BODIES.get(content_type, self._bodies.seeds))
        return self._bodies.damaged(body) if self._rng.random() < 0.6 else body


def _printable(value: bytes) -> bytes:
    """What a server lets through in a header."""
    value = value[:MAX_HEAD_BYTES]
    return bytes(byte for byte in value if byte == 0x09 or 0x20 <= byte != 0x7F).strip()


def _graphic(value: bytes) -> bytes:
    """What a server lets through in a target: one that has spaces in it, or more, is none."""
    return bytes(byte for byte in value[:MAX_HEAD_BYTES] if 0x20 < byte < 0x7F)


class _Exchange:
    """One request under way, and what was answered so far."""

    def __init__(self, request: Fuzzed) -> None:
        self._request = request
        self._chunks = list(request.chunks)
        self._ended = False
        self._gone = trio.Event()
        self.answered = trio.Event()
        self.status: int | None = None
        self.body = b""
        self.complete = False

    def go(self) -> None:
        """Be gone."""
        self._gone.set()

    async def receive(self) -> Event:
        """Hand on the body, then nothing until the client goes."""
        await trio.lowlevel.checkpoint()
        if self._chunks:
            body = self._chunks.pop(0)
            return {"type": "http.request", "body": body, "more_body": True}
        if not (self._ended or self._request.hangs_up):
            self._ended = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if not self._request.hangs_up:
            await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, event: Event) -> None:
        """Take an event of the answer."""
        await trio.lowlevel.checkpoint()
        match event["type"]:
            case "http.response.start":
                expect(self.status is None, "an answer has one head")
                self.status = event["status"]
                self.answered.set()
            case "http.response.body":
                expect(self.status is not None and not self.complete, "a body follows its head")
                self.body = (self.body + event.get("body", b""))[-100_000:]
                self.complete = not event.get("more_body", False)


async def _ask(app: ASGIApp, request: Fuzzed) -> None:
    exchange = _Exchange(request)

    async def run(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await app(request.scope(), exchange.receive, exchange.send)
        returned.set()

    returned = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        with trio.move_on_after(ANSWER_SECONDS):
            await _either(exchange.answered, returned)
        with trio.move_on_after(SESSION_SECONDS):
            await returned.wait()
        exchange.go()
        with trio.move_on_after(LEAVE_SECONDS):
            await returned.wait()
        expect(returned.is_set(), f"{request} is still served after its client has gone")
    _check_answer(request, exchange)


async def _either(first: trio.Event, second: trio.Event) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait, first)
        nursery.start_soon(wait, second)


def _check_answer(request: Fuzzed, exchange: _Exchange) -> None:
    status = exchange.status
    if status is None:
        expect(request.hangs_up, f"{request} is not answered")
        return
    expect(
        200 <= status < 600 and status != 500, f"{request} is answered {status} {exchange.body!r}"
    )
    failed = b'"internal error"' in exchange.body
    expect(not failed, f"{request} fails in its session: {exchange.body!r}")
    if status >= 400 and exchange.complete and exchange.body and request.method != "HEAD":
        json.loads(exchange.body)


@asynccontextmanager
async def _serving() -> AsyncIterator[ASGIApp]:
    registry = CollectorRegistry()
    environment = Environment(VirtualClock(START_MS), random.Random(0))  # noqa: S311
    async with open_backend(MemoryObjectStore(), Settings(), environment, registry) as backend:
        yield build_app(backend, clock=environment.clock, registry=registry)


def _prepared() -> list[Fuzzed]:
    """What makes the basin and the stream that most requests are about."""
    headers = [(b"content-type", b"application/json"), (b"s2-basin", b"some-basin")]
    basin = b'{"basin":"some-basin","config":{"create_stream_on_append":true}}'
    return [
        Fuzzed("POST", b"/v1/basins", b"", headers, [basin], False),
        Fuzzed("POST", b"/v1/streams", b"", headers, [b'{"stream":"s"}'], False),
        Fuzzed("POST", b"/v1/streams/s/records", b"", headers, append_bodies()[:1], False),
    ]


async def _life(mutator: Mutator) -> None:
    maker = _Maker(mutator)
    async with _serving() as app:
        for request in _prepared():
            await _ask(app, request)
        for _ in range(REQUESTS):
            await _ask(app, maker.request())


def check_requests(mutator: Mutator) -> None:
    """Serve some requests, any of which may be damaged."""
    logging.getLogger("s2lite").setLevel(logging.CRITICAL)
    trio.run(_life, mutator, clock=trio.testing.MockClock(autojump_threshold=0))


REQUEST_TARGETS: Final = (
    Target("requests", "whole requests", bodies, check_requests, inputs=REQUESTS, weight=1),
)
