"""One read of a stream: catches up from storage, then follows live, and back when it falls behind.

Theory of operation. `_position` is the next seq_num wanted. Below the durable tail, batches come
from the log; they carry no tail. At the tail, if the read may follow, the session subscribes at
exactly its position, says where it is with a heartbeat, and passes on each appended batch as it
became durable. A session that does not keep up loses its subscription, not records: it goes back to
the log from its position. Limits hold over all of it, and the first record they do not admit ends
the read.

That there is nothing more, be it the end of a read or a heartbeat, is said only after asking
`Ownership`: a newer writer may have taken over, and have more. What lies below the tail never
changes, and is read without asking, once the start of the session has been found.

The records of an encrypted stream are opened here, with the key of the request, a piece of a batch
at a time and only pieces that have records to deliver: what lies outside of the limits may be
sealed with any key. A session that meets a piece that its key does not open delivers what it had
delivered before, and nothing of the batch that it was putting together.

A heartbeat tells the tail *of this session*, the end of what it was given, although the stream may
already be further: clients resume from a heartbeat's tail.
"""

import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from math import inf
from types import TracebackType

import attrs
import trio

from actors import ActorError, BroadcastClosed, Subscription, SubscriptionLagged
from actors.clock import Clock
from s2lite.backend.catalog import StreamEntry
from s2lite.backend.opening import Opener, opener_of
from s2lite.codec.protobuf import record_metas, slice_records
from s2lite.core.reads import Allowance, locate, may_follow, unary_request
from s2lite.model.encryption import EncryptionKey
from s2lite.model.errors import CorruptObject, DecryptionFailed, StreamUnavailable
from s2lite.model.limits import MAX_BATCH_BYTES, MAX_BATCH_RECORDS
from s2lite.model.positions import StreamPosition
from s2lite.model.reads import DeliveredBatch, FromTimestamp, Heartbeat, ReadEvent, ReadRequest
from s2lite.model.records import SequencedBatch
from s2lite.storage.ownership import Ownership
from s2lite.storage.reader import LogReader, StreamCursor
from s2lite.storage.slices import Slices

HEARTBEAT_MIN_SECONDS = 5.0
HEARTBEAT_MAX_SECONDS = 15.0
"""Clients give up on a session that is silent for 20 s."""

FollowAt = Callable[[int], AbstractAsyncContextManager[Subscription[SequencedBatch] | None]]
"""Subscribes to a stream at a seq_num; None if the stream is past it already."""


@attrs.frozen(eq=False)
class ReadContext:
    """What a read needs of the server, and the key it came with."""

    entry: StreamEntry
    log: LogReader
    ownership: Ownership
    follow_at: FollowAt
    clock: Clock
    rng: random.Random
    key: EncryptionKey | None = None


@attrs.define(eq=False)
class ReadSession:
    """An asynchronous iterator of what a read delivers. Use it in `async with`, from one task.

    Entering raises `ReadPastTail` if there is nothing to read and the read may not wait. Iterating
    raises `StreamUnavailable` if the stream goes away under a follower, and `DecryptionFailed` if
    the key does not open a record. Both raise `StorageError`, and `SealedFrameError` for records
    that are not as they were sealed. Making one raises `EncryptionKeyMissing`.
    """

    context: ReadContext
    request: ReadRequest
    _position: int = 0
    _allowance: Allowance = attrs.field(init=False)
    _cursor: StreamCursor = attrs.field(init=False)
    _opener: Opener = attrs.field(init=False)
    _slices: Slices = attrs.field(factory=Slices)
    _finished: bool = False
    _subscription: Subscription[SequencedBatch] | None = None
    _live_tail: StreamPosition = StreamPosition.ZERO
    _deadline: float | None = None
    _heartbeat_at: float = inf
    _stack: AsyncExitStack = attrs.field(factory=AsyncExitStack)

    def __attrs_post_init__(self) -> None:
        self._allowance = Allowance.of(self.request.limits)
        record = self.context.entry.record
        self._cursor = self.context.log.cursor(record.stream_id)
        self._opener = opener_of(record, self.context.key)

    async def __aenter__(self) -> "ReadSession":
        await self.context.ownership.ensure_current()
        start = locate(self.request, self.context.entry.tail)
        self._position = await self._seek(start) if isinstance(start, FromTimestamp) else start
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def __aiter__(self) -> "ReadSession":
        return self

    async def __anext__(self) -> ReadEvent:
        """The next event; the iteration ends where the read does."""
        while not (self._finished or self._allowance.used_up):
            event = await self._step()
            if event is not None:
                return event
        raise StopAsyncIteration

    async def next_batch(self) -> DeliveredBatch | None:
        """The next event that has records, or None at the end of the read."""
        async for event in self:
            if isinstance(event, DeliveredBatch):
                return event
        return None

    @property
    def behind(self) -> bool:
        """Whether there may be more to deliver without waiting."""
        return (
            not (self._finished or self._allowance.used_up)
            and self._subscription is None
            and self._position < self.context.entry.tail.seq_num
        )

    async def _step(self) -> ReadEvent | None:
        """Do one thing: deliver, or change where the session stands and return None."""
        if self._subscription is not None:
            return await self._follow(self._subscription)
        entry = self.context.entry
        if self._position >= entry.tail.seq_num:
            await self.context.ownership.ensure_current()
        tail = entry.tail
        if self._position < tail.seq_num:
            return await self._catch_up(tail)
        if not may_follow(self.request):
            self._finished = True
            return None
        return await self._start_following(tail)

    # --- from storage -------------------------------------------------------------------------

    async def _seek(self, wanted: FromTimestamp) -> int:
        """The first surviving record stamped `wanted` or later; the tail if there is none."""
        entry = self.context.entry
        tail = entry.tail.seq_num
        candidate = await self.context.log.first_at_or_after(
            entry.record.stream_id, wanted.timestamp
        )
        if candidate is None:
            return tail
        start = max(candidate, entry.trim_point)
        for batch in await self._stored(start, tail):
            for piece in self._opener.pieces(batch):
                if piece.end_seq_num <= start or piece.last_timestamp < wanted.timestamp:
                    continue
                try:
                    opened = self._opener.open(piece)
                except DecryptionFailed:
                    # The read starts in there, and so fails there: after its head, as others do.
                    return max(start, piece.first_seq_num)
                for record in record_metas(opened.payload):
                    if record.seq_num >= start and record.timestamp >= wanted.timestamp:
                        return record.seq_num
        return tail

    async def _stored(self, start: int, end: int) -> list[SequencedBatch]:
        context = self.context
        return await self._cursor.read(context.entry.state, start, end, context.clock.now_ms())

    async def _catch_up(self, tail: StreamPosition) -> DeliveredBatch | None:
        # Trimmed records are gone for readers at once, though their bytes may go later.
        start = max(self._position, self.context.entry.trim_point)
        batches = await self._stored(start, tail.seq_num) if start < tail.seq_num else []
        if not batches:
            self._position = tail.seq_num
            return None
        parts = await self._admitted(batches, start)
        if not parts:
            return None
        self._position = parts[-1].end_seq_num
        self._arm_deadline()
        return _joined(parts)

    async def _admitted(self, batches: list[SequencedBatch], start: int) -> list[SequencedBatch]:
        """What the limits admit of the records from `start` on, opened: one batch's worth."""
        parts: list[SequencedBatch] = []
        room = Allowance(MAX_BATCH_RECORDS, MAX_BATCH_BYTES, None)
        for batch in batches:
            for piece in self._opener.pieces(batch):
                if piece.end_seq_num <= start:
                    continue
                if parts and not room.admits_whole(piece):
                    return parts
                admitted = self._admit(piece, start)
                if admitted is not None:
                    parts.append(admitted)
                    room.take(admitted.count, admitted.metered_bytes)
                if self._finished:
                    return parts
                await self._slices.worked(len(piece.payload))
        return parts

    def _admit(self, piece: SequencedBatch, start: int) -> SequencedBatch | None:
        """The part of the piece that the limits admit; short of all of it the read is over."""
        if self._allowance.admits_none(piece):
            self._finished = True
            return None
        batch = _without_head(self._opener.open(piece), start)
        if self._allowance.admits_whole(batch):
            self._allowance.take(batch.count, batch.metered_bytes)
            return batch
        count, metered_bytes = self._allowance.admitted_prefix(record_metas(batch.payload))
        self._allowance.take(count, metered_bytes)
        self._finished = True
        return _sliced(batch, 0, count) if count else None

    # --- live ---------------------------------------------------------------------------------

    async def _start_following(self, tail: StreamPosition) -> Heartbeat | None:
        if self._deadline is None:
            self._arm_deadline()
        if self._deadline is not None and trio.current_time() >= self._deadline:
            self._finished = True
            return None
        try:
            subscription = await self._stack.enter_async_context(
                self.context.follow_at(self._position)
            )
        except ActorError as error:
            raise StreamUnavailable(str(error)) from error
        if subscription is None:
            await self._stack.aclose()
            return None  # the stream has moved on: read what came
        self._subscription = subscription
        self._live_tail = tail
        return self._heartbeat()

    async def _follow(self, subscription: Subscription[SequencedBatch]) -> ReadEvent | None:
        until = min(self._heartbeat_at, inf if self._deadline is None else self._deadline)
        try:
            batch = await _received(subscription, until)
        except SubscriptionLagged:
            self._subscription = None
            await self._stack.aclose()
            return None
        except BroadcastClosed as closed:
            raise StreamUnavailable(str(closed.error or closed)) from closed
        if batch is not None:
            return await self._deliver(batch)
        await self.context.ownership.ensure_current()
        if self._heartbeat_at <= until:
            return self._heartbeat()
        self._finished = True
        return None

    async def _deliver(self, batch: SequencedBatch) -> DeliveredBatch | None:
        parts = await self._admitted([batch], self._position)
        if not parts:
            return None
        self._position = parts[-1].end_seq_num
        self._live_tail = batch.tail
        self._arm_deadline()
        self._arm_heartbeat()
        return attrs.evolve(_joined(parts), tail=batch.tail)

    def _heartbeat(self) -> Heartbeat:
        self._arm_heartbeat()
        return Heartbeat(self._live_tail)

    def _arm_heartbeat(self) -> None:
        pause = self.context.rng.uniform(HEARTBEAT_MIN_SECONDS, HEARTBEAT_MAX_SECONDS)
        self._heartbeat_at = trio.current_time() + pause

    def _arm_deadline(self) -> None:
        """Waiting is limited between records, so every delivery of records starts it anew."""
        if self.request.wait_seconds is not None:
            self._deadline = trio.current_time() + self.request.wait_seconds


async def read_once(context: ReadContext, request: ReadRequest) -> DeliveredBatch | None:
    """A unary read: one batch of what is there, or else of the first that comes in time.

    None if that comes to nothing. Raises `ReadPastTail` like a session.
    """
    async with ReadSession(context, unary_request(request)) as session:
        batches = []
        try:
            while session.behind:
                event = await session._step()
                if isinstance(event, DeliveredBatch):
                    batches.append(event)
        except CorruptObject:
            if not batches:
                raise  # else whoever reads on from there is told
        if batches:
            return _merged(batches)
        return await session.next_batch()


async def _received(
    subscription: Subscription[SequencedBatch], until: float
) -> SequencedBatch | None:
    """The next batch, or None if there is none until that time.

    One that is there already goes before a time that has come: the reader may have been slow.
    """
    await trio.lowlevel.checkpoint()
    with suppress(trio.WouldBlock):
        return subscription.receive_nowait()
    with trio.move_on_at(until):
        return await subscription.receive()
    return None


def _without_head(batch: SequencedBatch, start: int) -> SequencedBatch:
    """The batch from `start` on."""
    if batch.first_seq_num >= start:
        return batch
    return _sliced(batch, start - batch.first_seq_num, batch.count)


def _sliced(batch: SequencedBatch, start: int, stop: int) -> SequencedBatch:
    """The records of the batch from index `start` up to `stop`."""
    records = record_metas(batch.payload)[start:stop]
    return SequencedBatch(
        first_seq_num=records[0].seq_num,
        count=len(records),
        first_timestamp=records[0].timestamp,
        last_timestamp=records[-1].timestamp,
        metered_bytes=sum(record.metered_bytes for record in records),
        payload=slice_records(batch.payload, start, stop),
    )


def _joined(parts: list[SequencedBatch]) -> DeliveredBatch:
    return DeliveredBatch(
        payload=b"".join([part.payload for part in parts]),
        count=sum(part.count for part in parts),
        metered_bytes=sum(part.metered_bytes for part in parts),
        first_seq_num=parts[0].first_seq_num,
        last_seq_num=parts[-1].end_seq_num - 1,
    )


def _merged(batches: list[DeliveredBatch]) -> DeliveredBatch:
    return DeliveredBatch(
        payload=b"".join([batch.payload for batch in batches]),
        count=sum(batch.count for batch in batches),
        metered_bytes=sum(batch.metered_bytes for batch in batches),
        first_seq_num=batches[0].first_seq_num,
        last_seq_num=batches[-1].last_seq_num,
    )
