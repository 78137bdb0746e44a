"""The little of ASGI that the API is written against: requests, responses and disconnects."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias, TypeVar

import attrs
import trio

# An ASGI scope and its events are mappings of whatever the server puts there.
Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

HeaderList: TypeAlias = tuple[tuple[bytes, bytes], ...]

T = TypeVar("T")


class ClientDisconnected(Exception):
    """The client has gone: there is nobody to answer."""


def raw_path(scope: Scope) -> str:
    """Give the path as it was sent, percent-encoding and all, without the query.

    A target that is a whole URL, as clients send to proxies, has its path taken out.
    """
    raw: bytes | None = scope.get("raw_path")
    if raw is None:
        raise RuntimeError("the ASGI server does not pass raw_path")
    path = raw.decode("latin-1")
    if not path.startswith("/") and "://" in path:
        return "/" + path.partition("://")[2].partition("/")[2]
    return path


class Request:
    """One HTTP request: its head at once, its body as it arrives.

    A header that is repeated counts once: the first line does, unless `header_lines` is asked.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self._headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            self._headers.setdefault(name, value)
        self._body_ended = False

    @property
    def method(self) -> str:
        """The method, in upper case."""
        method: str = self.scope["method"]
        return method

    @property
    def query_string(self) -> bytes:
        """The query, still encoded, without the question mark."""
        query: bytes = self.scope.get("query_string", b"")
        return query

    def header(self, name: bytes) -> bytes | None:
        """Give the value of a header's first line; `name` is in lower case."""
        return self._headers.get(name)

    def header_lines(self, name: bytes) -> list[bytes]:
        """Give the values of all of a header's lines; `name` is in lower case."""
        return [value for known, value in self.scope["headers"] if known == name]

    async def next_chunk(self) -> bytes | None:
        """Read the next piece of the body, None at its end; raises `ClientDisconnected`."""
        while not self._body_ended:
            event = await self.receive()
            if event["type"] == "http.disconnect":
                raise ClientDisconnected
            self._body_ended = not event.get("more_body", False)
            chunk: bytes = event.get("body", b"")
            if chunk:
                return chunk
        return None

    async def wait_disconnected(self) -> None:
        """Return when the client has gone; whatever body is left is thrown away."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def unless_disconnected(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run an operation that is of no use once the client has gone.

        Nobody may read the body meanwhile. The operation is cancelled when the client goes, and
        `ClientDisconnected` raised; what the operation itself raises is passed on as it is.
        """
        result: list[T] = []
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_on_disconnect, nursery.cancel_scope)
            try:
                result.append(await operation())
            except Exception as error:  # kept out of the nursery, which would wrap it in a group
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if not result:
            raise ClientDisconnected
        return result[0]

    async def _cancel_on_disconnect(self, scope: trio.CancelScope) -> None:
        await self.wait_disconnected()
        scope.cancel()


@attrs.frozen
class Response:
    """A whole response. `headers` are in lower case and without the content length."""

    status: int
    body: bytes = b""
    headers: HeaderList = ()


def json_response(body: bytes, status: int = 200, headers: HeaderList = ()) -> Response:
    """Make a response of a JSON text."""
    return Response(status, body, ((b"content-type", b"application/json"), *headers))


async def send_response(send: Send, response: Response) -> None:
    """Send a whole response, its body in one event: some clients parse the first piece alone."""
    length = (b"content-length", str(len(response.body)).encode())
    await send_head(send, response.status, (*response.headers, length))
    await send_body(send, response.body, more=False)


async def send_head(send: Send, status: int, headers: HeaderList) -> None:
    """Send the head of a response whose body follows."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def send_body(send: Send, body: bytes, *, more: bool) -> None:
    """Send a piece of a response's body; it is the last unless there is `more`."""
    await send({"type": "http.response.body", "body": body, "more_body": more})
