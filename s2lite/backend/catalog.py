"""The durable catalog: what every entry of the log, applied in order, made of basins and streams.

Theory of operation. Nothing writes here but `DurableState.apply`, which is called for each entry
when it has become durable, in log order, and in the same way on replay. So whatever is read here
may be shown to clients at once. Readers share the thread with the writer and see each entry whole.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import attrs
from sortedcontainers import SortedDict

from s2lite.codec.wal import LocatedEntry
from s2lite.model.log import (
    AppendEntry,
    BasinCreated,
    BasinDeleted,
    BasinReconfigured,
    BasinRecord,
    BasinRemoved,
    CatalogChange,
    StreamCreated,
    StreamDeleted,
    StreamId,
    StreamReconfigured,
    StreamRecord,
    StreamRemoved,
)
from s2lite.model.names import BasinName, StreamName
from s2lite.model.positions import StreamPosition
from s2lite.model.resources import ListRequest, Page
from s2lite.storage.memtable import Memtable

V = TypeVar("V")


@attrs.define(eq=False)
class StreamEntry:
    """One stream's durable state. Others may hold on to it and always see the newest."""

    record: StreamRecord
    tail: StreamPosition = StreamPosition.ZERO
    fencing_token: str = ""
    trim_point: int = 0
    removed: bool = False


@attrs.define(eq=False)
class BasinEntry:
    """One basin, and its streams by name."""

    record: BasinRecord
    streams: SortedDict = attrs.field(factory=SortedDict)


@attrs.define(eq=False)
class Catalog:
    """Basins and streams by name, streams by id."""

    _basins: SortedDict = attrs.field(factory=SortedDict)
    _by_id: dict[StreamId, StreamEntry] = attrs.field(factory=dict)

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
        return [
            stream_id
            for stream_id, entry in self._by_id.items()
            if entry.record.deleted_at_ms is not None
        ]

    def apply(self, change: CatalogChange) -> None:
        """Make a change that has become durable."""
        match change:
            case BasinCreated(record):
                self._basins[record.name] = BasinEntry(record)
            case BasinReconfigured(name, config):
                basin: BasinEntry = self._basins[name]
                basin.record = attrs.evolve(basin.record, config=config)
            case BasinDeleted(name, at_ms):
                basin = self._basins[name]
                basin.record = attrs.evolve(basin.record, deleted_at_ms=at_ms)
            case BasinRemoved(name):
                del self._basins[name]
            case StreamCreated(stream_record):
                stream = StreamEntry(stream_record)
                self._by_id[stream_record.stream_id] = stream
                self._basins[stream_record.basin].streams[stream_record.name] = stream
            case StreamReconfigured(stream_id, stream_config):
                stream = self._by_id[stream_id]
                stream.record = attrs.evolve(stream.record, config=stream_config)
            case StreamDeleted(stream_id, at_ms):
                stream = self._by_id[stream_id]
                stream.record = attrs.evolve(stream.record, deleted_at_ms=at_ms)
            case StreamRemoved(stream_id):
                self._remove_stream(stream_id)

    def _basin_entry(self, name: BasinName) -> BasinEntry | None:
        entry: BasinEntry | None = self._basins.get(name)
        return entry

    def _remove_stream(self, stream_id: StreamId) -> None:
        entry = self._by_id.pop(stream_id)
        entry.removed = True
        del self._basins[entry.record.basin].streams[entry.record.name]


@attrs.frozen(eq=False)
class DurableState:
    """Catalog and batches, as far as the log is durable."""

    catalog: Catalog
    memtable: Memtable

    def apply_all(self, entries: Iterable[LocatedEntry]) -> None:
        """Apply entries that have become durable, in log order."""
        for located in entries:
            self.apply(located)

    def apply(self, located: LocatedEntry) -> None:
        """Apply one entry that has become durable."""
        entry = located.entry
        if isinstance(entry, AppendEntry):
            self._append(entry, located)
            return
        self.catalog.apply(entry)
        if isinstance(entry, StreamRemoved):
            self.memtable.drop(entry.stream_id)

    def _append(self, entry: AppendEntry, located: LocatedEntry) -> None:
        stream = self.catalog.stream_by_id(entry.stream_id)
        assert stream is not None, "a batch of a stream that was never created"
        self.memtable.add(entry, located.location)
        stream.tail = entry.batch.tail
        if entry.fencing_token is not None:
            stream.fencing_token = entry.fencing_token
        if entry.trim_point is not None:
            stream.trim_point = entry.trim_point
            self.memtable.trim(entry.stream_id, entry.trim_point)


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
