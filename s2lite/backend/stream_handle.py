"""What a handler holds of one stream: append, read, follow, check the tail."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import trio

from actors import (
    ActorCrashed,
    ActorError,
    ActorRef,
    MailboxFull,
    Registry,
    Reply,
    Subscription,
)
from s2lite.backend.budget import ByteBudget
from s2lite.backend.metrics import AppendMetrics
from s2lite.backend.read_session import ReadContext, ReadSession, read_once
from s2lite.backend.stream_actor import Append, Delete, Follow, SessionGate, StreamMessage
from s2lite.model.config import StreamCipher
from s2lite.model.encryption import EncryptionKey
from s2lite.model.errors import (
    AppendConditionFailed,
    CipherExhausted,
    OutcomeUnknown,
    StorageError,
    StreamDeletionPending,
    StreamUnavailable,
)
from s2lite.model.log import StreamId
from s2lite.model.positions import StreamPosition
from s2lite.model.reads import DeliveredBatch, ReadRequest
from s2lite.model.records import AppendAck, AppendInput, SequencedBatch
from s2lite.storage.ownership import Ownership

StreamRegistry = Registry[StreamId, StreamMessage]


@attrs.frozen(eq=False)
class AppendPath:
    """What every append goes through, whichever its stream."""

    streams: StreamRegistry
    budget: ByteBudget
    metrics: AppendMetrics
    ownership: Ownership


@attrs.frozen(eq=False)
class PendingAck:
    """The ack of an append that was submitted."""

    _reply: Reply[AppendAck]
    _ownership: Ownership

    @property
    def done(self) -> bool:
        """Whether the stream has answered: `wait` would not block, or only to check a refusal."""
        return self._reply.settled

    async def wait(self) -> AppendAck:
        """The ack, once the batch is durable.

        Raises `AppendConditionFailed`, `InvalidInput` or `StreamDeletionPending` if the batch was
        refused, and `StorageError` or `OutcomeUnknown` if it may or may not have been written.
        """
        try:
            return await self._reply.wait()
        except (AppendConditionFailed, CipherExhausted, StreamDeletionPending):
            # Unlike an ack, a refusal is not backed by a write that only the current writer can do.
            await self._ownership.ensure_current()
            raise
        except ActorError as error:
            raise _outcome_of(error) from error


@attrs.frozen(eq=False)
class AppendSession:
    """Appends that take effect in the order of the calls; after one failed, none does."""

    _ref: ActorRef[StreamMessage]
    _path: AppendPath
    _key: EncryptionKey | None
    _gate: SessionGate = attrs.field(factory=SessionGate)

    async def submit(self, append: AppendInput) -> PendingAck:
        """Hand the batch to the stream; waits for room in the budget only, not for the ack.

        Raises `StreamUnavailable` if the stream is gone: then nothing happened. When cancelled, the
        batch was not submitted.
        """
        reply = await _submit(self._path, self._ref, append, self._key, self._gate)
        return PendingAck(reply, self._path.ownership)

    def close(self) -> None:
        """Apply nothing of this session that has not been sequenced yet."""
        self._gate.closed = True


@attrs.frozen(eq=False)
class StreamHandle:
    """One stream, found or created. It stays usable until the stream is deleted.

    Appends and reads of a stream with a cipher need a key, and raise `EncryptionKeyMissing`.
    """

    _read: ReadContext
    _path: AppendPath

    @property
    def cipher(self) -> StreamCipher | None:
        """The cipher of the stream's records, if they are encrypted."""
        return self._read.entry.record.cipher

    def with_key(self, key: EncryptionKey) -> "StreamHandle":
        """The same stream, for appends and reads with this key; it has no use without a cipher."""
        return StreamHandle(attrs.evolve(self._read, key=key), self._path)

    async def check_tail(self) -> StreamPosition:
        """The durable tail: what every append acked so far lies below. Raises `StorageError`."""
        await self._read.ownership.ensure_current()
        return self._read.entry.tail

    def has_room_for(self, append: AppendInput) -> bool:
        """Whether `append` would submit it without waiting for room in the budget."""
        return self._path.budget.has_room(append.batch.metered_bytes)

    async def append(self, append: AppendInput) -> AppendAck:
        """Append the batch; it is durable on return. Raises as `PendingAck.wait` and `submit` do.

        When cancelled, the batch takes effect as a whole or not at all.
        """
        async with _leased(self._path.streams, self._stream_id) as ref:
            reply = await _submit(self._path, ref, append, self._read.key, gate=None)
            return await PendingAck(reply, self._path.ownership).wait()

    @asynccontextmanager
    async def append_session(self) -> AsyncIterator[AppendSession]:
        """A session of appends; leaving it drops what has not been sequenced."""
        async with _leased(self._path.streams, self._stream_id) as ref:
            session = AppendSession(ref, self._path, self._read.key)
            try:
                yield session
            finally:
                session.close()

    async def read(self, request: ReadRequest) -> DeliveredBatch | None:
        """A unary read: at most one batch's worth, None if it is empty.

        Raises `ReadPastTail`, `DecryptionFailed`, `SealedFrameError` and `StorageError`.
        """
        return await read_once(self._read, request)

    def read_session(self, request: ReadRequest) -> ReadSession:
        """A read that may follow the stream; see `ReadSession`."""
        return ReadSession(self._read, request)

    @property
    def _stream_id(self) -> StreamId:
        return self._read.entry.record.stream_id


@attrs.frozen(eq=False)
class FollowThrough:
    """Subscribes to a stream through its actor."""

    _streams: StreamRegistry
    _stream_id: StreamId

    @asynccontextmanager
    async def __call__(self, seq_num: int) -> AsyncIterator[Subscription[SequencedBatch] | None]:
        """Subscribe at `seq_num`; None if the stream is past it already."""
        async with _leased(self._streams, self._stream_id) as ref:
            subscription = await ref.ask(_following(seq_num))
            try:
                yield subscription
            finally:
                if subscription is not None:
                    subscription.close()


def _following(
    seq_num: int,
) -> Callable[[Reply[Subscription[SequencedBatch] | None]], StreamMessage]:
    return lambda reply: Follow(seq_num, reply)


async def delete_through(streams: StreamRegistry, stream_id: StreamId) -> None:
    """Delete a stream through its actor, after every append it has accepted; durable on return."""
    async with _leased(streams, stream_id) as ref:
        try:
            await ref.ask(Delete)
        except ActorError as error:
            raise _outcome_of(error) from error


@asynccontextmanager
async def _leased(
    streams: StreamRegistry, stream_id: StreamId
) -> AsyncIterator[ActorRef[StreamMessage]]:
    """The stream's actor, for as long as the block lasts.

    Raises `StreamUnavailable` if it cannot be had, and `StorageError` if that is why: in both cases
    nothing was asked of it.
    """
    async with AsyncExitStack() as stack:
        try:
            ref = await stack.enter_async_context(streams.lease(stream_id))
        except ActorError as error:
            raise _storage_error_in(error) or StreamUnavailable(str(error)) from error
        yield ref


async def _submit(
    path: AppendPath,
    ref: ActorRef[StreamMessage],
    append: AppendInput,
    key: EncryptionKey | None,
    gate: SessionGate | None,
) -> Reply[AppendAck]:
    batch, metrics = append.batch, path.metrics
    metrics.batch_records.observe(batch.count)
    metrics.batch_bytes.observe(batch.metered_bytes)
    asked_at = trio.current_time()
    permit = await path.budget.take(batch.metered_bytes)
    submitted_at = trio.current_time()
    metrics.permit_seconds.observe(submitted_at - asked_at)

    def disposed(reply: Reply[AppendAck]) -> None:
        # Only now, not when the asker gives up: until then the stream's actor holds the batch.
        permit.give_back()
        if reply.succeeded:
            metrics.ack_seconds.observe(trio.current_time() - submitted_at)

    def message(reply: Reply[AppendAck]) -> StreamMessage:
        return Append(append, gate, reply, key)

    try:
        try:
            # Not a checkpoint, so that all of what a session has received shares a commit.
            return ref.begin_ask_nowait(message, disposed)
        except MailboxFull:
            return await ref.begin_ask(message, disposed)
    except ActorError as error:
        permit.give_back()
        raise StreamUnavailable(str(error)) from error
    except BaseException:
        permit.give_back()
        raise


def _outcome_of(error: ActorError) -> Exception:
    """What the end of a stream's actor means for a request that it had taken."""
    return _storage_error_in(error) or OutcomeUnknown(str(error))


def _storage_error_in(error: ActorError) -> StorageError | None:
    if isinstance(error, ActorCrashed) and isinstance(error.cause, StorageError):
        return error.cause
    return None
