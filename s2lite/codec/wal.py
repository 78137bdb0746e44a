"""WAL objects: the entries of one group commit, of any number of streams.

The body of a WAL object (see `envelope` for what is around it):

    entries     back to back; each is  size u32 | xxh3-64 u64 | content (`size` bytes)
    index       per entry:  stream id (16, zeros for a catalog change) | offset u64 | size u32 |
                first seq_num u64 | end seq_num u64 | last timestamp u64 (zeros likewise)
    trailer     xxh3-64 of the index u64 | offset of the index u64 | number of entries u32

Version 1.0 has neither the last three fields of the index nor the first of the trailer. Offsets
count from the start of the object; offset and size in the index are those of the entry with the 12
bytes before its content. The index is what tells which records are gone when an entry is damaged.
The content of an entry begins with its type; all integers are unsigned and big-endian:

    1, append   flags u8 | stream id 16 | first seq_num u64 | count u32 |
                first timestamp u64 | last timestamp u64 | metered bytes u32 |
                expires at u64 | trim point u64 | token length u8 | fencing token |
                payload (the rest)
    2, catalog  a JSON object (see `catalog`)

Append flags: 1 the batch expires (else "expires at" is 0), 2 it moved the trim point, 4 it set the
fencing token. The payload is the serialised `records` field of the S2 API's `ReadBatch`.
"""

import contextlib
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import attrs

from s2lite.codec.catalog import decode_catalog_change, encode_catalog_change
from s2lite.codec.envelope import (
    HEADER_BYTES,
    Header,
    ObjectKind,
    checksum,
    read_head,
    seal,
    unseal,
)
from s2lite.model.errors import CorruptObject
from s2lite.model.log import AppendEntry, LogEntry, StreamId
from s2lite.model.records import SequencedBatch

_FRAME = struct.Struct(">IQ")
_INDEX = struct.Struct(">16sQIQQQ")
_INDEX_1_0 = struct.Struct(">16sQI")
_INDEX_CHECKSUM = struct.Struct(">Q")
_TRAILER = struct.Struct(">QI")
_APPEND = struct.Struct(">BB16sQIQQIQQB")

_TYPE_APPEND = 1
_TYPE_CATALOG = 2
_EXPIRES = 1
_TRIMS = 2
_FENCES = 4
_NO_STREAM = StreamId(bytes(16))

ENTRY_OVERHEAD_BYTES = _FRAME.size + _APPEND.size + _INDEX.size
"""What an entry costs beyond its payload and fencing token."""


@attrs.frozen
class LostEntry:
    """What the index says of an entry that is damaged.

    Without a stream it was a change of the catalog, or it is not known what, or how many, it was.
    """

    stream_id: StreamId | None
    first_seq_num: int = 0
    end_seq_num: int = 0
    last_timestamp: int = 0


@attrs.frozen
class SalvagedWal:
    """What a damaged WAL object still says.

    `entries` are those that are whole, in their order; `lost` are all others; `error` says what is
    wrong with the object. Nothing need be lost: the damage may be between the entries.
    """

    header: Header
    entries: list[LogEntry]
    lost: list[LostEntry]
    error: CorruptObject


def encode_wal_object(header: Header, entries: Sequence[LogEntry]) -> bytes:
    """The whole object."""
    parts: list[bytes] = []
    rows: list[bytes] = []
    offset = HEADER_BYTES
    for entry in entries:
        frame = _encode_entry(entry)
        size = sum(map(len, frame))
        rows.append(_INDEX.pack(*_IndexRow.of(entry, offset, size)))
        parts.extend(frame)
        offset += size
    index = b"".join(rows)
    trailer = _INDEX_CHECKSUM.pack(checksum(index)) + _TRAILER.pack(offset, len(entries))
    return seal(header, *parts, index, trailer)


def decode_wal_object(key: str, data: bytes) -> tuple[Header, list[LogEntry]]:
    """The header and entries of a WAL object, or of a fence, which is one without entries.

    Raises `CorruptObject` if any checksum, length or type in it is wrong.
    """
    header, body = unseal(key, data, ObjectKind.WAL, ObjectKind.FENCE)
    return header, list(_decode_entries(key, data, body))


def salvage_wal_object(key: str, data: bytes) -> SalvagedWal:
    """What is left of an object that `decode_wal_object` refuses: every entry that verifies.

    Raises `CorruptObject` if it cannot even be told whose object it is.
    """
    header, body_bytes = read_head(key, data, ObjectKind.WAL, ObjectKind.FENCE)
    error = _damage(key, data)
    if header.kind is ObjectKind.FENCE:
        return SalvagedWal(header, [], [], error)
    index = _find_index(header, data, HEADER_BYTES + body_bytes)
    if index is not None and index.is_consistent:
        entries, lost = _salvage_by_index(key, data, index)
    else:
        entries, lost = _salvage_by_walking(key, data, index)
    return SalvagedWal(header, entries, lost, error)


def _damage(key: str, data: bytes) -> CorruptObject:
    try:
        decode_wal_object(key, data)
    except CorruptObject as error:
        return error
    raise AssertionError("there is nothing to salvage, the object is whole")


def _decode_entries(key: str, data: bytes, body: memoryview) -> Iterator[LogEntry]:
    if len(body) < _TRAILER.size:
        raise CorruptObject(key, "its body is too short")
    end, count = _TRAILER.unpack_from(body, len(body) - _TRAILER.size)
    offset, view = HEADER_BYTES, memoryview(data)
    for _ in range(count):
        size = _frame_size(key, view[offset:end])
        yield _decode_entry(key, view[offset : offset + size])
        offset += size
    if offset != end:
        raise CorruptObject(key, "its entries do not end where its index begins")


# --- what lies behind the entries -------------------------------------------------------------


class _IndexRow(NamedTuple):
    stream_id: StreamId
    offset: int
    size: int
    first_seq_num: int = 0
    end_seq_num: int = 0
    last_timestamp: int = 0

    @classmethod
    def of(cls, entry: LogEntry, offset: int, size: int) -> "_IndexRow":
        if not isinstance(entry, AppendEntry):
            return cls(_NO_STREAM, offset, size)
        batch = entry.batch
        return cls(
            entry.stream_id,
            offset,
            size,
            batch.first_seq_num,
            batch.end_seq_num,
            batch.last_timestamp,
        )

    def lost(self) -> LostEntry:
        if self.stream_id == _NO_STREAM:
            return LostEntry(None)
        return LostEntry(self.stream_id, self.first_seq_num, self.end_seq_num, self.last_timestamp)


@attrs.frozen
class _Index:
    """The index of an object that may be damaged: `end` is where it begins and the entries end."""

    end: int
    rows: list[_IndexRow]
    is_verified: bool

    @property
    def is_consistent(self) -> bool:
        """Whether its rows lie back to back: then they say truly where the entries are."""
        starts = [row.offset for row in self.rows]
        ends = [row.offset + row.size for row in self.rows]
        return [*starts, self.end] == [HEADER_BYTES, *ends]


def _find_index(header: Header, data: bytes, body_end: int) -> _Index | None:
    """The index; None if it is not there, or not where the trailer says."""
    has_checksum = header.version >= (1, 1)
    row = _INDEX if has_checksum else _INDEX_1_0
    index_end = body_end - _TRAILER.size - (_INDEX_CHECKSUM.size if has_checksum else 0)
    if index_end < HEADER_BYTES or body_end > len(data):
        return None
    offset, count = _TRAILER.unpack_from(data, body_end - _TRAILER.size)
    if offset + count * row.size != index_end:
        return None
    index = memoryview(data)[offset:index_end]
    return _Index(
        offset,
        [_IndexRow(*fields) for fields in row.iter_unpack(index)],
        has_checksum and checksum(index) == _INDEX_CHECKSUM.unpack_from(data, index_end)[0],
    )


def _salvage_by_index(
    key: str, data: bytes, index: _Index
) -> tuple[list[LogEntry], list[LostEntry]]:
    entries: list[LogEntry] = []
    lost: list[LostEntry] = []
    view = memoryview(data)
    for row in index.rows:
        try:
            entries.append(_decode_entry(key, view[row.offset : row.offset + row.size]))
        except CorruptObject:
            lost.append(row.lost())
    return entries, lost if index.is_verified or not lost else [LostEntry(None)]


def _salvage_by_walking(
    key: str, data: bytes, index: _Index | None
) -> tuple[list[LogEntry], list[LostEntry]]:
    """Entry by entry, up to the first that is damaged.

    Not further: its size may be what is damaged, and lead into the midst of another entry, where
    the bytes are a client's and may be made to look like an entry.
    """
    entries: list[LogEntry] = []
    offset, view = HEADER_BYTES, memoryview(data)
    end = len(data) if index is None else index.end
    with contextlib.suppress(CorruptObject):
        while offset < end:
            size = _frame_size(key, view[offset:end])
            entries.append(_decode_entry(key, view[offset : offset + size]))
            offset += size
    is_all = index is not None and (offset, len(entries)) == (index.end, len(index.rows))
    return entries, [] if is_all else [LostEntry(None)]


# --- entries ----------------------------------------------------------------------------------


def _decode_entry(key: str, frame: memoryview) -> LogEntry:
    """One entry, from exactly its bytes; raises `CorruptObject` if they are not."""
    if _frame_size(key, frame) != len(frame):
        raise CorruptObject(key, "an entry is not as long as it says")
    content = frame[_FRAME.size :]
    if checksum(content) != _FRAME.unpack_from(frame)[1]:
        raise CorruptObject(key, "the checksum of an entry does not match")
    match content[0] if content else None:
        case 1:
            return _decode_append(key, content)
        case 2:
            return decode_catalog_change(key, bytes(content[1:]))
        case other:
            raise CorruptObject(key, f"an entry has the unknown type {other}")


def _frame_size(key: str, view: memoryview) -> int:
    if len(view) < _FRAME.size:
        raise CorruptObject(key, "an entry is cut short")
    size: int = _FRAME.size + _FRAME.unpack_from(view)[0]
    if size > len(view):
        raise CorruptObject(key, "an entry is cut short")
    return size


def _encode_entry(entry: LogEntry) -> tuple[bytes, ...]:
    """The entry in pieces, so that its payload is copied once, into the object."""
    if isinstance(entry, AppendEntry):
        content: tuple[bytes, ...] = (_append_head(entry), entry.batch.payload)
    else:
        content = (bytes((_TYPE_CATALOG,)), encode_catalog_change(entry))
    return _FRAME.pack(sum(map(len, content)), checksum(*content)), *content


def _append_head(entry: AppendEntry) -> bytes:
    batch = entry.batch
    token = b"" if entry.fencing_token is None else entry.fencing_token.encode()
    flags = (
        (_EXPIRES if entry.expires_at_ms is not None else 0)
        | (_TRIMS if entry.trim_point is not None else 0)
        | (_FENCES if entry.fencing_token is not None else 0)
    )
    fixed = _APPEND.pack(
        _TYPE_APPEND,
        flags,
        entry.stream_id,
        batch.first_seq_num,
        batch.count,
        batch.first_timestamp,
        batch.last_timestamp,
        batch.metered_bytes,
        entry.expires_at_ms or 0,
        entry.trim_point or 0,
        len(token),
    )
    return fixed + token


def _decode_append(key: str, content: memoryview) -> AppendEntry:
    if len(content) < _APPEND.size:
        raise CorruptObject(key, "an append entry is cut short")
    (_, flags, stream_id, first_seq_num, count, first_timestamp, last_timestamp, metered_bytes,
     expires_at_ms, trim_point, token_length) = _APPEND.unpack_from(content)  # fmt: skip
    token = _decode_token(key, bytes(content[_APPEND.size : _APPEND.size + token_length]))
    if len(content) < _APPEND.size + token_length:
        raise CorruptObject(key, "an append entry is cut short")
    batch = SequencedBatch(
        first_seq_num=first_seq_num,
        count=count,
        first_timestamp=first_timestamp,
        last_timestamp=last_timestamp,
        metered_bytes=metered_bytes,
        payload=bytes(content[_APPEND.size + token_length :]),
    )
    return AppendEntry(
        StreamId(stream_id),
        batch,
        expires_at_ms=expires_at_ms if flags & _EXPIRES else None,
        fencing_token=token if flags & _FENCES else None,
        trim_point=trim_point if flags & _TRIMS else None,
    )


def _decode_token(key: str, token: bytes) -> str:
    try:
        return token.decode()
    except UnicodeDecodeError:
        raise CorruptObject(key, "a fencing token is not UTF-8") from None
