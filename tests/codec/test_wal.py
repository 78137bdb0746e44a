"""WAL objects: round trips, damage, what is saved from it, and objects of earlier formats."""

import struct
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from s2lite.codec.envelope import HEADER_BYTES, Header, ObjectKind, WriterIdentity, seal
from s2lite.codec.wal import (
    LostEntry,
    decode_wal_object,
    encode_wal_object,
    salvage_wal_object,
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


WHOLE = encode_wal_object(HEADER, EVERYTHING)
INDEX_OFFSET, _ = struct.unpack_from(">QI", WHOLE, len(WHOLE) - 20)
PLACES: list[tuple[int, int]] = [
    (offset, offset + size)
    for _, offset, size, *_ in struct.iter_unpack(">16sQIQQQ", WHOLE[INDEX_OFFSET:-28])
]
"""Where each entry of it begins and ends."""


@pytest.mark.slow
@given(st.lists(log_entries, max_size=6))
def test_a_wal_object_decodes_to_what_was_encoded(entries: list[LogEntry]) -> None:
    header, decoded = decode_wal_object(KEY, encode_wal_object(HEADER, entries))
    assert header == HEADER
    assert list(map(facts, decoded)) == list(map(facts, entries))


def test_entries_lie_back_to_back_between_header_and_index() -> None:
    starts, ends = zip(*PLACES, strict=True)
    assert (*starts, INDEX_OFFSET) == (HEADER_BYTES, *ends)


def test_the_index_names_every_entry_and_its_records() -> None:
    trailer = WHOLE[-28:-8]
    index = WHOLE[INDEX_OFFSET:-28]
    assert trailer == xxhash.xxh3_64_digest(index) + struct.pack(">QI", INDEX_OFFSET, 10)
    rows = list(struct.iter_unpack(">16sQIQQQ", index))
    assert [(row[0], *row[3:]) for row in rows] == [
        (
            each.stream_id,
            each.batch.first_seq_num,
            each.batch.end_seq_num,
            each.batch.last_timestamp,
        )
        if isinstance(each, AppendEntry)
        else (bytes(16), 0, 0, 0)
        for each in EVERYTHING
    ]


# --- damage -----------------------------------------------------------------------------------


def test_any_flipped_byte_is_found() -> None:
    for index in range(len(WHOLE)):
        damaged = bytearray(WHOLE)
        damaged[index] ^= 0x01
        with pytest.raises(CorruptObject) as caught:
            decode_wal_object(KEY, bytes(damaged))
        assert caught.value.key == KEY


def test_any_truncation_is_found() -> None:
    for length in range(len(WHOLE)):
        with pytest.raises(CorruptObject):
            decode_wal_object(KEY, WHOLE[:length])


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
    assert decode_wal_object(KEY, encode_wal_object(header, ())) == (header, [])


def test_a_manifest_is_no_wal_object() -> None:
    data = seal(Header(ObjectKind.MANIFEST, 7, HEADER.writer, 1), bytes(12))
    with pytest.raises(CorruptObject, match="it is a manifest object"):
        decode_wal_object(KEY, data)


# --- what is saved from damage ----------------------------------------------------------------


def flipped(data: bytes, *indices: int) -> bytes:
    damaged = bytearray(data)
    for index in indices:
        damaged[index] ^= 0x40
    return bytes(damaged)


def salvaged(data: bytes) -> tuple[list[object], list[LostEntry]]:
    """The facts of the entries that are left, and what is lost."""
    salvage = salvage_wal_object(KEY, data)
    assert salvage.header.number == HEADER.number
    assert salvage.error.key == KEY
    return list(map(facts, salvage.entries)), salvage.lost


def facts_without(*indices: int) -> list[object]:
    return [facts(entry) for index, entry in enumerate(EVERYTHING) if index not in indices]


def lost(entry: LogEntry) -> LostEntry:
    if not isinstance(entry, AppendEntry):
        return LostEntry(None)
    batch = entry.batch
    return LostEntry(entry.stream_id, batch.first_seq_num, batch.end_seq_num, batch.last_timestamp)


@pytest.mark.parametrize("which", range(len(EVERYTHING)))
def test_a_damaged_entry_is_lost_alone_wherever_it_is_damaged(which: int) -> None:
    for index in range(*PLACES[which]):
        found = salvaged(flipped(WHOLE, index))
        assert found == (facts_without(which), [lost(EVERYTHING[which])])


def test_several_damaged_entries_are_lost_and_named_in_order() -> None:
    starts = [start for start, _ in PLACES]
    found = salvaged(flipped(WHOLE, *starts[2:5], starts[8]))
    assert found == (facts_without(2, 3, 4, 8), [lost(EVERYTHING[n]) for n in (2, 3, 4, 8)])


def test_damage_behind_the_entries_loses_none() -> None:
    for index in range(INDEX_OFFSET, len(WHOLE)):
        entries, gone = salvaged(flipped(WHOLE, index))
        assert entries == facts_without()
        trailer_is_damaged = len(WHOLE) - 20 <= index < len(WHOLE) - 8
        assert gone == ([LostEntry(None)] if trailer_is_damaged else [])


def test_an_object_with_something_after_its_end_loses_nothing() -> None:
    assert salvaged(WHOLE + b"more") == (facts_without(), [])


def test_of_an_object_cut_short_the_entries_before_the_cut_are_left() -> None:
    for length in range(HEADER_BYTES, len(WHOLE)):
        entries, gone = salvaged(WHOLE[:length])
        assert entries == facts_without()[: sum(end <= length for _, end in PLACES)]
        assert gone == ([LostEntry(None)] if length < len(WHOLE) - 8 else [])


def test_nothing_is_saved_if_the_header_is_damaged() -> None:
    for index in range(HEADER_BYTES):
        with pytest.raises(CorruptObject):
            salvage_wal_object(KEY, flipped(WHOLE, index))
    for length in range(HEADER_BYTES):
        with pytest.raises(CorruptObject):
            salvage_wal_object(KEY, WHOLE[:length])


@pytest.mark.parametrize("row_byte", [16, 24, 28, 40, 48])
def test_without_a_trusted_index_it_is_not_known_what_was_lost(row_byte: int) -> None:
    start, _ = PLACES[3]
    entries, gone = salvaged(flipped(WHOLE, start + 12, INDEX_OFFSET + row_byte))
    assert gone == [LostEntry(None)]
    # A row that says where an entry is not leaves no way past the damaged one.
    where_is_damaged = row_byte < 28
    assert entries == (facts_without()[:3] if where_is_damaged else facts_without(3))


def test_bytes_of_a_client_that_look_like_an_entry_are_never_taken_for_one() -> None:
    forged = encode_wal_object(HEADER, [BasinRemoved(BASIN)])
    forged = forged[HEADER_BYTES : struct.unpack_from(">Q", forged, len(forged) - 20)[0]]
    entries = [append_entry(b"x" * 20 + forged), append_entry()]
    data = encode_wal_object(HEADER, entries)
    index_offset = struct.unpack_from(">Q", data, len(data) - 20)[0]
    # The damaged size leads exactly to the forged entry, and the damaged index does not help.
    damaged = bytearray(flipped(data, index_offset + 20))
    struct.pack_into(">I", damaged, HEADER_BYTES, data.index(forged) - HEADER_BYTES - 12)
    assert salvaged(bytes(damaged)) == ([], [LostEntry(None)])


def test_a_damaged_fence_has_lost_nothing() -> None:
    header = Header(ObjectKind.FENCE, 7, HEADER.writer, 1)
    data = encode_wal_object(header, ())
    for index in range(HEADER_BYTES, len(data)):
        assert salvaged(flipped(data, index)) == ([], [])
    for length in range(HEADER_BYTES, len(data)):
        assert salvaged(data[:length]) == ([], [])


@pytest.mark.slow
@given(st.lists(log_entries, max_size=5), st.data())
def test_any_damage_leaves_only_true_entries_in_their_order(
    entries: list[LogEntry], data: st.DataObject
) -> None:
    encoded = encode_wal_object(HEADER, entries)
    positions = st.integers(HEADER_BYTES, len(encoded) - 1)
    damaged = bytearray(flipped(encoded, *data.draw(st.sets(positions, min_size=1, max_size=4))))
    del damaged[data.draw(st.just(len(damaged)) | positions) :]
    found, gone = salvaged(bytes(damaged))
    rest = iter(map(facts, entries))
    assert all(each in rest for each in found)
    assert gone or len(found) == len(entries)


# --- earlier formats --------------------------------------------------------------------------


def golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


def test_the_golden_object_is_what_is_written_and_read() -> None:
    assert golden("wal-1.1") == WHOLE
    header, decoded = decode_wal_object(KEY, golden("wal-1.1"))
    assert header == HEADER
    assert list(map(facts, decoded)) == list(map(facts, EVERYTHING))


def test_the_golden_fence_is_what_is_written_and_read() -> None:
    header = Header(ObjectKind.FENCE, 7, HEADER.writer, nonce=0xDEADBEEF)
    assert encode_wal_object(header, ()) == golden("fence-1.1")
    assert decode_wal_object(KEY, golden("fence-1.1")) == (header, [])


def test_a_wal_object_of_the_first_format_can_be_read() -> None:
    header, decoded = decode_wal_object(KEY, golden("wal-1.0"))
    assert header == Header(ObjectKind.WAL, 7, HEADER.writer, 0xDEADBEEF, version=(1, 0))
    assert list(map(facts, decoded)) == list(map(facts, EVERYTHING))


def test_a_fence_of_the_first_format_can_be_read() -> None:
    assert decode_wal_object(KEY, golden("fence-1.0")) == (
        Header(ObjectKind.FENCE, 7, HEADER.writer, 0xDEADBEEF, version=(1, 0)),
        [],
    )


@pytest.mark.parametrize("which", range(len(EVERYTHING)))
def test_a_damaged_entry_of_the_first_format_is_lost_alone_but_not_named(which: int) -> None:
    for index in range(*PLACES[which]):
        found = salvaged(flipped(golden("wal-1.0"), index))
        assert found == (facts_without(which), [LostEntry(None)])


def test_damage_behind_the_entries_of_the_first_format_loses_none() -> None:
    data = golden("wal-1.0")
    for index in range(INDEX_OFFSET, len(data)):
        assert salvaged(flipped(data, index))[0] == facts_without()
