"""What a read asks for, and what it delivers."""

from typing import TypeAlias

import attrs

from s2lite.model.errors import InvalidInput
from s2lite.model.limits import U64_MAX
from s2lite.model.positions import StreamPosition


@attrs.frozen
class FromSeqNum:
    """Start at this sequence number."""

    seq_num: int


@attrs.frozen
class FromTimestamp:
    """Start at the first record whose timestamp, in milliseconds, is at least this."""

    timestamp: int


@attrs.frozen
class FromTailOffset:
    """Start this many sequence numbers before the tail, but not before 0."""

    offset: int


ReadStart: TypeAlias = FromSeqNum | FromTimestamp | FromTailOffset


def choose_start(seq_num: int | None, timestamp: int | None, tail_offset: int | None) -> ReadStart:
    """Turn the three start parameters into one start; with none given a read starts at the tail.

    Raises `InvalidInput` if more than one is given.
    """
    starts: list[ReadStart] = []
    if seq_num is not None:
        starts.append(FromSeqNum(seq_num))
    if timestamp is not None:
        starts.append(FromTimestamp(timestamp))
    if tail_offset is not None:
        starts.append(FromTailOffset(tail_offset))
    if len(starts) > 1:
        raise InvalidInput("give only one of `seq_num`, `timestamp` and `tail_offset`")
    return starts[0] if starts else FromTailOffset(0)


@attrs.frozen
class ReadLimits:
    """Where a read ends: records, metered bytes, and an exclusive timestamp; None is no limit."""

    count: int | None = None
    bytes: int | None = None
    until: int | None = None


@attrs.frozen
class ReadRequest:
    """What to read, and how long to wait for more.

    `clamp` moves a start past the tail to the tail. `wait_seconds` is the longest pause between
    records while following: None leaves it to the kind of read, 0 forbids waiting.

    Raises `InvalidInput` if the start is a timestamp at or after `limits.until`.
    """

    start: ReadStart = FromTailOffset(0)
    clamp: bool = False
    limits: ReadLimits = attrs.field(default=ReadLimits())
    wait_seconds: int | None = None

    @limits.validator
    def _check_range(self, _attribute: object, limits: ReadLimits) -> None:
        if (
            isinstance(self.start, FromTimestamp)
            and limits.until is not None
            and self.start.timestamp >= limits.until
        ):
            raise InvalidInput(
                f"start `timestamp` {self.start.timestamp} must be below `until` {limits.until}"
            )

    def resumed_after(self, seq_num: int, count: int, metered_bytes: int) -> "ReadRequest":
        """Make the request for the rest, `seq_num` being the last record of those delivered.

        `count` and `metered_bytes` are what was delivered; they come off the limits.
        """
        limits = attrs.evolve(
            self.limits,
            count=_less(self.limits.count, count),
            bytes=_less(self.limits.bytes, metered_bytes),
        )
        start = FromSeqNum(min(seq_num + 1, U64_MAX))
        return attrs.evolve(self, start=start, limits=limits)


def _less(limit: int | None, used: int) -> int | None:
    return None if limit is None else max(0, limit - used)


@attrs.frozen
class DeliveredBatch:
    """Records for a reader; `payload` is the serialised `records` field of a `ReadBatch`.

    `tail` is there if the records came live rather than from storage. It is the tail after the
    whole batch that was appended, of which limits may have cut off the end.
    """

    payload: bytes
    count: int
    metered_bytes: int
    first_seq_num: int
    last_seq_num: int
    tail: StreamPosition | None = None


@attrs.frozen
class Heartbeat:
    """Nothing new: a reader that follows is told the tail."""

    tail: StreamPosition


ReadEvent: TypeAlias = DeliveredBatch | Heartbeat
