"""Segments: batches of many streams, sorted by stream and seq_num, in blocks with an index.

The body of a segment (see `envelope` for what is around it):

    blocks      back to back; each is entries of one stream, back to back
    footer      a row per block, sorted by stream id and first seq_num: stream id 16 |
                first seq_num u64 | end seq_num u64 | first timestamp u64 | last timestamp u64 |
                offset u64 | size u32 | xxh3-64 of the block u64 | expires at u64
    trailer     number of rows u32 | xxh3-64 of the rows u64

    entry       first seq_num u64 | count u32 | first timestamp u64 | last timestamp u64 |
                metered bytes u32 | expires at u64 | size of the payload u32 | payload

All integers are unsigned and big-endian; offsets count from the start of the object; "expires at"
is `NEVER_MS` for what never does. The payload is the serialised `records` field of the S2 API's
`ReadBatch`. Footer and blocks carry checksums of their own, so that each can be verified when it is
all that was read.
"""

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import xxhash

from s2lite.codec.envelope import CHECKSUM, HEADER_BYTES, Header, encode_head
from s2lite.codec.envelope import checksum as checksum_of
from s2lite.model.errors import CorruptObject
from s2lite.model.limits import U64_MAX
from s2lite.model.log import AppendEntry, StreamId
from s2lite.model.manifest import ObjectId, SegmentInfo, StreamKey
from s2lite.model.records import SequencedBatch

_ROW = struct.Struct(">16sQQQQQIQQ")
_TRAILER = struct.Struct(">IQ")
_ENTRY = struct.Struct(">QIQQIQI")

NEVER_MS: Final = U64_MAX
"""Stands for "never" where a time of expiry is expected."""

ROW_BYTES: Final = _ROW.size
ENTRY_OVERHEAD_BYTES: Final = _ENTRY.size
"""What an entry costs in a block beyond its payload."""


class BlockRow(NamedTuple):
    """One block: what is in it, where it lies, and how it is verified.

    At `expires_at_ms` its last entry has expired; `NEVER_MS` if one of them never does.
    """

    stream_id: StreamId
    first_seq_num: int
    end_seq_num: int
    first_timestamp: int
    last_timestamp: int
    offset: int
    size: int
    checksum: int
    expires_at_ms: int


class Footer:
    """The index of a segment: its rows, packed as they are stored, and looked at one by one."""

    __slots__ = ("_rows",)

    def __init__(self, rows: bytes) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows) // ROW_BYTES

    @property
    def size_bytes(self) -> int:
        """What it occupies in memory."""
        return len(self._rows)

    def row(self, index: int) -> BlockRow:
        """The row at an index from 0 up to its length."""
        return BlockRow._make(_ROW.unpack_from(self._rows, index * ROW_BYTES))

    def rows(self) -> Iterator[BlockRow]:
        """All rows, in order."""
        return map(BlockRow._make, _ROW.iter_unpack(self._rows))

    def first_ending_after(self, stream_id: StreamId, seq_num: int) -> int:
        """The index of the stream's first block that ends after `seq_num`.

        If it has none, that of the first block of a stream behind it, or the number of rows.
        """
        return bisect_right(range(len(self)), (stream_id, seq_num), key=self._end)

    def first_at_or_after(self, stream_id: StreamId, timestamp: int) -> int:
        """The index of the stream's first block whose last record has `timestamp` or a later one.

        If it has none, that of the first block of a stream behind it, or the number of rows.
        """
        return bisect_left(range(len(self)), (stream_id, timestamp), key=self._last_timestamp)

    def _end(self, index: int) -> tuple[StreamId, int]:
        row = self.row(index)
        return row.stream_id, row.end_seq_num

    def _last_timestamp(self, index: int) -> tuple[StreamId, int]:
        row = self.row(index)
        return row.stream_id, row.last_timestamp


def encode_entry(entry: AppendEntry) -> tuple[bytes, bytes]:
    """The entry as two pieces of a block, of which the second is its payload.

    What it changed of its stream's state (fencing token, trim point) is not kept.
    """
    batch = entry.batch
    payload = batch.payload
    head = _ENTRY.pack(
        batch.first_seq_num,
        batch.count,
        batch.first_timestamp,
        batch.last_timestamp,
        batch.metered_bytes,
        NEVER_MS if entry.expires_at_ms is None else entry.expires_at_ms,
        len(payload),
    )
    return head, payload


def decode_block(key: str, row: BlockRow, data: bytes | memoryview) -> list[AppendEntry]:
    """The entries of the block that `row` names, from its bytes.

    Raises `CorruptObject` naming `key` if the bytes are not exactly those of the block.
    """
    if checksum_of(data) != row.checksum:
        raise CorruptObject(key, f"the checksum of the block at {row.offset} does not match")
    try:
        entries = _decode_entries(row.stream_id, data)
    except struct.error:
        entries = []
    if not _is_described_by(entries, row):
        raise CorruptObject(key, f"the block at {row.offset} does not hold what its index says")
    return entries


def _decode_entries(stream_id: StreamId, data: bytes | memoryview) -> list[AppendEntry]:
    """The entries; none if one is longer than what is left. Raises `struct.error` likewise."""
    entries: list[AppendEntry] = []
    offset, end = 0, len(data)
    unpack, head_bytes = _ENTRY.unpack_from, _ENTRY.size
    while offset < end:
        first_seq_num, count, first, last, metered, expires_at_ms, size = unpack(data, offset)
        start = offset + head_bytes
        offset = start + size
        payload = bytes(data[start:offset])
        batch = SequencedBatch(first_seq_num, count, first, last, metered, payload)
        expires = None if expires_at_ms == NEVER_MS else expires_at_ms
        entries.append(AppendEntry(stream_id, batch, expires))
    return entries if offset == end else []


def _is_described_by(entries: list[AppendEntry], row: BlockRow) -> bool:
    if not entries:
        return False
    first, last = entries[0].batch, entries[-1].batch
    return (first.first_seq_num, last.end_seq_num) == (row.first_seq_num, row.end_seq_num)


class SegmentBuilder:
    """Puts a segment together, in one buffer that becomes the object: nothing is copied at the end.

    Each call takes as long as it takes to copy and to sum up the block it is given.
    """

    def __init__(self) -> None:
        self._object = bytearray(HEADER_BYTES)
        self._checksum = xxhash.xxh3_64()
        self._rows = bytearray()
        self._expiring: dict[int, int] = {}  # by time of expiry, how many bytes of blocks
        self._last = StreamKey(StreamId(b""), 0)
        self._footer_offset = 0

    @property
    def block_bytes(self) -> int:
        """The size of all blocks so far."""
        return len(self._object) - HEADER_BYTES

    @property
    def footer_bytes(self) -> int:
        """The size of their rows."""
        return len(self._rows)

    def add_block(
        self,
        stream_id: StreamId,
        first_seq_num: int,
        end_seq_num: int,
        first_timestamp: int,
        last_timestamp: int,
        expires_at_ms: int,
        pieces: Sequence[bytes | memoryview],
        checksum: int | None = None,
    ) -> None:
        """Append a block of entries of one stream, in order: by stream id, then by seq_num.

        Its entries come in pieces, as `encode_entry` makes them, or as one if the block is copied
        from a segment; then its checksum is known. `expires_at_ms` is `NEVER_MS` for never.
        """
        assert self._last <= (stream_id, first_seq_num)
        block = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._rows += _ROW.pack(
            stream_id,
            first_seq_num,
            end_seq_num,
            first_timestamp,
            last_timestamp,
            len(self._object),
            len(block),
            checksum_of(block) if checksum is None else checksum,
            expires_at_ms,
        )
        self._append(block)
        self._expiring[expires_at_ms] = self._expiring.get(expires_at_ms, 0) + len(block)
        self._last = StreamKey(stream_id, end_seq_num)

    def finish(self, header: Header) -> bytearray:
        """Add footer and header, and give the whole object away; at least one block is in it."""
        self._footer_offset = len(self._object)
        self._append(self._rows)
        self._append(_TRAILER.pack(len(self._rows) // ROW_BYTES, checksum_of(self._rows)))
        self._object[:HEADER_BYTES] = encode_head(header, len(self._object) - HEADER_BYTES)
        self._object += CHECKSUM.pack(self._checksum.intdigest())
        return self._object

    def info(self, object_id: ObjectId) -> SegmentInfo:
        """What the manifest has to say of the finished segment."""
        first = Footer(bytes(self._rows[:ROW_BYTES])).row(0)
        return SegmentInfo(
            object_id,
            size_bytes=len(self._object),
            footer_offset=self._footer_offset,
            first=StreamKey(first.stream_id, first.first_seq_num),
            end=self._last,
            expires_at_ms=_or_never(max(self._expiring)),
            half_expires_at_ms=_half_expires_at_ms(self._expiring),
        )

    def _append(self, piece: bytes | bytearray | memoryview) -> None:
        self._object += piece
        self._checksum.update(piece)


def _half_expires_at_ms(expiring: dict[int, int]) -> int | None:
    """When at least half of the bytes have expired, given how many do at each time."""
    left = sum(expiring.values())
    half = left / 2
    for expires_at_ms in sorted(expiring):
        left -= expiring[expires_at_ms]
        if left <= half:
            return _or_never(expires_at_ms)
    return None


def _or_never(expires_at_ms: int) -> int | None:
    return None if expires_at_ms == NEVER_MS else expires_at_ms


def footer_range(info: SegmentInfo) -> tuple[int, int]:
    """Where the footer and its trailer lie in the segment: the first byte, and how many."""
    return info.footer_offset, info.size_bytes - CHECKSUM.size - info.footer_offset


def decode_footer(key: str, info: SegmentInfo, data: bytes) -> Footer:
    """The footer, from exactly the bytes of `footer_range`.

    Raises `CorruptObject` naming `key` if they are damaged, or not those that `info` describes.
    """
    if len(data) < ROW_BYTES + _TRAILER.size or len(data) != footer_range(info)[1]:
        raise CorruptObject(key, f"its index has {len(data)} bytes, and should have another number")
    rows = data[: -_TRAILER.size]
    count, expected = _TRAILER.unpack_from(data, len(rows))
    if count * ROW_BYTES != len(rows) or checksum_of(rows) != expected:
        raise CorruptObject(key, "the checksum of its index does not match")
    footer = Footer(rows)
    first, last = footer.row(0), footer.row(count - 1)
    described = (
        (first.stream_id, first.first_seq_num) == info.first
        and (last.stream_id, last.end_seq_num) == info.end
        and last.offset + last.size == info.footer_offset
    )
    if not described:
        raise CorruptObject(key, "its index is not that of the segment the manifest names")
    return footer
