"""Segments: round trips, searches in the index, damage to each part, and the golden object."""

import struct
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from s2lite.codec.envelope import HEADER_BYTES, Header, ObjectKind, WriterIdentity, unseal
from s2lite.codec.segment import (
    ENTRY_OVERHEAD_BYTES,
    NEVER_MS,
    ROW_BYTES,
    BlockRow,
    Footer,
    SegmentBuilder,
    decode_block,
    decode_footer,
    encode_entry,
    footer_range,
)
from s2lite.model.errors import CorruptObject
from s2lite.model.log import AppendEntry, StreamId
from s2lite.model.manifest import ObjectId, SegmentInfo, StreamKey
from s2lite.model.records import SequencedBatch
from tests.codec.log_values import U32, U64, facts, stream_ids

GOLDEN = Path(__file__).parent / "golden"
KEY = "segment/0000000003-0000000007"
OBJECT_ID = ObjectId(3, 7)
HEADER = Header(ObjectKind.SEGMENT, 7, WriterIdentity(3, bytes(range(16))), nonce=0xDEADBEEF)
LOW, MIDDLE, HIGH = (StreamId(bytes([byte]) * 16) for byte in (0x11, 0x22, 0x33))


def entry(
    stream_id: StreamId,
    first_seq_num: int,
    count: int = 1,
    timestamp: int = 0,
    expires_at_ms: int | None = None,
    payload: bytes = b"\x0a\x02\x08\x01",
) -> AppendEntry:
    batch = SequencedBatch(first_seq_num, count, timestamp, timestamp, 8 * count, payload)
    return AppendEntry(stream_id, batch, expires_at_ms)


def add_block(builder: SegmentBuilder, block: Sequence[AppendEntry]) -> None:
    first, last = block[0], block[-1]
    expiries = [NEVER_MS if each.expires_at_ms is None else each.expires_at_ms for each in block]
    builder.add_block(
        first.stream_id,
        first.batch.first_seq_num,
        last.batch.end_seq_num,
        first.batch.first_timestamp,
        last.batch.last_timestamp,
        max(expiries),
        [piece for each in block for piece in encode_entry(each)],
    )


def build(blocks: Iterable[Sequence[AppendEntry]]) -> tuple[bytes, SegmentInfo]:
    builder = SegmentBuilder()
    for block in blocks:
        add_block(builder, block)
    data = builder.finish(HEADER)
    return bytes(data), builder.info(OBJECT_ID)


def footer_of(data: bytes, info: SegmentInfo) -> Footer:
    start, size = footer_range(info)
    return decode_footer(KEY, info, data[start : start + size])


def block_of(data: bytes | bytearray, row: BlockRow) -> memoryview:
    return memoryview(data)[row.offset : row.offset + row.size]


EVERYTHING: list[list[AppendEntry]] = [
    [
        entry(LOW, 0, 2, 1_700_000_000_000, 1_700_000_060_000, b"\x0a\x04\x08\x00\x10\x01" * 2),
        entry(LOW, 2, 1, 1_700_000_000_001, 1_700_000_060_001),
    ],
    [entry(LOW, 7, 1, 1_700_000_000_001, 1_700_000_060_002, b"")],
    [entry(MIDDLE, 2**64 - 2, 1, 2**64 - 1)],
    [entry(HIGH, 5, 3, 0, 0), entry(HIGH, 8, 1, 4, 9)],
]
"""Blocks of one and two entries, of one and several streams; the golden object holds these."""
WHOLE, INFO = build(EVERYTHING)


@st.composite
def blocks(draw: st.DrawFn) -> list[list[AppendEntry]]:
    """What a segment may hold: entries in order, cut into blocks of one stream each."""
    built: list[list[AppendEntry]] = []
    for stream_id in sorted(draw(st.sets(stream_ids, min_size=1, max_size=4))):
        next_seq_num, timestamp = draw(st.integers(0, 2**60)), draw(st.integers(0, 2**60))
        entries = []
        for _ in range(draw(st.integers(1, 5))):
            gap, count = draw(st.integers(0, 3)), draw(st.integers(1, 1000))
            last = timestamp + draw(st.integers(0, 3))
            batch = SequencedBatch(
                next_seq_num + gap, count, timestamp, last, draw(U32), draw(st.binary(max_size=30))
            )
            expires_at_ms = draw(st.none() | st.integers(0, NEVER_MS - 1))
            entries.append(AppendEntry(stream_id, batch, expires_at_ms))
            next_seq_num, timestamp = batch.end_seq_num, last
        sizes = draw(st.lists(st.integers(1, 3), min_size=5, max_size=5))
        rest = iter(entries)
        built.extend(part for size in sizes if (part := list(islice(rest, size))))
    return built


# --- round trips ------------------------------------------------------------------------------


@pytest.mark.slow
@given(blocks())
def test_every_block_of_a_segment_decodes_to_its_entries(built: list[list[AppendEntry]]) -> None:
    data, info = build(built)
    footer = footer_of(data, info)
    assert len(footer) == len(built)
    for block, row in zip(built, footer.rows(), strict=True):
        decoded = decode_block(KEY, row, block_of(data, row))
        assert list(map(facts, decoded)) == list(map(facts, block))


@pytest.mark.slow
@given(blocks())
def test_a_segment_is_a_sealed_object_and_its_parts_cover_all_of_it(
    built: list[list[AppendEntry]],
) -> None:
    data, info = build(built)
    header, body = unseal(KEY, data, ObjectKind.SEGMENT)
    assert header == HEADER
    assert info.size_bytes == len(data)
    offset = HEADER_BYTES
    for row in footer_of(data, info).rows():
        assert row.offset == offset
        offset += row.size
    assert offset == info.footer_offset
    rows, trailer = body[offset - HEADER_BYTES : -12], body[-12:]
    assert trailer == struct.pack(">IQ", len(built), xxhash.xxh3_64_intdigest(rows))


@pytest.mark.slow
@given(blocks())
def test_the_rows_say_what_is_in_their_blocks(built: list[list[AppendEntry]]) -> None:
    data, info = build(built)
    footer = footer_of(data, info)
    assert footer.size_bytes == ROW_BYTES * len(built)
    for index, (block, row) in enumerate(zip(built, footer.rows(), strict=True)):
        assert footer.row(index) == row
        first, last = block[0].batch, block[-1].batch
        assert row.stream_id == block[0].stream_id
        assert (row.first_seq_num, row.end_seq_num) == (first.first_seq_num, last.end_seq_num)
        assert row.first_timestamp == first.first_timestamp
        assert row.last_timestamp == last.last_timestamp
        assert row.checksum == xxhash.xxh3_64_intdigest(block_of(data, row))
        payloads = sum(len(each.batch.payload) for each in block)
        assert row.size == len(block) * ENTRY_OVERHEAD_BYTES + payloads
    assert info.first == StreamKey(built[0][0].stream_id, built[0][0].batch.first_seq_num)
    assert info.end == StreamKey(built[-1][-1].stream_id, built[-1][-1].batch.end_seq_num)
    assert info.object_id == OBJECT_ID


@pytest.mark.slow
@given(blocks())
def test_a_segment_of_copied_blocks_is_the_same(built: list[list[AppendEntry]]) -> None:
    data, info = build(built)
    builder = SegmentBuilder()
    for row in footer_of(data, info).rows():
        builder.add_block(
            row.stream_id,
            row.first_seq_num,
            row.end_seq_num,
            row.first_timestamp,
            row.last_timestamp,
            row.expires_at_ms,
            [block_of(data, row)],
            checksum=row.checksum,
        )
    assert builder.block_bytes == info.footer_offset - HEADER_BYTES
    assert builder.footer_bytes == ROW_BYTES * len(built)
    assert builder.finish(HEADER) == data
    assert builder.info(OBJECT_ID) == info


def test_a_block_that_was_damaged_before_it_was_copied_does_not_become_a_good_one() -> None:
    row = footer_of(WHOLE, INFO).row(2)
    damaged = bytearray(block_of(WHOLE, row))
    damaged[-1] ^= 0x01
    builder = SegmentBuilder()
    builder.add_block(
        row.stream_id,
        row.first_seq_num,
        row.end_seq_num,
        row.first_timestamp,
        row.last_timestamp,
        row.expires_at_ms,
        [bytes(damaged)],
        checksum=row.checksum,
    )
    data = builder.finish(HEADER)
    copied = footer_of(bytes(data), builder.info(OBJECT_ID)).row(0)
    with pytest.raises(CorruptObject):
        decode_block(KEY, copied, block_of(data, copied))


def test_a_builder_grows_by_what_it_is_given() -> None:
    builder = SegmentBuilder()
    assert (builder.block_bytes, builder.footer_bytes) == (0, 0)
    add_block(builder, [entry(LOW, 0, payload=bytes(100))])
    assert (builder.block_bytes, builder.footer_bytes) == (144, 76)
    add_block(builder, [entry(LOW, 1, payload=b""), entry(LOW, 2, payload=b"")])
    assert (builder.block_bytes, builder.footer_bytes) == (232, 152)


@pytest.mark.parametrize("later", [entry(LOW, 4), entry(StreamId(bytes(16)), 9)])
def test_blocks_out_of_order_are_a_mistake_of_the_caller(later: AppendEntry) -> None:
    builder = SegmentBuilder()
    add_block(builder, [entry(LOW, 4)])
    with pytest.raises(AssertionError):
        add_block(builder, [later])


# --- expiry -----------------------------------------------------------------------------------


def expiries(*sizes_and_times: tuple[int, int | None]) -> tuple[int | None, int | None]:
    """When half and when all has expired, of blocks of these sizes and times of expiry."""
    _, info = build(
        [entry(LOW, seq_num, expires_at_ms=time, payload=bytes(size - ENTRY_OVERHEAD_BYTES))]
        for seq_num, (size, time) in enumerate(sizes_and_times)
    )
    return info.half_expires_at_ms, info.expires_at_ms


def test_half_of_a_segment_has_expired_when_half_of_its_bytes_have() -> None:
    assert expiries((100, 5)) == (5, 5)
    assert expiries((100, 9), (100, 5)) == (5, 9)
    assert expiries((101, 9), (100, 5)) == (9, 9)
    assert expiries((100, 1), (100, 2), (100, 3)) == (2, 3)
    assert expiries((100, 3), (500, 2), (100, 1)) == (2, 3)


def test_what_never_expires_does_not_count_as_expired() -> None:
    assert expiries((100, None)) == (None, None)
    assert expiries((100, None), (100, 5)) == (5, None)
    assert expiries((101, None), (100, 5)) == (None, None)


@pytest.mark.slow
@given(blocks())
def test_the_times_of_expiry_agree_with_counting(built: list[list[AppendEntry]]) -> None:
    data, info = build(built)
    rows = list(footer_of(data, info).rows())

    def expired_bytes(now_ms: int) -> int:
        return sum(row.size for row in rows if row.expires_at_ms <= now_ms)

    total = sum(row.size for row in rows)
    times = sorted({row.expires_at_ms for row in rows} - {NEVER_MS})
    assert info.half_expires_at_ms == next(
        (time for time in times if 2 * expired_bytes(time) >= total), None
    )
    assert info.expires_at_ms == next(
        (time for time in times if expired_bytes(time) == total), None
    )


# --- searches ---------------------------------------------------------------------------------


def found_by_end(rows: list[BlockRow], stream_id: StreamId, seq_num: int) -> int:
    later = (
        index
        for index, row in enumerate(rows)
        if row.stream_id > stream_id or (row.stream_id == stream_id and row.end_seq_num > seq_num)
    )
    return next(later, len(rows))


def found_by_timestamp(rows: list[BlockRow], stream_id: StreamId, timestamp: int) -> int:
    later = (
        index
        for index, row in enumerate(rows)
        if row.stream_id > stream_id
        or (row.stream_id == stream_id and row.last_timestamp >= timestamp)
    )
    return next(later, len(rows))


@pytest.mark.slow
@given(blocks(), st.data())
def test_searches_agree_with_looking_at_every_row(
    built: list[list[AppendEntry]], data: st.DataObject
) -> None:
    footer = footer_of(*build(built))
    rows = list(footer.rows())
    row = data.draw(st.sampled_from(rows))
    stream_id = data.draw(st.just(row.stream_id) | stream_ids)
    near = st.integers(-2, 2)
    seq_num = data.draw(U64 | near.map(lambda by: max(0, row.end_seq_num + by)))
    assert footer.first_ending_after(stream_id, seq_num) == found_by_end(rows, stream_id, seq_num)
    timestamp = data.draw(U64 | near.map(lambda by: max(0, row.last_timestamp + by)))
    assert footer.first_at_or_after(stream_id, timestamp) == found_by_timestamp(
        rows, stream_id, timestamp
    )


def test_the_first_of_several_blocks_with_the_timestamp_is_found() -> None:
    footer = footer_of(*build([[entry(LOW, n, timestamp=t)] for n, t in enumerate((1, 5, 5, 6))]))
    found = [footer.first_at_or_after(LOW, timestamp) for timestamp in (0, 1, 2, 5, 6, 7)]
    assert found == [0, 0, 1, 1, 3, 4]


# --- damage -----------------------------------------------------------------------------------


def test_any_flipped_byte_is_found_by_whoever_reads_the_part_it_is_in() -> None:
    start, size = footer_range(INFO)
    rows = list(footer_of(WHOLE, INFO).rows())
    for index in range(len(WHOLE)):
        damaged = bytearray(WHOLE)
        damaged[index] ^= 0x01
        with pytest.raises(CorruptObject):
            unseal(KEY, bytes(damaged), ObjectKind.SEGMENT)
        if start <= index < start + size:
            with pytest.raises(CorruptObject) as caught:
                footer_of(bytes(damaged), INFO)
            assert caught.value.key == KEY
            continue
        assert list(footer_of(bytes(damaged), INFO).rows()) == rows
        for row in rows:
            if row.offset <= index < row.offset + row.size:
                with pytest.raises(CorruptObject) as caught:
                    decode_block(KEY, row, block_of(damaged, row))
                assert caught.value.key == KEY
            else:
                decode_block(KEY, row, block_of(damaged, row))


def test_any_truncation_of_a_part_is_found() -> None:
    footer = footer_of(WHOLE, INFO)
    for row in footer.rows():
        for length in range(row.size):
            with pytest.raises(CorruptObject):
                decode_block(KEY, row, block_of(WHOLE, row)[:length])
    start, size = footer_range(INFO)
    for length in range(size):
        with pytest.raises(CorruptObject):
            decode_footer(KEY, INFO, WHOLE[start : start + length])
    with pytest.raises(CorruptObject):
        decode_footer(KEY, INFO, WHOLE[start : start + size + 1])


@pytest.mark.parametrize(
    "others",
    [
        EVERYTHING[1:],
        [[entry(LOW, 1)], *EVERYTHING[1:]],
        [*EVERYTHING[:-1], [entry(HIGH, 5)]],
        [[entry(StreamId(bytes(16)), 0, 3)], *EVERYTHING[1:]],
        [[entry(LOW, 0, 3, payload=bytes(9))], *EVERYTHING[1:]],
    ],
)
def test_the_footer_of_another_segment_is_found(others: list[list[AppendEntry]]) -> None:
    data, info = build(others)
    start, size = footer_range(info)
    with pytest.raises(CorruptObject):
        decode_footer(KEY, INFO, data[start : start + size])


def test_a_block_of_another_place_is_found() -> None:
    first, second, *_ = footer_of(WHOLE, INFO).rows()
    with pytest.raises(CorruptObject):
        decode_block(KEY, first, block_of(WHOLE, second))


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\x00",
        bytes(ENTRY_OVERHEAD_BYTES - 1),
        struct.pack(">QIQQIQI", 5, 1, 0, 0, 8, 0, 3) + b"ab",  # the payload is cut short
        struct.pack(">QIQQIQI", 5, 1, 0, 0, 8, 0, 2) + b"abc",  # something follows
        struct.pack(">QIQQIQI", 4, 2, 0, 0, 8, 0, 2) + b"ab",  # begins elsewhere
        struct.pack(">QIQQIQI", 5, 2, 0, 0, 8, 0, 2) + b"ab",  # ends elsewhere
    ],
)
def test_a_block_whose_checksum_is_right_and_whose_content_is_not_is_found(block: bytes) -> None:
    row = BlockRow(LOW, 5, 6, 0, 0, 64, len(block), xxhash.xxh3_64_intdigest(block), 0)
    with pytest.raises(CorruptObject, match="does not hold what its index says"):
        decode_block(KEY, row, block)


# --- the golden object ------------------------------------------------------------------------


def test_the_golden_segment_is_what_is_written_and_read() -> None:
    data = bytes.fromhex((GOLDEN / "segment-1.0.hex").read_text())
    assert data == WHOLE
    assert (
        SegmentInfo(
            OBJECT_ID,
            size_bytes=len(data),
            footer_offset=data.index(LOW),
            first=StreamKey(LOW, 0),
            end=StreamKey(HIGH, 9),
            expires_at_ms=None,
            half_expires_at_ms=1_700_000_060_001,
        )
        == INFO
    )
    for block, row in zip(EVERYTHING, footer_of(data, INFO).rows(), strict=True):
        assert list(map(facts, decode_block(KEY, row, block_of(data, row)))) == [
            facts(each) for each in block
        ]
