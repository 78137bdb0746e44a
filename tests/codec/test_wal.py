"""WAL objects: round trips, entries on their own, damage, and objects of earlier formats."""

import itertools
import struct
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from s2lite.codec.envelope import HEADER_BYTES, Header, ObjectKind, WriterIdentity, seal
from s2lite.codec.wal import (
    EntryLocation,
    decode_entry,
    decode_wal_object,
    encode_wal_object,
)
from s2lite.model.config import (
    BasinConfig,
    RetentionPolicy,
    StorageClass,
    StreamCipher,
    StreamConfig,
    StreamConfigLayer,
    TimestampingMode,
)
from s2lite.model.errors import CorruptObject
from s2lite.model.log import (
    AppendEntry,
    BasinCreated,
    BasinCreation,
    BasinDeleted,
    BasinRecord,
    BasinRemoved,
    LogEntry,
    StreamCreated,
    StreamCreation,
    StreamDeleted,
    StreamId,
    StreamReconfigured,
    StreamRecord,
    StreamRemoved,
)
from s2lite.model.names import BasinName, StreamName
from s2lite.model.records import SequencedBatch
from tests.codec.log_values import facts, log_entries

GOLDEN = Path(__file__).parent / "golden"
KEY = "wal/00000000000000000007"
HEADER = Header(ObjectKind.WAL, 7, WriterIdentity(3, bytes(range(16))), nonce=0xDEADBEEF)
ID = StreamId(bytes(range(100, 116)))
BASIN, STREAM = BasinName("test-basin"), StreamName("a/b \u00e9")


def append_entry(payload: bytes = b"\x0a\x02\x08\x01") -> AppendEntry:
    return AppendEntry(ID, SequencedBatch(1, 1, 5, 6, 8, payload))


EVERYTHING: tuple[LogEntry, ...] = (
    BasinCreated(
        BasinRecord(
            BASIN,
            BasinConfig(
                StreamConfigLayer(StorageClass.STANDARD, RetentionPolicy(None)),
                StreamCipher.AEGIS_256,
                create_stream_on_append=True,
            ),
            1_700_000_000_000,
            creation=BasinCreation("request", BasinConfig()),
        )
    ),
    StreamCreated(
        StreamRecord(
            ID,
            BASIN,
            STREAM,
            StreamConfig(StorageClass.STANDARD, RetentionPolicy(2**64 - 1)),
            1_700_000_000_001,
            cipher=StreamCipher.AES_256_GCM,
            creation=StreamCreation("again", StreamConfigLayer(timestamping_uncapped=False)),
        )
    ),
    AppendEntry(
        ID,
        SequencedBatch(0, 2, 11, 12, 29, b"\x0a\x04\x10\x0b\x22\x00\x0a\x04\x08\x01\x10\x0c"),
        expires_at_ms=1_700_000_000_999,
        fencing_token="t\u00f6ken",
        trim_point=1,
    ),
    AppendEntry(ID, SequencedBatch(2, 1, 2**64 - 1, 2**64 - 1, 8, b"\x0a\x02\x08\x02")),
    AppendEntry(ID, SequencedBatch(3, 1, 0, 0, 8, b"\x0a\x02\x08\x03"), 0, "", 0),
    StreamReconfigured(
        ID, StreamConfig(timestamping_mode=TimestampingMode.ARRIVAL, timestamping_uncapped=True)
    ),
    StreamDeleted(ID, 1_700_000_001_000),
    StreamRemoved(ID),
    BasinDeleted(BASIN, 1_700_000_001_001),
    BasinRemoved(BASIN),
)
"""One of each, with optional parts present and absent; the golden object holds these."""


@pytest.mark.slow
@given(st.lists(log_entries, max_size=6))
def test_a_wal_object_decodes_to_what_was_encoded(entries: list[LogEntry]) -> None:
    data, located = encode_wal_object(HEADER, entries)
    header, decoded = decode_wal_object(KEY, data)
    assert header == HEADER
    assert [facts(each.entry) for each in decoded] == [facts(entry) for entry in entries]
    assert [each.location for each in decoded] == [each.location for each in located]


@pytest.mark.slow
@given(st.lists(log_entries, max_size=6))
def test_every_entry_decodes_alone_from_where_it_lies(entries: list[LogEntry]) -> None:
    data, located = encode_wal_object(HEADER, entries)
    for entry, each in zip(entries, located, strict=True):
        place = each.location
        assert place.wal_number == HEADER.number
        alone = decode_entry(KEY, data[place.offset : place.offset + place.size])
        assert facts(alone) == facts(entry)


def test_entries_lie_back_to_back_from_the_end_of_the_header() -> None:
    _, located = encode_wal_object(HEADER, EVERYTHING)
    assert located[0].location.offset == HEADER_BYTES
    for one, other in itertools.pairwise(located):
        assert one.location.is_followed_by(other.location)
        assert not other.location.is_followed_by(one.location)


def test_an_entry_of_the_next_object_does_not_follow() -> None:
    assert not EntryLocation(1, 64, 10).is_followed_by(EntryLocation(2, 74, 10))


def test_the_index_names_every_entry() -> None:
    data, located = encode_wal_object(HEADER, EVERYTHING)
    index_offset, count = struct.unpack_from(">QI", data, len(data) - 8 - 12)
    assert count == len(EVERYTHING)
    rows = struct.iter_unpack(">16sQI", data[index_offset : len(data) - 8 - 12])
    assert [(offset, size) for _, offset, size in rows] == [
        (each.location.offset, each.location.size) for each in located
    ]
    ids = [data[index_offset + 28 * row :][:16] for row in range(count)]
    assert ids == [ID if isinstance(each, AppendEntry) else bytes(16) for each in EVERYTHING]


# --- damage -----------------------------------------------------------------------------------


def test_any_flipped_byte_is_found() -> None:
    data, _ = encode_wal_object(HEADER, EVERYTHING)
    for index in range(len(data)):
        damaged = bytearray(data)
        damaged[index] ^= 0x01
        with pytest.raises(CorruptObject) as caught:
            decode_wal_object(KEY, bytes(damaged))
        assert caught.value.key == KEY


def test_any_truncation_is_found() -> None:
    data, _ = encode_wal_object(HEADER, EVERYTHING)
    for length in range(len(data)):
        with pytest.raises(CorruptObject):
            decode_wal_object(KEY, data[:length])


@pytest.mark.parametrize("which", range(len(EVERYTHING)))
def test_any_flipped_bit_of_an_entry_read_alone_is_found(which: int) -> None:
    data, located = encode_wal_object(HEADER, EVERYTHING)
    place = located[which].location
    frame = data[place.offset : place.offset + place.size]
    for index in range(len(frame)):
        for bit in (0, 7):
            damaged = bytearray(frame)
            damaged[index] ^= 1 << bit
            with pytest.raises(CorruptObject) as caught:
                decode_entry(KEY, bytes(damaged))
            assert caught.value.key == KEY
    for length in range(len(frame)):
        with pytest.raises(CorruptObject):
            decode_entry(KEY, frame[:length])
    with pytest.raises(CorruptObject):
        decode_entry(KEY, frame + b"\0")


def sealed_frames(*contents: bytes, count: int | None = None) -> bytes:
    """A WAL object with right checksums around entries of these contents."""
    frames = b"".join(
        struct.pack(">IQ", len(each), xxhash.xxh3_64_intdigest(each)) + each for each in contents
    )
    trailer = struct.pack(
        ">QI", HEADER_BYTES + len(frames), len(contents) if count is None else count
    )
    return seal(HEADER, frames + trailer)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"\x03 an entry of the future",
        b"\x01",
        b"\x01" + bytes(40),
        b"\x01\x04" + bytes(16 + 8 + 4 + 8 + 8 + 4 + 8 + 8) + b"\x02\xff\xfe",  # token not UTF-8
        b"\x01\x04" + bytes(16 + 8 + 4 + 8 + 8 + 4 + 8 + 8) + b"\x09abc",  # token cut short
        b"\x02",
        b"\x02nothing",
    ],
)
def test_an_entry_whose_checksum_is_right_and_whose_content_is_not_is_found(
    content: bytes,
) -> None:
    with pytest.raises(CorruptObject):
        decode_wal_object(KEY, sealed_frames(content))


@pytest.mark.parametrize("count", [0, 2, 2**32 - 1])
def test_a_wrong_number_of_entries_is_found(count: int) -> None:
    content = b"\x02" + b'{"change":"BasinRemoved","name":"test-basin"}'
    assert len(decode_wal_object(KEY, sealed_frames(content))[1]) == 1
    with pytest.raises(CorruptObject):
        decode_wal_object(KEY, sealed_frames(content, count=count))


def test_a_body_without_room_for_a_trailer_is_found() -> None:
    for length in range(12):
        with pytest.raises(CorruptObject):
            decode_wal_object(KEY, seal(HEADER, bytes(length)))


def test_a_fence_is_an_object_without_entries() -> None:
    header = Header(ObjectKind.FENCE, 7, HEADER.writer, 1)
    data, located = encode_wal_object(header, ())
    assert located == []
    assert decode_wal_object(KEY, data) == (header, [])


def test_a_manifest_is_no_wal_object() -> None:
    data = seal(Header(ObjectKind.MANIFEST, 7, HEADER.writer, 1), bytes(12))
    with pytest.raises(CorruptObject, match="it is a manifest object"):
        decode_wal_object(KEY, data)


# --- earlier formats --------------------------------------------------------------------------


def test_a_wal_object_of_the_first_format_can_be_read() -> None:
    data = bytes.fromhex((GOLDEN / "wal-1.0.hex").read_text())
    header, decoded = decode_wal_object(KEY, data)
    assert header == HEADER
    assert [facts(each.entry) for each in decoded] == [facts(each) for each in EVERYTHING]


def test_a_fence_of_the_first_format_can_be_read() -> None:
    data = bytes.fromhex((GOLDEN / "fence-1.0.hex").read_text())
    assert decode_wal_object(KEY, data) == (
        Header(ObjectKind.FENCE, 7, HEADER.writer, nonce=0xDEADBEEF),
        [],
    )
