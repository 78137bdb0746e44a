"""JSON bodies of the control plane: requests about basins and streams in, their state out.

Every decoder raises `JsonError` for a body that is malformed anywhere, and `InvalidInput` for a
well-formed one that asks for what is not allowed. Their texts name the path of the bad value.
"""

from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeVar

import attrs
import msgspec

from s2lite.codec import _strict_json as strict
from s2lite.codec._body_schema import (
    BasinConfigBody,
    BasinPatch,
    CreateBasinBody,
    CreateStreamBody,
    DeleteOnEmptyPatch,
    EnsureBasinBody,
    StreamConfigBody,
    StreamPatch,
    TimestampingPatch,
    structure,
    structure_value,
)
from s2lite.model.config import (
    KEEP,
    BasinConfig,
    BasinReconfiguration,
    Keep,
    RetentionPolicy,
    StreamConfig,
    StreamConfigLayer,
    StreamReconfiguration,
)
from s2lite.model.names import BasinName, LocationName, StreamName
from s2lite.model.resources import BasinInfo, Page, StreamInfo

T = TypeVar("T")

JsonObject = dict[str, object]

# --- in ---------------------------------------------------------------------------------------


@attrs.frozen
class CreateBasinRequest:
    """A basin to create; where the body leaves something out it has the default."""

    basin: BasinName
    config: BasinConfig
    location: LocationName | None


@attrs.frozen
class CreateStreamRequest:
    """A stream to create, with what the body sets of its configuration."""

    stream: StreamName
    config: StreamConfigLayer


def decode_create_basin(body: bytes) -> CreateBasinRequest:
    """Decode what creates a basin."""
    request = structure(body, CreateBasinBody)
    return CreateBasinRequest(request.basin, _basin_config(request.config), request.location)


def decode_ensure_basin(body: bytes) -> BasinConfig:
    """Decode what makes a basin be there; null stands for an empty object.

    A location is checked for its syntax, and not returned.
    """
    value = strict.loads(body)
    request = EnsureBasinBody() if value is None else structure_value(value, EnsureBasinBody)
    return _basin_config(request.config)


def decode_basin_patch(body: bytes) -> BasinReconfiguration:
    """Decode a change to a basin's configuration."""
    patch = structure(body, BasinPatch)
    stream_patch = _spelled_out(
        patch.default_stream_config, cleared=StreamPatch(None, None, None, None), kept=StreamPatch()
    )
    return BasinReconfiguration(
        _stream_change(stream_patch),
        patch.stream_cipher,
        patch.create_stream_on_append,
        patch.create_stream_on_read,
    )


def decode_create_stream(body: bytes) -> CreateStreamRequest:
    """Decode what creates a stream."""
    request = structure(body, CreateStreamBody)
    return CreateStreamRequest(request.stream, _layer(request.config))


def decode_stream_config(body: bytes) -> StreamConfigLayer:
    """Decode a bare stream configuration; null stands for an empty object."""
    value = strict.loads(body)
    return _layer(None if value is None else structure_value(value, StreamConfigBody))


def decode_stream_config_header(value: bytes) -> StreamConfigLayer:
    """Decode the stream configuration in a request's header, which has to be an object."""
    return _layer(structure(value, StreamConfigBody))


def decode_stream_patch(body: bytes) -> StreamReconfiguration:
    """Decode a change to a stream's configuration."""
    return _stream_change(structure(body, StreamPatch))


def _basin_config(config: BasinConfigBody | None) -> BasinConfig:
    if config is None:
        return BasinConfig()
    return BasinConfig(
        _layer(config.default_stream_config),
        config.stream_cipher,
        config.create_stream_on_append,
        config.create_stream_on_read,
    )


def _layer(config: StreamConfigBody | None) -> StreamConfigLayer:
    if config is None:
        return StreamConfigLayer()
    timestamping, delete_on_empty = config.timestamping, config.delete_on_empty
    return StreamConfigLayer(
        config.storage_class,
        config.retention_policy,
        timestamping.mode if timestamping else None,
        timestamping.uncapped if timestamping else None,
        delete_on_empty.min_age_secs if delete_on_empty else None,
    )


def _stream_change(patch: StreamPatch) -> StreamReconfiguration:
    timestamping = _spelled_out(
        patch.timestamping, cleared=TimestampingPatch(None, None), kept=TimestampingPatch()
    )
    delete_on_empty = _spelled_out(
        patch.delete_on_empty, cleared=DeleteOnEmptyPatch(None), kept=DeleteOnEmptyPatch()
    )
    return StreamReconfiguration(
        patch.storage_class,
        patch.retention_policy,
        timestamping.mode,
        timestamping.uncapped,
        delete_on_empty.min_age_secs,
    )


def _spelled_out(part: T | Literal[Keep.KEEP] | None, *, cleared: T, kept: T) -> T:
    """Say of each member of an object what was said of the object as a whole."""
    if part is None:
        return cleared
    return kept if part is KEEP else part


# --- out --------------------------------------------------------------------------------------

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_encode: Final = msgspec.json.Encoder().encode


def encode_basin_info(info: BasinInfo) -> bytes:
    """Encode a basin."""
    return _encode(_basin_info(info))


def encode_stream_info(info: StreamInfo) -> bytes:
    """Encode a stream."""
    return _encode(_stream_info(info))


def encode_basin_page(page: Page[BasinInfo]) -> bytes:
    """Encode part of a listing of basins."""
    return _encode({"basins": list(map(_basin_info, page.items)), "has_more": page.has_more})


def encode_stream_page(page: Page[StreamInfo]) -> bytes:
    """Encode part of a listing of streams."""
    return _encode({"streams": list(map(_stream_info, page.items)), "has_more": page.has_more})


def encode_stream_config(config: StreamConfig) -> bytes:
    """Encode a stream's configuration, which has every leaf."""
    return _encode(
        {
            "storage_class": config.storage_class,
            "retention_policy": _retention_policy(config.retention_policy),
            "timestamping": {
                "mode": config.timestamping_mode,
                "uncapped": config.timestamping_uncapped,
            },
            "delete_on_empty": {"min_age_secs": config.delete_on_empty_min_age_seconds},
        }
    )


def encode_basin_config(config: BasinConfig) -> bytes:
    """Encode a basin's configuration; what is unset in it is null."""
    return _encode(
        {
            "default_stream_config": _default_stream_config(config.default_stream_config),
            "stream_cipher": config.stream_cipher,
            "create_stream_on_append": config.create_stream_on_append,
            "create_stream_on_read": config.create_stream_on_read,
        }
    )


def _basin_info(info: BasinInfo) -> JsonObject:
    return {
        "name": info.name,
        "location": info.location,
        "created_at": _timestamp(info.created_at_ms),
        "deleted_at": _timestamp(info.deleted_at_ms),
        "state": "active" if info.deleted_at_ms is None else "deleting",
    }


def _stream_info(info: StreamInfo) -> JsonObject:
    return {
        "name": info.name,
        "created_at": _timestamp(info.created_at_ms),
        "deleted_at": _timestamp(info.deleted_at_ms),
        "cipher": info.cipher,
    }


def _default_stream_config(layer: StreamConfigLayer) -> JsonObject | None:
    if layer == StreamConfigLayer():
        return None
    mode, uncapped = layer.timestamping_mode, layer.timestamping_uncapped
    min_age = layer.delete_on_empty_min_age_seconds
    retention = layer.retention_policy
    return {
        "storage_class": layer.storage_class,
        "retention_policy": None if retention is None else _retention_policy(retention),
        "timestamping": None
        if mode is None and uncapped is None
        else {"mode": mode, "uncapped": uncapped},
        "delete_on_empty": None if min_age is None else {"min_age_secs": min_age},
    }


def _retention_policy(policy: RetentionPolicy) -> JsonObject:
    return {"infinite": {}} if policy.age_seconds is None else {"age": policy.age_seconds}


def _timestamp(ms: int | None) -> str | None:
    """Write a time as RFC 3339 asks for, in UTC and without trailing zeros."""
    if ms is None:
        return None
    moment = _EPOCH + timedelta(milliseconds=ms)
    fraction = f".{ms % 1000:03}".rstrip(".0")
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"
