"""S2S sessions by the byte, on both HTTP versions: what no client library would show."""

import gzip

import httpx
import pytest
import zstandard

from s2lite.codec import s2_pb2
from s2lite.codec.s2s import Compression
from tests.api.frames import (
    Frame,
    append_frame,
    append_message,
    command_message,
    frame,
)
from tests.conformance.cases import case
from tests.conformance.conftest import OpenSession
from tests.conformance.raw import (
    RECORDS,
    append,
    bodies_of,
    create_stream,
    fill,
    next_frame,
    records_of,
    tail_of,
)
from tests.conformance.server_process import ServerProcess
from tests.conformance.sessions import S2S, H2Session

pytestmark = [pytest.mark.conformance]

LARGEST_FRAME_VALUE = 2 * 1024 * 1024

# --- heads --------------------------------------------------------------------------------------


@case(152)
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_session_has_its_head_before_anything_is_sent(
    open_session: OpenSession, method: str
) -> None:
    session = await open_session(method, accept_encoding="gzip, zstd")
    head = await session.head()
    assert head.status == 200
    assert head.headers["content-type"] == "s2s/proto"
    assert head.headers["cache-control"] == "no-cache, no-transform"
    assert head.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in head.headers
    assert "content-length" not in head.headers


@case(123, 155)
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_session_on_a_missing_stream_is_an_ordinary_error(
    open_session: OpenSession, method: str
) -> None:
    session = await open_session(method, path="/v1/streams/missing/records")
    head = await session.head()
    assert (head.status, head.headers["content-type"]) == (404, "application/json")
    assert b'"stream_not_found"' in await session.rest()


@case(107)
async def test_a_read_session_past_the_tail_is_an_ordinary_error(
    open_session: OpenSession,
) -> None:
    session = await open_session("GET", "?seq_num=1")
    assert (await session.head()).status == 416
    assert await session.rest() == b'{"tail":{"seq_num":0,"timestamp":0}}'


# --- appending ----------------------------------------------------------------------------------


@case(144, 153)
async def test_inputs_are_acked_while_the_request_goes_on(open_session: OpenSession) -> None:
    session = await open_session()
    for i in range(3):
        await session.send(append_frame(b"a", b"b"))
        assert (await next_frame(session)).ack == (2 * i, 2 * i + 2)
    await session.send(b"".join(append_frame(b"c") for _ in range(3)), end=True)
    assert [(await next_frame(session)).ack for _ in range(3)] == [(6, 7), (7, 8), (8, 9)]
    assert await session.frame() is None


@case(145)
async def test_a_half_close_without_inputs_ends_the_response(
    open_session: OpenSession, http: httpx.Client
) -> None:
    session = await open_session()
    await session.send(b"", end=True)
    assert (await session.head()).status == 200
    assert await session.rest() == b""
    assert tail_of(http) == 0


@case(133)
async def test_a_frame_may_come_in_any_pieces(open_session: OpenSession) -> None:
    session = await open_session()
    data = append_frame(b"one") + append_frame(b"two")
    for i in range(len(data)):
        await session.send(data[i : i + 1])
    assert [(await next_frame(session)).ack for _ in range(2)] == [(0, 1), (1, 2)]
    for i in range(1, len(data)):
        await session.send(data[:i])
        await session.send(data[i:])
        for number in (2 * i, 2 * i + 1):
            assert (await next_frame(session)).ack == (number, number + 1)


@case(136, 137)
async def test_inputs_may_be_compressed_or_not(
    open_session: OpenSession, http: httpx.Client
) -> None:
    session = await open_session()
    message = append_message(b"hi")
    packed = gzip.compress(message)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(message)
    await session.send(frame(message))
    await session.send((len(packed) + 1).to_bytes(3, "big") + b"\x40" + packed)
    await session.send((len(unsized) + 1).to_bytes(3, "big") + b"\x20" + unsized)
    for reserved in (b"\x0f", b"\x1f"):
        await session.send((len(message) + 1).to_bytes(3, "big") + reserved + message)
    await session.send(b"", end=True)
    assert [(await next_frame(session)).ack for _ in range(5)] == [(i, i + 1) for i in range(5)]
    assert await session.frame() is None
    assert [record["body"] for record in records_of(http)] == ["hi"] * 5


@case(153)
async def test_the_frames_are_those_of_the_published_examples(open_session: OpenSession) -> None:
    session = await open_session()
    # Timestamp 1000, header k=v, match_seq_num 0 and fencing_token "", both present.
    await session.send(
        bytes.fromhex("000016 00 0A0F 08E807 12060A016B120176 1A026869 1000 1A00"), end=True
    )
    ack = bytes.fromhex("00 0A0310E807 1205080110E807 1A05080110E807")
    assert await session.rest() == len(ack).to_bytes(3, "big") + ack
    reading = await open_session("GET", "?seq_num=0&count=1")
    record = bytes.fromhex("00 0A0F 10E807 1A060A016B120176 22026869")
    assert await reading.rest() == len(record).to_bytes(3, "big") + record


@case(142, 148)
async def test_a_failed_condition_is_told_behind_the_acks_and_nothing_later_is_applied(
    open_session: OpenSession, http: httpx.Client
) -> None:
    session = await open_session()
    await session.send(append_frame(b"a", match_seq_num=0))
    await session.send(append_frame(b"x", match_seq_num=0))
    await session.send(append_frame(b"y"))
    assert (await next_frame(session)).ack == (0, 1)
    mismatch = b'{"seq_num_mismatch":1}'
    assert await session.rest() == bytes.fromhex("000019 80 019C") + mismatch
    assert tail_of(http) == 1


@case(56)
async def test_a_fence_counts_at_once_for_the_input_behind_it(
    open_session: OpenSession, http: httpx.Client
) -> None:
    session = await open_session()
    await session.send(frame(command_message(b"fence", b"new", fencing_token="")))
    await session.send(frame(append_message(b"x", fencing_token="")))
    assert (await next_frame(session)).ack == (0, 1)
    body = b'{"fencing_token_mismatch":"new"}'
    assert await session.rest() == (3 + len(body)).to_bytes(3, "big") + b"\x80\x01\x9c" + body
    assert tail_of(http) == 1


BAD_INPUTS = {
    "a length of zero": (bytes(3), 400, "bad_frame"),
    "a length above the limit": (bytes.fromhex("200001"), 400, "bad_frame"),
    "both compressions": (bytes.fromhex("000002 60 00"), 400, "bad_frame"),
    "a terminal frame": (bytes.fromhex("000005 80 01F7 7B7D"), 400, "bad_frame"),
    "a terminal frame without status": (bytes.fromhex("000001 80"), 400, "bad_frame"),
    "not gzip": (bytes.fromhex("000003 40 0000"), 400, "bad_frame"),
    "not zstd": (bytes.fromhex("000003 20 0000"), 400, "bad_frame"),
    "not protobuf": (bytes.fromhex("000002 00 FF"), 400, "bad_frame"),
    "too much inside": (
        frame(bytes(LARGEST_FRAME_VALUE), Compression.GZIP),
        400,
        "bad_frame",
    ),
    "too much inside, zstd": (frame(bytes(8 * 2**20), Compression.ZSTD), 400, "bad_frame"),
    "no records": (bytes.fromhex("000001 00"), 422, "invalid"),
    "too many records": (append_frame(*[b""] * 1001), 422, "invalid"),
    "too large a record": (append_frame(bytes(1024 * 1024 - 7)), 422, "invalid"),
    "too large a batch": (append_frame(bytes(600_000), bytes(600_000)), 422, "invalid"),
    "a command nobody knows": (frame(command_message(b"FENCE", b"")), 422, "invalid"),
    "too long a token": (frame(command_message(b"fence", b"x" * 37)), 422, "invalid"),
    "too long a condition": (
        frame(append_message(b"a", fencing_token="x" * 37)),
        422,
        "invalid",
    ),
    "a trim to nowhere": (frame(command_message(b"trim", b"1234")), 422, "invalid"),
}


@case(134, 135, 136, 139, 151)
@pytest.mark.parametrize(("data", "status", "code"), BAD_INPUTS.values(), ids=BAD_INPUTS)
async def test_an_input_that_is_wrong_ends_the_session_behind_the_others(
    open_session: OpenSession, http: httpx.Client, data: bytes, status: int, code: str
) -> None:
    session = await open_session()
    await session.send(append_frame(b"good") + data)
    assert (await next_frame(session)).ack == (0, 1)
    got_status, body = (await next_frame(session)).terminal
    assert (got_status, body["code"], sorted(body)) == (status, code, ["code", "message"])
    assert await session.frame() is None
    assert tail_of(http) == 1


@case(138)
async def test_a_request_that_ends_inside_a_frame_is_told_so(open_session: OpenSession) -> None:
    session = await open_session()
    await session.send(append_frame(b"good") + append_frame(b"cut")[:-1], end=True)
    assert (await next_frame(session)).ack == (0, 1)
    status, body = (await next_frame(session)).terminal
    assert (status, body["code"]) == (400, "bad_frame")


@case(156)
async def test_a_client_that_hangs_up_leaves_the_stream_in_order(
    open_session: OpenSession, http: httpx.Client
) -> None:
    session = await open_session()
    for i in range(200):
        await session.send(append_frame(b"%d" % i))
    assert (await next_frame(session)).ack == (0, 1)
    await session.aclose()
    fill(http, "after")
    records = records_of(http)
    bodies = [record["body"] for record in records]
    bodies.remove("after")
    assert bodies == [str(i) for i in range(len(bodies))]
    assert [record["seq_num"] for record in records] == list(range(len(records)))


@case(142)
async def test_after_a_terminal_frame_nothing_comes(
    open_session: OpenSession, http: httpx.Client
) -> None:
    session = await open_session()
    await session.send(append_frame(b"a") + append_frame(b"x", match_seq_num=9))
    assert (await next_frame(session)).ack == (0, 1)
    # The request goes on; the answer has ended all the same.
    frame = await next_frame(session)
    assert (frame.flag, frame.payload) == (0x80, b'\x01\x9c{"seq_num_mismatch":1}')
    assert await session.frame() is None
    assert tail_of(http) == 1


@case(144)
async def test_inputs_may_be_pipelined(open_session: OpenSession, http: httpx.Client) -> None:
    session = await open_session()
    await session.send(b"".join(append_frame(b"%d" % i) for i in range(3)), end=True)
    assert [(await next_frame(session)).ack for _ in range(3)] == [(0, 1), (1, 2), (2, 3)]
    assert await session.frame() is None
    assert bodies_of(http) == ["0", "1", "2"]


@case(146)
async def test_an_ack_is_about_the_whole_batch(open_session: OpenSession) -> None:
    session = await open_session()
    await session.send(append_frame(b"a", b"b") + append_frame(b"c", b"d", b"e"), end=True)
    assert [(await next_frame(session)).ack for _ in range(2)] == [(0, 2), (2, 5)]


@case(147)
async def test_an_input_may_expect_the_number_behind_the_one_before(
    open_session: OpenSession,
) -> None:
    session = await open_session()
    frames = [append_frame(b"a", match_seq_num=number) for number in range(3)]
    await session.send(b"".join(frames), end=True)
    assert [(await next_frame(session)).ack for _ in range(3)] == [(0, 1), (1, 2), (2, 3)]
    assert await session.frame() is None


@case(149)
async def test_the_first_input_may_be_the_one_that_fails(
    open_session: OpenSession, http: httpx.Client
) -> None:
    fill(http, "a")
    session = await open_session()
    await session.send(append_frame(b"b", match_seq_num=0))
    assert await session.rest() == bytes.fromhex("000019 80 019C") + b'{"seq_num_mismatch":1}'


@case(150)
@pytest.mark.parametrize(("count", "size"), [(50, 100_000), (32, 10)])
async def test_acks_come_in_the_order_of_the_inputs(
    open_session: OpenSession, http: httpx.Client, count: int, size: int
) -> None:
    session = await open_session()
    bodies = [b"%05d" % i * (size // 5) for i in range(count)]
    for body in bodies:
        await session.send(append_frame(body))
    await session.send(b"", end=True)
    frames = [await next_frame(session) for _ in range(count)]
    assert [frame.ack for frame in frames] == [(i, i + 1) for i in range(count)]
    acks = [s2_pb2.AppendAck.FromString(frame.payload) for frame in frames]
    assert all(ack.tail.seq_num >= ack.end.seq_num for ack in acks)
    tails = [ack.tail.seq_num for ack in acks]
    assert tails == sorted(tails)
    assert await session.frame() is None
    found: list[str] = []
    while len(found) < count:
        found += bodies_of(http, f"seq_num={len(found)}")
    assert found == [body.decode() for body in bodies]


# --- reading ------------------------------------------------------------------------------------


@case(108)
async def test_at_the_tail_the_first_frame_is_a_heartbeat(
    open_session: OpenSession, http: httpx.Client
) -> None:
    session = await open_session("GET")
    heartbeat = await next_frame(session)
    assert (heartbeat.flag, heartbeat.payload) == (0, bytes.fromhex("1200"))
    fill(http, "a")
    live = (await next_frame(session)).batch
    assert [record.body for record in live.records] == [b"a"]
    assert live.tail == s2_pb2.StreamPosition(seq_num=1, timestamp=1000)


@case(109, 112)
async def test_a_session_catches_up_tells_the_tail_and_goes_live(
    open_session: OpenSession, http: httpx.Client
) -> None:
    fill(http, "0", "1", "2")
    session = await open_session("GET", "?tail_offset=2")
    old = (await next_frame(session)).batch
    assert [record.seq_num for record in old.records] == [1, 2]
    assert not old.HasField("tail")
    assert (await next_frame(session)).payload == bytes.fromhex("1205080310E807")
    acks = [fill(http, "3"), fill(http, "4", "5")]
    for ack, expected in zip(acks, ([3], [4, 5]), strict=True):
        live = (await next_frame(session)).batch
        assert [record.seq_num for record in live.records] == expected
        assert live.tail == s2_pb2.StreamPosition(**ack["tail"])


@case(105, 106)
@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?wait=0", 200),
        ("?count=10", 416),
        ("?bytes=10", 416),
        ("?until=18446744073709551615", 416),
        ("?seq_num=7&clamp=true&wait=0", 200),
    ],
)
async def test_a_session_that_may_not_follow_ends_at_the_tail(
    open_session: OpenSession, http: httpx.Client, query: str, status: int
) -> None:
    fill(http, "0")
    session = await open_session("GET", query)
    assert (await session.head()).status == status
    if status == 200:
        assert await session.rest() == b""


@case(140)
@pytest.mark.parametrize(
    ("accepted", "flag"),
    [("gzip, zstd, br", 0x20), ("gzip;q=0.8, deflate", 0x40), ("br", 0), ("*", 0)],
)
async def test_large_frames_are_compressed_as_the_client_accepts(
    open_session: OpenSession, http: httpx.Client, accepted: str, flag: int
) -> None:
    fill(http, "large " * 4000)
    fill(http, "small")
    session = await open_session("GET", "?seq_num=0&count=1", accept_encoding=accepted)
    large = await next_frame(session)
    assert large.flag == flag
    batch = s2_pb2.ReadBatch.FromString(_unpacked(large))
    assert batch.records[0].body == b"large " * 4000
    session = await open_session("GET", "?seq_num=1&count=1", accept_encoding=accepted)
    assert (await next_frame(session)).flag == 0


@case(141)
@pytest.mark.parametrize(("accepted", "flag"), [("zstd", 0x20), ("gzip", 0x40)])
async def test_only_frames_are_compressed_and_no_ack_ever_is(
    open_session: OpenSession, accepted: str, flag: int
) -> None:
    body = b"0123456789abcdef" * 1280
    session = await open_session(accept_encoding=accepted)
    await session.send(append_frame(body), end=True)
    assert (await next_frame(session)).flag == 0
    reading = await open_session("GET", "?seq_num=0&count=1", accept_encoding=accepted)
    assert "content-encoding" not in (await reading.head()).headers
    large = await next_frame(reading)
    assert large.flag == flag
    assert len(large.payload) < len(body) == 20_480
    assert s2_pb2.ReadBatch.FromString(_unpacked(large)).records[0].body == body


@case(143)
async def test_frames_of_1024_bytes_and_more_are_compressed(
    open_session: OpenSession, http: httpx.Client
) -> None:
    # The first record of a stream, with timestamp 1000, takes 9 bytes more than its body.
    for size, flag in ((1023, 0), (1024, 0x20)):
        name = f"of-{size}"
        path = f"/v1/streams/{name}/records"
        create_stream(http, name)
        record = {"body": "x" * (size - 9), "timestamp": 1000}
        assert append(http, record, path=path).status_code == 200
        reading = await open_session("GET", "?seq_num=0&count=1", path, accept_encoding="zstd")
        frame = await next_frame(reading)
        assert frame.flag == flag
        assert len(_unpacked(frame)) == size


def _unpacked(frame: Frame) -> bytes:
    match frame.flag:
        case 0x20:
            return zstandard.ZstdDecompressor().decompressobj().decompress(frame.payload)
        case 0x40:
            return gzip.decompress(frame.payload)
        case _:
            return frame.payload


async def test_a_reader_that_hangs_up_is_no_error(
    open_session: OpenSession, http: httpx.Client
) -> None:
    # More than any buffer holds: the server is in the middle of a frame when the client goes.
    for _ in range(40):
        fill(http, "x" * 900_000)
    session = await open_session("GET", "?seq_num=0")
    assert (await next_frame(session)).batch.records[0].seq_num == 0
    await session.aclose()
    assert tail_of(http) == 40  # and the server has printed no error


async def test_sessions_of_one_connection_do_not_wait_for_each_other(
    server: ServerProcess, basin: str, stream: str, http: httpx.Client
) -> None:
    for _ in range(20):
        fill(http, "x" * 900_000)
    session = await H2Session.open(server.port, "GET", f"{RECORDS}?seq_num=0", _headers(basin))
    client = session.client
    client.returns_credit = False  # this reader stalls as soon as its window is used up
    try:
        await client.until(lambda: client.answers[session.stream_id].unacknowledged > 9_000_000)
        pairs = [(name.encode(), value.encode()) for name, value in _headers(basin).items()]
        client.h2.increment_flow_control_window(10_000_000)
        number = await client.request(RECORDS, method="POST", headers=pairs, end=False)
        other = H2Session(client, number)
        await other.send(append_frame(b"a"))
        assert (await next_frame(other)).ack == (20, 21)
    finally:
        await session.aclose()


def _headers(basin: str) -> dict[str, str]:
    return {**S2S, "s2-basin": basin}
