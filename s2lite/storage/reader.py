"""Reads a stream's batches back, from memory or from the store."""

from collections.abc import Iterator

import attrs
import trio

from s2lite.model.log import StreamId
from s2lite.model.records import SequencedBatch
from s2lite.storage.memtable import IndexedBatch, Memtable
from s2lite.storage.object_store import ObjectStore
from s2lite.storage.wal import read_appends

READ_CHUNK_BYTES = 1024 * 1024
"""How much metered data one call returns, at most, once it has one batch: a session's batch."""


@attrs.frozen(eq=False)
class LogReader:
    """Reads durable batches of any stream; safe to use from many tasks at once."""

    store: ObjectStore
    memtable: Memtable

    async def read(
        self, stream_id: StreamId, start: int, end: int, now_ms: int
    ) -> list[SequencedBatch]:
        """The next batches with records in [start, end) that have not expired at `now_ms`.

        The first and last may reach beyond the range. Empty only if there is none in all of the
        range. Raises `StorageError` if a batch cannot be read or is damaged.
        """
        chosen: list[IndexedBatch] = []
        size = 0
        for batch in self.memtable.batches(stream_id, start, end):
            if batch.expires_at_ms is not None and batch.expires_at_ms <= now_ms:
                continue
            size += batch.metered_bytes
            if chosen and size > READ_CHUNK_BYTES:
                break
            chosen.append(batch)
        return await self._load(chosen)

    def first_at_or_after(self, stream_id: StreamId, timestamp: int) -> int | None:
        """The first seq_num of the batch with the first record stamped `timestamp` or later.

        None if there is no such batch.
        """
        batch = self.memtable.first_at_or_after(stream_id, timestamp)
        return None if batch is None else batch.first_seq_num

    async def _load(self, batches: list[IndexedBatch]) -> list[SequencedBatch]:
        loaded: list[SequencedBatch] = []
        for run in _runs(batches):
            payloads = [batch.payload for batch in run]
            if None in payloads:
                locations = [batch.location for batch in run]
                entries = await read_appends(self.store, locations)
                loaded.extend(entry.batch for entry in entries)
            else:
                loaded.extend(batch.with_payload(batch.payload or b"") for batch in run)
        await trio.lowlevel.checkpoint()
        return loaded


def _runs(batches: list[IndexedBatch]) -> Iterator[list[IndexedBatch]]:
    """Split into runs that are all in memory, or lie back to back in one object."""
    run: list[IndexedBatch] = []
    for batch in batches:
        if run and not _adjoins(run[-1], batch):
            yield run
            run = []
        run.append(batch)
    if run:
        yield run


def _adjoins(one: IndexedBatch, other: IndexedBatch) -> bool:
    if one.payload is not None or other.payload is not None:
        return one.payload is not None and other.payload is not None
    return one.location.is_followed_by(other.location)
