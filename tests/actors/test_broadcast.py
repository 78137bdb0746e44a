from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import Broadcast, BroadcastClosed, Subscription, SubscriptionLagged


async def receive_all(subscription: Subscription[int]) -> list[int]:
    items = []
    while True:
        try:
            items.append(subscription.receive_nowait())
        except trio.WouldBlock:
            return items


async def test_every_subscriber_gets_every_item_from_when_it_subscribed() -> None:
    broadcast: Broadcast[int] = Broadcast()
    broadcast.publish(0)
    early = broadcast.subscribe()
    broadcast.publish(1)
    late = broadcast.subscribe()
    broadcast.publish(2)
    assert await receive_all(early) == [1, 2]
    assert await receive_all(late) == [2]


async def test_receive_waits_for_the_next_item() -> None:
    broadcast: Broadcast[int] = Broadcast()
    subscription = broadcast.subscribe()
    items = []

    async def read() -> None:
        items.append(await subscription.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        broadcast.publish(1)
        broadcast.publish(2)
    assert items == [1]
    assert await subscription.receive() == 2


async def test_cancelling_receive_loses_nothing(autojump_clock: MockClock) -> None:
    broadcast: Broadcast[int] = Broadcast()
    subscription = broadcast.subscribe()
    with trio.move_on_after(1):
        await subscription.receive()
    broadcast.publish(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await subscription.receive()
    assert scope.cancelled_caught
    assert await subscription.receive() == 1


async def test_an_item_published_in_the_same_step_as_a_cancellation_is_not_lost() -> None:
    broadcast: Broadcast[int] = Broadcast()
    subscription = broadcast.subscribe()
    items = []

    async def read() -> None:
        items.append(await subscription.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        broadcast.publish(1)
        nursery.cancel_scope.cancel()
    assert items + await receive_all(subscription) == [1]


async def test_overflow_by_items_drops_the_backlog_and_is_told_once() -> None:
    broadcast: Broadcast[int] = Broadcast(max_items=2)
    slow, quick = broadcast.subscribe(), broadcast.subscribe(max_items=10)
    for number in range(4):
        broadcast.publish(number)
    assert slow.lagged
    assert slow.backlog_items == 0
    with pytest.raises(SubscriptionLagged) as caught:
        await slow.receive()
    assert caught.value.missed_items == 4
    broadcast.publish(4)
    assert await slow.receive() == 4
    assert await receive_all(quick) == [0, 1, 2, 3, 4]


async def test_overflow_by_bytes_drops_the_backlog() -> None:
    broadcast: Broadcast[int] = Broadcast(max_bytes=100)
    subscription = broadcast.subscribe()
    broadcast.publish(0, 60)
    broadcast.publish(1, 40)
    assert subscription.backlog_bytes == 100
    broadcast.publish(2, 1)
    assert subscription.backlog_bytes == 0
    with pytest.raises(SubscriptionLagged):
        subscription.receive_nowait()


async def test_receiving_gives_the_bytes_back() -> None:
    broadcast: Broadcast[int] = Broadcast(max_bytes=100)
    subscription = broadcast.subscribe()
    for number in range(10):
        broadcast.publish(number, 80)
        assert await subscription.receive() == number


async def test_an_item_larger_than_the_bound_is_taken_by_an_empty_backlog() -> None:
    broadcast: Broadcast[int] = Broadcast(max_bytes=100)
    subscription = broadcast.subscribe()
    broadcast.publish(1, 1000)
    assert await subscription.receive() == 1
    broadcast.publish(2, 1)
    broadcast.publish(3, 1000)
    with pytest.raises(SubscriptionLagged):
        await subscription.receive()


async def test_closing_lets_subscribers_receive_what_is_queued_first() -> None:
    broadcast: Broadcast[int] = Broadcast()
    subscription = broadcast.subscribe()
    failure = ValueError("the publisher broke")
    broadcast.publish(1)
    broadcast.close(failure)
    broadcast.close()
    assert await subscription.receive() == 1
    for _ in range(2):
        with pytest.raises(BroadcastClosed) as caught:
            await subscription.receive()
        assert caught.value.error is caught.value.__cause__ is failure
    assert (broadcast.closed, len(broadcast)) == (True, 0)


async def test_a_lag_is_told_before_the_close() -> None:
    broadcast: Broadcast[int] = Broadcast(max_items=1)
    subscription = broadcast.subscribe()
    broadcast.publish(1)
    broadcast.publish(2)
    broadcast.close()
    with pytest.raises(SubscriptionLagged):
        await subscription.receive()
    with pytest.raises(BroadcastClosed) as caught:
        await subscription.receive()
    assert caught.value.error is None


@pytest.mark.parametrize("closer", ["broadcast", "subscription"])
async def test_closing_wakes_a_receiver(closer: str) -> None:
    broadcast: Broadcast[int] = Broadcast()
    subscription = broadcast.subscribe()
    ended = []

    async def read() -> None:
        with pytest.raises(BroadcastClosed):
            await subscription.receive()
        ended.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        broadcast.close() if closer == "broadcast" else subscription.close()
    assert ended == [True]


async def test_a_closed_broadcast_takes_nothing_and_gives_nothing() -> None:
    broadcast: Broadcast[int] = Broadcast()
    broadcast.close()
    with pytest.raises(BroadcastClosed):
        broadcast.publish(1)
    with broadcast.subscribe() as subscription, pytest.raises(BroadcastClosed):
        await subscription.receive()


async def test_leaving_the_block_unsubscribes() -> None:
    broadcast: Broadcast[int] = Broadcast()
    with broadcast.subscribe() as subscription:
        broadcast.publish(1)
        assert len(broadcast) == 1
    assert (len(broadcast), subscription.backlog_items) == (0, 0)
    broadcast.publish(2)
    with pytest.raises(BroadcastClosed):
        await subscription.receive()


async def test_only_one_task_may_receive() -> None:
    broadcast: Broadcast[int] = Broadcast()
    subscription = broadcast.subscribe()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subscription.receive)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await subscription.receive()
        broadcast.publish(1)


class Model:
    """What a subscription must do, told with the whole history of items instead of a backlog."""

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self.max_items, self.max_bytes = max_items, max_bytes
        self.queued: list[tuple[int, int]] = []
        self.lost: list[int] = []
        self.closed = False

    def publish(self, item: int, size_bytes: int) -> None:
        queued = [*self.queued, (item, size_bytes)]
        total_bytes = sum(size for _, size in queued)
        if self.lost:
            self.lost.append(item)
        elif len(queued) == 1 or (len(queued) <= self.max_items and total_bytes <= self.max_bytes):
            self.queued = queued
        else:
            self.lost = [lost for lost, _ in queued]
            self.queued = []

    def receive(self) -> object:
        if self.lost:
            missed, self.lost = len(self.lost), []
            return ("lagged", missed)
        if self.queued:
            return self.queued.pop(0)[0]
        return "closed" if self.closed else "would block"


def receive(subscription: Subscription[int]) -> object:
    try:
        return subscription.receive_nowait()
    except SubscriptionLagged as error:
        return ("lagged", error.missed_items)
    except BroadcastClosed:
        return "closed"
    except trio.WouldBlock:
        return "would block"


bounds = st.tuples(st.integers(1, 4), st.integers(0, 20))
publishes = st.tuples(st.just("publish"), st.integers(0, 25))
receives = st.tuples(st.just("receive"), st.integers(0, 2))


@given(
    st.lists(bounds, min_size=1, max_size=3),
    st.lists(publishes | receives, max_size=60),
)
def test_subscriptions_agree_with_the_model(
    all_bounds: list[tuple[int, int]], steps: list[tuple[str, int]]
) -> None:
    broadcast: Broadcast[int] = Broadcast()
    models = [Model(*bounds) for bounds in all_bounds]
    subscriptions = [
        broadcast.subscribe(max_items=items, max_bytes=size) for items, size in all_bounds
    ]
    for item, (step, argument) in enumerate(steps):
        if step == "publish":
            broadcast.publish(item, argument)
            for model in models:
                model.publish(item, argument)
        else:
            chosen = argument % len(models)
            assert receive(subscriptions[chosen]) == models[chosen].receive()
        for model, subscription in zip(models, subscriptions, strict=True):
            assert subscription.backlog_items == len(model.queued)
            assert subscription.backlog_bytes == sum(size for _, size in model.queued)
    broadcast.close()
    for model, subscription in zip(models, subscriptions, strict=True):
        model.closed = True
        outcome: object = None
        while outcome != "closed":
            outcome = receive(subscription)
            assert outcome == model.receive()


async def test_changes_of_all_backlogs_are_told_and_add_up_to_what_waits() -> None:
    held = [0]

    def changed(size_bytes: int) -> None:
        held[0] += size_bytes

    broadcast: Broadcast[int] = Broadcast(max_items=2, on_backlog=changed)
    one, two = broadcast.subscribe(), broadcast.subscribe()
    broadcast.publish(1, 10)
    broadcast.publish(2, 10)
    assert held == [40] == [one.backlog_bytes + two.backlog_bytes]
    await one.receive()
    broadcast.publish(3, 10)  # too much for the second one, which loses all of it
    assert held == [20] == [one.backlog_bytes + two.backlog_bytes]
    one.close()
    assert held == [0]
