"""Reading through the official client: batches, sessions, and following what is appended live."""

import asyncio
import itertools
from typing import Any

import httpx
import pytest
from s2_sdk import (
    AppendInput,
    BasinConfig,
    CommandRecord,
    Compression,
    ReadLimit,
    ReadUnwrittenError,
    S2ServerError,
    S2Stream,
    SeqNum,
    StreamConfig,
    TailOffset,
    Timestamp,
)

from tests.conformance.cases import case
from tests.conformance.sdk import (
    BOTH_STORAGES,
    batch,
    bodies,
    connect,
    drain,
    on_asyncio,
    read_all,
    seq_nums,
    take,
)
from tests.conformance.server_process import ServerProcess

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.parametrize("server", BOTH_STORAGES, indirect=True),
]

Case = tuple[dict[str, Any], list[int]]

# Ten records with bodies of one byte (9 metered bytes each), two of each timestamp:
# seq_num    0     1     2     3     4     5     6     7     8     9
# timestamp  1000  1000  2000  2000  3000  3000  4000  4000  5000  5000
TIMESTAMPS = [1000 * (1 + i // 2) for i in range(10)]

BATCH_CASES: dict[str, Case] = {
    "from the first": ({"start": SeqNum(0)}, list(range(10))),
    "from a number": ({"start": SeqNum(7)}, [7, 8, 9]),
    "from a timestamp": ({"start": Timestamp(3000)}, [4, 5, 6, 7, 8, 9]),
    "from between two timestamps": ({"start": Timestamp(3001)}, [6, 7, 8, 9]),
    "from the last timestamp": ({"start": Timestamp(5000)}, [8, 9]),
    "from an offset": ({"start": TailOffset(3)}, [7, 8, 9]),
    "from an offset beyond the first": ({"start": TailOffset(99)}, list(range(10))),
    "count": ({"start": SeqNum(2), "limit": ReadLimit(count=3)}, [2, 3, 4]),
    "count beyond the tail": ({"start": SeqNum(8), "limit": ReadLimit(count=9)}, [8, 9]),
    "bytes for exactly two": ({"start": SeqNum(0), "limit": ReadLimit(bytes=18)}, [0, 1]),
    "bytes for almost three": ({"start": SeqNum(0), "limit": ReadLimit(bytes=26)}, [0, 1]),
    "bytes for not even one": ({"start": SeqNum(0), "limit": ReadLimit(bytes=8)}, []),
    "no records": ({"start": SeqNum(0), "limit": ReadLimit(count=0)}, []),
    "count before bytes": ({"start": SeqNum(0), "limit": ReadLimit(1, 900)}, [0]),
    "bytes before count": ({"start": SeqNum(0), "limit": ReadLimit(9, 27)}, [0, 1, 2]),
    "until": ({"start": SeqNum(0), "until_timestamp": 2001}, [0, 1, 2, 3]),
    "until is exclusive": ({"start": SeqNum(0), "until_timestamp": 2000}, [0, 1]),
    "until before the start": ({"start": SeqNum(4), "until_timestamp": 1}, []),
    "a range of time": ({"start": Timestamp(2000), "until_timestamp": 4000}, [2, 3, 4, 5]),
    "until and count": (
        {"start": SeqNum(0), "until_timestamp": 4000, "limit": ReadLimit(count=1)},
        [0],
    ),
    "clamp below the tail": ({"start": SeqNum(8), "clamp_to_tail": True}, [8, 9]),
    "wait with something there": ({"start": SeqNum(9), "wait": 30}, [9]),
}

PAST_THE_TAIL: dict[str, dict[str, Any]] = {
    "at the tail": {"start": SeqNum(10)},
    "offset zero": {"start": TailOffset(0)},
    "past the tail": {"start": SeqNum(11)},
    "past the tail, waiting": {"start": SeqNum(11), "wait": 1},
    "past the last timestamp": {"start": Timestamp(5001)},
    "clamped, not waiting": {"start": SeqNum(11), "clamp_to_tail": True},
    "timestamp clamped, not waiting": {"start": Timestamp(5001), "clamp_to_tail": True},
    "no records at the tail": {"start": SeqNum(10), "limit": ReadLimit(count=0)},
}


@pytest.fixture
def filled(http: httpx.Client, stream: str) -> str:
    """A stream with the ten records of the cases."""
    records = [{"body": str(i), "timestamp": at} for i, at in enumerate(TIMESTAMPS)]
    answer = http.post(f"/v1/streams/{stream}/records", json={"records": records})
    assert answer.status_code == 200
    return stream


@case(78, 81, 82, 83, 87, 88, 92, 93, 94, 98)
@pytest.mark.parametrize(("arguments", "expected"), BATCH_CASES.values(), ids=BATCH_CASES)
@on_asyncio
async def test_a_read_gets_what_its_start_and_limits_say(
    server: ServerProcess, basin: str, filled: str, arguments: dict[str, Any], expected: list[int]
) -> None:
    async with connect(server) as s2:
        read = await s2[basin][filled].read(**arguments)
        assert seq_nums(read.records) == expected
        assert read.tail is None
        assert bodies(read.records) == [b"%d" % i for i in expected]
        assert [each.timestamp for each in read.records] == [TIMESTAMPS[i] for i in expected]
        bounded = {"limit": ReadLimit(count=1000), **arguments}
        if "wait" not in arguments:
            session = s2[basin][filled].read_session(**bounded)
            assert seq_nums(await drain(session)) == expected


@case(82, 84, 85, 87, 89)
@pytest.mark.parametrize("arguments", PAST_THE_TAIL.values(), ids=PAST_THE_TAIL)
@on_asyncio
async def test_a_read_that_can_get_nothing_is_told_the_tail(
    server: ServerProcess, basin: str, filled: str, arguments: dict[str, Any]
) -> None:
    async with connect(server) as s2:
        with pytest.raises(ReadUnwrittenError) as refusal:
            await s2[basin][filled].read(**arguments)
        assert (refusal.value.tail.seq_num, refusal.value.tail.timestamp) == (10, 5000)


@case(77, 91)
@on_asyncio
async def test_a_fresh_stream_has_nothing_to_read(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]
        for start in (SeqNum(0), TailOffset(5), Timestamp(1)):
            with pytest.raises(ReadUnwrittenError) as refusal:
                await target.read(start=start)
            assert (refusal.value.tail.seq_num, refusal.value.tail.timestamp) == (0, 0)
        assert (await target.read(start=Timestamp(0))).records == []
        assert await read_all(target) == []


@case(79, 80, 121)
@on_asyncio
async def test_a_batch_has_at_most_a_thousand_records_or_a_mebibyte(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]
        await target.append(batch(*[b"a"] * 1000))
        await target.append(batch(*[b"b"] * 5))
        await target.append(batch(bytes(700_000)))
        await target.append(batch(bytes(700_000)))
        read = await target.read(start=SeqNum(0), limit=ReadLimit(count=5000))
        assert seq_nums(read.records) == list(range(1000))
        assert seq_nums((await target.read(start=SeqNum(1004))).records) == [1004, 1005]
        session = target.read_session(start=SeqNum(0), wait=0)
        async with session:
            batches = [seq_nums(each.records) async for each in session]
        assert list(itertools.chain(*batches)) == list(range(1007))
        assert max(len(each) for each in batches) == 1000
        assert batches[-1] == [1006]


@on_asyncio
async def test_commands_are_left_out_on_request(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]
        await target.append(batch(b"a"))
        await target.append(AppendInput([CommandRecord.fence("t"), CommandRecord.trim(0)]))
        await target.append(batch(b"b"))
        read = await target.read(start=SeqNum(0))
        assert [each.is_command_record() for each in read.records] == [False, True, True, False]
        read = await target.read(start=SeqNum(0), ignore_command_records=True)
        assert seq_nums(read.records) == [0, 3]


@case(159)
@on_asyncio
async def test_a_read_creates_the_stream_where_the_basin_allows_it(
    server: ServerProcess, basin: str
) -> None:
    async with connect(server) as s2:
        with pytest.raises(S2ServerError) as refusal:
            await s2[basin]["new"].read(start=SeqNum(0))
        assert (refusal.value.status_code, refusal.value.code) == (404, "stream_not_found")
        await s2.reconfigure_basin(basin, config=BasinConfig(create_stream_on_read=True))
        with pytest.raises(ReadUnwrittenError):
            await s2[basin]["new"].read(
                start=SeqNum(0), stream_config=StreamConfig(retention_policy=60)
            )
        assert (await s2[basin].get_stream_config("new")).retention_policy == 60
        assert (await s2[basin]["newer"].check_tail()).seq_num == 0
        names = [each.name for each in (await s2[basin].list_streams()).items]
        assert names == ["new", "newer"]


# --- waiting and following ----------------------------------------------------------------------


@case(97)
@on_asyncio
async def test_a_read_that_waits_gets_the_next_append_and_its_tail(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]
        await target.append(batch(b"old"))
        waiting = asyncio.create_task(target.read(start=TailOffset(0), wait=30))
        other = asyncio.create_task(target.read(start=SeqNum(9), clamp_to_tail=True, wait=30))
        await _until_a_session_waits(target)
        ack = await target.append(batch(b"new", b"newer"))
        for read in (await waiting, await other):
            assert bodies(read.records) == [b"new", b"newer"]
            assert read.tail == ack.tail


async def _until_a_session_waits(target: S2Stream) -> None:
    """A round trip on the connection that the requests before it use."""
    async with target.read_session(start=TailOffset(0)) as session:
        await session.caught_up()


@case(86)
@pytest.mark.slow
@on_asyncio
async def test_a_read_that_waits_in_vain_gets_nothing(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]
        started = asyncio.get_running_loop().time()
        read = await target.read(start=SeqNum(0), wait=1)
        assert read.records == []
        assert read.tail is None
        assert 0.9 < asyncio.get_running_loop().time() - started < 3


@case(109)
@pytest.mark.parametrize("compression", list(Compression), ids=lambda each: each.value)
@on_asyncio
async def test_a_session_catches_up_and_then_follows(
    server: ServerProcess, basin: str, stream: str, compression: Compression
) -> None:
    async with connect(server, compression) as s2:
        target = s2[basin][stream]
        await target.append(batch(b"0", b"1" * 5000, b"2"))
        async with target.read_session(start=SeqNum(0)) as session:
            assert seq_nums(await take(session, 3)) == [0, 1, 2]
            tail = await session.caught_up()
            assert tail.seq_num == 3
            ack = await target.append(batch(b"3", b"4" * 5000))
            live = await anext(session)
            assert bodies(live.records) == [b"3", b"4" * 5000]
            assert live.tail == ack.tail
            assert session.is_caught_up()


@case(113)
@on_asyncio
async def test_a_bounded_session_ends_in_the_middle_of_a_live_batch(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]
        await target.append(batch(b"0"))
        session = target.read_session(start=SeqNum(0), limit=ReadLimit(count=3), wait=30)
        async with session:
            assert seq_nums(await take(session, 1)) == [0]
            await session.caught_up()
            await target.append(batch(b"1", b"2", b"3"))
            assert [seq_nums(each.records) async for each in session] == [[1, 2]]


@case(115)
@on_asyncio
async def test_a_session_until_a_timestamp_ends_with_the_first_record_beyond(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]
        await target.append(batch(b"0", timestamps=[1000]))
        async with target.read_session(start=SeqNum(0), until_timestamp=2500, wait=30) as session:
            await take(session, 1)
            await target.append(batch(b"1", timestamps=[2000]))
            assert bodies(await take(session, 1)) == [b"1"]
            await target.append(batch(b"2", timestamps=[3000]))
            assert [each async for each in session] == []


@case(110)
@pytest.mark.slow
@on_asyncio
async def test_a_session_that_waits_ends_when_nothing_comes(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        session = s2[basin][stream].read_session(start=SeqNum(0), wait=1)
        started = asyncio.get_running_loop().time()
        assert await drain(session) == []
        assert 0.9 < asyncio.get_running_loop().time() - started < 3


@case(112)
@pytest.mark.parametrize("compression", list(Compression), ids=lambda each: each.value)
@on_asyncio
async def test_followers_get_everything_once_and_in_order(
    server: ServerProcess, basin: str, stream: str, compression: Compression
) -> None:
    count = 400

    async with connect(server, compression) as s2, connect(server) as other:
        target = s2[basin][stream]

        async def follow(start: int) -> list[int]:
            async with other[basin][stream].read_session(start=SeqNum(start)) as session:
                records = await take(session, count - start)
            assert bodies(records) == [b"%d" % each.seq_num for each in records]
            return seq_nums(records)

        followers = [asyncio.create_task(follow(0)) for _ in range(3)]
        async with target.append_session() as session:
            for i in range(count):
                ticket = await session.submit(batch(b"%d" % i))
                if i % 50 == 0:
                    await ticket
                if i == count // 2:
                    # One that begins in the middle of it all, behind what is durable by now.
                    await ticket
                    followers.append(asyncio.create_task(follow(17)))
        assert await followers.pop() == list(range(17, count))
        for follower in followers:
            assert await follower == list(range(count))


@case(116, 118)
@on_asyncio
async def test_a_follower_that_stalls_gets_all_of_it_later(
    server: ServerProcess, basin: str, stream: str
) -> None:
    large = [bytes([i]) * 500_000 for i in range(60)]
    async with connect(server) as s2, connect(server) as other:
        target = s2[basin][stream]
        await target.append(batch(b"first"))
        # The client reads one batch ahead; the rest of 30 MB waits behind its window, or is left.
        async with other[basin][stream].read_session(start=SeqNum(0)) as session:
            await take(session, 1)
            async with target.append_session() as appends:
                for each in large:
                    await appends.submit(batch(each))
            records = await take(session, len(large))
            assert seq_nums(records) == list(range(1, 61))
            assert bodies(records) == large
            ack = await target.append(batch(b"last"))
            assert (await anext(session)).tail == ack.tail


@case(122)
@on_asyncio
async def test_a_follower_of_a_deleted_stream_is_told(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]
        await target.append(batch(b"0"))
        async with target.read_session(start=SeqNum(0)) as session:
            await take(session, 1)
            await session.caught_up()
            await s2[basin].delete_stream(stream)
            last = await anext(session)
            assert last.records[0].body == b"\xff" * 8
            with pytest.raises(S2ServerError) as end:
                await anext(session)
            assert (end.value.status_code, end.value.code) == (503, "unavailable")
