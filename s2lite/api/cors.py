"""Cross-origin access: any web page may use the API, with the method and headers it asks for."""

from collections.abc import Iterator

import attrs

from s2lite.api.asgi import ASGIApp, Event, Receive, Request, Response, Scope, Send, send_response

_VARY = b"origin, access-control-request-method, access-control-request-headers"


@attrs.define(eq=False)
class Cors:
    """Wraps an application: answers every OPTIONS request, marks every other response."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request = Request(scope, receive)
        if request.method == "OPTIONS":
            headers = (*_common(request), *_preflight(request))
            await send_response(send, Response(200, headers=headers))
            return

        async def send_marked(event: Event) -> None:
            if event["type"] == "http.response.start":
                event = {**event, "headers": [*event["headers"], *_common(request)]}
            await send(event)

        await self.app(scope, receive, send_marked)


def _common(request: Request) -> Iterator[tuple[bytes, bytes]]:
    yield b"access-control-allow-credentials", b"true"
    yield b"vary", _VARY
    if (origin := request.header(b"origin")) is not None:
        yield b"access-control-allow-origin", origin


def _preflight(request: Request) -> Iterator[tuple[bytes, bytes]]:
    if (method := request.header(b"access-control-request-method")) is not None:
        yield b"access-control-allow-methods", method
    if (headers := request.header(b"access-control-request-headers")) is not None:
        yield b"access-control-allow-headers", headers
