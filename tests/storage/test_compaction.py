"""Merging, rewriting and dropping: nothing wanted is lost, and what is dead goes."""

import random

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from actors.testing import VirtualClock
from s2lite.core.compaction import Drop, Merge, Rewrite
from s2lite.model.errors import StorageFailed
from s2lite.model.manifest import SegmentInfo
from s2lite.storage import compaction
from s2lite.storage.layout import Layout
from s2lite.storage.segments import segment_key
from tests.fakes.object_store import FakeObjectStore, Fault, Op
from tests.storage.engine import (
    BASIN,
    TINY,
    Engine,
    RecordingStore,
    footer_of,
    open_engine,
    stream_id,
)

ONE, TWO, THREE = stream_id(1), stream_id(2), stream_id(3)

# Segments hold one block of a few records, so that a test can say which is which.
NARROW = attrs.evolve(TINY, entry_bytes=1, block_bytes=1, segment_bytes=1)


async def flush_rounds(engine: Engine, rounds: int, *, count: int = 3, size: int = 0) -> None:
    """So many runs, each with a batch of streams one to three."""
    for _ in range(rounds):
        for stream in (ONE, TWO, THREE):
            engine.append(stream, count, size=size)
        await engine.flush()


def segments_of(engine: Engine) -> tuple[SegmentInfo, ...]:
    return engine.manifest.value.segments


def requests(engine: Engine, op: Op, prefix: str) -> int:
    return len(engine.store.operations(op, prefix))


# --- merging ------------------------------------------------------------------------------------


async def test_as_many_runs_as_the_fanout_become_one_in_the_order_of_streams() -> None:
    async with open_engine() as engine:
        await flush_rounds(engine, 3)
        [job] = await engine.compact()
        assert isinstance(job, Merge)
        assert engine.tiers == [1]
        engine.check()
        assert engine.numbers(ONE) == list(range(9))


async def test_runs_that_are_flushed_during_a_merge_stay_behind_its_result() -> None:
    async with open_engine() as engine:
        await flush_rounds(engine, 3)
        gate = engine.store.hold("segment/", Op.GET_RANGE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.compact_once)
            await gate.wait_held()
            await flush_rounds(engine, 1)
            gate.release()
        assert engine.tiers == [1, 0]
        engine.check()


async def test_small_blocks_of_a_stream_are_joined_and_large_ones_copied_as_they_are() -> None:
    async with open_engine() as engine:
        await flush_rounds(engine, 2, size=60)
        await flush_rounds(engine, 1, count=1)
        sizes = [
            row.size for info in segments_of(engine) for row in footer_of(engine.store, info).rows()
        ]
        await engine.compact()
        rows = [row for info in segments_of(engine) for row in footer_of(engine.store, info).rows()]
        assert len([size for size in sizes if size >= TINY.block_bytes / 2]) == 6
        assert len(rows) == 9
        engine.check()
    async with open_engine() as engine:
        await flush_rounds(engine, 3, count=1)
        await engine.compact()
        rows = [row for info in segments_of(engine) for row in footer_of(engine.store, info).rows()]
        assert [(row.first_seq_num, row.end_seq_num) for row in rows] == [(0, 3)] * 3


async def test_a_merge_drops_what_is_trimmed_expired_or_removed() -> None:
    async with open_engine() as engine:
        for stream in (ONE, TWO, THREE):
            engine.append(stream, 3)
        await engine.flush()
        engine.append(ONE, 2, expires_at_ms=engine.clock.now_ms())
        engine.append(TWO, 2)
        await engine.flush()
        engine.trim(ONE, 3)
        engine.remove(THREE)
        engine.append(TWO, 1)
        await engine.flush()
        await engine.compact_once()
        assert engine.tiers == [1]
        assert engine.numbers(ONE) == []
        assert engine.numbers(TWO) == list(range(6))
        assert engine.numbers(THREE) == []


async def test_a_large_block_of_which_a_part_is_trimmed_is_not_copied() -> None:
    async with open_engine(layout=attrs.evolve(TINY, entry_bytes=1, segment_bytes=2000)) as engine:
        for _ in range(3):
            for _ in range(3):
                engine.append(ONE, 1, size=50)
            await engine.flush()
        engine.trim(ONE, 1)
        await engine.compact_once()
        assert engine.numbers(ONE) == list(range(1, 9))


async def test_a_merge_of_which_nothing_is_left_leaves_no_run_and_writes_none() -> None:
    async with open_engine() as engine:
        await flush_rounds(engine, 3)
        for stream in (ONE, TWO, THREE):
            engine.remove(stream)
        puts = requests(engine, Op.PUT_NEW, "segment/")
        await engine.compact_once()
        assert engine.tiers == []
        assert requests(engine, Op.PUT_NEW, "segment/") == puts


async def test_dead_blocks_are_not_read() -> None:
    async with open_engine(layout=attrs.evolve(TINY, segment_bytes=100_000)) as engine:
        for _ in range(3):
            for stream in (ONE, TWO, THREE):
                engine.append(stream, 3, size=60)
            await engine.flush()
        engine.remove(ONE)
        engine.remove(THREE)
        before = requests(engine, Op.GET_RANGE, "segment/")
        await engine.compact_once()
        assert requests(engine, Op.GET_RANGE, "segment/") - before == 6  # a footer, a block of each
        assert engine.numbers(TWO) == list(range(9))


async def test_many_blocks_are_read_by_one_request_and_gaps_up_to_a_size_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_engine(layout=attrs.evolve(TINY, segment_bytes=10**6, fanout=2)) as engine:
        for _ in range(2):
            for number in range(1, 10):
                engine.append(stream_id(number), 3, size=60)
            await engine.flush()
        engine.remove(stream_id(2))
        engine.remove(stream_id(5))
        engine.remove(stream_id(6))
        monkeypatch.setattr(compaction, "GAP_BYTES", 300)
        monkeypatch.setattr(compaction, "RANGE_BYTES", 10**6)
        engine.store.log.clear()
        await engine.compact_once()
        assert requests(engine, Op.GET_RANGE, "segment/") == 2 * (1 + 2)
        engine.check()


@pytest.mark.parametrize("range_bytes", [1, 500, 1000])
async def test_ranges_are_no_longer_than_they_should_be(
    monkeypatch: pytest.MonkeyPatch, range_bytes: int
) -> None:
    monkeypatch.setattr(compaction, "RANGE_BYTES", range_bytes)
    async with open_engine(layout=attrs.evolve(TINY, segment_bytes=10**6)) as engine:
        await flush_rounds(engine, 3, size=60)
        await engine.compact_once()
        assert requests(engine, Op.GET_RANGE, "segment/") >= 3 + 9 * 240 // max(range_bytes, 240)
        engine.check()


async def test_each_input_is_read_one_range_ahead_and_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compaction, "RANGE_BYTES", 1)
    layout = attrs.evolve(TINY, fanout=2, segment_bytes=2000)
    async with open_engine(layout=layout) as engine:
        for _ in range(2):
            for number in range(1, 50):
                engine.append(stream_id(number), 3, size=60)
            await engine.flush()
        engine.store.log.clear()
        gate = engine.store.hold("segment/")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.compact_once)
            await gate.wait_held()
            await trio.testing.wait_all_tasks_blocked()
            # Nine blocks are in the segment being put, nine in the one that waits for it; of each
            # input one is in use and one ahead. A few of the requests are for footers.
            assert 18 <= requests(engine, Op.GET_RANGE, "segment/") <= 18 + 2 * 2 + 2 * 3
            gate.release()
        engine.check()


# --- segments that are named as they are --------------------------------------------------------


async def test_large_segments_that_overlap_no_other_input_are_not_read() -> None:
    async with open_engine(layout=NARROW) as engine:
        for _ in range(3):
            engine.append(ONE, 3)
            await engine.flush()
        before = segments_of(engine)
        engine.store.log.clear()
        await engine.compact_once()
        assert engine.tiers == [1]
        assert segments_of(engine) == before
        assert [(o.op, o.key[:9]) for o in engine.store.log] == [(Op.PUT_NEW, "manifest/")]
        engine.check()


async def test_segments_between_those_that_are_moved_are_merged() -> None:
    """Stream two overlaps stream two of the other runs only if its segments have more streams."""
    layout = attrs.evolve(TINY, segment_bytes=400, fanout=2)
    async with open_engine(layout=layout) as engine:
        engine.append(ONE, 3, size=200)  # moved
        engine.append(TWO, 3)
        engine.append(stream_id(4), 3)
        await engine.flush()
        engine.append(THREE, 3)
        engine.append(stream_id(5), 3, size=200)
        engine.append(stream_id(6), 3, size=200)  # moved
        await engine.flush()
        before = segments_of(engine)
        await engine.compact_once()
        after = segments_of(engine)
        moved = [info for info in after if info in before]
        assert (after[0], after[-1]) == (moved[0], moved[-1])
        assert len(moved) == 2
        assert len(after) > 2
        engine.check()


async def test_small_segments_are_rewritten_so_that_they_do_not_stay_small() -> None:
    async with open_engine() as engine:
        for _ in range(3):
            engine.append(ONE, 3)
            await engine.flush()
        await engine.compact_once()
        assert len(segments_of(engine)) == 1
        engine.check()


async def test_a_large_segment_that_is_mostly_dead_is_not_moved() -> None:
    async with open_engine(layout=attrs.evolve(TINY, segment_bytes=1000)) as engine:
        engine.append(ONE, 9, size=60)
        engine.append(ONE, 1, size=60)
        await engine.flush()
        assert len(segments_of(engine)) == 1
        engine.trim(ONE, 9)
        await engine.fates.weigh_touched()
        for _ in range(2):
            engine.append(ONE, 9, size=60)
            await engine.flush()
        old = segments_of(engine)
        await engine.compact_once()
        assert engine.tiers == [1]
        assert old[0] not in segments_of(engine)
        assert old[1:] == segments_of(engine)[1:]
        assert engine.numbers(ONE) == list(range(9, 28))


# --- dropping and rewriting ----------------------------------------------------------------------


@pytest.mark.parametrize("end", ["trimmed", "expired", "removed"])
async def test_a_segment_that_is_dead_as_a_whole_is_dropped_unread(end: str) -> None:
    clock = VirtualClock()
    async with open_engine(layout=NARROW, clock=clock) as engine:
        expires_at_ms = clock.now_ms() + 60_000
        engine.append(ONE, 3, expires_at_ms=expires_at_ms if end == "expired" else None)
        engine.append(TWO, 3)
        await engine.flush()
        match end:
            case "trimmed":
                engine.trim(ONE, 3)
            case "removed":
                engine.remove(ONE)
            case _:
                clock.step(60_000)
        engine.store.log.clear()
        job = await engine.compact_once()
        assert isinstance(job, Drop)
        assert [(o.op, o.key[:9]) for o in engine.store.log] == [(Op.PUT_NEW, "manifest/")]
        assert (engine.numbers(ONE), engine.numbers(TWO)) == ([], [0, 1, 2])
        engine.check()


async def test_a_segment_that_is_mostly_dead_is_rewritten_alone() -> None:
    async with open_engine() as engine:
        await flush_rounds(engine, 2)
        engine.remove(ONE)
        assert await engine.compact() == []
        engine.remove(THREE)
        first, second = await engine.compact()
        assert isinstance(first, Rewrite)
        assert isinstance(second, Rewrite)
        assert engine.tiers == [0, 0]
        assert engine.numbers(TWO) == list(range(6))
        engine.check_reclaimed()


async def test_a_segment_of_which_half_has_expired_is_rewritten_unasked() -> None:
    clock = VirtualClock()
    async with open_engine(clock=clock) as engine:
        engine.append(ONE, 3, expires_at_ms=clock.now_ms() + 60_000)
        engine.append(TWO, 3, expires_at_ms=clock.now_ms() + 60_000)
        engine.append(THREE, 3)
        await engine.flush()
        assert await engine.compact() == []
        clock.step(60_000)
        [job] = await engine.compact()
        assert isinstance(job, Rewrite)
        assert (engine.numbers(ONE), engine.numbers(THREE)) == ([], [0, 1, 2])


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["block", "large block", "footer", "missing", "cut"])
async def test_a_damaged_input_is_left_alone_and_other_jobs_go_on(kind: str) -> None:
    async with open_engine() as engine:
        await flush_rounds(engine, 3, size=60 if kind == "large block" else 0)
        damaged = segments_of(engine)[0]
        key = segment_key(damaged.object_id)
        data = bytearray(engine.store.objects[key].data)
        data[100 if "block" in kind else damaged.footer_offset + 5] ^= 1
        if kind == "missing":
            del engine.store.objects[key]
        else:
            engine.store.damage(key, bytes(data[:70] if kind == "cut" else data))
        before = engine.manifest.value
        job = await engine.compact_once()
        assert isinstance(job, Merge)
        assert engine.manifest.value == before
        assert list(engine.damage.items) == [key]
        assert engine.fates.blocked == {damaged.object_id}
        assert set(engine.garbage) >= unnamed(engine)
        for _ in range(3):
            engine.append(TWO)
            await engine.flush()
        await engine.compact()
        assert engine.tiers == [0, 1, 0, 0]
        for stream in (ONE, TWO, THREE):
            engine.remove(stream)
        await engine.compact()
        # Only without its footer can nobody tell that all of it is dead.
        has_footer = "block" in kind
        assert segments_of(engine) == (() if has_footer else (damaged,))


def unnamed(engine: Engine) -> set[str]:
    """The segments in the store that the manifest does not name."""
    named = {segment_key(info.object_id) for info in segments_of(engine)}
    return {key for key in engine.store.objects if key.startswith("segment/")} - named


@pytest.mark.parametrize("failing", range(4))
async def test_a_merge_that_fails_changes_nothing_and_reports_its_garbage(failing: int) -> None:
    layout = attrs.evolve(TINY, segment_bytes=300)
    async with open_engine(layout=layout) as engine:
        await flush_rounds(engine, 3, size=60)
        before = engine.manifest.value
        left_over = unnamed(engine)
        for _ in range(failing):
            engine.store.fail_next(Op.PUT_NEW, "segment/", Fault.ERROR_AFTER)
        engine.store.fail_next(Op.PUT_NEW, "segment/", Fault.REFUSED)
        with pytest.raises(StorageFailed):
            await engine.compact_once()
        assert engine.manifest.value == before
        assert set(engine.garbage) >= unnamed(engine) - left_over
        assert engine.failures == []
        await engine.compact()
        engine.check()


async def test_a_merge_that_cannot_read_fails_and_can_be_done_again() -> None:
    async with open_engine() as engine:
        await flush_rounds(engine, 3)
        engine.store.fail_next(Op.GET_RANGE, "segment/", Fault.REFUSED)
        with pytest.raises(StorageFailed):
            await engine.compact_once()
        await engine.compact_once()
        assert engine.tiers == [1]
        engine.check()


async def test_a_failed_commit_is_told_and_its_segments_are_no_garbage() -> None:
    """They may be named by a manifest that is in force for the next opener."""
    async with open_engine() as engine:
        await flush_rounds(engine, 3)
        engine.store.fail_next(Op.PUT_NEW, "manifest/", Fault.REFUSED)
        with pytest.raises(StorageFailed) as raised:
            await engine.compact_once()
        assert engine.failures == [raised.value]
        assert engine.garbage == []


# --- the catalog ----------------------------------------------------------------------------------


async def many_catalog_objects(engine: Engine) -> None:
    for number in range(compaction.CATALOG_OBJECTS + 1):
        engine.append(stream_id(1 + number % 5))
        await engine.flush()


async def test_too_many_catalog_objects_become_one_that_says_the_same() -> None:
    async with open_engine() as engine:
        await many_catalog_objects(engine)
        before = engine.manifest.value.catalog
        await engine.compactor.compact_catalog()
        assert len(engine.manifest.value.catalog) == 1
        assert not {*engine.manifest.value.catalog} & {*before}
        await engine.check_catalog()


async def test_a_few_catalog_objects_are_left_alone() -> None:
    async with open_engine() as engine:
        await flush_rounds(engine, compaction.CATALOG_OBJECTS)
        before = engine.manifest.value
        await engine.compactor.compact_catalog()
        assert engine.manifest.value == before


async def test_removals_are_gone_after_a_merge_of_the_catalog_but_not_newer_ones() -> None:
    async with open_engine() as engine:
        await many_catalog_objects(engine)
        engine.remove(ONE)
        await engine.flush()
        gate = engine.store.hold("catalog/", Op.GET)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.compactor.compact_catalog)
            await gate.wait_held()
            engine.remove(TWO)
            await engine.flush()
            gate.release()
        assert len(engine.manifest.value.catalog) == 2
        await engine.check_catalog()


async def test_a_catalog_of_removals_alone_becomes_nothing() -> None:
    async with open_engine() as engine:
        await many_catalog_objects(engine)
        for number in range(1, 6):
            engine.remove(stream_id(number))
        engine.memtable.basin_changed(BASIN, None)
        engine.memtable.advanced(engine.wal_number)
        await engine.flush()
        await engine.compactor.compact_catalog()
        assert engine.manifest.value.catalog == ()


async def test_a_catalog_that_is_damaged_in_both_copies_is_left_as_it_is() -> None:
    async with open_engine() as engine:
        await many_catalog_objects(engine)
        before = engine.manifest.value
        key = f"catalog/{before.catalog[3]}"
        engine.store.damage(key, b"")
        engine.store.damage(key + ".copy", b"")
        for _ in range(2):
            await engine.compactor.compact_catalog()
            assert engine.manifest.value == before
        assert not engine.damage.catalog_is_whole
        assert set(engine.damage.items) == {key, key + ".copy"}
        assert len(engine.store.operations(Op.GET, key)) == 2, "it is read again and again"


async def test_a_catalog_is_merged_although_the_wal_has_lost_changes_of_it() -> None:
    async with open_engine() as engine:
        await many_catalog_objects(engine)
        engine.damage.catalog_is_whole = False
        engine.damage.report("wal/00000000000000000007", "it is missing")
        await engine.compactor.compact_catalog()
        assert len(engine.manifest.value.catalog) == 1
        assert not engine.damage.catalog_is_whole
        await engine.check_catalog()


async def test_a_merge_of_the_catalog_that_fails_reports_its_garbage() -> None:
    async with open_engine() as engine:
        await many_catalog_objects(engine)
        before = engine.manifest.value
        named = {f"catalog/{each}{end}" for each in before.catalog for end in ("", ".copy")}
        engine.store.fail_next(Op.PUT_NEW, "catalog/", Fault.REFUSED)
        with pytest.raises(StorageFailed):
            await engine.compactor.compact_catalog()
        assert engine.manifest.value == before
        there = {key for key in engine.store.objects if key.startswith("catalog/")}
        assert set(engine.garbage) >= there - named
        assert not set(engine.garbage) & named


# --- any history ----------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["append"] * 8 + ["trim", "remove", "flush", "flush", "compact", "one job", "sleep"]
        ),
        st.integers(1, 6),
        st.integers(0, 1000),
    ),
    max_size=80,
)
layouts = st.builds(
    lambda entry, block, segment, footer, fanout: attrs.evolve(
        TINY,
        entry_bytes=entry,
        block_bytes=block,
        segment_bytes=segment,
        footer_bytes=footer,
        fanout=fanout,
    ),
    st.sampled_from([1, 30, 100]),
    st.sampled_from([1, 100, 300]),
    st.sampled_from([1, 500, 2000]),
    st.sampled_from([76, 300, 10_000]),
    st.integers(2, 4),
)


@settings(max_examples=60)
@given(steps, layouts)
def test_any_history_keeps_what_must_be_kept_and_reclaims_what_can_be(
    history: list[tuple[str, int, int]], layout: Layout
) -> None:
    async def live() -> None:
        async with open_engine(layout=layout) as engine:
            for step, number, value in history:
                await _do(engine, step, number, value)
                engine.check()
            await engine.flush()
            engine.fates.weigh_all_later()
            await engine.fates.weigh_some(10**6)
            await engine.compact()
            engine.check()
            engine.check_reclaimed()
            await engine.check_catalog()

    trio.run(live, clock=MockClock(autojump_threshold=0))


async def _do(engine: Engine, step: str, number: int, value: int) -> None:
    stream = stream_id(number)
    model = engine.streams.get(stream)
    is_there = model is not None and not model.removed
    match step:
        case "append" if model is None or is_there:
            expires_at_ms = engine.clock.now_ms() + value * 100 if value % 3 else None
            engine.append(stream, 1 + value % 7, expires_at_ms, size=value % 50)
        case "trim" if model is not None and is_there:
            tail = model.state.tail.seq_num
            engine.trim(stream, max(model.state.trim_point, tail * value // 1000))
        case "remove" if is_there and value < 300:
            engine.remove(stream)
        case "flush":
            await engine.flush()
        case "compact":
            await engine.compact()
        case "one job":
            await engine.compact_once()
        case "sleep":
            await trio.sleep(value / 20)
        case _:
            pass


@pytest.mark.parametrize("seed", range(4))
async def test_a_crash_at_any_moment_leaves_a_whole_log(seed: int, autojump_clock: object) -> None:
    rng = random.Random(seed)
    store = RecordingStore(rng)
    async with open_engine(store, attrs.evolve(TINY, fanout=2, segment_bytes=400)) as engine:
        for _ in range(25):
            for _ in range(8):
                await _do(engine, "append", rng.randrange(1, 6), rng.randrange(1000))
            await _do(
                engine, rng.choice(["trim", "remove"]), rng.randrange(1, 6), rng.randrange(999)
            )
            await _do(engine, rng.choice(["flush", "flush", "compact", "one job"]), 1, 0)
            for left in store.left:
                await engine.check_crash(left)
            del store.left[:-1]
        assert engine.manifest.number > 10
    await _goes_on(engine, store.left[-1])


async def _goes_on(engine: Engine, left: FakeObjectStore) -> None:
    """The next opener finishes what the crash interrupted."""
    async with open_engine(left, engine.layout, engine.clock, epoch=2) as successor:
        successor.streams = engine.streams
        await successor.compact()
        successor.check()
        await successor.check_catalog()
