"""Routes whose handlers take a request and give back a whole response."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import attrs

from s2lite.api.asgi import Request, Response
from s2lite.api.body import read_body
from s2lite.api.errors import BadRequest, ErrorCode
from s2lite.api.negotiation import MediaClass, media_class

# Called with the request, and with the path's variable segments by name, still percent-encoded.
Handler: TypeAlias = Callable[..., Awaitable[Response]]


@attrs.frozen
class Route:
    """A handler and what it answers to; variable segments of the path are in angle brackets."""

    method: str
    path: str
    handler: Handler


async def read_json_body(request: Request) -> bytes:
    """Read a body that must be there and must be labelled as JSON; raises `BadRequest`."""
    if media_class(request.header(b"content-type")) is not MediaClass.JSON:
        raise BadRequest(ErrorCode.BAD_JSON, "content-type must be application/json")
    return await read_body(request, ErrorCode.BAD_JSON)


async def read_optional_json_body(request: Request) -> bytes | None:
    """Read a body that may be left out; it is, if it has no content type or no content."""
    if request.header(b"content-type") is None:
        return None
    return await read_json_body(request) or None
