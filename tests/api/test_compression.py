import zlib

import pytest
import zstandard

from s2lite.api.asgi import Receive, Scope, Send
from s2lite.api.compression import CompressedResponses, choose_encoding
from tests.fakes.asgi_client import AsgiClient, Reply


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "identity"),
        ([b""], "identity"),
        ([b"gzip"], "gzip"),
        ([b"x-gzip"], "gzip"),
        ([b"GZIP"], "gzip"),
        ([b"gzip, zstd"], "zstd"),
        ([b"gzip", b"zstd"], "zstd"),
        ([b"gzip;q=0.9, zstd;q=0.5"], "gzip"),
        ([b"gzip;q=0.5, identity"], "identity"),
        ([b"gzip;q=0.5"], "gzip"),
        ([b"identity, gzip, zstd"], "zstd"),
        ([b"br, deflate"], "identity"),
        ([b"*"], "zstd"),
        ([b"zstd;q=0, *"], "gzip"),
        ([b"gzip;q=0"], "identity"),
        ([b"gzip;q=oops"], "identity"),
        ([b"identity;q=0"], None),
        ([b"identity;q=0, br"], None),
        ([b"*;q=0"], None),
        ([b"*;q=0, identity;q=0.1"], "identity"),
        ([b"identity;q=0, gzip"], "gzip"),
    ],
)
def test_the_heaviest_encoding_wins_and_zstd_goes_first(
    lines: list[bytes], expected: str | None
) -> None:
    assert choose_encoding(lines) == expected


def application(body: bytes, content_type: bytes = b"application/json") -> CompressedResponses:
    """An application that answers with a body in two pieces."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        middle = len(body) // 2
        await send({"type": "http.response.body", "body": body[:middle], "more_body": True})
        await send({"type": "http.response.body", "body": body[middle:], "more_body": False})

    return CompressedResponses(app)


async def get(app: CompressedResponses, accept_encoding: str, path: str = "/v1/basins") -> Reply:
    return await AsgiClient(app).request("GET", path, accept_encoding=accept_encoding)


BODY = b"0123456789abcdef" * 64  # 1024 bytes


async def test_a_body_of_1024_bytes_is_compressed_and_leaves_in_one_piece() -> None:
    reply = await get(application(BODY), "gzip")
    assert reply.header("content-encoding") == "gzip"
    assert reply.header("vary") == "accept-encoding"
    assert reply.header("content-length") == str(len(reply.body))
    assert len(reply.pieces) == 1
    assert zlib.decompress(reply.body, 31) == BODY


async def test_zstd_is_understood() -> None:
    reply = await get(application(BODY), "gzip, zstd")
    assert reply.header("content-encoding") == "zstd"
    assert zstandard.decompress(reply.body) == BODY


async def test_a_smaller_body_stays_as_it_is() -> None:
    reply = await get(application(BODY[:-1]), "gzip")
    assert reply.body == BODY[:-1]
    assert reply.header("content-encoding") is None
    assert reply.header("vary") is None


async def test_a_large_body_that_stays_as_it_is_says_that_it_could_be_otherwise() -> None:
    reply = await get(application(BODY), "br")
    assert reply.body == BODY
    assert reply.header("content-encoding") is None
    assert reply.header("vary") == "accept-encoding"


@pytest.mark.parametrize("content_type", [b"s2s/proto", b"text/event-stream"])
async def test_sessions_pass_piece_by_piece(content_type: bytes) -> None:
    reply = await get(application(BODY, content_type), "gzip")
    assert len(reply.pieces) == 2
    assert reply.body == BODY
    assert reply.header("content-encoding") is None


async def test_a_client_that_refuses_everything_gets_406_and_no_body() -> None:
    reply = await get(application(BODY), "identity;q=0")
    assert (reply.status, reply.body) == (406, b"")


async def test_other_paths_are_not_compressed() -> None:
    reply = await get(application(BODY), "gzip", path="/metrics")
    assert reply.body == BODY
    assert reply.header("content-encoding") is None
