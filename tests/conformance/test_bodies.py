"""What an append may consist of, as JSON and as protobuf, and how records look when read."""

import json

import httpx
import pytest

from s2lite.codec import s2_pb2
from tests.api.frames import append_message
from tests.conformance.cases import case
from tests.conformance.raw import (
    JSON,
    MIB,
    PROTOBUF,
    RECORDS,
    append,
    appended,
    bodies_of,
    error_of,
    read,
    records_of,
    tail_of,
)

pytestmark = [pytest.mark.conformance]

TOO_LARGE = b'{"records":[{"body":"' + b"\\u0001" * (350 * 1024) + b'"}]}'  # metered: 350 KiB

BAD_JSON = [
    *[(19, content) for content in (b"not json", b"", b"{truncated", b'{"records":[{}]} {}')],
    (20, b"{}"),
    (20, b'{"records":"nope"}'),
    (20, b'{"records":null}'),
    (20, b'{"records":[{"body":123}]}'),
    (23, b'{"records":[{"headers":null}]}'),
    (23, b'{"records":[{"body":null}]}'),
    (24, b'{"records":[{"headers":[["one"]]}]}'),
    (24, b'{"records":[{"headers":[["one","two","three"]]}]}'),
    (24, b'{"records":[{"headers":["one"]}]}'),
    (25, b'{"records":[{}],"match_seq_num":1.0}'),
    (25, b'{"records":[{"timestamp":-1}]}'),
    (25, b'{"records":[{"timestamp":1e3}]}'),
    (25, b'{"records":[{"timestamp":18446744073709551616}]}'),
    (31, b'{"records":[{}],"fencing_token":"%s"}' % (b"x" * 37)),
    (33, b'{"records":[{"body":"%s"}]}' % (b"x" * 2 * MIB)),
    (33, TOO_LARGE),
]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(content, marks=case(number), id=f"DP{number}-{content[:40].decode()}")
        for number, content in BAD_JSON
    ],
)
def test_json_that_is_not_an_append_is_refused(
    http: httpx.Client, basin: str, content: bytes
) -> None:
    # The stream does not exist, and nobody has looked for it.
    answer = http.post(RECORDS, content=content, headers=JSON)
    assert error_of(answer) == (400, "bad_json")


@case(21)
def test_an_append_has_at_least_one_record(api: httpx.Client) -> None:
    assert error_of(append(api)) == (422, "invalid")
    assert error_of(api.post(RECORDS, content=b"", headers=PROTOBUF)) == (422, "invalid")
    assert tail_of(api) == 0


@case(22)
def test_members_nobody_knows_are_ignored(api: httpx.Client) -> None:
    record = {"body": "a", "seq_num": 7, "more": {"x": [None, 1.5]}}
    assert append(api, record, linger=5, more=None).status_code == 200
    assert bodies_of(api) == ["a"]


@case(23)
def test_what_may_be_left_out_may_be_null_if_it_is_no_data(api: httpx.Client) -> None:
    answer = append(api, {"timestamp": None, "body": "a"}, match_seq_num=None, fencing_token=None)
    assert answer.status_code == 200
    assert bodies_of(api) == ["a"]


@case(26)
def test_base64_is_decoded_before_it_is_stored(api: httpx.Client) -> None:
    binary = {"s2-format": "base64"}
    assert append(api, "aGk=", "", headers=binary).status_code == 200
    assert bodies_of(api) == ["hi", ""]


@case(27)
@pytest.mark.parametrize("body", ["aGk", "aGl=", "!!", "aG k=", "aGk=\n", "-_-_"])
def test_base64_must_be_padded_and_canonical(api: httpx.Client, body: str) -> None:
    binary = {"s2-format": "base64"}
    assert error_of(append(api, body, headers=binary)) == (422, "invalid")
    named = {"headers": [["aw==", body]]}
    assert error_of(append(api, named, headers=binary)) == (422, "invalid")
    assert tail_of(api) == 0


@case(28)
def test_text_is_stored_as_utf8(api: httpx.Client) -> None:
    escaped = b'{"records":[{"body":"\\u00e9"},{"body":"\xc3\xa9"}]}'
    assert api.post(RECORDS, content=escaped, headers=JSON).status_code == 200
    assert [each["body"] for each in read(api, s2_format="base64").json()["records"]] == [
        "w6k=",
        "w6k=",
    ]
    assert bodies_of(api) == ["é", "é"]


@case(29)
def test_bytes_that_are_no_text_are_replaced_or_base64(api: httpx.Client) -> None:
    assert api.post(RECORDS, content=append_message(b"\xff"), headers=PROTOBUF).status_code == 200
    assert bodies_of(api) == ["\ufffd"]
    assert read(api, s2_format="base64").json()["records"][0]["body"] == "/w=="
    packed = read(api, accept="application/protobuf").content
    assert s2_pb2.ReadBatch.FromString(packed).records[0].body == b"\xff"


@case(30)
@pytest.mark.parametrize("s2_format", ["raw", "base64"])
def test_what_a_record_does_not_have_is_not_shown(api: httpx.Client, s2_format: str) -> None:
    appended(api, {"timestamp": 9}, {"timestamp": 9, "headers": [], "body": ""})
    assert read(api, s2_format=s2_format).content == (
        b'{"records":[{"seq_num":0,"timestamp":9},{"seq_num":1,"timestamp":9}]}'
    )


@case(31)
def test_a_fencing_token_has_at_most_36_bytes(api: httpx.Client) -> None:
    longest, too_long = "é" * 18, "é" * 18 + "x"
    appended(api, {"headers": [["", "fence"]], "body": longest}, fencing_token="")
    appended(api, "a", fencing_token=longest)
    message = append_message(b"a", fencing_token=longest)
    assert api.post(RECORDS, content=message, headers=PROTOBUF).status_code == 200
    assert error_of(append(api, "a", fencing_token=too_long)) == (400, "bad_json")
    message = append_message(b"a", fencing_token=too_long)
    assert error_of(api.post(RECORDS, content=message, headers=PROTOBUF)) == (422, "invalid")


@case(32)
@pytest.mark.parametrize("content", [b"\xff", b"\x0a\x05\x1a", b"\x1a\x01\xff", b"\x12\x00", b"x"])
def test_bytes_that_are_no_protobuf_are_refused(
    http: httpx.Client, basin: str, content: bytes
) -> None:
    assert error_of(http.post(RECORDS, content=content, headers=PROTOBUF)) == (400, "bad_proto")


@case(33)
def test_a_body_has_at_most_2_mib(api: httpx.Client) -> None:
    # A body within the limit of bodies is refused for what is in it; beyond, for its size.
    largest_message = append_message(bytes(2 * MIB - 8))
    assert len(largest_message) == 2 * MIB
    answer = api.post(RECORDS, content=largest_message, headers=PROTOBUF)
    assert error_of(answer) == (422, "invalid")
    answer = api.post(RECORDS, content=append_message(bytes(2 * MIB - 7)), headers=PROTOBUF)
    assert error_of(answer) == (400, "bad_proto")
    text = json.dumps({"records": [{"body": "a"}], "x": ""})
    largest = text[:-2] + "y" * (2 * MIB - len(text)) + text[-2:]
    assert api.post(RECORDS, content=largest, headers=JSON).status_code == 200
    assert error_of(api.post(RECORDS, content=largest + " ", headers=JSON)) == (400, "bad_json")
    assert [record["seq_num"] for record in records_of(api)] == [0]
