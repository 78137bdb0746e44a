"""What the fake adds to the promises of every store: latency, faults, gates and crashes."""

from collections import Counter
from contextlib import suppress
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from s2lite.storage.objects.object_store import (
    ObjectExists,
    ObjectNotFound,
    StoreRefused,
    StoreUnavailable,
)
from tests.fakes.object_store import FakeObjectStore, Fault, FaultRates, Latency, Op


@pytest.fixture
def store() -> FakeObjectStore:
    return FakeObjectStore(Random(1))


async def test_an_operation_takes_as_long_as_its_bounds_say(autojump_clock: MockClock) -> None:
    store = FakeObjectStore(Random(1), Latency(put_new=(2.0, 3.0), get=(0.5, 0.5)))
    durations = []
    for number in range(20):
        start = trio.current_time()
        await store.put_new(f"wal/{number}", b"")
        durations.append(trio.current_time() - start)
    start = trio.current_time()
    await store.get("wal/0")

    assert trio.current_time() - start == pytest.approx(0.5)
    assert 2.0 <= min(durations) < 2.4 < 2.6 < max(durations) <= 3.0


async def test_a_put_takes_effect_within_its_latency(autojump_clock: MockClock) -> None:
    store = FakeObjectStore(Random(1), Latency.all(1.0, 1.0))
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(store.put_new, f"wal/{number}", b"")

    effects = [each.effect for each in store.operations(Op.PUT_NEW)]
    assert len(set(effects)) == 20
    assert all(effect is not None and 0.0 <= effect <= 1.0 for effect in effects)
    assert {each.end for each in store.log} == {1.0}


async def test_the_same_seed_does_the_same(autojump_clock: MockClock) -> None:
    async def outcomes() -> list[str]:
        store = FakeObjectStore(Random(7), faults=FaultRates(error_before=0.3, error_after=0.3))
        for number in range(50):
            with suppress(StoreUnavailable):
                await store.put_new(f"wal/{number}", b"")
        return [f"{each.outcome} {each.key in store.objects}" for each in store.log]

    first = await outcomes()
    assert first == await outcomes()
    assert set(Counter(first)) == {"ok True", "StoreUnavailable True", "StoreUnavailable False"}


async def test_an_error_before_the_effect_leaves_nothing(store: FakeObjectStore) -> None:
    store.fail_next(Op.PUT_NEW, "wal/", Fault.ERROR_BEFORE)
    await store.put_new("manifest/1", b"")
    with pytest.raises(StoreUnavailable):
        await store.put_new("wal/1", b"")

    with pytest.raises(ObjectNotFound):
        await store.get("wal/1")
    await store.put_new("wal/1", b"")


async def test_an_error_after_the_effect_is_a_put_that_happened(store: FakeObjectStore) -> None:
    store.fail_next(Op.PUT_NEW, "wal/", Fault.ERROR_AFTER, times=2)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.put_new("wal/1", b"data")

    assert await store.get("wal/1") == b"data"
    with pytest.raises(ObjectExists):
        await store.put_new("wal/1", b"data")


async def test_a_refused_operation_has_no_effect(store: FakeObjectStore) -> None:
    await store.put_new("wal/1", b"")
    store.fail_next(Op.DELETE, "wal/1", Fault.REFUSED)
    with pytest.raises(StoreRefused):
        await store.delete("wal/1")

    assert await store.get("wal/1") == b""


@pytest.mark.parametrize(
    ("fault", "effect"), [(Fault.STALL_BEFORE, False), (Fault.STALL_AFTER, True)]
)
async def test_a_stalled_put_answers_when_released_or_cancelled(
    store: FakeObjectStore, autojump_clock: MockClock, fault: Fault, effect: bool
) -> None:
    store.fail_next(Op.PUT_NEW, "wal/", fault, times=2)
    with trio.move_on_after(1000) as scope:
        await store.put_new("wal/1", b"")
    assert scope.cancelled_caught
    assert ("wal/1" in store.objects) is effect

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.put_new, "wal/2", b"")
        await wait_all_tasks_blocked()
        assert ("wal/2" in store.objects) is effect
        store.release_stalled()

    assert "wal/2" in store.objects
    assert [each.outcome for each in store.log] == ["cancelled", "ok"]


@pytest.mark.parametrize("after_effect", [False, True])
async def test_a_gate_holds_a_put_before_or_after_its_effect(
    store: FakeObjectStore, after_effect: bool
) -> None:
    gate = store.hold("wal/", after_effect=after_effect)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.put_new, "wal/1", b"")
        nursery.start_soon(store.put_new, "wal/2", b"")
        await gate.wait_held(2)
        await store.put_new("manifest/1", b"")

        assert {each.key for each in gate.held} == {"wal/1", "wal/2"}
        assert ("wal/1" in store.objects) is after_effect
        assert [each.outcome for each in store.operations(Op.PUT_NEW, "wal/")] == ["pending"] * 2
        gate.release()

    await store.put_new("wal/3", b"")
    assert [info.key for info in await store.list("wal/")] == ["wal/1", "wal/2", "wal/3"]
    assert gate.held == []


async def test_a_gate_can_fail_what_it_holds(store: FakeObjectStore) -> None:
    gate = store.hold("wal/", after_effect=True)

    async def put() -> None:
        with pytest.raises(StoreUnavailable, match="cable cut"):
            await store.put_new("wal/1", b"")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put)
        await gate.wait_held()
        gate.fail(StoreUnavailable("wal/1", "cable cut"))

    assert "wal/1" in store.objects


async def test_a_fork_has_what_had_happened_and_lives_on_alone(store: FakeObjectStore) -> None:
    await store.put_new("wal/1", b"one")
    before, after = store.hold("wal/2"), store.hold("wal/3", after_effect=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.put_new, "wal/2", b"two")
        nursery.start_soon(store.put_new, "wal/3", b"three")
        await before.wait_held()
        await after.wait_held()
        fork = store.fork(Random(2))
        before.release()
        after.release()

    assert [info.key for info in await fork.list("")] == ["wal/1", "wal/3"]
    await fork.put_new("wal/2", b"another")
    await fork.delete("wal/1")
    assert await store.get("wal/2") == b"two"
    assert await store.get("wal/1") == b"one"


async def test_a_damaged_object_has_other_data_and_the_same_date(store: FakeObjectStore) -> None:
    await store.put_new("wal/1", b"data")
    [before] = await store.list("")
    store.damage("wal/1", b"dat")

    assert await store.get("wal/1") == b"dat"
    [after] = await store.list("")
    assert (after.size, after.last_modified_ms) == (3, before.last_modified_ms)


async def test_objects_are_dated_by_the_clock_that_was_passed_in() -> None:
    store = FakeObjectStore(Random(1), now_ms=lambda: 1_700_000_000_123)
    await store.put_new("wal/1", b"")

    [info] = await store.list("")
    assert info.last_modified_ms == 1_700_000_000_123
