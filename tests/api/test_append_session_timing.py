"""When an append session submits, answers and ends, on a stream that answers when told to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from s2lite.api.append_session import serve_append_session
from s2lite.api.asgi import ClientDisconnected, Receive, Request, Scope, Send
from s2lite.model.errors import SeqNumMismatch, StorageFailed, StreamUnavailable
from s2lite.model.positions import StreamPosition
from s2lite.model.records import AppendAck, AppendInput
from tests.api.frames import append_frame, parse_frames
from tests.fakes.asgi_client import AsgiClient, Exchange


@attrs.define(eq=False)
class Promise:
    """An answer that a test gives."""

    number: int
    failure: Exception | None = None
    _settled: trio.Event = attrs.field(factory=trio.Event)

    @property
    def done(self) -> bool:
        return self._settled.is_set()

    async def wait(self) -> AppendAck:
        await self._settled.wait()
        if self.failure is not None:
            raise self.failure
        end = StreamPosition(self.number + 1, 7)
        return AppendAck(StreamPosition(self.number, 7), end, end)

    def settle(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self._settled.set()


@attrs.define(eq=False)
class FakeSession:
    """Takes as many inputs as there is room for; `refusal` meets the one behind."""

    room: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(1_000_000))
    refusal: Exception | None = None
    promises: list[Promise] = attrs.field(factory=list)

    async def submit(self, append: AppendInput) -> Promise:
        if self.refusal is not None:
            raise self.refusal
        await self.room.acquire()
        self.promises.append(Promise(len(self.promises)))
        return self.promises[-1]


@asynccontextmanager
async def exchange_with(session: FakeSession) -> AsyncIterator[Exchange]:
    """An exchange with a session, past its head."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnected):
            await serve_append_session(Request(scope, receive), send, session)

    async with AsgiClient(app).exchange("POST", "/") as exchange:
        await exchange.head()
        yield exchange


async def send_inputs(exchange: Exchange, count: int) -> None:
    """Send inputs in one chunk, and wait until the session has done what it can."""
    await exchange.send(b"".join(append_frame(b"") for _ in range(count)))
    await wait_all_tasks_blocked()


async def test_all_frames_of_a_chunk_are_submitted_before_any_ack() -> None:
    session = FakeSession()
    async with exchange_with(session) as exchange:
        await send_inputs(exchange, 10)
        assert len(session.promises) == 10


async def test_acks_that_are_ready_together_leave_together_and_in_order() -> None:
    session = FakeSession()
    async with exchange_with(session) as exchange:
        await send_inputs(exchange, 5)
        for number in (4, 2, 1, 0):
            session.promises[number].settle()
        acks = parse_frames(await exchange.body())
        assert [ack.ack for ack in acks] == [(0, 1), (1, 2), (2, 3)]
        session.promises[3].settle()
        acks = parse_frames(await exchange.body())
        assert [ack.ack for ack in acks] == [(3, 4), (4, 5)]


async def test_acks_leave_while_an_input_waits_for_room() -> None:
    session = FakeSession(room=trio.Semaphore(1))
    async with exchange_with(session) as exchange:
        await send_inputs(exchange, 2)
        assert len(session.promises) == 1
        session.promises[0].settle()
        (ack,) = parse_frames(await exchange.body())
        assert ack.ack == (0, 1)
        await exchange.send(b"more")
        await wait_all_tasks_blocked()
        assert exchange.unread == 1


async def test_a_failure_ends_the_session_while_an_input_waits_for_room() -> None:
    session = FakeSession(room=trio.Semaphore(1))
    async with exchange_with(session) as exchange:
        await send_inputs(exchange, 2)
        session.promises[0].settle(SeqNumMismatch(5))
        (last,) = parse_frames(await exchange.rest())
        assert last.terminal == (412, {"seq_num_mismatch": 5})


async def test_the_answer_to_a_failure_waits_for_the_inputs_before_it() -> None:
    session = FakeSession()
    async with exchange_with(session) as exchange:
        await send_inputs(exchange, 3)
        session.promises[1].settle(SeqNumMismatch(1))
        session.promises[2].settle(StorageFailed())
        await wait_all_tasks_blocked()
        session.promises[0].settle()
        first, last = parse_frames(await exchange.rest())
        assert first.ack == (0, 1)
        assert last.terminal == (412, {"seq_num_mismatch": 1})


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [(StreamUnavailable(), 503, "unavailable"), (RuntimeError("bug"), 500, "other")],
)
async def test_an_input_that_cannot_be_submitted_is_answered_behind_the_others(
    refusal: Exception, status: int, code: str
) -> None:
    session = FakeSession()
    async with exchange_with(session) as exchange:
        await send_inputs(exchange, 1)
        session.refusal = refusal
        await send_inputs(exchange, 1)
        session.promises[0].settle()
        first, last = parse_frames(await exchange.rest())
        assert first.ack == (0, 1)
        assert (last.terminal[0], last.terminal[1]["code"]) == (status, code)


async def test_a_bad_frame_gives_way_to_an_earlier_append_that_fails() -> None:
    session = FakeSession()
    async with exchange_with(session) as exchange:
        await send_inputs(exchange, 1)
        await exchange.send(b"\x00\x00\x00")
        await wait_all_tasks_blocked()
        session.promises[0].settle(StorageFailed())
        (last,) = parse_frames(await exchange.rest())
        assert last.terminal[1]["code"] == "storage"


async def test_a_session_remembers_so_many_answers_and_no_more() -> None:
    session = FakeSession()
    async with exchange_with(session) as exchange:
        for _ in range(8):
            await exchange.send(b"".join(append_frame(b"") for _ in range(1000)))
        await wait_all_tasks_blocked()
        assert 4000 < len(session.promises) < 4200
        assert exchange.unread >= 2


async def test_a_half_close_ends_the_session_when_all_is_answered() -> None:
    session = FakeSession()
    async with exchange_with(session) as exchange:
        await send_inputs(exchange, 2)
        await exchange.end()
        session.promises[0].settle()
        assert len(parse_frames(await exchange.body())) == 1
        session.promises[1].settle()
        event = await exchange.event()
        assert len(parse_frames(event["body"])) == 1
        if event["more_body"]:
            event = await exchange.event()
            assert event == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.parametrize("half_closed", [False, True])
async def test_a_client_that_goes_is_not_answered(half_closed: bool) -> None:
    session = FakeSession()
    async with exchange_with(session) as exchange:
        await send_inputs(exchange, 1)
        if half_closed:
            await exchange.end()
        await exchange.disconnect()
        with pytest.raises(trio.EndOfChannel):
            await exchange.event()
