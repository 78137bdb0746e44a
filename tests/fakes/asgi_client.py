"""A client that drives an ASGI application in memory: whole requests, and full-duplex exchanges."""

import json
from collections.abc import AsyncIterator, Iterable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import attrs
import trio

from s2lite.api.asgi import ASGIApp, Event, Scope

Headers = MutableMapping[str, str] | Iterable[tuple[str, str]]


@attrs.frozen
class Reply:
    """A whole response. `pieces` are the body events that were not empty, as they came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    pieces: tuple[bytes, ...]

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error code in the body."""
        assert self.header("content-type") == "application/json"
        code: str = self.json()["code"]
        return code

    def header(self, name: str) -> str | None:
        values = [value for known, value in self.headers if known == name]
        return ", ".join(values) if values else None


@attrs.define(eq=False)
class Exchange:
    """One request under way: pieces of the body go in while events of the response come out."""

    _to_app: trio.MemorySendChannel[Event]
    _from_app: trio.MemoryReceiveChannel[Event]

    async def send(self, body: bytes = b"", *, more: bool = True) -> None:
        """Send a piece of the request's body."""
        await self._to_app.send({"type": "http.request", "body": body, "more_body": more})

    async def end(self) -> None:
        """End the request's body: a half-close."""
        await self.send(more=False)

    async def disconnect(self) -> None:
        """Go away."""
        await self._to_app.send({"type": "http.disconnect"})

    @property
    def unread(self) -> int:
        """How many pieces of the request's body the application has not asked for yet."""
        return self._to_app.statistics().current_buffer_used

    async def head(self) -> tuple[int, dict[str, str]]:
        """Wait for the head of the response."""
        event = await self._from_app.receive()
        assert event["type"] == "http.response.start"
        return event["status"], dict(_decoded(event["headers"]))

    async def event(self) -> Event:
        """Wait for the next event of the response."""
        return await self._from_app.receive()

    async def body(self) -> bytes:
        """Wait for the next piece of the body that is not empty; empty is the end of it."""
        more = True
        while more:
            event = await self._from_app.receive()
            assert event["type"] == "http.response.body"
            body: bytes = event["body"]
            more = event["more_body"]
            if body:
                return body
        return b""

    async def rest(self) -> bytes:
        """Wait for the whole of what is left of the body."""
        chunks: list[bytes] = []
        async for event in self._from_app:
            assert event["type"] == "http.response.body"
            chunks.append(event["body"])
            if not event["more_body"]:
                return b"".join(chunks)
        raise AssertionError("the body was broken off")

    async def reply(self) -> Reply:
        """Wait for the whole response."""
        start, *body = [event async for event in self._from_app]
        assert start["type"] == "http.response.start"
        assert not body[-1]["more_body"], "the body was broken off"
        pieces = tuple(event["body"] for event in body if event["body"])
        return Reply(start["status"], _decoded(start["headers"]), pieces)


@attrs.frozen
class AsgiClient:
    """Sends requests to an application; `headers` go with each of them."""

    app: ASGIApp
    headers: dict[str, str] = attrs.field(factory=dict)

    async def request(
        self, method: str, target: str, body: bytes | str = b"", **headers: str
    ) -> Reply:
        """Send a whole request; headers are arguments, with `_` for `-`."""
        async with self.exchange(method, target, **headers) as exchange:
            await exchange.send(body.encode() if isinstance(body, str) else body, more=False)
            return await exchange.reply()

    async def request_json(self, method: str, target: str, value: object, **headers: str) -> Reply:
        """Send a JSON body, and the content type that says so."""
        headers.setdefault("content_type", "application/json")
        return await self.request(method, target, json.dumps(value), **headers)

    @asynccontextmanager
    async def exchange(self, method: str, target: str, **headers: str) -> AsyncIterator[Exchange]:
        """Begin a request; the application is cancelled if it outlives the block."""
        merged = {**self.headers, **{k.replace("_", "-"): v for k, v in headers.items()}}
        async with self.exchange_with(method, target, merged.items()) as exchange:
            yield exchange

    @asynccontextmanager
    async def exchange_with(
        self, method: str, target: str, headers: Iterable[tuple[str, str]]
    ) -> AsyncIterator[Exchange]:
        """Begin a request with exactly these headers."""
        to_app, app_receives = trio.open_memory_channel[Event](100)
        app_sends, from_app = trio.open_memory_channel[Event](0)

        async def receive() -> Event:
            return await app_receives.receive()

        async def run() -> None:
            async with app_sends:
                await self.app(_scope(method, target, headers), receive, app_sends.send)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield Exchange(to_app, from_app)
            nursery.cancel_scope.cancel()


def _scope(method: str, target: str, headers: Iterable[tuple[str, str]]) -> Scope:
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "extensions": {},
    }


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode(), value.decode("latin-1")) for name, value in headers)
