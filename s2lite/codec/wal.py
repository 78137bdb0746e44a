"""WAL objects: the entries of one group commit, of any number of streams.

The body of a WAL object (see `envelope` for what is around it):

    entries     back to back; each is  size u32 | xxh3-64 u64 | content (`size` bytes)
    index       per entry:  stream id (16, zeros for a catalog change) | offset u64 | size u32
    trailer     offset of the index u64 | number of entries u32

Offsets count from the start of the object, so that one entry can be fetched with one range read.
The content of an entry begins with its type; all integers are unsigned and big-endian:

    1, append   flags u8 | stream id 16 | first seq_num u64 | count u32 |
                first timestamp u64 | last timestamp u64 | metered bytes u32 |
                expires at u64 | trim point u64 | token length u8 | fencing token |
                payload (the rest)
    2, catalog  a JSON object (see `catalog`)

Append flags: 1 the batch expires (else "expires at" is 0), 2 it moved the trim point, 4 it set the
fencing token. The payload is the serialised `records` field of the S2 API's `ReadBatch`.
"""

import struct
from collections.abc import Iterator, Sequence

import attrs

from s2lite.codec.catalog import decode_catalog_change, encode_catalog_change
from s2lite.codec.envelope import (
    HEADER_BYTES,
    Header,
    ObjectKind,
    checksum,
    seal,
    unseal,
)
from s2lite.model.errors import CorruptObject
from s2lite.model.log import AppendEntry, LogEntry, StreamId
from s2lite.model.records import SequencedBatch

_FRAME = struct.Struct(">IQ")
_INDEX = struct.Struct(">16sQI")
_TRAILER = struct.Struct(">QI")
_APPEND = struct.Struct(">BB16sQIQQIQQB")

_TYPE_APPEND = 1
_TYPE_CATALOG = 2
_EXPIRES = 1
_TRIMS = 2
_FENCES = 4
_NO_STREAM = bytes(16)

ENTRY_OVERHEAD_BYTES = _FRAME.size + _APPEND.size + _INDEX.size
"""What an entry costs beyond its payload and fencing token."""


@attrs.frozen
class EntryLocation:
    """Where an entry lies: the number of its WAL object, and its frame's offset and size there."""

    wal_number: int
    offset: int
    size: int

    def is_followed_by(self, other: "EntryLocation") -> bool:
        """Whether the other entry begins where this one ends."""
        return self.wal_number == other.wal_number and self.offset + self.size == other.offset


@attrs.frozen(eq=False)
class LocatedEntry:
    """An entry and where it lies."""

    entry: LogEntry
    location: EntryLocation


def encode_wal_object(
    header: Header, entries: Sequence[LogEntry]
) -> tuple[bytes, list[LocatedEntry]]:
    """The whole object, and where each entry lies in it."""
    parts: list[bytes] = []
    index: list[bytes] = []
    located: list[LocatedEntry] = []
    offset = HEADER_BYTES
    for entry in entries:
        frame = _encode_entry(entry)
        size = sum(map(len, frame))
        stream_id = entry.stream_id if isinstance(entry, AppendEntry) else _NO_STREAM
        index.append(_INDEX.pack(stream_id, offset, size))
        located.append(LocatedEntry(entry, EntryLocation(header.number, offset, size)))
        parts.extend(frame)
        offset += size
    parts.extend(index)
    parts.append(_TRAILER.pack(offset, len(entries)))
    return seal(header, *parts), located


def decode_wal_object(key: str, data: bytes) -> tuple[Header, list[LocatedEntry]]:
    """The header and entries of a WAL object, or of a fence, which is one without entries.

    Raises `CorruptObject` if any checksum, length or type in it is wrong.
    """
    header, body = unseal(key, data, ObjectKind.WAL, ObjectKind.FENCE)
    return header, list(_decode_entries(key, header.number, data, body))


def _decode_entries(key: str, number: int, data: bytes, body: memoryview) -> Iterator[LocatedEntry]:
    if len(body) < _TRAILER.size:
        raise CorruptObject(key, "its body is too short")
    end, count = _TRAILER.unpack_from(body, len(body) - _TRAILER.size)
    offset, view = HEADER_BYTES, memoryview(data)
    for _ in range(count):
        size = _frame_size(key, view[offset:end])
        yield LocatedEntry(
            decode_entry(key, view[offset : offset + size]), EntryLocation(number, offset, size)
        )
        offset += size
    if offset != end:
        raise CorruptObject(key, "its entries do not end where its index begins")


def decode_entry(key: str, frame: bytes | memoryview) -> LogEntry:
    """One entry, from exactly the bytes that its location names.

    Raises `CorruptObject` if they are not the whole, undamaged entry.
    """
    view = memoryview(frame)
    if _frame_size(key, view) != len(view):
        raise CorruptObject(key, "an entry is not as long as it says")
    content = view[_FRAME.size :]
    if checksum(content) != _FRAME.unpack_from(view)[1]:
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
