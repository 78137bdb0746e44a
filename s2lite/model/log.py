"""What the log holds: appended batches and changes of the catalog.

The log is the only truth. The state of every basin and stream is what its entries, applied in
order, make of it; applying an entry is deterministic and needs nothing but the state before it.
"""

from typing import NewType

import attrs
import msgspec

from s2lite.model.config import BasinConfig, StreamCipher, StreamConfig, StreamConfigLayer
from s2lite.model.names import BasinName, StreamName
from s2lite.model.positions import StreamPosition
from s2lite.model.records import SequencedBatch

StreamId = NewType("StreamId", bytes)
"""16 random bytes given at creation: a stream created again under an old name is another stream."""

STREAM_ID_BYTES = 16


@attrs.frozen
class BasinCreation:
    """The request that created a basin, kept so that its replay can be told from another's."""

    request_token: str
    config: BasinConfig


@attrs.frozen
class StreamCreation:
    """The request that created a stream; `config` is the request's own, before any default."""

    request_token: str
    config: StreamConfigLayer


@attrs.frozen
class BasinRecord:
    """A basin as the catalog keeps it."""

    name: BasinName
    config: BasinConfig
    created_at_ms: int
    deleted_at_ms: int | None = None
    creation: BasinCreation | None = None


@attrs.frozen
class StreamRecord:
    """A stream as the catalog keeps it; `config` is fully resolved."""

    stream_id: StreamId
    basin: BasinName
    name: StreamName
    config: StreamConfig
    created_at_ms: int
    cipher: StreamCipher | None = None
    deleted_at_ms: int | None = None
    creation: StreamCreation | None = None


@attrs.frozen
class LostRange:
    """Records in [start, end) that were acked and are gone, because what held them was damaged."""

    start: int
    end: int
    reason: str


class StreamState(msgspec.Struct, frozen=True, gc=False):
    """All there is to know of a stream but its records, as of one moment.

    A value: each change makes a new one, so whoever holds one holds a consistent view.
    """

    record: StreamRecord
    tail: StreamPosition = StreamPosition.ZERO
    fencing_token: str = ""
    trim_point: int = 0
    lost: tuple[LostRange, ...] = ()


@attrs.frozen
class CatalogFacts:
    """Basins and streams, or changes to them: None stands for "removed"."""

    basins: dict[BasinName, BasinRecord | None] = attrs.field(factory=dict)
    streams: dict[StreamId, StreamState | None] = attrs.field(factory=dict)


class AppendEntry(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One appended batch, and what it changed of its stream's state.

    `expires_at_ms` is fixed when the batch is written; None means never. `fencing_token` and
    `trim_point` are the stream's new ones, or None where the batch left them alone.
    """

    stream_id: StreamId
    batch: SequencedBatch
    expires_at_ms: int | None = None
    fencing_token: str | None = None
    trim_point: int | None = None


@attrs.frozen
class BasinCreated:
    """A basin came to be."""

    record: BasinRecord


@attrs.frozen
class BasinReconfigured:
    """A basin's config was replaced."""

    name: BasinName
    config: BasinConfig


@attrs.frozen
class BasinDeleted:
    """A basin was marked for deletion; its streams are still there."""

    name: BasinName
    deleted_at_ms: int


@attrs.frozen
class BasinRemoved:
    """A deleted basin without streams is gone, and its name is free."""

    name: BasinName


@attrs.frozen
class StreamCreated:
    """A stream came to be, empty."""

    record: StreamRecord


@attrs.frozen
class StreamReconfigured:
    """A stream's config was replaced."""

    stream_id: StreamId
    config: StreamConfig


@attrs.frozen
class StreamDeleted:
    """A stream was marked for deletion; it takes no more appends."""

    stream_id: StreamId
    deleted_at_ms: int


@attrs.frozen
class StreamRemoved:
    """A deleted stream is gone with all of its records, and its name is free."""

    stream_id: StreamId


CatalogChange = (
    BasinCreated
    | BasinReconfigured
    | BasinDeleted
    | BasinRemoved
    | StreamCreated
    | StreamReconfigured
    | StreamDeleted
    | StreamRemoved
)
LogEntry = AppendEntry | CatalogChange
