"""Which of the formats a request speaks and wants: media types and the `s2-format` header.

Of `content-type` and `accept` only the first media type of the first line is looked at, without its
parameters; a value that does not parse counts as absent.
"""

import re
from enum import Enum, auto
from typing import Final

from s2lite.api.errors import BadRequest, ErrorCode
from s2lite.codec.json import RecordFormat

_MEDIA_TYPE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9a-z-]+)/([!#$%&'*+.^_`|~0-9a-z-]+)")


class MediaClass(Enum):
    """The families of media types that make a difference."""

    JSON = auto()
    PROTOBUF = auto()
    S2S = auto()
    SSE = auto()


class AppendMode(Enum):
    """How a POST of records speaks."""

    JSON = auto()
    PROTOBUF = auto()
    SESSION = auto()


class ReadMode(Enum):
    """How a GET of records wants its answer."""

    JSON = auto()
    PROTOBUF = auto()
    SSE = auto()
    SESSION = auto()


_EXACT: Final = {
    (b"application", b"json"): MediaClass.JSON,
    (b"application", b"protobuf"): MediaClass.PROTOBUF,
    (b"application", b"x-protobuf"): MediaClass.PROTOBUF,
    (b"s2s", b"proto"): MediaClass.S2S,
    (b"text", b"event-stream"): MediaClass.SSE,
}


def media_class(value: bytes | None) -> MediaClass | None:
    """Classify a header's first media type; None if it is absent, unparsable or of no class."""
    if value is None:
        return None
    first = value.partition(b",")[0].partition(b";")[0].strip().lower()
    match = _MEDIA_TYPE.fullmatch(first)
    if match is None:
        return None
    kind, subtype = match.groups()
    if kind == b"application" and subtype.endswith(b"+json"):
        return MediaClass.JSON
    return _EXACT.get((kind, subtype))


def append_mode(content_type: bytes | None) -> AppendMode:
    """Decide how an append is sent; raises `BadRequest` for a type that no append comes in."""
    match media_class(content_type):
        case MediaClass.S2S:
            return AppendMode.SESSION
        case MediaClass.PROTOBUF:
            return AppendMode.PROTOBUF
        case MediaClass.JSON:
            return AppendMode.JSON
        case _:
            text = "content-type must be JSON, protobuf or s2s/proto"
            raise BadRequest(ErrorCode.BAD_JSON, text)


def read_mode(content_type: bytes | None, accept: bytes | None) -> ReadMode:
    """Decide how records are to be delivered."""
    if media_class(content_type) is MediaClass.S2S:
        return ReadMode.SESSION
    match media_class(accept):
        case MediaClass.SSE:
            return ReadMode.SSE
        case MediaClass.PROTOBUF:
            return ReadMode.PROTOBUF
        case _:
            return ReadMode.JSON


def wants_protobuf(accept: bytes | None) -> bool:
    """Tell whether an ack is to be protobuf; it is JSON otherwise."""
    return media_class(accept) is MediaClass.PROTOBUF


_FORMATS: Final = {
    b"raw": RecordFormat.RAW,
    b"json": RecordFormat.RAW,
    b"base64": RecordFormat.BASE64,
    b"json-binsafe": RecordFormat.BASE64,
}


def record_format(value: bytes | None) -> RecordFormat:
    """Parse `s2-format`, how data appears in JSON; raises `BadRequest`."""
    if value is None:
        return RecordFormat.RAW
    known = _FORMATS.get(value.strip())
    if known is None:
        raise BadRequest(ErrorCode.BAD_HEADER, "s2-format must be `raw` or `base64`")
    return known
