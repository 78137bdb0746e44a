"""Encryption with keys of the client's: through the official client, and as raw HTTP."""

import asyncio
import base64
from pathlib import Path

import httpx
import pytest
from s2_sdk import (
    AppendInput,
    BasinConfig,
    CommandRecord,
    Compression,
    Encryption,
    FencingTokenMismatchError,
    Record,
    S2Error,
    S2Stream,
    SeqNum,
)

from tests.conformance.cases import case
from tests.conformance.conftest import StartServer, new_basin_name
from tests.conformance.raw import RECORDS
from tests.conformance.sdk import (
    BOTH_STORAGES,
    batch,
    bodies,
    connect,
    drain,
    on_asyncio,
    read_all,
    take,
)
from tests.conformance.server_process import ServerProcess

pytestmark = [pytest.mark.conformance]

SECRET = b"this is the key of 32 bytes here"
KEY = base64.b64encode(SECRET).decode()
OTHER_KEY = base64.b64encode(bytes(range(32))).decode()

every_cipher = pytest.mark.parametrize("cipher", list(Encryption), ids=lambda each: each.value)


async def _new_stream(server: ServerProcess, cipher: Encryption, basin: str) -> None:
    async with connect(server) as s2:
        await s2.create_basin(basin, config=BasinConfig(stream_cipher=cipher))
        await s2[basin].create_stream("s")


@case(165, 170)
@every_cipher
@pytest.mark.parametrize("server", BOTH_STORAGES, indirect=True)
@on_asyncio
async def test_what_is_appended_with_a_key_is_read_with_it_in_every_way(
    server: ServerProcess, cipher: Encryption
) -> None:
    basin = new_basin_name()
    await _new_stream(server, cipher, basin)
    async with connect(server, Compression.ZSTD) as s2:
        target = s2[basin].stream("s", encryption_key=SECRET)
        fence = await target.append(AppendInput([CommandRecord.fence("mine")]))
        assert (fence.start.seq_num, fence.end.seq_num) == (0, 1)
        with pytest.raises(FencingTokenMismatchError):
            await target.append(batch(b"x", fencing_token="yours"))
        follower = asyncio.create_task(take(target.read_session(start=SeqNum(0)), 54))
        await target.append(
            AppendInput([Record(b"a", headers=[(b"k", b"v")]), Record(b"b")], fencing_token="mine")
        )
        async with target.append_session() as session:
            tickets = [await session.submit(batch(bytes([n]) * 2000)) for n in range(50)]
            assert [(await ticket).start.seq_num for ticket in tickets] == list(range(3, 53))
        async with target.producer() as producer:
            assert (await (await producer.submit(Record(b"produced")))).seq_num == 53
        expected = [b"mine", b"a", b"b", *[bytes([n]) * 2000 for n in range(50)], b"produced"]
        assert bodies(await read_all(target)) == bodies(await follower) == expected
        assert (await target.read(start=SeqNum(1))).records[0].headers == [(b"k", b"v")]


@case(166, 167, 168, 171, 172)
@every_cipher
@on_asyncio
async def test_no_key_and_another_key_are_told_apart(
    server: ServerProcess, cipher: Encryption
) -> None:
    basin = new_basin_name()
    await _new_stream(server, cipher, basin)
    async with connect(server) as s2:
        mine, theirs = (s2[basin].stream("s", encryption_key=key) for key in (KEY, OTHER_KEY))
        await mine.append(batch(b"mine"))
        await theirs.append(batch(b"theirs"))
        bare = s2[basin]["s"]
        assert (await bare.check_tail()).seq_num == 2
        for refused in (bare, s2[basin].stream("s", encryption_key=bytes(4))):
            await _is_refused(refused, cipher)
        assert bodies((await theirs.read(start=SeqNum(1))).records) == [b"theirs"]
        for target in (mine, theirs):
            with pytest.raises(S2Error, match="record decryption failed"):
                await target.read(start=SeqNum(0))
            with pytest.raises(S2Error, match="record decryption failed"):
                await drain(target.read_session(start=SeqNum(0), wait=0))


async def _is_refused(target: S2Stream, cipher: Encryption) -> None:
    for attempt in (
        target.append(batch(b"x")),
        target.read(start=SeqNum(0)),
        drain(target.read_session(start=SeqNum(0), wait=0)),
    ):
        with pytest.raises(S2Error, match=cipher.value):
            await attempt


@case(167, 169)
def test_a_wrong_key_ends_each_kind_of_read_in_its_own_way(http: httpx.Client) -> None:
    http.headers["s2-basin"] = basin = new_basin_name()
    config = {"stream_cipher": "aegis-256"}
    assert http.post("/v1/basins", json={"basin": basin, "config": config}).status_code == 201
    assert http.post("/v1/streams", json={"stream": "s"}).status_code == 201
    mine, theirs = ({"s2-encryption-key": key} for key in (KEY, OTHER_KEY))
    body = {"records": [{"body": "a"}]}
    assert http.post(RECORDS, json=body, headers=mine).status_code == 200
    unary = http.get(RECORDS, params={"seq_num": 0}, headers=theirs)
    assert (unary.status_code, unary.json()["code"]) == (400, "decryption_failed")
    framed = http.get(
        RECORDS, params={"seq_num": 0}, headers={**theirs, "content-type": "s2s/proto"}
    )
    assert framed.status_code == 200
    assert framed.content[3:6] == bytes((0x80, 400 >> 8, 400 & 0xFF))
    assert b'"decryption_failed"' in framed.content
    events = http.get(
        RECORDS, params={"seq_num": 0}, headers={**theirs, "accept": "text/event-stream"}
    )
    assert events.status_code == 200
    assert events.text.startswith("event: error\n")
    assert "decryption_failed" in events.text
    assert "[DONE]" not in events.text
    long = http.post(RECORDS, json=body, headers={"s2-encryption-key": "A" * 45})
    assert (long.status_code, long.json()["code"]) == (400, "bad_header")


@case(165, 173)
@pytest.mark.slow
@on_asyncio
async def test_a_server_that_is_started_again_needs_the_key_and_keeps_none(
    start_server: StartServer, tmp_path: Path
) -> None:
    root = ("--local-root", str(tmp_path))
    server = start_server(*root)
    await _new_stream(server, Encryption.AEGIS_256, "secret-basin")
    texts = [b"nobody may read record %d" % number for number in range(100)]
    for stop in (ServerProcess.kill, ServerProcess.stop):
        async with connect(server) as s2:
            target = s2["secret-basin"].stream("s", encryption_key=KEY)
            await target.append(batch(*texts))
            await s2.reconfigure_basin("secret-basin", config=BasinConfig(stream_cipher=None))
        stop(server)
        server = start_server(*root)
    async with connect(server) as s2:
        target = s2["secret-basin"].stream("s", encryption_key=KEY)
        assert bodies(await read_all(target)) == texts * 2
        with pytest.raises(S2Error, match="missing encryption key"):
            await s2["secret-basin"]["s"].read(start=SeqNum(0))
    server.stop()
    stored = _all_bytes_in(tmp_path)
    assert len(stored) > 2 * len(b"".join(texts))
    for secret in (b"nobody may read", SECRET, KEY.encode(), SECRET.hex().encode()):
        assert secret not in stored
        assert not any(secret.decode() in line for line in server.output)


def _all_bytes_in(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())
