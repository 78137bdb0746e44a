from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors import ActorStopped, Reply, ReplyAbandoned, ReplyAlreadySet
from actors._mailbox import Mailbox


async def test_a_reply_hands_its_answer_to_a_task_that_waits_and_to_one_that_comes_later() -> None:
    reply: Reply[int] = Reply()
    answers = []

    async def wait() -> None:
        answers.append(await reply.wait())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        settled_before = reply.settled
        reply.set(7)
        assert (settled_before, reply.settled) == (False, True)
    assert [*answers, await reply.wait()] == [7, 7]


async def test_none_is_an_answer() -> None:
    reply: Reply[None] = Reply()
    reply.set(None)
    assert await reply.wait() is None  # type: ignore[func-returns-value]  # that is the point


async def test_a_failed_reply_raises_its_error_each_time() -> None:
    reply: Reply[int] = Reply()
    reply.fail(LookupError("no such thing"))
    for _ in range(2):
        with pytest.raises(LookupError, match="no such thing"):
            await reply.wait()


@pytest.mark.parametrize("second", ["set", "fail"])
async def test_answering_twice_is_an_error(second: str) -> None:
    reply: Reply[int] = Reply()
    reply.set(1)
    with pytest.raises(ReplyAlreadySet):
        reply.set(2) if second == "set" else reply.fail(ValueError())
    assert await reply.wait() == 1


async def test_cancelling_a_wait_abandons_the_reply_and_an_answer_to_it_is_ignored() -> None:
    reply: Reply[int] = Reply()
    with trio.CancelScope() as scope:
        scope.cancel()
        await reply.wait()
    assert reply.abandoned
    reply.set(1)
    reply.fail(ValueError())
    reply.set(2)
    with pytest.raises(ReplyAbandoned):
        await reply.wait()


async def test_an_answer_that_came_before_the_cancellation_is_not_abandoned() -> None:
    reply: Reply[int] = Reply()
    reply.set(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await reply.wait()
    assert scope.cancelled_caught
    assert not reply.abandoned
    assert await reply.wait() == 1


async def test_an_answer_in_the_same_step_as_a_cancellation_is_delivered() -> None:
    reply: Reply[int] = Reply()
    answers = []

    async def wait(scope: trio.CancelScope) -> None:
        with scope:
            answers.append(await reply.wait())

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(wait, scope)
        await wait_all_tasks_blocked()
        reply.set(3)
        scope.cancel()
    assert answers == [3]


async def test_only_one_task_may_wait_for_a_reply() -> None:
    reply: Reply[int] = Reply()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply.wait)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await reply.wait()
        reply.set(1)


def new_mailbox(capacity: float) -> Mailbox[int]:
    return Mailbox("box", capacity)


async def test_waiting_senders_get_their_room_in_the_order_in_which_they_came() -> None:
    mailbox = new_mailbox(1)
    assert mailbox.offer(0)
    async with trio.open_nursery() as nursery:
        for number in (1, 2, 3):
            assert not mailbox.offer(number)
            nursery.start_soon(mailbox.put, number)
            await wait_all_tasks_blocked()
        taken = []
        while len(mailbox):
            taken.append(mailbox.take())
            assert len(mailbox) <= 1
    assert taken == [0, 1, 2, 3]


async def test_nobody_overtakes_a_sender_that_waits() -> None:
    mailbox = new_mailbox(1)
    mailbox.offer(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.put, 1)
        await wait_all_tasks_blocked()
        assert mailbox.take() == 0
        assert not mailbox.offer(2)
        assert mailbox.take() == 1


async def test_cancelling_a_sender_that_waits_withdraws_its_message() -> None:
    mailbox = new_mailbox(1)
    mailbox.offer(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.put, 1)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert mailbox.take() == 0
    assert not len(mailbox)


async def test_a_sender_whose_message_was_taken_is_not_told_of_a_cancellation() -> None:
    mailbox = new_mailbox(1)
    mailbox.offer(0)
    finished = []

    async def put() -> None:
        await mailbox.put(1)
        finished.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put)
        await wait_all_tasks_blocked()
        mailbox.take()
        nursery.cancel_scope.cancel()
    assert finished
    assert mailbox.take() == 1


async def test_closing_releases_senders_and_drops_what_is_queued() -> None:
    mailbox = new_mailbox(1)
    mailbox.offer(0)
    errors = []

    async def put(number: int) -> None:
        try:
            await mailbox.put(number)
        except ActorStopped as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, 1)
        nursery.start_soon(put, 2)
        await wait_all_tasks_blocked()
        mailbox.close(lambda: ActorStopped("box"))
    assert len(errors) == 2
    assert errors[0] is not errors[1]
    assert (mailbox.dropped, len(mailbox)) == (1, 0)
    with pytest.raises(ActorStopped):
        mailbox.offer(3)
