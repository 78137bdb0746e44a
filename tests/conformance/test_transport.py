"""Many sessions, many requests, and clients that do not read: what one of them costs the others."""

import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random

import httpx
import pytest
import trio
from prometheus_client import CollectorRegistry

from actors.clock import SystemClock
from s2lite.api.app import build_app
from s2lite.codec import s2_pb2
from s2lite.serving.listener import serve
from s2lite.serving.settings import ServingSettings
from s2lite.settings import Settings
from tests.api.frames import Frame, append_frame, append_message, parse_frames
from tests.conformance.conftest import StartServer
from tests.conformance.server_process import Fleet, ServerProcess
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.backend import running_backend
from tests.fakes.object_store import FakeObjectStore
from tests.serving.clients import Answer, H1Client, H2Client, frame

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

KIB, MIB = 1024, 1024 * 1024
BASIN = "transport-basin"
RECORDS = "/v1/streams/s/records"
TAIL = f"{RECORDS}/tail"
HEADERS = [(b"s2-basin", BASIN.encode()), (b"content-type", b"s2s/proto")]
PROTOBUF = {"content-type": "application/protobuf"}
PATIENCE_SECONDS = 60

REQUESTS = int(os.environ.get("S2LITE_TEST_REQUESTS", "5000"))
"""How many go over one connection; 100000 take some minutes."""


def append(http: httpx.Client, *bodies: bytes) -> None:
    assert http.post(RECORDS, content=append_message(*bodies), headers=PROTOBUF).status_code == 200


@pytest.fixture(scope="module")
def shared_server(fleet: Fleet) -> ServerProcess:
    """A server for all tests here but the one that ends it: their memory is looked at."""
    return fleet.start()


@pytest.fixture
def server(shared_server: ServerProcess) -> ServerProcess:
    return shared_server


@pytest.fixture
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    """A client of the stream `s`, which is new."""
    with httpx.Client(base_url=server.url, timeout=20, headers={"s2-basin": BASIN}) as client:
        client.post("/v1/basins", json={"basin": BASIN})
        answer = client.post("/v1/streams", json={"stream": "s"})
        while answer.status_code == 409:  # the last test's is being deleted
            answer = client.post("/v1/streams", json={"stream": "s"})
        assert answer.status_code == 201
        yield client
        if server.alive:
            assert client.delete("/v1/streams/s").status_code == 202


def resident_bytes(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * KIB


def gauge(http: httpx.Client, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", http.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


async def in_thread(work: partial[None]) -> None:
    await trio.to_thread.run_sync(work)


def records_in(answer: Answer) -> list[int]:
    """The seq_nums in the whole frames that have arrived; they are taken."""
    data, whole = bytes(answer.body), 0
    while len(data) >= whole + 3:
        end = whole + 3 + int.from_bytes(data[whole : whole + 3], "big")
        if end > len(data):
            break
        whole = end
    del answer.body[:whole]
    return [record.seq_num for each in parse_frames(data[:whole]) for record in records_of(each)]


def records_of(each: Frame) -> list[s2_pb2.SequencedRecord]:
    return list(each.batch.records)


# --- sessions that wait -------------------------------------------------------------------------


@asynccontextmanager
async def a_server_in_process(store: FakeObjectStore, settings: Settings) -> AsyncIterator[int]:
    """The port of a server whose store is the test's."""
    shutdown = trio.Event()
    async with running_backend(store, settings=settings) as backend, trio.open_nursery() as nursery:
        app = build_app(backend, clock=SystemClock(), registry=CollectorRegistry())
        client = AsgiClient(app, {"s2-basin": BASIN})
        await client.request_json("POST", "/v1/basins", {"basin": BASIN})
        await client.request_json("POST", "/v1/streams", {"stream": "s"})
        await client.request_json("POST", "/v1/streams", {"stream": "other"})
        listening = ServingSettings(host="127.0.0.1", port=0, grace_seconds=1)
        addresses = await nursery.start(partial(serve, app, listening, shutdown=shutdown))
        yield addresses[0].port
        shutdown.set()


async def test_an_append_session_without_room_stops_no_other_session_of_its_connection() -> None:
    store = FakeObjectStore(Random(1))
    async with a_server_in_process(store, Settings(append_inflight_bytes=MIB)) as port:
        client = await H2Client.connect(port, window_bytes=10 * MIB)
        filling = await client.request(RECORDS, method="POST", headers=HEADERS, end=False)
        for _ in range(10):
            await client.send(filling, append_frame(bytes(500 * KIB)))
        await client.send(filling, b"", end=True)
        await client.answer(filling)

        writes = store.hold("wal/")
        blocked = await client.request(RECORDS, method="POST", headers=HEADERS, end=False)
        for _ in range(4):  # two megabytes are not read: more than the window of a stream
            await client.send(blocked, append_frame(bytes(500 * KIB)))
        await writes.wait_held()

        for _ in range(3):
            reading = await client.request(f"{RECORDS}?seq_num=0&wait=0", headers=HEADERS)
            assert records_in(await client.answer(reading)) == list(range(10))
            other = await client.request("/v1/streams", headers=HEADERS[:1])
            assert (await client.answer(other)).status == 200
        assert client.answers[blocked].body == b""
        writes.release()
        await client.send(blocked, append_frame(b"last"), end=True)
        acks = [each.ack for each in parse_frames(bytes((await client.answer(blocked)).body))]
        assert acks == [(seq_num, seq_num + 1) for seq_num in range(10, 15)]
        await client.aclose()


async def test_a_session_that_nobody_reads_stops_no_other_session_of_its_connection(
    server: ServerProcess, http: httpx.Client
) -> None:
    for _ in range(20):
        append(http, bytes(900_000))
    client = await H2Client.connect(server.port, window_bytes=MIB)
    client.returns_credit = False
    client.h2.increment_flow_control_window(100 * MIB)  # the connection has room all the time
    stalled = [await client.request(f"{RECORDS}?seq_num=0", headers=HEADERS) for _ in range(3)]
    await client.until(lambda: all(len(client.answers[each].body) == MIB for each in stalled))
    client.returns_credit = True
    writing = await client.request(RECORDS, method="POST", headers=HEADERS, end=False)
    for _ in range(200):
        await client.send(writing, append_frame(bytes(10_000)))
    await client.send(writing, b"", end=True)
    acks = parse_frames(bytes((await client.answer(writing)).body))
    assert [each.ack for each in acks] == [(each, each + 1) for each in range(20, 220)]
    for each in stalled:  # and now it is read on
        client.h2.increment_flow_control_window(30 * MIB, each)
    await client.flush()
    for each in stalled:
        answer = client.answers[each]
        seen: list[int] = []
        while len(seen) < 220:
            seen += records_in(answer)
            if len(seen) < 220:
                assert await client.read_once()
        assert seen == list(range(220))
    await client.aclose()


async def test_goodbye_leaves_sessions_as_they_are(
    server: ServerProcess, http: httpx.Client
) -> None:
    client = await H2Client.connect(server.port, window_bytes=MIB)
    writing = await client.request(RECORDS, method="POST", headers=HEADERS, end=False)
    reading = await client.request(f"{RECORDS}?seq_num=0&count=20&wait=30", headers=HEADERS)
    await client.send(writing, append_frame(b"before"))
    await client.until(lambda: len(client.answers[writing].body) > 0)
    await client.stream.send_all(frame(7, 0, 0, bytes(8)))
    for _ in range(19):
        await client.send(writing, append_frame(b"after"))
    assert records_in(await client.answer(reading)) == list(range(20))
    await client.send(writing, b"", end=True)
    acks = parse_frames(bytes((await client.answer(writing)).body))
    assert [each.ack for each in acks] == [(each, each + 1) for each in range(20)]
    await client.until_eof()
    await client.aclose()


# --- many at once -------------------------------------------------------------------------------


async def test_a_thousand_read_sessions_on_ten_connections_get_every_record(
    server: ServerProcess, http: httpx.Client
) -> None:
    stored, live = 10, 10
    for index in range(stored):
        append(http, b"%d" % index)
    following = trio.Event()
    waiting = 10

    async def read(connection: H2Client) -> None:
        nonlocal waiting
        query = f"?seq_num=0&count={stored + live}&wait=30"
        numbers = [await connection.request(RECORDS + query, headers=HEADERS) for _ in range(100)]
        seen: dict[int, list[int]] = {number: [] for number in numbers}
        while not all(connection.answers[number].over for number in numbers):
            assert await connection.read_once()
            for number in numbers:
                seen[number] += records_in(connection.answers[number])
            if waiting and all(len(each) >= stored for each in seen.values()):
                waiting -= 1
                if not waiting:
                    following.set()
        assert all(each == list(range(stored + live)) for each in seen.values())
        assert all(connection.answers[number].reset is None for number in numbers)
        await connection.aclose()

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(read, await H2Client.connect(server.port, window_bytes=MIB))
            await following.wait()
            for index in range(live):
                await in_thread(partial(append, http, b"live %d" % index))


async def test_a_thousand_followers_get_every_event_and_memory_is_bounded(
    server: ServerProcess, http: httpx.Client
) -> None:
    events = 10
    before = resident_bytes(server)
    request = (
        f"GET {RECORDS}?seq_num=0 HTTP/1.1\r\nhost: x\r\ns2-basin: {BASIN}\r\n"
        "accept: text/event-stream\r\n\r\n"
    ).encode()
    following = 0
    all_follow = trio.Event()

    async def follow() -> None:
        nonlocal following
        client = await H1Client.connect(server.port)
        await client.send(request)
        await client.read_until(b"event: ping")
        following += 1
        if following == 1000:
            all_follow.set()
        for index in range(events):
            await client.read_until(b'{"records":[{"seq_num":%d,' % index)
        # Nothing came in between: each of them is the first that was left.
        await client.aclose()

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(follow)
            await all_follow.wait()
            for _ in range(events):
                await in_thread(partial(append, http, bytes(1000)))
                assert gauge(http, "s2lite_follower_backlog_bytes") <= 1000 * 25 * 1100
            grown = resident_bytes(server) - before
    assert grown < 1000 * 100 * KIB
    assert gauge(http, "s2lite_follower_backlog_bytes") == 0
    assert gauge(http, "s2lite_request_buffer_bytes") == 0


async def test_followers_that_do_not_read_hold_no_more_than_their_backlog(
    server: ServerProcess, http: httpx.Client
) -> None:
    followers, batches = 8, 16
    clients = [await H2Client.connect(server.port, window_bytes=KIB * 64) for _ in range(followers)]
    numbers = []
    for client in clients:
        numbers.append(await client.request(f"{RECORDS}?seq_num=0", headers=HEADERS))
        await client.until(lambda c=client, n=numbers[-1]: len(c.answers[n].body) > 0)  # type: ignore[misc]  # bound early on purpose
    before = resident_bytes(server)
    for _ in range(batches):
        await in_thread(partial(append, http, bytes(MIB - 8)))
        assert gauge(http, "s2lite_follower_backlog_bytes") <= followers * 4 * MIB
    # The batches themselves, and a backlog for each follower: without a bound it were all of them.
    assert resident_bytes(server) - before < (2 * batches + 6 * followers) * MIB
    for client, number in zip(clients, numbers, strict=True):
        client.h2.increment_flow_control_window(30 * MIB)
        client.h2.increment_flow_control_window(30 * MIB, number)
        await client.flush()
        seen: list[int] = []
        while len(seen) < batches:
            assert await client.read_once()
            seen += records_in(client.answers[number])
        assert seen == list(range(batches))
        await client.aclose()


# --- many one after the other -------------------------------------------------------------------


async def test_one_connection_serves_any_number_of_requests_by_http1(
    server: ServerProcess, http: httpx.Client
) -> None:
    client = await H1Client.connect(server.port)
    request = f"GET {TAIL} HTTP/1.1\r\nhost: x\r\ns2-basin: {BASIN}\r\n\r\n".encode()
    before = 0
    for turn in range(REQUESTS // 50):
        await client.send(request * 50)  # pipelined
        for _ in range(50):
            assert await client.read_response() == b'{"tail":{"seq_num":0,"timestamp":0}}'
        before = before or resident_bytes(server) * (turn >= 10)
    assert resident_bytes(server) - before < 20 * MIB
    await client.aclose()


async def test_one_connection_serves_any_number_of_requests_by_http2(
    server: ServerProcess, http: httpx.Client
) -> None:
    client = await H2Client.connect(server.port, window_bytes=10 * MIB)
    before = 0
    for turn in range(REQUESTS // 50):
        numbers = [await client.request(TAIL, headers=HEADERS[:1]) for _ in range(50)]
        for number in numbers:
            assert (await client.answer(number)).status == 200
            del client.answers[number]
        client.events.clear()
        before = before or resident_bytes(server) * (turn >= 50)  # it remembers 1024 streams
    assert resident_bytes(server) - before < 20 * MIB
    await client.aclose()


# --- answers before the end of the request ------------------------------------------------------


async def test_a_body_over_the_limit_is_answered_while_it_is_sent_by_http1(
    server: ServerProcess, http: httpx.Client
) -> None:
    client = await H1Client.connect(server.port)
    await client.send(
        f"POST {RECORDS} HTTP/1.1\r\nhost: x\r\ns2-basin: {BASIN}\r\n"
        "content-type: application/protobuf\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    )
    for _ in range(40):  # reads nothing before it has sent everything
        await client.send(b"10000\r\n" + bytes(0x10000) + b"\r\n")
    await client.send(b"0\r\n\r\n")
    assert b'"code":"bad_proto"' in await client.read_response()
    await client.send(f"GET {TAIL} HTTP/1.1\r\nhost: x\r\ns2-basin: {BASIN}\r\n\r\n".encode())
    assert b"tail" in await client.read_response()
    await client.aclose()


async def test_a_body_over_the_limit_is_answered_while_it_is_sent_by_http2(
    server: ServerProcess, http: httpx.Client
) -> None:
    client = await H2Client.connect(server.port, window_bytes=MIB)
    headers = [HEADERS[0], (b"content-type", b"application/protobuf")]
    for _ in range(10):
        number = await client.request(RECORDS, method="POST", headers=headers, end=False)
        answer = client.answers[number]
        await client.send(number, bytes(2 * MIB))
        await client.send(number, b"x")
        await client.until(lambda answer=answer: answer.over)  # type: ignore[misc]  # bound early on purpose
        assert answer.status == 400
        assert b'"code":"bad_proto"' in answer.body
    assert (await client.answer(await client.request(TAIL, headers=HEADERS[:1]))).status == 200
    await client.aclose()


# --- shutdown -----------------------------------------------------------------------------------


class TestShutdown:
    @pytest.fixture
    def server(self, start_server: StartServer) -> ServerProcess:
        return start_server()

    async def test_a_client_that_stops_reading_does_not_keep_the_server_from_ending(
        self, server: ServerProcess, http: httpx.Client
    ) -> None:
        for _ in range(20):
            append(http, bytes(900_000))
        h1 = await H1Client.connect(server.port)
        await h1.send(
            f"GET {RECORDS}?seq_num=0 HTTP/1.1\r\nhost: x\r\ns2-basin: {BASIN}\r\n"
            "content-type: s2s/proto\r\n\r\n".encode()
        )
        h2 = await H2Client.connect(server.port, window_bytes=2**30)
        await h2.request(f"{RECORDS}?seq_num=0", headers=HEADERS)
        writing = await h2.request(RECORDS, method="POST", headers=HEADERS, end=False)
        await h2.stream.send_all(frame(0, 0, writing, append_frame(b"unread")))
        await h1.read_until(b"\r\n\r\n")
        began = trio.current_time()
        server.signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(server.wait) == 0
        assert trio.current_time() - began < 12
        await h1.aclose()
        await h2.aclose()
