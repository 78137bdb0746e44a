"""One log line per request. Headers are not logged: they hold credentials and keys."""

import logging

import attrs
import trio

from s2lite.api.asgi import ASGIApp, Event, Receive, Scope, Send, raw_path

_log = logging.getLogger("s2lite.api")


@attrs.define(eq=False)
class RequestLog:
    """Wraps an application: logs each request when its response has ended or was given up."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        status: int | None = None

        async def send_noted(event: Event) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        started = trio.current_time()
        try:
            await self.app(scope, receive, send_noted)
        finally:
            milliseconds = (trio.current_time() - started) * 1000
            _log.info(
                "%s %s %s %.1f ms",
                scope["method"],
                raw_path(scope).encode("unicode_escape").decode(),
                "-" if status is None else status,
                milliseconds,
            )
