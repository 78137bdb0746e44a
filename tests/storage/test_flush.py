"""Flushing a table: what is written, what is left out, and what a crash at any moment leaves."""

import random

import pytest
import trio

from s2lite.model.errors import StorageFailed
from s2lite.model.manifest import Manifest
from s2lite.storage.slices import free_in_slices, gathered_in_slices, sorted_in_slices
from tests.fakes.object_store import Fault, Op
from tests.storage.engine import Engine, RecordingStore, open_engine, stream_id

ONE, TWO = stream_id(1), stream_id(2)


def keys(engine: Engine, prefix: str) -> list[str]:
    return [key for key in engine.store.objects if key.startswith(prefix)]


async def test_a_flush_moves_batches_facts_and_floor_into_one_manifest() -> None:
    async with open_engine() as engine:
        for _ in range(3):
            engine.append(TWO, 2)
            engine.append(ONE, 3)
        await engine.flush()
        manifest = engine.manifest.value
        assert engine.tiers == [0]
        assert len(manifest.catalog) == 1
        assert manifest.wal_floor == engine.wal_number
        assert engine.manifest.number == 1
        assert (engine.numbers(ONE), engine.numbers(TWO)) == (list(range(9)), list(range(6)))
        engine.check()
        await engine.check_catalog()


async def test_the_runs_and_catalog_objects_of_flushes_are_appended() -> None:
    async with open_engine() as engine:
        for _ in range(3):
            engine.append(ONE, 2)
            await engine.flush()
        assert engine.tiers == [0, 0, 0]
        assert engine.numbers(ONE) == list(range(6))
        assert list(engine.manifest.value.catalog) == sorted(engine.manifest.value.catalog)
        await engine.check_catalog()


async def test_what_is_dead_is_not_written() -> None:
    async with open_engine() as engine:
        now_ms = engine.clock.now_ms()
        engine.append(ONE, 2)
        engine.append(ONE, 3)
        engine.append(ONE, 2, expires_at_ms=now_ms)
        engine.append(ONE, 1, expires_at_ms=now_ms + 1)
        engine.append(TWO, 2)
        engine.trim(ONE, 3)
        engine.remove(TWO)
        await engine.flush()
        assert engine.numbers(ONE) == [2, 3, 4, 7]
        assert engine.numbers(TWO) == []
        engine.check()
        await engine.check_catalog()


async def test_a_stream_removed_while_its_batches_are_being_flushed_is_left_out() -> None:
    async with open_engine() as engine:
        engine.append(TWO)
        engine.append(ONE)
        engine.memtable.freeze()
        engine.remove(ONE)
        await engine.flush_frozen()
        assert (engine.numbers(ONE), engine.numbers(TWO)) == ([], [0])


@pytest.mark.parametrize("end", ["trimmed", "expired", "removed"])
async def test_a_table_whose_batches_are_all_dead_makes_no_run(end: str) -> None:
    async with open_engine() as engine:
        engine.append(ONE, 2, expires_at_ms=engine.clock.now_ms() if end == "expired" else None)
        if end == "trimmed":
            engine.trim(ONE, 2)
        if end == "removed":
            engine.remove(ONE)
        await engine.flush()
        assert engine.manifest.value.runs == ()
        assert len(engine.manifest.value.catalog) == 1
        assert keys(engine, "segment/") == []
        await engine.check_catalog()


async def test_a_removal_alone_reaches_the_catalog() -> None:
    async with open_engine() as engine:
        engine.append(ONE)
        engine.append(TWO)
        await engine.flush()
        engine.remove(ONE)
        await engine.flush()
        assert (engine.tiers, len(engine.manifest.value.catalog)) == ([0], 2)
        await engine.check_catalog()


async def test_a_table_with_nothing_in_it_still_moves_the_floor_but_only_forward() -> None:
    async with open_engine() as engine:
        engine.memtable.advanced(0)
        await engine.flush()
        assert engine.manifest.value == Manifest(wal_floor=1)
        await engine.flush()
        assert engine.manifest.number == 1
        assert list(engine.store.objects) == ["manifest/00000000000000000001"]


async def test_a_large_table_becomes_several_segments() -> None:
    async with open_engine() as engine:
        for number in range(40):
            engine.append(stream_id(1 + number % 4), 5, size=20)
        await engine.flush()
        assert engine.tiers == [0]
        assert len(engine.manifest.value.segments) > 3
        engine.check()


async def test_others_change_the_manifest_while_a_flush_writes() -> None:
    """Only at the end does a flush look at the manifest: what it appends to is the newest."""
    async with open_engine() as engine:
        engine.append(ONE)
        gate = engine.store.hold("segment/")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.flush)
            await gate.wait_held()
            await engine.manifest.commit(lambda newest: Manifest(wal_in_flight=7))
            gate.release()
        assert engine.manifest.value.wal_in_flight == 7
        engine.check()


@pytest.mark.parametrize("prefix", ["segment/", "catalog/", "manifest/"])
async def test_a_flush_that_fails_has_changed_nothing(prefix: str) -> None:
    async with open_engine() as engine:
        engine.append(ONE)
        await engine.flush()
        engine.append(ONE)
        before = engine.manifest.value
        engine.store.fail_next(Op.PUT_NEW, prefix, Fault.REFUSED)
        with pytest.raises(StorageFailed):
            await engine.flush()
        assert engine.manifest.value == before
        assert engine.memtable.frozen is not None
        await engine.check_crash(engine.store)


async def test_a_crash_at_any_moment_of_a_flush_leaves_all_of_it_or_nothing() -> None:
    store = RecordingStore(random.Random(0))
    async with open_engine(store) as engine:
        for _ in range(3):
            for number in range(20):
                engine.append(stream_id(1 + number % 3), 3, size=20)
            engine.trim(ONE, 4)
            await engine.flush()
        engine.remove(TWO)
        await engine.flush()
        assert len(store.left) > 20
        for left in store.left:
            await engine.check_crash(left)


@pytest.mark.parametrize("count", [0, 1, 5, 4096, 10_000])
async def test_ids_sorted_in_slices_are_sorted(count: int) -> None:
    rng = random.Random(count)
    unsorted = [stream_id(rng.getrandbits(100)) for _ in range(count)]
    assert await sorted_in_slices(unsorted) == sorted(unsorted)


async def test_pieces_are_freed_in_slices() -> None:
    pieces = await gathered_in_slices([object() for _ in range(2000)])
    assert len(pieces) == 2000
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while pieces:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        await free_in_slices(pieces)
    assert turns >= 2
