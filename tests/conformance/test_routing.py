"""Where a request goes and in which format: paths, headers, media types, query strings."""

import httpx
import pytest

from s2lite.codec import s2_pb2
from tests.api.frames import append_message, parse_frames
from tests.conformance.cases import case
from tests.conformance.raw import (
    EVENTS,
    JSON,
    PROTOBUF,
    RECORDS,
    append,
    error_of,
    fill,
    read,
    seq_nums_of,
    span,
    tail_of,
)

pytestmark = [pytest.mark.conformance]

ONE = '{"records":[{"body":"a"}]}'


@case(1)
@pytest.mark.parametrize("headers", [JSON, PROTOBUF, EVENTS, {"content-type": "s2s/proto"}])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", RECORDS), ("GET", RECORDS), ("GET", f"{RECORDS}/tail")]
)
def test_a_request_about_records_must_name_its_basin(
    http: httpx.Client, stream: str, method: str, path: str, headers: dict[str, str]
) -> None:
    del http.headers["s2-basin"]
    assert error_of(http.request(method, path, headers=headers)) == (400, "bad_header")


@case(2)
@pytest.mark.parametrize("name", ["Abc", "", "a" * 49, "test basin"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", RECORDS), ("GET", RECORDS), ("GET", f"{RECORDS}/tail")]
)
def test_the_basin_must_be_named_by_the_rule(
    http: httpx.Client, stream: str, method: str, path: str, name: str
) -> None:
    answer = http.request(method, path, headers={"s2-basin": name, **JSON})
    assert error_of(answer) == (400, "bad_header")


@case(3)
def test_a_stream_name_in_a_path_is_percent_decoded_once(api: httpx.Client) -> None:
    for name, path in {
        "a/b c": "/v1/streams/a%2Fb%20c/records",
        "a%2Fb": "/v1/streams/a%252Fb/records",
        "a+b": "/v1/streams/a+b/records",
    }.items():
        assert api.post("/v1/streams", json={"stream": name}).status_code == 201
        assert append(api, "a", path=path).status_code == 200
        assert tail_of(api, path) == 1
    listed = {each["name"] for each in api.get("/v1/streams").json()["streams"]}
    assert listed == {"a/b c", "a%2Fb", "a+b", "s"}


@case(4)
def test_a_stream_name_has_at_most_512_bytes(api: httpx.Client) -> None:
    for name in ("x" * 512, "%C3%A9" * 256):
        created = api.put(f"/v1/streams/{name}")
        assert created.status_code == 201
        assert append(api, "a", path=f"/v1/streams/{name}/records").status_code == 200
    for name in ("x" * 513, "%C3%A9" * 256 + "x"):
        answer = append(api, "a", path=f"/v1/streams/{name}/records")
        assert error_of(answer) == (400, "bad_path")


@case(5)
@pytest.mark.parametrize("name", ["%2E%2E", "%2e", "%FF", "a%00b"])
def test_names_that_no_stream_can_have_are_refused(api: httpx.Client, name: str) -> None:
    path = f"/v1/streams/{name}/records"
    for answer in (append(api, "a", path=path), api.get(path), api.get(f"{path}/tail")):
        assert error_of(answer) == (400, "bad_path")


@case(6)
def test_paths_and_methods_nobody_knows_get_no_json(api: httpx.Client) -> None:
    for path in (f"{RECORDS}/", "/v1/streams//records", f"{RECORDS}/x", f"{RECORDS}/tail/"):
        assert error_of(api.get(path)) == (404, None)
        assert error_of(append(api, "a", path=path)) == (404, None)
    refused = api.put(RECORDS)
    assert error_of(refused) == (405, None)
    assert {"GET", "HEAD", "POST"} == set(refused.headers["allow"].replace(" ", "").split(","))


@case(7)
@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/vnd.s2+json",
        "application/json, text/plain",
    ],
)
def test_json_may_be_announced_with_parameters(api: httpx.Client, content_type: str) -> None:
    answer = api.post(RECORDS, content=ONE, headers={"content-type": content_type})
    assert span(answer.json()) == (0, 1)


@case(8)
@pytest.mark.parametrize("content_type", [None, "text/plain", "not/a/type", "text/event-stream"])
def test_a_body_of_a_type_nobody_knows_is_refused(
    api: httpx.Client, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    assert error_of(api.post(RECORDS, content=ONE, headers=headers)) == (400, "bad_json")
    assert tail_of(api) == 0


@case(9)
@pytest.mark.parametrize(
    "accept",
    ["text/html, application/protobuf", "not/a/mime, application/protobuf", "", "*/*", "a b"],
)
def test_only_the_first_type_a_client_accepts_counts(api: httpx.Client, accept: str) -> None:
    for headers in ({**JSON, "accept": accept}, {**PROTOBUF, "accept": accept}):
        content = ONE if headers["content-type"] == "application/json" else append_message(b"a")
        answer = api.post(RECORDS, content=content, headers=headers)
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["end"] == answer.json()["tail"]
        assert read(api, accept=accept).headers["content-type"] == "application/json"


@case(10)
@pytest.mark.parametrize(
    "accept", ["application/x-protobuf", "application/protobuf", "Application/X-Protobuf;q=0.1"]
)
@pytest.mark.parametrize("sent", ["application/x-protobuf", "application/protobuf"])
def test_protobuf_is_answered_with_protobuf_if_asked_for(
    api: httpx.Client, sent: str, accept: str
) -> None:
    headers = {"content-type": sent, "accept": accept}
    answer = api.post(RECORDS, content=append_message(b"a"), headers=headers)
    assert answer.headers["content-type"] == "application/protobuf"
    ack = s2_pb2.AppendAck.FromString(answer.content)
    assert [ack.HasField("start"), ack.HasField("end"), ack.HasField("tail")] == [True] * 3
    assert (ack.start.seq_num, ack.end.seq_num, ack.tail.seq_num) == (0, 1, 1)
    answer = append(api, "a", headers={"accept": accept})
    assert s2_pb2.AppendAck.FromString(answer.content).end.seq_num == 2


@case(11)
def test_protobuf_is_answered_with_json_unless_asked_for(api: httpx.Client) -> None:
    del api.headers["accept"]
    headers = {"content-type": "application/protobuf"}
    answer = api.post(RECORDS, content=append_message(b"a"), headers=headers)
    assert answer.headers["content-type"] == "application/json"
    assert span(answer.json()) == (0, 1)


@case(12)
@pytest.mark.parametrize("accept", ["application/vnd.x+json", "*/*", "text/html"])
def test_a_read_answers_with_json_unless_asked_for_something_else(
    api: httpx.Client, accept: str
) -> None:
    fill(api, "a")
    answer = read(api, accept=accept)
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == b'{"records":[{"seq_num":0,"timestamp":1000,"body":"a"}]}'


@case(13)
@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_read_that_says_it_is_a_session_is_one(api: httpx.Client, accept: str) -> None:
    fill(api, "a")
    answer = read(api, "seq_num=0&count=1", content_type="S2S/Proto", accept=accept)
    assert answer.headers["content-type"] == "s2s/proto"
    (frame,) = parse_frames(answer.content)
    assert [record.body for record in frame.batch.records] == [b"a"]


@case(14)
def test_the_format_of_json_goes_by_either_name(api: httpx.Client) -> None:
    fill(api, "hi")
    for name, body in {
        "json-binsafe": "aGk=",
        "base64": "aGk=",
        "json": "hi",
        "raw": "hi",
    }.items():
        assert read(api, s2_format=name).json()["records"][0]["body"] == body
    for name in ("BASE64", "bogus", ""):
        assert error_of(read(api, s2_format=name)) == (400, "bad_header")


@case(15)
def test_the_format_of_json_is_looked_at_where_json_might_come_or_go(api: httpx.Client) -> None:
    bogus = {"s2-format": "bogus"}
    message = append_message(b"a")
    assert api.post(RECORDS, content=message, headers={**PROTOBUF, **bogus}).status_code == 200
    assert error_of(append(api, "a", headers=bogus)) == (400, "bad_header")
    for accept in ("application/protobuf", "text/event-stream", "application/json"):
        assert error_of(read(api, accept=accept, **bogus)) == (400, "bad_header")
    session = read(api, "seq_num=0&count=1", content_type="s2s/proto", **bogus)
    assert len(parse_frames(session.content)) == 1


@case(16)
@pytest.mark.parametrize(
    "query",
    [
        "seq_num=",
        "count=",
        "count=-1",
        "wait=1.5",
        "wait=4294967296",
        "clamp=1",
        "clamp=",
        "clamp=TRUE",
        "count=1&count=2",
        "seq_num=18446744073709551616",
        "timestamp=+1",
        "until=x",
        "bytes=0x10",
        "tail_offset=1%00",
    ],
)
def test_a_parameter_that_does_not_parse_is_refused(http: httpx.Client, query: str) -> None:
    # Long before anybody looks for basin or stream.
    headers = {"s2-basin": "no-such-basin"}
    for mode in (JSON, EVENTS, PROTOBUF, {"content-type": "s2s/proto"}):
        answer = http.get(f"{RECORDS}?{query}", headers={**headers, **mode})
        assert error_of(answer) == (400, "bad_query")


@case(17)
def test_a_parameter_nobody_knows_is_ignored(api: httpx.Client) -> None:
    fill(api, "a")
    assert seq_nums_of(api, "foo=1&seq_num=0&foo=2&bar") == [0]


@case(18)
@pytest.mark.parametrize(
    "query",
    ["seq_num=0&timestamp=0", "seq_num=0&tail_offset=0", "timestamp=0&tail_offset=0"],
)
def test_a_read_has_one_start(api: httpx.Client, query: str) -> None:
    for mode in (JSON, EVENTS, {"content-type": "s2s/proto"}):
        answer = api.get(f"{RECORDS}?{query}", headers=mode)
        assert error_of(answer) == (422, "invalid")
