"""Reading a whole request body: bounded before and after its content encoding is undone."""

import zlib
from collections.abc import Iterator
from typing import Final

import zstandard

from s2lite.api.asgi import Request
from s2lite.api.errors import BadRequest, ErrorCode, UnsupportedContentEncoding
from s2lite.model.limits import MAX_UNARY_BODY_BYTES

_IDENTITY: Final = (None, b"identity")
# Data that does not compress grows a little in its encoding.
_MAX_ENCODED_BYTES: Final = MAX_UNARY_BODY_BYTES + 64 * 1024
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_GZIP_STEP_BYTES: Final = 256 * 1024
# zstd offers no bound on the output of a step: a block of 4 bytes can stand for 128 KiB. This much
# input keeps a step's output below 8 MiB, whoever wrote it.
_ZSTD_STEP_BYTES: Final = 256


class _BodyError(Exception):
    """The body is too large or does not decompress."""


def check_content_encoding(request: Request) -> None:
    """Raise `UnsupportedContentEncoding` unless the request's body can be decoded."""
    if request.header(b"content-encoding") not in (*_IDENTITY, b"gzip", b"zstd"):
        raise UnsupportedContentEncoding


def check_not_encoded(request: Request) -> None:
    """Raise `UnsupportedContentEncoding` if the request's body is encoded as a whole."""
    if request.header(b"content-encoding") not in _IDENTITY:
        raise UnsupportedContentEncoding


async def read_body(request: Request, blame: ErrorCode) -> bytes:
    """Read and decode a body of at most 2 MiB.

    Raises `BadRequest` with the code `blame` when it is larger or does not decompress; the rest of
    the body is then left to the server to drain. Raises `ClientDisconnected`.
    """
    encoding = request.header(b"content-encoding")
    try:
        if encoding in _IDENTITY:
            return await _read(request, MAX_UNARY_BODY_BYTES)
        body = await _read(request, _MAX_ENCODED_BYTES)
        steps = _gunzip(body) if encoding == b"gzip" else _unzstd(body)
        return _joined(steps, MAX_UNARY_BODY_BYTES)
    except _BodyError as error:
        raise BadRequest(blame, str(error)) from None


async def _read(request: Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while (chunk := await request.next_chunk()) is not None:
        size += len(chunk)
        _check_size(size, limit)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _joined(pieces: Iterator[bytes], limit: int) -> bytes:
    decoded = bytearray()
    for piece in pieces:
        _check_size(len(decoded) + len(piece), limit)
        decoded += piece
    return bytes(decoded)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise _BodyError(f"the body exceeds {MAX_UNARY_BODY_BYTES} bytes")


def _gunzip(body: bytes) -> Iterator[bytes]:
    """Decompress any number of gzip members in bounded steps."""
    while body:
        member = zlib.decompressobj(_GZIP_WINDOW)
        while not member.eof:
            try:
                piece = member.decompress(body, _GZIP_STEP_BYTES)
            except zlib.error as error:
                raise _BodyError(f"the body is not gzip: {error}") from None
            if not piece and not member.unconsumed_tail and not member.eof:
                raise _BodyError("the body ends inside its gzip data")
            yield piece
            body = member.unconsumed_tail
        body = member.unused_data


def _unzstd(body: bytes) -> Iterator[bytes]:
    """Decompress any number of zstd frames in bounded steps."""
    frame = None
    for start in range(0, len(body), _ZSTD_STEP_BYTES):
        step = body[start : start + _ZSTD_STEP_BYTES]
        while step:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            try:
                yield frame.decompress(step)
            except zstandard.ZstdError as error:
                raise _BodyError(f"the body is not zstd: {error}") from None
            step = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise _BodyError("the body ends inside its zstd data")
