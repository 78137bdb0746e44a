"""The log writer: gathers entries into WAL objects and announces them durable, in order.

Theory of operation. Whatever was submitted while earlier objects were being written goes into the
next one (group commit), so the size of a commit follows the load and no clock is needed: with
nothing in flight a submission is written at once, after one scheduler pass that lets tasks which
are ready to submit join it. At most `wal_in_flight` objects are written at once. They may complete
in any order; they are announced in the order of their numbers, because only an unbroken prefix
survives a crash.

Two things hold a write back, and what comes meanwhile gathers. Where requests cost money, `Pacing`
spreads them, but never an object that is full. And while the memtable is full twice over, nothing
is written at all, until a flush has ended.

A write counts when it is durable *and* it is known to be ours: after a long pause its number may
have been used by a newer writer and collected, so then the task that wrote it asks `Ownership`
before it reports. An announced object is, in turn, a proof of ownership. One that is written but
has an older one before it proves nothing: a newer writer may have taken the older number.

A write whose outcome cannot be learned, or that finds a newer writer, ends the actor for good, as
does a reader that finds one: every submission that was not announced fails, and nothing is ever
announced again. The supervisor's parent then stops the process. That is what makes "assigned" safe
to build on: it becomes durable, in order, or the process that assigned it is gone.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count

import attrs
import trio

from actors import Actor, ActorError, ActorRef, Reply
from s2lite.backend.catalog import DurableState
from s2lite.codec.wal import ENTRY_OVERHEAD_BYTES
from s2lite.model.errors import StorageError, WriterFenced
from s2lite.model.log import AppendEntry, LogEntry, StreamId
from s2lite.storage.creation import ObjectCreator
from s2lite.storage.ownership import Ownership
from s2lite.storage.pacing import Pacing
from s2lite.storage.wal import write_wal

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
    """Answer when everything submitted before has settled; of one stream only, if there is one."""

    stream_id: StreamId | None
    reply: Reply[None]


@attrs.frozen(eq=False)
class Written:
    """A WAL object is durable, and met a free number; its write began at `started`."""

    number: int
    started: float


@attrs.frozen(eq=False)
class WriteFailed:
    """Nothing more can be announced: a write is not known to be durable, or not to be ours."""

    error: StorageError


StorageMessage = Submit | Settle | Written | WriteFailed


@attrs.define(eq=False)
class StorageStatus:
    """What others may know of the log writer without asking it.

    `stalled_seconds` is for how long, in all, it was held up by a flush that was under way, up to
    the end of the last time; `stalled_since` is when the present time began, by trio's clock.
    """

    failure: StorageError | None = None
    stalled_seconds: float = 0.0
    stalled_since: float | None = None


@attrs.define(eq=False)
class _Unsettled:
    """How many submissions there were, how many are settled, and who waits for how many to be.

    Submissions settle in their order, so one number says all.
    """

    submitted: int = 0
    settled: int = 0
    # By stream, the newest submission with a batch of it, while that is not settled.
    _newest: dict[StreamId, int] = attrs.field(factory=dict)
    _waiting: list[tuple[int, int, Reply[None]]] = attrs.field(factory=list)
    _order: Iterator[int] = attrs.field(factory=count)

    def add(self, submission: Submit) -> None:
        self.submitted += 1
        for entry in submission.entries:
            if isinstance(entry, AppendEntry):
                self._newest[entry.stream_id] = self.submitted

    def settle(self, submission: Submit) -> None:
        """The oldest submission is durable."""
        self.settled += 1
        for entry in submission.entries:
            if isinstance(entry, AppendEntry) and self._newest.get(entry.stream_id) == self.settled:
                del self._newest[entry.stream_id]

    def wait(self, stream_id: StreamId | None, reply: Reply[None]) -> None:
        """Answer as soon as what there is now, of the stream, is settled."""
        needed = self.submitted if stream_id is None else self._newest.get(stream_id, 0)
        heapq.heappush(self._waiting, (needed, next(self._order), reply))
        self.answer()

    def answer(self) -> None:
        """Answer those who need not wait any more."""
        while self._waiting and self._waiting[0][0] <= self.settled:
            heapq.heappop(self._waiting)[2].set(None)


@attrs.define(eq=False)
class StorageActor(Actor[StorageMessage]):
    """Owns the numbers of the WAL from `next_number` on. One per storage path.

    To be woken when a flush has ended.
    """

    creator: ObjectCreator
    ownership: Ownership
    state: DurableState
    status: StorageStatus
    next_number: int
    wal_in_flight: int = 1
    pacing: Pacing = attrs.field(factory=Pacing)
    _queue: deque[Submit] = attrs.field(factory=deque)
    _queued_bytes: int = 0
    _queued_entries: int = 0
    _others_joined: bool = False
    _token_awaited: bool = False
    # By number, oldest first: what is being written; and when the writes began that have ended,
    # but have an older one before them.
    _in_flight: dict[int, list[Submit]] = attrs.field(factory=dict)
    _written: dict[int, float] = attrs.field(factory=dict)
    _unsettled: _Unsettled = attrs.field(factory=_Unsettled)

    async def receive(self, message: StorageMessage) -> None:
        """Take one message; writing happens in tasks that report back."""
        match message:
            case Submit():
                self._unsettled.add(message)
                self._queue.append(message)
                self._queued_bytes += message.size_bytes
                self._queued_entries += len(message.entries)
            case Settle(stream_id, reply):
                self._unsettled.wait(stream_id, reply)
            case Written(number, started):
                self._written[number] = started
                await self._announce()
                # Not left to `drained`: where submissions keep coming, that may be long.
                self._start_writes()
            case WriteFailed(error):
                self._fail(error)
                raise error

    async def woken(self) -> None:
        """Go on with what was held back, if it need not be any more."""
        self._start_writes()

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

    # --- writing ----------------------------------------------------------------------------------

    def _start_writes(self) -> None:
        while self._queue and len(self._in_flight) < self.wal_in_flight and not self._held_back():
            self._start_write()

    def _held_back(self) -> bool:
        now = trio.current_time()
        self._count_stall(now)
        if self.status.stalled_since is not None:
            return True
        pause = self.pacing.seconds_to_wait(now)
        if pause > 0 and not self._object_is_full:
            self._await_token(now + pause)
            return True
        return False

    @property
    def _object_is_full(self) -> bool:
        """Whether what has gathered is enough for an object that cannot grow any more."""
        layout = self.state.memtable.layout
        return (
            self._queued_bytes >= layout.wal_object_bytes
            or self._queued_entries >= layout.wal_object_entries
        )

    def _count_stall(self, now: float) -> None:
        status, stalled = self.status, self.state.memtable.stalled
        if stalled and status.stalled_since is None:
            status.stalled_since = now
        elif not stalled and status.stalled_since is not None:
            status.stalled_seconds += now - status.stalled_since
            status.stalled_since = None

    def _await_token(self, time: float) -> None:
        if not self._token_awaited:
            self._token_awaited = True
            self.context.start_soon(self._wake_at, time)

    async def _wake_at(self, time: float) -> None:
        await trio.sleep_until(time)
        self._token_awaited = False
        self.context.ref.wake()

    def _start_write(self) -> None:
        self.pacing.take(trio.current_time())
        number, self.next_number = self.next_number, self.next_number + 1
        submissions = self._take_object()
        self._in_flight[number] = submissions
        self.context.start_soon(self._write, number, submissions)

    def _take_object(self) -> list[Submit]:
        """What goes into the next object: the oldest submission, and those after it that fit."""
        layout = self.state.memtable.layout
        submissions: list[Submit] = []
        size = entries = 0
        while self._queue:
            size += self._queue[0].size_bytes
            entries += len(self._queue[0].entries)
            too_large = size > layout.wal_object_bytes or entries > layout.wal_object_entries
            if submissions and too_large:
                break
            submission = self._queue.popleft()
            submissions.append(submission)
            self._queued_bytes -= submission.size_bytes
            self._queued_entries -= len(submission.entries)
        return submissions

    async def _write(self, number: int, submissions: Sequence[Submit]) -> None:
        entries = [entry for submission in submissions for entry in submission.entries]
        started = self.ownership.now()
        try:
            await write_wal(self.creator, number, entries)
            await self.ownership.ensure_writes_proven()
        except StorageError as error:
            self.context.ref.tell_nowait(WriteFailed(error))
        else:
            self.context.ref.tell_nowait(Written(number, started))

    # --- announcing -------------------------------------------------------------------------------

    async def _announce(self) -> None:
        """Settle the objects that are written, up to the first that is not.

        Others have their turn between two of them: many may have waited for an older one.
        """
        while self._in_flight and self.status.failure is None:
            number = next(iter(self._in_flight))
            if number not in self._written:
                return
            self.ownership.proved(self._written.pop(number))
            self._announce_object(number, self._in_flight.pop(number))
            if self._written:
                await trio.lowlevel.checkpoint()

    def _announce_object(self, number: int, submissions: Sequence[Submit]) -> None:
        # Applied as a whole before anyone is told: readers see all of a commit or none of it.
        for submission in submissions:
            self.state.apply_all(submission.entries)
        self.state.advanced(number)
        for submission in submissions:
            submission.settled(None)
            self._unsettled.settle(submission)
        self._unsettled.answer()

    def _fail(self, error: StorageError) -> None:
        self.status.failure = error
        if isinstance(error, WriterFenced):
            self.ownership.lose(error)
        lost = [submission for batch in self._in_flight.values() for submission in batch]
        for submission in [*lost, *self._queue]:
            submission.settled(error)
        self._in_flight.clear()
        self._queue.clear()


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
        await self._settle(None)

    async def settle_stream(self, stream_id: StreamId) -> None:
        """Return when all batches of the stream that were submitted before are durable.

        Raises as `settle` does.
        """
        await self._settle(stream_id)

    def flushed(self) -> None:
        """Tell the log writer that a flush has ended: it may have been held up."""
        self.ref.wake()

    def fail(self, error: StorageError) -> None:
        """Tell the log writer what somebody else found: it ends as after a failed write.

        That is a newer writer, or a manifest of which nobody knows whether it is in force.
        """
        if self.status.failure is None:
            self.status.failure = error  # at once: what was written meanwhile is not announced
            with suppress(ActorError):  # it is over already
                self.ref.tell_nowait(WriteFailed(error))

    async def _settle(self, stream_id: StreamId | None) -> None:
        try:
            await self.ref.ask(lambda reply: Settle(stream_id, reply))
        except ActorError as error:
            raise self.status.failure or error from error


def _entry_bytes(entry: LogEntry) -> int:
    payload = len(entry.batch.payload) if isinstance(entry, AppendEntry) else 0
    return ENTRY_OVERHEAD_BYTES + payload
