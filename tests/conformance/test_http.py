"""What HTTP itself offers: encodings of bodies, other origins, both versions on one port."""

import gzip
import json
import zlib

import httpx
import pytest
import zstandard

from tests.conformance.cases import case
from tests.conformance.raw import (
    EVENTS,
    JSON,
    PROTOBUF,
    RECORDS,
    appended,
    bodies_of,
    error_of,
    read,
    tail_of,
)
from tests.conformance.server_process import ServerProcess

pytestmark = [pytest.mark.conformance]

BODY = json.dumps({"records": [{"body": "hi"}]}).encode()
ORIGIN = "https://app.example"


@case(176)
def test_the_body_of_a_request_may_be_compressed(api: httpx.Client) -> None:
    for encoding, content in {
        "gzip": gzip.compress(BODY),
        "zstd": zstandard.compress(BODY),
        "identity": BODY,
    }.items():
        headers = {**JSON, "content-encoding": encoding}
        assert api.post(RECORDS, content=content, headers=headers).status_code == 200
    assert bodies_of(api) == ["hi"] * 3


@case(176)
@pytest.mark.parametrize("encoding", ["br", "GZIP", "gzip, gzip", "deflate", ""])
def test_a_body_in_another_encoding_is_refused_with_those_there_are(
    api: httpx.Client, encoding: str
) -> None:
    # Before everything else: this request has nothing right.
    headers = {"content-encoding": encoding, "s2-basin": "?"}
    for method in ("POST", "GET"):
        refused = api.request(method, RECORDS, content=b"x", headers=headers)
        assert (refused.status_code, refused.content) == (415, b"")
        assert refused.headers["accept-encoding"] == "zstd,gzip"
    assert tail_of(api) == 0


@case(176)
@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_body_that_does_not_decompress_is_a_bad_body(api: httpx.Client, encoding: str) -> None:
    for headers, code in ((JSON, "bad_json"), (PROTOBUF, "bad_proto")):
        answer = api.post(
            RECORDS, content=b"plain", headers={**headers, "content-encoding": encoding}
        )
        assert error_of(answer) == (400, code)


@case(177)
@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, zstd", "zstd"),
        ("gzip;q=1, zstd;q=0.5", "gzip"),
        ("br", None),
        ("identity", None),
        ("gzip;q=0", None),
    ],
)
def test_a_large_answer_is_compressed_as_the_client_accepts(
    api: httpx.Client, accepted: str, expected: str | None
) -> None:
    appended(api, "x" * 4096)
    appended(api, "x" * 100)
    with api.stream(
        "GET", f"{RECORDS}?seq_num=0&count=1", headers={"accept-encoding": accepted}
    ) as answer:
        assert answer.headers.get("content-encoding") == expected
        assert "accept-encoding" in answer.headers["vary"]
        raw = b"".join(answer.iter_raw())
    assert json.loads(_unpacked(raw, expected))["records"][0]["body"] == "x" * 4096
    small = read(api, "seq_num=1", accept_encoding=accepted)
    assert "content-encoding" not in small.headers
    assert small.json()["records"][0]["body"] == "x" * 100


def _unpacked(body: bytes, encoding: str | None) -> bytes:
    match encoding:
        case "gzip":
            return zlib.decompress(body, 16 + zlib.MAX_WBITS)
        case "zstd":
            return zstandard.ZstdDecompressor().decompressobj().decompress(body)
        case _:
            return body


@case(178)
def test_another_origin_may_ask_what_it_may_do(api: httpx.Client) -> None:
    answer = api.options(
        RECORDS,
        headers={
            "origin": ORIGIN,
            "access-control-request-method": "POST",
            "access-control-request-headers": "s2-basin, content-type",
        },
    )
    assert (answer.status_code, answer.content) == (200, b"")
    allowed = {
        name.removeprefix("access-control-allow-"): value
        for name, value in answer.headers.items()
        if name.startswith("access-control-allow-")
    }
    assert allowed == {
        "origin": ORIGIN,
        "methods": "POST",
        "headers": "s2-basin, content-type",
        "credentials": "true",
    }


@case(179)
@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{RECORDS}?seq_num=0", 200),
        (f"{RECORDS}/tail", 200),
        ("/v1/streams/missing/records", 404),
        ("/nowhere", 404),
        (f"{RECORDS}?seq_num=9", 416),
        (f"{RECORDS}?seq_num=x", 400),
    ],
)
def test_another_origin_may_see_every_answer(api: httpx.Client, path: str, status: int) -> None:
    appended(api, "a")
    for headers in ({}, EVENTS):
        with api.stream("GET", path, headers={"origin": ORIGIN, **headers}) as answer:
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            assert answer.headers["access-control-allow-credentials"] == "true"
            assert "origin" in answer.headers["vary"]


@case(180)
def test_both_versions_are_served_on_one_port(
    server: ServerProcess, basin: str, stream: str
) -> None:
    headers = {"s2-basin": basin}
    for number, version in enumerate(["HTTP/1.1", "HTTP/2"]):
        two = version == "HTTP/2"
        with httpx.Client(
            base_url=server.url, http1=not two, http2=two, headers=headers, verify=False
        ) as client:
            answer = client.post(RECORDS, content=BODY, headers=JSON)
            assert (answer.status_code, answer.http_version) == (200, version)
            assert tail_of(client) == number + 1
