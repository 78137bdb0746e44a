"""JSON bodies of the data plane: appends in; acks, tails, batches and errors out.

Output is compact, with members in a fixed order and non-ASCII characters written as they are.
"""

import binascii
from collections.abc import Callable
from enum import StrEnum
from typing import Final, TypeAlias, assert_never

import msgspec

from s2lite.codec import _strict_json as strict
from s2lite.codec import s2_pb2
from s2lite.codec.protobuf import add_headers, append_input_from, check_record_count, decode_payload
from s2lite.model.errors import (
    FencingTokenMismatch,
    InvalidInput,
    JsonError,
    SeqNumMismatch,
)
from s2lite.model.limits import MAX_FENCING_TOKEN_BYTES
from s2lite.model.positions import StreamPosition
from s2lite.model.records import AppendAck, AppendInput


class RecordFormat(StrEnum):
    """How header names, header values and bodies are represented in JSON strings.

    `RAW` has their bytes as UTF-8 text, which loses what is not UTF-8; `BASE64` loses nothing.
    """

    RAW = "raw"
    BASE64 = "base64"


# --- in ---------------------------------------------------------------------------------------

_INPUT_MEMBERS: Final = frozenset({"records", "match_seq_num", "fencing_token"})
_RECORD_MEMBERS: Final = frozenset({"timestamp", "headers", "body"})

# What a record says, every string encoded as UTF-8.
_Parts: TypeAlias = tuple[int | None, list[tuple[bytes, bytes]], bytes]


def decode_append_input(body: bytes, record_format: RecordFormat) -> AppendInput:
    """Decode, validate and meter the JSON form of an append.

    Raises `JsonError` if any part of it is malformed or of the wrong type, and `InvalidInput` if it
    breaks a rule or holds what is not base64 although the format says so. A batch with too many
    records is refused before they are looked at.
    """
    members = strict.members(strict.loads(body), _INPUT_MEMBERS, "the body")
    message = s2_pb2.AppendInput()
    if (match_seq_num := members.get("match_seq_num")) is not None:
        message.match_seq_num = strict.u64(match_seq_num, "match_seq_num")
    if (fencing_token := members.get("fencing_token")) is not None:
        message.fencing_token = _fencing_token(fencing_token)
    records = strict.array(members.get("records"), "records")
    check_record_count(len(records))
    # All types are checked before any base64 is decoded: a wrong type is the graver mistake.
    parts = [_record(index, value) for index, value in enumerate(records)]
    if record_format is RecordFormat.BASE64:
        parts = [_decode_base64(index, record) for index, record in enumerate(parts)]
    add_record = message.records.add
    for timestamp, headers, record_body in parts:
        record = add_record()
        record.body = record_body
        if timestamp is not None:
            record.timestamp = timestamp
        add_headers(record, headers)
    return append_input_from(message)


def _fencing_token(value: object) -> str:
    token = strict.utf8(value, "fencing_token")
    if len(token) > MAX_FENCING_TOKEN_BYTES:
        raise JsonError(
            f"fencing_token: {len(token)} bytes of UTF-8, the limit is {MAX_FENCING_TOKEN_BYTES}"
        )
    return token.decode()


def _record(index: int, value: object) -> _Parts:
    try:
        record = strict.members(value, _RECORD_MEMBERS, "")
        timestamp = record.get("timestamp")
        return (
            None if timestamp is None else strict.u64(timestamp, ".timestamp"),
            _headers(record["headers"]) if "headers" in record else [],
            strict.utf8(record.get("body", ""), ".body"),
        )
    except JsonError as error:
        raise JsonError(f"records[{index}]{error}") from None


def _headers(value: object) -> list[tuple[bytes, bytes]]:
    pairs = strict.array(value, ".headers")
    return [_header(index, pair) for index, pair in enumerate(pairs)]


def _header(index: int, value: object) -> tuple[bytes, bytes]:
    if not isinstance(value, list) or len(value) != 2:
        raise JsonError(f".headers[{index}]: expected an array of two strings")
    try:
        return strict.utf8(value[0], "[0]"), strict.utf8(value[1], "[1]")
    except JsonError as error:
        raise JsonError(f".headers[{index}]{error}") from None


def _decode_base64(index: int, parts: _Parts) -> _Parts:
    timestamp, headers, body = parts
    try:
        decoded = [(_from_base64(name), _from_base64(value)) for name, value in headers]
        return timestamp, decoded, _from_base64(body)
    except ValueError:
        raise InvalidInput(
            f"records[{index}]: names, values and body must be base64, of the standard alphabet,"
            " padded, without whitespace and with zeros for unused bits"
        ) from None


def _from_base64(text: bytes) -> bytes:
    data = binascii.a2b_base64(text)
    # The decoder skips what it does not know. There is one right spelling: compare with that.
    if binascii.b2a_base64(data, newline=False) != text:
        raise ValueError
    return data


# --- out --------------------------------------------------------------------------------------

_Position: TypeAlias = dict[str, int]


class _Record(msgspec.Struct, omit_defaults=True):
    seq_num: int
    timestamp: int
    headers: list[tuple[str, str]] = []
    body: str = ""


def encode_ack(ack: AppendAck) -> bytes:
    """Encode the answer to an append."""
    return _encode(
        {
            "start": _position(ack.start),
            "end": _position(ack.end),
            "tail": _position(ack.tail),
        }
    )


def encode_tail_response(tail: StreamPosition) -> bytes:
    """Encode the answer to a tail check, which is also that to a read past the tail."""
    return _encode({"tail": _position(tail)})


def encode_read_batch(
    payload: bytes, record_format: RecordFormat, tail: StreamPosition | None
) -> bytes:
    """Encode the records of a payload, and the tail if there is one; raises `ProtobufError`.

    In the raw format, each invalid sequence in what is not UTF-8 becomes one U+FFFD.
    """
    text = _to_base64 if record_format is RecordFormat.BASE64 else _to_raw
    batch: dict[str, object] = {"records": _records(payload, text)}
    if tail is not None:
        batch["tail"] = _position(tail)
    return _encode(batch)


def encode_ping(now_ms: int, tail: StreamPosition) -> bytes:
    """Encode the data of a ping event; `now_ms` is the server's time since the epoch."""
    return _encode({"timestamp": now_ms, "tail": _position(tail)})


def encode_error(code: str, message: str) -> bytes:
    """Encode an error; lone surrogates in a message that quotes a client become `?`."""
    return _encode({"code": code, "message": message.encode(errors="replace").decode()})


def encode_condition_failed(error: FencingTokenMismatch | SeqNumMismatch) -> bytes:
    """Encode which condition of an append failed, and what would have held instead."""
    match error:
        case FencingTokenMismatch(actual=actual):
            return _encode({"fencing_token_mismatch": actual})
        case SeqNumMismatch(next_seq_num=next_seq_num):
            return _encode({"seq_num_mismatch": next_seq_num})
    assert_never(error)


_encode: Final = msgspec.json.Encoder().encode


def _position(position: StreamPosition) -> _Position:
    return {"seq_num": position.seq_num, "timestamp": position.timestamp}


def _records(payload: bytes, text: Callable[[bytes], str]) -> list[_Record]:
    return [
        _Record(
            record.seq_num,
            record.timestamp,
            [(text(header.name), text(header.value)) for header in record.headers],
            text(record.body),
        )
        for record in decode_payload(payload)
    ]


def _to_raw(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _to_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")
