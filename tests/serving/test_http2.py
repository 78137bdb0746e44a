"""Flow control, fairness, and the ends of streams and connections."""

import base64
import gc
import json
from collections.abc import Callable
from typing import Any

import h2.events
import h2.settings
import pytest
import trio
import trio.testing

from s2lite.serving.h2_machine import ServerH2Connection
from s2lite.serving.settings import ServingSettings
from tests.serving.apps import Playground, Receive, Send, body, start
from tests.serving.clients import GET_HEAD, Answer, H2Client, frame
from tests.serving.conftest import StartServer

KIB = 1024
NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM = 0, 2, 7


async def test_settings_and_windows_are_sent_as_soon_as_the_preface_is_recognised(
    start_server: StartServer,
) -> None:
    server = await start_server(stream_window_bytes=3_000_000, connection_window_bytes=20_000_000)
    client = await server.h1()
    await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    got = await client.stream.receive_some(1000)
    h2_client = h2.connection.H2Connection()
    h2_client.initiate_connection()
    events = h2_client.receive_data(bytes(got))
    assert isinstance(events[0], h2.events.RemoteSettingsChanged)
    assert h2_client.remote_settings.initial_window_size == 3_000_000
    assert h2_client.remote_settings.max_concurrent_streams == 256
    assert h2_client.outbound_flow_control_window == 20_000_000


async def test_the_scope_has_the_path_as_sent(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h2()
    await client.answer(await client.request("/scope?a=%2F&b", headers=[(b"x-y", b"z")]))
    (scope,) = server.app.notes
    assert (scope["raw_path"], scope["query_string"]) == (b"/scope", b"a=%2F&b")
    assert scope["headers"] == [(b"host", b"localhost"), (b"x-y", b"z")]
    assert (scope["http_version"], scope["method"], scope["scheme"]) == ("2", "GET", "http")


async def test_a_session_is_full_duplex(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h2()
    stream_id = await client.request("/echo", method="POST", end=False)
    answer = client.answers[stream_id]
    await client.until(lambda: answer.status == 200)  # before any input
    for turn in range(1, 4):
        await client.send(stream_id, b"ping")
        await client.until(lambda turn=turn: bytes(answer.body) == b"ping" * turn)  # type: ignore[misc]  # bound early on purpose
    await client.send(stream_id, b"", end=True)
    await client.answer(stream_id)
    assert answer.ended
    assert answer.reset is None


async def test_an_application_that_does_not_read_stalls_no_other_session(
    start_server: StartServer,
) -> None:
    server = await start_server(stream_window_bytes=100 * KIB, connection_window_bytes=1024 * KIB)
    client = await server.h2()
    stalled = await client.request("/unread", method="POST", end=False)
    await client.send(stalled, bytes(100 * KIB))
    assert client.h2.local_flow_control_window(stalled) == 0
    brisk = await client.request("/length", method="POST", end=False)
    await client.send(brisk, bytes(3000 * KIB), end=True)
    assert (await client.answer(brisk)).body == b"%d" % (3000 * KIB)
    server.app.gate.set()
    await client.send(stalled, bytes(100 * KIB), end=True)
    assert (await client.answer(stalled)).body == b"%d" % (200 * KIB)


async def test_credit_is_returned_when_the_application_reads_and_not_before(
    start_server: StartServer,
) -> None:
    server = await start_server(stream_window_bytes=100 * KIB)
    client = await server.h2()
    stream_id = await client.request("/unread", method="POST", end=False)
    await client.send(stream_id, bytes(80 * KIB))
    await client.round_trip()
    assert client.h2.local_flow_control_window(stream_id) == 20 * KIB
    server.app.gate.set()
    await client.until(lambda: client.h2.local_flow_control_window(stream_id) == 100 * KIB)


async def test_credit_for_small_chunks_is_saved_up(start_server: StartServer) -> None:
    server = await start_server(stream_window_bytes=128 * KIB, connection_window_bytes=256 * KIB)
    client = await server.h2()
    client.events.clear()
    stream_id = await client.request("/length", method="POST", end=False)
    for _ in range(512):
        await client.send(stream_id, bytes(KIB))
    await client.send(stream_id, b"", end=True)
    assert (await client.answer(stream_id)).body == b"%d" % (512 * KIB)
    updates = [e for e in client.events if isinstance(e, h2.events.WindowUpdated)]
    assert len(updates) <= 2 * 512 // 64 + 2


async def test_a_download_without_window_stalls_no_other(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h2()
    client.returns_credit = False
    client.h2.increment_flow_control_window(10 * 2**20)
    stalled = await client.request("/megabyte")
    await client.until(lambda: len(client.answers[stalled].body) == 65_535)
    for _ in range(3):
        assert (await client.get("/hello")).body == b"hello"
    client.h2.increment_flow_control_window(2**20, stalled)
    await client.flush()
    assert len((await client.answer(stalled)).body) == 2**20


async def test_the_connection_window_is_shared_by_turns(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h2(window_bytes=2**24)
    client.returns_credit = False
    client.h2.increment_flow_control_window(2**20)  # for the connection's small change below
    greedy = [await client.request("/endless") for _ in range(4)]

    def received() -> list[int]:
        return [len(client.answers[stream_id].body) for stream_id in greedy]

    await client.until(lambda: sum(received()) >= 8 * 2**20)
    assert min(received()) > 0.8 * max(received())
    for stream_id in greedy:
        await client.reset(stream_id)


async def test_a_window_of_one_frame_at_a_time_starves_nobody(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h2()
    client.returns_credit = False
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**24})
    await client.flush()
    streams = [await client.request("/endless") for _ in range(3)]
    await client.until(lambda: sum(len(client.answers[s].body) for s in streams) == 65_535)
    before = [len(client.answers[s].body) for s in streams]
    for _ in range(9):
        have = sum(len(client.answers[s].body) for s in streams)
        client.h2.increment_flow_control_window(10_000)
        await client.flush()
        await client.until(
            lambda have=have: sum(len(client.answers[s].body) for s in streams) == have + 10_000  # type: ignore[misc]  # bound early on purpose
        )
    after = [len(client.answers[s].body) for s in streams]
    assert all(now - then >= 20_000 for now, then in zip(after, before, strict=True))


async def test_a_second_settings_frame_widens_the_streams_that_are_open(
    start_server: StartServer,
) -> None:
    server = await start_server()
    client = await server.h2()
    client.returns_credit = False
    client.h2.increment_flow_control_window(2**24)
    stream_id = await client.request("/megabyte")
    await client.until(lambda: len(client.answers[stream_id].body) == 65_535)
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10 * 2**20})
    await client.flush()
    assert len((await client.answer(stream_id)).body) == 2**20


async def test_a_stream_ends_even_if_its_window_has_become_negative(
    start_server: StartServer,
) -> None:
    app = Playground()

    async def two_steps(scope: Any, receive: Receive, send: Send) -> None:
        await start(send)
        await body(send, b"x" * 60_000, more=True)
        await app.gate.wait()
        await body(send, b"")

    app.two_steps = two_steps  # type: ignore[attr-defined]  # a route of this test only
    server = await start_server(app)
    client = await server.h2()
    client.returns_credit = False
    stream_id = await client.request("/two-steps")
    await client.until(lambda: len(client.answers[stream_id].body) == 60_000)
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    await client.round_trip()
    app.gate.set()
    # Not by h2, which cannot take an empty frame into a negative window.
    await client.read_raw_until(frame(0, 1, stream_id))


async def test_a_send_waits_for_a_client_that_does_not_take_the_response(
    start_server: StartServer,
) -> None:
    server = await start_server(send_buffer_bytes=100_000)
    client = await server.h2()
    client.returns_credit = False
    stream_id = await client.request("/endless")
    await client.until(lambda: len(client.answers[stream_id].body) == 65_535)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(server.app.notes) * 10_000 < 65_535 + 100_000 + 10_000


async def test_an_early_answer_ends_and_then_resets_its_stream(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h2()
    stream_id = await client.request("/refuse", method="POST", end=False)
    await client.until(lambda: client.answers[stream_id].reset is not None)
    answer = client.answers[stream_id]
    assert (answer.status, bytes(answer.body), answer.frames) == (413, b"no", 1)
    assert (answer.ended, answer.reset) == (True, NO_ERROR)


async def test_unread_and_late_data_cost_the_connection_no_window(
    start_server: StartServer,
) -> None:
    server = await start_server(connection_window_bytes=128 * KIB)
    client = await server.h2()
    for _ in range(20):
        stream_id = await client.request("/refuse", method="POST", end=False)
        await client.send(stream_id, bytes(20 * KIB))  # unread
        await client.until(lambda stream_id=stream_id: client.answers[stream_id].ended)  # type: ignore[misc]  # bound early on purpose
        await client.stream.send_all(frame(0, 0, stream_id, bytes(10 * KIB)))  # late
        client.h2.outbound_flow_control_window -= 10 * KIB
    stream_id = await client.request("/length", method="POST", end=False)
    await client.send(stream_id, bytes(200 * KIB), end=True)
    assert (await client.answer(stream_id)).body == b"%d" % (200 * KIB)


async def test_the_unread_body_of_a_reset_stream_gives_its_window_back(
    start_server: StartServer,
) -> None:
    server = await start_server(stream_window_bytes=65_535, connection_window_bytes=65_535)
    client = await server.h2()
    for _ in range(10):
        stream_id = await client.request("/gated", method="POST", end=False)
        await client.send(stream_id, bytes(40 * KIB))
        await client.reset(stream_id)
    stream_id = await client.request("/length", method="POST", end=False)
    await client.send(stream_id, bytes(200 * KIB), end=True)
    assert (await client.answer(stream_id)).body == b"%d" % (200 * KIB)


async def test_a_client_that_says_goodbye_keeps_its_open_streams(
    start_server: StartServer, errors: Callable[[], list[str]]
) -> None:
    server = await start_server()
    client = await server.h2()
    append = await client.request("/echo", method="POST", end=False)
    read = await client.request("/until-gone")
    await client.until(lambda: client.answers[read].status == 200)
    goodbye = b"\0\0\x08\7\0" + bytes(12)
    await client.stream.send_all(goodbye)
    await client.send(append, b"after goodbye")
    await client.until(lambda: client.answers[append].body == b"after goodbye")
    await client.reset(read)
    await client.send(append, b"!", end=True)
    assert (await client.answer(append)).body == b"after goodbye!"
    await client.until_eof()  # the last stream has ended
    assert server.app.notes == ["http.disconnect"]
    assert errors() == []


def test_h2_still_takes_a_goodbye_for_the_end_unless_its_table_is_changed() -> None:
    goodbye = b"\0\0\x08\7\0" + bytes(12)

    def server_with_a_stream(connection: h2.connection.H2Connection) -> h2.connection.H2Connection:
        client = h2.connection.H2Connection()
        client.initiate_connection()
        client.send_headers(
            1, [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")]
        )
        client.send_data(1, b"before")
        connection.initiate_connection()
        connection.receive_data(client.data_to_send())
        return connection

    stock = server_with_a_stream(
        h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    )
    stock.receive_data(goodbye)
    with pytest.raises(h2.exceptions.ProtocolError):
        stock.send_headers(1, [(":status", "200")])

    ours = server_with_a_stream(ServerH2Connection(ServingSettings()))
    sent_before = ours.data_to_send()
    assert sent_before
    ours.ping(b"12345678")
    ours.receive_data(goodbye)
    ours.send_headers(1, [(":status", "200")])
    data = ours.data_to_send()
    assert b"12345678" in data  # what was to be sent is not dropped either
    assert isinstance(ours.receive_data(b"\0\0\1\0\0\0\0\0\1x")[0], h2.events.DataReceived)


async def test_requests_beyond_the_limit_are_refused_and_no_others(
    start_server: StartServer,
) -> None:
    server = await start_server(max_concurrent_streams=2)
    client = await server.h2()
    client.h2.remote_settings = h2.settings.Settings(client=False)  # does not heed the limit
    gated = [await client.request("/gated") for _ in range(2)]
    refused = await client.answer(await client.request("/hello"))
    assert (refused.status, refused.reset) == (None, REFUSED_STREAM)
    server.app.gate.set()
    for stream_id in gated:
        assert (await client.answer(stream_id)).body == b"opened"
    assert (await client.get("/hello")).body == b"hello"


async def test_a_client_cannot_have_more_running_by_resetting_what_it_asked_for(
    start_server: StartServer,
) -> None:
    server = await start_server(max_concurrent_streams=10)
    client = await server.h2()
    for _ in range(100):
        await client.reset(await client.request("/gated"))
    await client.round_trip()
    assert server.app.running <= 10
    server.app.gate.set()
    await server.app.until_idle()
    assert (await client.get("/hello")).body == b"hello"


async def test_a_reset_ends_the_applications_waiting_and_sending(
    start_server: StartServer, errors: Callable[[], list[str]]
) -> None:
    server = await start_server()
    client = await server.h2()
    client.returns_credit = False
    waiting = await client.request("/until-gone")
    sending = await client.request("/endless")
    await client.until(lambda: len(client.answers[sending].body) == 65_535)
    await client.reset(waiting, 8)
    await client.reset(sending, 8)
    await server.app.until_idle()
    assert {"http.disconnect", "ClientDisconnected"} <= set(server.app.notes)
    assert errors() == []


async def test_an_application_that_fails_before_its_answer_gives_500(
    start_server: StartServer, errors: Callable[[], list[str]]
) -> None:
    server = await start_server()
    client = await server.h2()
    for path in ("/fail", "/bad-header", "/silent"):
        answer = await client.get(path)
        assert answer.status == 500
        assert answer.headers[b"content-type"] == b"application/json"
        assert json.loads(answer.body) == {"code": "other", "message": "internal error"}
        assert answer.frames == 1
    assert len(errors()) == 3


@pytest.mark.parametrize("path", ["/fail-late", "/fail-short"])
async def test_an_answer_that_breaks_off_is_reset(
    start_server: StartServer, errors: Callable[[], list[str]], path: str
) -> None:
    server = await start_server()
    client = await server.h2()
    answer = await client.get(path)
    assert (answer.status, answer.ended, answer.reset) == (200, False, INTERNAL_ERROR)
    assert (await client.get("/hello")).body == b"hello"
    assert len(errors()) == 1


async def test_a_head_request_has_no_body(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h2()
    answer = await client.answer(await client.request("/hello", method="HEAD"))
    assert (answer.status, len(answer.body)) == (200, 0)
    assert answer.headers[b"content-length"] == b"5"


async def test_responses_are_dated_and_anonymous(start_server: StartServer) -> None:
    server = await start_server()
    headers = (await (await server.h2()).get("/hello")).headers
    assert b"date" in headers
    assert b"server" not in headers


async def test_a_path_that_is_none_is_refused_alone(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.h2()
    assert (await client.get("/caf\xe9")).status == 400
    stream_id = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream_id, [(":method", "CONNECT"), (":authority", "elsewhere")])
    client.answers[stream_id] = Answer()
    await client.flush()
    assert (await client.answer(stream_id)).status == 400
    assert (await client.get("/hello")).body == b"hello"


async def test_a_connection_can_be_upgraded_from_http1(start_server: StartServer) -> None:
    server = await start_server()
    h1 = await server.h1()
    client = H2Client(h1.stream)
    settings = client.h2.initiate_upgrade_connection()
    assert settings is not None
    client.answers[1] = Answer()
    await h1.send(
        b"GET /hello HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade, HTTP2-Settings\r\n"
        b"upgrade: h2c\r\nhttp2-settings: " + settings + b"\r\n\r\n"
    )
    assert (await h1.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    for event in client.h2.receive_data(h1.buffer):
        client._note(event)
    await client.flush()
    assert base64.urlsafe_b64decode(settings)
    assert (await client.answer(1)).body == b"hello"
    assert (await client.get("/hello")).body == b"hello"


async def test_answers_that_nobody_reads_do_not_pile_up(start_server: StartServer) -> None:
    server = await start_server(control_backlog_bytes=10_000)
    client = await server.h2()
    pings = b"\0\0\x08\6\0\0\0\0\0" + bytes(8)
    with trio.move_on_after(0.2) as scope:
        for _ in range(1000):  # 17 MB of answers
            await client.stream.send_all(pings * 1000)
    assert scope.cancelled_caught  # not read any more
    assert await server.is_healthy()


async def test_an_idle_connection_is_closed_and_one_in_use_is_not(
    start_server: StartServer, patient_clock: trio.testing.MockClock
) -> None:
    server = await start_server(keep_alive_seconds=180)
    idle, used = await server.h2(), await server.h2()
    stream_id = await used.request("/gated")
    await trio.sleep(170)
    await idle.get("/hello")
    await trio.sleep(170)
    assert (await idle.get("/hello")).body == b"hello"
    await trio.sleep(200)
    await idle.until_eof()
    server.app.gate.set()
    assert (await used.answer(stream_id)).body == b"opened"


@pytest.mark.slow
async def test_many_requests_on_one_connection_leave_nothing_behind(
    start_server: StartServer,
) -> None:
    server = await start_server()
    client = await server.h2(window_bytes=2**24)
    next_stream_id = 1

    async def request_many(count: int) -> None:
        nonlocal next_stream_id
        for _ in range(count // 100):
            streams = range(next_stream_id, next_stream_id + 200, 2)
            next_stream_id += 200
            await client.stream.send_all(b"".join(frame(1, 4, s, GET_HEAD) for s in streams))
            await client.read_raw_until(frame(3, 0, streams[-1], bytes(4)))

    def objects() -> int:
        gc.collect()
        return len(gc.get_objects())

    await request_many(2000)  # h2 remembers so many streams
    before = objects()
    await request_many(18_000)
    assert objects() < before + 2000  # the client's timeouts leave some behind


def header_block(size: int) -> bytes:
    """GET / with one long header, none of it compressed."""
    length = size - 127
    varint = b"\x7f"
    while length > 0x7F:
        varint += bytes([length & 0x7F | 0x80])
        length >>= 7
    return GET_HEAD + b"\x00\x01x" + varint + bytes([length]) + b"v" * size


def headers_frames(stream_id: int, block: bytes, piece: int = 16_000) -> bytes:
    """The block in a HEADERS frame and as many CONTINUATION frames as it takes."""
    pieces = [block[start : start + piece] for start in range(0, len(block), piece)]
    frames = [frame(1, 1, stream_id, pieces[0])]
    frames += [frame(9, 0, stream_id, each) for each in pieces[1:]]
    return b"".join(frames[:-1]) + frame(9, 4, stream_id, pieces[-1])


@pytest.mark.parametrize("size", [66_000, 200_000])
async def test_a_header_list_over_the_limit_is_answered_and_costs_no_connection(
    start_server: StartServer, size: int
) -> None:
    server = await start_server()
    client = await server.h2()
    stream_id = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream_id, [(":method", "GET"), (":scheme", "http"), (":path", "/"),
                                       (":authority", "a")])  # fmt: skip
    client.h2.data_to_send()  # h2 would not send what is to be sent
    client.answers[stream_id] = Answer()
    block = header_block(size).replace(b"\x01\x01a", b"\x41\x01a")
    await client.stream.send_all(headers_frames(stream_id, block))
    assert (await client.answer(stream_id)).status == 431
    assert server.app.notes == []


async def test_a_header_block_far_over_the_limit_ends_the_connection_before_it_is_whole(
    start_server: StartServer, errors: Callable[[], list[str]]
) -> None:
    server = await start_server()
    client = await server.h2()
    block = header_block(300_000)
    await client.stream.send_all(headers_frames(1, block)[:-1])  # the last byte never comes
    await client.until(lambda: client.saw(h2.events.ConnectionTerminated))
    assert await server.is_healthy()
    assert errors() == []


@pytest.mark.parametrize(
    "beginning", [frame(1, 1, 1, GET_HEAD), frame(1, 5, 1, GET_HEAD)[:-2], frame(4, 0, 0)[:5]]
)
async def test_a_head_that_does_not_end_is_given_up(
    start_server: StartServer, patient_clock: trio.testing.MockClock, beginning: bytes
) -> None:
    server = await start_server(head_timeout_seconds=30, keep_alive_seconds=180)
    client = await server.h2()
    began = trio.current_time()
    await client.stream.send_all(beginning)
    await trio.sleep(29)
    await client.until_eof()
    assert 30 <= trio.current_time() - began < 31


@pytest.mark.slow
async def test_a_head_that_drips_in_is_cut_off(
    start_server: StartServer, patient_clock: trio.testing.MockClock
) -> None:
    server = await start_server(head_timeout_seconds=30, keep_alive_seconds=180)
    client = await server.h2()
    began = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
        for byte in headers_frames(1, header_block(17_000)):
            await client.stream.send_all(bytes([byte]))
            await trio.sleep(1)
    assert 30 <= trio.current_time() - began < 33


async def test_a_frame_that_drips_in_beside_an_open_stream_is_awaited(
    start_server: StartServer, patient_clock: trio.testing.MockClock
) -> None:
    server = await start_server(head_timeout_seconds=30)
    client = await server.h2()
    stream_id = await client.request("/gated")
    ping = frame(6, 0, 0, b"12345678")
    for byte in ping:
        await client.stream.send_all(bytes([byte]))
        await trio.sleep(10)
    server.app.gate.set()
    assert (await client.answer(stream_id)).body == b"opened"
    assert client.saw(h2.events.PingAckReceived)


async def test_a_body_may_take_its_time(
    start_server: StartServer, patient_clock: trio.testing.MockClock
) -> None:
    server = await start_server()
    client = await server.h2()
    stream_id = await client.request("/length", method="POST", end=False)
    for _ in range(3):
        await trio.sleep(3600)
        await client.send(stream_id, b"a")
    await client.send(stream_id, b"", end=True)
    assert (await client.answer(stream_id)).body == b"3"
