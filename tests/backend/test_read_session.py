"""Reads: catching up, following, falling behind, and every way in which one ends."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from s2lite.backend.backend import Backend
from s2lite.backend.read_session import HEARTBEAT_MAX_SECONDS, HEARTBEAT_MIN_SECONDS
from s2lite.backend.stream_actor import FOLLOWER_BACKLOG_BATCHES
from s2lite.backend.stream_handle import StreamHandle
from s2lite.model.config import RetentionPolicy, StreamConfigLayer
from s2lite.model.errors import CorruptObject, ReadPastTail, StreamUnavailable
from s2lite.model.positions import StreamPosition
from s2lite.model.reads import (
    DeliveredBatch,
    FromSeqNum,
    FromTailOffset,
    FromTimestamp,
    Heartbeat,
    ReadEvent,
    ReadLimits,
    ReadRequest,
    ReadStart,
)
from s2lite.model.records import Trim
from s2lite.settings import Settings
from s2lite.storage.layout import Layout
from tests.backend.world import (
    append_of,
    bodies,
    collect,
    following,
    new_stream,
    read_all,
    seq_nums,
)
from tests.fakes.backend import START_MS, running_backend
from tests.fakes.object_store import FakeObjectStore, Latency, Op

UNCAPPED = StreamConfigLayer(timestamping_uncapped=True)


@attrs.define(eq=False)
class World:
    backend: Backend
    stream: StreamHandle
    store: FakeObjectStore

    async def append(self, *texts: str, timestamps: list[int | None] | None = None) -> None:
        await self.stream.append(append_of(*texts, timestamps=timestamps))


@asynccontextmanager
async def a_stream(
    config: StreamConfigLayer | None = None, settings: Settings | None = None
) -> AsyncIterator[World]:
    store = FakeObjectStore(Random(1))
    async with running_backend(store, settings=settings) as backend:
        yield World(backend, await new_stream(backend, config=config), store)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_stream() as made:
        yield made


async def five_records(world: World) -> None:
    """Bodies 0 to 4, stamped 10 to 50, in batches of two, one and two."""
    await world.append("0", "1", timestamps=[10, 20])
    await world.append("2", timestamps=[30])
    await world.append("3", "4", timestamps=[40, 50])


def story(events: list[ReadEvent]) -> list[object]:
    """Events in short: the bodies of a batch with its tail's number, or a heartbeat's tail."""
    return [
        event.tail.seq_num
        if isinstance(event, Heartbeat)
        else (bodies(event), None if event.tail is None else event.tail.seq_num)
        for event in events
    ]


# --- unary ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "limits", "expected"),
    [
        (FromSeqNum(0), ReadLimits(), "01234"),
        (FromSeqNum(1), ReadLimits(count=2), "12"),
        (FromSeqNum(1), ReadLimits(count=99), "1234"),
        (FromSeqNum(0), ReadLimits(count=0), ""),
        (FromSeqNum(0), ReadLimits(bytes=0), ""),
        (FromSeqNum(0), ReadLimits(bytes=8), ""),
        (FromSeqNum(0), ReadLimits(bytes=9), "0"),
        (FromSeqNum(0), ReadLimits(bytes=9 * 4 + 8), "0123"),
        (FromSeqNum(0), ReadLimits(until=30), "01"),
        (FromSeqNum(0), ReadLimits(until=10), ""),
        (FromSeqNum(0), ReadLimits(until=0), ""),
        (FromSeqNum(0), ReadLimits(count=4, bytes=27, until=41), "012"),
        (FromTailOffset(2), ReadLimits(), "34"),
        (FromTailOffset(99), ReadLimits(), "01234"),
        (FromTimestamp(0), ReadLimits(), "01234"),
        (FromTimestamp(20), ReadLimits(), "1234"),
        (FromTimestamp(21), ReadLimits(count=1), "2"),
        (FromTimestamp(50), ReadLimits(), "4"),
        (FromTimestamp(20), ReadLimits(until=45), "123"),
    ],
)
async def test_a_unary_read_gives_what_start_and_limits_say(
    world: World, autojump_clock: MockClock, start: ReadStart, limits: ReadLimits, expected: str
) -> None:
    await five_records(world)
    found = await world.stream.read(ReadRequest(start, limits=limits))
    assert "".join(bodies(found)) == expected
    if found is not None:
        numbers = seq_nums(found)
        assert (found.first_seq_num, found.last_seq_num) == (numbers[0], numbers[-1])
        assert (found.count, found.metered_bytes) == (len(numbers), 9 * len(numbers))
        assert found.tail is None


@pytest.mark.parametrize(
    "start", [FromTailOffset(0), FromSeqNum(5), FromSeqNum(6), FromTimestamp(51)]
)
async def test_a_unary_read_at_or_past_the_tail_is_told_the_tail(
    world: World, autojump_clock: MockClock, start: ReadStart
) -> None:
    await five_records(world)
    with pytest.raises(ReadPastTail) as caught:
        await world.stream.read(ReadRequest(start))
    assert caught.value.tail == StreamPosition(5, 50)
    with pytest.raises(ReadPastTail):
        await world.stream.read(ReadRequest(start, clamp=True))


async def test_a_unary_read_merges_batches_record_by_record_up_to_the_limits(
    world: World,
    autojump_clock: MockClock,
) -> None:
    for first in (0, 400, 800):
        await world.append(*(f"{n}" for n in range(first, first + 400)))
    found = await world.stream.read(ReadRequest(FromSeqNum(100), limits=ReadLimits(count=2000)))
    assert seq_nums(found) == list(range(100, 1100))


async def test_a_unary_read_merges_across_what_one_fetch_gives(
    world: World, autojump_clock: MockClock
) -> None:
    for _ in range(4):
        await world.append("x" * 400_000, "y")
    found = await world.stream.read(ReadRequest(FromSeqNum(0)))
    assert found is not None
    assert seq_nums(found) == [0, 1, 2, 3]
    assert found.metered_bytes == 2 * (400_008 + 9)


async def test_a_unary_read_of_two_large_records_gives_one(
    world: World, autojump_clock: MockClock
) -> None:
    await world.append("x" * 700_000)
    await world.append("y" * 700_000)
    request = ReadRequest(FromSeqNum(0), limits=ReadLimits(bytes=2_097_152))
    assert seq_nums(await world.stream.read(request)) == [0]


async def test_a_long_poll_returns_the_first_batch_that_comes(
    world: World, autojump_clock: MockClock
) -> None:
    await world.append("old")
    results: list[DeliveredBatch | None] = []

    async def poll() -> None:
        results.append(await world.stream.read(ReadRequest(wait_seconds=30)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        await trio.sleep(1)
        await world.append("new", "er")
        await world.append("too late")
    assert trio.current_time() == 1
    assert bodies(results[0]) == ["new", "er"]
    assert results[0] is not None
    assert results[0].tail == StreamPosition(3, START_MS + 1000)


async def test_a_long_poll_with_something_to_give_does_not_wait(
    world: World, autojump_clock: MockClock
) -> None:
    await world.append("a")
    found = await world.stream.read(following(0, wait=30))
    assert bodies(found) == ["a"]
    assert found is not None
    assert found.tail is None
    assert trio.current_time() == 0


@pytest.mark.parametrize(("wait", "expected"), [(1, 1), (60, 60), (3600, 60)])
async def test_a_long_poll_gives_up_after_its_wait_but_a_minute_at_most(
    world: World, autojump_clock: MockClock, wait: int, expected: int
) -> None:
    assert await world.stream.read(ReadRequest(wait_seconds=wait)) is None
    assert trio.current_time() == expected


@pytest.mark.parametrize("limits", [ReadLimits(until=5), ReadLimits(bytes=8), ReadLimits(count=0)])
async def test_a_long_poll_ends_at_a_record_that_it_may_not_have(
    world: World, autojump_clock: MockClock, limits: ReadLimits
) -> None:
    results: list[DeliveredBatch | None] = []

    async def poll() -> None:
        request = ReadRequest(limits=limits, wait_seconds=30)
        results.append(await world.stream.read(request))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        await trio.sleep(1)
        await world.append("a", timestamps=[5])
    assert results == [None]
    assert trio.current_time() == 1


async def test_a_read_by_timestamp_finds_the_first_of_several_equals(
    world: World, autojump_clock: MockClock
) -> None:
    await world.append("a", "b", timestamps=[1, 2])
    await world.append("c", "d", timestamps=[2, 2])
    assert bodies(await world.stream.read(ReadRequest(FromTimestamp(2)))) == ["b", "c", "d"]


async def test_a_timestamp_to_which_nothing_survives_leads_to_the_tail(
    world: World, autojump_clock: MockClock
) -> None:
    await world.append("a", timestamps=[5])
    await world.stream.append(append_of(Trim(99), timestamps=[6]))
    assert await world.stream.read(ReadRequest(FromTimestamp(0))) is None
    assert await world.stream.read(ReadRequest(FromTimestamp(6))) is None
    with pytest.raises(ReadPastTail):
        await world.stream.read(ReadRequest(FromTimestamp(7)))


async def test_on_an_empty_stream_timestamp_zero_is_no_error(
    world: World, autojump_clock: MockClock
) -> None:
    assert await world.stream.read(ReadRequest(FromTimestamp(0))) is None
    with pytest.raises(ReadPastTail):
        await world.stream.read(ReadRequest(FromTimestamp(1)))


# --- trimmed and expired ----------------------------------------------------------------------


async def test_trimmed_records_are_gone_at_once_even_in_the_middle_of_a_batch(
    world: World,
    autojump_clock: MockClock,
) -> None:
    await world.append("0", "1", "2", timestamps=[1, 2, 3])
    await world.stream.append(append_of(Trim(2), timestamps=[4]))
    assert seq_nums(await world.stream.read(ReadRequest(FromSeqNum(0)))) == [2, 3]
    assert seq_nums(await world.stream.read(ReadRequest(FromSeqNum(3)))) == [3]
    assert seq_nums(await world.stream.read(ReadRequest(FromTimestamp(1)))) == [2, 3]
    assert seq_nums(await world.stream.read(ReadRequest(FromTimestamp(4)))) == [3]


async def test_a_fully_trimmed_stream_is_empty_and_its_tail_is_where_it_was(
    world: World,
    autojump_clock: MockClock,
) -> None:
    await world.append("0", "1")
    await world.stream.append(append_of(Trim(999_999)))
    assert await world.stream.read(ReadRequest(FromSeqNum(0))) is None
    assert (await world.stream.check_tail()).seq_num == 3
    with pytest.raises(ReadPastTail):
        await world.stream.read(ReadRequest(FromSeqNum(3)))
    assert bodies(await _after(world, "new")) == ["new"]


async def _after(world: World, text: str) -> DeliveredBatch | None:
    await world.append(text)
    return await world.stream.read(ReadRequest(FromSeqNum(0)))


async def test_expired_records_are_skipped_wherever_they_are(autojump_clock: MockClock) -> None:
    ten_seconds = StreamConfigLayer(retention_policy=RetentionPolicy(10))
    async with a_stream(ten_seconds) as world:
        await world.append("0", "1", timestamps=[1, 2])
        await trio.sleep(5)
        await world.append("2", timestamps=[3])
        await trio.sleep(5)
        assert await read_all(world.stream) == ["2"]
        assert seq_nums(await world.stream.read(ReadRequest(FromTimestamp(1)))) == [2]
        await trio.sleep(5)
        assert await read_all(world.stream) == []
        assert await world.stream.read(ReadRequest(FromTimestamp(1))) is None
        await world.append("3", timestamps=[4])
        assert seq_nums(await world.stream.read(ReadRequest(FromSeqNum(0)))) == [3]


async def test_trimming_does_not_disturb_a_follower(
    world: World, autojump_clock: MockClock
) -> None:
    events: list[ReadEvent] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, world.stream, following(0, wait=1), events)
        await wait_all_tasks_blocked()
        await world.append("a")
        await world.stream.append(append_of(Trim(99)))
        await world.append("b")
    assert [number for each in events[1:] if isinstance(each, DeliveredBatch)
            for number in seq_nums(each)] == [0, 1, 2]  # fmt: skip


# --- sessions that do not follow --------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (following(0, wait=0), "01234"),
        (following(5, wait=0), ""),
        (following(0, count=3), "012"),
        (following(3, count=99), "34"),
        (following(0, until=2**64 - 1), "01234"),
        (following(0, bytes=18), "01"),
        (following(0, count=3, wait=0), "012"),
    ],
)
async def test_a_session_without_wait_catches_up_and_ends(
    world: World, autojump_clock: MockClock, request_: ReadRequest, expected: str
) -> None:
    await five_records(world)
    events: list[ReadEvent] = []
    await collect(world.stream, request_, events)
    assert all(isinstance(event, DeliveredBatch) and event.tail is None for event in events)
    assert "".join(text for each in events if isinstance(each, DeliveredBatch)
                   for text in bodies(each)) == expected  # fmt: skip
    assert trio.current_time() == 0


@pytest.mark.parametrize("request_", [following(5, count=3), following(6), following(5, until=9)])
async def test_a_session_past_what_it_may_read_fails_before_its_first_event(
    world: World, autojump_clock: MockClock, request_: ReadRequest
) -> None:
    await five_records(world)
    with pytest.raises(ReadPastTail):
        await world.stream.read_session(request_).__aenter__()


async def test_catching_up_gives_batches_of_a_thousand_records_at_most(
    world: World, autojump_clock: MockClock
) -> None:
    for first in range(0, 2500, 500):
        await world.append(*(f"{n}" for n in range(first, first + 500)))
    events: list[ReadEvent] = []
    await collect(world.stream, following(0, wait=0), events)
    assert [event.count for event in events if isinstance(event, DeliveredBatch)] == [
        1000,
        1000,
        500,
    ]


async def test_catching_up_gives_batches_of_a_mebibyte_at_most(
    world: World, autojump_clock: MockClock
) -> None:
    for _ in range(2):
        await world.append("x" * 700_000)
    events: list[ReadEvent] = []
    await collect(world.stream, following(0, wait=0), events)
    assert [seq_nums(each) for each in events if isinstance(each, DeliveredBatch)] == [[0], [1]]


# --- following --------------------------------------------------------------------------------


async def test_a_follower_gets_each_append_as_it_became_durable(
    world: World, autojump_clock: MockClock
) -> None:
    await world.append("0", "1")
    events: list[ReadEvent] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, world.stream, following(0, wait=2), events)
        await wait_all_tasks_blocked()
        await world.append("2")
        await world.append("3", "4")
    assert story(events) == [(["0", "1"], None), 2, (["2"], 3), (["3", "4"], 5)]
    assert trio.current_time() == 2


async def test_a_follower_sees_nothing_that_is_not_durable(
    world: World, autojump_clock: MockClock
) -> None:
    events: list[ReadEvent] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, world.stream, following(0), events)
        await wait_all_tasks_blocked()
        gate = world.store.hold("wal/")
        nursery.start_soon(world.append, "a")
        await wait_all_tasks_blocked()
        assert story(events) == [0]
        gate.release()
        await wait_all_tasks_blocked()
        assert story(events) == [0, (["a"], 1)]
        nursery.cancel_scope.cancel()


async def test_a_reader_that_starts_while_a_write_is_under_way_misses_nothing(
    world: World,
    autojump_clock: MockClock,
) -> None:
    """It subscribes at the durable tail, which moves before it hears of it."""
    for number in range(30):
        events: list[ReadEvent] = []
        start = (await world.stream.check_tail()).seq_num
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.append, f"{number}")
            nursery.start_soon(
                collect, world.stream, ReadRequest(FromSeqNum(start), wait_seconds=1), events
            )
        found = [number for event in events if isinstance(event, DeliveredBatch)
                 for number in seq_nums(event)]  # fmt: skip
        assert found == [start]


async def test_heartbeats_come_at_once_and_then_at_random_within_bounds(
    world: World, autojump_clock: MockClock
) -> None:
    await world.append("a")
    times: list[float] = []
    with trio.move_on_after(1000):
        async with world.stream.read_session(following(1)) as session:
            async for event in session:
                assert event == Heartbeat(StreamPosition(1, START_MS))
                times.append(trio.current_time())
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert times[0] == 0
    assert min(gaps) >= HEARTBEAT_MIN_SECONDS
    assert max(gaps) < HEARTBEAT_MAX_SECONDS
    assert max(gaps) - min(gaps) > 5
    assert len(set(gaps)) == len(gaps) > 80


async def test_a_batch_puts_the_next_heartbeat_off(world: World, autojump_clock: MockClock) -> None:
    heartbeats: list[float] = []

    async def follow() -> None:
        async with world.stream.read_session(following(0)) as session:
            async for event in session:
                if isinstance(event, Heartbeat):
                    heartbeats.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        for _ in range(20):
            await trio.sleep(HEARTBEAT_MIN_SECONDS - 0.1)
            await world.append("a")
        assert heartbeats == [0]
        await trio.sleep(HEARTBEAT_MAX_SECONDS)
        assert len(heartbeats) > 1
        nursery.cancel_scope.cancel()


async def test_a_heartbeat_is_never_ahead_of_what_was_delivered(
    world: World, autojump_clock: MockClock
) -> None:
    """A slow reader resumes from a heartbeat's tail, so it must not skip what is queued."""
    async with world.stream.read_session(following(0)) as session:
        assert await anext(session) == Heartbeat(StreamPosition.ZERO)
        delivered = 0
        for _ in range(10):
            await world.append("a")
            await world.append("b")
            await trio.sleep(20)
            event = await anext(session)
            if isinstance(event, DeliveredBatch):
                assert event.first_seq_num == delivered
                delivered = event.last_seq_num + 1
            else:
                assert event.tail.seq_num == delivered


@pytest.mark.parametrize("passes", range(12))
async def test_a_heartbeat_that_falls_due_as_a_batch_becomes_durable_is_not_ahead_of_it(
    world: World, autojump_clock: MockClock, passes: int
) -> None:
    events: list[ReadEvent] = []
    async with (
        world.stream.read_session(following(0)) as session,
        trio.open_nursery() as nursery,
    ):
        assert isinstance(await anext(session), Heartbeat)

        async def take_two() -> None:
            for _ in range(2):
                events.append(await anext(session))

        gate = world.store.hold("wal/")
        nursery.start_soon(world.append, "a")
        nursery.start_soon(take_two)
        await gate.wait_held()
        gate.release()
        for _ in range(passes):
            await trio.lowlevel.checkpoint()
        autojump_clock.jump(session._heartbeat_at - trio.current_time())
    position = 0
    for event in events:
        if isinstance(event, DeliveredBatch):
            position = event.last_seq_num + 1
        else:
            assert event.tail.seq_num == position
    assert position == 1


# --- the wait ---------------------------------------------------------------------------------


async def test_a_wait_is_counted_between_records_and_not_from_heartbeats(
    world: World, autojump_clock: MockClock
) -> None:
    events: list[ReadEvent] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, world.stream, following(0, wait=30), events)
        await trio.sleep(20)
        await world.append("a")
    assert trio.current_time() == 50
    assert sum(isinstance(event, Heartbeat) for event in events) >= 4


async def test_a_wait_counts_the_time_that_a_slow_reader_takes(
    world: World, autojump_clock: MockClock
) -> None:
    await world.append("a")
    async with world.stream.read_session(following(0, wait=5)) as session:
        assert bodies(_batch(await anext(session))) == ["a"]
        await trio.sleep(6)
        with pytest.raises(StopAsyncIteration):
            await anext(session)


def _batch(event: ReadEvent) -> DeliveredBatch:
    assert isinstance(event, DeliveredBatch)
    return event


async def test_what_came_in_time_is_delivered_however_late_it_is_fetched(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.stream.read_session(following(0, wait=5)) as session:
        assert isinstance(await anext(session), Heartbeat)
        await trio.sleep(1)
        await world.append("a")
        await world.append("b")
        await trio.sleep(100)
        assert bodies(_batch(await anext(session))) == ["a"]
        assert bodies(_batch(await anext(session))) == ["b"]
        assert all([isinstance(event, Heartbeat) async for event in session])


# --- limits while following -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (ReadLimits(count=3), ["old", "a", "b"]),
        (ReadLimits(count=4), ["old", "a", "b", "c"]),
        (ReadLimits(bytes=11 + 9 + 9), ["old", "a", "b"]),
        (ReadLimits(bytes=11 + 8), ["old"]),
        (ReadLimits(until=25), ["old", "a"]),
        (ReadLimits(until=20), ["old"]),
    ],
)
async def test_limits_cut_a_live_batch_and_end_the_session_at_once(
    world: World, autojump_clock: MockClock, limits: ReadLimits, expected: list[str]
) -> None:
    await world.append("old", timestamps=[10])
    events: list[ReadEvent] = []
    async with trio.open_nursery() as nursery:
        request = ReadRequest(FromSeqNum(0), limits=limits, wait_seconds=60)
        nursery.start_soon(collect, world.stream, request, events)
        await trio.sleep(1)
        await world.append("a", "b", "c", timestamps=[20, 30, 40])
    assert trio.current_time() == 1
    batches = [event for event in events if isinstance(event, DeliveredBatch)]
    assert [text for batch in batches for text in bodies(batch)] == expected
    if len(expected) > 1:
        assert batches[-1].tail == StreamPosition(4, 40)


async def test_until_lets_records_through_that_come_before_it(
    world: World, autojump_clock: MockClock
) -> None:
    events: list[ReadEvent] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, world.stream, following(0, wait=60, until=2500), events)
        await trio.sleep(1)
        await world.append("a", timestamps=[2000])
        await trio.sleep(1)
        await world.append("b", timestamps=[3000])
    assert story(events) == [0, (["a"], 1)]
    assert trio.current_time() == 2


async def test_a_zero_limit_waits_for_the_first_record_and_ends(
    world: World, autojump_clock: MockClock
) -> None:
    events: list[ReadEvent] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, world.stream, following(0, wait=60, count=0), events)
        await trio.sleep(1)
        await world.append("a")
    assert story(events) == [0]
    assert trio.current_time() == 1


# --- falling behind ---------------------------------------------------------------------------

TOO_MANY = FOLLOWER_BACKLOG_BATCHES * 2


@pytest.mark.parametrize("memtable_bytes", [10**6, 1])
async def test_a_reader_that_falls_behind_gets_everything_once_and_follows_again(
    autojump_clock: MockClock, memtable_bytes: int
) -> None:
    settings = Settings(layout=Layout(memtable_bytes=memtable_bytes))
    async with (
        a_stream(settings=settings) as world,
        world.stream.read_session(following(0)) as session,
    ):
        assert isinstance(await anext(session), Heartbeat)
        for number in range(TOO_MANY):
            await world.append(f"{number}")
        found: list[str] = []
        while len(found) < TOO_MANY:
            event = await anext(session)
            assert isinstance(event, DeliveredBatch)
            assert event.tail is None
            found += bodies(event)
        assert found == [str(number) for number in range(TOO_MANY)]
        assert await anext(session) == Heartbeat(StreamPosition(TOO_MANY, START_MS))
        await world.append("live")
        live = _batch(await anext(session))
        assert (bodies(live), live.tail) == (["live"], StreamPosition(TOO_MANY + 1, START_MS))
        assert bool(world.store.operations(Op.GET_RANGE)) == (memtable_bytes == 1)


async def test_a_reader_that_read_some_of_its_backlog_goes_on_from_there(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.stream.read_session(following(0)) as session:
        assert isinstance(await anext(session), Heartbeat)
        found: list[str] = []
        for number in range(TOO_MANY):
            await world.append(f"{number}")
            if number < 5:
                found += bodies(_batch(await anext(session)))
        while len(found) < TOO_MANY:
            found += bodies(_batch(await anext(session)))
        assert found == [str(number) for number in range(TOO_MANY)]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (ReadLimits(count=3), 3),
        (ReadLimits(bytes=9 * 3), 3),
        (ReadLimits(bytes=9 * 3 + 8), 3),
        (ReadLimits(until=START_MS + 3000), 3),
    ],
)
async def test_limits_hold_across_falling_behind(
    autojump_clock: MockClock, limits: ReadLimits, expected: int
) -> None:
    async with a_stream() as world:
        request = ReadRequest(FromSeqNum(0), limits=limits, wait_seconds=1000)
        async with world.stream.read_session(request) as session:
            assert isinstance(await anext(session), Heartbeat)
            for number in range(TOO_MANY):
                await world.append(f"{number % 10}")
                await trio.sleep(1)
            found = [event async for event in session]
            assert [text for each in found for text in bodies(_batch(each))] == list("012")
            assert len(found) == 1


async def test_a_reader_whose_gap_is_gone_and_whose_wait_is_over_ends(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.stream.read_session(following(0, wait=5)) as session:
        assert isinstance(await anext(session), Heartbeat)
        for number in range(TOO_MANY):
            await world.append(f"{number}")
        await world.stream.append(append_of(Trim(10**6)))
        await trio.sleep(6)
        with pytest.raises(StopAsyncIteration):
            await anext(session)


async def test_a_gap_that_is_delivered_starts_the_wait_anew(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.stream.read_session(following(0, wait=5)) as session:
        assert isinstance(await anext(session), Heartbeat)
        for number in range(TOO_MANY):
            await world.append(f"{number}")
        await trio.sleep(100)
        assert len(bodies(_batch(await anext(session)))) == TOO_MANY
        assert isinstance(await anext(session), Heartbeat)
        assert all([isinstance(event, Heartbeat) async for event in session])
        assert trio.current_time() == 105


@pytest.mark.parametrize("seed", range(5))
async def test_followers_of_every_pace_get_every_record_once_in_order(
    autojump_clock: MockClock, seed: int
) -> None:
    rng = Random(seed)
    settings = Settings(wal_in_flight=3, layout=Layout(memtable_bytes=2000))
    store = FakeObjectStore(rng, Latency.all(0.0, 0.05))
    async with running_backend(store, settings=settings) as backend:
        stream = await new_stream(backend)
        total = 300

        async def follow(pace: float, found: list[int]) -> None:
            position = 0
            async with stream.read_session(following(0)) as session:
                async for event in session:
                    if isinstance(event, DeliveredBatch):
                        found += seq_nums(event)
                        position = event.last_seq_num + 1
                        assert event.tail is None or event.tail.seq_num >= position
                    else:
                        assert event.tail.seq_num == position
                    if len(found) >= total:
                        return
                    await trio.sleep(rng.uniform(0, pace))

        readers: list[list[int]] = [[] for _ in range(4)]
        async with trio.open_nursery() as nursery:
            for pace, found in zip((0.0, 0.1, 1.0, 5.0), readers, strict=True):
                nursery.start_soon(follow, pace, found)
            written = 0
            while written < total:
                count = min(rng.randint(1, 5), total - written)
                nursery.start_soon(stream.append, append_of(*["x"] * count))
                written += count
                await trio.sleep(rng.choice([0.0, 0.0, 0.02, 0.2]))
        assert readers == [list(range(total))] * 4


# --- trouble ----------------------------------------------------------------------------------


async def test_a_follower_is_told_when_the_streams_owner_is_stopped(
    world: World, autojump_clock: MockClock
) -> None:
    entry = world.backend.catalog.streams_of(world.stream._read.entry.record.basin)[0]
    async with world.stream.read_session(following(0)) as session:
        assert isinstance(await anext(session), Heartbeat)
        await world.append("last")
        await world.backend.path.streams.stop_key(entry.record.stream_id)
        assert bodies(_batch(await anext(session))) == ["last"]
        with pytest.raises(StreamUnavailable):
            await anext(session)


async def test_a_damaged_batch_fails_reads_of_it_and_no_others(
    autojump_clock: MockClock,
) -> None:
    async with a_stream(settings=Settings(layout=Layout(memtable_bytes=1))) as world:
        await five_records(world)
        await wait_all_tasks_blocked()
        _, damaged, _ = sorted(key for key in world.store.objects if key.startswith("segment/"))
        data = bytearray(world.store.objects[damaged].data)
        data[100] ^= 1
        world.store.damage(damaged, bytes(data))
        assert bodies(await world.stream.read(ReadRequest(FromSeqNum(0)))) == ["0", "1"]
        with pytest.raises(CorruptObject) as caught:
            await world.stream.read(ReadRequest(FromSeqNum(2)))
        assert caught.value.key == damaged
        assert list(world.backend.damage.items) == [damaged]
        assert bodies(await world.stream.read(ReadRequest(FromSeqNum(3)))) == ["3", "4"]
        await world.append("5")


async def test_leaving_a_session_unsubscribes_it(world: World, autojump_clock: MockClock) -> None:
    async with world.stream.read_session(following(0)) as session:
        await anext(session)
    await trio.sleep(Settings().stream_idle_seconds + 1)
    assert len(world.backend.path.streams) == 0


async def test_ten_readers_at_once_see_the_same(world: World, autojump_clock: MockClock) -> None:
    readers: list[list[ReadEvent]] = [[] for _ in range(10)]
    async with trio.open_nursery() as nursery:
        for events in readers:
            nursery.start_soon(collect, world.stream, following(0, count=20, wait=60), events)
        await wait_all_tasks_blocked()
        for number in range(20):
            await world.append(f"{number}")
    assert all(story(events) == story(readers[0]) for events in readers)
    assert len(story(readers[0])) == 21
