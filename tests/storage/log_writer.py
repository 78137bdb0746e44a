"""A writer of the log in few lines: what it opened with, what it wrote, what it acked."""

from random import Random

import attrs
import trio

from s2lite.codec.wal import LocatedEntry
from s2lite.model.errors import StorageError
from s2lite.model.log import AppendEntry, StreamId
from s2lite.model.records import SequencedBatch
from s2lite.storage.object_store import ObjectStore
from s2lite.storage.opening import OpenedLog, open_log
from s2lite.storage.wal import write_wal

STREAM = StreamId(b"s" * 16)


def entry(text: str) -> AppendEntry:
    """A batch that can be told from any other."""
    return AppendEntry(STREAM, SequencedBatch(0, 1, 0, 0, 8, text.encode()))


def text_of(located: LocatedEntry) -> str:
    """What `entry` was given."""
    assert isinstance(located.entry, AppendEntry)
    return located.entry.batch.payload.decode()


@attrs.define(eq=False)
class LogWriter:
    """Opens a path and writes entries, `in_flight` at once, acking in order.

    The last two fields make it a bad one, for tests that have to find it out.
    """

    store: ObjectStore
    rng: Random
    in_flight: int = 1
    lease: float = 0.0
    acks_out_of_order: bool = False
    trusts_what_exists: bool = False
    replayed: list[str] = attrs.field(factory=list)
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
            wal_in_flight=self.in_flight,
            read_lease_seconds=self.lease,
            apply=lambda located: self.replayed.append(text_of(located)),
        )
        self._next = self.log.next_wal_number
        return self

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
