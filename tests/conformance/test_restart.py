"""Ending the server in good order, and starting it again on the same directory."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from s2_sdk import (
    S2,
    AppendInput,
    BasinConfig,
    CommandRecord,
    FencingTokenMismatchError,
    Record,
    S2Error,
    SeqNum,
    SequencedRecord,
    StreamConfig,
    StreamPosition,
)

from tests.conformance.conftest import StartServer
from tests.conformance.sdk import (
    batch,
    bodies,
    connect,
    eventually,
    on_asyncio,
    read_all,
    seq_nums,
    take,
)
from tests.conformance.server_process import ServerProcess, run_to_the_end

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

BASIN = "restart-basin"
TOKEN = {"s2-request-token": "the-token"}
BODY = {"basin": "replayed-basin", "config": {"create_stream_on_read": True}}


async def fill(s2: S2) -> None:
    """Something of everything that must survive."""
    config = StreamConfig(retention_policy="infinite", delete_on_empty_min_age=60)
    await s2.create_basin(BASIN, config=BasinConfig(default_stream_config=config))
    await s2.create_basin("emptied-basin")
    await s2[BASIN].create_stream("s", config=StreamConfig(storage_class="standard"))
    await s2[BASIN].create_stream("untouched")
    await s2[BASIN].create_stream("deleted")
    await s2[BASIN]["deleted"].append(batch(b"old"))
    await s2[BASIN].delete_stream("deleted")
    target = s2[BASIN]["s"]
    headers = [(b"k", b"\xff"), (b"k", b"")]
    async with target.append_session() as session:
        for i in range(200):
            await session.submit(batch(b"%d" % i, b"x" * i))
    await target.append(AppendInput([Record(b"\x00", headers=headers, timestamp=7)]))
    await target.append(AppendInput([CommandRecord.fence("owner")]))
    await target.append(AppendInput([CommandRecord.trim(100)], fencing_token="owner"))
    await target.append(batch(b"large" * 200_000, fencing_token="owner"))
    await s2.delete_basin("emptied-basin")
    await s2[BASIN].reconfigure_stream("s", config=StreamConfig(retention_policy=3600))


async def snapshot(s2: S2) -> dict[str, Any]:
    """Everything a client can see of it."""
    basins = [each async for each in s2.list_all_basins()]
    streams = [each async for each in s2[BASIN].list_all_streams()]
    return {
        "basins": basins,
        "basin configs": [await s2.get_basin_config(each.name) for each in basins],
        "streams": streams,
        "configs": [await s2[BASIN].get_stream_config(each.name) for each in streams],
        "tails": [await s2[BASIN][each.name].check_tail() for each in streams],
        "records": [await read_all(s2[BASIN][each.name]) for each in streams],
    }


@on_asyncio
async def test_a_restart_changes_nothing(start_server: StartServer, tmp_path: Path) -> None:
    root = ("--local-root", str(tmp_path / "new" / "store"))
    server = start_server(*root)
    async with connect(server) as s2:
        await fill(s2)
        created = await create_with_token(server)
        assert created.headers["s2-provision-result"] == "created"
        await eventually(lambda: _begins_at_the_trim_point(s2))
        before = await snapshot(s2)
    assert [each.name for each in before["basins"]] == ["replayed-basin", BASIN]
    assert [each.name for each in before["streams"]] == ["s", "untouched"]
    assert before["configs"][0].retention_policy == 3600
    assert before["configs"][0].storage_class == "standard"
    assert seq_nums(before["records"][0]) == list(range(100, 404))
    for _ in range(2):
        assert server.stop() == 0
        server = start_server(*root)
        async with connect(server) as s2:
            assert await snapshot(s2) == before
            replayed = await create_with_token(server)
            assert replayed.headers["s2-provision-result"] == "noop"
            assert replayed.json() == created.json()
            await _still_fenced(s2)
    async with connect(server) as s2:
        await _goes_on(s2, before["tails"][0], before["records"][0])


async def create_with_token(server: ServerProcess) -> httpx.Response:
    """Create a basin in a way that can be repeated."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        return await client.post("/v1/basins", json=BODY, headers=TOKEN)


async def _begins_at_the_trim_point(s2: S2) -> bool:
    return (await read_all(s2[BASIN]["s"]))[0].seq_num == 100


async def _still_fenced(s2: S2) -> None:
    with pytest.raises(FencingTokenMismatchError) as refusal:
        await s2[BASIN]["s"].append(batch(b"x", fencing_token="thief"))
    assert refusal.value.expected_fencing_token == "owner"


async def _goes_on(s2: S2, tail: StreamPosition, old: list[SequencedRecord]) -> None:
    target = s2[BASIN]["s"]
    ack = await target.append(
        batch(b"new", match_seq_num=tail.seq_num, fencing_token="owner", timestamps=[0])
    )
    # Timestamps go on where they were, although this one was sent as 0.
    assert ack.start == tail
    await target.append(AppendInput([CommandRecord.trim(50)]))  # the trim point does not move back
    assert bodies(await read_all(target))[: len(old) + 1] == [*bodies(old), b"new"]
    await s2[BASIN].create_stream("deleted")
    assert (await s2[BASIN]["deleted"].append(batch(b"fresh"))).start.seq_num == 0


@on_asyncio
async def test_a_deletion_that_was_under_way_is_finished_after_a_restart(
    start_server: StartServer, tmp_path: Path
) -> None:
    root = ("--local-root", str(tmp_path))
    server = start_server(*root)
    async with connect(server) as s2:
        await s2.create_basin(BASIN)
        for i in range(30):
            await s2[BASIN].create_stream(f"s{i}")
            await s2[BASIN][f"s{i}"].append(batch(b"x"))
        await s2.delete_basin(BASIN)
        server.kill()
    server = start_server(*root)
    async with connect(server) as s2:
        await eventually(lambda: _has_no_basins(s2))
        await s2.create_basin(BASIN)
        assert (await s2[BASIN].list_streams()).items == []


async def _has_no_basins(s2: S2) -> bool:
    return not (await s2.list_basins()).items


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_idle_server_ends_at_once_and_in_good_order(
    start_server: StartServer, number: signal.Signals
) -> None:
    server = start_server()
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/ping").text == "OK"  # and a connection that is kept open
        server.signal(number)
        assert server.process.wait(5) == 0
    assert server.wait() == 0


@on_asyncio
async def test_sessions_do_not_keep_the_server_from_ending(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server("--local-root", str(tmp_path))
    async with connect(server) as s2:
        await s2.create_basin(BASIN)
        await s2[BASIN].create_stream("s")
        target = s2[BASIN]["s"]
        append_session = target.append_session()
        await (await append_session.submit(batch(b"a")))
        async with target.read_session(start=SeqNum(0)) as follower:
            await take(follower, 1)
            server.signal(signal.SIGTERM)
            server.signal(signal.SIGTERM)  # a second one has no effect
            started = asyncio.get_running_loop().time()
            assert await asyncio.to_thread(server.wait) == 0
            assert asyncio.get_running_loop().time() - started < 12
            with pytest.raises(S2Error):
                await anext(follower)
        with pytest.raises(S2Error):
            await (await append_session.submit(batch(b"b")))
        with pytest.raises(S2Error):
            await append_session.close()


@on_asyncio
async def test_what_is_acked_while_the_server_ends_is_there_afterwards(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server("--local-root", str(tmp_path))
    acked: list[tuple[int, bytes]] = []
    many = asyncio.Event()
    async with connect(server) as s2:
        await s2.create_basin(BASIN)
        await s2[BASIN].create_stream("s")

        async def write(name: int) -> None:
            async with connect(server) as mine:
                for i in range(10**6):
                    body = b"%d:%d" % (name, i)
                    ack = await mine[BASIN]["s"].append(batch(body))
                    acked.append((ack.start.seq_num, body))
                    if len(acked) == 50:
                        many.set()

        writers = [asyncio.create_task(write(name)) for name in range(8)]
        await many.wait()
        server.signal(signal.SIGTERM)
        await asyncio.gather(*writers, return_exceptions=True)
    assert await asyncio.to_thread(server.wait) == 0
    server = start_server("--local-root", str(tmp_path))
    async with connect(server) as s2:
        read = {each.seq_num: each.body for each in await read_all(s2[BASIN]["s"])}
        assert dict(acked).items() <= read.items()
        assert list(read) == list(range(len(read)))


def test_a_second_server_on_the_directory_is_refused(
    start_server: StartServer, tmp_path: Path
) -> None:
    root = ("--local-root", str(tmp_path))
    first = start_server(*root)
    second = run_to_the_end(*root)
    assert second.returncode == 1
    problems = [line for line in second.stdout.splitlines() if "ERROR" in line]
    assert len(problems) == 1
    assert "in use by another server" in problems[0]
    assert str(tmp_path) in problems[0]
    assert "Traceback" not in second.stdout + second.stderr
    assert httpx.post(f"{first.url}/v1/basins", json={"basin": BASIN}).status_code == 201
    assert httpx.get(f"{first.url}/health").text == "OK"
    # Two paths below one directory are two stores.
    other: ServerProcess = start_server(*root, "--path", "other")
    assert httpx.get(f"{other.url}/v1/basins").json()["basins"] == []
