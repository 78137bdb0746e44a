"""Manifest objects: JSON in the common envelope.

A manifest is small enough to be kept in a form that a person can read and a later version can
extend: unknown members are ignored, and so is what follows the known elements of an array. A
segment is an array, because there may be very many; stream ids are hexadecimal digits. The classes
below are what is written. Version 1 has no members but `wal_floor`, `wal_in_flight` and
`closed_cleanly`.
"""

import msgspec

from s2lite.codec.envelope import Header, ObjectKind, seal, unseal
from s2lite.model.errors import CorruptObject
from s2lite.model.log import StreamId
from s2lite.model.manifest import Manifest, ObjectId, Run, SegmentInfo, StreamKey


class _Segment(msgspec.Struct, array_like=True, frozen=True, gc=False):
    epoch: int
    number: int
    size_bytes: int
    footer_offset: int
    first_stream: str
    first_seq_num: int
    end_stream: str
    end_seq_num: int
    expires_at_ms: int | None
    half_expires_at_ms: int | None


class _CatalogObject(msgspec.Struct, array_like=True, frozen=True, gc=False):
    epoch: int
    number: int


class _Run(msgspec.Struct, frozen=True):
    tier: int
    segments: list[_Segment]


class _Manifest(msgspec.Struct, frozen=True):
    wal_floor: int = 0
    wal_in_flight: int = 1
    runs: list[_Run] = []
    catalog: list[_CatalogObject] = []
    wal_end: int | None = None
    closed_cleanly: bool = False
    catalog_is_whole: bool = True


def encode_manifest(header: Header, manifest: Manifest) -> bytes:
    """The whole object."""
    body = _Manifest(
        manifest.wal_floor,
        manifest.wal_in_flight,
        [_Run(run.tier, list(map(_segment, run.segments))) for run in manifest.runs],
        [_CatalogObject(*object_id) for object_id in manifest.catalog],
        manifest.wal_end,
        manifest.closed_cleanly,
        manifest.catalog_is_whole,
    )
    return seal(header, msgspec.json.encode(body))


def decode_manifest(key: str, data: bytes) -> tuple[Header, Manifest]:
    """The header and the manifest; raises `CorruptObject` naming `key` if it is damaged."""
    header, body = unseal(key, data, ObjectKind.MANIFEST)
    try:
        decoded = msgspec.json.decode(body, type=_Manifest)
        manifest = Manifest(
            decoded.wal_floor,
            decoded.wal_in_flight,
            tuple(Run(run.tier, tuple(map(_segment_info, run.segments))) for run in decoded.runs),
            tuple(ObjectId(each.epoch, each.number) for each in decoded.catalog),
            decoded.wal_end,
            decoded.closed_cleanly,
            decoded.catalog_is_whole,
        )
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise CorruptObject(key, f"it does not hold what it should: {error!r}") from error
    return header, manifest


def _segment(info: SegmentInfo) -> _Segment:
    return _Segment(
        *info.object_id,
        info.size_bytes,
        info.footer_offset,
        info.first.stream_id.hex(),
        info.first.seq_num,
        info.end.stream_id.hex(),
        info.end.seq_num,
        info.expires_at_ms,
        info.half_expires_at_ms,
    )


def _segment_info(segment: _Segment) -> SegmentInfo:
    return SegmentInfo(
        ObjectId(segment.epoch, segment.number),
        segment.size_bytes,
        segment.footer_offset,
        StreamKey(StreamId(bytes.fromhex(segment.first_stream)), segment.first_seq_num),
        StreamKey(StreamId(bytes.fromhex(segment.end_stream)), segment.end_seq_num),
        segment.expires_at_ms,
        segment.half_expires_at_ms,
    )
