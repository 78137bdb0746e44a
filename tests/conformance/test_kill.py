"""Power failures: the server is killed at random moments, and nothing acked is lost."""

import asyncio
import random
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from s2_sdk import S2, Batching, Record, S2Error, S2Stream

from tests.conformance.conftest import StartServer
from tests.conformance.sdk import batch, connect, on_asyncio, read_all
from tests.conformance.server_process import ServerProcess

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

BASIN = "kill-basin"
SEED = 20240601
ROUNDS = 4
SESSIONS = 3

Place = tuple[int, int, int]  # session, batch, index in the batch


@attrs.define(eq=False)
class ClientLog:
    """What clients sent in one round, and what they were told of it."""

    number: int
    sent: dict[int, list[list[bytes]]] = attrs.Factory(dict)
    acked: dict[int, bytes] = attrs.Factory(dict)
    first_ack: asyncio.Event = attrs.Factory(asyncio.Event)

    def body(self, session: int, batch_number: int, index: int, filling: int) -> bytes:
        """A body that tells where it belongs."""
        return b"%d/%d/%d/%d/" % (self.number, session, batch_number, index) + b"x" * filling

    def note(self, seq_num: int, bodies: list[bytes]) -> None:
        """Remember what was acked."""
        for offset, body in enumerate(bodies):
            assert seq_num + offset not in self.acked
            self.acked[seq_num + offset] = body
        self.first_ack.set()


async def write_session(stream: S2Stream, log: ClientLog, session: int, rng: random.Random) -> None:
    """Append with many inputs under way until the connection breaks."""
    sent = log.sent[session] = []
    acks = []

    async def wait_ack(ticket: object, bodies: list[bytes]) -> None:
        ack = await ticket  # type: ignore[misc]  # the client's tickets are awaitable
        log.note(ack.start.seq_num, bodies)

    appends = stream.append_session(max_unacked_batches=64)
    try:
        while True:
            count = rng.choice([1, 1, 1, 2, 7, 40])
            filling = rng.choice([0, 10, 500, 5000])
            bodies = [log.body(session, len(sent), i, filling) for i in range(count)]
            sent.append(bodies)
            ticket = await appends.submit(batch(*bodies))
            acks.append(asyncio.create_task(wait_ack(ticket, bodies)))
            await asyncio.sleep(0)
    except S2Error:
        await asyncio.gather(*acks, return_exceptions=True)
    with pytest.raises(S2Error):
        await appends.close()


async def write_producer(stream: S2Stream, log: ClientLog) -> None:
    """Produce single records, which the client batches, until the connection breaks."""
    sent = log.sent[0] = []
    acks = []

    async def wait_ack(ticket: object, body: bytes) -> None:
        ack = await ticket  # type: ignore[misc]  # the client's tickets are awaitable
        log.note(ack.seq_num, [body])

    batching = Batching(max_records=20, linger=timedelta(milliseconds=1))
    producer = stream.producer(batching=batching)
    try:
        while True:
            body = log.body(0, len(sent), 0, 30)
            sent.append([body])
            acks.append(asyncio.create_task(wait_ack(await producer.submit(Record(body)), body)))
            if len(sent) % 50 == 0:
                await asyncio.sleep(0.001)
    except S2Error:
        await asyncio.gather(*acks, return_exceptions=True)
    with pytest.raises(S2Error):
        await producer.close()


async def run_round(
    server: ServerProcess, number: int, rng: random.Random
) -> tuple[ClientLog, ClientLog]:
    """Write to two streams, kill the server in the middle of it, and return what was told."""
    sessions, produced = ClientLog(number), ClientLog(number)
    async with connect(server) as s2, asyncio.TaskGroup() as tasks:
        for session in range(SESSIONS):
            seeded = random.Random(rng.randbytes(8))
            tasks.create_task(write_session(s2[BASIN]["a"], sessions, session, seeded))
        tasks.create_task(write_producer(s2[BASIN]["b"], produced))
        await sessions.first_ack.wait()
        await produced.first_ack.wait()
        await asyncio.sleep(rng.uniform(0.0, 0.5))
        server.kill()
    return sessions, produced


async def check(stream: S2Stream, logs: list[ClientLog]) -> int:
    """Compare the stream with what clients know of it; return how many records there are."""
    read = await read_all(stream)
    assert [record.seq_num for record in read] == list(range(len(read)))
    timestamps = [record.timestamp for record in read]
    assert timestamps == sorted(timestamps)
    found = [record.body for record in read]
    for log in logs:
        assert {seq_num: found[seq_num] for seq_num in log.acked} == log.acked
    for log in logs:
        for session, sent in log.sent.items():
            _check_whole_batches(found, log.number, session, sent)
    return len(read)


def _check_whole_batches(
    found: list[bytes], number: int, session: int, sent: list[list[bytes]]
) -> None:
    """A session's records are those of its first batches, whole, in order, each once."""
    places = [i for i, body in enumerate(found) if body.startswith(b"%d/%d/" % (number, session))]
    mine = [found[i] for i in places]
    taken = 0
    for bodies in sent:
        if taken == len(mine):
            return
        assert mine[taken : taken + len(bodies)] == bodies
        first = places[taken]
        # Atomic also means: no record of anyone else in between.
        assert places[taken : taken + len(bodies)] == list(range(first, first + len(bodies)))
        taken += len(bodies)
    assert taken == len(mine)


async def prepare(s2: S2) -> None:
    await s2.create_basin(BASIN)
    await s2[BASIN].create_stream("a")
    await s2[BASIN].create_stream("b")


@on_asyncio
async def test_nothing_that_was_acked_is_lost_when_the_server_is_killed(
    start_server: StartServer, tmp_path: Path
) -> None:
    rng = random.Random(SEED)
    root = ("--local-root", str(tmp_path))
    server = start_server(*root)
    async with connect(server) as s2:
        await prepare(s2)
    session_logs, producer_logs = [], []
    for number in range(ROUNDS):
        sessions, produced = await run_round(server, number, rng)
        session_logs.append(sessions)
        producer_logs.append(produced)
        server = start_server(*root)
        async with connect(server) as s2:
            for name, logs in (("a", session_logs), ("b", producer_logs)):
                tail = await check(s2[BASIN][name], logs)
                assert (await s2[BASIN][name].check_tail()).seq_num == tail
    print("records that survived:", tail, "acked:", [len(each.acked) for each in session_logs])
    assert server.stop() == 0


@on_asyncio
async def test_a_server_that_is_killed_while_it_starts_can_be_started_again(
    start_server: StartServer, tmp_path: Path
) -> None:
    rng = random.Random(SEED)
    root = ("--local-root", str(tmp_path))
    server = start_server(*root)
    async with connect(server) as s2:
        await prepare(s2)
        for i in range(50):
            await s2[BASIN]["a"].append(batch(b"%d" % i))
    server.kill()
    for _ in range(3):
        server = start_server(*root, ready=False)
        await asyncio.sleep(rng.uniform(0.3, 1.0))
        server.kill()
    server = start_server(*root)
    async with connect(server) as s2:
        read = await read_all(s2[BASIN]["a"])
        assert [record.body for record in read] == [b"%d" % i for i in range(50)]
        assert (await s2[BASIN]["a"].append(batch(b"on"))).start.seq_num == 50
