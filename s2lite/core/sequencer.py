"""Assigns positions to records, and decides whether a batch may be appended at all.

Theory of operation. A stream has two states. The *assigned* state includes every batch that was
accepted, durable or not; the *durable* state trails it. Conditions are checked against the assigned
state, because the batches in between will become durable in order or the whole process stops: what
was assigned is never taken back. So the sequencer holds the assigned state alone, changes it in one
step per batch, and never waits.

A refusal reveals assigned state (a seq_num, a fencing token). It may be told to the client only
when that state is durable; `Refusal.depends_on` names the seq_num below which everything has to be.
"""

from collections.abc import Sequence

import attrs

from s2lite.model.config import StreamConfig, TimestampingMode
from s2lite.model.errors import (
    AppendConditionFailed,
    CipherExhausted,
    FencingTokenMismatch,
    InvalidInput,
    SeqNumMismatch,
)
from s2lite.model.limits import U64_MAX
from s2lite.model.positions import StreamPosition
from s2lite.model.records import AppendBatch, AppendInput, Fence, Trim


@attrs.define
class Refusal(Exception):
    """A condition of the append does not hold, and nothing was assigned.

    `error` is for the client, once every record below `depends_on` is durable.
    """

    error: AppendConditionFailed | CipherExhausted
    depends_on: int


@attrs.frozen(eq=False)
class Assignment:
    """The positions a batch was given, and what its commands changed.

    `fencing_token` and `trim_point` are the stream's new ones, or None where the batch left them.
    """

    first_seq_num: int
    timestamps: Sequence[int]
    tail: StreamPosition
    fencing_token: str | None = None
    trim_point: int | None = None


@attrs.define(eq=False)
class Sequencer:
    """The assigned state of one stream.

    Commands may have any seq_num, other records none above `max_seq_num`.
    """

    tail: StreamPosition
    fencing_token: str = ""
    trim_point: int = 0
    max_seq_num: int = U64_MAX
    # One past the fence record that set the token in force, as far as we know it.
    _fence_end: int = 0

    def assign(self, append: AppendInput, config: StreamConfig, now_ms: int) -> Assignment:
        """Give the batch the next positions and apply its commands, or change nothing.

        Raises `Refusal` if a condition does not hold or numbers have run out, and `InvalidInput` if
        the stream requires timestamps and a record has none. The fencing token is checked first: a
        writer that was fenced off should learn that rather than chase a sequence number.
        """
        self._check_conditions(append)
        batch = append.batch
        self._check_numbers(batch)
        timestamps = assign_timestamps(
            batch.timestamps, config, now_ms=now_ms, floor=self.tail.timestamp
        )
        first = self.tail.seq_num
        token, trim_point = self._apply_commands(append)
        self.tail = StreamPosition(first + batch.count, timestamps[-1])
        return Assignment(first, timestamps, self.tail, token, trim_point)

    def _check_conditions(self, append: AppendInput) -> None:
        token = append.fencing_token
        if token is not None and token != self.fencing_token:
            raise Refusal(FencingTokenMismatch(self.fencing_token), self._fence_end)
        match = append.match_seq_num
        if match is not None and match != self.tail.seq_num:
            raise Refusal(SeqNumMismatch(self.tail.seq_num), self.tail.seq_num)

    def _check_numbers(self, batch: AppendBatch) -> None:
        first = self.tail.seq_num
        if first + batch.count - 1 <= self.max_seq_num:
            return
        commands = {index for index, _ in batch.commands}
        ordinary = [index for index in range(batch.count) if index not in commands]
        if ordinary and first + ordinary[-1] > self.max_seq_num:
            text = f"the stream's cipher seals no seq_num above {self.max_seq_num}"
            raise Refusal(CipherExhausted(text), first)

    def _apply_commands(self, append: AppendInput) -> tuple[str | None, int | None]:
        """Apply the batch's commands in record order; the last one of a kind wins."""
        token, trim_point = None, None
        for index, command in append.batch.commands:
            end = self.tail.seq_num + index + 1
            match command:
                case Fence():
                    self.fencing_token = token = command.token
                    self._fence_end = end
                case Trim():
                    # A trim reaches at most through its own record, and never moves back.
                    effective = min(command.trim_point, end)
                    if effective > self.trim_point:
                        self.trim_point = trim_point = effective
        return token, trim_point


def assign_timestamps(
    given: Sequence[int | None], config: StreamConfig, *, now_ms: int, floor: int
) -> Sequence[int]:
    """Stamp one batch: never above `now_ms` unless uncapped, never below what came before.

    `floor` is the timestamp of the stream's last record. Raises `InvalidInput` if the mode is
    client-require and a record has no timestamp.
    """
    mode = config.timestamping_mode
    if mode is TimestampingMode.ARRIVAL:
        return [max(now_ms, floor)] * len(given)
    if mode is TimestampingMode.CLIENT_REQUIRE and None in given:
        raise InvalidInput(
            f"record {given.index(None)} has no timestamp, and this stream requires one"
        )
    stamped = []
    cap = None if config.timestamping_uncapped else now_ms
    for wanted in given:
        timestamp = now_ms if wanted is None else wanted
        if cap is not None and timestamp > cap:
            timestamp = cap
        floor = max(floor, timestamp)
        stamped.append(floor)
    return stamped
