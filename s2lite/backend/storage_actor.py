"""The log writer: gathers entries into WAL objects and announces them durable, in order.

Theory of operation. Whatever was submitted while earlier objects were being written goes into the
next one (group commit), so the size of a commit follows the load and no clock is needed: with
nothing in flight a submission is written at once, after one scheduler pass that lets tasks which
are ready to submit join it. At most `wal_in_flight` objects are written at once. They may complete
in any order; they are announced in the order of their numbers, because only an unbroken prefix
survives a crash.

A write whose outcome cannot be learned, or that finds a newer writer, ends the actor for good:
every submission that was not announced fails, and nothing is ever announced again. The supervisor's
parent then stops the process. That is what makes "assigned" safe to build on: it becomes durable,
in order, or the process that assigned it is gone.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence

import attrs
import trio

from actors import Actor, ActorError, ActorRef, Reply
from s2lite.backend.catalog import DurableState
from s2lite.codec.wal import ENTRY_OVERHEAD_BYTES, LocatedEntry
from s2lite.model.errors import StorageError
from s2lite.model.log import AppendEntry, LogEntry
from s2lite.storage.creation import ObjectCreator
from s2lite.storage.wal import write_wal

TARGET_OBJECT_BYTES = 8 * 1024 * 1024
"""A WAL object is closed when it reaches this: larger ones gain nothing per request."""

Settled = Callable[[StorageError | None], None]
"""Told once, when a submission is durable (None) or has failed. Must not block or raise."""


@attrs.frozen(eq=False)
class Submit:
    """Make the entries durable together, after everything submitted before."""

    entries: Sequence[LogEntry]
    settled: Settled
    size_bytes: int


@attrs.frozen(eq=False)
class Settle:
    """Answer when everything submitted before has settled."""

    reply: Reply[None]


@attrs.frozen(eq=False)
class Written:
    """A WAL object is durable."""

    number: int
    located: Sequence[LocatedEntry]


@attrs.frozen(eq=False)
class WriteFailed:
    """A WAL object is not known to be durable, and will not be."""

    error: StorageError


StorageMessage = Submit | Settle | Written | WriteFailed


@attrs.define(eq=False)
class StorageStatus:
    """What others may know of the log writer without asking it."""

    failure: StorageError | None = None


@attrs.define(eq=False)
class StorageActor(Actor[StorageMessage]):
    """Owns the numbers of the WAL from `next_number` on. One per storage path."""

    creator: ObjectCreator
    state: DurableState
    status: StorageStatus
    next_number: int
    wal_in_flight: int = 1
    _queue: deque[Submit] = attrs.field(factory=deque)
    _others_joined: bool = False
    # By number, oldest first: what is being written, and what was but has an older one before it.
    _in_flight: dict[int, list[Submit]] = attrs.field(factory=dict)
    _written: dict[int, Sequence[LocatedEntry]] = attrs.field(factory=dict)
    # How many submissions there were, how many are settled, and who waits for how many to be.
    _submitted: int = 0
    _settled: int = 0
    _waiting: deque[tuple[int, Reply[None]]] = attrs.field(factory=deque)

    async def receive(self, message: StorageMessage) -> None:
        """Take one message; writing happens in tasks that report back."""
        match message:
            case Submit():
                self._submitted += 1
                self._queue.append(message)
            case Settle(reply):
                self._waiting.append((self._submitted, reply))
                self._answer_settled()
            case Written(number, located):
                self._written[number] = located
                self._announce()
                # Not left to `drained`: where submissions keep coming, that may be long.
                self._start_writes()
            case WriteFailed(error):
                self._fail(error)
                raise error

    async def drained(self) -> None:
        """Start writing what has gathered, if there is room."""
        if self._queue and not self._in_flight and not self._others_joined:
            # One pass of the scheduler, and no more: whoever is ready to submit shares this write.
            self._others_joined = True
            await trio.lowlevel.checkpoint()
            if self.context.ref.queued_messages:
                return  # what just arrived is received first, and then this is called again
        self._others_joined = False
        self._start_writes()

    def _start_writes(self) -> None:
        while self._queue and len(self._in_flight) < self.wal_in_flight:
            self._start_write()

    def _start_write(self) -> None:
        number, self.next_number = self.next_number, self.next_number + 1
        submissions = [self._queue.popleft()]
        size = submissions[0].size_bytes
        while self._queue and size + self._queue[0].size_bytes <= TARGET_OBJECT_BYTES:
            submissions.append(self._queue.popleft())
            size += submissions[-1].size_bytes
        self._in_flight[number] = submissions
        self.context.start_soon(self._write, number, submissions)

    async def _write(self, number: int, submissions: Sequence[Submit]) -> None:
        entries = [entry for submission in submissions for entry in submission.entries]
        try:
            located = await write_wal(self.creator, number, entries)
        except StorageError as error:
            self.context.ref.tell_nowait(WriteFailed(error))
        else:
            self.context.ref.tell_nowait(Written(number, located))

    def _announce(self) -> None:
        """Settle the objects that are written, up to the first that is not."""
        while self._in_flight:
            number = next(iter(self._in_flight))
            if number not in self._written:
                return
            # Applied as a whole before anyone is told: readers see all of a commit or none of it.
            self.state.apply_all(self._written.pop(number))
            for submission in self._in_flight.pop(number):
                submission.settled(None)
                self._settled += 1
            self._answer_settled()

    def _fail(self, error: StorageError) -> None:
        self.status.failure = error
        lost = [submission for batch in self._in_flight.values() for submission in batch]
        for submission in [*lost, *self._queue]:
            submission.settled(error)
        self._in_flight.clear()
        self._queue.clear()

    def _answer_settled(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._settled:
            self._waiting.popleft()[1].set(None)


STORAGE_MAILBOX_CAPACITY = math.inf
"""Unbounded, so that no submitter ever waits: append permits bound what can be submitted."""


@attrs.frozen(eq=False)
class StorageClient:
    """What the rest of the server sees of the log writer."""

    ref: ActorRef[StorageMessage]
    status: StorageStatus

    def submit(self, entries: Sequence[LogEntry], settled: Settled) -> None:
        """Have the entries made durable, all or none, in the order of the calls; never waits.

        When `settled` is told of success the catalog and the memtable show the entries.
        """
        if self.status.failure is not None:
            settled(self.status.failure)
            return
        size = sum(map(_entry_bytes, entries))
        self.ref.tell_nowait(Submit(entries, settled, size))

    async def settle(self) -> None:
        """Return when all that was submitted before is durable.

        Raises `StorageError` if the log writer has failed, and `ActorError` if it is gone.
        """
        try:
            await self.ref.ask(Settle)
        except ActorError as error:
            raise self.status.failure or error from error


def _entry_bytes(entry: LogEntry) -> int:
    payload = len(entry.batch.payload) if isinstance(entry, AppendEntry) else 0
    return ENTRY_OVERHEAD_BYTES + payload
