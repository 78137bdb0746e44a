import gzip
import tracemalloc
from collections.abc import Callable

import pytest
import zstandard

from s2lite.api.asgi import ClientDisconnected, Event, Request
from s2lite.api.body import (
    check_content_encoding,
    check_not_encoded,
    read_body,
)
from s2lite.api.errors import BadRequest, ErrorCode, UnsupportedContentEncoding
from s2lite.model.limits import MAX_UNARY_BODY_BYTES


def request(*chunks: bytes, encoding: bytes | None = None, cut_off: bool = False) -> Request:
    """A request whose body arrives in chunks, or is cut off behind them."""
    events: list[Event] = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
    ]
    end: Event = {"type": "http.request", "body": b"", "more_body": False}
    events.append({"type": "http.disconnect"} if cut_off else end)

    async def receive() -> Event:
        return events.pop(0)

    headers = [] if encoding is None else [(b"content-encoding", encoding)]
    return Request({"headers": headers}, receive)


def zstd(body: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(body)


async def read(*chunks: bytes, encoding: bytes | None = None) -> bytes:
    return await read_body(request(*chunks, encoding=encoding), ErrorCode.BAD_PROTO)


async def test_a_body_is_put_together() -> None:
    assert await read() == b""
    assert await read(b"one") == b"one"
    assert await read(b"o", b"n", b"e", encoding=b"identity") == b"one"


async def test_a_body_of_2_mib_is_the_largest() -> None:
    body = bytes(MAX_UNARY_BODY_BYTES)
    assert await read(body[:-1], body[-1:]) == body
    with pytest.raises(BadRequest) as caught:
        await read(body, b"x")
    assert caught.value.code is ErrorCode.BAD_PROTO


@pytest.mark.parametrize(("encoding", "encode"), [(b"gzip", gzip.compress), (b"zstd", zstd)])
class TestCompressed:
    async def test_is_decompressed(self, encoding: bytes, encode: Callable[[bytes], bytes]) -> None:
        body = b"hello" * 1000
        encoded = encode(body)
        assert await read(encoded[:5], encoded[5:], encoding=encoding) == body

    async def test_may_be_in_several_members(
        self, encoding: bytes, encode: Callable[[bytes], bytes]
    ) -> None:
        assert await read(encode(b"one"), encode(b"two"), encoding=encoding) == b"onetwo"

    async def test_counts_at_its_full_size(
        self, encoding: bytes, encode: Callable[[bytes], bytes]
    ) -> None:
        body = bytes(MAX_UNARY_BODY_BYTES)
        assert await read(encode(body), encoding=encoding) == body
        with pytest.raises(BadRequest, match="exceeds"):
            await read(encode(body + b"x"), encoding=encoding)

    @pytest.mark.slow
    async def test_does_not_blow_up(
        self, encoding: bytes, encode: Callable[[bytes], bytes]
    ) -> None:
        bomb = encode(bytes(200 * 1024 * 1024))
        tracemalloc.start()
        try:
            with pytest.raises(BadRequest, match="exceeds"):
                await read(bomb, encoding=encoding)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 16 * 1024 * 1024

    @pytest.mark.parametrize("cut", [1, 5, 20])
    async def test_may_not_be_cut_short(
        self, cut: int, encoding: bytes, encode: Callable[[bytes], bytes]
    ) -> None:
        with pytest.raises(BadRequest):
            await read(encode(b"0123456789abcdef" * 3)[:-cut], encoding=encoding)

    async def test_may_not_be_something_else(
        self, encoding: bytes, encode: Callable[[bytes], bytes]
    ) -> None:
        with pytest.raises(BadRequest):
            await read(b"not compressed at all", encoding=encoding)
        with pytest.raises(BadRequest):
            await read(encode(b"one") + b"junk", encoding=encoding)


async def test_a_client_that_goes_leaves_no_body() -> None:
    with pytest.raises(ClientDisconnected):
        await read_body(request(b"half", cut_off=True), ErrorCode.BAD_JSON)


@pytest.mark.parametrize("encoding", [b"br", b"GZIP", b"gzip, zstd", b"x-gzip", b""])
def test_other_content_encodings_are_refused(encoding: bytes) -> None:
    with pytest.raises(UnsupportedContentEncoding):
        check_content_encoding(request(encoding=encoding))


@pytest.mark.parametrize("encoding", [None, b"identity", b"gzip", b"zstd"])
def test_three_content_encodings_are_known(encoding: bytes | None) -> None:
    check_content_encoding(request(encoding=encoding))


def test_the_body_of_a_session_is_not_encoded_as_a_whole() -> None:
    check_not_encoded(request(encoding=b"identity"))
    with pytest.raises(UnsupportedContentEncoding):
        check_not_encoded(request(encoding=b"gzip"))
