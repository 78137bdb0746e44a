"""The durable catalog: what every entry of the log, applied in order, made of basins and streams.

Theory of operation. Nothing writes here but `DurableState`, which is told of each entry when it has
become durable, in log order, and in the same way on replay. So whatever is read here may be shown
to clients at once. Readers share the thread with the writer and see each entry whole.

The log of a path that was damaged need not fit together: entries may be missing between those that
are left. Nothing that is left is thrown away then, and no stream's numbers are given again that are
known to have been given: records that must have been there become a lost range of their stream, and
what the entries after a gap imply (a name that is given again was free) is taken for true.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar, cast

import attrs
import msgspec
from msgspec.structs import replace
from sortedcontainers import SortedDict

from s2lite.codec.wal import LostEntry
from s2lite.model.config import BasinConfig
from s2lite.model.errors import CorruptObject, S2LiteError
from s2lite.model.log import (
    AppendEntry,
    BasinCreated,
    BasinDeleted,
    BasinReconfigured,
    BasinRecord,
    BasinRemoved,
    CatalogChange,
    CatalogFacts,
    LogEntry,
    LostRange,
    StreamCreated,
    StreamCreation,
    StreamDeleted,
    StreamId,
    StreamReconfigured,
    StreamRecord,
    StreamRemoved,
    StreamState,
)
from s2lite.model.names import BasinName, StreamName
from s2lite.model.positions import StreamPosition
from s2lite.model.resources import ListRequest, Page
from s2lite.storage.damage import Damage
from s2lite.storage.memtable import Memtable

V = TypeVar("V")

MAX_SHARED: Final = 4096
"""So many different values are shared at most; more than that are not worth the look-up."""

MAX_LOST_RANGES: Final = 100
"""A stream's lost ranges beyond this are merged, the oldest first, with what is between them."""

_LOG: Final = "wal"
"""What is reported as damaged where the log does not fit together and no object is known for it."""


class StreamEntry(msgspec.Struct, eq=False, gc=False):
    """One stream's durable state. Others may hold on to it and always see the newest."""

    state: StreamState
    removed: bool = False

    @property
    def record(self) -> StreamRecord:
        """Its identity and configuration."""
        return self.state.record

    @property
    def tail(self) -> StreamPosition:
        """The position of the next record."""
        return self.state.tail

    @property
    def fencing_token(self) -> str:
        """The token in force; empty if there is none."""
        return self.state.fencing_token

    @property
    def trim_point(self) -> int:
        """Records below it are gone for readers."""
        return self.state.trim_point


@attrs.define(eq=False)
class BasinEntry:
    """One basin, and its streams by name."""

    record: BasinRecord
    streams: SortedDict = attrs.field(factory=SortedDict)


@attrs.define
class NotInCatalog(S2LiteError):
    """A change is of a basin or stream that the catalog does not know: something was lost."""

    what: str

    def __str__(self) -> str:
        return f"{self.what} is not in the catalog"


@attrs.define(eq=False)
class Catalog:
    """Basins and streams by name, streams by id."""

    _basins: SortedDict = attrs.field(factory=SortedDict)
    _by_id: dict[StreamId, StreamEntry] = attrs.field(factory=dict)
    # Those with deletion pending, in its order: to look for them among all would take long.
    _deleted: dict[StreamId, None] = attrs.field(factory=dict)
    _shared: dict[object, object] = attrs.field(factory=dict)

    def basin(self, name: BasinName) -> BasinRecord | None:
        """The basin of that name, deletion pending or not."""
        entry = self._basin_entry(name)
        return None if entry is None else entry.record

    def stream(self, basin: BasinName, name: StreamName) -> StreamEntry | None:
        """The stream of that name, deletion pending or not."""
        entry = self._basin_entry(basin)
        return None if entry is None else entry.streams.get(name)

    def stream_by_id(self, stream_id: StreamId) -> StreamEntry | None:
        """The stream of that id, deletion pending or not."""
        return self._by_id.get(stream_id)

    def list_basins(self, request: ListRequest) -> Page[BasinRecord]:
        """A page of basins, those with deletion pending among them."""
        page: Page[BasinEntry] = _page(self._basins, request)
        return Page(tuple(entry.record for entry in page.items), page.has_more)

    def list_streams(self, basin: BasinName, request: ListRequest) -> Page[StreamRecord]:
        """A page of a basin's streams; an unknown basin has none."""
        entry = self._basin_entry(basin)
        if entry is None:
            return Page((), has_more=False)
        page: Page[StreamEntry] = _page(entry.streams, request)
        return Page(tuple(stream.record for stream in page.items), page.has_more)

    def streams_of(self, basin: BasinName) -> list[StreamEntry]:
        """All streams of a basin."""
        entry = self._basin_entry(basin)
        return [] if entry is None else list(entry.streams.values())

    def deleted_basins(self) -> list[BasinName]:
        """Basins whose deletion is pending."""
        return [
            name for name, entry in self._basins.items() if entry.record.deleted_at_ms is not None
        ]

    def deleted_streams(self) -> list[StreamId]:
        """Streams whose deletion is pending."""
        return list(self._deleted)

    def superseded_by(self, change: CatalogChange) -> list[StreamEntry]:
        """Streams that must have been removed before the change, or it could not have been made.

        There are none unless something was lost.
        """
        match change:
            case StreamCreated(record):
                other = self.stream(record.basin, record.name)
                return [] if other is None else [other]
            case BasinCreated(BasinRecord(name=name)) | BasinRemoved(name):
                return self.streams_of(name)
            case _:
                return []

    def apply(self, change: CatalogChange) -> None:
        """Make a change that has become durable; raises `NotInCatalog` if it cannot be."""
        match change:
            case BasinCreated(record):
                self._basins[record.name] = BasinEntry(record)
            case BasinReconfigured(name, config):
                basin = self._known_basin(name)
                basin.record = attrs.evolve(basin.record, config=config)
            case BasinDeleted(name, at_ms):
                basin = self._known_basin(name)
                basin.record = attrs.evolve(basin.record, deleted_at_ms=at_ms)
            case BasinRemoved(name):
                self._known_basin(name)
                del self._basins[name]
            case StreamCreated(stream_record):
                self.put(StreamState(stream_record))
            case StreamReconfigured(stream_id, stream_config):
                stream = self._known_stream(stream_id)
                shared = self._share(stream_config)
                stream.state = _with_record(stream, attrs.evolve(stream.record, config=shared))
            case StreamDeleted(stream_id, at_ms):
                stream = self._known_stream(stream_id)
                stream.state = _with_record(
                    stream, attrs.evolve(stream.record, deleted_at_ms=at_ms)
                )
                self._deleted[stream_id] = None
            case StreamRemoved(stream_id):
                self._remove_stream(stream_id)

    def put(self, state: StreamState) -> None:
        """Add a stream; raises `NotInCatalog` if its basin is not there."""
        record = state.record
        basin = self._known_basin(record.basin)
        compact = self._compact(record, basin.record.name)
        entry = StreamEntry(state if compact is record else replace(state, record=compact))
        self._by_id[compact.stream_id] = entry
        if compact.deleted_at_ms is not None:
            self._deleted[compact.stream_id] = None
        basin.streams[compact.name] = entry

    def _basin_entry(self, name: BasinName) -> BasinEntry | None:
        entry: BasinEntry | None = self._basins.get(name)
        return entry

    def _known_basin(self, name: BasinName) -> BasinEntry:
        entry = self._basin_entry(name)
        if entry is None:
            raise NotInCatalog(f"basin `{name}`")
        return entry

    def _known_stream(self, stream_id: StreamId) -> StreamEntry:
        entry = self._by_id.get(stream_id)
        if entry is None:
            raise NotInCatalog(f"stream {stream_id.hex()}")
        return entry

    def _remove_stream(self, stream_id: StreamId) -> None:
        entry = self._known_stream(stream_id)
        del self._by_id[stream_id]
        self._deleted.pop(stream_id, None)
        entry.removed = True
        del self._basins[entry.record.basin].streams[entry.record.name]

    def _compact(self, record: StreamRecord, basin: BasinName) -> StreamRecord:
        """The record, with whatever many streams have in common kept once for all of them."""
        config, creation = self._share(record.config), record.creation
        if creation is not None:
            layer = self._share(creation.config)
            if layer is not creation.config:
                creation = StreamCreation(creation.request_token, layer)
        if config is record.config and creation is record.creation and basin is record.basin:
            return record
        return attrs.evolve(record, basin=basin, config=config, creation=creation)

    def _share(self, value: V) -> V:
        known = self._shared.setdefault(value, value)
        if len(self._shared) > MAX_SHARED:
            self._shared.clear()
        return cast(V, known)


def _with_record(stream: StreamEntry, record: StreamRecord) -> StreamState:
    return replace(stream.state, record=record)


@attrs.define(eq=False)
class DurableState:
    """Catalog and batches, as far as the log is durable. It is also the `LogState` of an opening.

    `on_shrunk` is called when a trim point has moved and when a stream was removed: there may be
    something to compact. It must not wait.
    """

    catalog: Catalog
    memtable: Memtable
    damage: Damage
    on_shrunk: Callable[[StreamId], None] | None = None
    _loss: CorruptObject | None = attrs.field(default=None, init=False)
    """The object that was lost last without telling what was in it."""

    def load(self, facts: CatalogFacts) -> None:
        """Take rows of the catalog objects: all basins first, then streams, in parts."""
        for name, record in facts.basins.items():
            assert record is not None
            self.catalog.apply(BasinCreated(record))
            assert name == record.name
        for state in facts.streams.values():
            assert state is not None
            self._load_stream(state)

    def apply_all(self, entries: Iterable[LogEntry]) -> None:
        """Apply entries that have become durable, in log order."""
        for entry in entries:
            self.apply(entry)

    def apply(self, entry: LogEntry) -> None:
        """Apply one entry that has become durable."""
        if isinstance(entry, AppendEntry):
            self._append(entry)
            return
        for stream in self.catalog.superseded_by(entry):
            self._found_missing("the removal of a stream", stream.record.stream_id)
            self._change(StreamRemoved(stream.record.stream_id))
        if isinstance(entry, StreamCreated):
            self._ensure_basin(entry.record)
        try:
            self._change(entry)
        except NotInCatalog as error:
            self._found_missing(f"what came before a change: {error}")

    def advanced(self, wal_number: int) -> None:
        """Every entry of this WAL object has been applied."""
        self.memtable.advanced(wal_number)

    def reached(self, stream_id: StreamId, end: StreamPosition) -> None:
        """Records before `end` are there, whatever the catalog says: do not go back behind it."""
        stream = self.catalog.stream_by_id(stream_id)
        if stream is not None and end.seq_num > stream.tail.seq_num:
            self._set(stream, replace(stream.state, tail=_later(stream.tail, end)))

    def lost(self, lost: LostEntry, error: CorruptObject) -> None:
        """An entry that was durable cannot be read, because this object is damaged.

        If the object tells which records were in it they become a lost range of their stream.
        """
        if lost.stream_id is None:
            self._loss = error
            return
        self.damage.report(error.key, error.reason, [lost.stream_id])
        stream = self.catalog.stream_by_id(lost.stream_id)
        if stream is not None and lost.end_seq_num > stream.tail.seq_num:
            end = StreamPosition(lost.end_seq_num, lost.last_timestamp)
            self._set(stream, _with_lost(stream.state, end, str(error)))

    def floor_of(self, stream_id: StreamId) -> int | None:
        """The seq_num below which a stream's records may be deleted; None: all of them may."""
        stream = self.catalog.stream_by_id(stream_id)
        if stream is not None:
            return stream.trim_point
        return None if self.damage.catalog_is_whole else 0

    def _append(self, entry: AppendEntry) -> None:
        stream, batch = self.catalog.stream_by_id(entry.stream_id), entry.batch
        if stream is None:
            # Nobody can read it, but its records are kept with all others.
            self._found_missing("the creation of a stream", entry.stream_id)
            self.memtable.add(entry)
            return
        state = stream.state
        if batch.first_seq_num != state.tail.seq_num:
            self._found_missing("records of a stream", entry.stream_id)
            if batch.first_seq_num < state.tail.seq_num:
                return  # its numbers are taken: what says so is as good as this, and came first
            state = _with_lost(
                state, StreamPosition(batch.first_seq_num, state.tail.timestamp), self._why()
            )
        # Not `attrs.evolve`, which takes three times as long.
        state = StreamState(
            state.record,
            batch.tail,
            state.fencing_token if entry.fencing_token is None else entry.fencing_token,
            state.trim_point if entry.trim_point is None else entry.trim_point,
            state.lost,
        )
        if entry.trim_point is not None and state.lost:
            readable = tuple(each for each in state.lost if each.end > entry.trim_point)
            state = replace(state, lost=readable)
        self.memtable.add(entry)
        self._set(stream, state)
        if entry.trim_point is not None:
            self._shrunk(entry.stream_id)

    def _change(self, change: CatalogChange) -> None:
        self.catalog.apply(change)
        match change:
            case (
                BasinCreated(BasinRecord(name=name))
                | BasinReconfigured(name=name)
                | BasinDeleted(name=name)
                | BasinRemoved(name=name)
            ):
                self.memtable.basin_changed(name, self.catalog.basin(name))
            case StreamRemoved(stream_id):
                self.memtable.drop(stream_id)
                self.memtable.stream_changed(stream_id, None)
                self._shrunk(stream_id)
            case (
                StreamCreated(StreamRecord(stream_id=stream_id))
                | StreamReconfigured(stream_id=stream_id)
                | StreamDeleted(stream_id=stream_id)
            ):
                stream = self.catalog.stream_by_id(stream_id)
                assert stream is not None
                self.memtable.stream_changed(stream_id, stream.state)

    def _set(self, stream: StreamEntry, state: StreamState) -> None:
        stream.state = state
        self.memtable.stream_changed(state.record.stream_id, state)

    def _shrunk(self, stream_id: StreamId) -> None:
        if self.on_shrunk is not None:
            self.on_shrunk(stream_id)

    # --- where something was lost -----------------------------------------------------------------

    def _load_stream(self, state: StreamState) -> None:
        record = state.record
        self._ensure_basin(record)
        namesake = self.catalog.stream(record.basin, record.name)
        if namesake is not None:
            self._found_missing("the removal of a stream", record.stream_id)
            if namesake.record.created_at_ms >= record.created_at_ms:
                return
            self.catalog.apply(StreamRemoved(namesake.record.stream_id))
        self.catalog.put(state)

    def _ensure_basin(self, record: StreamRecord) -> None:
        """Make up the basin of a stream if it was lost, so that the stream can be reached."""
        if self.catalog.basin(record.basin) is None:
            self._found_missing("the creation of a basin", record.stream_id)
            self._change(
                BasinCreated(BasinRecord(record.basin, BasinConfig(), record.created_at_ms))
            )

    def _found_missing(self, what: str, stream_id: StreamId | None = None) -> None:
        """Report that the log does not say what it must have said."""
        self.damage.catalog_is_whole = False
        key, reason = _LOG, f"it has lost {what}"
        if self._loss is not None:
            key, reason = self._loss.key, self._loss.reason
        self.damage.report(key, reason, [] if stream_id is None else [stream_id])

    def _why(self) -> str:
        return "the log has a gap" if self._loss is None else str(self._loss)


def _with_lost(state: StreamState, end: StreamPosition, reason: str) -> StreamState:
    """The stream after records from its tail up to `end` were lost."""
    start, lost = state.tail.seq_num, list(state.lost)
    if lost and lost[-1].end == start:
        last = lost.pop()
        start, reason = last.start, last.reason
    lost.append(LostRange(start, end.seq_num, reason))
    if len(lost) > MAX_LOST_RANGES:
        lost[:2] = [LostRange(lost[0].start, lost[1].end, lost[0].reason)]
    return replace(state, tail=_later(state.tail, end), lost=tuple(lost))


def _later(tail: StreamPosition, end: StreamPosition) -> StreamPosition:
    """The tail `end`, whose timestamp may not be known."""
    return StreamPosition(end.seq_num, max(tail.timestamp, end.timestamp))


def _page(names: SortedDict, request: ListRequest) -> Page[V]:
    items: list[V] = []
    for name in _matching(names, request):
        if len(items) == request.limit:
            return Page(tuple(items), has_more=True)
        items.append(names[name])
    return Page(tuple(items), has_more=False)


def _matching(names: SortedDict, request: ListRequest) -> Iterator[str]:
    # Python compares strings by code point, which is the order of their UTF-8 bytes.
    start = max(request.prefix, request.start_after)
    inclusive = request.start_after < request.prefix
    for name in names.irange(minimum=start, inclusive=(inclusive or not start, True)):
        if not name.startswith(request.prefix):
            return
        yield name
