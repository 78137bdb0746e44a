"""What the load generator sends and what it understands of the answers: no more than it needs."""

from collections.abc import Iterator

import attrs

from s2lite.codec import s2_pb2
from s2lite.codec.s2s import Compression, encode_frame

_CRLF = b"\r\n"
_HEAD_END = b"\r\n\r\n"
_PREFIX_BYTES = 4  # of a frame: length (3) and flag
_LONGEST_CHUNK_HEAD = 64


class BenchmarkError(Exception):
    """A server did not answer as the API says, or not in time: its figures would mean nothing."""


def append_message(records: int, body_bytes: int) -> bytes:
    """Make an `AppendInput` of so many equal records."""
    message = s2_pb2.AppendInput()
    body = bytes(i % 251 for i in range(body_bytes))
    for _ in range(records):
        message.records.add(body=body)
    return message.SerializeToString()


def append_frame(records: int, body_bytes: int) -> bytes:
    """Make the S2S frame of an `AppendInput`, uncompressed."""
    return encode_frame(append_message(records, body_bytes), Compression.NONE)


def acked_end(payload: bytes) -> int:
    """Give the `end` seq_num of an `AppendAck`."""
    return int(s2_pb2.AppendAck.FromString(payload).end.seq_num)


def seq_nums(payload: bytes) -> list[int]:
    """Give the seq_nums of the records of a `ReadBatch`."""
    return [record.seq_num for record in s2_pb2.ReadBatch.FromString(payload).records]


@attrs.define(eq=False)
class FrameScanner:
    """Counts the S2S frames in a body as it arrives, looking at nothing but their prefixes.

    The payload of the last whole frame is kept if frames come whole, as acks do; with `keep`, all
    payloads are. Raises `BenchmarkError` for a terminal frame: the server ended the session.
    """

    keep: bool = False
    frames: int = 0
    payload_bytes: int = 0
    last: bytes = b""
    payloads: list[bytes] = attrs.field(factory=list)
    _prefix: bytearray = attrs.field(factory=bytearray)
    _held: bytearray = attrs.field(factory=bytearray)
    _missing: int = 0
    _holding: bool = False

    def feed(self, data: memoryview) -> None:
        """Take the next piece of the body."""
        position, end = 0, len(data)
        while position < end:
            if self._missing:
                taken = min(self._missing, end - position)
                self._take(data[position : position + taken])
                position += taken
            else:
                taken = min(_PREFIX_BYTES - len(self._prefix), end - position)
                self._prefix += data[position : position + taken]
                position += taken
                if len(self._prefix) == _PREFIX_BYTES:
                    self._begin()

    def _begin(self) -> None:
        self._missing = int.from_bytes(self._prefix[:3], "big") - 1
        # A frame without content is a whole one; the API has none, but a scanner must not hang.
        self._holding = self.keep or self._missing <= 1024
        if not self._missing:
            self._complete()

    def _take(self, piece: memoryview) -> None:
        self._missing -= len(piece)
        self.payload_bytes += len(piece)
        if self._holding:
            self._held += piece
        if not self._missing:
            self._complete()

    def _complete(self) -> None:
        self.frames += 1
        if self._holding:
            self.last = bytes(self._held)
            self._held.clear()
            if self.keep:
                self.payloads.append(self.last)
        terminal = self._prefix[3] & 0x80
        self._prefix.clear()
        if terminal:
            status = int.from_bytes(self.last[:2], "big")
            raise BenchmarkError(f"session ended with {status}: {self.last[2:].decode()}")


@attrs.define(eq=False)
class ChunkedResponse:
    """An HTTP/1.1 response with a chunked body, cut into the pieces of its body as it arrives."""

    ended: bool = False
    _head: bytearray | None = attrs.field(factory=bytearray)
    _size_line: bytearray = attrs.field(factory=bytearray)
    _missing: int = 0  # of the chunk under way, with the line end behind it

    def feed(self, data: bytes) -> Iterator[memoryview]:
        """Take what arrived; gives the body in it. Raises `BenchmarkError` unless it is a 200."""
        view = memoryview(data)
        if self._head is not None:
            rest = self._take_head(data)
            if rest is None:
                return
            view = memoryview(rest)
        position, end = 0, len(view)
        while position < end and not self.ended:
            if self._missing:
                taken = min(self._missing, end - position)
                body = min(taken, self._missing - 2)
                if body > 0:
                    yield view[position : position + body]
                self._missing -= taken
                position += taken
            else:
                position = self._take_size_line(view, position)

    def _take_head(self, data: bytes) -> bytes | None:
        assert self._head is not None
        self._head += data
        head, found, rest = bytes(self._head).partition(_HEAD_END)
        if not found:
            return None
        self._head = None
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchmarkError(f"answered {(head + _HEAD_END + rest)[:500]!r}")
        if b"transfer-encoding: chunked" not in head.lower():
            raise BenchmarkError("the response to a session is not chunked")
        return rest

    def _take_size_line(self, view: memoryview, position: int) -> int:
        piece = bytes(view[position : position + _LONGEST_CHUNK_HEAD])
        line_end = (bytes(self._size_line) + piece).find(_CRLF)
        if line_end < 0:
            self._size_line += piece
            return position + len(piece)
        line = (bytes(self._size_line) + piece)[:line_end]
        used = line_end + 2 - len(self._size_line)
        self._size_line.clear()
        size = int(line.partition(b";")[0], 16)
        self.ended = size == 0
        self._missing = size + 2
        return position + used


def chunk(data: bytes) -> bytes:
    """Make a chunk of an HTTP/1.1 body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole_response_bytes(data: bytes | bytearray) -> int | None:
    """Give how long the response at the start of `data` is, None while its head is not all there.

    Raises `BenchmarkError` unless it is a 200 with a content length.
    """
    head_end = data.find(_HEAD_END)
    if head_end < 0:
        return None
    head = bytes(data[:head_end]).lower()
    at = head.find(b"\r\ncontent-length:")
    if not head.startswith(b"http/1.1 200") or at < 0:
        raise BenchmarkError(f"answered {bytes(data[:500])!r}")
    length = int(head[at + 17 :].partition(_CRLF)[0])
    return head_end + len(_HEAD_END) + length
