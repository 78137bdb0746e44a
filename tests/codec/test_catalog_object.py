"""Catalog objects: round trips, damage that costs no more than its page, and the golden object."""

import struct
from itertools import accumulate
from pathlib import Path

import msgspec
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from s2lite.codec.catalog_object import (
    PAGE_ROWS,
    CatalogPage,
    decode_catalog_object,
    encode_catalog_object,
    encode_catalog_page,
    split_facts,
)
from s2lite.codec.envelope import HEADER_BYTES, Header, ObjectKind, WriterIdentity, seal, unseal
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
    BasinCreation,
    BasinRecord,
    CatalogFacts,
    LostRange,
    StreamCreation,
    StreamId,
    StreamRecord,
    StreamState,
)
from s2lite.model.names import BasinName, StreamName
from s2lite.model.positions import StreamPosition
from tests.codec.log_values import catalog_facts

GOLDEN = Path(__file__).parent / "golden"
KEY = "catalog/0000000003-0000000007"
HEADER = Header(ObjectKind.CATALOG, 7, WriterIdentity(3, bytes(range(16))), nonce=0xDEADBEEF)
BASIN, OTHER_BASIN = BasinName("test-basin"), BasinName("other-basin")
IDS = [StreamId(bytes([byte]) * 16) for byte in range(4)]
PAGE_HEAD_BYTES = 20

PAGES: list[CatalogFacts] = [
    CatalogFacts(
        basins={
            BASIN: BasinRecord(
                BASIN,
                BasinConfig(
                    StreamConfigLayer(
                        StorageClass.STANDARD,
                        RetentionPolicy(None),
                        TimestampingMode.ARRIVAL,
                        timestamping_uncapped=False,
                        delete_on_empty_min_age_seconds=60,
                    ),
                    StreamCipher.AEGIS_256,
                    create_stream_on_append=True,
                ),
                1_700_000_000_000,
                creation=BasinCreation("request", BasinConfig(create_stream_on_read=True)),
            ),
            OTHER_BASIN: BasinRecord(OTHER_BASIN, BasinConfig(), 0, 2**64 - 1),
            BasinName("removed-basin"): None,
        }
    ),
    CatalogFacts(
        streams={
            IDS[0]: StreamState(
                StreamRecord(
                    IDS[0],
                    BASIN,
                    StreamName("a/b \u00e9"),
                    StreamConfig(StorageClass.STANDARD, RetentionPolicy(2**64 - 1)),
                    1_700_000_000_001,
                    StreamCipher.AES_256_GCM,
                    creation=StreamCreation("", StreamConfigLayer(timestamping_uncapped=True)),
                ),
                StreamPosition(2**64 - 1, 1_700_000_000_002),
                "t\u00f6ken",
                12,
                (LostRange(13, 15, "the checksum does not match"), LostRange(17, 18, "")),
            ),
            IDS[1]: StreamState(
                StreamRecord(IDS[1], BASIN, StreamName("s"), StreamConfig(), 1, deleted_at_ms=0)
            ),
        }
    ),
    CatalogFacts(
        streams={
            IDS[2]: StreamState(
                StreamRecord(IDS[2], OTHER_BASIN, StreamName("s"), StreamConfig(), 1)
            ),
            IDS[3]: None,
        }
    ),
]
"""One of each, with optional parts present and absent; the golden object holds these pages."""
ENCODED = list(map(encode_catalog_page, PAGES))
WHOLE = encode_catalog_object(HEADER, ENCODED)
ENDS = list(accumulate(map(len, ENCODED), initial=HEADER_BYTES))


def pages_of(data: bytes) -> list[CatalogPage]:
    return list(decode_catalog_object(KEY, data)[1])


def assert_found(data: bytes, expected: list[CatalogFacts | None]) -> None:
    """The pages are these; None stands for a damaged one."""
    pages = pages_of(data)
    assert [page.facts for page in pages] == expected
    assert [page.index for page in pages] == list(range(len(expected)))
    for page in pages:
        assert (page.error is None) == (page.facts is not None)
        assert page.error is None or page.error.key == KEY


# --- round trips ------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.lists(catalog_facts(), max_size=4))
def test_a_catalog_object_decodes_to_the_pages_that_were_encoded(
    parts: list[CatalogFacts],
) -> None:
    data = encode_catalog_object(HEADER, map(encode_catalog_page, parts))
    assert unseal(KEY, data, ObjectKind.CATALOG)[0] == HEADER
    assert decode_catalog_object(KEY, data)[0] == HEADER
    assert_found(data, list(parts))


def test_an_object_without_pages_holds_nothing() -> None:
    assert_found(encode_catalog_object(HEADER, []), [])
    assert list(split_facts(CatalogFacts())) == []


def test_pages_are_decoded_only_when_they_are_asked_for() -> None:
    _, pages = decode_catalog_object(KEY, WHOLE[: ENDS[1]] + bytes(len(WHOLE) - ENDS[1]))
    assert next(pages).facts == PAGES[0]
    assert next(pages).facts is None


@pytest.mark.parametrize("count", [0, 1, PAGE_ROWS, PAGE_ROWS + 1, 3 * PAGE_ROWS])
def test_facts_are_split_into_full_pages_basins_first(count: int) -> None:
    stream = PAGES[1].streams[IDS[1]]
    whole = CatalogFacts(
        basins={BasinName(f"basin-{n:04d}"): None for n in range(count)},
        streams={StreamId(n.to_bytes(16, "big")): stream for n in range(count)},
    )
    parts = list(split_facts(whole))
    assert all(len(part.basins) + len(part.streams) <= PAGE_ROWS for part in parts)
    assert len(parts) == 2 * -(-count // PAGE_ROWS)
    assert [bool(part.basins) for part in parts] == sorted(
        (bool(part.basins) for part in parts), reverse=True
    )
    merged = CatalogFacts()
    for part in parts:
        merged.basins.update(part.basins)
        merged.streams.update(part.streams)
    assert merged == whole


def test_streams_of_one_page_share_what_they_have_in_common() -> None:
    def page_bytes(count: int) -> int:
        streams: dict[StreamId, StreamState | None] = {}
        for n in range(count):
            stream_id = StreamId(n.to_bytes(16, "big"))
            record = StreamRecord(stream_id, BASIN, StreamName(f"{n:03d}"), StreamConfig(), 1)
            streams[stream_id] = StreamState(record)
        return len(encode_catalog_page(CatalogFacts(streams=streams)))

    assert page_bytes(101) - page_bytes(100) < 50


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("which", range(len(PAGES)))
def test_a_damaged_page_is_found_and_the_others_are_whole(which: int) -> None:
    for index in range(ENDS[which] + PAGE_HEAD_BYTES, ENDS[which + 1]):
        damaged = bytearray(WHOLE)
        damaged[index] ^= 0x01
        assert_found(bytes(damaged), [*PAGES[:which], None, *PAGES[which + 1 :]])


@pytest.mark.parametrize("which", range(len(PAGES)))
def test_a_page_whose_length_is_not_known_takes_those_after_it_along(which: int) -> None:
    for index in range(ENDS[which], ENDS[which] + PAGE_HEAD_BYTES):
        damaged = bytearray(WHOLE)
        damaged[index] ^= 0x01
        assert_found(bytes(damaged), [*PAGES[:which], None])


def test_of_an_object_cut_short_the_pages_before_the_cut_are_whole() -> None:
    for length in range(HEADER_BYTES, len(WHOLE)):
        pages = pages_of(WHOLE[:length])
        whole = sum(end <= length for end in ENDS[1:])
        assert [page.facts for page in pages[:whole]] == PAGES[:whole]
        assert all(page.facts is None for page in pages[whole:])
        assert (len(pages) > whole) == (length < ENDS[-1])


def test_damage_behind_the_pages_costs_none() -> None:
    for index in range(ENDS[-1], len(WHOLE)):
        damaged = bytearray(WHOLE)
        damaged[index] ^= 0x01
        assert_found(bytes(damaged), list(PAGES))
        with pytest.raises(CorruptObject):
            unseal(KEY, bytes(damaged), ObjectKind.CATALOG)


def test_a_damaged_header_is_found() -> None:
    for index in range(HEADER_BYTES):
        damaged = bytearray(WHOLE)
        damaged[index] ^= 0x01
        with pytest.raises(CorruptObject):
            decode_catalog_object(KEY, bytes(damaged))
    for length in range(HEADER_BYTES):
        with pytest.raises(CorruptObject):
            decode_catalog_object(KEY, WHOLE[:length])


def test_a_segment_is_no_catalog_object() -> None:
    data = seal(Header(ObjectKind.SEGMENT, 7, HEADER.writer, 1), *ENCODED)
    with pytest.raises(CorruptObject, match="it is a segment object"):
        decode_catalog_object(KEY, data)


def with_content(content: bytes) -> bytes:
    """An object with right checksums around a page of this content, and a good page after it."""
    head = struct.pack(">IQ", len(content), xxhash.xxh3_64_intdigest(content))
    return encode_catalog_object(HEADER, [head + xxhash.xxh3_64_digest(head) + content, ENCODED[0]])


def with_stream(*changed: tuple[int, object], more: tuple[object, ...] = ()) -> bytes:
    """Such an object, whose first page has one stream with some of its columns changed."""
    row: list[object] = [IDS[0], 0, "s", 0, 1, None, None, None, None, 5, 6, "", 0, []]
    for column, value in changed:
        row[column] = value
    config = ["express", [60], "arrival", False, 0]
    page = [[], [], [[*row, *more]], [], [BASIN], [[*config, *more]], [], *more]
    return with_content(msgspec.msgpack.encode(page))


def test_fields_that_a_later_version_added_are_ignored() -> None:
    config = StreamConfig(
        retention_policy=RetentionPolicy(60), timestamping_mode=TimestampingMode.ARRIVAL
    )
    state = StreamState(
        StreamRecord(IDS[0], BASIN, StreamName("s"), config, 1), StreamPosition(5, 6)
    )
    for data in (with_stream(), with_stream(more=("new", [1]))):
        assert_found(data, [CatalogFacts(streams={IDS[0]: state}), PAGES[0]])


@pytest.mark.parametrize(
    "data",
    [
        with_content(b""),
        with_content(b"\xc1"),
        with_content(msgspec.msgpack.encode([])),
        with_content(msgspec.msgpack.encode({})),
        with_content(b"\x91" * 100_000),
        with_content(ENCODED[0][PAGE_HEAD_BYTES:] + b"\x00"),
        with_stream((0, "text")),
        with_stream((1, 1)),
        with_stream((1, None)),
        with_stream((3, 7)),
        with_stream((5, "rot13")),
        with_stream((7, "token"), (8, 0)),
        with_content(
            msgspec.msgpack.encode(
                [[], [], [], [], [], [["express", [0], "arrival", False, 0]], []]
            )
        ),
    ],
)
def test_a_page_whose_checksum_is_right_and_whose_content_is_not_is_damaged(data: bytes) -> None:
    assert_found(data, [None, PAGES[0]])


# --- the golden object ------------------------------------------------------------------------


def test_the_golden_object_is_what_is_written_and_read() -> None:
    data = bytes.fromhex((GOLDEN / "catalog-1.0.hex").read_text())
    assert data == WHOLE
    assert_found(data, list(PAGES))
