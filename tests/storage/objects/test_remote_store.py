"""Remote stores over servers that stall, break off, and answer whatever they like."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from s2lite.model.errors import StorageError
from s2lite.storage.objects.buckets import Provider, make_store
from s2lite.storage.objects.object_store import (
    ObjectExists,
    ObjectNotFound,
    StoreRefused,
    StoreUnavailable,
)
from s2lite.storage.objects.remote_store import RemoteObjectStore, open_remote_store
from tests.fakes.s3_server import S3Server

SECRET = "s3cr3t-k3y"


def answer(status: str, body: str = "", *headers: str) -> bytes:
    """An HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def refusal(status: str, code: str, message: str = "for a reason") -> bytes:
    """An answer of S3 that says no, with more in it than anyone should see."""
    return answer(
        status,
        f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>{message}</Message>"
        f"<StringToSign>{SECRET}</StringToSign><RequestId>1</RequestId></Error>",
    )


@attrs.define(eq=False)
class RawServer:
    """A TCP server that reads the heads of requests and answers all of them with the same bytes.

    With `stalls` it answers nothing; with `breaks` it resets the connection after the answer.
    """

    answer: bytes = b""
    stalls: bool = False
    breaks: bool = False
    requests: list[str] = attrs.field(factory=list)
    open_connections: int = 0
    _changed: trio.Event = attrs.field(factory=trio.Event)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that changes as requests and connections come and go."""
        with trio.fail_after(10):
            while not condition():
                await self._changed.wait()

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.open_connections += 1
        try:
            received = b""
            async for data in stream:
                received += data
                while b"\r\n\r\n" in received:
                    head, _, received = received.partition(b"\r\n\r\n")
                    self.requests.append(head.decode().splitlines()[0])
                    self._note()
                    if not self.stalls:
                        await stream.send_all(self.answer)
                    if self.breaks:
                        return
        except trio.BrokenResourceError:
            pass
        finally:
            self.open_connections -= 1
            self._note()
            await trio.aclose_forcefully(stream)

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[RemoteObjectStore]:
        """Serve, and open a store that uses it."""
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, self._serve, [listener])
            port = listener.socket.getsockname()[1]
            environment = {
                "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_SESSION_TOKEN": SECRET,
            }
            objects = make_store(Provider.S3, "bucket", "base", environment)
            async with open_remote_store(objects) as store:
                yield store
            nursery.cancel_scope.cancel()


def calls(store: RemoteObjectStore) -> dict[str, Callable[[], Awaitable[object]]]:
    """Every kind of request."""
    return {
        "put": lambda: store.put_new("wal/1", b"data"),
        "get": lambda: store.get("wal/1"),
        "get_range": lambda: store.get_range("wal/1", 0, 4),
        "head": lambda: store.get_range("wal/1", 0, 0),
        "list": lambda: store.list("wal/"),
        "delete": lambda: store.delete("wal/1"),
    }


KINDS = ["put", "get", "get_range", "head", "list", "delete"]


async def failure_of(server: RawServer, kind: str) -> StorageError:
    """What a call of this kind raises."""
    async with server.serving() as store:
        with trio.fail_after(10), pytest.raises(StorageError) as caught:
            await calls(store)[kind]()
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)
    return caught.value


# --- cancellation -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_call_ends_at_once_and_its_request_with_it(kind: str) -> None:
    server = RawServer(stalls=True)
    async with server.serving() as store:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(calls(store)[kind])
                await server.wait_until(lambda: len(server.requests) == 1)
                scope.cancel()
        assert scope.cancelled_caught
        await server.wait_until(lambda: server.open_connections == 0)


async def test_a_call_with_a_deadline_raises_when_that_has_passed() -> None:
    server = RawServer(stalls=True)
    async with server.serving() as store:
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.05):
            await store.get("wal/1")


async def test_a_cancelled_call_leaves_others_alone() -> None:
    server = RawServer(stalls=True)
    async with server.serving() as store, trio.open_nursery() as nursery:
        nursery.start_soon(store.get, "wal/1")
        await server.wait_until(lambda: len(server.requests) == 1)
        with trio.move_on_after(0.05):
            await store.get("wal/2")
        await server.wait_until(lambda: server.open_connections == 1)
        assert len(server.requests) == 2
        nursery.cancel_scope.cancel()


async def test_many_calls_are_under_way_at_once() -> None:
    server = RawServer(stalls=True)
    async with server.serving() as store, trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(store.get, f"wal/{number}")
        await server.wait_until(lambda: server.open_connections == 40)
        nursery.cancel_scope.cancel()


async def test_what_the_block_raises_comes_out_as_it_is(s3_server: S3Server) -> None:
    objects = s3_server.make_store("raises")
    with pytest.raises(ObjectNotFound):
        async with open_remote_store(objects) as store:
            await store.get("wal/1")


async def test_a_store_is_closed_after_its_block(s3_server: S3Server) -> None:
    async with open_remote_store(s3_server.make_store("closed")) as store:
        await store.put_new("wal/1", b"data")
    for call in calls(store).values():
        with pytest.raises(trio.ClosedResourceError):
            await call()


# --- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "server",
    [
        RawServer(refusal("500 Internal Server Error", "InternalError")),
        RawServer(refusal("503 Slow Down", "SlowDown")),
        RawServer(answer("502 Bad Gateway", "<html>nginx</html>")),
        RawServer(answer("429 Too Many Requests")),
        RawServer(answer("408 Request Timeout")),
        RawServer(refusal("400 Bad Request", "RequestTimeout")),
        RawServer(b"", breaks=True),
        RawServer(b"HTTP/1.1 200 OK\r\ncontent-le", breaks=True),
        RawServer(b"SSH-2.0-OpenSSH\r\n\r\n", breaks=True),
    ],
    ids=["500", "503", "502", "429", "408", "400", "reset", "half", "nonsense"],
)
async def test_a_failure_that_may_pass_is_said_at_once_and_not_retried_here(
    server: RawServer, kind: str
) -> None:
    server.requests.clear()
    error = await failure_of(server, kind)

    assert isinstance(error, StoreUnavailable)
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (refusal("403 Forbidden", "AccessDenied"), "rights"),
        (refusal("403 Forbidden", "InvalidAccessKeyId"), "check the credentials"),
        (refusal("403 Forbidden", "SignatureDoesNotMatch"), "check the credentials"),
        (refusal("403 Forbidden", "RequestTimeTooSkewed"), "clock"),
        (refusal("400 Bad Request", "AuthorizationHeaderMalformed"), "AWS_REGION"),
        (answer("401 Unauthorized"), "check the credentials"),
        (answer("301 Moved Permanently"), "AWS_REGION"),
    ],
)
async def test_what_no_retry_helps_against_is_refused_with_advice(
    said: bytes, advice: str, kind: str
) -> None:
    if kind == "head":  # its answers have no bodies
        said = answer("403 Forbidden")
        advice = "rights"
    error = await failure_of(RawServer(said), kind)

    assert isinstance(error, StoreRefused)
    assert advice in str(error)


@pytest.mark.parametrize("kind", ["put", "get", "get_range", "list", "delete"])
async def test_a_bucket_that_does_not_exist_is_not_taken_for_an_object(
    s3_server: S3Server, kind: str
) -> None:
    async with open_remote_store(s3_server.make_store("base", "no-such-bucket")) as store:
        with pytest.raises(StoreRefused, match="create the bucket"):
            await calls(store)[kind]()


@pytest.mark.parametrize("kind", ["put", "get", "get_range", "list", "delete"])
@pytest.mark.parametrize("code", ["NoSuchBucket", "ContainerNotFound"])
async def test_a_missing_bucket_is_known_by_its_code(code: str, kind: str) -> None:
    error = await failure_of(RawServer(refusal("404 Not Found", code)), kind)

    assert isinstance(error, StoreRefused)
    assert "create the bucket" in str(error)


async def test_a_store_that_says_what_it_deletes_is_missing_has_deleted_it() -> None:
    async with RawServer(refusal("404 Not Found", "BlobNotFound")).serving() as store:
        await store.delete("wal/1")


async def test_a_put_that_another_one_is_in_the_way_of_may_be_tried_again() -> None:
    server = RawServer(refusal("409 Conflict", "ConditionalRequestConflict"))
    assert isinstance(await failure_of(server, "put"), StoreUnavailable)


@pytest.mark.parametrize(
    "said",
    [
        refusal("412 Precondition Failed", "PreconditionFailed"),
        refusal("409 Conflict", "BlobAlreadyExists"),
    ],
)
async def test_a_failed_condition_means_that_the_object_exists(said: bytes) -> None:
    assert isinstance(await failure_of(RawServer(said), "put"), ObjectExists)


async def test_a_store_without_conditions_is_refused() -> None:
    error = await failure_of(RawServer(refusal("501 Not Implemented", "NotImplemented")), "put")

    assert isinstance(error, StoreRefused)
    assert "only if it does not exist" in str(error)


async def test_a_missing_object_is_told_from_a_failure() -> None:
    server = RawServer(refusal("404 Not Found", "NoSuchKey"))
    for kind in ("get", "get_range", "head"):
        assert isinstance(await failure_of(server, kind), ObjectNotFound)


MODIFIED = "last-modified: Mon, 01 Jan 2024 00:00:00 GMT"


@pytest.mark.parametrize(
    "said",
    [
        answer("200 OK", "the whole object", MODIFIED),
        answer("206 Partial Content", "too much", MODIFIED, "content-range: bytes 0-7/100"),
        answer("206 Partial Content", "data", MODIFIED, "content-range: bytes 4-7/100"),
        answer("206 Partial Content", "data and more", MODIFIED, "content-range: bytes 0-3/100"),
        answer("206 Partial Content", "data", MODIFIED),
    ],
    ids=["ignores the range", "another range", "elsewhere", "more than it says", "says nothing"],
)
async def test_an_answer_that_is_not_the_range_asked_for_is_a_failure(said: bytes) -> None:
    assert isinstance(await failure_of(RawServer(said), "get_range"), StoreUnavailable)


async def test_an_object_that_breaks_off_is_a_failure_and_not_a_short_object() -> None:
    said = answer("200 OK", "data", MODIFIED).replace(b"content-length: 4", b"content-length: 8")
    error = await failure_of(RawServer(said, breaks=True), "get")

    assert isinstance(error, StoreUnavailable)
