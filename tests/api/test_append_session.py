import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from s2lite.codec.s2s import Compression
from tests.api.frames import (
    Positions,
    append_frame,
    append_message,
    command_message,
    frame,
    parse_frames,
)
from tests.fakes.asgi_client import AsgiClient, Exchange

RECORDS = "/v1/streams/s/records"
S2S = {"content_type": "s2s/proto"}
BAD_FRAME = (400, "bad_frame")


async def session(client: AsgiClient, *chunks: bytes, **headers: str) -> bytes:
    """Run a session of these chunks, half-close it and give the whole answer."""
    async with client.exchange("POST", RECORDS, **S2S, **headers) as exchange:
        assert (await exchange.head())[0] == 200
        for chunk in chunks:
            await exchange.send(chunk)
        await exchange.end()
        return await exchange.rest()


async def acks_then_terminal(
    client: AsgiClient, *chunks: bytes
) -> tuple[list[Positions], tuple[int, object]]:
    """Run a session, and give its acks, and the status and code or body of its last frame."""
    *acks, last = parse_frames(await session(client, *chunks))
    status, body = last.terminal
    return [ack.ack for ack in acks], (status, body.get("code", body))


async def tail_of(client: AsgiClient) -> int:
    tail: int = (await client.request("GET", RECORDS + "/tail")).json()["tail"]["seq_num"]
    return tail


async def read_acks(exchange: Exchange, count: int) -> list[Positions]:
    """Read pieces of the answer until there are `count` acks."""
    acks: list[Positions] = []
    while len(acks) < count:
        acks += [ack.ack for ack in parse_frames(await exchange.body())]
    return acks


async def test_the_head_comes_before_any_input(client: AsgiClient) -> None:
    async with client.exchange("POST", RECORDS, **S2S, accept_encoding="zstd") as exchange:
        status, headers = await exchange.head()
    assert status == 200
    assert headers.pop("access-control-allow-credentials") == "true"
    headers.pop("vary")
    assert headers == {
        "content-type": "s2s/proto",
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
    }


async def test_pipelined_inputs_are_acked_in_order_and_a_half_close_ends_it(
    client: AsgiClient,
) -> None:
    async with client.exchange("POST", RECORDS, **S2S) as exchange:
        await exchange.head()
        await exchange.send(append_frame(b"a") + append_frame(b"b", b"c"))
        await exchange.send(append_frame(b"d"))
        assert await read_acks(exchange, 3) == [(0, 1), (1, 3), (3, 4)]
        await exchange.send(append_frame(b"e"))
        assert await read_acks(exchange, 1) == [(4, 5)]
        await exchange.end()
        assert await exchange.rest() == b""


async def test_a_session_without_inputs_ends_with_nothing(client: AsgiClient) -> None:
    assert await session(client) == b""
    assert await tail_of(client) == 0


async def test_a_half_close_waits_for_all_acks(client: AsgiClient) -> None:
    inputs = [append_frame(b"x" * 1000) for _ in range(50)]
    acks = parse_frames(await session(client, b"".join(inputs)))
    assert [ack.ack for ack in acks] == [(n, n + 1) for n in range(50)]


async def test_acks_that_are_ready_together_leave_together(client: AsgiClient) -> None:
    async with client.exchange("POST", RECORDS, **S2S) as exchange:
        await exchange.head()
        await exchange.send(b"".join(append_frame(b"x") for _ in range(100)))
        await wait_all_tasks_blocked()
        sizes: list[int] = []
        while sum(sizes) < 100:
            sizes.append(len(parse_frames(await exchange.body())))
    assert len(sizes) <= 3


async def test_frames_may_be_split_anywhere(client: AsgiClient) -> None:
    data = append_frame(b"one") + append_frame(b"two")
    acks = parse_frames(await session(client, *(data[i : i + 1] for i in range(len(data)))))
    assert [ack.ack for ack in acks] == [(0, 1), (1, 2)]


@pytest.mark.parametrize("compression", list(Compression))
async def test_inputs_may_be_compressed_and_acks_never_are(
    client: AsgiClient, compression: Compression
) -> None:
    data = frame(append_message(b"x" * 5000), compression)
    (ack,) = parse_frames(await session(client, data, accept_encoding="zstd"))
    assert ack.ack == (0, 1)


async def test_a_failed_condition_ends_the_session_behind_the_acks_before_it(
    client: AsgiClient,
) -> None:
    chunk = (
        append_frame(b"a", match_seq_num=0)
        + append_frame(b"b", match_seq_num=0)
        + append_frame(b"c", match_seq_num=1)
        + append_frame(b"d")
    )
    acks, terminal = await acks_then_terminal(client, chunk)
    assert acks == [(0, 1)]
    assert terminal == (412, {"seq_num_mismatch": 1})
    assert await tail_of(client) == 1


async def test_a_failed_condition_ends_a_session_that_is_not_half_closed(
    client: AsgiClient,
) -> None:
    await session(client, append_frame(b"a"))
    async with client.exchange("POST", RECORDS, **S2S) as exchange:
        await exchange.head()
        await exchange.send(append_frame(b"b", match_seq_num=0))
        (last,) = parse_frames(await exchange.rest())
    assert last.terminal == (412, {"seq_num_mismatch": 1})


async def test_a_fence_is_in_force_for_the_input_behind_it(client: AsgiClient) -> None:
    old = append_message(b"x", fencing_token="")
    acks, terminal = await acks_then_terminal(
        client, frame(command_message(b"fence", b"tok")) + frame(old)
    )
    assert acks == [(0, 1)]
    assert terminal == (412, {"fencing_token_mismatch": "tok"})


@pytest.mark.parametrize(
    "bad",
    [
        b"\x20\x00\x01",
        b"\x00\x00\x00",
        b"\x00\x00\x02\x60x",
        b"\x00\x00\x01\x80",
        b"\x00\x00\x03\x80\x01\x90",
        b"\x00\x00\x05\x20junk",
        frame(b"not protobuf"),
        append_frame(b"cut off")[:-1],
        b"\x00\x00",
    ],
)
async def test_a_bad_frame_ends_the_session_behind_what_came_before_it(
    client: AsgiClient, bad: bytes
) -> None:
    acks, terminal = await acks_then_terminal(client, append_frame(b"a") + bad)
    assert acks == [(0, 1)]
    assert terminal == BAD_FRAME
    assert await tail_of(client) == 1


@pytest.mark.parametrize("flag", [0x0F, 0x10, 0x1F])
async def test_reserved_flag_bits_are_ignored(client: AsgiClient, flag: int) -> None:
    data = bytearray(append_frame(b"a"))
    data[3] = flag
    (ack,) = parse_frames(await session(client, bytes(data)))
    assert ack.ack == (0, 1)


async def test_an_invalid_input_ends_the_session_behind_what_came_before_it(
    client: AsgiClient,
) -> None:
    for invalid in (append_message(), command_message(b"nonsense", b"")):
        start = await tail_of(client)
        acks, terminal = await acks_then_terminal(
            client, append_frame(b"a") + frame(invalid) + append_frame(b"never")
        )
        assert acks == [(start, start + 1)]
        assert terminal == (422, "invalid")
    assert await tail_of(client) == 2


async def test_an_earlier_failure_hides_a_bad_frame(client: AsgiClient) -> None:
    chunk = append_frame(b"a", match_seq_num=7) + b"\x00\x00\x00"
    assert await acks_then_terminal(client, chunk) == ([], (412, {"seq_num_mismatch": 0}))


async def test_a_client_that_goes_away_ends_the_session(client: AsgiClient) -> None:
    async with client.exchange("POST", RECORDS, **S2S) as exchange:
        await exchange.head()
        await exchange.send(append_frame(b"a"))
        await read_acks(exchange, 1)
        await exchange.disconnect()
        with pytest.raises(trio.EndOfChannel):
            await exchange.event()
    assert await tail_of(client) == 1


async def test_a_client_that_goes_away_inside_a_frame_leaves_the_rest_out(
    client: AsgiClient,
) -> None:
    async with client.exchange("POST", RECORDS, **S2S) as exchange:
        await exchange.head()
        await exchange.send(append_frame(b"a") + append_frame(b"b")[:-1])
        await read_acks(exchange, 1)
        await exchange.disconnect()
        with pytest.raises(trio.EndOfChannel):
            await exchange.event()
    assert await tail_of(client) == 1


async def test_an_idle_session_stays_open(client: AsgiClient, autojump_clock: MockClock) -> None:
    async with client.exchange("POST", RECORDS, **S2S) as exchange:
        await exchange.head()
        await exchange.send(append_frame(b"a"))
        await read_acks(exchange, 1)
        await trio.sleep(300)
        await exchange.send(append_frame(b"b"))
        assert await read_acks(exchange, 1) == [(1, 2)]


async def test_a_session_on_a_missing_stream_is_an_ordinary_404(client: AsgiClient) -> None:
    reply = await client.request("POST", "/v1/streams/missing/records", **S2S)
    assert (reply.status, reply.code) == (404, "stream_not_found")


async def test_the_body_of_a_session_is_not_compressed_as_a_whole(client: AsgiClient) -> None:
    reply = await client.request("POST", RECORDS, **S2S, content_encoding="gzip")
    assert (reply.status, reply.body) == (415, b"")


async def test_a_stream_that_is_deleted_ends_the_session(client: AsgiClient) -> None:
    async with client.exchange("POST", RECORDS, **S2S) as exchange:
        await exchange.head()
        await exchange.send(append_frame(b"a"))
        await read_acks(exchange, 1)
        assert (await client.request("DELETE", "/v1/streams/s")).status == 202
        await exchange.send(append_frame(b"b"))
        (last,) = parse_frames(await exchange.rest())
    status, body = last.terminal
    assert (status, body["code"]) in {(409, "stream_deletion_pending"), (503, "unavailable")}
