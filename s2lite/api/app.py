"""The whole API as one ASGI application."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TypeAlias

import attrs
from prometheus_client import CollectorRegistry

from actors.clock import Clock
from s2lite.api.asgi import (
    ASGIApp,
    ClientDisconnected,
    Event,
    Receive,
    Request,
    Scope,
    Send,
    raw_path,
    send_response,
)
from s2lite.api.basins import Basins
from s2lite.api.compression import CompressedResponses
from s2lite.api.control_plane import build_control_plane
from s2lite.api.cors import Cors
from s2lite.api.errors import MethodNotAllowed, error_response
from s2lite.api.health import Health
from s2lite.api.records import Records
from s2lite.api.request_log import RequestLog
from s2lite.api.streams import Streams
from s2lite.api.unimplemented import UNIMPLEMENTED
from s2lite.backend.backend import Backend

RecordsHandler: TypeAlias = Callable[[Request, Send, str], Awaitable[None]]


def build_app(
    backend: Backend, *, clock: Clock, registry: CollectorRegistry, cors: bool = True
) -> ASGIApp:
    """Build the API on a backend. `registry` is what `/metrics` shows; `clock` stamps SSE pings.

    The application wants `raw_path` in its scopes. It accepts web pages of any origin with `cors`.
    """
    routes = [
        *Basins(backend).routes(),
        *Streams(backend).routes(),
        *UNIMPLEMENTED,
        *Health(backend, registry).routes(),
    ]
    app: ASGIApp = Dispatch(Records(backend, clock), build_control_plane(routes))
    app = BodilessHead(CompressedResponses(app))
    return Protocols(RequestLog(Cors(app) if cors else app))


@attrs.define(eq=False)
class Protocols:
    """Serves HTTP, takes note of start and shutdown, and refuses websockets."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the application's whole life."""
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "lifespan":
                await _acknowledge_life(receive, send)
            case "websocket":
                await send({"type": "websocket.close", "code": 1000})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnected):
            await self.app(scope, receive, send)


async def _acknowledge_life(receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return


@attrs.define(eq=False)
class BodilessHead:
    """Wraps an application: a HEAD request is served as GET is, its response has no body."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def send_bodiless(event: Event) -> None:
            if event["type"] == "http.response.body":
                event = {**event, "body": b""}
            await send(event)

        await self.app(scope, receive, send_bodiless if scope["method"] == "HEAD" else send)


@attrs.define(eq=False)
class Dispatch:
    """Tells requests for records from all the others, by the path as it was sent."""

    records: Records
    others: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        match raw_path(scope).split("/"):
            case ["", "v1", "streams", stream, "records"] if stream:
                handlers = {"GET": self.records.read, "POST": self.records.append}
            case ["", "v1", "streams", stream, "records", "tail"] if stream:
                handlers = {"GET": self.records.check_tail}
            case _:
                await self.others(scope, receive, send)
                return
        await _serve(Request(scope, receive), send, handlers, stream)


async def _serve(
    request: Request, send: Send, handlers: Mapping[str, RecordsHandler], stream: str
) -> None:
    handler = handlers.get("GET" if request.method == "HEAD" else request.method)
    begun = False

    async def send_noted(event: Event) -> None:
        nonlocal begun
        begun = True
        await send(event)

    try:
        if handler is None:
            raise MethodNotAllowed([*handlers, "HEAD"])
        await handler(request, send_noted, stream)
    except ClientDisconnected:
        raise
    except Exception as error:
        if begun:  # too late to answer: the server breaks the exchange off, and the client sees it
            raise
        await send_response(send, error_response(error))
