"""What the official Python client does by itself when the server goes away: it tries again."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from s2_sdk import (
    AppendRetryPolicy,
    ReadLimit,
    S2Stream,
    SeqNum,
    SeqNumMismatchError,
)

from tests.conformance.conftest import StartServer
from tests.conformance.restarts import (
    BASIN,
    PythonSessions,
    check_interrupted,
    contents,
    produce_until,
    start_again,
    start_with_streams,
)
from tests.conformance.sdk import (
    batch,
    connect_patiently,
    drain,
    on_asyncio,
    seq_nums,
)

pytestmark = [pytest.mark.conformance, pytest.mark.slow]


async def append_once_each(stream: S2Stream, count: int, under_way: asyncio.Event) -> None:
    """Append each number once: each names its place, and a mismatch tells how far it got."""
    done = 0
    while done < count:
        session = stream.append_session(max_unacked_batches=20)
        try:
            tickets = []
            for i in range(done, count):
                tickets.append(await session.submit(batch(b"%d" % i, match_seq_num=i)))
                await asyncio.sleep(0.001)
                if i == count // 2:
                    under_way.set()
            for ticket in tickets:
                await ticket
            await session.close()
            done = count
        except SeqNumMismatchError as refusal:
            done = refusal.expected_seq_num
            with pytest.raises(SeqNumMismatchError):
                await session.close()


async def append_before_and_after(
    stream: S2Stream, under_way: asyncio.Event, ended: asyncio.Event
) -> int:
    """One append to a server that is there, and one to a server that has yet to come back."""
    await stream.append(batch(b"0"))
    under_way.set()
    await ended.wait()
    end: int = (await stream.append(batch(b"1"))).end.seq_num
    return end


@pytest.mark.skipif(
    "S2LITE_PYTHON_CLIENT_KILLS" not in os.environ,
    reason="s2-sdk 0.13.0 can lose an input at the moment its connection breaks, and then waits"
    " for ever; set S2LITE_PYTHON_CLIENT_KILLS to run this all the same",
)
@on_asyncio
async def test_the_client_goes_on_when_the_server_is_killed_and_comes_back(
    start_server: StartServer, tmp_path: Path
) -> None:
    names = ("sessions", "producer", "once", "unary")
    server = start_with_streams(start_server, tmp_path, *names)
    ended, back, once, unary = [asyncio.Event() for _ in range(4)]
    async with connect_patiently(server) as s2:
        streams = s2[BASIN]
        sessions = PythonSessions(streams["sessions"], enough=100)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sessions.run())
            producing = tasks.create_task(produce_until(back, streams["producer"]))
            tasks.create_task(append_once_each(streams["once"], 300, once))
            single = tasks.create_task(append_before_and_after(streams["unary"], unary, ended))
            bounded = streams["once"].read_session(
                start=SeqNum(0), limit=ReadLimit(count=300), wait=20
            )
            reading = tasks.create_task(drain(bounded))
            for event in (sessions.under_way, once, unary):
                await event.wait()
            server.signal(signal.SIGSTOP)
            await sessions.wait_full()
            server.kill()
            ended.set()
            server = await asyncio.to_thread(start_again, start_server, server, tmp_path)
            back.set()
            sessions.stop()
        sessions.check(await contents(s2, "sessions"))
        check_interrupted(await contents(s2, "producer"), *producing.result())
        assert await contents(s2, "once") == [(i, str(i)) for i in range(300)]
        assert seq_nums(reading.result()) == list(range(300))
        assert single.result() == 2


@on_asyncio
async def test_a_cautious_client_goes_on_as_well_if_nothing_was_under_way(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_with_streams(start_server, tmp_path, "s")
    async with connect_patiently(server, AppendRetryPolicy.NO_SIDE_EFFECTS) as s2:
        session = s2[BASIN]["s"].append_session()
        await (await session.submit(batch(b"0")))
        server.kill()
        server = await asyncio.to_thread(start_again, start_server, server, tmp_path)
        await (await session.submit(batch(b"1")))
        await session.close()
        assert await contents(s2, "s") == [(0, "0"), (1, "1")]
