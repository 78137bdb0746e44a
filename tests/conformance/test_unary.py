"""Single requests as raw HTTP over both versions: statuses, headers and bodies to the byte."""

import gzip
import json

import httpx
import pytest
import zstandard

from s2lite.codec import s2_pb2
from tests.api.frames import append_message
from tests.conformance.cases import case
from tests.conformance.raw import PROTOBUF, RECORDS, fill, tail_of

pytestmark = [pytest.mark.conformance]


@case(34, 101)
def test_json_in_and_out(api: httpx.Client) -> None:
    records = [{"body": body, "timestamp": 1000} for body in ("a", "é")]
    answer = api.post(RECORDS, json={"records": records})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == (
        b'{"start":{"seq_num":0,"timestamp":1000},"end":{"seq_num":2,"timestamp":1000},'
        b'"tail":{"seq_num":2,"timestamp":1000}}'
    )
    read = api.get(RECORDS, params={"seq_num": 0})
    assert read.headers["content-type"] == "application/json"
    assert (
        read.content
        == (
            '{"records":[{"seq_num":0,"timestamp":1000,"body":"a"},'
            '{"seq_num":1,"timestamp":1000,"body":"é"}]}'
        ).encode()
    )
    tail = api.get(f"{RECORDS}/tail")
    assert tail.content == b'{"tail":{"seq_num":2,"timestamp":1000}}'


@case(10, 11)
def test_protobuf_in_and_out(api: httpx.Client) -> None:
    message = append_message(b"\xff", b"", timestamps=[1000, 1001])
    answer = api.post(RECORDS, content=message, headers=PROTOBUF)
    assert answer.headers["content-type"] == "application/protobuf"
    ack = s2_pb2.AppendAck.FromString(answer.content)
    assert (ack.start.timestamp, ack.end.seq_num, ack.tail.seq_num) == (1000, 2, 2)
    read = api.get(RECORDS, params={"seq_num": 0}, headers={"accept": "application/protobuf"})
    assert read.headers["content-type"] == "application/protobuf"
    batch = s2_pb2.ReadBatch.FromString(read.content)
    assert [(record.seq_num, record.body) for record in batch.records] == [(0, b"\xff"), (1, b"")]
    assert not batch.HasField("tail")
    mixed = api.post(RECORDS, content=message, headers={"content-type": "application/protobuf"})
    assert mixed.json()["start"]["seq_num"] == 2


@case(14, 29)
def test_bytes_in_json_are_base64_or_replaced(api: httpx.Client) -> None:
    binary = {"s2-format": "base64"}
    record = {"headers": [["a2luZA==", "Yf96"]], "body": "8CiMvA==", "timestamp": 7}
    assert api.post(RECORDS, json={"records": [record]}, headers=binary).status_code == 200
    raw = api.get(RECORDS, params={"seq_num": 0})
    assert (
        raw.content
        == (
            '{"records":[{"seq_num":0,"timestamp":7,"headers":[["kind","a\ufffdz"]],'
            '"body":"\ufffd(\ufffd\ufffd"}]}'
        ).encode()
    )
    read = api.get(RECORDS, params={"seq_num": 0}, headers={"s2-format": "json-binsafe"})
    assert read.json()["records"] == [{"seq_num": 0, **record}]


@case(49, 52)
@pytest.mark.parametrize("accept", ["application/json", "application/x-protobuf"])
def test_a_failed_condition_is_412_and_says_what_would_have_been_right(
    api: httpx.Client, accept: str
) -> None:
    fill(api, "a")
    headers = {"accept": accept}
    body = {"records": [{"body": "x"}], "match_seq_num": 0}
    answer = api.post(RECORDS, json=body, headers=headers)
    assert answer.status_code == 412
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == b'{"seq_num_mismatch":1}'
    fence = {"records": [{"headers": [["", "fence"]], "body": 'to"ké'}]}
    assert api.post(RECORDS, json=fence).status_code == 200
    body = {"records": [{"body": "x"}], "match_seq_num": 0, "fencing_token": ""}
    answer = api.post(RECORDS, json=body, headers=headers)
    assert answer.status_code == 412
    assert answer.content == '{"fencing_token_mismatch":"to\\"ké"}'.encode()
    assert tail_of(api) == 2


@case(84)
@pytest.mark.parametrize(
    "accept", ["application/json", "application/protobuf", "text/event-stream"]
)
def test_a_read_past_the_tail_is_416_and_says_where_the_tail_is(
    api: httpx.Client, accept: str
) -> None:
    fill(api, "a")
    answer = api.get(RECORDS, params={"seq_num": 2}, headers={"accept": accept})
    assert answer.status_code == 416
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == b'{"tail":{"seq_num":1,"timestamp":1000}}'


@case(127, 128)
def test_events_are_written_as_published(api: httpx.Client) -> None:
    fill(api, "hi")
    fill(api, "hi")
    query = {"seq_num": 0, "count": 2}
    answer = api.get(RECORDS, params=query, headers={"accept": "text/event-stream"})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    lines = answer.content.split(b"\n")
    assert lines[-3:] == [b"data: [DONE]", b"", b""]
    assert lines[0] == b"event: batch"
    assert b"id: 1,2,20" in lines
    resumed = api.get(
        RECORDS, params=query, headers={"accept": "text/event-stream", "last-event-id": "0,1,10"}
    )
    assert resumed.content == (
        b"event: batch\nid: 1,1,10\n"
        b'data: {"records":[{"seq_num":1,"timestamp":1000,"body":"hi"}]}\n\n'
        b"data: [DONE]\n\n"
    )


@case(125)
def test_the_first_event_at_the_tail_is_a_ping(api: httpx.Client) -> None:
    with api.stream("GET", RECORDS, headers={"accept": "text/event-stream"}) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: ping"
        ping = json.loads(next(lines).removeprefix("data: "))
        assert ping["tail"] == {"seq_num": 0, "timestamp": 0}
        assert sorted(ping) == ["tail", "timestamp"]


@case(176)
def test_request_bodies_may_be_compressed(api: httpx.Client) -> None:
    body = json.dumps({"records": [{"body": "hi"}]}).encode()
    packed = {"gzip": gzip.compress(body), "zstd": zstandard.compress(body), "identity": body}
    for encoding, content in packed.items():
        headers = {"content-type": "application/json", "content-encoding": encoding}
        assert api.post(RECORDS, content=content, headers=headers).status_code == 200
    headers = {"content-type": "application/json", "content-encoding": "br"}
    refused = api.post(RECORDS, content=body, headers=headers)
    assert (refused.status_code, refused.content) == (415, b"")
    assert refused.headers["accept-encoding"] == "zstd,gzip"


@case(177)
def test_large_responses_are_compressed_if_the_client_wants(api: httpx.Client) -> None:
    fill(api, "x" * 4096)
    for encoding in ("gzip", "zstd"):
        read = api.get(RECORDS, params={"seq_num": 0}, headers={"accept-encoding": encoding})
        assert read.headers["content-encoding"] == encoding
        assert "accept-encoding" in read.headers["vary"]
        if encoding == "gzip":
            assert read.json()["records"][0]["body"] == "x" * 4096
    assert "content-encoding" not in api.get(RECORDS, params={"seq_num": 0}).headers


@case(178, 179)
def test_other_origins_may_call(api: httpx.Client) -> None:
    for path in (RECORDS, "/nowhere", "/health"):
        answer = api.get(path, headers={"origin": "https://app.example"})
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        preflight = api.options(
            path,
            headers={"origin": "https://app.example", "access-control-request-method": "PATCH"},
        )
        assert (preflight.status_code, preflight.content) == (200, b"")
        assert preflight.headers["access-control-allow-methods"] == "PATCH"
        assert preflight.headers["access-control-allow-credentials"] == "true"


def test_metrics_count_appends(api: httpx.Client) -> None:
    fill(api, "a")
    answer = api.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    count = [
        float(line.split()[1])
        for line in answer.text.splitlines()
        if line.startswith("s2_append_batch_records_count")
    ]
    assert count[0] >= 1
    assert "process_start_time_seconds" in answer.text


def test_head_is_get_without_a_body(api: httpx.Client) -> None:
    fill(api, "a")
    for path in ("/health", "/v1/basins", "/v1/streams", f"{RECORDS}/tail", f"{RECORDS}?seq_num=0"):
        answer = api.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"] == api.get(path).headers["content-type"]
