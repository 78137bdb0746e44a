"""Appending through the official client: one at a time, in sessions, and as a producer."""

import asyncio
from datetime import timedelta

import pytest
from s2_sdk import (
    AppendInput,
    BasinConfig,
    Batching,
    CommandRecord,
    Compression,
    FencingTokenMismatchError,
    Record,
    S2ServerError,
    S2Stream,
    SeqNum,
    SeqNumMismatchError,
    StreamConfig,
    Timestamping,
    TimestampingMode,
    metered_bytes,
)

from tests.conformance.cases import case
from tests.conformance.sdk import (
    BOTH_STORAGES,
    batch,
    bodies,
    connect,
    eventually,
    on_asyncio,
    read_all,
    seq_nums,
)
from tests.conformance.server_process import ServerProcess

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.parametrize("server", BOTH_STORAGES, indirect=True),
]
every_compression = pytest.mark.parametrize(
    "compression", list(Compression), ids=lambda each: each.value
)


@case(37, 39, 140, 157)
@every_compression
@on_asyncio
async def test_what_is_appended_is_read_back(
    server: ServerProcess, basin: str, stream: str, compression: Compression
) -> None:
    records = [
        Record(b"plain"),
        Record(b"", headers=[]),
        Record(bytes(range(256)), headers=[(b"k", b""), (b"k", b"v"), (b"\xff\x00", b"\xfe")]),
        Record(b"compressible " * 2000, headers=[("日本".encode(), "語".encode())]),
    ]
    async with connect(server, compression) as s2:
        ack = await s2[basin][stream].append(AppendInput(records))
        assert (ack.start.seq_num, ack.end.seq_num) == (0, 4)
        assert ack.tail == ack.end
        read = (await s2[basin][stream].read(start=SeqNum(0))).records
        assert seq_nums(read) == [0, 1, 2, 3]
        assert [(each.body, each.headers) for each in read] == [
            (each.body, each.headers) for each in records
        ]
        assert metered_bytes(read) == metered_bytes(records)
        assert ack.start.timestamp <= read[0].timestamp <= read[3].timestamp <= ack.end.timestamp
        assert await s2[basin][stream].check_tail() == ack.tail


@case(40, 41)
@on_asyncio
async def test_a_batch_may_be_as_large_as_the_limits_say(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]
        assert (await target.append(batch(*[b"a"] * 1000))).end.seq_num == 1000
        largest = bytes(1024 * 1024 - 8)
        assert (await target.append(batch(largest))).end.seq_num == 1001
        assert bodies((await target.read(start=SeqNum(1000))).records) == [largest]


@case(45)
@on_asyncio
async def test_concurrent_appends_each_get_a_place_of_their_own(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]
        acks = await asyncio.gather(*[target.append(batch(b"%d" % i)) for i in range(40)])
        read = await read_all(target)
        assert seq_nums(read) == list(range(40))
        assert {ack.start.seq_num: b"%d" % i for i, ack in enumerate(acks)} == {
            record.seq_num: record.body for record in read
        }


# --- conditions and commands --------------------------------------------------------------------


@case(48, 49)
@on_asyncio
async def test_an_append_that_names_its_seq_num_gets_that_or_nothing(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]
        await target.append(batch(b"a", b"b", match_seq_num=0))
        await target.append(batch(b"c", match_seq_num=2))
        for wrong in (0, 2, 4, 2**64 - 1):
            with pytest.raises(SeqNumMismatchError) as refusal:
                await target.append(batch(b"x", match_seq_num=wrong))
            assert refusal.value.expected_seq_num == 3
        assert bodies(await read_all(target)) == [b"a", b"b", b"c"]


@case(50, 51, 52, 54)
@on_asyncio
async def test_a_fence_keeps_out_whoever_names_another_token(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]
        await target.append(AppendInput([CommandRecord.fence("mine")], fencing_token=""))
        await target.append(batch(b"a", fencing_token="mine"))
        await target.append(batch(b"cooperative: no token, no check"))
        with pytest.raises(FencingTokenMismatchError) as refusal:
            await target.append(batch(b"x", fencing_token="yours", match_seq_num=99))
        assert refusal.value.expected_fencing_token == "mine"
        await target.append(AppendInput([CommandRecord.fence("")]))
        await target.append(batch(b"b", fencing_token=""))
        assert (await target.check_tail()).seq_num == 5


@case(63, 64, 65)
@on_asyncio
async def test_trimmed_records_are_gone_and_numbering_goes_on(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]
        await target.append(batch(b"0", b"1", b"2"))
        ack = await target.append(AppendInput([CommandRecord.trim(2)]))
        assert (ack.start.seq_num, ack.end.seq_num) == (3, 4)
        await eventually(lambda: _begins_at(target, 2))
        read = await read_all(target)
        assert seq_nums(read) == [2, 3]
        assert read[1].body == (2).to_bytes(8, "big")
        assert read[1].is_command_record()
        # The trim point never moves back, and never beyond the trim record itself.
        await target.append(AppendInput([CommandRecord.trim(1)]))
        assert seq_nums(await read_all(target)) == [2, 3, 4]
        await target.append(AppendInput([CommandRecord.trim(10**6)]))
        await eventually(lambda: _is_empty(target))
        assert (await target.append(batch(b"next"))).start.seq_num == 6


async def _begins_at(target: S2Stream, seq_num: int) -> bool:
    return (await read_all(target))[0].seq_num == seq_num


async def _is_empty(target: S2Stream) -> bool:
    return await read_all(target) == []


# --- timestamps ---------------------------------------------------------------------------------


@case(69, 70)
@on_asyncio
async def test_timestamps_never_go_back(server: ServerProcess, basin: str, stream: str) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]
        ack = await target.append(batch(b"a", b"b", b"c", timestamps=[1000, 900, 1100]))
        assert (ack.start.timestamp, ack.end.timestamp) == (1000, 1100)
        await target.append(batch(b"d", timestamps=[5]))
        assert [each.timestamp for each in await read_all(target)] == [1000, 1000, 1100, 1100]


@case(71, 74, 76)
@on_asyncio
async def test_a_new_timestamping_mode_is_in_force_with_the_next_append(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]
        await target.append(batch(b"a"))
        require = Timestamping(mode=TimestampingMode.CLIENT_REQUIRE, uncapped=True)
        await s2[basin].reconfigure_stream(stream, config=StreamConfig(timestamping=require))
        with pytest.raises(S2ServerError) as refusal:
            await target.append(batch(b"x"))
        assert (refusal.value.status_code, refusal.value.code) == (422, "invalid")
        far = 2**62
        ack = await target.append(batch(b"b", timestamps=[far]))
        assert (ack.start.seq_num, ack.end.timestamp) == (1, far)


# --- streams that come with the first append ----------------------------------------------------


@case(158, 161)
@on_asyncio
async def test_the_first_append_creates_the_stream_where_the_basin_allows_it(
    server: ServerProcess, basin: str
) -> None:
    async with connect(server) as s2:
        target = s2[basin]["new"]
        with pytest.raises(S2ServerError) as refusal:
            await target.append(batch(b"a"))
        assert (refusal.value.status_code, refusal.value.code) == (404, "stream_not_found")
        await s2.reconfigure_basin(basin, config=BasinConfig(create_stream_on_append=True))
        acks = await asyncio.gather(*[target.append(batch(b"%d" % i)) for i in range(10)])
        assert sorted(ack.start.seq_num for ack in acks) == list(range(10))
        assert [each.name for each in (await s2[basin].list_streams()).items] == ["new"]


@on_asyncio
async def test_a_stream_made_by_a_session_gets_the_config_that_came_with_it(
    server: ServerProcess, basin: str
) -> None:
    async with connect(server) as s2:
        await s2.reconfigure_basin(basin, config=BasinConfig(create_stream_on_append=True))
        config = StreamConfig(retention_policy=3600)
        async with s2[basin]["by-session"].append_session(stream_config=config) as session:
            await (await session.submit(batch(b"a")))
        assert (await s2[basin].get_stream_config("by-session")).retention_policy == 3600
        other = AppendInput([Record(b"b")], stream_config=StreamConfig(retention_policy=60))
        await s2[basin]["by-session"].append(other)
        assert (await s2[basin].get_stream_config("by-session")).retention_policy == 3600


# --- sessions -----------------------------------------------------------------------------------


@case(144, 150)
@every_compression
@on_asyncio
async def test_a_session_appends_in_the_order_of_its_inputs(
    server: ServerProcess, basin: str, stream: str, compression: Compression
) -> None:
    inputs = [batch(*[b"%d/%d " % (i, j) * 200 for j in range(1 + i % 4)]) for i in range(64)]
    async with connect(server, compression) as s2:
        target = s2[basin][stream]
        async with target.append_session() as session:
            tickets = [await session.submit(each) for each in inputs]
            acks = [await ticket for ticket in tickets]
        ends = [ack.end.seq_num for ack in acks]
        assert [0, *ends[:-1]] == [ack.start.seq_num for ack in acks]
        assert ends == sorted(ends)
        sent = [record.body for each in inputs for record in each.records]
        assert bodies(await read_all(target)) == sent
        assert (await target.check_tail()).seq_num == len(sent)


@case(145)
@on_asyncio
async def test_a_session_without_inputs_ends_in_good_order(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        async with s2[basin][stream].append_session():
            pass
        assert (await s2[basin][stream].check_tail()).seq_num == 0


@case(148)
@on_asyncio
async def test_a_failed_condition_ends_the_session_and_nothing_after_it_counts(
    server: ServerProcess, basin: str, stream: str
) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]
        session = target.append_session()
        first = await session.submit(batch(b"a", match_seq_num=0))
        second = await session.submit(batch(b"x", match_seq_num=0))
        third = await session.submit(batch(b"y"))
        assert (await first).end.seq_num == 1
        for ticket in (second, third):
            with pytest.raises(SeqNumMismatchError) as refusal:
                await ticket
            assert refusal.value.expected_seq_num == 1
        with pytest.raises(SeqNumMismatchError):
            await session.close()
        assert bodies(await read_all(target)) == [b"a"]


@case(150)
@on_asyncio
async def test_a_session_carries_more_than_fits_into_any_window(
    server: ServerProcess, basin: str, stream: str
) -> None:
    large = [bytes([i]) * 900_000 for i in range(24)]
    async with connect(server) as s2:
        target = s2[basin][stream]
        async with target.append_session() as session:
            tickets = [await session.submit(batch(each)) for each in large]
            acks = [await ticket for ticket in tickets]
        assert [ack.start.seq_num for ack in acks] == list(range(24))
        assert bodies(await read_all(target)) == large


@on_asyncio
async def test_many_sessions_share_a_stream(server: ServerProcess, basin: str, stream: str) -> None:
    async with connect(server) as s2:
        target = s2[basin][stream]

        async def write(name: int) -> None:
            async with target.append_session() as session:
                for i in range(30):
                    await session.submit(batch(b"%d:%d" % (name, i)))

        await asyncio.gather(*[write(name) for name in range(6)])
        read = bodies(await read_all(target))
        assert len(read) == 6 * 30
        for name in range(6):
            mine = [each for each in read if each.startswith(b"%d:" % name)]
            assert mine == [b"%d:%d" % (name, i) for i in range(30)]


@every_compression
@on_asyncio
async def test_a_producer_batches_records_and_tells_each_its_number(
    server: ServerProcess, basin: str, stream: str, compression: Compression
) -> None:
    batching = Batching(max_records=7, linger=timedelta(milliseconds=2))
    async with connect(server, compression) as s2:
        target = s2[basin][stream]
        async with target.producer(batching=batching, match_seq_num=0) as producer:
            tickets = [await producer.submit(Record(b"%d" % i)) for i in range(100)]
            acks = [await ticket for ticket in tickets]
        assert [ack.seq_num for ack in acks] == list(range(100))
        assert bodies(await read_all(target)) == [b"%d" % i for i in range(100)]
