"""Names of basins, streams and locations: the rules, and the only functions that make them.

Lengths are in bytes of UTF-8. A *prefix* and a *start_after* cursor may be empty, and skip the
rules about a name's minimum length and its end. Every function here raises `InvalidName`.
"""

import re
from typing import Final, NewType

from s2lite.model.errors import InvalidName
from s2lite.model.limits import (
    MAX_BASIN_NAME_BYTES,
    MAX_LOCATION_NAME_BYTES,
    MAX_REQUEST_TOKEN_BYTES,
    MAX_STREAM_NAME_BYTES,
    MIN_BASIN_NAME_BYTES,
)

BasinName = NewType("BasinName", str)
StreamName = NewType("StreamName", str)
LocationName = NewType("LocationName", str)

_BASIN_END: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_BASIN_INNER: Final = _BASIN_END | {"-"}
_LOCATION: Final = re.compile(r"[A-Za-z0-9:.-]*")
_PRINTABLE_ASCII: Final = re.compile(r"[\x20-\x7e]*")


def parse_basin_name(text: str) -> BasinName:
    """Check a basin's name: 8 to 48 of `a-z`, `0-9` and `-`, with no hyphen at either end."""
    kind = "basin name"
    _check_length(kind, text, MAX_BASIN_NAME_BYTES)
    if len(text) < MIN_BASIN_NAME_BYTES:
        raise InvalidName(kind, f"must be at least {MIN_BASIN_NAME_BYTES} bytes in length")
    _check_basin_start(kind, text)
    if text[-1] not in _BASIN_END:
        raise InvalidName(kind, "must end with a lowercase letter or a digit")
    _check_basin_characters(kind, text)
    return BasinName(text)


def parse_basin_prefix(text: str) -> str:
    """Check a prefix of basin names."""
    return _parse_basin_part("basin prefix", text)


def parse_basin_start_after(text: str) -> str:
    """Check a cursor into a listing of basins."""
    return _parse_basin_part("basin start_after", text)


def parse_stream_name(text: str) -> StreamName:
    """Check a stream's name: 1 to 512 bytes without NUL, and neither `.` nor `..`."""
    kind = "stream name"
    _check_stream_text(kind, text)
    if not text:
        raise InvalidName(kind, "must not be empty")
    if text in (".", ".."):
        raise InvalidName(kind, "must not be `.` or `..`")
    return StreamName(text)


def parse_stream_prefix(text: str) -> str:
    """Check a prefix of stream names."""
    return _check_stream_text("stream prefix", text)


def parse_stream_start_after(text: str) -> str:
    """Check a cursor into a listing of streams."""
    return _check_stream_text("stream start_after", text)


def parse_location_name(text: str) -> LocationName:
    """Check a location's name: 1 to 64 ASCII letters, digits, `:`, `-` and `.`."""
    kind = "location name"
    _check_length(kind, text, MAX_LOCATION_NAME_BYTES)
    if not text:
        raise InvalidName(kind, "must not be empty")
    if not _LOCATION.fullmatch(text):
        raise InvalidName(kind, "must contain only ASCII letters, digits, `:`, `-` and `.`")
    return LocationName(text)


def parse_request_token(text: str) -> str:
    """Check the token that makes a create repeatable: up to 36 printable ASCII, or none at all."""
    kind = "request token"
    _check_length(kind, text, MAX_REQUEST_TOKEN_BYTES)
    if not _PRINTABLE_ASCII.fullmatch(text):
        raise InvalidName(kind, "must contain only printable ASCII characters")
    return text


def _parse_basin_part(kind: str, text: str) -> str:
    _check_length(kind, text, MAX_BASIN_NAME_BYTES)
    if text:
        _check_basin_start(kind, text)
        _check_basin_characters(kind, text)
    return text


def _check_basin_start(kind: str, text: str) -> None:
    if text[0] not in _BASIN_END:
        raise InvalidName(kind, "must start with a lowercase letter or a digit")


def _check_basin_characters(kind: str, text: str) -> None:
    if not _BASIN_INNER.issuperset(text):
        raise InvalidName(kind, "must contain only lowercase letters, digits and hyphens")


def _check_stream_text(kind: str, text: str) -> str:
    _check_length(kind, text, MAX_STREAM_NAME_BYTES)
    if "\0" in text:
        raise InvalidName(kind, "must not contain the NUL character")
    return text


def _check_length(kind: str, text: str, max_bytes: int) -> None:
    try:
        length = len(text.encode())
    except UnicodeEncodeError:  # a lone surrogate, from a source that was decoded leniently
        raise InvalidName(kind, "must be valid UTF-8") from None
    if length > max_bytes:
        raise InvalidName(kind, f"must not exceed {max_bytes} bytes in length")
