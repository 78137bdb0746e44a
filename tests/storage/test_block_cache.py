"""The cache: what it keeps, what it lets go of, and who waits for what."""

from collections.abc import Sequence
from random import Random

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from s2lite.model.errors import CorruptObject, StorageError, StorageFailed
from s2lite.model.manifest import ObjectId
from s2lite.storage.block_cache import BlockCache, CacheItem, CacheKey, open_block_cache


def key(number: int) -> CacheKey:
    return ObjectId(1, 1), number


@attrs.define(eq=False)
class Origin:
    """What is loaded from: an item is its own number; a closed gate holds every load."""

    cache: BlockCache
    loads: list[tuple[int, ...]] = attrs.field(factory=list)
    gate: trio.Event | None = None
    failing: StorageError | None = None

    def get(self, number: int, size: int = 10) -> CacheItem:
        return self.get_all([(number, size)])[0]

    def get_all(self, wanted: Sequence[tuple[int, int]]) -> list[CacheItem]:
        """Look for the first; if it is not there, have all of them loaded together."""
        item = self.cache.look(key(wanted[0][0]))
        if item is not None:
            return [item]
        numbers = tuple(number for number, _ in wanted)

        async def load() -> list[bytes | StorageError]:
            self.loads.append(numbers)
            if self.gate is not None:
                await self.gate.wait()
            if self.failing is not None:
                raise self.failing
            return [b"%d" % number for number in numbers]

        return self.cache.load([(key(number), size) for number, size in wanted], load)


async def test_what_was_loaded_is_kept_and_counted() -> None:
    async with open_block_cache(100) as cache:
        origin = Origin(cache)
        assert await origin.get(1).value() == b"1"
        assert await origin.get(1).value() == b"1"
        assert origin.loads == [(1,)]
        assert (cache.hits, cache.misses, cache.used_bytes) == (1, 1, 10)
        assert cache.peek(key(1)) == b"1"
        assert cache.peek(key(2)) is None
        assert (key(1) in cache, key(2) in cache) == (True, False)
        assert (cache.hits, cache.misses) == (1, 1)


async def test_what_was_not_used_for_longest_goes_first() -> None:
    async with open_block_cache(30) as cache:
        origin = Origin(cache)
        for number in (1, 2, 3, 1, 4):
            await origin.get(number).value()
        assert [number for number in range(1, 5) if key(number) in cache] == [1, 3, 4]
        assert cache.used_bytes == 30


async def test_all_who_want_the_same_wait_for_one_load() -> None:
    async with open_block_cache(100) as cache:
        origin = Origin(cache, gate=trio.Event())
        items = [origin.get(1) for _ in range(5)]
        await wait_all_tasks_blocked()
        assert origin.loads == [(1,)]
        assert origin.gate is not None
        origin.gate.set()
        assert [await item.value() for item in items] == [b"1"] * 5


async def test_a_reader_that_is_cancelled_does_not_cancel_the_load(
    autojump_clock: MockClock,
) -> None:
    async with open_block_cache(100) as cache:
        origin = Origin(cache, gate=trio.Event())
        with trio.move_on_after(1) as scope:
            await origin.get(1).value()
        assert scope.cancelled_caught
        assert origin.gate is not None
        origin.gate.set()
        assert await origin.get(1).value() == b"1"
        assert origin.loads == [(1,)]


async def test_a_failure_is_told_to_all_who_wait_and_not_kept() -> None:
    async with open_block_cache(100) as cache:
        origin = Origin(cache, failing=StorageFailed("away"))
        items = [origin.get(1), origin.get(1)]
        for item in items:
            with pytest.raises(StorageFailed):
                await item.value()
        assert cache.used_bytes == 0
        origin.failing = None
        assert await origin.get(1).value() == b"1"


async def test_of_what_is_loaded_together_only_what_is_damaged_fails() -> None:
    async with open_block_cache(100) as cache:

        async def load() -> list[bytes | StorageError]:
            return [b"1", CorruptObject("key", "reason"), b"3"]

        items = cache.load([(key(number), 10) for number in (1, 2, 3)], load)
        assert await items[0].value() == b"1"
        with pytest.raises(CorruptObject):
            await items[1].value()
        assert await items[2].value() == b"3"
        assert cache.used_bytes == 20
        assert key(2) not in cache


async def test_what_is_being_loaded_counts_and_others_wait_for_room_in_line() -> None:
    async with open_block_cache(30) as cache:
        origin = Origin(cache, gate=trio.Event())
        items: list[CacheItem] = []
        for number, size in ((1, 20), (2, 20), (3, 10)):
            items.append(origin.get(number, size))
            await wait_all_tasks_blocked()
        assert origin.loads == [(1,)]
        assert cache.used_bytes == 20
        assert origin.gate is not None
        origin.gate.set()
        assert [await item.value() for item in items] == [b"1", b"2", b"3"]
        assert origin.loads == [(1,), (2,), (3,)]
        assert cache.used_bytes == 30


async def test_an_item_larger_than_the_budget_is_alone() -> None:
    async with open_block_cache(30) as cache:
        origin = Origin(cache)
        await origin.get(1).value()
        assert await origin.get(2, 50).value() == b"2"
        assert (key(1) in cache, cache.used_bytes) == (False, 50)
        assert await origin.get(3).value() == b"3"
        assert (key(2) in cache, cache.used_bytes) == (False, 10)


async def test_an_item_that_was_let_go_is_still_whole_for_those_who_have_it() -> None:
    async with open_block_cache(10) as cache:
        origin = Origin(cache)
        one = origin.get(1)
        await wait_all_tasks_blocked()
        await origin.get(2).value()
        assert key(1) not in cache
        assert await one.value() == b"1"


async def test_at_the_end_those_who_wait_are_told() -> None:
    errors: list[StorageFailed] = []

    async def wait(item: CacheItem) -> None:
        try:
            await item.value()
        except StorageFailed as error:
            errors.append(error)

    async with trio.open_nursery() as nursery, open_block_cache(10) as cache:
        origin = Origin(cache, gate=trio.Event())
        nursery.start_soon(wait, origin.get(1))
        nursery.start_soon(wait, origin.get(2))
        await wait_all_tasks_blocked()
    assert len(errors) == 2
    assert cache.used_bytes == 0


async def test_an_error_in_the_block_is_raised_as_it_is() -> None:
    with pytest.raises(StorageFailed):
        async with open_block_cache(10):
            raise StorageFailed("reason")


@pytest.mark.slow
@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5), st.booleans()), max_size=60),
    st.integers(0, 2**32),
)
def test_the_budget_holds_at_every_moment_and_nobody_waits_for_ever(
    budget: int, wanted: list[tuple[int, int, bool]], seed: int
) -> None:
    rng = Random(seed)
    sizes = [1, 5, 10, 15, 20, 30, 45, 60, 80]

    async def check() -> None:
        async with open_block_cache(budget) as cache:
            loading: list[int] = []
            failed: set[int] = set()

            async def get(number: int, fails: bool) -> None:
                async def load() -> list[bytes | StorageError]:
                    loading.append(number)
                    kept = sum(item.size_bytes for item in cache._kept.values())
                    used = kept + sum(sizes[each] for each in loading)
                    assert cache.used_bytes >= used
                    assert cache.used_bytes <= budget or len(loading) == 1
                    await trio.sleep(rng.random())
                    loading.remove(number)
                    if fails:
                        failed.add(number)
                        raise StorageFailed("no")
                    return [b"%d" % number]

                item = cache.look(key(number))
                if item is None:
                    [item] = cache.load([(key(number), sizes[number])], load)
                try:
                    assert await item.value() == b"%d" % number
                except StorageFailed:
                    assert number in failed

            with trio.fail_after(1000):
                async with trio.open_nursery() as nursery:
                    for number, pause, fails in wanted:
                        await trio.sleep(pause / 5)
                        nursery.start_soon(get, number, fails)
            assert cache.used_bytes == sum(item.size_bytes for item in cache._kept.values())

    trio.run(check, clock=MockClock(autojump_threshold=0))
