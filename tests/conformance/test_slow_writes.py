"""What only shows while a write is under way: on a server that is told to write rarely.

Such a server writes at once after a pause, but not for long: a write that follows many others has
to wait for its turn, and what happens meanwhile happens between an append and its ack.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio

from tests.api.frames import parse_frames
from tests.conformance.cases import case
from tests.conformance.conftest import new_basin_name
from tests.conformance.raw import JSON, RECORDS, Json
from tests.conformance.server_process import Fleet, ServerProcess
from tests.serving.clients import Answer, H2Client, Headers

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

INTERVAL_SECONDS = 0.3


@pytest.fixture(scope="module")
def rare_writer(fleet: Fleet) -> Iterator[ServerProcess]:
    """A server whose writes are far apart."""
    server = fleet.start("--flush-interval", f"{INTERVAL_SECONDS * 1000:.0f}ms")
    yield server
    server.stop()


class SlowStream:
    """The stream `s` of a basin; every append to it takes a while from now on."""

    def __init__(self, client: H2Client, basin: str) -> None:
        self.client = client
        self.basin = basin

    @classmethod
    async def create(cls, server: ServerProcess) -> "SlowStream":
        client = await H2Client.connect(server.port)
        stream = cls(client, new_basin_name())
        for path, body in (
            ("/v1/basins", {"basin": stream.basin}),
            ("/v1/streams", {"stream": "s"}),
            ("/v1/streams", {"stream": "other"}),
        ):
            assert (await stream.ask("POST", path, body))[0] == 201
        duration = 0.0
        while duration < INTERVAL_SECONDS / 2:
            started = trio.current_time()
            await stream.append("x", path="/v1/streams/other/records")
            duration = trio.current_time() - started
        return stream

    async def begin(self, method: str, path: str, body: Json | None = None, **more: str) -> int:
        """Send a request; `more` are headers."""
        headers: Headers = [(b"s2-basin", self.basin.encode())]
        headers += [(name.replace("_", "-").encode(), v.encode()) for name, v in more.items()]
        if body is not None:
            headers += [(name.encode(), value.encode()) for name, value in JSON.items()]
        number = await self.client.request(path, method=method, headers=headers, end=body is None)
        if body is not None:
            await self.client.send(number, json.dumps(body).encode(), end=True)
        return number

    async def end(self, number: int) -> tuple[int, Any]:
        """Wait for the answer."""
        answer = await self.client.answer(number)
        assert answer.status is not None
        return answer.status, json.loads(answer.body) if answer.body else None

    async def ask(self, method: str, path: str, body: Json | None = None) -> tuple[int, Any]:
        """Send a request and wait for the answer."""
        return await self.end(await self.begin(method, path, body))

    async def begin_append(self, body: str, **conditions: object) -> int:
        """Send an append, and wait until its stream has it."""
        return await self.begin_appending({"records": [{"body": body}], **conditions})

    async def begin_appending(self, append: Json) -> int:
        """Send an append, and wait until its stream has it.

        Requests that are on their way at the same time may reach a stream in any order.
        """
        before = await self._bytes_in_flight()
        number = await self.begin("POST", RECORDS, append)
        with trio.fail_after(10):
            while await self._bytes_in_flight() <= before and not self.is_answered(number):
                pass
        return number

    async def _bytes_in_flight(self) -> float:
        """How much is with the streams and not answered; a round trip."""
        answer = await self.client.answer(await self.begin("GET", "/metrics"))
        (value,) = re.findall(rb"^s2lite_append_inflight_bytes (.+)$", answer.body, re.MULTILINE)
        return float(value)

    async def append(self, body: str, path: str = RECORDS) -> tuple[int, Any]:
        """Append a record."""
        return await self.ask("POST", path, {"records": [{"body": body}]})

    async def tail(self) -> int:
        """The seq_num of the tail; a round trip."""
        status, body = await self.ask("GET", f"{RECORDS}/tail")
        assert status == 200
        seq_num: int = body["tail"]["seq_num"]
        return seq_num

    def is_answered(self, number: int) -> bool:
        """Whether anything of an answer is here."""
        return self.client.answers[number].status is not None


@pytest.fixture
async def slow(rare_writer: ServerProcess) -> AsyncIterator[SlowStream]:
    """A stream that is slow to append to."""
    stream = await SlowStream.create(rare_writer)
    yield stream
    await stream.client.aclose()


@case(47)
async def test_what_is_not_acked_is_not_seen(slow: SlowStream) -> None:
    first = await slow.begin_append("a")
    assert await slow.tail() == 0
    assert not slow.is_answered(first)
    assert (await slow.end(first))[0] == 200
    assert await slow.tail() == 1


@case(58)
async def test_a_refusal_that_tells_a_number_waits_until_what_is_below_it_is_there(
    slow: SlowStream,
) -> None:
    first = await slow.begin_append("a")
    assert await slow.tail() == 0
    refused = await slow.begin_append("b", match_seq_num=0)
    assert await slow.tail() == 0
    assert not slow.is_answered(refused)
    assert await slow.end(refused) == (412, {"seq_num_mismatch": 1})
    assert await slow.tail() == 1
    assert (await slow.end(first))[0] == 200


@case(58)
async def test_a_refusal_that_tells_a_token_waits_until_its_fence_is_there(
    slow: SlowStream,
) -> None:
    fence = {"records": [{"headers": [["", "fence"]], "body": "new"}]}
    first = await slow.begin_appending(fence)
    assert await slow.tail() == 0
    refused = await slow.begin_append("b", fencing_token="")
    assert await slow.tail() == 0
    assert not slow.is_answered(refused)
    assert await slow.end(refused) == (412, {"fencing_token_mismatch": "new"})
    assert await slow.tail() == 1
    assert (await slow.end(first))[0] == 200


@case(163, 164)
async def test_a_stream_that_is_being_deleted_takes_nothing_and_is_new_when_it_is_back(
    slow: SlowStream,
) -> None:
    fence = {"records": [{"headers": [["", "fence"]], "body": "new"}]}
    assert (await slow.ask("POST", RECORDS, fence))[0] == 200
    assert (await slow.ask("DELETE", "/v1/streams/s"))[0] == 202
    refused = [
        await slow.begin_append("a"),
        await slow.begin("GET", RECORDS),
        await slow.begin("GET", f"{RECORDS}?seq_num=0&wait=1", content_type="s2s/proto"),
        await slow.begin("POST", RECORDS, content_type="s2s/proto"),
        await slow.begin("GET", f"{RECORDS}/tail"),
    ]
    for number in refused:
        status, body = await slow.end(number)
        assert (status, body["code"]) == (409, "stream_deletion_pending")
    await _is_gone(slow)
    assert (await slow.ask("POST", "/v1/streams", {"stream": "s"}))[0] == 201
    assert await slow.tail() == 0
    records = {"records": [{"body": "a"}], "fencing_token": "", "match_seq_num": 0}
    assert (await slow.ask("POST", RECORDS, records))[0] == 200


@case(122)
async def test_a_follower_of_a_stream_that_is_deleted_is_told(slow: SlowStream) -> None:
    assert (await slow.append("a"))[0] == 200
    query = f"{RECORDS}?tail_offset=0"
    session = await slow.begin("GET", query, content_type="s2s/proto")
    events = await slow.begin("GET", query, accept="text/event-stream")
    answers = [slow.client.answers[number] for number in (session, events)]
    await slow.client.until(lambda: all(answer.body for answer in answers))
    assert (await slow.ask("DELETE", "/v1/streams/s"))[0] == 202
    await slow.client.until(lambda: all(answer.over for answer in answers))
    # Who comes back now is told so for good, not to try again.
    status, body = await slow.end(await slow.begin("GET", query, content_type="s2s/proto"))
    assert (status, body["code"]) == (409, "stream_deletion_pending")
    _ends_with_the_last_trim(answers[0])
    text = answers[1].body.decode()
    assert text.startswith("event: ping\n")
    last = text.removesuffix("\n\n").rpartition("\n\n")[2].split("\n")
    assert last[0] == "event: error"
    assert json.loads(last[1].removeprefix("data: "))["code"] == "unavailable"
    assert "[DONE]" not in text
    await _is_gone(slow)


def _ends_with_the_last_trim(answer: Answer) -> None:
    assert answer.ended
    heartbeat, trim, terminal = parse_frames(bytes(answer.body))
    assert heartbeat.batch.tail.seq_num == 1
    (record,) = trim.batch.records
    assert (record.seq_num, record.body) == (1, b"\xff" * 8)
    assert [(header.name, header.value) for header in record.headers] == [(b"", b"trim")]
    status, body = terminal.terminal
    assert (status, body["code"]) == (503, "unavailable")


async def _is_gone(slow: SlowStream) -> None:
    """Wait until the stream is no longer known."""
    status = 409
    with trio.fail_after(10):
        while status == 409:
            await trio.sleep(INTERVAL_SECONDS / 10)
            status, body = await slow.ask("GET", f"{RECORDS}/tail")
    assert (status, body["code"]) == (404, "stream_not_found")
