"""One request and its response: the application's side of hypercorn's `HTTPStream`."""

import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.protocol.events import Body, EndBody, Request, Response
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope

from s2lite.serving.body import RequestBody

logger = logging.getLogger("s2lite.serving")

INTERNAL_ERROR_BODY = b'{"code":"other","message":"internal error"}'

_HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(rb"[^\0\r\n]*")

AsgiSend = Callable[[ASGISendEvent | None], Awaitable[None]]


class ClientDisconnected(OSError):
    """The response cannot be sent: its client reset the request or is gone.

    Raised to the application by `send`, which may let it pass: it is not an error of its own.
    """


class RequestTasks(TaskGroup):
    """The tasks of one connection: hypercorn's group, with a body that flow control can see."""

    def __init__(self, buffered: Callable[[int], None]) -> None:
        super().__init__()
        self._buffered = buffered

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: AsgiSend,
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start the application on a request and return its `RequestBody`."""
        body = RequestBody(self._buffered)
        self.spawn(_run_app, app, scope, body, send)
        return body


async def _run_app(app: AppWrapper, scope: Scope, body: RequestBody, send: AsgiSend) -> None:
    try:
        await app(scope, body.receive, send, trio.to_thread.run_sync, trio.from_thread.run)  # type: ignore[arg-type]  # ASGI messages are plain dicts here
    finally:
        body.close_account()
    await send(None)


def _check_headers(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse what no protocol can carry, before one has begun to encode it.

    HPACK's state is shared with the client: an encoder that gives up half-way ends the connection.
    """
    for name, value in headers:
        if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
            raise ValueError(f"malformed response header {name!r}")


def _nothing() -> None:
    pass


class Exchange(HTTPStream):
    """A request being answered by the application.

    hypercorn builds the scope and follows the order of ASGI messages. What differs: whatever the
    application raises ends its own response and nothing else; a send to a client that has gone
    raises `ClientDisconnected`; and an application that fails or returns too early never makes a
    response look complete (the protocol sees `StreamClosed` with no `EndBody`).
    """

    body: RequestBody
    app_returned: Callable[[], None] = staticmethod(_nothing)
    _failed = False
    _send_failed = False

    async def begin(self, request: Request) -> None:
        """Start the application on this request."""
        self._contained, self.app = self.app, self._run_contained
        await super().handle(request)
        self.app = self._contained  # or this object would refer to itself: see `dismantle`
        assert isinstance(self.app_put, RequestBody)
        self.body = self.app_put
        # hypercorn offers push, early hints and trailers; nothing here uses them.
        self.scope["extensions"] = {}

    def close(self) -> None:
        """Drop the request and let the application know: sends raise, receives say disconnect."""
        self.closed = True
        self.body.disconnect()

    async def app_send(self, message: ASGISendEvent | None) -> None:
        """Handle a message of the application's, or None once it has returned."""
        if message is None:
            await self._app_over()
            return
        if self.closed and self.state is not ASGIHTTPState.CLOSED:
            raise ClientDisconnected
        if message["type"] == "http.response.start":
            _check_headers(message.get("headers", ()))
        try:
            await super().app_send(message)
        except ClientDisconnected:
            self._send_failed = True
            raise

    async def _run_contained(
        self, scope: Scope, receive: Any, send: Any, sync_spawn: Any, call_soon: Any
    ) -> None:
        try:
            await self._contained(scope, receive, send, sync_spawn, call_soon)
        except* ClientDisconnected:
            pass
        except* Exception:
            self._failed = True
            logger.exception("application error in %s", self._description)

    async def _app_over(self) -> None:
        # Returning early is fine once the client has gone, and usual after `http.disconnect`. A
        # send may notice before anybody has closed this.
        told = self._failed or self._send_failed or self.closed or self.body.gone
        if not (told or self.state is ASGIHTTPState.CLOSED):
            logger.error("application gave no complete response to %s", self._description)
        try:
            await super().app_send(None)
        except ClientDisconnected:
            pass  # nobody is left to be told
        finally:
            self.app_returned()

    @property
    def _description(self) -> str:
        return f"{self.scope['method']} {self.scope['raw_path'].decode('latin-1')}"

    async def _send_error_response(self, status_code: int) -> None:
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(INTERNAL_ERROR_BODY)),
        ]
        await self.send(Response(self.stream_id, headers, status_code))
        if self.scope["method"] != "HEAD":
            await self.send(Body(self.stream_id, INTERNAL_ERROR_BODY))
        await self.send(EndBody(self.stream_id))
        self.state = ASGIHTTPState.CLOSED
