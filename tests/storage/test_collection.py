"""What the collector deletes and when, and that nothing which is needed ever goes.

The random lives below check it for one writer after the other, with crashes; the takeovers for two
at once. Both have null controls: with a safeguard switched off, something that is needed is lost.
"""

from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

import attrs
import outcome
import pytest
import trio
from trio.testing import MockClock

from actors.testing import VirtualClock, run_seeded
from s2lite.model.errors import StorageError, WriterFenced
from s2lite.model.manifest import ObjectId
from s2lite.storage.catalog_objects import catalog_copy_key, catalog_key
from s2lite.storage.collection import (
    DELETIONS_AT_ONCE,
    LOT_OBJECTS,
    MAX_FAILURES,
    PAUSE_SECONDS,
    RETRY_SECONDS,
    SHARED_MIN_AGE_SECONDS,
    Collector,
    Round,
)
from s2lite.storage.inventory import Kind, Pile
from s2lite.storage.manifest import manifest_key
from s2lite.storage.objects.object_store import ObjectInfo, ObjectStore
from s2lite.storage.segments import segment_key
from s2lite.storage.wal import wal_key
from tests.fakes.object_store import FakeObjectStore, Fault, FaultRates, Latency, Op
from tests.storage.path_writer import BODY, PathWriter, keys_of, read_manifests

T = TypeVar("T")
HOUR = SHARED_MIN_AGE_SECONDS


@pytest.fixture
def store() -> FakeObjectStore:
    return FakeObjectStore(Random(1))


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


async def collect_all(writer: PathWriter, clock: VirtualClock) -> Round:
    """Let the rounds be done that are due now, with the pauses between them."""
    total = Round()
    while (seconds := writer.collector.due_in_seconds()) is not None and seconds <= RETRY_SECONDS:
        clock.suspend(seconds)
        this = await writer.collector.collect()
        assert this is not None
        for kind, pile in this.deleted.items():
            total.deleted.setdefault(kind, Pile()).count += pile.count
    return total


def deleted(store: FakeObjectStore) -> list[str]:
    """The keys that were to be deleted, sorted."""
    return sorted({operation.key for operation in store.operations(Op.DELETE)})


# --- what goes, and when ----------------------------------------------------------------------


async def test_what_crashes_left_behind_goes_and_nothing_else(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    first = await PathWriter.open(store, clock)
    await first.write(2)
    await first.flush()
    left = {segment_key(await first.make_segment())}
    unused = await first.make_catalog()
    left |= {catalog_key(unused), catalog_copy_key(unused)}
    second = await PathWriter.open(store, clock, seed=1)
    await second.make_segment()  # in the making
    for key in ("notes.txt", "segment/old-1", "wal/1", "archive/wal/00000000000000000001"):
        await store.put_new(key, b"somebody else's")
    await second.collector.collect()
    assert deleted(store) == []
    clock.suspend(HOUR)
    await collect_all(second, clock)
    left |= {wal_key(0), wal_key(1), wal_key(2), manifest_key(1)}
    assert deleted(store) == sorted(left)
    assert second.manifest.number == 3  # none of it was waiting for another manifest


async def test_nothing_goes_before_its_time_by_the_clock_that_goes_on_in_sleep(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock)
    await collect_all(writer, clock)
    await writer.flush()
    await writer.commit_nothing()
    assert writer.collector.due_in_seconds() == pytest.approx(HOUR, abs=1)
    clock.suspend(HOUR - 1)
    assert await writer.collector.collect() is None
    assert deleted(store) == []
    clock.suspend(1)
    this = await writer.collector.collect()
    assert this is not None
    assert this.deleted.keys() == {Kind.WAL, Kind.MANIFEST}
    assert deleted(store) == [manifest_key(1), wal_key(0)]


async def test_setting_the_wall_clock_forward_makes_nothing_older(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock)
    await writer.flush()
    await writer.flush()
    await writer.collector.collect()
    clock.step(100 * 3_600_000)
    assert await writer.collector.collect() is None
    assert deleted(store) == []


async def test_what_only_the_manifest_before_needs_goes_after_one_more_commit_of_the_same(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock)
    await writer.flush()
    await writer.flush()
    await collect_all(writer, clock)
    before = writer.manifest.value
    await writer.compact()
    compacted, number = writer.manifest.value, writer.manifest.number
    clock.suspend(HOUR)
    await collect_all(writer, clock)
    assert writer.manifest.number == number + 1
    assert writer.manifest.previous == writer.manifest.value == compacted
    assert keys_of(before) <= set(deleted(store))
    assert set(store.objects) == writer.needed() | {manifest_key(number - 1)}
    clock.suspend(HOUR)
    await collect_all(writer, clock)
    assert writer.manifest.number == number + 1
    assert set(store.objects) == writer.needed()
    assert writer.collector.due_in_seconds() is None


async def test_another_commit_meanwhile_makes_the_extra_one_needless(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock)
    await writer.flush()
    await collect_all(writer, clock)
    clock.suspend(HOUR / 2)
    await writer.commit_nothing()
    number = writer.manifest.number
    clock.suspend(HOUR / 2)
    await collect_all(writer, clock)
    assert deleted(store) == [wal_key(0)]
    clock.suspend(HOUR / 2)
    await collect_all(writer, clock)
    assert writer.manifest.number == number


async def test_what_is_too_young_to_go_asks_for_no_commit(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock)
    await writer.flush()
    await writer.commit_nothing()
    await collect_all(writer, clock)
    clock.suspend(HOUR - 60)
    await writer.compact()
    number = writer.manifest.number
    clock.suspend(60)
    await writer.collector.collect()
    assert deleted(store) == [manifest_key(1), wal_key(0)]
    assert writer.manifest.number == number


async def test_a_round_makes_one_extra_commit_at_most(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock, min_age=0.0)
    await writer.flush()
    await writer.write()
    first = store.hold("wal/", Op.DELETE)
    number = writer.manifest.number
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.collector.collect)
        await first.wait_held()
        await writer.flush()  # its garbage is old enough at once
        first.release()
    assert writer.manifest.number == number + 2
    assert wal_key(writer.next_wal - 1) not in deleted(store)
    assert writer.collector.due_in_seconds() == pytest.approx(PAUSE_SECONDS, abs=1)


async def test_without_an_age_to_wait_for_a_round_leaves_only_what_is_needed(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock, min_age=0.0)
    for _ in range(3):
        await writer.write(4)
        await writer.flush()
    await writer.compact()
    await writer.collector.collect()
    assert set(store.objects) == writer.needed()
    assert writer.collector.due_in_seconds() is None


async def test_what_was_dropped_before_the_collector_was_there_waits_for_another_manifest(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock, min_age=0.0)
    await writer.write(5)
    await writer.flush()
    late = Collector(store, writer.manifest, clock, 0.0)
    number = writer.manifest.number
    gate = store.hold("wal/", Op.DELETE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(late.collect)
        await gate.wait_held()
        assert writer.manifest.number == number + 1
        gate.release()
    assert writer.needed() <= set(store.objects)


async def test_a_commit_that_drops_nothing_asks_for_no_other_one(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock, min_age=0.0)
    await writer.flush()
    await writer.collector.collect()
    await writer.manifest.commit(
        lambda old: attrs.evolve(old, runs=tuple(attrs.evolve(run, tier=1) for run in old.runs))
    )
    number = writer.manifest.number
    await collect_all(writer, clock)
    assert writer.manifest.number == number


async def test_a_segment_that_moved_into_another_run_stays(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock, min_age=0.0)
    await writer.flush()
    await writer.flush()
    await writer.manifest.commit(
        lambda old: attrs.evolve(
            old, runs=(attrs.evolve(old.runs[0], tier=1, segments=old.segments),)
        )
    )
    await writer.drop_oldest_run()
    await writer.manifest.commit(lambda old: writer.manifest.previous)
    await writer.collector.collect()
    assert keys_of(writer.manifest.value) <= set(store.objects)


# --- what was handed over ---------------------------------------------------------------------


async def test_what_was_handed_over_goes_after_the_next_commit(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock, min_age=0.0)
    await collect_all(writer, clock)
    number = writer.manifest.number
    segment, kept = await writer.make_segment(), await writer.make_segment()
    writer.collector.abandoned([segment_key(segment)])
    gate = store.hold("segment/", Op.DELETE)
    async with trio.open_nursery() as nursery:
        clock.suspend(PAUSE_SECONDS)
        nursery.start_soon(writer.collector.collect)
        await gate.wait_held()
        assert writer.manifest.number == number + 1
        gate.release()
    assert segment_key(segment) not in store.objects
    assert segment_key(kept) in store.objects


async def test_what_a_failed_commit_named_stays_if_the_manifest_was_written_all_the_same(
    store: FakeObjectStore, clock: VirtualClock, autojump_clock: MockClock
) -> None:
    """The commit failed for us, and yet the next server to open starts from it."""
    writer = await PathWriter.open(store, clock, min_age=0.0, lease=None)
    await writer.write(3)
    edit = await writer.make_flush()
    store.fail_next(Op.PUT_NEW, "manifest/", Fault.ERROR_AFTER)
    store.faults = FaultRates(error_before=1.0)
    with pytest.raises(StorageError):
        await writer.manifest.commit(edit)
    store.faults = FaultRates()
    for prefix in ("segment/", "catalog/"):
        writer.collector.abandoned([each.key for each in await store.list(prefix)])
    await trio.sleep(HOUR)
    await collect_all(writer, clock)
    assert writer.manifest.value.wal_floor == 4
    assert writer.needed() == set(store.objects)


async def test_what_was_handed_over_by_mistake_stays(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock, min_age=0.0)
    await writer.flush()
    writer.collector.abandoned(keys_of(writer.manifest.value))
    await writer.collector.collect()
    assert keys_of(writer.manifest.value) <= set(store.objects)
    dropped = keys_of(writer.manifest.value)
    await writer.compact()
    clock.suspend(PAUSE_SECONDS)
    await writer.collector.collect()
    assert not dropped & set(store.objects)


async def test_what_was_handed_over_too_early_stays_if_it_was_used_after_all(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock, min_age=0.0)
    writer.collector.abandoned([segment_key(await writer.make_segment())])
    await writer.collector.collect()
    edit = await writer.make_flush()
    writer.collector.abandoned(keys_of(edit(writer.manifest.value)))
    # The floor stays, lest the round makes a commit of its own.
    await writer.manifest.commit(lambda old: attrs.evolve(edit(old), wal_floor=0))
    clock.suspend(PAUSE_SECONDS)
    await writer.collector.collect()
    assert writer.needed() <= set(store.objects)


async def test_what_was_handed_over_too_early_and_dropped_since_waits_as_long_as_any_other(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock)
    edit = await writer.make_flush()
    writer.collector.abandoned(keys_of(edit(writer.manifest.value)))
    await writer.manifest.commit(lambda old: attrs.evolve(edit(old), wal_floor=0))
    await collect_all(writer, clock)
    clock.suspend(HOUR - 60)
    await writer.compact()
    clock.suspend(60)
    await writer.collector.collect()
    assert writer.needed() <= set(store.objects)


@pytest.mark.parametrize("key", ["wal/00000000000000000001", "notes.txt"])
async def test_only_segments_and_catalog_objects_can_be_handed_over(
    store: FakeObjectStore, clock: VirtualClock, key: str
) -> None:
    writer = await PathWriter.open(store, clock)
    with pytest.raises(ValueError, match="not a segment or catalog object"):
        writer.collector.abandoned([key])


# --- what it asks of the store ----------------------------------------------------------------


async def test_the_store_is_listed_once_and_left_alone_when_nothing_waits(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock)
    opened = len(store.log)
    await collect_all(writer, clock)
    assert [each.op for each in store.log[opened:]] == [Op.LIST]
    for _ in range(3):
        await writer.flush()
        seen = len(store.log)
        clock.suspend(HOUR / 2)
        assert await writer.collector.collect() is None
        assert len(store.log) == seen
        clock.suspend(HOUR)
        await collect_all(writer, clock)
    clock.suspend(HOUR)
    await collect_all(writer, clock)
    seen = len(store.log)
    clock.suspend(10 * HOUR)
    assert writer.collector.due_in_seconds() is None
    assert await writer.collector.collect() is None
    assert len(store.log) == seen
    assert sum(operation.key == "" for operation in store.operations(Op.LIST)) == 1


async def test_a_listing_that_failed_is_made_again(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock, min_age=0.0)
    await writer.flush()
    store.fail_next(Op.LIST, "", Fault.REFUSED)
    with pytest.raises(StorageError):
        await writer.collector.collect()
    writer.collector.rest()
    assert writer.collector.due_in_seconds() == pytest.approx(RETRY_SECONDS, abs=1)
    await collect_all(writer, clock)
    assert set(store.objects) == writer.needed()


async def test_deletions_run_side_by_side_but_not_too_many(
    store: FakeObjectStore, clock: VirtualClock, autojump_clock: MockClock
) -> None:
    writer = await PathWriter.open(store, clock, min_age=0.0)
    await writer.write(3 * DELETIONS_AT_ONCE - 1)
    await writer.flush()
    store.latency = Latency(delete=(1.0, 1.0))
    started = trio.current_time()
    await writer.collector.collect()
    spans = [
        (each.start, each.end)
        for each in store.operations(Op.DELETE, "wal/")
        if each.end is not None
    ]
    assert len(spans) == 3 * DELETIONS_AT_ONCE
    assert max(end for _, end in spans) - started == pytest.approx(3.0, abs=1.1)
    for start, _ in spans:
        running = sum(begun <= start < end for begun, end in spans)
        assert running <= DELETIONS_AT_ONCE


async def test_a_deletion_that_fails_keeps_no_other_back_and_is_tried_again(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock, min_age=0.0)
    await writer.write(9)
    await writer.flush()
    store.fail_next(Op.DELETE, wal_key(3), Fault.REFUSED)
    store.fail_next(Op.DELETE, wal_key(5), Fault.ERROR_AFTER)
    this = await writer.collector.collect()
    assert this is not None
    assert sorted(garbage.key for garbage in this.failed) == [wal_key(3), wal_key(5)]
    assert set(store.objects) == writer.needed() | {wal_key(3)}
    assert writer.collector.due_in_seconds() == pytest.approx(RETRY_SECONDS, abs=1)
    clock.suspend(RETRY_SECONDS)
    await writer.collector.collect()
    assert set(store.objects) == writer.needed()
    assert writer.collector.due_in_seconds() is None


async def test_a_deletion_without_an_answer_is_given_up(
    store: FakeObjectStore, clock: VirtualClock, autojump_clock: MockClock
) -> None:
    writer = await PathWriter.open(store, clock, min_age=0.0)
    await writer.flush()
    store.fail_next(Op.DELETE, wal_key(0), Fault.STALL_BEFORE)
    started = trio.current_time()
    this = await writer.collector.collect()
    assert this is not None
    assert [garbage.key for garbage in this.failed] == [wal_key(0)]
    assert trio.current_time() - started < RETRY_SECONDS


async def test_a_store_that_deletes_nothing_is_not_asked_for_all_of_it(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    writer = await PathWriter.open(store, clock, min_age=0.0, lease=None)
    await writer.collector.collect()
    await writer.write(5 * LOT_OBJECTS)
    await writer.flush()
    await writer.commit_nothing()
    clock.suspend(PAUSE_SECONDS)
    store.faults = FaultRates(refused=1.0)
    for _ in range(4):
        await writer.collector.collect()
        clock.suspend(RETRY_SECONDS)
    asked = len(store.operations(Op.DELETE))
    assert MAX_FAILURES <= asked <= 4 * (LOT_OBJECTS + MAX_FAILURES)
    assert set(store.objects) > writer.needed()
    store.faults = FaultRates()
    await collect_all(writer, clock)
    assert set(store.objects) == writer.needed()


async def test_a_round_tells_what_it_deleted(
    store: FakeObjectStore, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "s2lite.storage")
    writer = await PathWriter.open(store, clock, min_age=0.0)
    await writer.write(2)
    await writer.flush()
    await writer.flush()
    await writer.compact()
    await writer.collector.collect()
    (message,) = caplog.messages
    for part in (f"2 segments ({2 * len(BODY)} bytes)", "3 WAL objects", "4 catalog objects"):
        assert part in message


# --- who may do it ----------------------------------------------------------------------------


async def test_a_writer_that_was_fenced_off_deletes_nothing_any_more(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    old = await PathWriter.open(store, clock)
    await old.flush()
    await old.flush()
    await collect_all(old, clock)
    clock.suspend(HOUR - 10)
    await PathWriter.open(store, clock, seed=1)
    clock.suspend(10)
    with pytest.raises(WriterFenced):
        await old.collector.collect()
    assert deleted(store) == []


async def test_a_round_ends_when_another_writer_takes_over(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    old = await PathWriter.open(store, clock)
    await old.write(3 * LOT_OBJECTS)
    await old.flush()
    await old.flush()
    await collect_all(old, clock)
    clock.suspend(HOUR)
    first_lot = store.hold(wal_key(0), Op.DELETE)

    async def take_over() -> None:
        await first_lot.wait_held()
        await PathWriter.open(store, clock, seed=1)
        clock.suspend(2)
        first_lot.release()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_over)
        with pytest.raises(WriterFenced):
            await old.collector.collect()
    assert 0 < len(deleted(store)) <= LOT_OBJECTS


async def test_objects_of_a_newer_writer_stop_the_collector_for_good(
    store: FakeObjectStore, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    writer = await PathWriter.open(store, clock, min_age=0.0, lease=None)
    await store.put_new(segment_key(ObjectId(2, 1)), BODY)
    await writer.flush()
    await writer.collector.collect()
    await writer.flush()
    writer.collector.abandoned([segment_key(await writer.make_segment())])
    assert writer.collector.due_in_seconds() is None
    clock.suspend(HOUR)
    assert await writer.collector.collect() is None
    assert deleted(store) == []
    assert "newer writer" in caplog.text


async def test_objects_of_a_newer_writer_that_serves_show_that_this_one_is_fenced(
    store: FakeObjectStore, clock: VirtualClock
) -> None:
    old = await PathWriter.open(store, clock)
    new = await PathWriter.open(store, clock, seed=1)
    await new.make_segment()
    clock.suspend(2)
    with pytest.raises(WriterFenced):
        await old.collector.collect()


# --- interrupted at every moment --------------------------------------------------------------


@attrs.define(eq=False)
class Interrupted:
    """A store in which something else happens just before, or after, the call of this number."""

    store: ObjectStore
    after: bool = False
    call: int = -1
    meanwhile: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    async def put_new(self, key: str, data: bytes | bytearray) -> None:
        await self._perform(lambda: self.store.put_new(key, data))

    async def get(self, key: str) -> bytes:
        return await self._perform(lambda: self.store.get(key))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        return await self._perform(lambda: self.store.get_range(key, start, length))

    async def list(self, prefix: str, start_after: str = "") -> list[ObjectInfo]:
        return await self._perform(lambda: self.store.list(prefix, start_after))

    async def delete(self, key: str) -> None:
        await self._perform(lambda: self.store.delete(key))

    async def _perform(self, call: Callable[[], Awaitable[T]]) -> T:
        self.call -= 1
        now = self.call == 0
        if now and not self.after:
            await self.meanwhile()
        result = await outcome.acapture(call)
        if now and self.after:
            await self.meanwhile()
        return result.unwrap()


async def lost_on_disk(store: FakeObjectStore, next_wal: int) -> set[str]:
    """What the newest two manifests need, as they are in the store, and what is not there."""
    newest_two = list((await read_manifests(store)).values())[-2:]
    floor = min(manifest.wal_floor for manifest in newest_two)
    needed = set().union(*map(keys_of, newest_two))
    return (needed | {wal_key(number) for number in range(floor, next_wal)}) - set(store.objects)


async def settle(writer: PathWriter, clock: VirtualClock) -> None:
    """Let all go that ever will."""
    for _ in range(4):
        await collect_all(writer, clock)
        clock.suspend(HOUR)
    await collect_all(writer, clock)
    assert writer.collector.due_in_seconds() is None


async def crash_in_a_round(call: int, after: bool) -> bool:
    """Whether the rounds got so far that there was a crash. Checks what that leaves."""
    store, clock = FakeObjectStore(Random(1)), VirtualClock()
    first = await PathWriter.open(store, clock)
    await first.write(20)
    await first.flush()
    await first.flush()
    await first.make_catalog()
    fragile = Interrupted(store, after)
    second = await PathWriter.open(fragile, clock, seed=1)
    with trio.CancelScope() as life:

        async def crash() -> None:
            life.cancel()
            await trio.lowlevel.checkpoint()

        fragile.call, fragile.meanwhile = call, crash
        await collect_all(second, clock)
        second.collector.abandoned([segment_key(await second.make_segment())])
        await second.compact()
        clock.suspend(HOUR)
        await collect_all(second, clock)
        clock.suspend(HOUR)
        await collect_all(second, clock)
    assert await lost_on_disk(store, second.next_wal) == set()
    third = await PathWriter.open(store, clock, seed=2)
    await settle(third, clock)
    assert set(store.objects) == third.needed()
    return life.cancelled_caught


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_at_any_call_loses_nothing_and_leaves_nothing_for_good(after: bool) -> None:
    call = 1
    while await crash_in_a_round(call, after):
        call += 1
    assert call > 40  # it took part in all of it


@attrs.define(eq=False)
class Life:
    """Writers one after the other, with crashes; what is needed must be there after every step."""

    rng: Random
    min_age: float
    store: FakeObjectStore = attrs.field(init=False)
    clock: VirtualClock = attrs.field(factory=VirtualClock)
    writer: PathWriter = attrs.field(init=False)
    deleted: int = 0

    async def run(self, steps: int) -> None:
        self.store = FakeObjectStore(self.rng)
        await self._open()
        weights = {
            self._write: 5,
            self._flush: 5,
            self._compact: 2,
            self._drop: 1,
            self._give_up: 2,
            self._leave: 1,
            self._wait: 6,
            self._collect: 6,
            self._crash_in_a_round: 1,
            self._open: 1,
        }
        for step in self.rng.choices(list(weights), list(weights.values()), k=steps):
            await step()
            assert self.writer.needed() <= set(self.store.objects)
            assert await lost_on_disk(self.store, self.writer.next_wal) == set()
        await self._open()
        await settle(self.writer, self.clock)
        assert set(self.store.objects) == self.writer.needed()
        self.deleted = len(self.store.operations(Op.DELETE))

    async def _open(self) -> None:
        self.writer = await PathWriter.open(
            self.store, self.clock, min_age=self.min_age, seed=self.rng.getrandbits(32)
        )

    async def _write(self) -> None:
        await self.writer.write(self.rng.randint(1, 5))

    async def _flush(self) -> None:
        await self.writer.flush()

    async def _compact(self) -> None:
        await self.writer.compact()

    async def _drop(self) -> None:
        await self.writer.drop_oldest_run()

    async def _give_up(self) -> None:
        segment, catalog = await self.writer.make_segment(), await self.writer.make_catalog()
        self.writer.collector.abandoned(
            [segment_key(segment), catalog_key(catalog), catalog_copy_key(catalog)]
        )

    async def _leave(self) -> None:
        await self.writer.make_segment()
        await self.writer.make_catalog()

    async def _wait(self) -> None:
        self.clock.suspend(self.rng.choice([1.0, 20.0, HOUR / 3, HOUR]))

    async def _collect(self) -> None:
        await self.writer.collector.collect()

    async def _crash_in_a_round(self) -> None:
        with trio.CancelScope() as life:
            self.store.latency = Latency.all(0.0, 1.0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.writer.collector.collect)
                await trio.sleep(self.rng.uniform(0, 4))
                life.cancel()
        self.store.latency = Latency()
        await self._open()


@pytest.mark.slow
@pytest.mark.parametrize("min_age", [0.0, HOUR])
@pytest.mark.parametrize("seed", range(20))
def test_through_random_lives_all_that_is_needed_is_there(seed: int, min_age: float) -> None:
    life = Life(Random(seed), min_age)
    run_seeded(seed, life.run, 80)
    assert life.deleted > 10


# --- a second writer, at every moment -----------------------------------------------------------


@attrs.frozen
class Safeguards:
    """What two writers rely on."""

    min_age: float = HOUR
    lease: float | None = 1.0


async def work(writer: PathWriter, clock: VirtualClock) -> None:
    """What the old writer is at: it raises if it notices that it was overtaken."""
    await writer.write(3)
    await writer.flush()
    await writer.write(3)
    await writer.flush()
    await writer.compact()
    for _ in range(3):
        await collect_all(writer, clock)
        clock.suspend(HOUR)
    await writer.collector.collect()


async def lost_in_takeover(
    call: int, after: bool, asleep: float, safeguards: Safeguards
) -> set[str] | None:
    """What the new writer misses after the old one slept through its coming; None: no takeover."""
    store, clock = FakeObjectStore(Random(1)), VirtualClock()
    others: list[PathWriter] = []

    async def take_over() -> None:
        other = await PathWriter.open(
            store, clock, min_age=safeguards.min_age, lease=safeguards.lease, seed=1
        )
        others.append(other)
        await other.write(2)
        for _ in range(4):
            await other.commit_nothing()
        await collect_all(other, clock)
        clock.suspend(asleep)
        await collect_all(other, clock)

    shaky = Interrupted(store, after)
    old = await PathWriter.open(shaky, clock, min_age=safeguards.min_age, lease=safeguards.lease)
    shaky.call, shaky.meanwhile = call, take_over
    try:
        await work(old, clock)
    except StorageError:
        assert others
    if not others:
        return None
    (new,) = others
    lost = new.needed() - set(store.objects)
    await new.flush()
    await settle(new, clock)
    return lost | (new.needed() - set(store.objects))


async def takeovers_that_lose(asleep: float, safeguards: Safeguards) -> int:
    losing = 0
    for after in (False, True):
        call = 1
        while (lost := await lost_in_takeover(call, after, asleep, safeguards)) is not None:
            losing += bool(lost)
            call += 1
        assert call > 30
    return losing


@pytest.mark.slow
@pytest.mark.parametrize("asleep", [0.0, 30.0, 3 * HOUR])
async def test_an_old_writer_that_goes_on_after_a_takeover_deletes_nothing_that_is_needed(
    asleep: float,
) -> None:
    assert await takeovers_that_lose(asleep, Safeguards()) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asleep", "safeguards"),
    [(3 * HOUR, Safeguards(lease=None)), (30.0, Safeguards(min_age=0.0))],
    ids=["no proof of ownership", "no minimum age"],
)
async def test_the_takeovers_would_show_a_missing_safeguard(
    asleep: float, safeguards: Safeguards
) -> None:
    assert await takeovers_that_lose(asleep, safeguards) > 0
