"""The frame around every object: what it says, and that no damage gets past it."""

import struct

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from s2lite.codec.envelope import (
    CHECKSUM,
    FORMAT_VERSIONS,
    HEADER_BYTES,
    Header,
    ObjectKind,
    WriterIdentity,
    checksum,
    encode_head,
    read_head,
    read_header,
    seal,
    unseal,
)
from s2lite.model.errors import CorruptObject

KEY = "wal/00000000000000000007"
WRITER = WriterIdentity(3, bytes(range(16)))
HEADER = Header(ObjectKind.WAL, 7, WRITER, nonce=0xDEADBEEF)
U64 = st.integers(0, 2**64 - 1)

headers = st.builds(
    Header,
    st.sampled_from(ObjectKind),
    U64,
    st.builds(WriterIdentity, U64, st.binary(min_size=16, max_size=16)),
    U64,
)


def with_head(data: bytes, offset: int, new: bytes) -> bytes:
    """The object with some header bytes replaced and the header's checksum made right again."""
    head = bytearray(data[:56])
    head[offset : offset + len(new)] = new
    return bytes(head) + struct.pack(">Q", xxhash.xxh3_64_intdigest(bytes(head))) + data[64:]


@given(headers, st.binary(max_size=200))
def test_what_was_sealed_is_unsealed(header: Header, body: bytes) -> None:
    data = seal(header, body)
    found, content = unseal(KEY, data, *ObjectKind)
    assert (found, bytes(content)) == (header, body)
    assert read_header(KEY, data) == header
    assert read_header(KEY, data[:HEADER_BYTES]) == header


def test_the_layout_is_the_documented_one() -> None:
    data = seal(HEADER, b"body")
    assert data[:8] == b"S2LT\x01\x01\x01\x00"
    assert data[8:24] == struct.pack(">QQ", 7, 3)
    assert data[24:40] == bytes(range(16))
    assert data[40:56] == struct.pack(">QQ", 0xDEADBEEF, 4)
    assert data[56:64] == xxhash.xxh3_64_digest(data[:56])
    assert data[64:] == b"body" + xxhash.xxh3_64_digest(b"body")


@given(headers, st.lists(st.binary(max_size=20), max_size=4))
def test_an_object_put_together_in_steps_is_the_one_that_is_sealed(
    header: Header, pieces: list[bytes]
) -> None:
    body = b"".join(pieces)
    by_hand = encode_head(header, len(body)) + body + CHECKSUM.pack(checksum(*pieces))
    assert by_hand == seal(header, *pieces) == seal(header, body)


@pytest.mark.parametrize("kind", ObjectKind)
def test_an_object_says_which_version_of_its_kind_was_written(kind: ObjectKind) -> None:
    header = Header(kind, 7, WRITER, nonce=1)
    assert header.version == FORMAT_VERSIONS[kind]
    assert read_header(KEY, seal(header, b"")).version == FORMAT_VERSIONS[kind]


def test_a_flip_of_any_bit_is_found() -> None:
    data = seal(HEADER, b"a body of some bytes")
    for index in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[index] ^= 1 << bit
            with pytest.raises(CorruptObject) as caught:
                unseal(KEY, bytes(damaged), *ObjectKind)
            assert caught.value.key == KEY


def test_a_flip_of_any_bit_of_the_header_is_found_by_whoever_reads_only_that() -> None:
    data = seal(HEADER, b"body")[:HEADER_BYTES]
    for index in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[index] ^= 1 << bit
            with pytest.raises(CorruptObject):
                read_header(KEY, bytes(damaged))


def test_an_object_that_is_cut_short_anywhere_is_found() -> None:
    data = seal(HEADER, b"body")
    for length in range(len(data)):
        with pytest.raises(CorruptObject):
            unseal(KEY, data[:length], *ObjectKind)


def test_an_object_with_something_after_its_end_is_found() -> None:
    with pytest.raises(CorruptObject, match="bytes"):
        unseal(KEY, seal(HEADER, b"body") + b"\0", *ObjectKind)


def test_an_object_of_another_kind_than_expected_is_refused() -> None:
    with pytest.raises(CorruptObject, match="it is a wal object"):
        unseal(KEY, seal(HEADER, b""), ObjectKind.MANIFEST)


def test_an_object_of_something_else_is_refused() -> None:
    with pytest.raises(CorruptObject, match="does not begin like"):
        unseal(KEY, with_head(seal(HEADER, b""), 0, b"PNG!"), ObjectKind.WAL)


def test_a_head_is_read_of_what_is_damaged_behind_it() -> None:
    data = seal(HEADER, b"body")
    for damaged in (data[:HEADER_BYTES], data[:-3], data[:66] + b"??" + data[68:]):
        assert read_head(KEY, damaged, ObjectKind.WAL) == (HEADER, 4)
    with pytest.raises(CorruptObject, match="it is a wal object"):
        read_head(KEY, data, ObjectKind.CATALOG)


def test_an_older_major_version_is_read() -> None:
    header = Header(ObjectKind.MANIFEST, 7, WRITER, nonce=1, version=(1, 0))
    found, body = unseal(KEY, seal(header, b"{}"), ObjectKind.MANIFEST)
    assert (found, bytes(body)) == (header, b"{}")


def test_a_newer_major_version_is_refused_with_a_reason() -> None:
    data = with_head(seal(HEADER, b"body"), 5, b"\x02")
    with pytest.raises(CorruptObject, match=r"format version 2\.1 is newer than this server reads"):
        read_header(KEY, data)


def test_a_newer_minor_version_is_read() -> None:
    data = with_head(seal(HEADER, b"body"), 6, b"\x09")
    found, content = unseal(KEY, data, ObjectKind.WAL)
    assert found.version == (1, 9)
    assert bytes(content) == b"body"


def test_an_unknown_kind_is_refused_with_a_reason() -> None:
    with pytest.raises(CorruptObject, match="a newer server wrote it"):
        read_header(KEY, with_head(seal(HEADER, b""), 4, b"\x63"))
