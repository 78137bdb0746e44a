"""The budget of bytes: never exceeded, first come first served, nothing lost to cancellation."""

from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from s2lite.backend.budget import ByteBudget


async def test_what_fits_is_taken_at_once() -> None:
    budget = ByteBudget(10)
    await budget.take(4)
    permit = await budget.take(6)
    assert budget.used_bytes == 10
    permit.give_back()
    assert budget.used_bytes == 4


async def test_giving_back_twice_gives_back_once() -> None:
    budget = ByteBudget(10)
    await budget.take(4)
    permit = await budget.take(6)
    permit.give_back()
    permit.give_back()
    assert budget.used_bytes == 4


async def test_more_than_the_whole_budget_waits_for_all_of_it(autojump_clock: MockClock) -> None:
    budget = ByteBudget(10)
    permit = await budget.take(1)
    with trio.move_on_after(1) as scope:
        await budget.take(11)
    assert scope.cancelled_caught
    permit.give_back()
    large = await budget.take(11)
    assert budget.used_bytes == 10
    large.give_back()
    assert budget.used_bytes == 0


async def test_a_small_request_does_not_overtake_a_large_one() -> None:
    budget = ByteBudget(10)
    first = await budget.take(5)
    order: list[str] = []

    async def taking(name: str, size: int) -> None:
        await budget.take(size)
        order.append(name)

    async with trio.open_nursery() as nursery:
        for name, size in (("large", 8), ("small", 3)):
            nursery.start_soon(taking, name, size)
            await wait_all_tasks_blocked()
        assert order == []
        first.give_back()
        await wait_all_tasks_blocked()
        assert order == ["large"]
        nursery.cancel_scope.cancel()


async def test_a_waiter_that_gives_up_lets_those_behind_it_in(autojump_clock: MockClock) -> None:
    budget = ByteBudget(10)
    await budget.take(5)
    async with trio.open_nursery() as nursery:

        async def large() -> None:
            with trio.move_on_after(1):
                await budget.take(8)

        nursery.start_soon(large)
        await wait_all_tasks_blocked()
        with trio.fail_after(2):
            await budget.take(3)
    assert budget.used_bytes == 8


@pytest.mark.parametrize("seed", range(10))
async def test_under_random_cancellation_all_that_was_taken_comes_back(
    autojump_clock: MockClock, seed: int
) -> None:
    budget, rng = ByteBudget(20), Random(seed)
    served = 0

    async def user() -> None:
        nonlocal served
        with trio.move_on_after(rng.uniform(0, 5)):
            permit = await budget.take(rng.randint(1, 25))
            assert budget.used_bytes <= 20
            try:
                served += 1
                await trio.sleep(rng.uniform(0, 1))
            finally:
                permit.give_back()

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(user)
    assert budget.used_bytes == 0
    assert served > 10
