"""Frames of S2S sessions: a 3-byte big-endian length, a flag byte, and a payload.

The length counts the flag and the payload. Regular frames hold one protobuf message, compressed or
not as their own flag says; a terminal frame, which only the server sends, holds a status and the
JSON body of an error. Frames are not aligned to the chunks in which a body arrives.
"""

import zlib
from collections.abc import Iterable, Iterator
from enum import Enum
from io import BytesIO
from typing import Final

import attrs
import zstandard

from s2lite.model.errors import FrameError
from s2lite.model.limits import (
    COMPRESSION_THRESHOLD_BYTES,
    MAX_FRAME_LENGTH,
    MAX_FRAME_PAYLOAD_BYTES,
)

_TERMINAL: Final = 0x80
_COMPRESSION_BITS: Final = 0x60
_ADVICE: Final = 0x10

_PREFIX_BYTES: Final = 3
_MAX_ENCODED_LENGTH: Final = 2 ** (8 * _PREFIX_BYTES) - 1

_ZSTD_LEVEL: Final = 3
_GZIP_LEVEL: Final = 6
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS


class Compression(Enum):
    """How a frame's payload is compressed; the value is the flag's bits."""

    NONE = 0x00
    ZSTD = 0x20
    GZIP = 0x40


def select_compression(accept_encoding: Iterable[str]) -> Compression:
    """Choose how a session's frames are compressed, from the values of `accept-encoding`.

    Weights are ignored, and `*` selects nothing.
    """
    tokens = {
        token.partition(";")[0].strip().lower()
        for value in accept_encoding
        for token in value.split(",")
    }
    if "zstd" in tokens:
        return Compression.ZSTD
    return Compression.GZIP if "gzip" in tokens else Compression.NONE


def encode_frame(
    message: bytes, compression: Compression, *, reconnect_advised: bool = False
) -> bytes:
    """Make a regular frame; a message below 1 KiB is not compressed.

    Compressing takes time in proportion, for a message of 1 MiB about 1 ms with zstd and some 15 ms
    with gzip. May be called from any thread. `reconnect_advised` asks the client to finish
    what is under way and go on over another connection.
    """
    if len(message) < COMPRESSION_THRESHOLD_BYTES:
        compression = Compression.NONE
    flag = compression.value | (_ADVICE if reconnect_advised else 0)
    return _frame(flag, _compress(message, compression))


def encode_terminal(status: int, body: bytes) -> bytes:
    """Make the frame that ends a session with an error, from the status and body of a response."""
    return _frame(_TERMINAL, status.to_bytes(2, "big") + body)


def _frame(flag: int, payload: bytes) -> bytes:
    length = 1 + len(payload)
    if length > _MAX_ENCODED_LENGTH:
        raise ValueError(f"a frame cannot hold {len(payload)} bytes")
    return b"%b%c%b" % (length.to_bytes(_PREFIX_BYTES, "big"), flag, payload)


def _compress(message: bytes, compression: Compression) -> bytes:
    match compression:
        case Compression.NONE:
            return message
        case Compression.ZSTD:
            # A compressor serves one thread at a time and holds a megabyte; making one takes 20 us.
            return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(message)
        case Compression.GZIP:
            return zlib.compress(message, _GZIP_LEVEL, wbits=_GZIP_WINDOW)


@attrs.define(eq=False)
class FrameDecoder:
    """Cuts a client's byte stream into messages, whatever the chunks it arrives in.

    Memory is bounded: besides the last chunk it holds at most one frame, and messages are
    decompressed one by one as they are asked for. A byte is copied once on its way into a message.
    """

    _chunk: bytes = b""
    _offset: int = 0  # how much of the chunk is taken
    _held: BytesIO = attrs.field(factory=BytesIO)  # the start of a part that spans chunks
    _length: int | None = None  # of the frame under way, once known
    _flag: int | None = None
    _zstd: zstandard.ZstdDecompressor | None = None

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take a chunk, and iterate over the messages that are whole now.

        The iteration raises `FrameError` when it comes to a bad frame; the messages before it have
        been delivered then, unless the caller gathers them in a list. After that the decoder is of
        no use any more. Messages that are not asked for come with the next chunk.
        """
        rest = self._chunk[self._offset :]
        self._chunk = rest + chunk if rest else chunk
        self._offset = 0
        return self._messages()

    def close(self) -> None:
        """Say that the stream has ended; raises `FrameError` if it did so inside a frame."""
        inside = self._length is not None or self._held.tell() or self._offset < len(self._chunk)
        if inside:
            raise FrameError("the stream ends inside a frame")

    def _messages(self) -> Iterator[bytes]:
        while (message := self._next_message()) is not None:
            yield message

    def _next_message(self) -> bytes | None:
        if self._length is None:
            prefix = self._take(_PREFIX_BYTES)
            if prefix is None:
                return None
            self._length = _checked_length(int.from_bytes(prefix, "big"))
        if self._flag is None:
            flag = self._take(1)
            if flag is None:
                return None
            self._flag = _checked_flag(flag[0])
        payload = self._take(self._length - 1)
        if payload is None:
            return None
        compression = Compression(self._flag & _COMPRESSION_BITS)
        self._length = self._flag = None
        return self._decompress(payload, compression)

    def _take(self, count: int) -> bytes | None:
        """Take exactly `count` bytes; None if they are not all there, which keeps what is."""
        end = self._offset + count - self._held.tell()
        if end > len(self._chunk):
            self._held.write(memoryview(self._chunk)[self._offset :])
            self._offset = len(self._chunk)
            return None
        start, self._offset = self._offset, end
        if not self._held.tell():
            return self._chunk[start:end]
        self._held.write(memoryview(self._chunk)[start:end])
        whole = self._held.getvalue()  # hands over its buffer, without a copy
        self._held = BytesIO()
        return whole

    def _decompress(self, payload: bytes, compression: Compression) -> bytes:
        match compression:
            case Compression.NONE:
                return payload
            case Compression.ZSTD:
                if self._zstd is None:
                    self._zstd = zstandard.ZstdDecompressor()
                return _decompress_zstd(self._zstd, payload)
            case Compression.GZIP:
                return _decompress_gzip(payload)


def _checked_length(length: int) -> int:
    if not length:
        raise FrameError("a frame's length is 0, it must count the flag byte")
    if length > MAX_FRAME_LENGTH:
        raise FrameError(f"a frame's length is {length}, the limit is {MAX_FRAME_LENGTH}")
    return length


def _checked_flag(flag: int) -> int:
    if flag & _TERMINAL:
        raise FrameError("a terminal frame came from the client, only the server sends those")
    if flag & _COMPRESSION_BITS == _COMPRESSION_BITS:
        raise FrameError("a frame's compression bits are 11, which means nothing")
    return flag


def _decompress_zstd(decompressor: zstandard.ZstdDecompressor, payload: bytes) -> bytes:
    try:
        return _decompress_one_zstd_frame(decompressor, payload)
    except zstandard.ZstdError as error:
        raise FrameError(f"a payload is not valid zstd: {error}") from None


def _decompress_one_zstd_frame(decompressor: zstandard.ZstdDecompressor, payload: bytes) -> bytes:
    # Decompressing in one call allocates what the header states, or the given maximum if it states
    # nothing, and never writes more. What it states is checked, so a lie costs nothing.
    stated = zstandard.frame_content_size(payload)
    if stated > MAX_FRAME_PAYLOAD_BYTES:
        raise FrameError(_too_large("zstd"))
    if stated > 0:
        return decompressor.decompress(payload, allow_extra_data=False)
    # With nothing stated that call overlooks what follows the frame; with a stated 0 it does not
    # even look. Streaming notices, but has no bound when nothing is stated: prove one first.
    decompressor.decompress(payload, max_output_size=MAX_FRAME_PAYLOAD_BYTES)
    stream = decompressor.decompressobj()
    message = stream.decompress(payload)
    if not stream.eof or stream.unused_data:
        raise FrameError("a payload is not exactly one zstd frame")
    return message


def _decompress_gzip(payload: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=_GZIP_WINDOW)
    try:
        message = stream.decompress(payload, MAX_FRAME_PAYLOAD_BYTES + 1)
    except zlib.error as error:
        raise FrameError(f"a payload is not valid gzip: {error}") from None
    if len(message) > MAX_FRAME_PAYLOAD_BYTES:
        raise FrameError(_too_large("gzip"))
    if not stream.eof or stream.unused_data:
        raise FrameError("a payload is not exactly one gzip member")
    return message


def _too_large(coding: str) -> str:
    return f"a {coding} payload expands beyond {MAX_FRAME_PAYLOAD_BYTES} bytes"
