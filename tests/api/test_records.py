"""Appends, reads and tail checks that are single requests."""

import base64
import gzip
import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from s2lite.codec import s2_pb2
from tests.api.frames import append_message, command_message
from tests.fakes.asgi_client import AsgiClient, Reply

RECORDS = "/v1/streams/s/records"
TAIL = RECORDS + "/tail"
MISSING = "/v1/streams/missing/records"
PROTOBUF = "application/protobuf"


async def append(client: AsgiClient, *bodies: str, path: str = RECORDS, **extra: object) -> Reply:
    records = [{"body": body} for body in bodies]
    return await client.request_json("POST", path, {"records": records, **extra})


async def append_stamped(client: AsgiClient, *timestamps: int) -> None:
    """Append records with these timestamps, however far in the past."""
    records = [{"timestamp": timestamp} for timestamp in timestamps]
    assert (await client.request_json("POST", RECORDS, {"records": records})).status == 200


async def append_protobuf(client: AsgiClient, message: bytes, **headers: str) -> Reply:
    return await client.request("POST", RECORDS, message, content_type=PROTOBUF, **headers)


async def read(client: AsgiClient, query: str = "seq_num=0", **headers: str) -> Reply:
    return await client.request("GET", f"{RECORDS}?{query}", **headers)


async def tail_of(client: AsgiClient, path: str = TAIL) -> Any:
    return (await client.request("GET", path)).json()["tail"]["seq_num"]


def seq_nums(reply: Reply) -> list[int]:
    assert reply.status == 200
    return [record["seq_num"] for record in reply.json()["records"]]


class TestOrderOfChecks:
    """Each request is wrong in one more way than the one below it, and says the first."""

    @pytest.mark.parametrize(
        ("path", "headers", "body", "status", "code"),
        [
            ("%FF", {"s2_basin": "B", "s2_encryption_key": ""}, "x", 400, "bad_header"),
            ("%FF", {"s2_encryption_key": ""}, "x", 400, "bad_path"),
            ("missing", {"s2_encryption_key": " ", "s2_format": "x"}, "x", 400, "bad_header"),
            ("missing", {"s2_stream_config": "{", "s2_format": "x"}, "x", 400, "bad_header"),
            ("missing", {"s2_format": "x"}, "x", 400, "bad_header"),
            ("missing", {}, "x", 400, "bad_json"),
            ("missing", {"content_type": "text/plain"}, '{"records":[]}', 400, "bad_json"),
            ("missing", {"content_type": PROTOBUF}, "x", 400, "bad_proto"),
            ("missing", {"content_type": PROTOBUF}, "", 422, "invalid"),
            ("missing", {}, '{"records":[]}', 422, "invalid"),
            ("missing", {}, '{"records":[{}]}', 404, "stream_not_found"),
        ],
    )
    async def test_of_an_append(
        self,
        client: AsgiClient,
        path: str,
        headers: dict[str, str],
        body: str,
        status: int,
        code: str,
    ) -> None:
        headers.setdefault("content_type", "application/json")
        reply = await client.request("POST", f"/v1/streams/{path}/records", body, **headers)
        assert (reply.status, reply.code) == (status, code)
        assert len(reply.pieces) == 1

    @pytest.mark.parametrize(
        ("target", "headers", "status", "code"),
        [
            ("%FF/records?count=", {"s2_basin": "B"}, 400, "bad_header"),
            ("%FF/records?count=", {"s2_encryption_key": ""}, 400, "bad_path"),
            ("missing/records?count=", {"s2_encryption_key": ""}, 400, "bad_query"),
            ("missing/records?seq_num=0&timestamp=0", {"s2_format": "x"}, 400, "bad_header"),
            (
                "missing/records?seq_num=0&timestamp=0",
                {"s2_format": "x", "accept": PROTOBUF},
                400,
                "bad_header",
            ),
            (
                "missing/records?seq_num=0&timestamp=0",
                {"s2_format": "x", "content_type": "s2s/proto"},
                422,
                "invalid",
            ),
            (
                "missing/records?seq_num=0&timestamp=0",
                {"last_event_id": "1", "accept": "text/event-stream"},
                400,
                "bad_header",
            ),
            ("missing/records?seq_num=0&timestamp=0", {"last_event_id": "1"}, 422, "invalid"),
            ("missing/records?timestamp=5&until=5", {}, 422, "invalid"),
            ("missing/records?seq_num=0&until=0", {}, 404, "stream_not_found"),
            ("missing/records", {"content_type": "s2s/proto"}, 404, "stream_not_found"),
            ("missing/records", {"accept": "text/event-stream"}, 404, "stream_not_found"),
            ("missing/records/tail", {"s2_encryption_key": ""}, 404, "stream_not_found"),
            ("missing/records/tail", {"s2_basin": "other-basin"}, 404, "basin_not_found"),
        ],
    )
    async def test_of_a_read(
        self, client: AsgiClient, target: str, headers: dict[str, str], status: int, code: str
    ) -> None:
        reply = await client.request("GET", f"/v1/streams/{target}", **headers)
        assert (reply.status, reply.code) == (status, code)
        assert len(reply.pieces) == 1

    async def test_without_a_basin_nothing_else_matters(self, bare: AsgiClient) -> None:
        for method, path in (("POST", RECORDS), ("GET", RECORDS), ("GET", TAIL)):
            assert (await bare.request(method, path)).code == "bad_header"

    async def test_a_missing_basin_is_told(self, client: AsgiClient) -> None:
        reply = await client.request_json(
            "POST", RECORDS, {"records": [{}]}, s2_basin="other-basin"
        )
        assert (reply.status, reply.code) == (404, "basin_not_found")

    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_looks_at_the_shape_of_a_key_even_if_no_key_is_needed(
        self, client: AsgiClient, method: str
    ) -> None:
        reply = await client.request_json(
            method, MISSING, {"records": [{}]}, s2_encryption_key="x" * 45
        )
        assert (reply.status, reply.code) == (400, "bad_header")


class TestAppend:
    async def test_is_acked_with_its_positions(self, client: AsgiClient) -> None:
        ack = (await append(client, "lorem")).json()
        assert ack["start"]["seq_num"] == 0
        assert ack["end"] == {"seq_num": 1, "timestamp": ack["start"]["timestamp"]}
        assert ack["tail"] == ack["end"]
        assert [(await append(client, *"cd")).json()[at]["seq_num"] for at in ("start",)] == [1]
        assert await tail_of(client) == 3

    @pytest.mark.parametrize(
        ("accept", "content_type"),
        [
            (None, "application/json"),
            ("*/*", "application/json"),
            ("text/html, application/protobuf", "application/json"),
            ("not/a/mime, application/protobuf", "application/json"),
            ("application/x-protobuf", "application/protobuf"),
        ],
    )
    async def test_in_protobuf_is_acked_as_accept_says(
        self, client: AsgiClient, accept: str | None, content_type: str
    ) -> None:
        headers = {"accept": accept} if accept else {}
        reply = await append_protobuf(client, append_message(b"hi"), **headers)
        assert (reply.status, reply.header("content-type")) == (200, content_type)
        if content_type == PROTOBUF:
            ack = s2_pb2.AppendAck.FromString(reply.body)
            assert (ack.HasField("start"), ack.end.seq_num, ack.tail.seq_num) == (True, 1, 1)
        else:
            assert reply.json()["end"]["seq_num"] == 1

    async def test_in_json_may_be_acked_in_protobuf(self, client: AsgiClient) -> None:
        reply = await client.request_json(
            "POST",
            RECORDS,
            {"records": [{}]},
            content_type="application/json; charset=utf-8",
            accept=PROTOBUF,
        )
        assert s2_pb2.AppendAck.FromString(reply.body).end.seq_num == 1

    async def test_in_base64_reads_back_raw(self, client: AsgiClient) -> None:
        records = [{"headers": [["aw==", "dg=="]], "body": "aGk="}]
        await client.request_json("POST", RECORDS, {"records": records}, s2_format="base64")
        (record,) = (await read(client)).json()["records"]
        assert (record["headers"], record["body"]) == ([["k", "v"]], "hi")

    async def test_in_base64_that_is_not_is_invalid(self, client: AsgiClient) -> None:
        body = {"records": [{"body": "aGk"}]}
        reply = await client.request_json("POST", RECORDS, body, s2_format="base64")
        assert (reply.status, reply.code) == (422, "invalid")

    async def test_in_protobuf_has_no_format_header(self, client: AsgiClient) -> None:
        reply = await append_protobuf(client, append_message(b"hi"), s2_format="bogus")
        assert reply.status == 200

    @pytest.mark.parametrize("content_type", ["", "text/plain", "text/event-stream"])
    async def test_of_another_content_type_is_bad_json(
        self, client: AsgiClient, content_type: str
    ) -> None:
        reply = await client.request("POST", RECORDS, '{"records":[{}]}', content_type=content_type)
        assert (reply.status, reply.code) == (400, "bad_json")

    async def test_over_2_mib_is_bad_in_its_own_format(self, client: AsgiClient) -> None:
        body = bytes(2 * 1024 * 1024 + 1)
        assert (await append_protobuf(client, body)).code == "bad_proto"
        reply = await client.request("POST", RECORDS, body, content_type="application/json")
        assert (reply.status, reply.code) == (400, "bad_json")

    async def test_may_be_compressed(self, client: AsgiClient) -> None:
        body = gzip.compress(append_message(b"hi" * 1000))
        assert (await append_protobuf(client, body, content_encoding="gzip")).status == 200
        assert (await append_protobuf(client, b"junk", content_encoding="zstd")).code == "bad_proto"

    async def test_with_the_wrong_next_seq_num_is_told_the_right_one(
        self, client: AsgiClient
    ) -> None:
        await append(client, "a")
        reply = await append(client, "b", match_seq_num=0)
        assert (reply.status, reply.body) == (412, b'{"seq_num_mismatch":1}')
        assert reply.header("content-type") == "application/json"
        assert (await append(client, "b", match_seq_num=1)).status == 200

    async def test_with_a_stale_fencing_token_is_told_the_one_in_force(
        self, client: AsgiClient
    ) -> None:
        await append_protobuf(client, command_message(b"fence", b"tok"))
        reply = await append(client, "b", fencing_token="other", match_seq_num=9)
        assert (reply.status, reply.body) == (412, b'{"fencing_token_mismatch":"tok"}')
        assert (await append(client, "b", fencing_token="tok")).status == 200
        assert (await append(client, "b")).status == 200

    async def test_of_a_client_that_goes_before_its_body_is_whole_does_nothing(
        self, client: AsgiClient
    ) -> None:
        async with client.exchange("POST", RECORDS, content_type="application/json") as exchange:
            await exchange.send(b'{"records":[{}]}')
            await exchange.disconnect()
            with pytest.raises(trio.EndOfChannel):
                await exchange.event()
        assert await tail_of(client) == 0

    async def test_that_is_concurrent_loses_nothing(self, client: AsgiClient) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(append, client, str(number))
        reply = await read(client)
        assert seq_nums(reply) == list(range(20))
        assert {record["body"] for record in reply.json()["records"]} == set(map(str, range(20)))


class TestRead:
    async def test_gives_records_within_limits(self, client: AsgiClient) -> None:
        await append(client, *"abc")
        assert seq_nums(await read(client)) == [0, 1, 2]
        assert seq_nums(await read(client, "seq_num=1&count=1&foo=1")) == [1]
        assert seq_nums(await read(client, "tail_offset=2")) == [1, 2]
        assert seq_nums(await read(client, "seq_num=0&bytes=18")) == [0, 1]
        assert seq_nums(await read(client, "seq_num=0&count=0")) == []
        assert "tail" not in (await read(client)).json()

    async def test_of_a_record_without_parts_shows_only_its_position(
        self, client: AsgiClient
    ) -> None:
        await append(client, "")
        (record,) = (await read(client)).json()["records"]
        assert set(record) == {"seq_num", "timestamp"}

    async def test_in_protobuf_is_a_read_batch(self, client: AsgiClient) -> None:
        await append(client, "hi")
        reply = await read(client, accept="application/x-protobuf")
        assert reply.header("content-type") == "application/protobuf"
        batch = s2_pb2.ReadBatch.FromString(reply.body)
        assert [record.body for record in batch.records] == [b"hi"]
        assert not batch.HasField("tail")

    async def test_in_base64_keeps_what_is_not_text(self, client: AsgiClient) -> None:
        await append_protobuf(client, append_message(b"\xff"))
        assert (await read(client)).json()["records"][0]["body"] == "\ufffd"
        encoded = (await read(client, s2_format="json-binsafe")).json()["records"][0]["body"]
        assert base64.b64decode(encoded) == b"\xff"

    async def test_in_another_format_is_a_bad_header(self, client: AsgiClient) -> None:
        assert (await read(client, s2_format="BASE64")).code == "bad_header"

    @pytest.mark.parametrize("query", ["", "seq_num=0", "tail_offset=0", "seq_num=9&clamp=true"])
    async def test_past_the_tail_is_416_with_the_tail(self, client: AsgiClient, query: str) -> None:
        reply = await read(client, query)
        assert (reply.status, reply.body) == (416, b'{"tail":{"seq_num":0,"timestamp":0}}')
        assert reply.header("content-type") == "application/json"

    @pytest.mark.parametrize(
        "query",
        ["seq_num=", "count=-1", "wait=1.5", "wait=4294967296", "clamp=1", "count=1&count=2"],
    )
    async def test_with_an_unparsable_parameter_is_a_bad_query(
        self, client: AsgiClient, query: str
    ) -> None:
        reply = await read(client, query)
        assert (reply.status, reply.code) == (400, "bad_query")

    async def test_by_timestamp(self, client: AsgiClient) -> None:
        await append_stamped(client, 1000, 2000, 3000)
        assert seq_nums(await read(client, "timestamp=1001")) == [1, 2]
        assert seq_nums(await read(client, "timestamp=1001&until=3000")) == [1]
        assert (await read(client, "timestamp=3001")).status == 416

    async def test_that_waits_gets_the_next_append_at_once(
        self, client: AsgiClient, autojump_clock: MockClock
    ) -> None:
        async with client.exchange("GET", f"{RECORDS}?wait=30") as exchange:
            await exchange.end()
            await trio.sleep(1)
            await append(client, "new")
            reply = await exchange.reply()
        assert seq_nums(reply) == [0]
        assert reply.json()["tail"]["seq_num"] == 1
        assert trio.current_time() - 1 < 5

    async def test_that_waits_in_vain_is_empty(
        self, client: AsgiClient, autojump_clock: MockClock
    ) -> None:
        started = trio.current_time()
        reply = await read(client, "seq_num=10&clamp=true&wait=1")
        assert (reply.status, reply.body) == (200, b'{"records":[]}')
        assert 1 <= trio.current_time() - started < 2
        assert (await read(client, "wait=1", accept=PROTOBUF)).body == b""

    async def test_that_waits_ends_when_the_client_goes(self, client: AsgiClient) -> None:
        async with client.exchange("GET", f"{RECORDS}?wait=30") as exchange:
            await exchange.end()
            await wait_all_tasks_blocked()
            await exchange.disconnect()
            with pytest.raises(trio.EndOfChannel):
                await exchange.event()

    async def test_that_is_large_is_compressed_for_who_asks(self, client: AsgiClient) -> None:
        await append(client, "x" * 4096)
        reply = await read(client, accept_encoding="gzip")
        assert reply.header("content-encoding") == "gzip"
        assert json.loads(gzip.decompress(reply.body))["records"][0]["body"] == "x" * 4096
        small = await read(client, "tail_offset=1&count=0", accept_encoding="gzip")
        assert small.header("content-encoding") is None


class TestCheckTail:
    async def test_starts_at_zero_and_moves_with_appends(self, client: AsgiClient) -> None:
        reply = await client.request("GET", TAIL, accept=PROTOBUF, content_type="s2s/proto")
        assert reply.body == b'{"tail":{"seq_num":0,"timestamp":0}}'
        ack = (await append(client, "a")).json()
        assert (await client.request("GET", TAIL)).json() == {"tail": ack["end"]}


WORKED_EXAMPLE = '{"retention_policy":{"infinite":{}},"timestamping":{"uncapped":true}}'


class TestAutoCreation:
    @pytest.fixture
    async def creating(self, client: AsgiClient) -> AsgiClient:
        """A client of a basin that creates streams on append and on read."""
        change = {
            "create_stream_on_append": True,
            "create_stream_on_read": True,
            "default_stream_config": {
                "retention_policy": {"age": 86400},
                "timestamping": {"mode": "arrival"},
            },
        }
        await client.request_json("PATCH", "/v1/basins/test-basin", change)
        return client

    @pytest.mark.parametrize(
        ("method", "headers"),
        [
            ("POST", {"content_type": "application/json"}),
            ("POST", {"content_type": PROTOBUF}),
            ("POST", {"content_type": "s2s/proto"}),
            ("GET", {}),
            ("GET", {"accept": "text/event-stream"}),
            ("GET", {"content_type": "s2s/proto"}),
        ],
    )
    async def test_lays_the_header_over_the_defaults_of_the_basin(
        self, creating: AsgiClient, method: str, headers: dict[str, str]
    ) -> None:
        json_body = headers.get("content_type") == "application/json"
        body = b'{"records":[{}]}' if json_body else append_message(b"")
        if headers.get("content_type") == "s2s/proto":
            body = b""
        await creating.request(
            method, MISSING + "?count=1", body, s2_stream_config=WORKED_EXAMPLE, **headers
        )
        assert (await creating.request("GET", "/v1/streams/missing")).json() == {
            "storage_class": "express",
            "retention_policy": {"infinite": {}},
            "timestamping": {"mode": "arrival", "uncapped": True},
            "delete_on_empty": {"min_age_secs": 0},
        }

    async def test_leaves_an_existing_stream_alone(self, creating: AsgiClient) -> None:
        before = (await creating.request("GET", "/v1/streams/s")).json()
        reply = await creating.request_json(
            "POST", RECORDS, {"records": [{}]}, s2_stream_config=WORKED_EXAMPLE
        )
        assert reply.status == 200
        assert (await creating.request("GET", "/v1/streams/s")).json() == before

    async def test_is_not_switched_on_by_the_header(self, client: AsgiClient) -> None:
        reply = await client.request_json(
            "POST", MISSING, {"records": [{}]}, s2_stream_config=WORKED_EXAMPLE
        )
        assert (reply.status, reply.code) == (404, "stream_not_found")

    @pytest.mark.parametrize(
        "config",
        ["{", "[]", '{"retention_policy":{"age":0}}', '{"timestamping":{"mode":"x"}}'],
    )
    @pytest.mark.parametrize("path", [RECORDS, MISSING])
    @pytest.mark.parametrize("content_type", ["application/json", "s2s/proto"])
    async def test_with_a_bad_header_does_nothing(
        self, creating: AsgiClient, path: str, content_type: str, config: str
    ) -> None:
        reply = await creating.request(
            "POST", path, b'{"records":[{}]}', content_type=content_type, s2_stream_config=config
        )
        assert (reply.status, reply.code) == (400, "bad_header")
        assert (await creating.request("GET", "/v1/streams/missing")).status == 404

    async def test_does_not_happen_for_a_malformed_request(self, creating: AsgiClient) -> None:
        assert (await append(creating, path=MISSING)).status == 422
        assert (await creating.request("GET", MISSING + "?timestamp=5&until=5")).status == 422
        assert (await creating.request("GET", "/v1/streams/missing")).status == 404

    async def test_happens_before_conditions_are_looked_at(self, creating: AsgiClient) -> None:
        reply = await append(creating, "a", path=MISSING, match_seq_num=5)
        assert (reply.status, reply.body) == (412, b'{"seq_num_mismatch":0}')
        assert (await creating.request("GET", "/v1/streams/missing")).status == 200

    async def test_happens_on_reads_and_tail_checks(self, creating: AsgiClient) -> None:
        assert (await creating.request("GET", MISSING)).status == 416
        assert (await creating.request("GET", "/v1/streams/other/records/tail")).json() == {
            "tail": {"seq_num": 0, "timestamp": 0}
        }

    async def test_has_a_flag_for_appends_and_one_for_reads(self, creating: AsgiClient) -> None:
        await creating.request_json(
            "PATCH", "/v1/basins/test-basin", {"create_stream_on_read": False}
        )
        assert (await creating.request("GET", MISSING + "/tail")).status == 404
        assert (await append(creating, "a", path=MISSING)).status == 200

    async def test_makes_one_stream_of_ten_first_appends(self, creating: AsgiClient) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(lambda n: append(creating, str(n), path=MISSING), number)
        assert await tail_of(creating, MISSING + "/tail") == 10


async def test_a_deleted_stream_is_pending_or_gone(client: AsgiClient) -> None:
    await append(client, "a")
    assert (await client.request("DELETE", "/v1/streams/s")).status == 202
    replies = [await append(client, "b"), await read(client), await client.request("GET", TAIL)]
    for reply in replies:
        assert (reply.status, reply.code) in {
            (409, "stream_deletion_pending"),
            (404, "stream_not_found"),
        }
