"""What the garbage collector has to look at."""

import gc
import mmap
import weakref
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from s2lite import heap


class Node:
    """Refers to itself, so that only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _own_heap() -> Iterator[None]:
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


async def test_what_stays_is_taken_out_of_sight_again_and_again(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    nursery.start_soon(heap.keep_frozen)
    await wait_all_tasks_blocked()
    before = gc.get_freeze_count()
    kept = [[number] for number in range(10_000)]
    await trio.sleep(heap.FREEZE_SECONDS + 1)
    assert gc.get_freeze_count() >= before + len(kept)
    assert len(gc.get_objects(generation=2)) < len(kept)


async def test_young_cycles_are_freed_all_the_same(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    nursery.start_soon(heap.keep_frozen)
    await wait_all_tasks_blocked()
    node = weakref.ref(Node())
    assert node() is not None
    await trio.sleep(heap.FREEZE_SECONDS + 1)
    assert node() is None


async def test_frozen_cycles_are_freed_when_the_process_has_grown(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = [100]
    monkeypatch.setattr(heap, "resident_bytes", lambda: size[0])
    nursery.start_soon(heap.keep_frozen)
    await wait_all_tasks_blocked()
    kept = Node()
    node = weakref.ref(kept)
    await trio.sleep(heap.FREEZE_SECONDS + 1)
    del kept
    await trio.sleep(heap.FREEZE_SECONDS + 1)
    assert node() is not None, "it was frozen while it was in use"
    size[0] += 2 * heap.LEAST_GROWTH_BYTES
    await trio.sleep(heap.FREEZE_SECONDS + 1)
    assert node() is None


def test_the_size_of_the_process_is_what_the_system_says() -> None:
    before = heap.resident_bytes()
    with mmap.mmap(-1, 50_000_000) as ballast:  # pages of its own, not what was freed before
        for start in range(0, len(ballast), mmap.PAGESIZE):
            ballast[start] = 1
        assert heap.resident_bytes() - before > len(ballast) * 0.9


async def test_what_is_frozen_is_freed_by_its_references(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    nursery.start_soon(heap.keep_frozen)
    await wait_all_tasks_blocked()
    kept = Node()
    del kept.itself
    node = weakref.ref(kept)
    await trio.sleep(heap.FREEZE_SECONDS + 1)
    del kept
    assert node() is None
