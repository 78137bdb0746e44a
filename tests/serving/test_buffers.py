"""The three buffers between a socket and an application."""

import pytest
import trio
import trio.testing

from s2lite.serving.body import RequestBody
from s2lite.serving.outbox import Outbox
from s2lite.serving.response_body import ResponseBody


def nothing() -> None:
    pass


async def test_chunks_that_have_piled_up_are_received_as_one() -> None:
    body = RequestBody()
    body.feed(b"a", 1)
    body.feed(b"b", 1)
    assert await body.receive() == {"type": "http.request", "body": b"ab", "more_body": True}
    body.feed(b"c", 1)
    body.complete()
    assert await body.receive() == {"type": "http.request", "body": b"c", "more_body": False}


async def test_an_end_without_bytes_is_received_too() -> None:
    body = RequestBody()
    body.complete()
    assert await body.receive() == {"type": "http.request", "body": b"", "more_body": False}


async def test_receive_waits_for_something_to_receive(nursery: trio.Nursery) -> None:
    body = RequestBody()
    received = []

    async def receive() -> None:
        received.append(await body.receive())

    nursery.start_soon(receive)
    await trio.testing.wait_all_tasks_blocked()
    assert received == []
    body.feed(b"a", 1)
    await trio.testing.wait_all_tasks_blocked()
    assert [message["body"] for message in received] == [b"a"]


async def test_the_cost_of_bytes_is_reported_when_they_are_taken() -> None:
    body, costs = RequestBody(), list[int]()
    body.consumed = costs.append
    body.feed(b"abc", 10)  # padded
    body.feed(b"", 5)  # nothing but padding
    assert costs == []
    await body.receive()
    assert costs == [15]


async def test_the_cost_of_dropped_bytes_is_reported_as_well() -> None:
    body, costs = RequestBody(), list[int]()
    body.consumed = costs.append
    body.feed(b"abc", 3)
    body.disconnect()
    body.feed(b"late", 4)
    assert costs == [3, 4]
    assert await body.receive() == {"type": "http.disconnect"}
    assert await body.receive() == {"type": "http.disconnect"}


async def test_a_client_that_hangs_up_behind_its_request_is_heard_out() -> None:
    body = RequestBody()
    body.feed(b"all", 3)
    body.complete()
    body.hang_up()
    assert await body.receive() == {"type": "http.request", "body": b"all", "more_body": False}
    assert await body.receive() == {"type": "http.disconnect"}


async def test_a_client_that_hangs_up_inside_its_request_is_gone() -> None:
    body = RequestBody()
    body.feed(b"half", 4)
    body.hang_up()
    assert await body.receive() == {"type": "http.disconnect"}


async def test_an_application_that_loops_on_a_disconnect_does_not_stop_the_others() -> None:
    body = RequestBody()
    body.disconnect()
    with trio.move_on_after(0.01) as scope:
        while True:
            await body.receive()
    assert scope.cancelled_caught


def test_a_response_body_is_cut_where_frames_need_it() -> None:
    body = ResponseBody()
    for piece in (b"abcdef", b"g", b"", b"hi"):
        body.add(piece)
    assert [bytes(body.take(n)) for n in (4, 3, 2)] == [b"abcd", b"efg", b"hi"]
    assert body.size == 0
    assert bytes(body.take(0)) == b""


async def test_room_in_a_response_body_is_awaited(autojump_clock: trio.testing.MockClock) -> None:
    body = ResponseBody()
    body.add(b"x" * 10)
    with trio.move_on_after(1) as scope:
        await body.wait_below(10)
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(body.wait_below, 10)
        await trio.testing.wait_all_tasks_blocked()
        body.take(1)


async def test_what_is_written_meanwhile_leaves_in_one_piece(nursery: trio.Nursery) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    outbox = Outbox()
    nursery.start_soon(outbox.send_to, ours, nothing)
    outbox.write(b"head ")
    outbox.write(b"and body")
    assert await theirs.receive_some() == b"head and body"


async def test_finishing_sends_the_rest_first(nursery: trio.Nursery) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    outbox = Outbox()
    outbox.write(b"the rest")
    nursery.start_soon(outbox.send_to, ours, nothing)
    await outbox.finish()
    assert outbox.size == 0
    assert await theirs.receive_some() == b"the rest"


@pytest.mark.parametrize("closed_by_us", [True, False])
async def test_a_failure_of_the_socket_lets_nobody_wait(closed_by_us: bool) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    outbox = Outbox()
    outbox.write(b"to nobody")
    await (ours if closed_by_us else theirs).aclose()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.wait_below, 1)
        nursery.start_soon(outbox.finish)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(outbox.send_to, ours, nothing)
    assert outbox.broken
    outbox.write(b"more")
    assert outbox.size == 0


async def test_every_byte_that_a_body_holds_is_accounted_for_until_it_is_taken_or_dropped() -> None:
    held = [0]

    def buffered(change: int) -> None:
        held[0] += change

    body = RequestBody(buffered)
    body.feed(b"abc", 3)
    body.feed(b"de", 2)
    assert held == [5]
    await body.receive()
    assert held == [0]
    body.feed(b"fgh", 3)
    body.disconnect()
    body.feed(b"late", 4)
    assert held == [0]
    unread = RequestBody(buffered)
    unread.feed(b"abc", 3)
    unread.close_account()
    unread.feed(b"def", 3)
    await unread.receive()
    assert held == [0]
