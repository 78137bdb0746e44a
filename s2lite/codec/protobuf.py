"""Protobuf bodies: append inputs in, acks and read batches out.

A *payload* is the serialised `records` field of a `ReadBatch`: length-prefixed records, one after
the other. So payloads may be concatenated, and a payload followed by `encode_tail(...)` is a whole
`ReadBatch`. That is what is stored and what readers get, without decoding it again.

Everything here runs on the append and read paths for each record, on protobuf's C runtime. What a
client sent is decoded, validated and metered in one pass, and its records stay in the message they
were decoded into until `encode_records` copies them out.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from google.protobuf.message import DecodeError as MessageDecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from s2lite.codec import s2_pb2
from s2lite.model.errors import InvalidInput, ProtobufError
from s2lite.model.limits import (
    HEADER_OVERHEAD_BYTES,
    MAX_BATCH_BYTES,
    MAX_BATCH_RECORDS,
    MAX_FENCING_TOKEN_BYTES,
    MAX_RECORD_BYTES,
    RECORD_OVERHEAD_BYTES,
)
from s2lite.model.positions import StreamPosition
from s2lite.model.records import (
    AppendAck,
    AppendBatch,
    AppendInput,
    Command,
    command_parts,
    parse_command,
)

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

    Records = RepeatedCompositeFieldContainer[s2_pb2.AppendRecord]
    Headers = RepeatedCompositeFieldContainer[s2_pb2.Header]


_INPUT_FIELDS: Final = {1: "records", 2: "match_seq_num", 3: "fencing_token"}
# Looking at unknown fields is slow, about 1 us each, and a body of 2 MiB has room for a million.
_MAX_UNKNOWN_BYTES: Final = 64 * 1024


class RecordMeta(NamedTuple):
    """What limits need to know of a stored record; a tuple because one is made per record."""

    seq_num: int
    timestamp: int
    metered_bytes: int


def decode_append_input(data: bytes) -> AppendInput:
    """Decode, validate and meter an `AppendInput` message.

    Raises `ProtobufError` for bytes that are no such message, and `InvalidInput` for a message that
    breaks a rule; records are named in it by index, counting from 0. Unknown fields are dropped.
    """
    try:
        message = s2_pb2.AppendInput.FromString(data)
    except MessageDecodeError:
        raise ProtobufError("the body is not a valid AppendInput message") from None
    records, match_seq_num, fencing_token = _taken_apart(message)
    if message.ByteSize():
        _check_unknown_fields(message)
    return _append_input(records, match_seq_num, fencing_token)


def append_input_from(message: s2_pb2.AppendInput) -> AppendInput:
    """Validate and meter a message, and take it apart; raises `InvalidInput`."""
    return _append_input(*_taken_apart(message))


def check_record_count(count: int) -> None:
    """Check how many records a batch has; raises `InvalidInput`."""
    if not count:
        raise InvalidInput("the batch has no records, it needs at least one")
    if count > MAX_BATCH_RECORDS:
        raise InvalidInput(
            f"the batch has {count} records, the limit is {MAX_BATCH_RECORDS}: split it"
        )


def build_batch(records: Iterable[tuple[Iterable[tuple[bytes, bytes]], bytes]]) -> AppendBatch:
    """Make a batch of (headers, body) records, none with a timestamp; raises `InvalidInput`."""
    message = s2_pb2.AppendInput()
    for headers, body in records:
        add_headers(message.records.add(body=body), headers)
    return _batch(message.records)


def add_headers(record: s2_pb2.AppendRecord, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Add headers to a record."""
    for name, value in headers:
        # Setting members one by one takes half the time of passing them to add(). Here and below.
        header = record.headers.add()
        header.name = name
        header.value = value


def command_batch(command: Command) -> AppendBatch:
    """Make a batch of one command record."""
    return build_batch([command_parts(command)])


def encode_records(batch: AppendBatch, first_seq_num: int, timestamps: Sequence[int]) -> bytes:
    """Serialise a batch into a payload; `timestamps` has one per record.

    May be called again, and gives the same bytes for the same positions.
    """
    read_batch = s2_pb2.ReadBatch()
    add = read_batch.records.add
    seq_num = first_seq_num
    records = cast("Sequence[s2_pb2.AppendRecord]", batch.records)
    for record, timestamp in zip(records, timestamps, strict=True):
        sequenced = add()
        sequenced.seq_num = seq_num
        sequenced.timestamp = timestamp
        sequenced.body = record.body
        headers = record.headers
        if headers:
            add_header = sequenced.headers.add
            for header in headers:  # not extend(), which copies unknown fields too
                sequenced_header = add_header()
                sequenced_header.name = header.name
                sequenced_header.value = header.value
        seq_num += 1
    return read_batch.SerializeToString()


def encode_tail(position: StreamPosition) -> bytes:
    """Serialise a tail: to follow a payload, or on its own as a heartbeat.

    The field is there even when both numbers are zero.
    """
    message = s2_pb2.ReadBatch()
    _set_position(message.tail, position)
    return message.SerializeToString()


def encode_ack(ack: AppendAck) -> bytes:
    """Serialise an ack, with all of its positions present."""
    message = s2_pb2.AppendAck()
    _set_position(message.start, ack.start)
    _set_position(message.end, ack.end)
    _set_position(message.tail, ack.tail)
    return message.SerializeToString()


def decode_payload(payload: bytes) -> Sequence[s2_pb2.SequencedRecord]:
    """Decode a payload, or concatenated payloads, into records; raises `ProtobufError`."""
    return _read_batch(payload).records


def record_metas(payload: bytes) -> list[RecordMeta]:
    """List what limits need to know of each record of a payload; raises `ProtobufError`."""
    return [
        RecordMeta(
            record.seq_num,
            record.timestamp,
            RECORD_OVERHEAD_BYTES + len(record.body) + _metered_headers(record.headers),
        )
        for record in _read_batch(payload).records
    ]


def slice_records(payload: bytes, start_index: int, stop_index: int) -> bytes:
    """Make a payload of the records at `[start_index, stop_index)` of another one.

    Raises `ProtobufError`.
    """
    batch = _read_batch(payload)
    del batch.records[stop_index:]
    del batch.records[:start_index]
    return batch.SerializeToString()


def split_payload(payload: bytes, max_bytes: int) -> list[bytes]:
    """Cut a payload between records into payloads of at most `max_bytes`; raises `ProtobufError`.

    A record that is larger than that is a payload of its own.
    """
    records = _read_batch(payload).records
    parts: list[s2_pb2.ReadBatch] = []
    room = 0
    for record in records:
        size = s2_pb2.ReadBatch(records=[record]).ByteSize()
        if size > room:
            parts.append(s2_pb2.ReadBatch())
            room = max_bytes
        parts[-1].records.append(record)
        room -= size
    return [part.SerializeToString() for part in parts]


def _taken_apart(message: s2_pb2.AppendInput) -> tuple["Records", int | None, str | None]:
    """Take what is known out of a message. The records outlive their being cleared from it."""
    records = message.records
    match_seq_num = message.match_seq_num if message.HasField("match_seq_num") else None
    fencing_token = message.fencing_token if message.HasField("fencing_token") else None
    for field in _INPUT_FIELDS.values():
        message.ClearField(field)
    return records, match_seq_num, fencing_token


def _check_unknown_fields(message: s2_pb2.AppendInput) -> None:
    """Refuse a field of the wrong type, which to the protobuf runtime is an unknown one.

    Otherwise an append could lose its conditions. Records are not searched for such fields: that
    would take as long as all the rest.
    """
    if message.ByteSize() > _MAX_UNKNOWN_BYTES:
        raise ProtobufError(f"AppendInput has over {_MAX_UNKNOWN_BYTES} bytes of unknown fields")
    unknown = UnknownFieldSet(message)
    for index in range(len(unknown)):
        name = _INPUT_FIELDS.get(unknown[index].field_number)
        if name is not None:
            raise ProtobufError(f"field `{name}` of AppendInput has the wrong type")


def _append_input(
    records: "Records", match_seq_num: int | None, fencing_token: str | None
) -> AppendInput:
    batch = _batch(records)
    token_bytes = 0 if fencing_token is None else len(fencing_token.encode())
    if token_bytes > MAX_FENCING_TOKEN_BYTES:
        raise InvalidInput(
            f"fencing token is {token_bytes} bytes, the limit is {MAX_FENCING_TOKEN_BYTES}"
        )
    return AppendInput(batch, match_seq_num, fencing_token)


def _batch(records: "Records") -> AppendBatch:
    # All in one loop, since calling a function for each record would take as long as its work.
    count = len(records)
    check_record_count(count)  # first: a body of 2 MiB can hold a million empty records
    total = 0
    timestamps: list[int | None] = []
    commands: list[tuple[int, Command]] = []
    for index, record in enumerate(records):
        size = RECORD_OVERHEAD_BYTES + len(record.body)
        headers = record.headers
        if headers:
            nameless = False
            for header in headers:
                name = header.name
                if not name:
                    nameless = True
                size += HEADER_OVERHEAD_BYTES + len(name) + len(header.value)
            if nameless:
                commands.append((index, _command(index, headers, record.body)))
        if size > MAX_RECORD_BYTES:
            raise InvalidInput(
                f"records[{index}]: body and headers meter {size} bytes,"
                f" the limit is {MAX_RECORD_BYTES}"
            )
        total += size
        timestamps.append(record.timestamp if record.HasField("timestamp") else None)
    if total > MAX_BATCH_BYTES:
        raise InvalidInput(
            f"the batch meters {total} bytes, the limit is {MAX_BATCH_BYTES}: split it"
        )
    return AppendBatch(records, count, total, timestamps, tuple(commands))


def _command(index: int, headers: "Headers", body: bytes) -> Command:
    if len(headers) > 1:
        raise InvalidInput(
            f"records[{index}]: a header name is empty; only a command has an empty header name,"
            " and a command has no other header"
        )
    try:
        return parse_command(headers[0].value, body)
    except InvalidInput as error:
        raise InvalidInput(f"records[{index}]: {error}") from None


def _metered_headers(headers: "Headers") -> int:
    if not headers:
        return 0
    return sum(HEADER_OVERHEAD_BYTES + len(h.name) + len(h.value) for h in headers)


def _read_batch(payload: bytes) -> s2_pb2.ReadBatch:
    try:
        return s2_pb2.ReadBatch.FromString(payload)
    except MessageDecodeError:
        raise ProtobufError("stored records do not decode") from None


def _set_position(field: s2_pb2.StreamPosition, position: StreamPosition) -> None:
    # Assigning even a zero makes the field present in the message it belongs to.
    field.seq_num = position.seq_num
    field.timestamp = position.timestamp
