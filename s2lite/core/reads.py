"""Where a read starts, and where count, bytes and until end it.

Theory of operation. A read wants records from a position up to its limits. On reaching the tail it
either *follows* (waits for new records) or ends. The rules that turn a request into a start and the
arithmetic of the limits live here; fetching and waiting are the caller's.

Limits are applied to whole batches where they fit, which needs only a batch's totals. Only the
batch in which a limit falls is looked at record by record.
"""

from collections.abc import Iterable
from typing import Protocol

import attrs

from s2lite.model.errors import ReadPastTail
from s2lite.model.limits import (
    MAX_BATCH_BYTES,
    MAX_BATCH_RECORDS,
    MAX_UNARY_WAIT_SECONDS,
    RECORD_OVERHEAD_BYTES,
)
from s2lite.model.positions import StreamPosition
from s2lite.model.reads import FromSeqNum, FromTailOffset, FromTimestamp, ReadLimits, ReadRequest


class BatchTotals(Protocol):
    """What the limits need to know of a batch."""

    @property
    def count(self) -> int:
        """Number of records."""

    @property
    def metered_bytes(self) -> int:
        """Sum of the records' metered sizes."""

    @property
    def first_timestamp(self) -> int:
        """Timestamp of the first record, and so the smallest one."""

    @property
    def last_timestamp(self) -> int:
        """Timestamp of the last record, and so the largest one."""


class RecordMeasure(Protocol):
    """What the limits need to know of a record."""

    @property
    def timestamp(self) -> int:
        """Milliseconds since the epoch."""

    @property
    def metered_bytes(self) -> int:
        """Metered size."""


def unary_request(request: ReadRequest) -> ReadRequest:
    """Bound a request the way a unary read is: one batch's worth, and a minute's wait."""
    limits = request.limits
    bounded = ReadLimits(
        count=min(_or_max(limits.count, MAX_BATCH_RECORDS), MAX_BATCH_RECORDS),
        bytes=min(_or_max(limits.bytes, MAX_BATCH_BYTES), MAX_BATCH_BYTES),
        until=limits.until,
    )
    wait = min(request.wait_seconds or 0, MAX_UNARY_WAIT_SECONDS)
    return attrs.evolve(request, limits=bounded, wait_seconds=wait)


def _or_max(value: int | None, maximum: int) -> int:
    return maximum if value is None else value


def may_follow(request: ReadRequest) -> bool:
    """Whether the read may stay open at the tail: it was told to wait, or it has no bound at all.

    An unbounded read that waits zero seconds is one of them: it catches up, then ends without
    error.
    """
    limits = request.limits
    unbounded = limits.count is None and limits.bytes is None and limits.until is None
    return bool(request.wait_seconds) or unbounded


def locate(request: ReadRequest, tail: StreamPosition) -> int | FromTimestamp:
    """The seq_num to start at, or the timestamp whose first record the caller has to find.

    `tail` is the durable tail. Raises `ReadPastTail` if the start lies beyond it and is not
    clamped, or lies at it and the read may not follow.
    """
    match request.start:
        case FromTimestamp(timestamp) if timestamp <= tail.timestamp:
            return request.start
        case FromTimestamp():
            wanted = tail.seq_num + 1
        case FromSeqNum(seq_num):
            wanted = seq_num
        case FromTailOffset(offset):
            wanted = max(0, tail.seq_num - offset)
    if wanted > tail.seq_num:
        if not request.clamp:
            raise ReadPastTail(tail)
        wanted = tail.seq_num
    if wanted == tail.seq_num and not may_follow(request):
        raise ReadPastTail(tail)
    return wanted


@attrs.define(eq=False)
class Allowance:
    """What a read may still deliver.

    A limit of zero records is not *used up* before the first record turns up: such a read ends at
    the first record it may not deliver.
    """

    count: int | None
    bytes: int | None
    until: int | None
    _taken: bool = False

    @classmethod
    def of(cls, limits: ReadLimits) -> "Allowance":
        """Start with nothing delivered yet."""
        return cls(limits.count, limits.bytes, limits.until)

    @property
    def used_up(self) -> bool:
        """Whether records were delivered and no further one can be."""
        return self._taken and (self.count == 0 or self.bytes == 0)

    def admits_whole(self, batch: BatchTotals) -> bool:
        """Whether every record of the batch may be delivered."""
        return (
            (self.count is None or batch.count <= self.count)
            and (self.bytes is None or batch.metered_bytes <= self.bytes)
            and (self.until is None or batch.last_timestamp < self.until)
        )

    def admits_none(self, batch: BatchTotals) -> bool:
        """Whether no record of the batch may be delivered, which can be told from outside.

        If it is false there may still be none: its first record may be too large.
        """
        return (
            self.count == 0
            or (self.bytes is not None and self.bytes < RECORD_OVERHEAD_BYTES)
            or (self.until is not None and batch.first_timestamp >= self.until)
        )

    def admitted_prefix(self, records: Iterable[RecordMeasure]) -> tuple[int, int]:
        """How many records from the front may be delivered, and their metered bytes."""
        count = size = 0
        for record in records:
            if (
                (self.count is not None and count + 1 > self.count)
                or (self.bytes is not None and size + record.metered_bytes > self.bytes)
                or (self.until is not None and record.timestamp >= self.until)
            ):
                break
            count += 1
            size += record.metered_bytes
        return count, size

    def take(self, count: int, metered_bytes: int) -> None:
        """Account for records that are delivered."""
        self._taken = self._taken or count > 0
        if self.count is not None:
            self.count -= count
        if self.bytes is not None:
            self.bytes -= metered_bytes
