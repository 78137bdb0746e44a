"""Catalog objects: basins and streams as they were at a flush, or those of them that had changed.

The body of a catalog object (see `envelope` for what is around it) is pages, back to back:

    page        size u32 | xxh3-64 of the content u64 | xxh3-64 of these two u64 | content

A page is verified by itself, so that damage costs only the pages it is in; and its size is, so that
the page after it is looked for only where it is. The content is MessagePack; the classes below are
its arrays, their fields in order. A later version may add fields at the end of an array. What many
rows share is in a table of the page, and a row has its index there.
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

import attrs
import msgspec

from s2lite.codec.envelope import HEADER_BYTES, Header, ObjectKind, checksum, read_head, seal
from s2lite.model.config import (
    BasinConfig,
    RetentionPolicy,
    StorageClass,
    StreamCipher,
    StreamConfig,
    StreamConfigLayer,
    TimestampingMode,
)
from s2lite.model.errors import CorruptObject, InvalidInput
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

K = TypeVar("K")
V = TypeVar("V")

PAGE_ROWS: Final = 256
"""So many basins or streams are in a page: few enough that encoding or decoding one is short."""

_PAGE = struct.Struct(">IQ")
_CHECKSUM = struct.Struct(">Q")
_HEAD_BYTES: Final = _PAGE.size + _CHECKSUM.size


@attrs.frozen
class CatalogPage:
    """One page of a catalog object: what is in it, or what is wrong with it."""

    index: int
    facts: CatalogFacts | None
    error: CorruptObject | None


# --- what the arrays hold ---------------------------------------------------------------------


class _Retention(msgspec.Struct, array_like=True, frozen=True, gc=False):
    age_seconds: int | None


class _Layer(msgspec.Struct, array_like=True, frozen=True, gc=False):
    storage_class: StorageClass | None
    retention: _Retention | None
    timestamping_mode: TimestampingMode | None
    timestamping_uncapped: bool | None
    delete_on_empty_min_age_seconds: int | None


class _Config(msgspec.Struct, array_like=True, frozen=True, gc=False):
    storage_class: StorageClass
    retention: _Retention
    timestamping_mode: TimestampingMode
    timestamping_uncapped: bool
    delete_on_empty_min_age_seconds: int


class _BasinConfig(msgspec.Struct, array_like=True, frozen=True, gc=False):
    default_stream_config: _Layer
    stream_cipher: StreamCipher | None
    create_stream_on_append: bool
    create_stream_on_read: bool


class _BasinRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    name: str
    config: _BasinConfig
    created_at_ms: int
    deleted_at_ms: int | None
    request_token: str | None  # of the request that created it, if it had one
    requested_config: _BasinConfig | None


class _LostRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    start: int
    end: int
    reason: str


class _StreamRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    stream_id: bytes
    basin: int  # index in the page's table of basin names
    name: str
    config: int  # index in the page's table of configs
    created_at_ms: int
    cipher: StreamCipher | None
    deleted_at_ms: int | None
    request_token: str | None  # of the request that created it, if it had one
    requested_config: int | None  # index in the page's table of layers
    tail_seq_num: int
    tail_timestamp: int
    fencing_token: str
    trim_point: int
    lost: tuple[_LostRow, ...]


class _Page(msgspec.Struct, array_like=True, frozen=True, gc=False):
    basins: list[_BasinRow]
    removed_basins: list[str]
    streams: list[_StreamRow]
    removed_streams: list[bytes]
    basin_names: list[str]
    configs: list[_Config]
    layers: list[_Layer]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Page)


# --- encoding ---------------------------------------------------------------------------------


def split_facts(facts: CatalogFacts) -> Iterator[CatalogFacts]:
    """The facts in parts that make one page each: basins first, then streams."""
    for basins in _parts(facts.basins):
        yield CatalogFacts(basins=basins)
    for streams in _parts(facts.streams):
        yield CatalogFacts(streams=streams)


def _parts(rows: dict[K, V]) -> Iterator[dict[K, V]]:
    items = iter(rows.items())
    while part := dict(islice(items, PAGE_ROWS)):
        yield part


def encode_catalog_object(header: Header, pages: Iterable[bytes]) -> bytes:
    """The whole object, of pages that `encode_catalog_page` made."""
    return seal(header, *pages)


def encode_catalog_page(facts: CatalogFacts) -> bytes:
    """One page with these basins and streams. There should be no more than `PAGE_ROWS` of them."""
    basin_names: dict[str, int] = {}
    configs: dict[StreamConfig, int] = {}
    layers: dict[StreamConfigLayer, int] = {}
    streams = [
        _stream_row(state, basin_names, configs, layers)
        for state in facts.streams.values()
        if state is not None
    ]
    content = _encoder.encode(
        _Page(
            basins=[_basin_row(record) for record in facts.basins.values() if record is not None],
            removed_basins=[name for name, record in facts.basins.items() if record is None],
            streams=streams,
            removed_streams=[key for key, state in facts.streams.items() if state is None],
            basin_names=list(basin_names),
            configs=list(map(_config, configs)),
            layers=list(map(_layer, layers)),
        )
    )
    head = _PAGE.pack(len(content), checksum(content))
    return b"".join((head, _CHECKSUM.pack(checksum(head)), content))


def _stream_row(
    state: StreamState,
    basin_names: dict[str, int],
    configs: dict[StreamConfig, int],
    layers: dict[StreamConfigLayer, int],
) -> _StreamRow:
    """The row of a stream; what it shares with others is added to the tables."""
    record, creation = state.record, state.record.creation
    return _StreamRow(
        record.stream_id,
        basin_names.setdefault(record.basin, len(basin_names)),
        record.name,
        configs.setdefault(record.config, len(configs)),
        record.created_at_ms,
        record.cipher,
        record.deleted_at_ms,
        None if creation is None else creation.request_token,
        None if creation is None else layers.setdefault(creation.config, len(layers)),
        state.tail.seq_num,
        state.tail.timestamp,
        state.fencing_token,
        state.trim_point,
        tuple(_LostRow(lost.start, lost.end, lost.reason) for lost in state.lost),
    )


def _basin_row(record: BasinRecord) -> _BasinRow:
    creation = record.creation
    return _BasinRow(
        record.name,
        _basin_config(record.config),
        record.created_at_ms,
        record.deleted_at_ms,
        None if creation is None else creation.request_token,
        None if creation is None else _basin_config(creation.config),
    )


def _basin_config(config: BasinConfig) -> _BasinConfig:
    return _BasinConfig(
        _layer(config.default_stream_config),
        config.stream_cipher,
        config.create_stream_on_append,
        config.create_stream_on_read,
    )


def _config(config: StreamConfig) -> _Config:
    return _Config(
        config.storage_class,
        _Retention(config.retention_policy.age_seconds),
        config.timestamping_mode,
        config.timestamping_uncapped,
        config.delete_on_empty_min_age_seconds,
    )


def _layer(layer: StreamConfigLayer) -> _Layer:
    policy = layer.retention_policy
    return _Layer(
        layer.storage_class,
        None if policy is None else _Retention(policy.age_seconds),
        layer.timestamping_mode,
        layer.timestamping_uncapped,
        layer.delete_on_empty_min_age_seconds,
    )


# --- decoding ---------------------------------------------------------------------------------


def decode_catalog_object(key: str, data: bytes) -> tuple[Header, Iterator[CatalogPage]]:
    """The header, and the pages, which are decoded one by one as they are asked for.

    A damaged page comes with an error in place of its facts. If it cannot be told how long a page
    is, it and all after it come as one damaged page. Raises `CorruptObject` naming `key` if the
    header is damaged.
    """
    header, body_bytes = read_head(key, data, ObjectKind.CATALOG)
    return header, _decode_pages(key, data, HEADER_BYTES + body_bytes)


def _decode_pages(key: str, data: bytes, end: int) -> Iterator[CatalogPage]:
    view, offset, index = memoryview(data), HEADER_BYTES, 0
    while offset < end:
        try:
            content = offset + _HEAD_BYTES
            size, expected = _page_head(key, view[offset:content])
        except CorruptObject as error:
            yield CatalogPage(index, None, error)
            return
        offset = content + size
        try:
            facts = _decode_page(key, view[content:offset], expected)
        except CorruptObject as error:
            yield CatalogPage(index, None, error)
        else:
            yield CatalogPage(index, facts, None)
        index += 1


def _page_head(key: str, head: memoryview) -> tuple[int, int]:
    """Size and checksum of the content."""
    if len(head) < _HEAD_BYTES:
        raise CorruptObject(key, "it is cut short")
    if checksum(head[: _PAGE.size]) != _CHECKSUM.unpack_from(head, _PAGE.size)[0]:
        raise CorruptObject(key, "the checksum of a page's size does not match")
    size, expected = _PAGE.unpack_from(head)
    return size, expected


def _decode_page(key: str, content: memoryview, expected: int) -> CatalogFacts:
    if checksum(content) != expected:
        raise CorruptObject(key, "the checksum of a page does not match")
    try:
        return _facts(_decoder.decode(content))
    except (msgspec.DecodeError, InvalidInput, ValueError, IndexError, RecursionError) as error:
        raise CorruptObject(key, f"a page does not hold what it should: {error!r}") from error


def _facts(page: _Page) -> CatalogFacts:
    facts = CatalogFacts()
    for basin in page.basins:
        facts.basins[BasinName(basin.name)] = _basin_record(basin)
    facts.basins.update((BasinName(name), None) for name in page.removed_basins)
    configs = list(map(_stream_config, page.configs))
    layers = list(map(_config_layer, page.layers))
    for row in page.streams:
        stream_id = StreamId(row.stream_id)
        facts.streams[stream_id] = _stream_state(row, page.basin_names, configs, layers)
    facts.streams.update((StreamId(stream_id), None) for stream_id in page.removed_streams)
    return facts


def _stream_state(
    row: _StreamRow,
    basin_names: list[str],
    configs: list[StreamConfig],
    layers: list[StreamConfigLayer],
) -> StreamState:
    creation = None
    if row.request_token is not None and row.requested_config is not None:
        creation = StreamCreation(row.request_token, layers[row.requested_config])
    record = StreamRecord(
        StreamId(row.stream_id),
        BasinName(basin_names[row.basin]),
        StreamName(row.name),
        configs[row.config],
        row.created_at_ms,
        row.cipher,
        row.deleted_at_ms,
        creation,
    )
    tail = StreamPosition(row.tail_seq_num, row.tail_timestamp)
    lost = tuple([LostRange(each.start, each.end, each.reason) for each in row.lost])
    return StreamState(record, tail, row.fencing_token, row.trim_point, lost)


def _basin_record(row: _BasinRow) -> BasinRecord:
    creation = None
    if row.request_token is not None and row.requested_config is not None:
        creation = BasinCreation(row.request_token, _config_of_basin(row.requested_config))
    return BasinRecord(
        BasinName(row.name),
        _config_of_basin(row.config),
        row.created_at_ms,
        row.deleted_at_ms,
        creation,
    )


def _config_of_basin(config: _BasinConfig) -> BasinConfig:
    return BasinConfig(
        _config_layer(config.default_stream_config),
        config.stream_cipher,
        config.create_stream_on_append,
        config.create_stream_on_read,
    )


def _stream_config(config: _Config) -> StreamConfig:
    return StreamConfig(
        config.storage_class,
        RetentionPolicy(config.retention.age_seconds),
        config.timestamping_mode,
        config.timestamping_uncapped,
        config.delete_on_empty_min_age_seconds,
    )


def _config_layer(layer: _Layer) -> StreamConfigLayer:
    return StreamConfigLayer(
        layer.storage_class,
        None if layer.retention is None else RetentionPolicy(layer.retention.age_seconds),
        layer.timestamping_mode,
        layer.timestamping_uncapped,
        layer.delete_on_empty_min_age_seconds,
    )
