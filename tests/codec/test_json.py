import base64
import json as stdlib_json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2lite.codec import json, protobuf
from s2lite.codec.json import RecordFormat, decode_append_input, encode_read_batch
from s2lite.model.errors import FencingTokenMismatch, InvalidInput, JsonError, SeqNumMismatch
from s2lite.model.positions import StreamPosition
from s2lite.model.records import AppendAck, AppendInput, Fence, Trim

RAW, BASE64 = RecordFormat.RAW, RecordFormat.BASE64
U64_MAX = 2**64 - 1

Stored = tuple[list[tuple[bytes, bytes]], bytes]


def decode(text: str, record_format: RecordFormat = RAW) -> AppendInput:
    return decode_append_input(text.encode(), record_format)


def stored(append_input: AppendInput) -> list[Stored]:
    batch = append_input.batch
    payload = protobuf.encode_records(batch, 0, [0] * batch.count)
    return [
        ([(header.name, header.value) for header in record.headers], record.body)
        for record in protobuf.decode_payload(payload)
    ]


# --- appends: what is accepted ----------------------------------------------------------------


def test_an_input_has_records_and_conditions() -> None:
    append_input = decode(
        '{"records":[{"timestamp":1700000000000,"headers":[["k","v"]],"body":"hi"}],'
        '"match_seq_num":0,"fencing_token":"tok"}'
    )
    assert append_input.match_seq_num == 0
    assert append_input.fencing_token == "tok"
    assert append_input.batch.timestamps == [1_700_000_000_000]
    assert append_input.batch.metered_bytes == 14
    assert stored(append_input) == [([(b"k", b"v")], b"hi")]


def test_a_record_may_have_nothing_at_all() -> None:
    append_input = decode('{"records":[{},{"headers":[],"body":""}]}')
    assert stored(append_input) == [([], b""), ([], b"")]
    assert append_input.batch.timestamps == [None, None]
    assert append_input.match_seq_num is None
    assert append_input.fencing_token is None


def test_nulls_that_stand_for_absent_are_accepted() -> None:
    append_input = decode(
        '{"records":[{"timestamp":null}],"match_seq_num":null,"fencing_token":null}'
    )
    assert append_input.batch.timestamps == [None]
    assert append_input.match_seq_num is None
    assert append_input.fencing_token is None


def test_zeros_and_the_empty_token_are_conditions() -> None:
    append_input = decode('{"records":[{"timestamp":0}],"match_seq_num":0,"fencing_token":""}')
    assert append_input.batch.timestamps == [0]
    assert append_input.match_seq_num == 0
    assert append_input.fencing_token == ""


def test_integers_have_the_whole_range_of_64_bits() -> None:
    append_input = decode(f'{{"records":[{{"timestamp":{U64_MAX}}}],"match_seq_num":{U64_MAX}}}')
    assert append_input.batch.timestamps == [U64_MAX]
    assert append_input.match_seq_num == U64_MAX


@pytest.mark.parametrize(
    "text",
    [
        '{"records":[{"body":"hi","extra":[1.5,-2,{"x":null}]}],"more":{"a":1e9}}',
        '{"x":1,"x":2,"records":[{"y":1,"y":2,"body":"hi"}]}',
        '{"x":123456789012345678901234567890,"records":[{"body":"hi"}]}',
        '{"x":' + "9" * 5000 + ',"records":[{"body":"hi"}]}',
        ' \t\r\n{ "records" : [ { "body" : "hi" } ] }\n',
    ],
)
def test_unknown_members_and_whitespace_are_ignored(text: str) -> None:
    assert stored(decode(text)) == [([], b"hi")]


def test_raw_strings_are_stored_as_utf8() -> None:
    append_input = decode(r'{"records":[{"headers":[["é","\u00e9"]],"body":"\ud83c\udf89\u0000"}]}')
    assert stored(append_input) == [([("é".encode(), "é".encode())], "🎉\0".encode())]


def test_base64_strings_are_stored_decoded() -> None:
    append_input = decode('{"records":[{"headers":[["aw==",""]],"body":"aGk="}]}', BASE64)
    assert stored(append_input) == [([(b"k", b"")], b"hi")]


def test_commands_are_recognised() -> None:
    fence = decode('{"records":[{"headers":[["","fence"]],"body":"tok"}]}')
    assert fence.batch.commands == ((0, Fence("tok")),)
    trim = decode('{"records":[{"headers":[["","dHJpbQ=="]],"body":"AAAAAAAAACo="}]}', BASE64)
    assert trim.batch.commands == ((0, Trim(42)),)


def test_duplicate_headers_keep_their_order() -> None:
    append_input = decode('{"records":[{"headers":[["a","1"],["a","0"],["a","1"]]}]}')
    assert stored(append_input) == [([(b"a", b"1"), (b"a", b"0"), (b"a", b"1")], b"")]


# --- appends: what is refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"not json",
        b"{truncated",
        b'{"records":[{}]',
        b'{"records":[{}]} x',
        b'{"records":[{}]}{}',
        b'{"records":[{}],}',
        b"{'records':[{}]}",
        b'{"records":[{"body":"\xff"}]}',
        b'{"records":[{"body":"a\nb"}]}',
        b'\xef\xbb\xbf{"records":[{}]}',
        '{"records":[{}]}'.encode("utf-16"),
        b'{"records":[{}],"x":NaN}',
        b'{"records":[{}],"x":-Infinity}',
        b'{"records":[{}],"x":01}',
    ],
)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(JsonError, match="malformed JSON"):
        decode_append_input(body, RAW)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "the body: expected an object"),
        ("null", "the body: expected an object"),
        ("{}", "records: expected an array"),
        ('{"records":null}', "records: expected an array"),
        ('{"records":"nope"}', "records: expected an array"),
        ('{"records":{}}', "records: expected an array"),
        ('{"records":[{},[]]}', "records[1]: expected an object"),
        ('{"records":[{"body":123}]}', "records[0].body: expected a string"),
        ('{"records":[{"body":null}]}', "records[0].body: expected a string"),
        ('{"records":[{"headers":null}]}', "records[0].headers: expected an array"),
        ('{"records":[{"headers":{}}]}', "records[0].headers: expected an array"),
        ('{"records":[{"headers":[["a"]]}]}', "records[0].headers[0]: expected an array of two"),
        ('{"records":[{"headers":[["a","b","c"]]}]}', "records[0].headers[0]: expected an array"),
        ('{"records":[{"headers":["ab"]}]}', "records[0].headers[0]: expected an array of two"),
        ('{"records":[{"headers":[["a","b"],[1,"b"]]}]}', "records[0].headers[1][0]: expected a s"),
        ('{"records":[{"headers":[["a",null]]}]}', "records[0].headers[0][1]: expected a string"),
        ('{"records":[{"timestamp":-1}]}', "records[0].timestamp: expected an unsigned integer"),
        ('{"records":[{"timestamp":"1"}]}', "records[0].timestamp: expected an unsigned integer"),
        ('{"records":[{"timestamp":true}]}', "records[0].timestamp: expected an unsigned integer"),
        ('{"records":[{}],"match_seq_num":1.0}', "match_seq_num: expected an unsigned integer"),
        ('{"records":[{}],"match_seq_num":1e3}', "match_seq_num: expected an unsigned integer"),
        ('{"records":[{}],"match_seq_num":-0}', "match_seq_num: expected an unsigned integer"),
        ('{"records":[{}],"match_seq_num":18446744073709551616}', "match_seq_num: expected an uns"),
        ('{"records":[{}],"match_seq_num":' + "9" * 5000 + "}", "match_seq_num: expected an uns"),
        ('{"records":[{}],"fencing_token":7}', "fencing_token: expected a string"),
        ('{"records":[{}],"records":[{}]}', "the body: member `records` is repeated"),
        ('{"records":[{}],"fencing_token":"","fencing_token":""}', "member `fencing_token` is rep"),
        ('{"records":[{"body":"","body":""}]}', "records[0]: member `body` is repeated"),
        (r'{"records":[{"body":"\ud800"}]}', "records[0].body: the string has a lone surrogate"),
        (r'{"records":[{"headers":[["\udfff",""]]}]}', "records[0].headers[0][0]: the string has"),
        (r'{"records":[{}],"fencing_token":"\ud800"}', "fencing_token: the string has a lone surr"),
    ],
)
@pytest.mark.parametrize("record_format", RecordFormat)
def test_a_wrong_type_is_malformed_and_its_path_is_named(
    text: str, problem: str, record_format: RecordFormat
) -> None:
    with pytest.raises(JsonError) as caught:
        decode(text, record_format)
    assert problem in str(caught.value)


def test_a_fencing_token_is_measured_in_bytes_and_a_long_one_is_malformed() -> None:
    token = "é" * 18
    assert decode(f'{{"records":[{{}}],"fencing_token":"{token}"}}').fencing_token == token
    with pytest.raises(JsonError, match="37 bytes of UTF-8, the limit is 36"):
        decode(f'{{"records":[{{}}],"fencing_token":"{token}x"}}')


@pytest.mark.parametrize("opening", ["[", '{"records":', '{"x":', '{"records":[{"headers":['])
def test_deep_nesting_is_malformed_and_no_crash(opening: str) -> None:
    with pytest.raises(JsonError, match="malformed JSON"):
        decode(opening * 100_000)


@pytest.mark.parametrize(
    "text",
    [
        "aGk",
        "aGl=",
        "!!",
        "aGk=\\n",
        " aGk=",
        "aGk==",
        "aG=k",
        "a",
        "====",
        "aGk=aGk=",
        "_-8=",
        "é",
    ],
)
@pytest.mark.parametrize(
    "place", ['"body":"{}"', '"headers":[["{}",""]]', '"headers":[["aw==","{}"]]']
)
def test_what_is_not_canonical_base64_is_refused(text: str, place: str) -> None:
    record = place.replace("{}", text)
    with pytest.raises(InvalidInput, match=r"^records\[1\]: .*base64"):
        decode('{"records":[{},{' + record + "}]}", BASE64)


def test_a_wrong_type_anywhere_is_reported_before_bad_base64() -> None:
    with pytest.raises(JsonError):
        decode('{"records":[{"body":"!!"},{"body":1}]}', BASE64)


def test_the_rules_for_records_hold() -> None:
    with pytest.raises(InvalidInput, match="no records"):
        decode('{"records":[]}')
    with pytest.raises(InvalidInput, match="unknown command"):
        decode('{"records":[{"headers":[["","FENCE"]]}]}')
    with pytest.raises(InvalidInput, match="1048577 bytes"):
        decode('{"records":[{"body":"%s"}]}' % ("x" * (1_048_577 - 8)))


def test_a_batch_may_have_1000_records_and_no_more() -> None:
    assert decode('{"records":[' + ",".join(["{}"] * 1000) + "]}").batch.count == 1000
    with pytest.raises(InvalidInput, match="1001 records"):
        decode('{"records":[' + ",".join(["{}"] * 1001) + "]}")


# --- output -----------------------------------------------------------------------------------

MIXED = protobuf.encode_records(
    protobuf.build_batch(
        [
            ([(b"kind", b"a\xffz")], b"\xf0\x28\x8c\xbc"),
            ([(b"", b"fence")], b""),
            ([(b"", b"fence")], b"token-1"),
            ([(b"", b"trim")], (42).to_bytes(8, "big")),
        ]
    ),
    7,
    [11, 12, 13, 14],
)


def test_a_batch_in_raw_format_replaces_what_is_not_utf8() -> None:
    assert encode_read_batch(MIXED, RAW, StreamPosition(11, 15)).decode() == (
        '{"records":['
        '{"seq_num":7,"timestamp":11,"headers":[["kind","a\ufffdz"]],"body":"\ufffd(\ufffd\ufffd"},'
        '{"seq_num":8,"timestamp":12,"headers":[["","fence"]]},'
        '{"seq_num":9,"timestamp":13,"headers":[["","fence"]],"body":"token-1"},'
        '{"seq_num":10,"timestamp":14,"headers":[["","trim"]],'
        r'"body":"\u0000\u0000\u0000\u0000\u0000\u0000\u0000*"}],'
        '"tail":{"seq_num":11,"timestamp":15}}'
    )


def test_a_batch_in_base64_format_loses_nothing() -> None:
    assert encode_read_batch(MIXED, BASE64, StreamPosition(11, 15)).decode() == (
        '{"records":['
        '{"seq_num":7,"timestamp":11,"headers":[["a2luZA==","Yf96"]],"body":"8CiMvA=="},'
        '{"seq_num":8,"timestamp":12,"headers":[["","ZmVuY2U="]]},'
        '{"seq_num":9,"timestamp":13,"headers":[["","ZmVuY2U="]],"body":"dG9rZW4tMQ=="},'
        '{"seq_num":10,"timestamp":14,"headers":[["","dHJpbQ=="]],"body":"AAAAAAAAACo="}],'
        '"tail":{"seq_num":11,"timestamp":15}}'
    )


def test_a_record_without_headers_and_body_shows_only_its_position() -> None:
    payload = protobuf.encode_records(protobuf.build_batch([([], b"")]), 0, [0])
    assert encode_read_batch(payload, RAW, None) == b'{"records":[{"seq_num":0,"timestamp":0}]}'


def test_an_empty_batch_has_an_empty_list_and_no_tail() -> None:
    assert encode_read_batch(b"", RAW, None) == b'{"records":[]}'


def test_the_tail_at_zero_is_shown() -> None:
    assert encode_read_batch(b"", BASE64, StreamPosition.ZERO) == (
        b'{"records":[],"tail":{"seq_num":0,"timestamp":0}}'
    )


def test_text_is_written_as_it_is_but_for_quotes_backslashes_and_control_characters() -> None:
    body = 'é日🎉\u2028\x7f/"\\\n\t\x00\x1f'.encode()
    payload = protobuf.encode_records(protobuf.build_batch([([], body)]), 0, [0])
    encoded = encode_read_batch(payload, RAW, None).decode()
    assert r'"body":"é日🎉' in encoded
    assert encoded.endswith('\u2028\x7f/\\"\\\\\\n\\t\\u0000\\u001f"}]}')


def test_the_largest_numbers_are_written_as_integers() -> None:
    payload = protobuf.encode_records(protobuf.build_batch([([], b"")]), U64_MAX, [U64_MAX])
    assert b'"seq_num":18446744073709551615,"timestamp":18446744073709551615' in (
        encode_read_batch(payload, RAW, None)
    )


def test_an_ack_has_start_end_and_tail() -> None:
    ack = AppendAck(StreamPosition(0, 17), StreamPosition(1, 18), StreamPosition(2, 19))
    assert json.encode_ack(ack) == (
        b'{"start":{"seq_num":0,"timestamp":17},"end":{"seq_num":1,"timestamp":18},'
        b'"tail":{"seq_num":2,"timestamp":19}}'
    )


def test_a_tail_is_wrapped() -> None:
    assert json.encode_tail_response(StreamPosition(5, 17)) == (
        b'{"tail":{"seq_num":5,"timestamp":17}}'
    )


def test_a_ping_has_the_servers_time_and_the_tail() -> None:
    assert json.encode_ping(1_700_000_000_123, StreamPosition.ZERO) == (
        b'{"timestamp":1700000000123,"tail":{"seq_num":0,"timestamp":0}}'
    )


def test_a_failed_condition_tells_what_would_have_held() -> None:
    assert json.encode_condition_failed(SeqNumMismatch(1)) == b'{"seq_num_mismatch":1}'
    assert json.encode_condition_failed(FencingTokenMismatch("tok")) == (
        b'{"fencing_token_mismatch":"tok"}'
    )


def test_an_error_has_a_code_and_a_message() -> None:
    assert json.encode_error("server_draining", "bye") == (
        b'{"code":"server_draining","message":"bye"}'
    )


def test_an_error_message_that_quotes_a_lone_surrogate_can_still_be_sent() -> None:
    assert json.encode_error("bad_json", "bad \ud800") == b'{"code":"bad_json","message":"bad ?"}'


# --- properties -------------------------------------------------------------------------------

headers = st.lists(st.tuples(st.binary(min_size=1, max_size=5), st.binary(max_size=5)), max_size=3)
batches = st.lists(st.tuples(headers, st.binary(max_size=20)), min_size=1, max_size=5)


@settings(deadline=None, max_examples=20)
@given(batches)
def test_base64_output_is_accepted_as_input_and_stored_the_same(records: list[Stored]) -> None:
    payload = protobuf.encode_records(protobuf.build_batch(records), 0, [0] * len(records))
    assert stored(decode_append_input(encode_read_batch(payload, BASE64, None), BASE64)) == records


@settings(deadline=None, max_examples=25)
@given(batches)
def test_raw_output_is_what_lossy_decoding_gives(records: list[Stored]) -> None:
    payload = protobuf.encode_records(protobuf.build_batch(records), 0, [0] * len(records))
    shown = stdlib_json.loads(encode_read_batch(payload, RAW, None))["records"]
    for (_, body), record in zip(records, shown, strict=True):
        assert record.get("body", "") == body.decode("utf-8", "replace")


@settings(deadline=None, max_examples=50)
@given(st.text("abc=+/ AZ09-_é", max_size=9))
def test_base64_is_accepted_if_and_only_if_encoding_gives_it_back(text: str) -> None:
    try:
        canonical = base64.b64encode(base64.b64decode(text)).decode() == text
    except ValueError:
        canonical = False
    accepted = False
    with suppress(InvalidInput):
        decode(f'{{"records":[{{"body":"{text}"}}]}}', BASE64)
        accepted = True
    assert accepted == canonical


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["records", "headers", "body", "timestamp"]), inner)
    ),
    max_leaves=9,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(
    st.binary(max_size=60)
    | json_values.map(lambda value: stdlib_json.dumps(value).encode())
    | json_values.map(lambda value: stdlib_json.dumps({"records": [value]}).encode()),
    st.sampled_from(RecordFormat),
)
def test_any_body_is_an_input_or_refused(body: bytes, record_format: RecordFormat) -> None:
    with suppress(JsonError, InvalidInput):
        assert decode_append_input(body, record_format).batch.count > 0
