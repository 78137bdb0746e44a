"""Read sessions as frames: what they begin with, what ends them, and readers that lag."""

from collections.abc import AsyncIterator

import httpx
import pytest
import trio

from s2lite.codec import s2_pb2
from tests.api.frames import Frame
from tests.conformance.cases import case
from tests.conformance.conftest import OpenSession
from tests.conformance.raw import (
    RECORDS,
    appended,
    fill,
    next_frame,
    read,
    stamped,
    trim_command,
)
from tests.conformance.server_process import ServerProcess
from tests.conformance.sessions import S2S, H2Session, Session
from tests.serving.clients import H2Client

pytestmark = [pytest.mark.conformance]

LAGGING_BATCHES = 60


def seq_nums(frame: Frame) -> list[int]:
    """The numbers of a batch's records."""
    return [record.seq_num for record in frame.batch.records]


async def batches_of(session: Session) -> list[s2_pb2.ReadBatch]:
    """Everything up to the end of a session."""
    batches = []
    while (frame := await session.frame()) is not None:
        batches.append(frame.batch)
    return batches


@case(104)
async def test_a_session_that_does_not_wait_ends_at_the_tail(
    open_session: OpenSession, http: httpx.Client
) -> None:
    fill(http, *"01234")
    session = await open_session("GET", "?seq_num=0&wait=0")
    (batch,) = await batches_of(session)
    assert [record.body for record in batch.records] == [b"0", b"1", b"2", b"3", b"4"]
    assert not batch.HasField("tail")


@case(107)
@pytest.mark.parametrize("query", ["?seq_num=10", "?seq_num=10&wait=5", "?timestamp=1001"])
async def test_a_session_past_the_tail_is_refused(
    open_session: OpenSession, http: httpx.Client, query: str
) -> None:
    fill(http, "a")
    session = await open_session("GET", query)
    head = await session.head()
    assert (head.status, head.headers["content-type"]) == (416, "application/json")
    assert await session.rest() == b'{"tail":{"seq_num":1,"timestamp":1000}}'


@case(107)
async def test_a_session_past_the_tail_follows_from_there_if_it_is_clamped(
    open_session: OpenSession, http: httpx.Client
) -> None:
    fill(http, "a")
    session = await open_session("GET", "?seq_num=10&clamp=true")
    heartbeat = (await next_frame(session)).batch
    assert (len(heartbeat.records), heartbeat.tail.seq_num) == (0, 1)
    fill(http, "b")
    assert seq_nums(await next_frame(session)) == [1]


@case(113)
@pytest.mark.parametrize("live", [3, 2], ids=["more than fits", "exactly what fits"])
async def test_a_count_ends_a_session_within_a_live_batch(
    open_session: OpenSession, http: httpx.Client, live: int
) -> None:
    fill(http, "old")
    session = await open_session("GET", "?seq_num=0&count=3&wait=30")
    assert seq_nums(await next_frame(session)) == [0]
    assert (await next_frame(session)).batch.tail.seq_num == 1
    fill(http, *["live"] * live)
    last = await next_frame(session)
    assert seq_nums(last) == [1, 2]
    assert last.batch.tail.seq_num == 1 + live  # of the whole batch
    assert await session.frame() is None


@case(114)
@pytest.mark.parametrize(("metered_bytes", "expected"), [(18, [0, 1]), (26, [0, 1]), (8, [])])
async def test_bytes_end_a_session_within_a_live_batch(
    open_session: OpenSession, http: httpx.Client, metered_bytes: int, expected: list[int]
) -> None:
    session = await open_session("GET", f"?bytes={metered_bytes}&wait=30")
    assert seq_nums(await next_frame(session)) == []
    fill(http, "a", "b", "c")  # 9 bytes each
    if expected:
        assert seq_nums(await next_frame(session)) == expected
    assert await session.frame() is None


@case(115)
async def test_a_timestamp_ends_a_session_at_the_first_live_record_beyond(
    open_session: OpenSession, http: httpx.Client
) -> None:
    session = await open_session("GET", "?until=2500&wait=30")
    await next_frame(session)
    appended(http, stamped(2000))
    assert seq_nums(await next_frame(session)) == [0]
    appended(http, stamped(3000))
    assert await session.frame() is None


@case(120)
async def test_what_is_caught_up_with_comes_in_batches_of_a_thousand_records(
    open_session: OpenSession, http: httpx.Client
) -> None:
    for count in (1000, 700, 800):
        fill(http, *["a"] * count)
    session = await open_session("GET", "?seq_num=0&wait=0")
    batches = await batches_of(session)
    found = [record.seq_num for batch in batches for record in batch.records]
    assert found == list(range(2500))
    assert all(len(batch.records) <= 1000 for batch in batches)
    assert not any(batch.HasField("tail") for batch in batches)


@case(121)
async def test_what_is_caught_up_with_comes_in_batches_of_a_mebibyte(
    open_session: OpenSession, http: httpx.Client
) -> None:
    for _ in range(2):
        fill(http, "x" * 700_000)
    session = await open_session("GET", "?seq_num=0&wait=0")
    batches = await batches_of(session)
    assert [[record.seq_num for record in batch.records] for batch in batches] == [[0], [1]]


@case(129)
async def test_the_id_of_an_event_means_nothing_to_a_session_of_frames(
    open_session: OpenSession, http: httpx.Client
) -> None:
    fill(http, "a", "b")
    session = await open_session("GET", "?seq_num=0&count=2", last_event_id="bogus")
    assert seq_nums(await next_frame(session)) == [0, 1]
    assert read(http, "seq_num=0", last_event_id="0,1,10").json()["records"][0]["seq_num"] == 0


# --- readers that lag ---------------------------------------------------------------------------


class Lagging:
    """A session at the tail, whose client stops reading when its window is used up.

    The first live batch is larger than that window. So it is the last that the server can send for
    now, and what follows it exceeds what the server keeps for a follower.
    """

    def __init__(self, session: H2Session, http: httpx.Client) -> None:
        self.session = session
        self.http = http

    @classmethod
    async def open(cls, server: ServerProcess, http: httpx.Client, query: str) -> "Lagging":
        client = await H2Client.connect(server.port)
        named = {**S2S, "s2-basin": http.headers["s2-basin"]}
        headers = [(name.encode(), value.encode()) for name, value in named.items()]
        number = await client.request(f"{RECORDS}?{query}", headers=headers)
        session = H2Session(client, number)
        assert (await next_frame(session)).batch.tail.seq_num == 0
        client.returns_credit = False
        return cls(session, http)

    async def append(self) -> None:
        """Append more than a follower may lag behind: a batch that stalls it, and small ones."""
        appended(self.http, stamped(1000, "x" * 900_000))
        client, answer = self.session.client, self.session.client.answers[self.session.stream_id]
        await client.until(lambda: answer.unacknowledged >= 65_000)
        for number in range(1, LAGGING_BATCHES):
            appended(self.http, stamped(1000 + number, f"{number:03}"))

    async def resume(self) -> None:
        """Read on, beginning with the batch that stalled."""
        client, number = self.session.client, self.session.stream_id
        client.returns_credit = True
        client.h2.acknowledge_received_data(client.answers[number].unacknowledged, number)
        client.answers[number].unacknowledged = 0
        await client.flush()
        stalled = await next_frame(self.session)
        assert seq_nums(stalled) == [0]
        assert stalled.batch.tail.seq_num == 1

    async def caught_up(self, count: int) -> list[int]:
        """The numbers of this many records, none of which came live."""
        found: list[int] = []
        while len(found) < count:
            batch = (await next_frame(self.session)).batch
            assert not batch.HasField("tail"), "a follower that lags is not sent live batches"
            found += [record.seq_num for record in batch.records]
        return found


@pytest.fixture
async def lagging(
    request: pytest.FixtureRequest, server: ServerProcess, http: httpx.Client, stream: str
) -> AsyncIterator[Lagging]:
    """A lagging session with the query that is its parameter."""
    lagging = await Lagging.open(server, http, request.param)
    yield lagging
    await lagging.session.aclose()


@case(116, 118)
@pytest.mark.parametrize("lagging", ["wait=30", ""], indirect=True, ids=["waiting", "following"])
async def test_a_follower_that_lags_gets_everything_from_storage_and_follows_again(
    lagging: Lagging,
) -> None:
    await lagging.append()
    await lagging.resume()
    assert await lagging.caught_up(LAGGING_BATCHES - 1) == list(range(1, LAGGING_BATCHES))
    assert (await next_frame(lagging.session)).batch.tail.seq_num == LAGGING_BATCHES
    ack = appended(lagging.http, "live")
    live = await next_frame(lagging.session)
    assert seq_nums(live) == [LAGGING_BATCHES]
    assert live.batch.tail == s2_pb2.StreamPosition(**ack["tail"])


@case(117)
@pytest.mark.parametrize(
    "lagging",
    ["wait=30&count=3", f"wait=30&bytes={900_008 + 2 * 11}", "wait=30&until=1003"],
    indirect=True,
    ids=["count", "bytes", "until"],
)
async def test_the_limits_of_a_follower_hold_when_it_lags(lagging: Lagging) -> None:
    await lagging.append()
    await lagging.resume()
    assert await lagging.caught_up(2) == [1, 2]
    assert await lagging.session.frame() is None


@case(118)
@pytest.mark.parametrize("lagging", ["wait=1"], indirect=True)
@pytest.mark.slow
async def test_a_follower_whose_records_are_gone_and_whose_time_is_up_ends(
    lagging: Lagging,
) -> None:
    await lagging.append()
    appended(lagging.http, trim_command(127))
    # The server's clock decides, so a read that waits for as long is what to wait for.
    assert read(lagging.http, "tail_offset=0&wait=2").json() == {"records": []}
    await lagging.resume()
    assert await lagging.session.frame(patience_seconds=0.8) is None


@case(116)
@pytest.mark.parametrize("lagging", ["wait=1"], indirect=True)
@pytest.mark.slow
async def test_a_follower_that_catches_up_after_its_time_is_up_gets_new_time(
    lagging: Lagging,
) -> None:
    await lagging.append()
    assert read(lagging.http, "tail_offset=0&wait=2").json() == {"records": []}
    await lagging.resume()
    resumed = trio.current_time()
    assert await lagging.caught_up(LAGGING_BATCHES - 1) == list(range(1, LAGGING_BATCHES))
    assert (await next_frame(lagging.session)).batch.tail.seq_num == LAGGING_BATCHES
    assert await lagging.session.frame() is None
    assert trio.current_time() - resumed > 0.95
