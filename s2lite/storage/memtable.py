"""What the log says beyond the runs: the batches and catalog changes of the unflushed WAL.

Theory of operation. Every durable entry goes into the *active* table. When that is over its budget
it is frozen, and flushed to a run and a catalog object while a new active table fills; there is at
most one frozen table. When the manifest that names the run is in force, the frozen one is released.

A table covers whole WAL objects, or else a replay from its `wal_end` would apply a part of one a
second time. An object is applied entry by entry, so a table must only be frozen between objects:
when the memtable is `whole`.

All of this happens in one thread, and nothing here waits. A table that a reader has taken stays
as it is when it is released: the reader may finish with it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Final

import attrs

from s2lite.model.log import AppendEntry, BasinRecord, CatalogFacts, StreamId, StreamState
from s2lite.model.names import BasinName
from s2lite.storage.layout import Layout

ENTRY_COST_BYTES: Final = 400
"""What a batch takes in memory beyond its payload: two objects and five numbers; measured."""

FACT_COST_BYTES: Final = 300
"""What the newest state of a basin or stream takes, apart from its record; measured."""

FEW_ENTRIES: Final = 8
"""Up to so many batches of a stream are kept as a tuple: Python's collector of cycles leaves tuples
of plain values alone, and would look at a hundred thousand lists again and again."""

FOUND_ENTRIES: Final = 1024
"""How many entries one look-up returns unless it asks for fewer: finding them must be quick."""

Entries = tuple[AppendEntry, ...] | list[AppendEntry]


@attrs.define(eq=False)
class Table:
    """One generation: the batches of each stream in order, and what changed in the catalog.

    `facts` has the newest state of each basin and stream that changed. `wal_end` is one past the
    last WAL object in it, `wal_objects` how many there are.
    """

    wal_end: int
    wal_objects: int = 0
    cost_bytes: int = 0
    facts: CatalogFacts = attrs.field(factory=CatalogFacts)
    _streams: dict[StreamId, Entries] = attrs.field(factory=dict)
    _dropped: list[Entries] = attrs.field(factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether it has neither batches nor changes; it may cover WAL objects all the same."""
        return not (self._streams or self.facts.streams or self.facts.basins)

    @property
    def stream_ids(self) -> Sequence[StreamId]:
        """The streams that have batches here, in no order."""
        return list(self._streams)

    def entries(self, stream_id: StreamId) -> Sequence[AppendEntry]:
        """The stream's batches in order: not a copy, and not to be changed."""
        return self._streams.get(stream_id, ())

    def find(self, stream_id: StreamId, start: int, end: int) -> Iterator[AppendEntry]:
        """The stream's batches that have records in [start, end), in order.

        To be used up before the table can change: do not wait.
        """
        entries = self._streams.get(stream_id, ())
        index = bisect_right(entries, start, key=_end_seq_num)
        while index < len(entries) and entries[index].batch.first_seq_num < end:
            yield entries[index]
            index += 1

    def first_at_or_after(self, stream_id: StreamId, timestamp: int) -> int | None:
        """The first seq_num of the first batch whose last record is stamped `timestamp` or later.

        None if there is no such batch.
        """
        entries = self._streams.get(stream_id, ())
        index = bisect_left(entries, timestamp, key=_last_timestamp)
        return entries[index].batch.first_seq_num if index < len(entries) else None

    def add(self, entry: AppendEntry) -> None:
        """Add the next batch of its stream."""
        entries = self._streams.get(entry.stream_id, ())
        if isinstance(entries, list):
            entries.append(entry)
        else:
            many = len(entries) >= FEW_ENTRIES
            self._streams[entry.stream_id] = [*entries, entry] if many else (*entries, entry)
        self.cost_bytes += ENTRY_COST_BYTES + len(entry.batch.payload)

    def stream_changed(self, stream_id: StreamId, state: StreamState | None) -> None:
        """Note the newest state of a stream; None means it was removed."""
        if stream_id not in self.facts.streams:
            self.cost_bytes += FACT_COST_BYTES
        self.facts.streams[stream_id] = state

    def basin_changed(self, name: BasinName, record: BasinRecord | None) -> None:
        """Note the newest record of a basin; None means it was removed."""
        if name not in self.facts.basins:
            self.cost_bytes += FACT_COST_BYTES
        self.facts.basins[name] = record

    def drop(self, stream_id: StreamId) -> None:
        """Show the stream's batches no more. Their memory is freed, and counted, with the table's.

        To free it here could take tens of milliseconds.
        """
        dropped = self._streams.pop(stream_id, None)
        if dropped is not None:
            self._dropped.append(dropped)

    def pieces(self) -> Iterator[object]:
        """All that makes up the table, containers last: see `free_in_slices`."""
        lists = [*self._streams.values(), *self._dropped]
        yield from self.facts.streams.values()
        yield from self.facts.basins.values()
        yield from chain.from_iterable(lists)
        yield from lists


def _nobody() -> None:
    pass


@attrs.define(eq=False)
class Memtable:
    """The active table and, while a flush is under way, the frozen one.

    `on_pending` is called whenever a WAL object has been applied: a flush may be due. It must not
    wait.
    """

    layout: Layout
    wal_end: int = 0
    on_pending: Callable[[], None] = _nobody
    frozen: Table | None = attrs.field(default=None, init=False)
    active: Table = attrs.field(init=False)
    whole: bool = attrs.field(default=True, init=False)
    """Whether every WAL object of which an entry was added was added completely."""

    def __attrs_post_init__(self) -> None:
        self.active = Table(self.wal_end)

    def add(self, entry: AppendEntry) -> None:
        """Add the next batch of its stream."""
        self.whole = False
        self.active.add(entry)

    def stream_changed(self, stream_id: StreamId, state: StreamState | None) -> None:
        """Note the newest state of a stream; None means it was removed."""
        self.whole = False
        self.active.stream_changed(stream_id, state)

    def basin_changed(self, name: BasinName, record: BasinRecord | None) -> None:
        """Note the newest record of a basin; None means it was removed."""
        self.whole = False
        self.active.basin_changed(name, record)

    def advanced(self, wal_number: int) -> None:
        """Every entry of this WAL object has been added, and of all before it."""
        self.whole = True
        self.wal_end = self.active.wal_end = wal_number + 1
        self.active.wal_objects += 1
        self.on_pending()

    def drop(self, stream_id: StreamId) -> None:
        """Forget the batches of a stream that was removed, but for those that are being flushed."""
        self.active.drop(stream_id)

    @property
    def flush_due(self) -> bool:
        """Whether the active table is over its budget and can be frozen."""
        return self._is_full and self.frozen is None and self.whole

    @property
    def stalled(self) -> bool:
        """Whether no more may be written until a flush ends: both tables are full."""
        return self._is_full and self.frozen is not None

    @property
    def size_bytes(self) -> int:
        """What both tables take in memory."""
        return self.active.cost_bytes + (self.frozen.cost_bytes if self.frozen else 0)

    def freeze(self) -> Table:
        """Make the active table the frozen one, and begin another. Only if none is frozen."""
        assert self.frozen is None, "a flush is under way"
        self.frozen, self.active = self.active, Table(self.wal_end)
        return self.frozen

    def release(self) -> None:
        """Forget the frozen table: what it holds is in the runs and catalog objects now."""
        self.frozen = None

    def find(
        self, stream_id: StreamId, start: int, end: int, limit: int = FOUND_ENTRIES
    ) -> list[AppendEntry]:
        """The stream's batches that have records in [start, end), in order, `limit` at most."""
        found = list(islice(self.frozen.find(stream_id, start, end), limit)) if self.frozen else []
        found.extend(islice(self.active.find(stream_id, start, end), limit - len(found)))
        return found

    def first_at_or_after(self, stream_id: StreamId, timestamp: int) -> int | None:
        """The first seq_num of the first batch whose last record is stamped `timestamp` or later.

        None if there is no such batch.
        """
        frozen = self.frozen
        found = None if frozen is None else frozen.first_at_or_after(stream_id, timestamp)
        return self.active.first_at_or_after(stream_id, timestamp) if found is None else found

    @property
    def _is_full(self) -> bool:
        active, layout = self.active, self.layout
        return (
            active.cost_bytes >= layout.memtable_bytes or active.wal_objects >= layout.wal_objects
        )


def _end_seq_num(entry: AppendEntry) -> int:
    return entry.batch.end_seq_num


def _last_timestamp(entry: AppendEntry) -> int:
    return entry.batch.last_timestamp
