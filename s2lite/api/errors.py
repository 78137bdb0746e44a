"""What an error looks like on the wire: the only place that knows statuses and error codes.

Clients trust a code only together with its status, so the pairing is part of the contract. A
session's terminal frame carries the same status and body as the response of a single request.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

import attrs

from s2lite.api.asgi import HeaderList, Response, json_response
from s2lite.codec import json
from s2lite.model import errors
from s2lite.model.errors import S2LiteError

_log = logging.getLogger("s2lite.api")


class ErrorCode(StrEnum):
    """The codes of error bodies, those that this server can answer."""

    BAD_FRAME = "bad_frame"
    BAD_HEADER = "bad_header"
    BAD_JSON = "bad_json"
    BAD_PATH = "bad_path"
    BAD_PROTO = "bad_proto"
    BAD_QUERY = "bad_query"
    BASIN_DELETION_PENDING = "basin_deletion_pending"
    BASIN_NOT_FOUND = "basin_not_found"
    DECRYPTION_FAILED = "decryption_failed"
    INVALID = "invalid"
    NOT_IMPLEMENTED = "not_implemented"
    OTHER = "other"
    RESOURCE_ALREADY_EXISTS = "resource_already_exists"
    STORAGE = "storage"
    STREAM_DELETION_PENDING = "stream_deletion_pending"
    STREAM_NOT_FOUND = "stream_not_found"
    UNAVAILABLE = "unavailable"


_STATUS: Final = {
    ErrorCode.BAD_FRAME: 400,
    ErrorCode.BAD_HEADER: 400,
    ErrorCode.BAD_JSON: 400,
    ErrorCode.BAD_PATH: 400,
    ErrorCode.BAD_PROTO: 400,
    ErrorCode.BAD_QUERY: 400,
    ErrorCode.BASIN_DELETION_PENDING: 409,
    ErrorCode.BASIN_NOT_FOUND: 404,
    ErrorCode.DECRYPTION_FAILED: 400,
    ErrorCode.INVALID: 422,
    ErrorCode.NOT_IMPLEMENTED: 501,
    ErrorCode.OTHER: 500,
    ErrorCode.RESOURCE_ALREADY_EXISTS: 409,
    ErrorCode.STORAGE: 500,
    ErrorCode.STREAM_DELETION_PENDING: 409,
    ErrorCode.STREAM_NOT_FOUND: 404,
    ErrorCode.UNAVAILABLE: 503,
}

# A name that gets here unblamed comes from a JSON body: those of other places are `blamed_on` them.
# Protobuf that gets here was stored: what a client sent is blamed on the body or the frame.
# Sealed frames are always stored ones.
_CODES: Final[tuple[tuple[type[S2LiteError], ErrorCode], ...]] = (
    (errors.InvalidName, ErrorCode.BAD_JSON),
    (errors.InvalidInput, ErrorCode.INVALID),
    (errors.NotImplementedYet, ErrorCode.NOT_IMPLEMENTED),
    (errors.JsonError, ErrorCode.BAD_JSON),
    (errors.FrameError, ErrorCode.BAD_FRAME),
    (errors.EncryptionKeyMissing, ErrorCode.BAD_HEADER),
    (errors.DecryptionFailed, ErrorCode.DECRYPTION_FAILED),
    (errors.BasinNotFound, ErrorCode.BASIN_NOT_FOUND),
    (errors.StreamNotFound, ErrorCode.STREAM_NOT_FOUND),
    (errors.BasinExists, ErrorCode.RESOURCE_ALREADY_EXISTS),
    (errors.StreamExists, ErrorCode.RESOURCE_ALREADY_EXISTS),
    (errors.BasinDeletionPending, ErrorCode.BASIN_DELETION_PENDING),
    (errors.StreamDeletionPending, ErrorCode.STREAM_DELETION_PENDING),
    (errors.StorageError, ErrorCode.STORAGE),
    (errors.ProtobufError, ErrorCode.STORAGE),
    (errors.SealedFrameError, ErrorCode.STORAGE),
    (errors.StreamUnavailable, ErrorCode.UNAVAILABLE),
    (errors.OutcomeUnknown, ErrorCode.OTHER),
)


@attrs.define
class BadRequest(S2LiteError):
    """A part of the request breaks a rule; the code says which part."""

    code: ErrorCode
    text: str

    def __str__(self) -> str:
        return self.text


class UnsupportedContentEncoding(S2LiteError):
    """The request's body is encoded in a way that the server does not know."""


class NoSuchRoute(S2LiteError):
    """No resource has that path."""


@attrs.define
class MethodNotAllowed(S2LiteError):
    """The path is known but the method is not; `allowed` are the methods that are."""

    allowed: Iterable[str]


@contextmanager
def blamed_on(code: ErrorCode) -> Iterator[None]:
    """Blame whatever is wrong with a value on the part of the request that it came in."""
    try:
        yield
    except (errors.InvalidName, errors.InvalidInput, errors.DecodeError) as error:
        raise BadRequest(code, str(error)) from error


def error_response(error: Exception) -> Response:
    """Describe an error as a response; one that nobody foresaw is logged and answered `other`."""
    match error:
        case errors.FencingTokenMismatch() | errors.SeqNumMismatch():
            return json_response(json.encode_condition_failed(error), 412)
        case errors.ReadPastTail():
            return json_response(json.encode_tail_response(error.tail), 416)
        case UnsupportedContentEncoding():
            return Response(415, headers=((b"accept-encoding", b"zstd,gzip"),))
        case NoSuchRoute():
            return Response(404)
        case MethodNotAllowed():
            return Response(405, headers=_allow(error.allowed))
        case _:
            return _coded_response(error)


def _coded_response(error: Exception) -> Response:
    code = _code_of(error)
    message = str(error)
    if code is None:
        _log.error("a request failed in a way nobody foresaw", exc_info=error)
        code, message = ErrorCode.OTHER, "internal error"
    return json_response(json.encode_error(code, message), _STATUS[code])


def _code_of(error: Exception) -> ErrorCode | None:
    if isinstance(error, BadRequest):
        return error.code
    return next((code for kind, code in _CODES if isinstance(error, kind)), None)


_METHOD_ORDER: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH")


def _allow(methods: Iterable[str]) -> HeaderList:
    allowed = ",".join(sorted(methods, key=_METHOD_ORDER.index))
    return ((b"allow", allowed.encode()),)
