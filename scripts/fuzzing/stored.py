"""What is stored. Bytes of a store may be damaged, and then they are refused: never believed.

Every check damages an object twice. Once as a disk would: then what is read is what was written, or
an error. And once with its checksums put right again, as a defect of a writer would: then it is not
known what should be read, but still nothing may be raised other than `CorruptObject`.
"""

import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Final

from s2lite.codec.catalog import decode_catalog_change, encode_catalog_change
from s2lite.codec.catalog_object import (
    decode_catalog_object,
    encode_catalog_object,
    encode_catalog_page,
)
from s2lite.codec.envelope import (
    HEADER,
    HEADER_BYTES,
    Header,
    ObjectKind,
    WriterIdentity,
    checksum,
    read_header,
    seal,
)
from s2lite.codec.manifest import decode_manifest, encode_manifest
from s2lite.codec.segment import (
    NEVER_MS,
    BlockRow,
    SegmentBuilder,
    decode_block,
    decode_footer,
    encode_entry,
    footer_range,
)
from s2lite.codec.wal import decode_wal_object, encode_wal_object, salvage_wal_object
from s2lite.model.config import BasinConfig, RetentionPolicy, StreamConfig, StreamConfigLayer
from s2lite.model.errors import CorruptObject
from s2lite.model.log import (
    AppendEntry,
    BasinCreated,
    BasinCreation,
    BasinDeleted,
    BasinReconfigured,
    BasinRecord,
    CatalogFacts,
    LogEntry,
    LostRange,
    StreamCreated,
    StreamCreation,
    StreamId,
    StreamReconfigured,
    StreamRecord,
    StreamRemoved,
    StreamState,
)
from s2lite.model.manifest import Manifest, ObjectId, Run, SegmentInfo, StreamKey
from s2lite.model.names import BasinName, StreamName
from s2lite.model.positions import StreamPosition
from s2lite.model.records import SequencedBatch
from scripts.fuzzing.mutation import Mutator
from scripts.fuzzing.target import Target, expect

KEY: Final = "object/1"

_LOW, _HIGH = (StreamId(bytes([byte]) * 16) for byte in (0x11, 0x33))
_BASIN, _STREAM = BasinName("some-basin"), StreamName("some/stream")
_CHECKSUM: Final = struct.Struct(">Q")


def _header(kind: ObjectKind) -> Header:
    return Header(kind, 7, WriterIdentity(3, bytes(range(16))), nonce=0xDEADBEEF)


def _resealed(mutator: Mutator, data: bytes) -> bytes:
    """An object of this kind whose body is damaged, under checksums that say it is whole."""
    header = read_header(KEY, data)
    return seal(header, mutator.damaged(data[HEADER_BYTES:-8]))


# --- the log ----------------------------------------------------------------------------------


def _entry(
    stream_id: StreamId, first_seq_num: int, payload: bytes = b"\x0a\x02\x08\x01"
) -> LogEntry:
    batch = SequencedBatch(first_seq_num, 2, 1_700_000_000_000, 1_700_000_000_001, 16, payload)
    return AppendEntry(stream_id, batch, 1_800_000_000_000, "token", first_seq_num)


_BASIN_RECORD = BasinRecord(
    _BASIN,
    BasinConfig(StreamConfigLayer(retention_policy=RetentionPolicy(60)), None, True, False),
    1_700_000_000_000,
    None,
    BasinCreation("token", BasinConfig()),
)
_STREAM_RECORD = StreamRecord(
    _LOW, _BASIN, _STREAM, StreamConfig(), 1_700_000_000_000, None, None,
    StreamCreation("token", StreamConfigLayer()),
)  # fmt: skip
_CHANGES: Final[list[LogEntry]] = [
    BasinCreated(_BASIN_RECORD),
    BasinReconfigured(_BASIN, BasinConfig()),
    BasinDeleted(_BASIN, 1_700_000_000_000),
    StreamCreated(_STREAM_RECORD),
    StreamReconfigured(_LOW, StreamConfig()),
    StreamRemoved(_LOW),
]


@cache
def _wal_entries() -> list[list[LogEntry]]:
    return [
        [_entry(_LOW, 0), _entry(_HIGH, 2**64 - 3), *_CHANGES, _entry(_LOW, 2, b"x" * 3000)],
        [_entry(_LOW, 4)],
        [],
    ]


def _facts(entry: LogEntry) -> object:
    """What an entry says, comparable: batches compare by identity."""
    if not isinstance(entry, AppendEntry):
        return entry
    batch = entry.batch
    return (
        entry.stream_id, entry.expires_at_ms, entry.fencing_token, entry.trim_point,
        batch.first_seq_num, batch.count, batch.first_timestamp, batch.last_timestamp,
        batch.metered_bytes, batch.payload,
    )  # fmt: skip


@cache
def _known_entries() -> list[object]:
    return [_facts(entry) for entries in _wal_entries() for entry in entries]


def wal_objects() -> list[bytes]:
    """WAL objects of many entries, of one, and of none."""
    header = _header(ObjectKind.WAL)
    return [encode_wal_object(header, entries) for entries in _wal_entries()]


def _entries_put_right(data: bytes) -> bytes:
    """The WAL object with the checksum of each entry made to match, as far as sizes lead."""
    out, offset = bytearray(data), HEADER_BYTES
    while offset + 12 <= len(out):
        (size,) = struct.unpack_from(">I", out, offset)
        content = bytes(out[offset + 12 : offset + 12 + size])
        if len(content) < size:
            break
        _CHECKSUM.pack_into(out, offset + 4, checksum(content))
        offset += 12 + size
    return seal(read_header(KEY, data), bytes(out[HEADER_BYTES:-8]))


def check_wal(mutator: Mutator) -> None:
    """Read a damaged WAL object, and save what can be saved of it."""
    seed = mutator.seed()
    data = mutator.damaged(seed)
    try:
        _, entries = decode_wal_object(KEY, data)
    except CorruptObject:
        with suppress(CorruptObject):
            saved = salvage_wal_object(KEY, data)
            # Something may have been spliced in, but nothing that was never written.
            for entry in saved.entries:
                expect(_facts(entry) in _known_entries(), f"{entry} was never written")
    else:
        expect(
            data[HEADER_BYTES:] in [each[HEADER_BYTES:] for each in mutator.seeds], "it is whole"
        )
        expect(all(_facts(entry) in _known_entries() for entry in entries), "so are its entries")
    for forged in (_resealed(mutator, seed), _entries_put_right(_resealed(mutator, seed))):
        try:
            decode_wal_object(KEY, forged)
        except CorruptObject:
            with suppress(CorruptObject):
                salvage_wal_object(KEY, forged)


# --- segments ---------------------------------------------------------------------------------


@cache
def _segment() -> tuple[bytes, SegmentInfo]:
    builder = SegmentBuilder()
    for stream_id, first in ((_LOW, 0), (_LOW, 10), (_HIGH, 0)):
        entries = [_entry(stream_id, first), _entry(stream_id, first + 2, b"y" * 500)]
        pieces = [
            piece
            for entry in entries
            if isinstance(entry, AppendEntry)
            for piece in encode_entry(entry)
        ]
        builder.add_block(stream_id, first, first + 4, 1_700_000_000_000, 1_700_000_000_001,
                          NEVER_MS, pieces)  # fmt: skip
    data = bytes(builder.finish(_header(ObjectKind.SEGMENT)))
    return data, builder.info(ObjectId(3, 7))


def _footer() -> bytes:
    data, info = _segment()
    start, size = footer_range(info)
    return data[start : start + size]


@cache
def _rows() -> list[BlockRow]:
    return list(decode_footer(KEY, _segment()[1], _footer()).rows())


def segment_parts() -> list[bytes]:
    """The index of a segment, and its blocks."""
    data, _ = _segment()
    return [_footer(), *(data[row.offset : row.offset + row.size] for row in _rows())]


def check_segment(mutator: Mutator) -> None:
    """Read a damaged index and a damaged block, as they are and with their checksums put right."""
    _check_footer(mutator)
    _check_block(mutator)


def _check_footer(mutator: Mutator) -> None:
    info = _segment()[1]
    data = mutator.damaged(_footer())
    with suppress(CorruptObject):
        expect(list(decode_footer(KEY, info, data).rows()) == _rows(), "the index is whole")
    rows = mutator.damaged(_footer()[:-12])
    count = len(rows) // len(_footer()[:-12]) * len(_rows())
    with suppress(CorruptObject):
        decode_footer(KEY, info, rows + struct.pack(">IQ", count, checksum(rows)))


def _check_block(mutator: Mutator) -> None:
    index = mutator.rng.randrange(len(_rows()))
    row, seed = _rows()[index], mutator.seeds[index + 1]
    data = mutator.damaged(seed)
    with suppress(CorruptObject):
        decode_block(KEY, row, data)
        expect(data == seed, "the block is whole")
    with suppress(CorruptObject):
        decode_block(KEY, row._replace(checksum=checksum(data)), data)


# --- manifests and catalogs -------------------------------------------------------------------


@cache
def _manifests() -> list[Manifest]:
    info = SegmentInfo(ObjectId(3, 7), 1000, 900, StreamKey(_LOW, 0), StreamKey(_HIGH, 5), None, 17)
    runs = (Run(1, (info, info)), Run(0, (info,)))
    return [Manifest(0, 1, (), (), None, False), Manifest(9, 4, runs, (ObjectId(1, 2),), 20, True)]


def manifests() -> list[bytes]:
    """Manifests of nothing, and of everything."""
    return [encode_manifest(_header(ObjectKind.MANIFEST), each) for each in _manifests()]


def check_manifest(mutator: Mutator) -> None:
    """Read a damaged manifest."""
    with suppress(CorruptObject):
        expect(decode_manifest(KEY, mutator.damaged())[1] in _manifests(), "it is whole")
    with suppress(CorruptObject):
        decode_manifest(KEY, _resealed(mutator, mutator.seed()))


@cache
def _catalog_pages() -> list[CatalogFacts]:
    state = StreamState(
        _STREAM_RECORD, StreamPosition(5, 1_700_000_000_000), "token", 3, (LostRange(1, 2, "why"),)
    )
    basins = {_BASIN: _BASIN_RECORD, BasinName("other-basin"): None}
    return [CatalogFacts(basins, {_LOW: state, _HIGH: None}), CatalogFacts(basins, {})]


def catalog_objects() -> list[bytes]:
    """Catalog objects of two pages, of one, and of none."""
    header, pages = _header(ObjectKind.CATALOG), list(map(encode_catalog_page, _catalog_pages()))
    return [encode_catalog_object(header, part) for part in (pages, pages[:1], [])]


def _page_put_right(page: bytes) -> bytes:
    size = struct.pack(">IQ", len(page), checksum(page))
    return size + _CHECKSUM.pack(checksum(size)) + page


def check_catalog_object(mutator: Mutator) -> None:
    """Read a damaged catalog object page by page."""
    with suppress(CorruptObject):
        for page in decode_catalog_object(KEY, mutator.damaged())[1]:
            expect((page.facts is None) != (page.error is None), "a page is there, or damaged")
            expect(page.facts is None or page.facts in _catalog_pages(), "a page is whole")
    content = encode_catalog_page(_catalog_pages()[0])[20:]
    forged = seal(_header(ObjectKind.CATALOG), _page_put_right(mutator.damaged(content)))
    with suppress(CorruptObject):
        list(decode_catalog_object(KEY, forged)[1])


def catalog_changes() -> list[bytes]:
    """Changes of the catalog, as they are inside the WAL."""
    return [
        encode_catalog_change(change) for change in _CHANGES if not isinstance(change, AppendEntry)
    ]


def check_catalog_change(mutator: Mutator) -> None:
    """Read a damaged change; its checksum is that of the entry around it."""
    with suppress(CorruptObject):
        decode_catalog_change(KEY, mutator.damaged())


# --- what is around every object --------------------------------------------------------------


def heads() -> list[bytes]:
    """The heads of all kinds of objects."""
    objects: list[Callable[[], list[bytes]]] = [wal_objects, manifests, catalog_objects]
    return [each[:HEADER_BYTES] for make in objects for each in make()]


def check_head(mutator: Mutator) -> None:
    """Read a damaged head."""
    data = mutator.damaged()
    with suppress(CorruptObject):
        read_header(KEY, data)
        expect(data[:HEADER_BYTES] in mutator.seeds, "the head is whole")
    fields = mutator.damaged()[: HEADER.size]
    with suppress(CorruptObject):
        read_header(KEY, fields + _CHECKSUM.pack(checksum(fields)))


STORED_TARGETS: Final = (
    Target("wal", "WAL objects", wal_objects, check_wal),
    Target("segment", "segments", segment_parts, check_segment),
    Target("manifest", "manifests", manifests, check_manifest),
    Target("catalog", "catalog objects", catalog_objects, check_catalog_object),
    Target("catalog-change", "changes of the catalog", catalog_changes, check_catalog_change),
    Target("head", "heads of objects", heads, check_head),
)
