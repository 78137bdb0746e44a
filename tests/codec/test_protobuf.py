from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2lite.codec import protobuf, s2_pb2
from s2lite.codec.protobuf import (
    RecordMeta,
    build_batch,
    decode_append_input,
    decode_payload,
    encode_records,
    encode_tail,
    record_metas,
    slice_records,
    split_payload,
)
from s2lite.model.errors import InvalidInput, ProtobufError
from s2lite.model.limits import MAX_BATCH_BYTES, MAX_RECORD_BYTES
from s2lite.model.positions import StreamPosition
from s2lite.model.records import TERMINAL_TRIM, AppendAck, AppendBatch, Fence, Trim, metered_size

Headers = list[tuple[bytes, bytes]]
Record = tuple[Headers, bytes]

T = 1_700_000_000_000


def one_record(body: bytes = b"", *headers: tuple[bytes, bytes]) -> bytes:
    return message([(list(headers), body)]).SerializeToString()


def message(records: Sequence[Record]) -> s2_pb2.AppendInput:
    append_input = s2_pb2.AppendInput()
    for headers, body in records:
        record = append_input.records.add(body=body)
        for name, value in headers:
            record.headers.add(name=name, value=value)
    return append_input


def payload_of(*bodies: bytes, first_seq_num: int = 0, timestamp: int = 1000) -> bytes:
    batch = build_batch(([], body) for body in bodies)
    return encode_records(batch, first_seq_num, [timestamp] * len(bodies))


# --- the wire, byte for byte ------------------------------------------------------------------


def test_an_input_of_one_record_decodes() -> None:
    append_input = decode_append_input(bytes.fromhex("0A 04 1A 02 68 69"))
    assert append_input.match_seq_num is None
    assert append_input.fencing_token is None
    assert append_input.batch.count == 1
    assert append_input.batch.timestamps == [None]
    assert append_input.batch.metered_bytes == 10
    assert append_input.batch.commands == ()


def test_conditions_and_timestamps_at_their_defaults_are_present() -> None:
    append_input = decode_append_input(
        bytes.fromhex("0A 0F 08 E8 07 12 06 0A 01 6B 12 01 76 1A 02 68 69 10 00 1A 00")
    )
    assert append_input.match_seq_num == 0
    assert append_input.fencing_token == ""
    assert append_input.batch.timestamps == [1000]
    assert append_input.batch.metered_bytes == 14
    zero = decode_append_input(bytes.fromhex("0A 02 08 00"))
    assert zero.batch.timestamps == [0]


@pytest.mark.parametrize(
    ("wire", "command", "metered_bytes"),
    [
        ("0A 0E 12 07 12 05 66 65 6E 63 65 1A 03 74 6F 6B", Fence("tok"), 18),
        ("0A 12 12 06 12 04 74 72 69 6D 1A 08 00 00 00 00 00 00 00 03", Trim(3), 22),
    ],
)
def test_command_records_decode(wire: str, command: Fence | Trim, metered_bytes: int) -> None:
    batch = decode_append_input(bytes.fromhex(wire)).batch
    assert batch.commands == ((0, command),)
    assert batch.metered_bytes == metered_bytes


def test_an_ack_has_all_three_positions_even_at_zero() -> None:
    ack = AppendAck(StreamPosition(0, T), StreamPosition(1, T), StreamPosition(1, T))
    assert protobuf.encode_ack(ack) == bytes.fromhex(
        "0A 07 10 80 D0 95 FF BC 3112 09 08 01 10 80 D0 95 FF BC 311A 09 08 01 10 80 D0 95 FF BC 31"
    )
    zero = AppendAck(StreamPosition.ZERO, StreamPosition.ZERO, StreamPosition.ZERO)
    assert protobuf.encode_ack(zero) == bytes.fromhex("0A 00 12 00 1A 00")


def test_an_ack_of_records_seven_and_eight() -> None:
    ack = AppendAck(StreamPosition(7, 1000), StreamPosition(9, 1001), StreamPosition(9, 1001))
    assert protobuf.encode_ack(ack) == bytes.fromhex(
        "0A 05 08 07 10 E8 07 12 05 08 09 10 E9 07 1A 05 08 09 10 E9 07"
    )


@pytest.mark.parametrize(
    ("tail", "wire"),
    [
        (StreamPosition.ZERO, "12 00"),
        (StreamPosition(5, 1000), "12 05 08 05 10 E8 07"),
        (StreamPosition(9, 1001), "12 05 08 09 10 E9 07"),
    ],
)
def test_a_heartbeat_is_a_tail_that_is_there_even_at_zero(tail: StreamPosition, wire: str) -> None:
    assert encode_tail(tail) == bytes.fromhex(wire)


def test_a_catch_up_batch_of_one_record_has_no_tail() -> None:
    assert payload_of(b"hi") == bytes.fromhex("0A 07 10 E8 07 22 02 68 69")


def test_a_live_batch_is_its_payload_and_the_tail() -> None:
    payload = encode_records(build_batch([([(b"k", b"v")], b"hi")]), 5, [1000])
    assert payload + encode_tail(StreamPosition(6, 1000)) == bytes.fromhex(
        "0A 11 08 05 10 E8 07 1A 06 0A 01 6B 12 01 76 22 02 68 69 12 05 08 06 10 E8 07"
    )


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wire",
    [
        "0A",  # a length is missing
        "0A 05 1A 02 68 69",  # truncated
        "0A 04 1A 09 68 69",  # truncated inside
        "1A 01 FF",  # a token that is not UTF-8
        "0A 02 1D 00",  # truncated inside a fixed32
        "FF FF FF FF FF FF FF FF FF FF FF",  # an endless varint
        "07",  # no such wire type
        "00",  # no field has number 0
    ],
)
def test_bytes_that_are_no_append_input_are_malformed(wire: str) -> None:
    with pytest.raises(ProtobufError, match="not a valid AppendInput"):
        decode_append_input(bytes.fromhex(wire))


@pytest.mark.parametrize(
    "wire",
    [
        "08 01",  # records as a varint
        "0A 00 12 00",  # match_seq_num as bytes
        "0A 00 18 01",  # fencing_token as a varint
    ],
)
def test_a_condition_or_records_of_the_wrong_type_are_malformed_not_ignored(wire: str) -> None:
    with pytest.raises(ProtobufError, match="wrong type"):
        decode_append_input(bytes.fromhex(wire))


def test_more_unknown_fields_than_any_future_client_has_are_malformed() -> None:
    assert decode_append_input(one_record() + bytes.fromhex("20 05") * 9).batch.count == 1
    with pytest.raises(ProtobufError, match="unknown fields"):
        decode_append_input(one_record() + bytes.fromhex("20 05") * 1_000_000)


def test_unknown_fields_are_skipped_and_not_stored() -> None:
    # After the body in the record, in its header, and in the input.
    wire = "0A 12 12 08 0A 01 6B 12 01 76 7A 00 1A 02 68 69 7A 02 00 00 7A 01 00 20 05"
    batch = decode_append_input(bytes.fromhex(wire)).batch
    assert (batch.count, batch.metered_bytes) == (1, 14)
    known = build_batch([([(b"k", b"v")], b"hi")])
    assert encode_records(batch, 5, [1000]) == encode_records(known, 5, [1000])


def test_a_batch_without_records_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no records"):
        decode_append_input(b"")


def test_a_batch_may_have_1000_records_and_no_more() -> None:
    thousand = one_record(b"a") * 1000  # concatenated messages merge
    assert decode_append_input(thousand).batch.count == 1000
    with pytest.raises(InvalidInput, match="1001 records, the limit is 1000"):
        decode_append_input(thousand + one_record(b"a"))


def test_a_million_empty_records_are_refused_for_their_number() -> None:
    with pytest.raises(InvalidInput, match="1000000 records"):
        decode_append_input(b"\x0a\x00" * 1_000_000)


def test_a_record_may_meter_a_mebibyte_and_no_more() -> None:
    largest = decode_append_input(one_record(bytes(MAX_RECORD_BYTES - 8)))
    assert largest.batch.metered_bytes == MAX_RECORD_BYTES
    with pytest.raises(InvalidInput) as caught:
        decode_append_input(one_record() * 3 + one_record(bytes(MAX_RECORD_BYTES - 7)))
    assert str(caught.value) == (
        "records[3]: body and headers meter 1048577 bytes, the limit is 1048576"
    )


def test_headers_count_towards_the_size_of_a_record() -> None:
    body = bytes(MAX_RECORD_BYTES - 8 - 2 - 2)
    assert decode_append_input(one_record(body, (b"k", b"v"))).batch.count == 1
    with pytest.raises(InvalidInput, match="meter 1048577 bytes"):
        decode_append_input(one_record(body, (b"k", b"vv")))


def test_a_batch_may_meter_a_mebibyte_and_no_more() -> None:
    half = one_record(bytes(MAX_BATCH_BYTES // 2 - 8))
    assert decode_append_input(half * 2).batch.metered_bytes == MAX_BATCH_BYTES
    with pytest.raises(InvalidInput, match="the batch meters 1048584 bytes"):
        decode_append_input(half * 2 + one_record())


def test_a_fencing_token_may_have_36_bytes_and_no_more() -> None:
    append_input = message([([], b"x")])
    append_input.fencing_token = "é" * 18
    assert decode_append_input(append_input.SerializeToString()).fencing_token == "é" * 18
    append_input.fencing_token = "é" * 18 + "x"
    with pytest.raises(InvalidInput, match="37 bytes, the limit is 36"):
        decode_append_input(append_input.SerializeToString())


def test_a_record_is_judged_before_the_fencing_token() -> None:
    append_input = message([([(b"", b"FENCE")], b"")])
    append_input.fencing_token = "x" * 37
    with pytest.raises(InvalidInput, match="unknown command"):
        decode_append_input(append_input.SerializeToString())


@pytest.mark.parametrize(
    "headers",
    [
        [(b"", b"fence"), (b"k", b"v")],
        [(b"k", b"v"), (b"", b"fence")],
        [(b"", b""), (b"", b"")],
        [(b"a", b""), (b"b", b""), (b"", b"x")],
    ],
)
def test_an_empty_header_name_among_several_is_refused(headers: Headers) -> None:
    with pytest.raises(InvalidInput, match=r"^records\[0\]: a header name is empty"):
        decode_append_input(one_record(b"", *headers))


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (b"not-a-command", b""),
        (b"FENCE", b""),
        (b"", b""),
        (b"fence", b"x" * 37),
        (b"fence", b"\xff"),
        (b"trim", b""),
        (b"trim", bytes(4)),
        (b"trim", bytes(9)),
    ],
)
def test_a_bad_command_is_refused_naming_its_record(operation: bytes, body: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^records\[1\]: "):
        decode_append_input(one_record(b"x") + one_record(body, (b"", operation)))


# --- what is kept -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        [(b"first", b"1"), (b"second", b"2")],
        [(b"empty", b"")],
        [(b"same", b"1"), (b"same", b"2"), (b"same", b"1")],
        [(b"\x00\xff", b"\xfe")],
    ],
)
def test_headers_keep_their_order_their_duplicates_and_their_bytes(headers: Headers) -> None:
    batch = decode_append_input(one_record(b"", *headers)).batch
    [record] = protobuf.decode_payload(encode_records(batch, 0, [0]))
    assert [(header.name, header.value) for header in record.headers] == headers


def test_commands_are_found_among_other_records() -> None:
    fence, trim = [(b"", b"fence")], [(b"", b"trim")]
    batch = build_batch([([], b"a"), (fence, b"x"), ([], b"b"), (trim, bytes(7) + b"\x02")])
    assert batch.commands == ((1, Fence("x")), (3, Trim(2)))


def test_the_record_that_ends_a_stream_is_a_trim_of_everything() -> None:
    batch = protobuf.command_batch(TERMINAL_TRIM)
    assert batch.commands == ((0, Trim(2**64 - 1)),)
    assert batch.metered_bytes == 22
    [record] = protobuf.decode_payload(encode_records(batch, 3, [4]))
    assert [(header.name, header.value) for header in record.headers] == [(b"", b"trim")]
    assert record.body == b"\xff" * 8


def test_the_largest_numbers_survive() -> None:
    largest = 2**64 - 1
    batch = decode_append_input(bytes.fromhex("0A 0B 08 FF FF FF FF FF FF FF FF FF 01")).batch
    assert batch.timestamps == [largest]
    assert record_metas(encode_records(batch, largest, [largest])) == [
        RecordMeta(largest, largest, 8)
    ]


def test_a_batch_encodes_the_same_again() -> None:
    batch = build_batch([([(b"k", b"v")], b"one"), ([], b"two")])
    assert encode_records(batch, 5, [1, 2]) == encode_records(batch, 5, [1, 2])


def test_a_batch_needs_one_timestamp_for_each_record() -> None:
    batch = build_batch([([], b"one"), ([], b"two")])
    with pytest.raises(ValueError, match="shorter"):
        encode_records(batch, 0, [1])


# --- payloads ---------------------------------------------------------------------------------


def test_concatenated_payloads_are_one_payload() -> None:
    both = payload_of(b"a", b"b") + payload_of(b"c", first_seq_num=2, timestamp=1001)
    assert record_metas(both) == [
        RecordMeta(0, 1000, 9),
        RecordMeta(1, 1000, 9),
        RecordMeta(2, 1001, 9),
    ]


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (0, 2), (1, 3), (3, 4), (2, 2), (0, 0)])
def test_a_slice_of_a_payload_is_the_payload_of_those_records(start: int, stop: int) -> None:
    bodies = [b"a", b"bb", b"", b"dddd"]
    expected = payload_of(*bodies[start:stop], first_seq_num=start) if bodies[start:stop] else b""
    assert slice_records(payload_of(*bodies), start, stop) == expected


def test_a_payload_is_split_between_records() -> None:
    batch = s2_pb2.ReadBatch()
    for size in (10, 500, 10, 10, 90, 0):
        batch.records.add(body=bytes(size))
    payload = batch.SerializeToString()
    parts = split_payload(payload, 100)
    assert b"".join(parts) == payload
    assert [len(decode_payload(part)) for part in parts] == [1, 1, 2, 2]
    assert [len(part) <= 100 for part in parts] == [True, False, True, True]
    assert split_payload(payload, len(payload)) == [payload]
    assert split_payload(b"", 100) == []


def test_a_payload_that_does_not_decode_is_an_error_and_no_crash() -> None:
    for use in (record_metas, protobuf.decode_payload, lambda p: slice_records(p, 0, 1)):
        with pytest.raises(ProtobufError):
            use(b"\x0a\x05abc")


# --- properties -------------------------------------------------------------------------------

header_lists = st.lists(st.tuples(st.binary(min_size=1, max_size=9), st.binary(max_size=9)))
records = st.tuples(header_lists, st.binary(max_size=40)) | st.just(([(b"", b"fence")], b"tok"))


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(records, st.none() | st.integers(0, 2**64 - 1)), min_size=1, max_size=20),
    st.integers(0, 2**63),
)
def test_records_come_out_as_they_went_in(
    appended: list[tuple[Record, int | None]], first_seq_num: int
) -> None:
    batch = decoded_with_timestamps(appended)
    sizes = [metered_size(headers, body) for (headers, body), _ in appended]
    assert batch.metered_bytes == sum(sizes)
    assert list(batch.timestamps) == [timestamp for _, timestamp in appended]
    stamps = [timestamp or 0 for timestamp in batch.timestamps]
    payload = encode_records(batch, first_seq_num, stamps)
    numbers = range(first_seq_num, first_seq_num + len(appended))
    assert record_metas(payload) == list(map(RecordMeta, numbers, stamps, sizes))
    stored = protobuf.decode_payload(payload)
    assert [([(h.name, h.value) for h in each.headers], each.body) for each in stored] == [
        record for record, _ in appended
    ]


def decoded_with_timestamps(appended: list[tuple[Record, int | None]]) -> AppendBatch:
    append_input = message([record for record, _ in appended])
    for record, (_, timestamp) in zip(append_input.records, appended, strict=True):
        if timestamp is not None:
            record.timestamp = timestamp
    return decode_append_input(append_input.SerializeToString()).batch


@settings(deadline=None, max_examples=25)
@given(st.lists(st.binary(max_size=9), min_size=1, max_size=12), st.data())
def test_a_payload_cut_in_two_is_put_together_again(
    bodies: list[bytes], data: st.DataObject
) -> None:
    payload = payload_of(*bodies)
    cut = data.draw(st.integers(0, len(bodies)))
    parts = slice_records(payload, 0, cut), slice_records(payload, cut, len(bodies))
    assert b"".join(parts) == payload


valid = st.just(bytes.fromhex("0A 0F 08 E8 07 12 06 0A 01 6B 12 01 76 1A 02 68 69 10 00 1A 00"))


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=60) | st.tuples(valid, st.integers(0, 20), st.binary(max_size=3)))
def test_any_bytes_are_an_input_or_refused(data: bytes | tuple[bytes, int, bytes]) -> None:
    if isinstance(data, tuple):  # a good message with some bytes replaced
        good, at, other = data
        data = good[:at] + other + good[at + len(other) :]
    with suppress(ProtobufError, InvalidInput):
        assert decode_append_input(data).batch.count > 0
    with suppress(ProtobufError):
        assert slice_records(data, 0, 0) is not None
