"""The response heads of sessions: sent at once, never compressed, never of a known length."""

from typing import Final

from s2lite.api.asgi import HeaderList

_UNBUFFERED: Final[HeaderList] = (
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)

S2S_HEAD: Final[HeaderList] = ((b"content-type", b"s2s/proto"), *_UNBUFFERED)
SSE_HEAD: Final[HeaderList] = ((b"content-type", b"text/event-stream"), *_UNBUFFERED)
