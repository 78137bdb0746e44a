"""Bad input on every route: the right status and code, as JSON, and never a 500."""

from typing import Any

import attrs
import httpx
import pytest

from tests.api.frames import append_message, command_message
from tests.conformance.cases import case
from tests.conformance.server_process import ServerProcess

pytestmark = [pytest.mark.conformance]

RECORDS = "/v1/streams/s/records"
JSON = {"content-type": "application/json"}
PROTOBUF = {"content-type": "application/protobuf"}
MIB = 1024 * 1024


@attrs.frozen
class Case:
    """A request and what it must be answered. `code` is None where there is no body at all."""

    method: str
    path: str
    status: int
    code: str | None
    content: bytes | str = b""
    headers: dict[str, str] = attrs.Factory(dict)

    def __str__(self) -> str:
        what = self.content[:40] if len(self.content) else ""
        return f"{self.method} {self.path[:60]} {what!r} {self.headers or ''}"


def post(
    path: str, content: bytes | str, status: int = 400, code: str = "bad_json", **headers: str
) -> Case:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Case("POST", path, status, code, content, {**JSON, **named})


ROUTING = [
    Case("GET", "/", 404, None),
    Case("GET", "/v1", 404, None),
    Case("GET", "/v1/nope", 404, None),
    Case("GET", "/v1/basins/", 404, None),
    Case("GET", "/v1/streams/a/b", 404, None),
    Case("GET", "/v1/streams//records", 404, None),
    Case("GET", f"{RECORDS}/", 404, None),
    Case("GET", f"{RECORDS}/tail/x", 404, None),
    Case("DELETE", "/v1/access-tokens/", 404, None),
    Case("PUT", "/v1/basins", 405, None),
    Case("POST", "/v1/basins/test-basin", 405, None),
    Case("PUT", RECORDS, 405, None),
    Case("DELETE", RECORDS, 405, None),
    Case("POST", f"{RECORDS}/tail", 405, None),
    Case("POST", "/health", 405, None),
    Case("DELETE", "/metrics", 405, None),
    Case("GET", "/v1/basins", 415, None, headers={"content-encoding": "br"}),
    Case("POST", RECORDS, 415, None, headers={"content-encoding": "gzip, gzip"}),
]

BASINS = [
    *[
        post("/v1/basins", content)
        for content in (
            "",
            "null",
            "[]",
            "{",
            '{"basin":"short"}',
            '{"basin":"Upper-case"}',
            '{"basin":"-leading-hyphen"}',
            '{"basin":"trailing-hyphen-"}',
            '{"basin":"under_score"}',
            '{"basin":"%s"}' % ("x" * 49),
            '{"basin":1}',
            '{"basin":null}',
            '{"basin":"some-basin"} x',
            '{"basin":"some-basin","basin":"some-basin"}',
            '{"basin":"some-basin","config":[]}',
            '{"basin":"some-basin","config":{"create_stream_on_append":null}}',
            '{"basin":"some-basin","config":{"create_stream_on_append":1}}',
            '{"basin":"some-basin","config":{"stream_cipher":"rot13"}}',
            '{"basin":"some-basin","location":"a/b"}',
            '{"basin":"some-basin","config":{"default_stream_config":{"retention_policy":{}}}}',
            b'{"basin":"some-basin\xff"}',
        )
    ],
    post(
        "/v1/basins",
        '{"basin":"some-basin","config":{"default_stream_config":{"retention_policy":{"age":0}}}}',
        422,
        "invalid",
    ),
    post("/v1/basins", '{"basin":"some-basin"}', content_type="text/plain"),
    post("/v1/basins", b'"%s"' % (b"x" * 2 * MIB)),
    post("/v1/basins", "{}", code="bad_header", s2_request_token="x" * 37),
    post("/v1/basins", b"\x1f\x8bnot gzip", content_encoding="gzip"),
    Case("POST", "/v1/basins", 400, "bad_json", '{"basin":"some-basin"}'),
    *[
        Case("GET", f"/v1/basins?{query}", 400, "bad_query")
        for query in (
            "limit=",
            "limit=-1",
            "limit=x",
            "limit=1.5",
            "limit=1&limit=2",
            "prefix=Abc",
            "prefix=-a",
            "start_after=a_b",
            "prefix=" + "x" * 49,
            "prefix=%FF",
        )
    ],
    *[
        Case(method, f"/v1/basins/{name}", 400, "bad_path", content, JSON)
        for method, content in (("GET", ""), ("PUT", "{}"), ("PATCH", "{}"), ("DELETE", ""))
        for name in ("Bad_Name", "short", "%FF%FE", "some%2Fbasin")
    ],
    Case("PUT", "/v1/basins/other-basin", 400, "bad_json", "{}", {"content-type": "text/plain"}),
    Case("PUT", "/v1/basins/other-basin", 400, "bad_json", '{"config":1}', JSON),
    Case("PATCH", "/v1/basins/other-basin", 400, "bad_json", "", JSON),
    Case(
        "PATCH", "/v1/basins/other-basin", 400, "bad_json", '{"create_stream_on_read":null}', JSON
    ),
    Case("PATCH", "/v1/basins/other-basin", 404, "basin_not_found", "{}", JSON),
    Case(
        "PATCH",
        "/v1/basins/other-basin",
        422,
        "invalid",
        '{"default_stream_config":{"retention_policy":{"age":0}}}',
        JSON,
    ),
    Case("GET", "/v1/basins/other-basin", 404, "basin_not_found"),
    Case("DELETE", "/v1/basins/other-basin", 404, "basin_not_found"),
]

STREAMS = [
    *[
        post("/v1/streams", content)
        for content in (
            "",
            "[]",
            "{}",
            '{"stream":""}',
            '{"stream":"."}',
            '{"stream":".."}',
            '{"stream":"a\\u0000b"}',
            '{"stream":"%s"}' % ("x" * 513),
            '{"stream":"\\ud800"}',
            '{"stream":"x","config":{"retention_policy":"infinite"}}',
            '{"stream":"x","config":{"retention_policy":{"age":1,"infinite":{}}}}',
            '{"stream":"x","config":{"retention_policy":{"age":-1}}}',
            '{"stream":"x","config":{"retention_policy":{"age":1.0}}}',
            '{"stream":"x","config":{"retention_policy":{"age":18446744073709551616}}}',
            '{"stream":"x","config":{"timestamping":{"mode":"never"}}}',
            '{"stream":"x","config":{"timestamping":{"uncapped":"yes"}}}',
            '{"stream":"x","config":{"delete_on_empty":{"min_age_secs":-1}}}',
        )
    ],
    post("/v1/streams", '{"stream":"x","config":{"retention_policy":{"age":0}}}', 422, "invalid"),
    post("/v1/streams", '{"stream":"s"}', 409, "resource_already_exists"),
    post("/v1/streams", '{"stream":"s"}', 409, "resource_already_exists", s2_request_token="t"),
    post("/v1/streams", '{"stream":"x"}', 404, "basin_not_found", s2_basin="other-basin"),
    post("/v1/streams", '{"stream":"x"}', code="bad_header", s2_basin="Abc"),
    post("/v1/streams", '{"stream":"x"}', code="bad_header", s2_request_token="\x7f"),
    *[
        Case("GET", f"/v1/streams?{query}", 400, "bad_query")
        for query in (
            "limit=x",
            "limit=",
            "prefix=" + "x" * 513,
            "prefix=a%00",
            "prefix=a&prefix=b",
        )
    ],
    *[
        Case(method, f"/v1/streams/{name}", 400, "bad_path", content, JSON)
        for method, content in (("GET", ""), ("PUT", "{}"), ("PATCH", "{}"), ("DELETE", ""))
        for name in ("%2E", "%2E%2E", "%FF", "x" * 513, "a%00b")
    ],
    Case("GET", "/v1/streams/missing", 404, "stream_not_found"),
    Case("DELETE", "/v1/streams/missing", 404, "stream_not_found"),
    Case("PATCH", "/v1/streams/missing", 404, "stream_not_found", "{}", JSON),
    Case("PATCH", "/v1/streams/s", 400, "bad_json", "[]", JSON),
    Case("PATCH", "/v1/streams/s", 400, "bad_json", '{"timestamping":{"mode":7}}', JSON),
    Case("PATCH", "/v1/streams/s", 422, "invalid", '{"retention_policy":{"age":0}}', JSON),
    Case("PUT", "/v1/streams/s", 422, "invalid", '{"retention_policy":{"age":0}}', JSON),
    Case("PUT", "/v1/streams/s", 400, "bad_json", "{}", {"content-type": "text/plain"}),
]

APPENDS = [
    *[
        post(RECORDS, content)
        for content in (
            "",
            "not json",
            "{truncated",
            "{}",
            "[]",
            "null",
            '{"records":null}',
            '{"records":"nope"}',
            '{"records":[{"body":123}]}',
            '{"records":[{"body":null}]}',
            '{"records":[{"headers":null}]}',
            '{"records":[{"headers":[["one"]]}]}',
            '{"records":[{"headers":[["one","two","three"]]}]}',
            '{"records":[{"timestamp":-1}]}',
            '{"records":[{"timestamp":1.0}]}',
            '{"records":[{"timestamp":18446744073709551616}]}',
            '{"records":[{}],"match_seq_num":1.0}',
            '{"records":[{}],"match_seq_num":"1"}',
            '{"records":[{}],"fencing_token":"%s"}' % ("x" * 37),
            '{"records":[{}],"records":[{}]}',
            '{"records":[{"body":"\\ud800"}]}',
            '{"records":[{}]} {}',
            b'{"records":[{"body":"\xff"}]}',
            b'{"records":[{"body":"%s"}]}' % (b"x" * 2 * MIB),
            "[" * 100_000,
        )
    ],
    *[
        post(RECORDS, content, 422, "invalid")
        for content in (
            '{"records":[]}',
            '{"records":[' + ",".join(["{}"] * 1001) + "]}",
            '{"records":[{"body":"%s"}]}' % ("x" * (MIB - 7)),
            '{"records":[{"headers":[["","not-a-command"]]}]}',
            '{"records":[{"headers":[["","fence"],["a","b"]]}]}',
            '{"records":[{"headers":[["a","b"],["",""]]}]}',
            '{"records":[{"headers":[["","fence"]],"body":"%s"}]}' % ("x" * 37),
            '{"records":[{"headers":[["","trim"]],"body":"1234"}]}',
            '{"records":[{"headers":[["","trim"]],"body":"123456789"}]}',
        )
    ],
    *[
        post(RECORDS, '{"records":[{"body":' + body + "}]}", 422, "invalid", s2_format="base64")
        for body in ('"aGk"', '"aGl="', '"!!"', '"aG k="')
    ],
    post(RECORDS, '{"records":[{}]}', code="bad_header", s2_format="BASE64"),
    post(RECORDS, '{"records":[{}]}', code="bad_header", s2_format=""),
    post(RECORDS, '{"records":[{}]}', code="bad_header", s2_encryption_key="x" * 45),
    post(RECORDS, '{"records":[{}]}', code="bad_header", s2_encryption_key=""),
    post(RECORDS, '{"records":[{}]}', code="bad_header", s2_stream_config="{"),
    post(RECORDS, '{"records":[{}]}', code="bad_header", s2_stream_config="[]"),
    post(
        RECORDS,
        '{"records":[{}]}',
        code="bad_header",
        s2_stream_config='{"retention_policy":{"age":0}}',
    ),
    post(RECORDS, '{"records":[{}]}', code="bad_header", s2_basin="Abc"),
    post(RECORDS, '{"records":[{}]}', 404, "basin_not_found", s2_basin="other-basin"),
    post("/v1/streams/missing/records", '{"records":[{}]}', 404, "stream_not_found"),
    post("/v1/streams/missing/records", '{"records":[]}', 422, "invalid"),
    post("/v1/streams/%2E%2E/records", '{"records":[{}]}', code="bad_path"),
    post("/v1/streams/%FF/records", '{"records":[{}]}', code="bad_path"),
    post(f"/v1/streams/{'x' * 513}/records", '{"records":[{}]}', code="bad_path"),
    Case("POST", RECORDS, 400, "bad_json", '{"records":[{}]}'),
    Case("POST", RECORDS, 400, "bad_json", "x", {"content-type": "text/plain"}),
    Case("POST", RECORDS, 400, "bad_json", "x", {"content-type": "not/a/type"}),
    Case("POST", RECORDS, 400, "bad_proto", b"\xff", PROTOBUF),
    Case("POST", RECORDS, 400, "bad_proto", b"\x0a\x05\x1a", PROTOBUF),
    Case("POST", RECORDS, 400, "bad_proto", b"\x1a\x01\xff", PROTOBUF),
    Case("POST", RECORDS, 400, "bad_proto", bytes(2 * MIB + 1), PROTOBUF),
    Case("POST", RECORDS, 400, "bad_proto", b"x", {**PROTOBUF, "content-encoding": "zstd"}),
    Case("POST", RECORDS, 422, "invalid", b"", PROTOBUF),
    Case("POST", RECORDS, 422, "invalid", append_message(b"a", fencing_token="x" * 37), PROTOBUF),
    Case("POST", RECORDS, 422, "invalid", command_message(b"fence", b"\xff"), PROTOBUF),
]

READS = [
    *[
        Case("GET", f"{RECORDS}?{query}", 400, "bad_query")
        for query in (
            "seq_num=",
            "seq_num=x",
            "seq_num=-1",
            "seq_num=18446744073709551616",
            "timestamp=1.5",
            "tail_offset=%201",
            "count=-1",
            "count=1&count=2",
            "bytes=1e3",
            "wait=1.5",
            "wait=4294967296",
            "until=",
            "clamp=1",
            "clamp=True",
            "clamp=",
        )
    ],
    *[
        Case("GET", f"{RECORDS}?{query}", 422, "invalid")
        for query in (
            "seq_num=0&timestamp=0",
            "seq_num=0&tail_offset=0",
            "timestamp=5&until=5",
            "timestamp=6&until=5",
        )
    ],
    Case("GET", RECORDS, 400, "bad_header", headers={"s2-format": "bogus"}),
    Case(
        "GET",
        RECORDS,
        400,
        "bad_header",
        headers={"s2-format": "bogus", "accept": "application/protobuf"},
    ),
    *[
        Case(
            "GET",
            RECORDS,
            400,
            "bad_header",
            headers={"accept": "text/event-stream", "last-event-id": event_id},
        )
        for event_id in ("1", "a,b,c", "1,2,3,4", "1, 2,3", "")
    ],
    Case("GET", RECORDS, 400, "bad_header", headers={"s2-basin": ""}),
    Case("GET", RECORDS, 404, "basin_not_found", headers={"s2-basin": "other-basin"}),
    Case("GET", "/v1/streams/missing/records", 404, "stream_not_found"),
    Case("GET", "/v1/streams/missing/records/tail", 404, "stream_not_found"),
    Case("GET", "/v1/streams/%2E/records/tail", 400, "bad_path"),
    Case("GET", f"{RECORDS}/tail", 404, "basin_not_found", headers={"s2-basin": "other-basin"}),
]

LATER = [
    Case("GET", "/v1/access-tokens", 501, "not_implemented"),
    Case("GET", "/v1/access-tokens?limit=x", 400, "bad_query"),
    post("/v1/access-tokens", '{"id":"t","scope":{}}', 501, "not_implemented"),
    post("/v1/access-tokens", "{}"),
    post("/v1/access-tokens", '{"id":"","scope":{}}'),
    Case("DELETE", "/v1/access-tokens/..%2Fx", 501, "not_implemented"),
    Case("DELETE", "/v1/access-tokens/%2E%2E", 400, "bad_path"),
    Case("GET", "/v1/metrics?set=active-basins", 501, "not_implemented"),
    Case("GET", "/v1/metrics", 400, "bad_query"),
    Case("GET", "/v1/metrics/other-basin?set=storage", 501, "not_implemented"),
    Case("GET", "/v1/metrics/Bad_Name?set=storage", 400, "bad_path"),
    Case("GET", "/v1/metrics/other-basin/s?set=storage", 501, "not_implemented"),
    Case("GET", "/v1/metrics/other-basin/s?set=storage&start=x", 400, "bad_query"),
    Case("GET", "/v1/locations", 501, "not_implemented"),
    Case("GET", "/v1/locations/default", 501, "not_implemented"),
    Case("PUT", "/v1/locations/default", 501, "not_implemented", '"aws:us-east-1"', JSON),
    Case("PUT", "/v1/locations/default", 400, "bad_json", '"a b"', JSON),
]

CASES = [*ROUTING, *BASINS, *STREAMS, *APPENDS, *READS, *LATER]


@pytest.fixture(scope="module")
def prepared(fleet: Any) -> tuple[ServerProcess, dict[str, str]]:
    """A server of this module's own, with the stream `s`: no case changes anything."""
    server: ServerProcess = fleet.start()
    headers = {"s2-basin": "test-basin"}
    with httpx.Client(base_url=server.url, headers=headers) as client:
        assert client.post("/v1/basins", json={"basin": "test-basin"}).status_code == 201
        assert client.post("/v1/streams", json={"stream": "s"}).status_code == 201
    return server, headers


def send(client: httpx.Client, case: Case, headers: dict[str, str]) -> httpx.Response:
    url = httpx.URL(str(client.base_url).rstrip("/") + case.path)
    content = case.content or None
    return client.request(case.method, url, content=content, headers={**headers, **case.headers})


@pytest.mark.slow
@pytest.mark.parametrize("version", ["http1", "http2"])
def test_every_bad_request_gets_its_own_answer(
    prepared: tuple[ServerProcess, dict[str, str]], version: str
) -> None:
    server, headers = prepared
    two = version == "http2"
    wrong = []
    with httpx.Client(base_url=server.url, http1=not two, http2=two, timeout=20) as client:
        for case in CASES:
            answer = send(client, case, headers)
            got = answer.status_code, _code(answer)
            if got != (case.status, case.code):
                wrong.append(f"{case}: expected {case.status} {case.code}, got {got}")
        assert not wrong, "\n" + "\n".join(wrong)
        assert [each["name"] for each in client.get("/v1/basins").json()["basins"]] == [
            "test-basin"
        ]
        streams = client.get("/v1/streams", headers=headers).json()["streams"]
        assert [each["name"] for each in streams] == ["s"]
        tail = client.get(f"{RECORDS}/tail", headers=headers).json()["tail"]
        assert tail == {"seq_num": 0, "timestamp": 0}


def _code(answer: httpx.Response) -> str | None:
    """The code of an error body, None if there is no body; anything else is described."""
    if not answer.content and "content-type" not in answer.headers:
        return None
    if answer.headers.get("content-type") != "application/json":
        return f"not JSON: {answer.headers} {answer.content[:200]!r}"
    body = answer.json()
    if sorted(body) != ["code", "message"] or not isinstance(body["message"], str):
        return f"not an error: {body}"
    code: str = body["code"]
    return code


WITHOUT_BASIN = [
    ("GET", "/v1/streams"),
    ("POST", "/v1/streams"),
    ("GET", "/v1/streams/s"),
    ("PUT", "/v1/streams/s"),
    ("PATCH", "/v1/streams/s"),
    ("DELETE", "/v1/streams/s"),
    ("GET", RECORDS),
    ("POST", RECORDS),
    ("GET", f"{RECORDS}/tail"),
]


@case(1)
@pytest.mark.parametrize(("method", "path"), WITHOUT_BASIN)
def test_a_request_about_streams_must_name_its_basin(
    prepared: tuple[ServerProcess, dict[str, str]], method: str, path: str
) -> None:
    answer = httpx.request(method, prepared[0].url + path, headers=JSON)
    assert (answer.status_code, _code(answer)) == (400, "bad_header")


def test_a_method_that_is_not_allowed_names_those_that_are(
    prepared: tuple[ServerProcess, dict[str, str]],
) -> None:
    answer = httpx.put(f"{prepared[0].url}/v1/basins")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET,HEAD,POST")
