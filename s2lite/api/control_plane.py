"""Everything but records: routed by Quart, on the path as it was sent.

Quart sees the method and the raw path, and nothing else of the request. It routes on segments that
are still percent-encoded, so that `%2F` is part of a name; and no header or query can make it
answer by itself, with a page instead of this API's errors.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import quart
import trio
from quart_trio import QuartTrio
from quart_trio.wrappers import TrioResponse
from werkzeug import exceptions
from werkzeug.datastructures import Headers

from s2lite.api.asgi import (
    ASGIApp,
    ClientDisconnected,
    Event,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    raw_path,
    send_response,
)
from s2lite.api.body import check_content_encoding
from s2lite.api.errors import MethodNotAllowed, NoSuchRoute, error_response
from s2lite.api.routes import Handler, Route

_REQUEST: Final = "s2lite.request"  # where Quart's scope has the whole request
_View = Callable[..., Awaitable[quart.Response]]


def build_control_plane(routes: Iterable[Route]) -> ASGIApp:
    """Make an application of routes. It answers unknown paths, and known ones' other methods."""
    app = QuartTrio("s2lite.api", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False
    app.register_error_handler(Exception, _error_view)
    for route in routes:
        endpoint = f"{route.method} {route.path}"
        app.add_url_rule(route.path, endpoint, _view(route.handler), methods=[route.method])

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        path = raw_path(scope)
        if not path.startswith("/") or path.startswith("//"):  # Quart would make one slash of many
            await send_response(send, error_response(NoSuchRoute()))
            return
        request = Request(scope, receive)
        # ASGI's types, as Quart states them, are of the same shape but not the same.
        await app(_bare_scope(request, path), _receive_nothing(), send)  # type: ignore[arg-type]

    return serve


def _view(handler: Handler) -> _View:
    async def view(**segments: str) -> quart.Response:
        request: Request = quart.request.scope[_REQUEST]  # type: ignore[typeddict-item]
        if raw_path(request.scope).startswith("/v1/"):
            check_content_encoding(request)
        return _quart_response(await handler(request, **segments))

    return view


async def _error_view(error: Exception) -> quart.Response:
    match error:
        case ClientDisconnected():  # Quart wants an answer, though nobody is left to read it
            return _quart_response(Response(400))
        case exceptions.MethodNotAllowed(valid_methods=methods):
            error = MethodNotAllowed(methods or ())
        case exceptions.NotFound():
            error = NoSuchRoute()
    return _quart_response(error_response(error))


class _PlainResponse(TrioResponse):
    """A response that is not taken for HTML when it has no content type."""

    default_mimetype = None  # type: ignore[assignment]  # as in werkzeug; Quart's type is too narrow


def _quart_response(response: Response) -> quart.Response:
    headers = Headers((name.decode(), value.decode("latin-1")) for name, value in response.headers)
    return _PlainResponse(response.body, response.status, headers)


def _bare_scope(request: Request, path: str) -> Scope:
    return {
        **request.scope,
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        _REQUEST: request,
    }


def _receive_nothing() -> Receive:
    """Receive for Quart an empty body and no disconnect: handlers read the body themselves.

    A client that goes away does not cancel its request here: what was asked for is finished.
    """
    told = False

    async def receive() -> Event:
        nonlocal told
        if told:
            await trio.sleep_forever()
        told = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return receive
