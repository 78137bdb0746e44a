"""Manifest objects."""

from pathlib import Path

import pytest
from hypothesis import given

from s2lite.codec.envelope import Header, ObjectKind, WriterIdentity, seal
from s2lite.codec.manifest import decode_manifest, encode_manifest
from s2lite.model.errors import CorruptObject
from s2lite.model.log import StreamId
from s2lite.model.manifest import Manifest, ObjectId, Run, SegmentInfo, StreamKey
from tests.codec.log_values import manifests

GOLDEN = Path(__file__).parent / "golden"
KEY = "manifest/00000000000000000002"
HEADER = Header(ObjectKind.MANIFEST, 2, WriterIdentity(9, b"\x01" * 16), 5)

LOW, HIGH = StreamId(bytes(16)), StreamId(b"\xff" * 16)
EVERYTHING = Manifest(
    wal_floor=17,
    wal_in_flight=4,
    runs=(
        Run(
            1,
            (
                SegmentInfo(
                    ObjectId(3, 1),
                    33_000_000,
                    32_990_000,
                    StreamKey(LOW, 0),
                    StreamKey(LOW, 900),
                    expires_at_ms=1_700_000_000_999,
                    half_expires_at_ms=1_700_000_000_500,
                ),
                SegmentInfo(
                    ObjectId(3, 2), 500, 400, StreamKey(LOW, 900), StreamKey(HIGH, 2**64 - 1)
                ),
            ),
        ),
        Run(0, (SegmentInfo(ObjectId(8, 1), 300, 200, StreamKey(HIGH, 2), StreamKey(HIGH, 3)),)),
    ),
    catalog=(ObjectId(3, 3), ObjectId(8, 2)),
    wal_end=21,
    closed_cleanly=True,
    catalog_is_whole=False,
)


@given(manifests)
def test_a_manifest_decodes_to_what_was_encoded(manifest: Manifest) -> None:
    header, decoded = decode_manifest(KEY, encode_manifest(HEADER, manifest))
    assert (header, decoded) == (HEADER, manifest)
    assert all(isinstance(each, ObjectId) for each in decoded.catalog)
    assert all(isinstance(each.end, StreamKey) for each in decoded.segments)


def test_any_flipped_byte_is_found() -> None:
    data = encode_manifest(HEADER, EVERYTHING)
    for index in range(len(data)):
        damaged = bytearray(data)
        damaged[index] ^= 0x10
        with pytest.raises(CorruptObject):
            decode_manifest(KEY, bytes(damaged))


def test_any_truncation_is_found() -> None:
    data = encode_manifest(HEADER, EVERYTHING)
    for length in range(len(data)):
        with pytest.raises(CorruptObject):
            decode_manifest(KEY, data[:length])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nothing",
        b'{"wal_floor":"x"}',
        b'{"wal_floor":true}',
        b'{"wal_floor":1}{}',
        b'{"catalog":[[1]]}',
        b'{"runs":[{"tier":0}]}',
        b'{"runs":[{"tier":0,"segments":[[1,2,3,4,"00",5,"00",6,7]]}]}',
        b'{"runs":[{"tier":0,"segments":[[1,2,3,4,"zz",5,"00",6,7,8]]}]}',
        b'{"runs":[{"tier":0,"segments":[[1,2,3,4,"\xff\xff",5,"00",6,7,8]]}]}',
        b'{"unheard":' + b"[" * 100_000,
    ],
)
def test_a_sealed_body_that_is_no_manifest_is_found(body: bytes) -> None:
    with pytest.raises(CorruptObject) as caught:
        decode_manifest(KEY, seal(HEADER, body))
    assert caught.value.key == KEY


def test_a_wal_object_is_no_manifest() -> None:
    header = Header(ObjectKind.WAL, 2, HEADER.writer, 5)
    with pytest.raises(CorruptObject, match="it is a wal object"):
        decode_manifest(KEY, seal(header, b"{}"))


def test_what_a_later_version_added_is_ignored() -> None:
    data = seal(
        HEADER,
        b'{"wal_floor":3,"pins":["a"],"catalog":[[1,2,"new"]],"runs":[{"tier":0,"level":7,'
        b'"segments":[[1,2,300,200,"%b",5,"%b",6,7,null,"new"]]}]}' % ((b"00" * 16,) * 2),
    )
    info = SegmentInfo(ObjectId(1, 2), 300, 200, StreamKey(LOW, 5), StreamKey(LOW, 6), 7)
    assert decode_manifest(KEY, data)[1] == Manifest(
        wal_floor=3, runs=(Run(0, (info,)),), catalog=(ObjectId(1, 2),)
    )


def test_the_golden_manifest_is_what_is_written_and_read() -> None:
    data = bytes.fromhex((GOLDEN / "manifest-2.0.hex").read_text())
    assert encode_manifest(HEADER, EVERYTHING) == data
    assert decode_manifest(KEY, data) == (HEADER, EVERYTHING)


def test_a_manifest_of_the_first_format_can_be_read() -> None:
    data = bytes.fromhex((GOLDEN / "manifest-1.0.hex").read_text())
    header, manifest = decode_manifest(KEY, data)
    assert header == Header(ObjectKind.MANIFEST, 2, HEADER.writer, 5, version=(1, 0))
    assert manifest == Manifest(wal_floor=17, wal_in_flight=4, closed_cleanly=True)
