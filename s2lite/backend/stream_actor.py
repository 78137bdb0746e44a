"""The owner of one stream: sequences its appends, holds their acks, feeds its followers.

Theory of operation. The actor holds the *assigned* state (the sequencer) and hands every batch to
the log writer without waiting. The log writer tells it in the order of submission what became
durable; then, in one step, the batch's ack is released and the batch is published to the followers.
The durable state itself lives in the catalog, which the log writer changes before it tells anyone,
so the tail that readers see is never ahead of the store and never behind an ack.

An actor may be stopped or crash at any moment: all it knows beyond the catalog is about batches in
flight, and its successor waits for those to settle before it starts.
"""

import random
from collections import deque
from collections.abc import Callable

import attrs
import trio

from actors import Actor, Broadcast, Reply, Subscription
from actors.clock import Clock
from s2lite.backend.catalog import StreamEntry
from s2lite.backend.storage_actor import StorageClient
from s2lite.codec.protobuf import command_batch, encode_records
from s2lite.codec.sealed import Seal, clear_frames
from s2lite.core.acks import PendingAcks
from s2lite.core.sequencer import Assignment, Refusal, Sequencer
from s2lite.model.config import StreamConfig, TimestampingMode
from s2lite.model.encryption import EncryptionKey
from s2lite.model.errors import (
    EncryptionKeyMissing,
    InvalidInput,
    StorageError,
    StreamDeletionPending,
    StreamUnavailable,
)
from s2lite.model.limits import U64_MAX
from s2lite.model.log import AppendEntry, LogEntry, StreamDeleted
from s2lite.model.positions import StreamPosition
from s2lite.model.records import (
    TERMINAL_TRIM,
    AppendAck,
    AppendBatch,
    AppendInput,
    SequencedBatch,
)

FOLLOWER_BACKLOG_BATCHES = 25
FOLLOWER_BACKLOG_BYTES = 4 * 1024 * 1024
STREAM_MAILBOX_CAPACITY = 256


@attrs.define(eq=False)
class SessionGate:
    """Shared by the appends of one session: after one of them failed, none is applied any more."""

    closed: bool = False


@attrs.frozen(eq=False)
class Append:
    """Sequence a batch; answered when it is durable. `key` seals it if the stream has a cipher."""

    append: AppendInput
    gate: SessionGate | None
    reply: Reply[AppendAck]
    key: EncryptionKey | None = None


@attrs.frozen(eq=False)
class Follow:
    """Subscribe to what becomes durable from `seq_num` on; None if the stream is past it."""

    seq_num: int
    reply: Reply[Subscription[SequencedBatch] | None]


@attrs.frozen(eq=False)
class Delete:
    """Append the terminal trim and mark the stream deleted; answered when both are durable."""

    reply: Reply[None]


StreamMessage = Append | Follow | Delete


@attrs.define(eq=False)
class _InFlight:
    batch: SequencedBatch
    settled: bool = False
    error: StorageError | None = None


@attrs.define(eq=False)
class StreamActor(Actor[StreamMessage]):
    """Owns one stream for as long as it is in use.

    `on_backlog` is told of every change, in bytes, of what its followers have yet to take.
    """

    entry: StreamEntry
    storage: StorageClient
    clock: Clock
    rng: random.Random
    on_backlog: Callable[[int], None] | None = None
    _sequencer: Sequencer = attrs.field(init=False)
    _durable: StreamPosition = attrs.field(init=False)
    _acks: PendingAcks = attrs.field(factory=PendingAcks)
    _in_flight: deque[_InFlight] = attrs.field(factory=deque)
    _followers: Broadcast[SequencedBatch] = attrs.field(init=False)
    _deletion: list[Reply[None]] = attrs.field(factory=list)
    _deleting: bool = False

    def __attrs_post_init__(self) -> None:
        self._followers = Broadcast(
            FOLLOWER_BACKLOG_BATCHES, FOLLOWER_BACKLOG_BYTES, self.on_backlog
        )

    async def started(self) -> None:
        """Wait for what a predecessor left in flight, then take up the durable state."""
        entry = self.entry
        await self.storage.settle_stream(entry.record.stream_id)
        self._durable = entry.tail
        cipher = entry.record.cipher
        self._sequencer = Sequencer(
            entry.tail,
            entry.fencing_token,
            entry.trim_point,
            U64_MAX if cipher is None else cipher.max_seq_num,
        )
        self._deleting = entry.record.deleted_at_ms is not None
        self.context.start_soon(self._release_followers_at_the_end)
        if self._deleting:
            self._finish_deletion()  # by a predecessor: whoever comes to follow is told at once

    async def receive(self, message: StreamMessage) -> None:
        """Change the assigned state in one step; nothing here waits for the store."""
        match message:
            case Append():
                self._append(message)
            case Follow(seq_num, reply):
                reply.set(self._followers.subscribe() if seq_num == self._durable.seq_num else None)
            case Delete(reply):
                self._delete(reply)

    async def woken(self) -> None:
        """Announce what the log writer has settled."""
        while self._in_flight and self._in_flight[0].settled:
            done = self._in_flight.popleft()
            if done.error is not None:
                raise done.error
            self._announce(done.batch)
        if self._deleting and not self._in_flight:
            self._finish_deletion()

    # --- appends ------------------------------------------------------------------------------

    def _append(self, message: Append) -> None:
        gate, reply = message.gate, message.reply
        if reply.abandoned or (gate is not None and gate.closed):
            reply.fail(StreamUnavailable("the session had ended before this append"))
            return
        now_ms = self.clock.now_ms()
        try:
            seal = self._seal(message.key)
            assignment = self._assign(message.append, self.entry.record.config, now_ms)
        except Refusal as refusal:
            self._acks.refuse(refusal.error, refusal.depends_on, reply)
            self._acks.release(self._durable.seq_num)
        except (EncryptionKeyMissing, InvalidInput, StreamDeletionPending) as error:
            reply.fail(error)
        else:
            batch = message.append.batch
            sequenced = _sequenced(batch, assignment)
            if seal is not None:
                commands = [index for index, _ in batch.commands]
                sequenced = seal.seal(sequenced, commands, self.rng.randbytes)
            self._accept(sequenced, assignment, now_ms, reply)
            return
        if gate is not None:
            gate.closed = True

    def _assign(self, append: AppendInput, config: StreamConfig, now_ms: int) -> Assignment:
        if self._deleting:
            record = self.entry.record
            raise StreamDeletionPending(record.basin, record.name)
        return self._sequencer.assign(append, config, now_ms)

    def _seal(self, key: EncryptionKey | None) -> Seal | None:
        """What to seal a batch with, which is not kept; None if the stream has no cipher."""
        record = self.entry.record
        if record.cipher is None:
            return None
        if key is None:
            raise EncryptionKeyMissing(record.cipher)
        return Seal(record.cipher, record.stream_id, key)

    def _accept(
        self,
        sequenced: SequencedBatch,
        assignment: Assignment,
        now_ms: int,
        reply: Reply[AppendAck],
    ) -> None:
        start = StreamPosition(sequenced.first_seq_num, sequenced.first_timestamp)
        self._acks.accept(AppendAck(start, sequenced.tail, sequenced.tail), reply)
        self._submit(sequenced, (self._entry_for(sequenced, assignment, now_ms),))

    def _entry_for(self, batch: SequencedBatch, assignment: Assignment, now_ms: int) -> AppendEntry:
        record = self.entry.record
        age_ms = record.config.retention_policy.age_ms
        return AppendEntry(
            record.stream_id,
            batch,
            expires_at_ms=None if age_ms is None else now_ms + age_ms,
            fencing_token=assignment.fencing_token,
            trim_point=assignment.trim_point,
        )

    def _submit(self, batch: SequencedBatch, entries: tuple[LogEntry, ...]) -> None:
        in_flight = _InFlight(batch)
        self._in_flight.append(in_flight)
        ref = self.context.ref

        def settled(error: StorageError | None) -> None:
            in_flight.settled, in_flight.error = True, error
            ref.wake()

        self.storage.submit(entries, settled)

    def _announce(self, batch: SequencedBatch) -> None:
        self._durable = batch.tail
        self._acks.release(batch.end_seq_num)
        self._followers.publish(batch, len(batch.payload))

    # --- deletion -----------------------------------------------------------------------------

    def _delete(self, reply: Reply[None]) -> None:
        self._deletion.append(reply)
        if not self._deleting:
            record, now_ms = self.entry.record, self.clock.now_ms()
            # Stamped by arrival whatever the stream's mode: no client gave this record a timestamp.
            config = attrs.evolve(record.config, timestamping_mode=TimestampingMode.ARRIVAL)
            batch = command_batch(TERMINAL_TRIM)
            assignment = self._assign(AppendInput(batch), config, now_ms)
            sequenced = _sequenced(batch, assignment)
            if record.cipher is not None:
                sequenced = clear_frames(sequenced)
            terminal = self._entry_for(sequenced, assignment, now_ms)
            self._submit(sequenced, (terminal, StreamDeleted(record.stream_id, now_ms)))
            self._deleting = True
        elif not self._in_flight:
            self._finish_deletion()

    def _finish_deletion(self) -> None:
        for reply in self._deletion:
            reply.set(None)
        self._deletion.clear()
        self._followers.close(StreamUnavailable("the stream was deleted"))

    async def _release_followers_at_the_end(self) -> None:
        """Followers must not wait for an actor that is gone, however it went."""
        try:
            await trio.sleep_forever()
        finally:
            self._followers.close(StreamUnavailable("the stream's owner has stopped"))


def _sequenced(batch: AppendBatch, assignment: Assignment) -> SequencedBatch:
    timestamps = assignment.timestamps
    return SequencedBatch(
        first_seq_num=assignment.first_seq_num,
        count=batch.count,
        first_timestamp=timestamps[0],
        last_timestamp=timestamps[-1],
        metered_bytes=batch.metered_bytes,
        payload=encode_records(batch, assignment.first_seq_num, timestamps),
    )
