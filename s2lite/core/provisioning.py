"""Decides what a control-plane request does: which changes it makes to the catalog, and the answer.

Theory of operation. A decision is a pure function of the request and a view of the catalog that
includes every change already decided, durable or not. Decisions are made one after the other, so
none can conflict with another; the caller makes the changes durable before it gives the answer,
refusals included, because those too may rest on a change that is not durable yet.

Each function returns a `Decision` or raises the error that is the answer. State checks run in the
order that clients see: basin missing, basin being deleted, stream missing or being deleted,
conflicts.
"""

from typing import Generic, Protocol, TypeVar

import attrs

from s2lite.model.config import (
    BasinConfig,
    BasinReconfiguration,
    StreamConfig,
    StreamConfigLayer,
    StreamReconfiguration,
    reconfigure_basin,
    reconfigure_stream,
    resolve,
)
from s2lite.model.errors import (
    BasinDeletionPending,
    BasinExists,
    BasinNotFound,
    StreamDeletionPending,
    StreamExists,
    StreamNotFound,
)
from s2lite.model.log import (
    BasinCreated,
    BasinCreation,
    BasinDeleted,
    BasinReconfigured,
    BasinRecord,
    BasinRemoved,
    CatalogChange,
    StreamCreated,
    StreamCreation,
    StreamId,
    StreamReconfigured,
    StreamRecord,
    StreamRemoved,
)
from s2lite.model.names import BasinName, StreamName
from s2lite.model.resources import BasinInfo, Provisioned, ProvisionResult, StreamInfo

T = TypeVar("T")


class CatalogView(Protocol):
    """The catalog with every change that was decided so far."""

    def basin(self, name: BasinName) -> BasinRecord | None:
        """The basin of that name, deletion pending or not."""

    def stream(self, basin: BasinName, name: StreamName) -> StreamRecord | None:
        """The stream of that name, deletion pending or not."""

    def has_streams(self, basin: BasinName) -> bool:
        """Whether the basin has any stream, deletion pending or not."""


@attrs.frozen
class Decision(Generic[T]):
    """The changes a request makes, and what it is answered once they are durable."""

    answer: T
    changes: tuple[CatalogChange, ...] = ()


def basin_info(record: BasinRecord) -> BasinInfo:
    """What clients are told of a basin."""
    return BasinInfo(record.name, None, record.created_at_ms, record.deleted_at_ms)


def stream_info(record: StreamRecord) -> StreamInfo:
    """What clients are told of a stream."""
    return StreamInfo(record.name, record.created_at_ms, record.deleted_at_ms, record.cipher)


# --- basins -----------------------------------------------------------------------------------


def create_basin(
    view: CatalogView,
    name: BasinName,
    config: BasinConfig,
    request_token: str | None,
    now_ms: int,
) -> Decision[Provisioned[BasinInfo]]:
    """Create a basin that does not exist, or recognise the replay of the request that did."""
    creation = None if request_token is None else BasinCreation(request_token, config)
    existing = view.basin(name)
    if existing is None:
        return _new_basin(BasinRecord(name, config, now_ms, creation=creation))
    _check_alive(existing)
    if creation is None or existing.creation != creation:
        raise BasinExists(name)
    return Decision(Provisioned(basin_info(existing), ProvisionResult.NOOP))


def ensure_basin(
    view: CatalogView, name: BasinName, config: BasinConfig, now_ms: int
) -> Decision[Provisioned[BasinInfo]]:
    """Make the basin exist with exactly this config."""
    existing = view.basin(name)
    if existing is None:
        return _new_basin(BasinRecord(name, config, now_ms))
    _check_alive(existing)
    info = basin_info(existing)
    if existing.config == config:
        return Decision(Provisioned(info, ProvisionResult.NOOP))
    return Decision(Provisioned(info, ProvisionResult.UPDATED), (BasinReconfigured(name, config),))


def reconfigure_basin_config(
    view: CatalogView, name: BasinName, change: BasinReconfiguration
) -> Decision[BasinConfig]:
    """Apply a change to a basin's config; streams it has keep theirs."""
    basin = live_basin(view, name)
    config = reconfigure_basin(basin.config, change)
    return Decision(config, (BasinReconfigured(name, config),))


def delete_basin(view: CatalogView, name: BasinName, now_ms: int) -> Decision[None]:
    """Mark a basin for deletion; once more is no error and changes nothing."""
    basin = view.basin(name)
    if basin is None:
        raise BasinNotFound(name)
    if basin.deleted_at_ms is not None:
        return Decision(None)
    return Decision(None, (BasinDeleted(name, now_ms),))


def remove_basin(view: CatalogView, name: BasinName) -> Decision[None]:
    """Remove a deleted basin that has no stream left; else change nothing.

    Nothing can be created in it meanwhile: its deletion is durable.
    """
    basin = view.basin(name)
    if basin is None or basin.deleted_at_ms is None or view.has_streams(name):
        return Decision(None)
    return Decision(None, (BasinRemoved(name),))


def live_basin(view: CatalogView, name: BasinName) -> BasinRecord:
    """The basin; raises `BasinNotFound` or `BasinDeletionPending`."""
    basin = view.basin(name)
    if basin is None:
        raise BasinNotFound(name)
    _check_alive(basin)
    return basin


def _check_alive(basin: BasinRecord) -> None:
    if basin.deleted_at_ms is not None:
        raise BasinDeletionPending(basin.name)


def _new_basin(record: BasinRecord) -> Decision[Provisioned[BasinInfo]]:
    return Decision(
        Provisioned(basin_info(record), ProvisionResult.CREATED), (BasinCreated(record),)
    )


# --- streams ----------------------------------------------------------------------------------


@attrs.frozen
class NewStream:
    """What a stream gets if the request turns out to create it."""

    stream_id: StreamId
    created_at_ms: int


def create_stream(
    view: CatalogView,
    basin_name: BasinName,
    name: StreamName,
    config: StreamConfigLayer,
    request_token: str | None,
    new: NewStream,
) -> Decision[Provisioned[StreamInfo]]:
    """Create a stream that does not exist, or recognise the replay of the request that did.

    The replay is recognised by the request's own config: defaults may have changed in between.
    """
    basin = live_basin(view, basin_name)
    creation = None if request_token is None else StreamCreation(request_token, config)
    existing = _stream_unless_deleted(view, basin_name, name)
    if existing is None:
        return _new_stream(basin, name, config, new, creation)
    if creation is None or existing.creation != creation:
        raise StreamExists(basin_name, name)
    return Decision(Provisioned(stream_info(existing), ProvisionResult.NOOP))


def ensure_stream(
    view: CatalogView,
    basin_name: BasinName,
    name: StreamName,
    config: StreamConfigLayer,
    new: NewStream,
) -> Decision[Provisioned[StreamInfo]]:
    """Make the stream exist with exactly this config over the basin's current defaults."""
    basin = live_basin(view, basin_name)
    existing = _stream_unless_deleted(view, basin_name, name)
    if existing is None:
        return _new_stream(basin, name, config, new, creation=None)
    info = stream_info(existing)
    target = resolve(config, basin.config.default_stream_config)
    if existing.config == target:
        return Decision(Provisioned(info, ProvisionResult.NOOP))
    return Decision(
        Provisioned(info, ProvisionResult.UPDATED),
        (StreamReconfigured(existing.stream_id, target),),
    )


def auto_create_stream(
    view: CatalogView,
    basin_name: BasinName,
    name: StreamName,
    config: StreamConfigLayer,
    new: NewStream,
) -> Decision[None]:
    """Create the stream unless it exists: losing a race to create it is no error."""
    basin = live_basin(view, basin_name)
    if _stream_unless_deleted(view, basin_name, name) is not None:
        return Decision(None)
    created = _new_stream(basin, name, config, new, creation=None)
    return Decision(None, created.changes)


def reconfigure_stream_config(
    view: CatalogView, basin_name: BasinName, name: StreamName, change: StreamReconfiguration
) -> Decision[StreamConfig]:
    """Apply a change to a stream's config; what it clears takes the basin's current default."""
    basin = live_basin(view, basin_name)
    stream = _stream_unless_deleted(view, basin_name, name)
    if stream is None:
        raise StreamNotFound(basin_name, name)
    config = reconfigure_stream(stream.config, change, basin.config.default_stream_config)
    return Decision(config, (StreamReconfigured(stream.stream_id, config),))


def remove_stream(view: CatalogView, stream: StreamRecord) -> Decision[None]:
    """Remove a stream that is marked deleted, unless that was done already."""
    current = view.stream(stream.basin, stream.name)
    if current is None or current.stream_id != stream.stream_id:
        return Decision(None)
    return Decision(None, (StreamRemoved(stream.stream_id),))


def _stream_unless_deleted(
    view: CatalogView, basin: BasinName, name: StreamName
) -> StreamRecord | None:
    stream = view.stream(basin, name)
    if stream is not None and stream.deleted_at_ms is not None:
        raise StreamDeletionPending(basin, name)
    return stream


def _new_stream(
    basin: BasinRecord,
    name: StreamName,
    config: StreamConfigLayer,
    new: NewStream,
    creation: StreamCreation | None,
) -> Decision[Provisioned[StreamInfo]]:
    record = StreamRecord(
        stream_id=new.stream_id,
        basin=basin.name,
        name=name,
        config=resolve(config, basin.config.default_stream_config),
        created_at_ms=new.created_at_ms,
        cipher=basin.config.stream_cipher,
        creation=creation,
    )
    return Decision(
        Provisioned(stream_info(record), ProvisionResult.CREATED), (StreamCreated(record),)
    )
