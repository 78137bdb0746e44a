"""Servers that go away under their clients and come back where they were."""

import asyncio
from datetime import timedelta
from pathlib import Path

import attrs
import httpx
from s2_sdk import S2, AppendAck, AppendSession, Batching, Record, S2Stream, SeqNum

from tests.conformance.conftest import StartServer
from tests.conformance.sdk import batch, connect, read_all
from tests.conformance.server_process import ServerProcess

BASIN = "restarted-basin"
IN_FLIGHT = 20

Numbered = list[tuple[int, str]]


def start_with_streams(start_server: StartServer, root: Path, *names: str) -> ServerProcess:
    """A server on the directory, with empty streams."""
    server = start_server("--local-root", str(root))
    with httpx.Client(base_url=server.url, headers={"s2-basin": BASIN}) as http:
        assert http.post("/v1/basins", json={"basin": BASIN}).status_code == 201
        for name in names:
            assert http.post("/v1/streams", json={"stream": name}).status_code == 201
    return server


def start_again(start_server: StartServer, old: ServerProcess, root: Path) -> ServerProcess:
    """A server on the directory and at the place of one that has ended."""
    return start_server("--local-root", str(root), "--port", str(old.port))


async def contents(s2: S2, name: str) -> Numbered:
    """What a stream has."""
    return [(each.seq_num, each.body.decode()) for each in await read_all(s2[BASIN][name])]


def contents_now(server: ServerProcess, name: str) -> Numbered:
    """The same, where nothing else is under way."""

    found: Numbered = []

    async def read() -> None:
        async with connect(server) as s2:
            found.extend(await contents(s2, name))

    asyncio.run(read())
    return found


def check_interrupted(found: Numbered, acked: Numbered, sent: int) -> None:
    """Check what is left of somebody who sent the numbers from 0 on and was interrupted once.

    What was acked is where it was said to be. What was not is there as well, because the client
    sends it again, in order: so it may be there twice, if it is from just before the interruption.
    """
    assert [seq_num for seq_num, _ in found] == list(range(len(found)))
    assert set(acked) <= set(found)
    assert len({seq_num for seq_num, _ in acked}) == sent
    numbers = [int(body) for _, body in found]
    assert list(dict.fromkeys(numbers)) == list(range(sent))
    assert len(numbers) - sent <= IN_FLIGHT
    again = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
    assert len(again) <= 1


@attrs.define(eq=False)
class PythonSessions:
    """A program with the Python client that appends and follows until it is told to stop.

    An input that is submitted just when the connection breaks may get lost in the client, in
    version 0.13.0: `_body_gen` is cancelled while it has the input in hand, and from then on acks
    go to the wrong inputs. So a test sees to it that nothing is submitted at that moment: by
    `hold`, or because as much is in flight as may be.
    """

    _stream: S2Stream
    _enough: int
    read: Numbered = attrs.Factory(list)
    acked: Numbered = attrs.Factory(list)
    sent: int = 0
    under_way: asyncio.Event = attrs.Factory(asyncio.Event)
    _sending: asyncio.Event = attrs.Factory(asyncio.Event)
    _stopping: bool = False

    def hold(self) -> None:
        """Send nothing until `go_on` or `stop`."""
        self._sending.clear()

    def go_on(self) -> None:
        """Send again."""
        self._sending.set()

    async def wait_full(self) -> None:
        """Wait until all is in flight that may be, which takes a server that does not answer."""
        while self.sent - len(self.acked) <= IN_FLIGHT:  # noqa: ASYNC110 - only numbers change
            await asyncio.sleep(0.005)

    def stop(self) -> None:
        """Send nothing new; `run` returns when all is acked and read."""
        self._stopping = True
        self._sending.set()

    async def run(self) -> None:
        """Append numbers in one session, and follow in another."""
        self._sending.set()
        following = asyncio.create_task(self._follow())
        session = self._stream.append_session(max_unacked_batches=IN_FLIGHT)
        async with session, asyncio.TaskGroup() as acks:
            while not self._stopping:
                await self._send(session, acks)
                await asyncio.sleep(0.001)
                await self._sending.wait()
        tail = (await self._stream.check_tail()).seq_num
        while len(self.read) < tail:
            assert not following.done()
            await asyncio.sleep(0.005)
        following.cancel()
        await asyncio.wait([following])

    async def _send(self, session: AppendSession, acks: asyncio.TaskGroup) -> None:
        body, self.sent = str(self.sent), self.sent + 1
        ticket = await session.submit(batch(body.encode()))

        async def wait_ack() -> None:
            ack: AppendAck = await ticket
            self.acked.append((ack.start.seq_num, body))
            if len(self.acked) > self._enough and self.read:
                self.under_way.set()

        acks.create_task(wait_ack())

    async def _follow(self) -> None:
        async with self._stream.read_session(start=SeqNum(0)) as session:
            async for each in session:
                self.read += [(record.seq_num, record.body.decode()) for record in each.records]

    def check(self, found: Numbered) -> None:
        """Check that it has seen what there is, and that what it sent is there."""
        assert self.read == found
        check_interrupted(found, self.acked, self.sent)


async def produce_until(stop: asyncio.Event, stream: S2Stream) -> tuple[Numbered, int]:
    """Produce numbers until told to stop; return what was acked, and how many were sent."""
    batching = Batching(max_records=IN_FLIGHT, linger=timedelta(milliseconds=1))
    acked: Numbered = []
    sent = 0
    async with stream.producer(batching=batching) as producer:
        while not stop.is_set():
            tickets = []
            for _ in range(IN_FLIGHT):
                tickets.append((str(sent), await producer.submit(Record(b"%d" % sent))))
                sent += 1
            acked += [((await ticket).seq_num, body) for body, ticket in tickets]
    return acked, sent
