"""Read sessions, as S2S frames and as server-sent events."""

import json
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
import zstandard
from trio.testing import MockClock, wait_all_tasks_blocked

from s2lite.codec import s2_pb2
from s2lite.model.limits import MAX_BATCH_BYTES, MAX_FRAME_LENGTH
from tests.api.frames import append_message, parse_frames
from tests.fakes.asgi_client import AsgiClient, Exchange

RECORDS = "/v1/streams/s/records"
S2S = {"content_type": "s2s/proto"}
SSE = {"accept": "text/event-stream"}
UNBUFFERED = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}


async def append(client: AsgiClient, *bodies: bytes, stamped: int | None = None) -> None:
    timestamps = [] if stamped is None else [stamped] * len(bodies)
    message = append_message(*bodies, timestamps=timestamps)
    reply = await client.request("POST", RECORDS, message, content_type="application/protobuf")
    assert reply.status == 200


async def batches(client: AsgiClient, query: str, **headers: str) -> list[s2_pb2.ReadBatch]:
    """Read a session that ends by itself."""
    reply = await client.request("GET", f"{RECORDS}?{query}", **S2S, **headers)
    assert reply.status == 200
    return [frame.batch for frame in parse_frames(reply.body)]


def bodies(batch: s2_pb2.ReadBatch) -> list[bytes]:
    return [record.body for record in batch.records]


async def next_batch(exchange: Exchange) -> s2_pb2.ReadBatch:
    """Wait for the next frame."""
    (frame,) = parse_frames(await exchange.body())
    return frame.batch


async def next_records(exchange: Exchange) -> s2_pb2.ReadBatch:
    """Wait for the next frame that is no heartbeat."""
    while not (batch := await next_batch(exchange)).records:
        assert batch.HasField("tail")
    return batch


class TestS2S:
    async def test_the_head_tells_the_type_and_forbids_buffering(self, client: AsgiClient) -> None:
        async with client.exchange("GET", RECORDS, **S2S, accept_encoding="gzip") as exchange:
            await exchange.end()
            status, headers = await exchange.head()
        assert status == 200
        assert headers.items() >= {"content-type": "s2s/proto", **UNBUFFERED}.items()
        assert "content-encoding" not in headers
        assert "content-length" not in headers

    @pytest.mark.slow
    @pytest.mark.parametrize("records", [1, 2, 1000])
    async def test_tiny_headers_that_double_in_size_are_cut_into_frames_that_fit(
        self, client: AsgiClient, records: int
    ) -> None:
        await append(client, b"first")
        message = s2_pb2.AppendInput()
        room = MAX_BATCH_BYTES - 8 * records
        for index in range(records):
            record = message.records.add()
            for _ in range(room // 4 // records):
                header = record.headers.add()
                header.name, header.value = b"n", b"v"
            record.timestamp = index
        body = message.SerializeToString()
        assert len(body) > 2 * 1024 * 1024 - 50_000
        reply = await client.request("POST", RECORDS, body, content_type="application/protobuf")
        assert reply.status == 200
        reply = await client.request("GET", f"{RECORDS}?seq_num=0&wait=0", **S2S)
        frames = parse_frames(reply.body)
        assert max(1 + len(frame.payload) for frame in frames) <= MAX_FRAME_LENGTH
        seq_nums = [record.seq_num for frame in frames for record in frame.batch.records]
        assert seq_nums == list(range(1 + records))

    @pytest.mark.slow
    async def test_a_follower_gets_the_tail_of_a_batch_that_fills_a_frame_by_itself(
        self, client: AsgiClient
    ) -> None:
        message = s2_pb2.AppendInput()
        record = message.records.add()
        for _ in range(262_142):
            header = record.headers.add()
            header.name, header.value = b"n", b"v"
        async with client.exchange("GET", f"{RECORDS}?wait=5", **S2S) as exchange:
            await exchange.end()
            await exchange.head()
            await next_batch(exchange)
            body = message.SerializeToString()
            reply = await client.request("POST", RECORDS, body, content_type="application/protobuf")
            assert reply.status == 200
            records, tail = parse_frames(await exchange.body())
        assert 1 + len(records.payload) <= MAX_FRAME_LENGTH
        assert len(records.batch.records) == 1
        assert not records.batch.HasField("tail")
        assert (len(tail.batch.records), tail.batch.tail.seq_num) == (0, 1)

    async def test_a_head_request_gets_the_head_alone(self, client: AsgiClient) -> None:
        reply = await client.request("HEAD", RECORDS, **S2S)
        assert (reply.status, reply.body) == (200, b"")

    async def test_without_waiting_it_ends_at_the_tail(self, client: AsgiClient) -> None:
        await append(client, b"a", b"b")
        (batch,) = await batches(client, "seq_num=0&wait=0")
        assert bodies(batch) == [b"a", b"b"]
        assert not batch.HasField("tail")
        assert await batches(client, "wait=0") == []

    async def test_at_the_tail_it_begins_with_a_heartbeat_and_goes_on_live(
        self, client: AsgiClient
    ) -> None:
        async with client.exchange("GET", RECORDS, **S2S) as exchange:
            await exchange.end()
            await exchange.head()
            assert await exchange.body() == bytes.fromhex("0000030012 00")
            await append(client, b"live")
            batch = await next_records(exchange)
        assert (bodies(batch), batch.tail.seq_num) == ([b"live"], 1)

    async def test_heartbeats_come_5_to_15_seconds_apart(
        self, client: AsgiClient, autojump_clock: MockClock
    ) -> None:
        async with client.exchange("GET", RECORDS, **S2S) as exchange:
            await exchange.end()
            await exchange.head()
            times = []
            for _ in range(4):
                assert (await next_batch(exchange)).HasField("tail")
                times.append(trio.current_time())
        gaps = [after - before for before, after in pairwise(times)]
        assert all(5 <= gap < 15.1 for gap in gaps)

    async def test_waiting_bounds_the_pause_between_records(
        self, client: AsgiClient, autojump_clock: MockClock
    ) -> None:
        async with client.exchange("GET", RECORDS + "?wait=3", **S2S) as exchange:
            await exchange.end()
            await exchange.head()
            await trio.sleep(2)
            await append(client, b"live")
            assert bodies(await next_records(exchange)) == [b"live"]
            started = trio.current_time()
            assert await exchange.rest() == b""
        assert 2.9 < trio.current_time() - started < 4

    async def test_limits_are_totals_across_live_batches(self, client: AsgiClient) -> None:
        await append(client, b"old")
        target = RECORDS + "?seq_num=0&count=3&wait=60"
        async with client.exchange("GET", target, **S2S) as exchange:
            await exchange.end()
            await exchange.head()
            assert bodies(await next_records(exchange)) == [b"old"]
            await append(client, b"1", b"2", b"3")
            batch = await next_records(exchange)
            assert await exchange.rest() == b""
        assert (bodies(batch), batch.tail.seq_num) == ([b"1", b"2"], 4)

    async def test_until_ends_it(self, client: AsgiClient) -> None:
        await append(client, b"a", stamped=1000)
        await append(client, b"b", stamped=2000)
        (batch,) = await batches(client, "seq_num=0&until=2000")
        assert bodies(batch) == [b"a"]

    @pytest.mark.parametrize(
        "query", ["seq_num=10", "count=10", "until=99", "tail_offset=0&bytes=9"]
    )
    @pytest.mark.parametrize("kind", [S2S, SSE])
    async def test_past_the_tail_it_is_an_ordinary_416(
        self, client: AsgiClient, query: str, kind: dict[str, str]
    ) -> None:
        await append(client, b"a", stamped=1)
        reply = await client.request("GET", f"{RECORDS}?{query}", **kind)
        assert (reply.status, reply.json()["tail"]["seq_num"]) == (416, 1)

    async def test_past_the_tail_with_clamp_it_stays_open(self, client: AsgiClient) -> None:
        target = RECORDS + "?seq_num=10&clamp=true"
        async with client.exchange("GET", target, **S2S) as exchange:
            await exchange.end()
            assert (await exchange.head())[0] == 200
            assert (await next_batch(exchange)).tail.seq_num == 0

    async def test_catching_up_is_cut_into_batches_of_1000(self, client: AsgiClient) -> None:
        for _ in range(5):
            await append(client, *[b"x"] * 500)
        counts = [len(batch.records) for batch in await batches(client, "seq_num=0&wait=0")]
        assert sum(counts) == 2500
        assert max(counts) <= 1000

    async def test_large_frames_are_compressed_as_accepted(self, client: AsgiClient) -> None:
        await append(client, b"x" * 20480)
        target = RECORDS + "?seq_num=0&wait=0"
        reply = await client.request("GET", target, **S2S, accept_encoding="gzip;q=0.8, ZSTD")
        (frame,) = parse_frames(reply.body)
        assert frame.flag == 0x20
        message = zstandard.ZstdDecompressor().decompressobj().decompress(frame.payload)
        assert bodies(s2_pb2.ReadBatch.FromString(message)) == [b"x" * 20480]
        assert reply.header("content-encoding") is None

    async def test_a_client_that_goes_away_ends_it(self, client: AsgiClient) -> None:
        async with client.exchange("GET", RECORDS, **S2S) as exchange:
            await exchange.end()
            await exchange.head()
            await next_batch(exchange)
            await exchange.disconnect()
            with pytest.raises(trio.EndOfChannel):
                await exchange.event()

    async def test_a_client_that_stalls_loses_nothing(self, client: AsgiClient) -> None:
        async with client.exchange("GET", RECORDS, **S2S) as exchange:
            await exchange.end()
            await exchange.head()
            await next_batch(exchange)
            for number in range(100):
                await append(client, b"%d" % number)
            await wait_all_tasks_blocked()
            seen: list[bytes] = []
            while len(seen) < 100:
                seen += bodies(await next_records(exchange))
        assert seen == [b"%d" % number for number in range(100)]

    async def test_a_stream_that_is_deleted_ends_it_with_a_terminal_frame(
        self, client: AsgiClient
    ) -> None:
        async with client.exchange("GET", RECORDS, **S2S) as exchange:
            await exchange.end()
            await exchange.head()
            await next_batch(exchange)
            assert (await client.request("DELETE", "/v1/streams/s")).status == 202
            frames = parse_frames(await exchange.rest())
        *others, last = frames
        status, body = last.terminal
        assert (status, body["code"]) == (503, "unavailable")
        assert [bodies(frame.batch) for frame in others if frame.batch.records] == [[b"\xff" * 8]]


@attrs.frozen
class SentEvent:
    """A server-sent event as a browser sees it."""

    name: str | None
    event_id: str | None
    data: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


def parse_event(text: str) -> SentEvent:
    """Parse one event, and check that its fields are in order, one line each."""
    fields = [line.partition(": ")[::2] for line in text.split("\n")]
    assert [name for name, _ in fields] in (["data"], ["event", "data"], ["event", "id", "data"])
    named = dict(fields)
    return SentEvent(named.get("event"), named.get("id"), named["data"])


async def all_events(client: AsgiClient, query: str, **headers: str) -> list[SentEvent]:
    """Read a session that ends by itself."""
    reply = await client.request("GET", f"{RECORDS}?{query}", **SSE, **headers)
    assert reply.status == 200
    return [parse_event(text) for text in reply.body.decode().split("\n\n")[:-1]]


DONE = SentEvent(None, None, "[DONE]")


class TestSse:
    async def test_the_head_tells_the_type_and_forbids_buffering(self, client: AsgiClient) -> None:
        await append(client, b"x" * 5000)
        target = RECORDS + "?seq_num=0&wait=0"
        reply = await client.request("GET", target, **SSE, accept_encoding="gzip")
        assert reply.header("content-type") == "text/event-stream"
        for name, value in UNBUFFERED.items():
            assert reply.header(name) == value
        assert reply.header("content-encoding") is None
        assert reply.body.startswith(b"event: batch\n")

    async def test_a_batch_has_an_id_and_the_end_is_told(self, client: AsgiClient) -> None:
        await append(client, b"hi", stamped=7)
        batch, done = await all_events(client, "seq_num=0&wait=0")
        assert (batch.name, batch.event_id) == ("batch", "0,1,10")
        assert batch.data == '{"records":[{"seq_num":0,"timestamp":7,"body":"hi"}]}'
        assert done == DONE

    async def test_without_records_the_end_is_all(self, client: AsgiClient) -> None:
        assert await all_events(client, "wait=0") == [DONE]

    async def test_ids_count_what_the_connection_has_delivered(self, client: AsgiClient) -> None:
        async with client.exchange("GET", RECORDS + "?wait=60&count=2", **SSE) as exchange:
            await exchange.end()
            await exchange.head()
            ping = parse_event((await exchange.body()).decode().removesuffix("\n\n"))
            assert ping.name == "ping"
            assert ping.json["tail"] == {"seq_num": 0, "timestamp": 0}
            assert ping.json["timestamp"] > 0
            await append(client, b"hi")
            first = parse_event((await exchange.body()).decode().removesuffix("\n\n"))
            await append(client, b"hi")
            second = parse_event((await exchange.body()).decode().removesuffix("\n\n"))
            assert await exchange.rest() == b"data: [DONE]\n\n"
        assert (first.event_id, second.event_id) == ("0,1,10", "1,2,20")
        assert first.json["tail"]["seq_num"] == 1

    async def test_it_goes_on_behind_the_last_event(self, client: AsgiClient) -> None:
        await append(client, b"a", b"b", b"c")
        batch, done = await all_events(client, "seq_num=0&count=2", last_event_id="0,1,10")
        assert [record["seq_num"] for record in batch.json["records"]] == [1]
        assert (batch.event_id, done) == ("1,1,9", DONE)

    async def test_going_on_at_the_tail_of_a_bounded_read_is_416(self, client: AsgiClient) -> None:
        await append(client, b"a")
        target = RECORDS + "?seq_num=0&count=2"
        reply = await client.request("GET", target, **SSE, last_event_id="0,1,9")
        assert (reply.status, reply.json()["tail"]["seq_num"]) == (416, 1)

    @pytest.mark.parametrize("event_id", ["1", "a,b,c", "1,2,3,4", "1, 2,3"])
    async def test_a_bad_event_id_is_a_bad_header(self, client: AsgiClient, event_id: str) -> None:
        reply = await client.request("GET", RECORDS, **SSE, last_event_id=event_id)
        assert (reply.status, reply.code) == (400, "bad_header")

    async def test_data_may_be_base64(self, client: AsgiClient) -> None:
        await append(client, b"\xff")
        batch, _ = await all_events(client, "seq_num=0&wait=0", s2_format="base64")
        assert batch.json["records"][0]["body"] == "/w=="

    async def test_a_stream_that_is_deleted_ends_it_with_an_error(self, client: AsgiClient) -> None:
        async with client.exchange("GET", RECORDS, **SSE) as exchange:
            await exchange.end()
            await exchange.head()
            await exchange.body()
            assert (await client.request("DELETE", "/v1/streams/s")).status == 202
            text = (await exchange.rest()).decode()
        *_, last = [parse_event(part) for part in text.split("\n\n")[:-1]]
        assert (last.name, last.json["code"]) == ("error", "unavailable")
