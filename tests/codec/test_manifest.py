"""Manifest objects."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2lite.codec.envelope import Header, ObjectKind, WriterIdentity, seal
from s2lite.codec.manifest import decode_manifest, encode_manifest
from s2lite.model.errors import CorruptObject
from s2lite.model.manifest import Manifest

GOLDEN = Path(__file__).parent / "golden"
KEY = "manifest/00000000000000000002"
HEADER = Header(ObjectKind.MANIFEST, 2, WriterIdentity(9, b"\x01" * 16), 5)


@given(st.builds(Manifest, st.integers(0, 2**64 - 1), st.integers(1, 2**64 - 1), st.booleans()))
def test_a_manifest_decodes_to_what_was_encoded(manifest: Manifest) -> None:
    assert decode_manifest(KEY, encode_manifest(HEADER, manifest)) == (HEADER, manifest)


def test_any_flipped_byte_is_found() -> None:
    data = encode_manifest(HEADER, Manifest(5, 4, closed_cleanly=True))
    for index in range(len(data)):
        damaged = bytearray(data)
        damaged[index] ^= 0x10
        with pytest.raises(CorruptObject):
            decode_manifest(KEY, bytes(damaged))


def test_any_truncation_is_found() -> None:
    data = encode_manifest(HEADER, Manifest())
    for length in range(len(data)):
        with pytest.raises(CorruptObject):
            decode_manifest(KEY, data[:length])


@pytest.mark.parametrize("body", [b"", b"[]", b"nothing", b'{"wal_floor":"x"}'])
def test_a_sealed_body_that_is_no_manifest_is_found(body: bytes) -> None:
    with pytest.raises(CorruptObject):
        decode_manifest(KEY, seal(HEADER, body))


def test_a_wal_object_is_no_manifest() -> None:
    header = Header(ObjectKind.WAL, 2, HEADER.writer, 5)
    with pytest.raises(CorruptObject, match="it is a wal object"):
        decode_manifest(KEY, seal(header, b"{}"))


def test_members_that_a_later_version_added_are_ignored() -> None:
    data = seal(HEADER, b'{"wal_floor":3,"segments":["a"]}')
    assert decode_manifest(KEY, data) == (HEADER, Manifest(wal_floor=3))


def test_a_manifest_of_the_first_format_can_be_read() -> None:
    data = bytes.fromhex((GOLDEN / "manifest-1.0.hex").read_text())
    header, manifest = decode_manifest(KEY, data)
    assert header == HEADER
    assert manifest == Manifest(wal_floor=17, wal_in_flight=4, closed_cleanly=True)
