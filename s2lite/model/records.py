"""Records in batches, the commands among them, and what they meter.

A record with exactly one header whose name is empty is a *command*: the header's value is the
operation, the body its payload. In any other record every header name must be non-empty.
"""

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import attrs
import msgspec

from s2lite.model.errors import InvalidInput
from s2lite.model.limits import (
    HEADER_OVERHEAD_BYTES,
    MAX_FENCING_TOKEN_BYTES,
    RECORD_OVERHEAD_BYTES,
    TERMINAL_TRIM_POINT,
    TRIM_POINT_BYTES,
)
from s2lite.model.positions import StreamPosition

FENCE_OPERATION: Final = b"fence"
TRIM_OPERATION: Final = b"trim"


@attrs.frozen
class Fence:
    """From its batch on, `token` is the fencing token in force; the empty token lifts it."""

    token: str


@attrs.frozen
class Trim:
    """Records numbered below `trim_point` may go."""

    trim_point: int


Command: TypeAlias = Fence | Trim

TERMINAL_TRIM: Final = Trim(TERMINAL_TRIM_POINT)
"""The command in the last record of a stream that is being deleted."""


def parse_command(operation: bytes, payload: bytes) -> Command:
    """Decode a command record; raises `InvalidInput` for an unknown operation or a bad payload."""
    if operation == FENCE_OPERATION:
        return Fence(_parse_token(payload))
    if operation == TRIM_OPERATION:
        if len(payload) != TRIM_POINT_BYTES:
            raise InvalidInput(
                f"a trim command's body is {TRIM_POINT_BYTES} bytes (the trim point,"
                f" big-endian), not {len(payload)}"
            )
        return Trim(int.from_bytes(payload, "big"))
    raise InvalidInput(
        f"unknown command {operation[:32]!r}: a single header with an empty name is a command,"
        " `fence` or `trim`"
    )


def command_parts(command: Command) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Encode a command as the headers and the body of its record."""
    match command:
        case Fence(token):
            return [(b"", FENCE_OPERATION)], token.encode()
        case Trim(trim_point):
            return [(b"", TRIM_OPERATION)], trim_point.to_bytes(TRIM_POINT_BYTES, "big")


def metered_size(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> int:
    """Count the bytes a record is metered at: position and timestamp are free."""
    sizes = (HEADER_OVERHEAD_BYTES + len(name) + len(value) for name, value in headers)
    return RECORD_OVERHEAD_BYTES + sum(sizes) + len(body)


def _parse_token(payload: bytes) -> str:
    if len(payload) > MAX_FENCING_TOKEN_BYTES:
        raise InvalidInput(
            f"a fencing token is at most {MAX_FENCING_TOKEN_BYTES} bytes, not {len(payload)}"
        )
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise InvalidInput("a fence command's body (the token) must be UTF-8") from None


@attrs.frozen(eq=False)
class AppendBatch:
    """Validated records that are appended together or not at all.

    `records` is opaque to everyone but the protobuf codec. `timestamps` has the client's timestamp
    of each record, or None; `commands` has the index in the batch of each command record.
    """

    records: Sequence[object]
    count: int
    metered_bytes: int
    timestamps: Sequence[int | None]
    commands: tuple[tuple[int, Command], ...] = ()


@attrs.frozen(eq=False)
class AppendInput:
    """A batch and the conditions it comes with; a condition that is None is not checked."""

    batch: AppendBatch
    match_seq_num: int | None = None
    fencing_token: str | None = None


@attrs.frozen
class AppendAck:
    """Where a batch went: `start` is its first record's position, `end` is one past its last.

    `end` and `tail` hold the timestamp of the record before them. `tail` is at least `end`.
    """

    start: StreamPosition
    end: StreamPosition
    tail: StreamPosition


class SequencedBatch(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A batch whose records have their positions: the unit of storage and of delivery.

    `payload` is the serialised `records` field of a protobuf `ReadBatch`, or in the log of a stream
    with a cipher what it is sealed as; payloads of adjacent batches may be concatenated.
    """

    first_seq_num: int
    count: int
    first_timestamp: int
    last_timestamp: int
    metered_bytes: int
    payload: bytes

    @property
    def end_seq_num(self) -> int:
        """The number after the last record's."""
        return self.first_seq_num + self.count

    @property
    def tail(self) -> StreamPosition:
        """The tail of the stream when this batch is the last in it."""
        return StreamPosition(self.end_seq_num, self.last_timestamp)
