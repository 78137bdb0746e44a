"""Reads that wait, heartbeats, and sessions that idle: what takes seconds, or a minute."""

from collections.abc import Mapping
from contextlib import aclosing

import httpx
import pytest
import trio

from tests.api.frames import append_frame
from tests.conformance.cases import case
from tests.conformance.raw import RECORDS, Json, next_frame
from tests.conformance.sessions import S2S, H1Session, H2Session, Session
from tests.conformance.waiting import Place, beside_the_others

pytestmark = [pytest.mark.conformance]

# How late anything may be on a machine that is busy with the other tests.
TOLERANCE_SECONDS = 4.5

EMPTY: Json = {"records": []}


class Watch:
    """Measures from when it was made."""

    def __init__(self) -> None:
        self._started = trio.current_time()

    def expect(self, seconds: float, *, until: float | None = None) -> None:
        """It is this late, by now, or up to `until`."""
        elapsed = trio.current_time() - self._started
        assert seconds - 0.05 < elapsed < (until or seconds) + TOLERANCE_SECONDS


async def append(api: httpx.AsyncClient, *bodies: str, timestamp: int = 1000) -> Json:
    """Append, and return the ack."""
    records = [{"body": body, "timestamp": timestamp} for body in bodies]
    answer = await api.post(RECORDS, json={"records": records})
    assert answer.status_code == 200, answer.text
    ack: Json = answer.json()
    return ack


async def poll(api: httpx.AsyncClient, query: str) -> Json:
    """Read a batch."""
    answer = await api.get(f"{RECORDS}?{query}")
    assert answer.status_code == 200, answer.text
    batch: Json = answer.json()
    return batch


async def open_session(
    place: Place, method: str, query: str, kind: type[H1Session] | type[H2Session] = H1Session
) -> Session:
    """Open a session."""
    headers: Mapping[str, str] = {**S2S, "s2-basin": place.basin}
    return await kind.open(place.server.port, method, f"{RECORDS}{query}", headers)


async def expect_heartbeat(session: Session, tail: int) -> None:
    """The next frame is a heartbeat."""
    frame = await session.frame(patience_seconds=15 + TOLERANCE_SECONDS)
    assert frame is not None
    assert len(frame.batch.records) == 0
    assert frame.batch.HasField("tail")
    assert frame.batch.tail.seq_num == tail


async def seq_nums_in_order(session: Session) -> list[int]:
    """The numbers in the next frame."""
    return [record.seq_num for record in (await next_frame(session)).batch.records]


# --- one batch ----------------------------------------------------------------------------------


@case(86)
@beside_the_others
async def test_a_read_of_an_empty_stream_waits_in_vain(place: Place) -> None:
    async with place.client() as api:
        watch = Watch()
        assert await poll(api, "seq_num=0&wait=1") == EMPTY
        watch.expect(1)


@case(85)
@beside_the_others
async def test_a_read_past_the_tail_waits_if_it_is_clamped(place: Place) -> None:
    async with place.client() as api:
        await append(api, "a")
        watch = Watch()
        assert await poll(api, "seq_num=10&clamp=true&wait=1") == EMPTY
        watch.expect(1)


@case(97)
@beside_the_others
async def test_a_read_that_waits_gets_the_next_batch_at_once(place: Place) -> None:
    async with place.client() as api:
        await append(api, "old")
        batches = []

        async def wait() -> None:
            batches.append(await poll(api, "seq_num=1&wait=30&count=1"))

        watch = Watch()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(1)
            ack = await append(api, "new", "newer", timestamp=2000)
        watch.expect(1)
        record = {"seq_num": 1, "timestamp": 2000, "body": "new"}
        assert batches == [{"records": [record], "tail": ack["tail"]}]


@case(99)
@beside_the_others
async def test_a_read_that_waits_ends_with_a_record_beyond_its_range(place: Place) -> None:
    async with place.client() as api:
        batches = []

        async def wait(query: str) -> None:
            batches.append(await poll(api, query))

        watch = Watch()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "wait=30&until=2000")
            nursery.start_soon(wait, "wait=30&bytes=8")
            await trio.sleep(1)
            await append(api, "a", timestamp=2000)
        watch.expect(1)
        assert batches == [EMPTY, EMPTY]


@case(100)
@beside_the_others
async def test_a_read_waits_for_a_minute_at_most(place: Place) -> None:
    async with place.client() as api:
        watch = Watch()
        assert await poll(api, "wait=3600") == EMPTY
        watch.expect(60)


# --- sessions -----------------------------------------------------------------------------------


@case(108)
@beside_the_others
async def test_heartbeats_come_while_nothing_else_does(place: Place) -> None:
    async def expect_heartbeats(kind: type[H1Session] | type[H2Session]) -> None:
        async with aclosing(await open_session(place, "GET", "", kind)) as session:
            watch = Watch()
            await expect_heartbeat(session, 0)
            watch.expect(0)
            for _ in range(2):
                watch = Watch()
                await expect_heartbeat(session, 0)
                watch.expect(5, until=15)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_heartbeats, H1Session)
        nursery.start_soon(expect_heartbeats, H2Session)


@case(110)
@beside_the_others
async def test_a_session_that_waits_ends_however_many_heartbeats_there_are(place: Place) -> None:
    # Longer than the longest gap, so that one comes before the end.
    async with aclosing(await open_session(place, "GET", "?wait=17")) as session:
        watch = Watch()
        heartbeats = 0
        while (frame := await session.frame(patience_seconds=17 + TOLERANCE_SECONDS)) is not None:
            assert frame.payload == bytes.fromhex("1200")
            heartbeats += 1
        assert heartbeats > 1
        watch.expect(17)


@case(111)
@beside_the_others
async def test_a_record_that_comes_gives_a_session_that_waits_new_time(place: Place) -> None:
    async with (
        place.client() as api,
        aclosing(await open_session(place, "GET", "?wait=5")) as session,
    ):
        await expect_heartbeat(session, 0)
        await trio.sleep(2)
        await append(api, "a")
        assert await seq_nums_in_order(session) == [0]
        watch = Watch()
        while (frame := await session.frame()) is not None:
            assert len(frame.batch.records) == 0
        watch.expect(5)


@case(119)
@beside_the_others
async def test_a_read_session_may_idle_for_over_a_minute(place: Place) -> None:
    async def follow(kind: type[H1Session] | type[H2Session]) -> None:
        async with aclosing(await open_session(place, "GET", "", kind)) as session:
            watch = Watch()
            await expect_heartbeat(session, 0)
            numbers: list[int] = []
            while not numbers:
                frame = await session.frame(patience_seconds=15 + TOLERANCE_SECONDS)
                assert frame is not None
                numbers = [record.seq_num for record in frame.batch.records]
            assert numbers == [0]
            watch.expect(61)

    async with place.client() as api, trio.open_nursery() as nursery:
        nursery.start_soon(follow, H1Session)
        nursery.start_soon(follow, H2Session)
        await trio.sleep(61.5)
        await append(api, "a")


@case(119, 154)
@beside_the_others
async def test_an_append_session_may_idle_for_over_a_minute(place: Place) -> None:
    async def write(kind: type[H1Session] | type[H2Session]) -> None:
        async with aclosing(await open_session(place, "POST", "", kind)) as session:
            await session.send(append_frame(b"a"))
            first = (await next_frame(session)).ack
            await trio.sleep(61)
            await session.send(append_frame(b"b"), end=True)
            second = (await next_frame(session)).ack
            assert second > first
            assert await session.frame() is None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, H1Session)
        nursery.start_soon(write, H2Session)
