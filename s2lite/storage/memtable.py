"""The index of every batch in the log, and the payloads of the newest.

A batch's place and totals stay in memory, its payload only while the newest payloads fit the
budget: after that it is read back from the WAL object it was written to. (Until batches move to
segments, the index holds all of the log; it costs a few hundred bytes a batch, never a byte of the
records.)
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator

import attrs

from s2lite.codec.wal import EntryLocation
from s2lite.model.log import AppendEntry, StreamId
from s2lite.model.records import SequencedBatch

DEFAULT_PAYLOAD_BUDGET_BYTES = 64 * 1024 * 1024


@attrs.define(eq=False)
class IndexedBatch:
    """One batch of a stream; `payload` is None when it has to be read from `location`."""

    first_seq_num: int
    end_seq_num: int
    first_timestamp: int
    last_timestamp: int
    metered_bytes: int
    expires_at_ms: int | None
    location: EntryLocation
    payload: bytes | None

    def with_payload(self, payload: bytes) -> SequencedBatch:
        """The batch as it was sequenced."""
        return SequencedBatch(
            first_seq_num=self.first_seq_num,
            count=self.end_seq_num - self.first_seq_num,
            first_timestamp=self.first_timestamp,
            last_timestamp=self.last_timestamp,
            metered_bytes=self.metered_bytes,
            payload=payload,
        )


@attrs.define(eq=False)
class Memtable:
    """Batches by stream, in order; not more than `payload_budget_bytes` of payload."""

    payload_budget_bytes: int = DEFAULT_PAYLOAD_BUDGET_BYTES
    payload_bytes: int = 0
    _streams: dict[StreamId, list[IndexedBatch]] = attrs.field(factory=dict)
    # In the order they came; those released early (trimmed) stay until half of it is stale.
    _resident: deque[IndexedBatch] = attrs.field(factory=deque)
    _stale: int = 0

    def add(self, entry: AppendEntry, location: EntryLocation) -> None:
        """Add the next batch of its stream."""
        batch = entry.batch
        indexed = IndexedBatch(
            batch.first_seq_num,
            batch.end_seq_num,
            batch.first_timestamp,
            batch.last_timestamp,
            batch.metered_bytes,
            entry.expires_at_ms,
            location,
            batch.payload,
        )
        self._streams.setdefault(entry.stream_id, []).append(indexed)
        self._resident.append(indexed)
        self.payload_bytes += len(batch.payload)
        self._evict()

    def batches(self, stream_id: StreamId, start: int, end: int) -> Iterator[IndexedBatch]:
        """The stream's batches that have records in [start, end), in order.

        The stream may grow while the result is iterated, but must not be trimmed: do not wait.
        """
        batches = self._streams.get(stream_id, [])
        for index in range(
            bisect_right(batches, start, key=lambda batch: batch.end_seq_num), len(batches)
        ):
            if batches[index].first_seq_num >= end:
                return
            yield batches[index]

    def first_at_or_after(self, stream_id: StreamId, timestamp: int) -> IndexedBatch | None:
        """The first batch with a record stamped `timestamp` or later."""
        batches = self._streams.get(stream_id, [])
        index = bisect_left(batches, timestamp, key=lambda batch: batch.last_timestamp)
        return batches[index] if index < len(batches) else None

    def trim(self, stream_id: StreamId, trim_point: int) -> None:
        """Drop the batches that lie wholly below the trim point."""
        batches = self._streams.get(stream_id, [])
        keep = bisect_right(batches, trim_point, key=lambda batch: batch.end_seq_num)
        self._release(batches[:keep])
        del batches[:keep]

    def drop(self, stream_id: StreamId) -> None:
        """Drop everything of the stream."""
        self._release(self._streams.pop(stream_id, []))

    def _evict(self) -> None:
        while self.payload_bytes > self.payload_budget_bytes:
            oldest = self._resident.popleft()
            if oldest.payload is None:
                self._stale -= 1
            else:
                self._forget_payload(oldest)

    def _release(self, batches: list[IndexedBatch]) -> None:
        for batch in batches:
            if batch.payload is not None:
                self._forget_payload(batch)
                self._stale += 1
        if self._stale * 2 > len(self._resident):
            self._resident = deque(batch for batch in self._resident if batch.payload is not None)
            self._stale = 0

    def _forget_payload(self, batch: IndexedBatch) -> None:
        assert batch.payload is not None
        self.payload_bytes -= len(batch.payload)
        batch.payload = None
