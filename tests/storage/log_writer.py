"""A writer of the log in few lines: what it opened with, what it wrote, what it acked."""

from random import Random

import attrs
import trio

from actors.testing import VirtualClock
from s2lite.codec.wal import LostEntry
from s2lite.model.errors import CorruptObject, StorageError
from s2lite.model.log import AppendEntry, CatalogFacts, LogEntry, StreamId
from s2lite.model.positions import StreamPosition
from s2lite.model.records import SequencedBatch
from s2lite.storage.damage import Damage
from s2lite.storage.objects.object_store import ObjectStore
from s2lite.storage.opening import OpenedLog, open_log
from s2lite.storage.wal import write_wal

STREAM = StreamId(b"s" * 16)


def entry(text: str, seq_num: int = 0) -> AppendEntry:
    """A batch that can be told from any other."""
    return AppendEntry(STREAM, SequencedBatch(seq_num, 1, 0, 0, 8, text.encode()))


@attrs.define(eq=False)
class Recorder:
    """A `LogState` that writes down what it is told."""

    applied: list[LogEntry] = attrs.field(factory=list)
    losses: list[tuple[LostEntry, str]] = attrs.field(factory=list)
    advances: list[int] = attrs.field(factory=list)
    told: list[str | int] = attrs.field(factory=list)
    """Texts of batches, and the first seq_num of what was lost."""
    loaded: list[CatalogFacts] = attrs.field(factory=list)
    tails: dict[StreamId, int] = attrs.field(factory=dict)

    @property
    def texts(self) -> list[str]:
        """What `entry` was given, of every batch."""
        return [
            each.batch.payload.decode() for each in self.applied if isinstance(each, AppendEntry)
        ]

    def load(self, facts: CatalogFacts) -> None:
        self.loaded.append(facts)

    def reached(self, stream_id: StreamId, end: StreamPosition) -> None:
        self.tails[stream_id] = max(self.tails.get(stream_id, 0), end.seq_num)

    def apply(self, entry: LogEntry) -> None:
        self.applied.append(entry)
        if isinstance(entry, AppendEntry):
            self.told.append(entry.batch.payload.decode())

    def lost(self, lost: LostEntry, error: CorruptObject) -> None:
        self.losses.append((lost, error.key))
        self.told.append(lost.first_seq_num)

    def advanced(self, wal_number: int) -> None:
        self.advances.append(wal_number)


@attrs.define(eq=False)
class LogWriter:
    """Opens a path and writes entries, `in_flight` at once, acking in order.

    Two of the fields make it a bad one, for tests that have to find it out.
    """

    store: ObjectStore
    rng: Random
    in_flight: int = 1
    lease: float | None = 0.0
    acks_out_of_order: bool = False
    trusts_what_exists: bool = False
    state: Recorder = attrs.field(factory=Recorder)
    damage: Damage = attrs.field(factory=Damage)
    acked: list[str] = attrs.field(factory=list)
    error: StorageError | None = None
    log: OpenedLog | None = None
    _next: int = 0
    _submitted: int = 0
    _unacked: dict[int, str] = attrs.field(factory=dict)
    _written: set[int] = attrs.field(factory=set)
    _room: trio.Event = attrs.field(factory=trio.Event)

    async def open(self) -> "LogWriter":
        self.log = await open_log(
            self.store,
            rng=self.rng,
            clock=VirtualClock(),
            wal_in_flight=self.in_flight,
            lease_seconds=self.lease,
            state=self.state,
            damage=self.damage,
        )
        self._next = self.log.next_wal_number
        return self

    async def close(self) -> None:
        """Say that nothing more will come."""
        await self.opened.close(self._next)

    @property
    def replayed(self) -> list[str]:
        """What was there when it opened."""
        return self.state.texts

    @property
    def opened(self) -> OpenedLog:
        assert self.log is not None
        return self.log

    @property
    def epoch(self) -> int:
        return self.opened.creator.writer.epoch

    @property
    def known(self) -> list[str]:
        """What this writer has told others to be in the log."""
        return self.replayed + self.acked

    async def write(self, *texts: str) -> None:
        """Write each text as an object of its own; raises what the first to fail raised."""
        async with trio.open_nursery() as nursery:
            for text in texts:
                while len(self._unacked) >= self.in_flight and self.error is None:
                    self._room = trio.Event()
                    await self._room.wait()
                if self.error is not None:
                    break
                number, self._next = self._next, self._next + 1
                self._unacked[number] = text
                nursery.start_soon(self._write, number, text)
        if self.error is not None:
            raise self.error

    async def _write(self, number: int, text: str) -> None:
        try:
            await write_wal(self.opened.creator, number, [entry(text)])
        except StorageError as error:
            if not self.trusts_what_exists:
                self.error = self.error or error
                self._room.set()
                return
        self._written.add(number)
        self._ack(number)
        self._room.set()

    def _ack(self, number: int) -> None:
        if self.error is not None:
            return
        if self.acks_out_of_order:
            self.acked.append(self._unacked.pop(number))
            return
        for oldest in sorted(self._unacked):
            if oldest not in self._written:
                return
            self.acked.append(self._unacked.pop(oldest))
