"""HTTP compression of whole responses, chosen from `accept-encoding`.

Sessions are left alone: their frames are compressed one by one, or not at all. Compression runs in
the event loop; the levels are chosen so that a megabyte takes a few milliseconds.
"""

import zlib
from collections.abc import Iterable
from typing import Final

import attrs
import zstandard

from s2lite.api.asgi import ASGIApp, Event, Receive, Scope, Send, raw_path

_MIN_BYTES: Final = 1024
_ZSTD_LEVEL: Final = 3
_GZIP_LEVEL: Final = 1
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_SESSION_TYPES: Final = (b"text/event-stream", b"s2s/proto")
_PREFERENCE: Final = ("zstd", "gzip", "identity")  # among encodings of equal weight
_ALIASES: Final = {"x-gzip": "gzip"}


def choose_encoding(lines: Iterable[bytes]) -> str | None:
    """Choose between zstd, gzip and identity; None if the client refuses all three."""
    weights = _weights(lines)
    default = weights.get("*")
    offers = [(weights.get(name, default), name) for name in _PREFERENCE]
    best = max((weight for weight, _ in offers if weight), default=None)
    if best is not None:
        return next(name for weight, name in offers if weight == best)
    # Nothing is asked for by name: identity is always welcome unless it was refused.
    return "identity" if weights.get("identity", default) is None else None


def _weights(lines: Iterable[bytes]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for line in lines:
        for element in line.decode("latin-1").lower().split(","):
            name, _, parameters = element.partition(";")
            name = name.strip()
            if name:
                weights.setdefault(_ALIASES.get(name, name), _weight(parameters))
    return weights


def _weight(parameters: str) -> float:
    name, _, value = parameters.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


def compress(body: bytes, encoding: str) -> bytes:
    """Compress a body as `zstd` or `gzip`."""
    if encoding == "zstd":
        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body)
    return zlib.compress(body, _GZIP_LEVEL, wbits=_GZIP_WINDOW)


@attrs.define(eq=False)
class CompressedResponses:
    """Wraps an application: whole responses of 1 KiB and more are compressed for who accepts it.

    A whole response leaves in one body event, however many pieces the application made of it.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; only those of the API itself are compressed."""
        if not raw_path(scope).startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        accepted = [value for name, value in scope["headers"] if name == b"accept-encoding"]
        encoding = choose_encoding(accepted) if accepted else "identity"
        await self.app(scope, receive, _Response(send, encoding).send)


@attrs.define(eq=False)
class _Response:
    """A response on its way out: held back until it is whole, unless it is a session's."""

    _send: Send
    _encoding: str | None
    _head: Event | None = None
    _body: bytearray = attrs.field(factory=bytearray)
    _passes: bool = False

    async def send(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            self._passes = _content_type(event).startswith(_SESSION_TYPES)
            self._head = event
        if self._passes:
            await self._send(event)
        elif event["type"] == "http.response.body":
            self._body += event.get("body", b"")
            if not event.get("more_body", False):
                await self._finish()

    async def _finish(self) -> None:
        assert self._head is not None, "a body without a head"
        head, body = self._head, bytes(self._body)
        headers = [pair for pair in head["headers"] if pair[0] != b"content-length"]
        if self._encoding is None:
            head, headers, body = {**head, "status": 406}, [], b""
        elif len(body) >= _MIN_BYTES:
            headers.append((b"vary", b"accept-encoding"))
            if self._encoding != "identity":
                headers.append((b"content-encoding", self._encoding.encode()))
                body = compress(body, self._encoding)
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({**head, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _content_type(head: Event) -> bytes:
    values: Iterable[bytes] = (value for name, value in head["headers"] if name == b"content-type")
    return next(iter(values), b"")
