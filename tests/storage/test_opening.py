"""Becoming the only writer of a path: replay, fences, late arrivals, and what goes wrong."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TypeVar

import attrs
import outcome
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.testing import run_seeded
from s2lite.codec.envelope import (
    CHECKSUM,
    HEADER,
    HEADER_BYTES,
    Header,
    ObjectKind,
    WriterIdentity,
    checksum,
    encode_head,
    read_header,
)
from s2lite.codec.wal import LostEntry, decode_wal_object
from s2lite.model.errors import StorageError, StorageFailed, WriterFenced
from s2lite.model.log import CatalogFacts
from s2lite.model.manifest import Manifest, ObjectId, Run, SegmentInfo, StreamKey
from s2lite.storage.catalog_objects import write_catalog_object
from s2lite.storage.creation import ObjectCreator
from s2lite.storage.damage import NewerFormat
from s2lite.storage.manifest import manifest_key, newest_manifest
from s2lite.storage.objects.conditions import StoreIgnoresConditions
from s2lite.storage.objects.object_store import ObjectInfo, ObjectStore
from s2lite.storage.opening import ManifestLost
from s2lite.storage.wal import wal_key, write_fence, write_wal
from tests.codec.log_values import facts
from tests.fakes.object_store import FakeObjectStore, Fault, FaultRates, Gate, Latency, Op
from tests.storage.log_writer import STREAM, LogWriter, entry

T = TypeVar("T")


@pytest.fixture
def store() -> FakeObjectStore:
    return FakeObjectStore(Random(1))


def writer(
    store: ObjectStore, seed: int, in_flight: int = 1, lease: float | None = 0.0
) -> LogWriter:
    return LogWriter(store, Random(seed), in_flight, lease)


def kinds(store: FakeObjectStore) -> list[tuple[str, int]]:
    """Kind and epoch of each WAL object, by number."""
    found = []
    for key in sorted(store.objects):
        if key.startswith("wal/"):
            header = read_header(key, store.objects[key].data)
            found.append((header.kind.name, header.writer.epoch))
    return found


FENCE, WAL = ObjectKind.FENCE.name, ObjectKind.WAL.name


# --- an orderly life --------------------------------------------------------------------------


async def test_a_fresh_path_is_opened_empty_with_the_first_epoch(store: FakeObjectStore) -> None:
    one = await writer(store, 1).open()
    assert one.epoch == 1
    assert one.replayed == []
    assert one.state.advances == [0]
    assert kinds(store) == [(FENCE, 1)]
    assert one.opened.next_wal_number == 1


async def test_opening_again_replays_everything_in_order(store: FakeObjectStore) -> None:
    one = await writer(store, 1).open()
    await one.write(*"abc")
    two = await writer(store, 2).open()
    assert two.replayed == ["a", "b", "c"]
    await two.write("d")
    three = await writer(store, 3).open()
    assert three.replayed == ["a", "b", "c", "d"]
    assert [one.epoch, two.epoch, three.epoch] == [1, 2, 3]


async def test_every_number_below_the_next_is_covered_by_what_was_recovered(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1).open()
    await one.write("a", "b")
    two = await writer(store, 2).open()
    assert two.replayed == ["a", "b"]
    assert two.state.advances == list(range(two.opened.next_wal_number)) == [0, 1, 2, 3]
    assert kinds(store) == [(FENCE, 1), (WAL, 1), (WAL, 1), (FENCE, 2)]


async def test_what_was_closed_cleanly_is_opened_again_with_a_new_epoch(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1, in_flight=4).open()
    await one.write("a")
    await one.close()
    two = await writer(store, 2).open()
    assert two.replayed == ["a"]
    assert two.epoch == 2


async def test_a_writer_that_was_replaced_cannot_close_cleanly(store: FakeObjectStore) -> None:
    one = await writer(store, 1).open()
    await writer(store, 2).open()
    with pytest.raises(WriterFenced):
        await one.close()
    newest = await newest_manifest(store)
    assert newest is not None
    assert not newest.manifest.closed_cleanly


async def test_a_lost_object_in_the_middle_is_not_taken_for_the_end_of_the_log(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1).open()
    await one.write(*"abcd")
    await store.delete(wal_key(2))
    await store.delete(wal_key(3))
    two = await writer(store, 2).open()
    assert two.replayed == ["a", "d"]
    assert list(two.damage.items) == [wal_key(2), wal_key(3)]
    assert wal_key(4) in two.damage.items[wal_key(2)]
    assert two.state.losses == [(LostEntry(None), wal_key(2))]
    assert not two.damage.catalog_is_whole
    assert kinds(store) == [(FENCE, 1), (WAL, 1), (WAL, 1), (FENCE, 2)]
    await two.write("e")
    assert (await writer(store, 3).open()).replayed == ["a", "d", "e"]


async def test_the_end_of_a_log_that_was_closed_there_is_known(store: FakeObjectStore) -> None:
    one = await writer(store, 1).open()
    await one.write(*"abc")
    await one.close()
    await store.delete(wal_key(2))
    await store.delete(wal_key(3))
    two = await writer(store, 2).open()
    assert two.replayed == ["a"]
    assert list(two.damage.items) == [wal_key(2), wal_key(3)]
    assert two.opened.next_wal_number == 5
    three = await writer(store, 3).open()
    assert three.replayed == ["a"]
    assert three.damage.count == 0 or list(three.damage.items) == [wal_key(2), wal_key(3)]


async def test_what_was_written_out_of_order_before_a_crash_is_no_lost_object(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1, in_flight=3).open()
    await write_wal(one.opened.creator, one.opened.next_wal_number + 2, [entry("never acked")])
    two = await writer(store, 2).open()
    assert two.replayed == []


# --- the lease and the window -------------------------------------------------------------------


async def time_to_open(store: FakeObjectStore, seed: int) -> tuple[float, LogWriter]:
    start = trio.current_time()
    opened = await writer(store, seed, lease=3.0).open()
    return trio.current_time() - start, opened


async def test_the_read_lease_is_waited_out_unless_the_last_writer_closed_cleanly(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    fresh, _ = await time_to_open(store, 1)
    after_crash, two = await time_to_open(store, 2)
    await two.close()
    after_close, three = await time_to_open(store, 3)
    after_close_and_crash, _ = await time_to_open(store, 4)
    assert [fresh, after_crash, after_close, after_close_and_crash] == [0.0, 3.0, 0.0, 3.0]
    assert three.epoch == 3


async def test_the_fences_stand_before_the_lease_is_waited_out(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    one = await writer(store, 1).open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer(store, 2, lease=3.0).open)
        await trio.sleep(1)
        with pytest.raises(WriterFenced):
            await one.write("late")


async def test_every_number_the_old_writer_may_still_be_writing_is_fenced(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1, in_flight=4).open()
    await one.write("a")
    two = await writer(store, 2, in_flight=2).open()
    assert kinds(store) == [(FENCE, 1), (WAL, 1)] + [(FENCE, 2)] * 4
    assert two.opened.next_wal_number == 6


async def test_after_a_clean_close_one_fence_is_enough(store: FakeObjectStore) -> None:
    one = await writer(store, 1, in_flight=4).open()
    await one.write("a")
    await one.close()
    await writer(store, 2).open()
    assert kinds(store) == [(FENCE, 1), (WAL, 1), (FENCE, 2)]


async def test_an_opener_that_dies_before_its_fences_leaves_the_window_to_the_next(
    store: FakeObjectStore,
) -> None:
    await writer(store, 1, in_flight=4).open()
    gate = store.hold("wal/")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer(store, 2).open)
        await gate.wait_held()
        nursery.cancel_scope.cancel()
    gate.release()
    three = await writer(store, 3).open()
    assert three.epoch == 3
    assert kinds(store)[1:] == [(FENCE, 3)] * 4


@pytest.mark.parametrize("stop", range(1, 9))
async def test_an_opener_that_dies_at_any_request_leaves_a_path_that_opens_again(
    stop: int,
) -> None:
    store = FakeObjectStore(Random(1))
    one = await writer(store, 1, in_flight=3).open()
    await one.write("a", "b")
    gate = store.hold("wal/" if stop > 1 else "manifest/", after_effect=stop % 2 == 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer(store, 2).open)
        await gate.wait_held()
        for _ in range(stop // 3):  # let it get on to the second and third fence
            gate.release()
            gate = store.hold("wal/", after_effect=stop % 2 == 0)
            await gate.wait_held()
        nursery.cancel_scope.cancel()
    gate.release()
    three = await writer(store, 3).open()
    assert three.replayed == ["a", "b"]
    await three.write("c")
    assert (await writer(store, 4).open()).replayed == ["a", "b", "c"]


# --- an old writer that is not dead -------------------------------------------------------------


@attrs.define(eq=False)
class Held:
    """A writer with writes held at the store, as one that was stopped or cut off."""

    writer: LogWriter
    gate: Gate
    error: StorageError | None = None
    done: trio.Event = attrs.field(factory=trio.Event)

    async def write(self, *texts: str) -> None:
        try:
            await self.writer.write(*texts)
        except StorageError as error:
            self.error = error
        self.done.set()


async def holding(
    nursery: trio.Nursery,
    store: FakeObjectStore,
    old: LogWriter,
    *texts: str,
    after_effect: bool = False,
) -> Held:
    held = Held(old, store.hold("wal/", after_effect=after_effect))
    nursery.start_soon(held.write, *texts)
    await held.gate.wait_held(min(len(texts), old.in_flight))
    return held


async def opened_past(held: Held, new: LogWriter) -> LogWriter:
    """Open for a new writer, whose own requests the gate must not stop."""
    waiting = list(held.gate.held)
    passing = FakeObjectStore(Random(9), objects=_store_of(held).objects)
    new.store = passing
    await new.open()
    assert held.gate.held == waiting
    return new


def _store_of(held: Held) -> FakeObjectStore:
    assert isinstance(held.writer.store, FakeObjectStore)
    return held.writer.store


async def test_a_write_that_arrives_after_the_fence_counts_for_nobody(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1).open()
    await one.write("a")
    async with trio.open_nursery() as nursery:
        held = await holding(nursery, store, one, "late")
        two = await opened_past(held, writer(store, 2))
        held.gate.release()
    assert isinstance(held.error, WriterFenced)
    assert one.acked == ["a"]
    assert two.replayed == ["a"]
    assert (await writer(store, 3).open()).replayed == ["a"]


async def test_a_write_that_was_faster_than_the_fence_is_replayed(
    store: FakeObjectStore,
) -> None:
    """The opener saw the number free, and the old writer's object landed before its fence."""
    one = await writer(store, 1).open()
    fence = store.hold("wal/")
    async with trio.open_nursery() as nursery:
        two = writer(store, 2)
        nursery.start_soon(two.open)
        await fence.wait_held()
        one.store = FakeObjectStore(Random(9), objects=store.objects)
        one.log = attrs.evolve(
            one.opened, creator=attrs.evolve(one.opened.creator, store=one.store)
        )
        await one.write("a")
        fence.release()
    assert one.acked == two.replayed == ["a"]
    assert kinds(store) == [(FENCE, 1), (WAL, 1), (FENCE, 2)]


async def test_a_write_whose_answer_was_lost_on_the_way_is_replayed_and_acked(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1).open()
    async with trio.open_nursery() as nursery:
        held = await holding(nursery, store, one, "a", after_effect=True)
        two = await opened_past(held, writer(store, 2))
        held.gate.release()
    assert one.acked == two.replayed == ["a"]
    with pytest.raises(WriterFenced):
        await one.write("b")


@pytest.mark.parametrize("landed", [(1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)])
async def test_of_writes_in_flight_those_after_a_gap_are_skipped_for_ever(
    landed: tuple[int, ...],
) -> None:
    """Numbers 1 to 3 are in flight; those in `landed` have arrived, the others come later."""
    store = FakeObjectStore(Random(1))
    one = await writer(store, 1, in_flight=3).open()
    gates = {number: store.hold(wal_key(number)) for number in (1, 2, 3)}
    outcome = Held(one, gates[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outcome.write, "one", "two", "three")
        for gate in gates.values():
            await gate.wait_held()
        for number in landed:
            gates[number].release()
        await wait_all_tasks_blocked()
        two = await opened_past(outcome, writer(store, 2))
        for gate in gates.values():
            gate.release()
    prefix = [text for number, text in enumerate(("one", "two", "three"), 1)
              if all(each in landed for each in range(1, number + 1))]  # fmt: skip
    assert one.acked == two.replayed == prefix
    await two.write("after")
    assert (await writer(store, 3).open()).replayed == [*prefix, "after"]
    assert outcome.error is None if landed == (1, 2, 3) else isinstance(outcome.error, WriterFenced)


async def test_an_ambiguous_write_is_found_to_be_ours(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    one = await writer(store, 1).open()
    store.fail_next(Op.PUT_NEW, "wal/", Fault.ERROR_AFTER)
    await one.write("a")
    assert one.acked == ["a"]


async def test_an_ambiguous_write_is_found_to_be_fenced(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    one = await writer(store, 1).open()
    outcome = Held(one, store.hold("nothing/"))
    store.fail_next(Op.PUT_NEW, "wal/", Fault.ERROR_BEFORE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outcome.write, "a")
        await trio.sleep(0.01)
        await writer(store, 2).open()
    assert isinstance(outcome.error, WriterFenced)
    assert one.acked == []


async def test_a_writer_that_slept_for_long_learns_it_from_its_next_write(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1).open()
    for seed in range(2, 6):
        later = await writer(store, seed).open()
        await later.write(f"by {seed}")
    with pytest.raises(WriterFenced):
        await one.write("late")


# --- several openers ----------------------------------------------------------------------------


async def test_of_two_that_open_at_once_the_one_with_the_higher_epoch_writes(
    autojump_clock: MockClock,
) -> None:
    for seed in range(30):
        await _open_two(seed)


async def _open_two(seed: int) -> None:
    store = FakeObjectStore(Random(seed), Latency.all(0.0, 1.0))
    writers = [writer(store, 2 * seed, in_flight=2), writer(store, 2 * seed + 1, in_flight=3)]
    failures: list[LogWriter] = []

    async def opening(one: LogWriter) -> None:
        try:
            await one.open()
        except WriterFenced:
            failures.append(one)

    async with trio.open_nursery() as nursery:
        for each in writers:
            nursery.start_soon(opening, each)
    opened = sorted((each for each in writers if each.log is not None), key=lambda w: w.epoch)
    assert opened
    assert len({each.epoch for each in opened}) == len(opened)
    await opened[-1].write("mine")
    for loser in opened[:-1]:
        with pytest.raises(WriterFenced):
            await loser.write("not mine")
    assert (await writer(store, 1000).open()).replayed == ["mine"]


async def test_an_opener_that_is_overtaken_gives_up(store: FakeObjectStore) -> None:
    """It has its epoch, and before it has its fence another server opens and writes."""
    gate = store.hold("wal/")
    errors: list[type[StorageError]] = []

    async def opening() -> None:
        try:
            await writer(store, 1).open()
        except StorageError as error:
            errors.append(type(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(opening)
        await gate.wait_held()
        passing = FakeObjectStore(Random(9), objects=store.objects)
        two = await writer(passing, 2).open()
        await two.write("a", "b")
        gate.release()
    assert errors == [WriterFenced]
    assert two.epoch == 2
    await two.write("c")


async def test_an_opener_that_slept_until_its_number_was_collected_gives_up(
    store: FakeObjectStore,
) -> None:
    await writer(store, 1).open()
    gate = store.hold(manifest_key(2))
    errors: list[type[StorageError]] = []

    async def opening() -> None:
        try:
            await writer(store, 2).open()
        except StorageError as error:
            errors.append(type(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(opening)
        await gate.wait_held()
        passing = FakeObjectStore(Random(9), objects=store.objects)
        await writer(passing, 3).open()
        await writer(passing, 4).open()
        # All of this is long ago: nothing is left of it but the newest manifest.
        for key in [key for key in store.objects if key not in (manifest_key(1), manifest_key(3))]:
            await passing.delete(key)
        gate.release()
    assert errors == [WriterFenced]
    assert kinds(store) == []


@pytest.mark.parametrize("epoch", [2, 3])
async def test_an_opener_that_meets_another_while_it_replays_gives_up(
    store: FakeObjectStore, epoch: int
) -> None:
    """Also one of its own epoch, which can be given twice if a manifest is lost."""
    one = await writer(store, 1).open()
    await one.write("a")
    gate = store.hold("wal/", Op.GET)
    errors: list[type[StorageError]] = []

    async def opening() -> None:
        try:
            await writer(store, 2).open()
        except StorageError as error:
            errors.append(type(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(opening)
        await gate.wait_held()
        other = ObjectCreator(store, WriterIdentity(epoch, b"another writer.."), Random(7))
        await write_fence(other, 2)
        await write_wal(other, 3, [entry("not ours")])
        gate.release()
    assert errors == [WriterFenced]
    assert kinds(store)[2:] == [(FENCE, epoch), (WAL, epoch)]


# --- damage and trouble -------------------------------------------------------------------------


async def test_a_damaged_wal_object_is_named_and_what_is_left_of_it_is_replayed(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1).open()
    await write_wal(one.opened.creator, 1, [entry("a"), entry("bbbb", 1), entry("c", 2)])
    await write_wal(one.opened.creator, 2, [entry("d", 3)])
    data = store.objects[wal_key(1)].data
    store.damage(wal_key(1), data.replace(b"bbbb", b"bbxb"))
    two = await writer(store, 2).open()
    assert two.replayed == ["a", "c", "d"]
    assert two.state.losses == [(LostEntry(STREAM, 1, 2, 0), wal_key(1))]
    assert list(two.damage.items) == [wal_key(1)]
    assert two.damage.catalog_is_whole


async def test_what_was_lost_of_a_stream_comes_before_what_follows_it(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1).open()
    await write_wal(one.opened.creator, 1, [entry("a"), entry("bbbb", 1), entry("c", 2)])
    store.damage(wal_key(1), store.objects[wal_key(1)].data.replace(b"bbbb", b"bbxb"))
    two = await writer(store, 2).open()
    assert two.state.told == ["a", 1, "c"]


async def test_an_object_that_does_not_say_whose_it_is_is_lost_as_a_whole(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1).open()
    await one.write(*"abc")
    data = bytearray(store.objects[wal_key(2)].data)
    data[40] ^= 1
    store.damage(wal_key(2), bytes(data))
    two = await writer(store, 2).open()
    assert two.replayed == ["a", "c"]
    assert two.state.losses == [(LostEntry(None), wal_key(2))]


async def test_that_the_catalog_may_have_lost_something_is_known_for_good(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1).open()
    await one.write("a")
    two = writer(store, 2)
    await two.open()
    assert two.damage.catalog_is_whole
    two.opened.manifest.value = attrs.evolve(two.opened.manifest.value, catalog_is_whole=False)
    await two.opened.manifest.commit(lambda manifest: manifest)
    three = await writer(store, 3).open()
    assert not three.damage.catalog_is_whole
    four = await writer(store, 4).open()
    assert not four.damage.catalog_is_whole


async def test_an_object_under_the_number_of_another_is_lost_as_a_whole(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1).open()
    await one.write(*"abc")
    store.damage(wal_key(2), store.objects[wal_key(1)].data)
    two = await writer(store, 2).open()
    assert two.replayed == ["a", "c"]
    assert two.damage.items == {wal_key(2): "it is number 1"}


async def test_a_fence_is_known_as_one_though_its_header_is_damaged(
    store: FakeObjectStore,
) -> None:
    """Or what arrives late behind it would pass for a part of the log."""
    one = await writer(store, 1, in_flight=2).open()
    await one.write("a")
    number = one.opened.next_wal_number + 1
    await write_wal(one.opened.creator, number + 1, [entry("never acked")])
    two = await writer(store, 2).open()
    await two.write("b")
    fence = bytearray(store.objects[wal_key(number)].data)
    fence[40] ^= 1
    store.damage(wal_key(number), bytes(fence))
    three = await writer(store, 3).open()
    assert three.replayed == ["a", "b"]
    assert three.state.losses == []
    assert list(three.damage.items) == [wal_key(number)]


async def test_an_object_in_the_way_of_a_fence_may_be_damaged(store: FakeObjectStore) -> None:
    one = await writer(store, 1, in_flight=2).open()
    number = one.opened.next_wal_number
    await store.put_new(wal_key(number + 1), b"rubbish")
    two = await writer(store, 2).open()
    assert two.opened.next_wal_number == number + 2
    assert list(two.damage.items) == [wal_key(number + 1)]


async def test_what_a_newer_version_wrote_is_not_taken_for_damage(store: FakeObjectStore) -> None:
    one = await writer(store, 1).open()
    await one.write("a")
    for key in (wal_key(1), manifest_key(1)):
        whole = store.objects[key].data
        header = bytearray(whole[: HEADER.size])
        header[5] = 99
        sealed = bytes(header) + CHECKSUM.pack(checksum(bytes(header)))
        store.damage(key, sealed + whole[HEADER_BYTES:])
        with pytest.raises(NewerFormat, match="99"):
            await writer(store, 2).open()
        store.damage(key, whole)
        await store.delete(manifest_key(2))
    assert (await writer(store, 3).open()).replayed == ["a"]


async def test_a_damaged_manifest_is_replaced_by_the_one_before_it(store: FakeObjectStore) -> None:
    one = await writer(store, 1, in_flight=2).open()
    await one.write("a")
    two = await writer(store, 2, in_flight=2).open()
    await two.opened.manifest.commit(lambda m: attrs.evolve(m, wal_floor=3))
    await two.write("b")
    store.damage(manifest_key(3), b"")
    three = await writer(store, 3).open()
    assert list(three.damage.items) == [manifest_key(3)]
    assert three.replayed == ["a", "b"]  # nothing below the floor of the older one is covered
    assert (three.epoch, three.opened.manifest.number) == (
        4,
        4,
    )  # 3 may have had an epoch of its own
    assert (await writer(store, 4).open()).epoch == 5


async def test_a_manifest_that_is_gone_does_not_have_its_epoch_given_again(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    one = await writer(store, 1).open()
    await one.close()
    two = await writer(store, 2).open()
    await two.write("a")
    await store.delete(manifest_key(3))
    started = trio.current_time()
    three = await writer(store, 3, lease=3.0).open()
    assert three.epoch == 3
    assert three.replayed == ["a"]
    assert list(three.damage.items) == [manifest_key(3)]
    assert trio.current_time() - started == 3.0  # the last one seen was closed, that one was not
    with pytest.raises(WriterFenced):
        await two.write("b")


@pytest.mark.parametrize("damaged", [True, False], ids=["damaged", "missing"])
async def test_a_wal_without_any_manifest_is_replayed_from_its_beginning(
    store: FakeObjectStore, damaged: bool
) -> None:
    one = await writer(store, 1, in_flight=3).open()
    await one.write(*"ab")
    await writer(store, 2).open()
    for key in (manifest_key(1), manifest_key(2)):
        if damaged:
            store.damage(key, b"")
        else:
            await store.delete(key)
    three = await writer(store, 3).open()
    assert three.replayed == ["a", "b"]
    assert three.epoch == 3
    assert three.damage.count == (2 if damaged else 1)


@pytest.mark.parametrize("prefix", ["segment/", "catalog/"])
@pytest.mark.parametrize("damaged", [True, False], ids=["damaged", "missing"])
async def test_segments_without_any_manifest_are_not_taken_for_garbage(
    store: FakeObjectStore, prefix: str, damaged: bool
) -> None:
    await writer(store, 1).open()
    await store.put_new(f"{prefix}0000000001-0000000001", b"precious")
    if damaged:
        store.damage(manifest_key(1), b"")
    else:
        await store.delete(manifest_key(1))
    before = set(store.objects)
    with pytest.raises(ManifestLost, match=prefix):
        await writer(store, 2).open()
    assert set(store.objects) == before


@pytest.mark.parametrize(
    "name", ["zzz", "99999999999999999999", "00000000000000000001.old", "00000000000000000001/copy"]
)
@pytest.mark.parametrize("prefix", ["wal/", "manifest/"])
async def test_what_somebody_else_has_put_there_is_no_part_of_the_log(
    store: FakeObjectStore, prefix: str, name: str
) -> None:
    one = await writer(store, 1).open()
    await store.put_new(prefix + name, b"not ours")
    await one.write(*"abc")
    for number in (2, 3):
        again = await writer(store, number).open()
        assert again.replayed == ["a", "b", "c"]
        assert again.damage.count == 0
    assert prefix + name in store.objects


async def test_a_store_that_ignores_conditions_is_refused_before_anything_else_is_written(
    store: FakeObjectStore,
) -> None:
    careless = Careless(Random(1))
    with pytest.raises(StoreIgnoresConditions):
        await writer(careless, 1).open()
    assert set(careless.objects) == {manifest_key(1)}
    await writer(careless, 1, lease=None).open()  # with a lock it does not matter


class Careless(FakeObjectStore):
    """A store that overwrites."""

    async def put_new(self, key: str, data: bytes | bytearray) -> None:
        self.objects.pop(key, None)
        await super().put_new(key, data)


# --- what an earlier version wrote --------------------------------------------------------------

GOLDEN = Path(__file__).parent.parent / "codec" / "golden"


def of_first_format(kind: ObjectKind, number: int, body: bytes) -> bytes:
    """An object of format 1.0 by the writer of epoch 1."""
    header = Header(kind, number, WriterIdentity(1, b"w" * 16), nonce=number, version=(1, 0))
    return encode_head(header, len(body)) + body + CHECKSUM.pack(checksum(body))


def golden_body(name: str) -> bytes:
    whole = bytes.fromhex((GOLDEN / f"{name}.hex").read_text())
    return whole[HEADER_BYTES : -CHECKSUM.size]


async def test_what_the_first_version_wrote_is_opened_and_replayed(store: FakeObjectStore) -> None:
    manifest = b'{"wal_floor":0,"wal_in_flight":2,"closed_cleanly":false}'
    await store.put_new(manifest_key(1), of_first_format(ObjectKind.MANIFEST, 1, manifest))
    fence, wal = golden_body("fence-1.0"), golden_body("wal-1.0")
    await store.put_new(wal_key(0), of_first_format(ObjectKind.FENCE, 0, fence))
    await store.put_new(wal_key(1), of_first_format(ObjectKind.WAL, 1, wal))
    two = await writer(store, 2).open()
    _, expected = decode_wal_object("", bytes.fromhex((GOLDEN / "wal-1.0.hex").read_text()))
    assert list(map(facts, two.state.applied)) == list(map(facts, expected))
    assert two.damage.count == 0
    assert kinds(store) == [(FENCE, 1), (WAL, 1), (FENCE, 2), (FENCE, 2)]
    await two.write("new")
    assert (await writer(store, 3).open()).replayed[-1] == "new"


async def test_what_the_first_version_closed_needs_no_wait(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    manifest = b'{"wal_floor":0,"wal_in_flight":2,"closed_cleanly":true}'
    await store.put_new(manifest_key(1), of_first_format(ObjectKind.MANIFEST, 1, manifest))
    seconds, two = await time_to_open(store, 2)
    assert seconds == 0.0
    assert kinds(store) == [(FENCE, 2)]
    assert two.damage.count == 0


# --- what the opener writes, and how it reads ---------------------------------------------------


async def test_the_first_manifest_of_a_writer_names_all_that_the_last_one_did(
    store: FakeObjectStore,
) -> None:
    one = await writer(store, 1, in_flight=3).open()
    await one.write(*"abc")
    catalog = one.opened.manifest.new_object_id()
    await write_catalog_object(one.opened.creator, catalog, CatalogFacts())
    segment = SegmentInfo(ObjectId(1, 9), 10, 5, StreamKey(STREAM, 0), StreamKey(STREAM, 1))
    runs = (Run(0, (segment,)),)
    await one.opened.manifest.commit(
        lambda m: attrs.evolve(m, wal_floor=2, runs=runs, catalog=(catalog,))
    )
    await one.close()
    two = await writer(store, 2, in_flight=2).open()
    newest = await newest_manifest(store)
    assert newest is not None
    assert newest.manifest == Manifest(2, 2, runs, (catalog,))
    assert two.opened.manifest.value == newest.manifest
    assert two.opened.manifest.previous.closed_cleanly
    assert two.replayed == ["b", "c"]


async def test_once_the_fences_stand_the_next_manifest_tells_of_the_new_window(
    store: FakeObjectStore,
) -> None:
    await writer(store, 1, in_flight=4).open()
    two = await writer(store, 2, in_flight=2).open()
    first = await newest_manifest(store)
    await two.opened.manifest.commit(lambda m: m)
    second = await newest_manifest(store)
    assert first is not None
    assert second is not None
    assert (first.manifest.wal_in_flight, second.manifest.wal_in_flight) == (4, 2)


async def test_a_long_replay_says_once_a_second_how_far_it_is(
    store: FakeObjectStore, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    one = await writer(store, 1).open()
    await one.write(*map(str, range(160)))
    store.latency = Latency.all(0.4, 0.4)
    with caplog.at_level(logging.INFO, "s2lite.storage"):
        started = trio.current_time()
        await writer(store, 2, lease=None).open()
    lines = [each.message for each in caplog.records if "replaying" in each.message]
    assert trio.current_time() - started < 10  # sixteen at once: one by one it would take 64 s
    assert 2 <= len(lines) <= 5
    assert "of 161 objects" in lines[0]
    assert "MiB" in lines[0]
    percents = [int(line.split()[-2]) for line in lines]
    assert percents == sorted(percents)
    assert 0 < percents[0] < percents[-1] <= 100


async def test_no_more_is_read_ahead_than_fits(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    one = await writer(store, 1).open()
    await one.write(*["x" * 12 * 1024 * 1024] * 8)
    store.latency = Latency.all(1.0, 1.0)
    two = await writer(store, 2, lease=None).open()
    assert len(two.replayed) == 8
    gets = store.operations(Op.GET, "wal/")
    at_once = [
        sum(each.start <= get.start < (each.end or 0) for each in gets)  # none is without an end
        for get in gets
    ]
    assert max(at_once) == 6  # five of 12 MiB, and the fence


async def test_a_short_replay_says_nothing(
    store: FakeObjectStore, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    one = await writer(store, 1).open()
    await one.write(*"abc")
    with caplog.at_level(logging.INFO, "s2lite.storage"):
        await writer(store, 2).open()
    assert not [each for each in caplog.records if "replaying" in each.message]


@pytest.mark.parametrize("op", [Op.LIST, Op.GET, Op.PUT_NEW])
async def test_a_store_that_is_briefly_away_does_not_keep_a_path_from_being_opened(
    store: FakeObjectStore, autojump_clock: MockClock, op: Op
) -> None:
    one = await writer(store, 1).open()
    await one.write("a")
    for prefix in ("manifest/", "wal/"):
        store.fail_next(op, prefix, Fault.ERROR_BEFORE, times=2)
    assert (await writer(store, 2).open()).replayed == ["a"]


@pytest.mark.parametrize("op", [Op.LIST, Op.GET, Op.PUT_NEW])
async def test_a_store_that_stays_away_fails_the_opening(
    store: FakeObjectStore, autojump_clock: MockClock, op: Op
) -> None:
    await writer(store, 1).open()
    for prefix in ("manifest/", "wal/"):
        store.fail_next(op, prefix, Fault.ERROR_BEFORE, times=10_000)
    with pytest.raises(StorageFailed):
        await writer(store, 2).open()
    assert 30 < trio.current_time() < 200


# --- any interleaving ---------------------------------------------------------------------------


@attrs.define(eq=False)
class Process:
    """The store as a process sees it that can be stopped and killed.

    What it has sent goes on without it: a request whose sender is cancelled still arrives, and an
    answer to a stopped process waits until that goes on.
    """

    store: FakeObjectStore
    network: trio.Nursery
    rng: Random
    _runs: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self._runs.set()

    async def put_new(self, key: str, data: bytes | bytearray) -> None:
        await self._request(lambda: self.store.put_new(key, data))

    async def get(self, key: str) -> bytes:
        return await self._request(lambda: self.store.get(key))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        return await self._request(lambda: self.store.get_range(key, start, length))

    async def list(self, prefix: str, start_after: str = "") -> list[ObjectInfo]:
        return await self._request(lambda: self.store.list(prefix, start_after))

    async def delete(self, key: str) -> None:
        await self._request(lambda: self.store.delete(key))

    async def stop_for(self, seconds: float) -> None:
        """Be stopped, as by SIGSTOP, for so long."""
        self._runs = trio.Event()
        await trio.sleep(seconds)
        self._runs.set()

    async def _request(self, send: Callable[[], Awaitable[T]]) -> T:
        await self._runs.wait()
        answers: list[outcome.Outcome[T]] = []
        answered = trio.Event()
        way_there = self.rng.choice([0.0] * 6 + [0.2, 1.0, 30.0])

        async def underway() -> None:
            await trio.sleep(way_there)
            answers.append(await outcome.acapture(send))
            answered.set()

        self.network.start_soon(underway)
        await answered.wait()
        await self._runs.wait()
        return answers[0].unwrap()


@attrs.define(eq=False)
class Simulation:
    """Writers that open one path one after the other or at once, write, stop, and are killed."""

    seed: int
    flaw: str = ""
    rng: Random = attrs.field(init=False)
    store: FakeObjectStore = attrs.field(init=False)
    writers: list[LogWriter] = attrs.field(factory=list)
    fenced: int = 0
    served_at: list[tuple[int, list[str]]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.rng = Random(self.seed)
        self.store = FakeObjectStore(
            Random(self.seed + 1),
            Latency.all(0.0, 0.5),
            FaultRates(error_before=0.05, error_after=0.1),
        )

    async def run(self) -> list[str]:
        """Live through it, and return what the last writer of all finds."""
        async with trio.open_nursery() as network:
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(self._life, Process(self.store, network, self.rng))
                    await trio.sleep(self.rng.choice([0.0, 0.3, 2.0, 20.0]))
            await trio.sleep(60)  # whatever is still on its way arrives
        self.store.latency, self.store.faults = Latency(), FaultRates()
        last = await LogWriter(self.store, Random(self.seed + 2)).open()
        return last.replayed

    async def _life(self, process: Process) -> None:
        writer = LogWriter(
            process,
            Random(self.rng.random()),
            self.rng.randint(1, 4),
            acks_out_of_order=self.flaw == "acks out of order",
            trusts_what_exists=self.flaw == "trusts what exists",
        )
        with trio.move_on_after(self.rng.choice([1.0, 10.0, 60.0, 200.0])):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pauses, process)
                with suppress(StorageFailed):
                    try:
                        await self._serve(writer)
                    except WriterFenced:
                        self.fenced += 1
                nursery.cancel_scope.cancel()

    async def _serve(self, writer: LogWriter) -> None:
        await writer.open()
        # Whatever an earlier writer has acked by the time this one serves, it must know. (That a
        # later one has already taken over it may not know yet: it will when it writes.)
        known = [
            text for other in self.writers if other.epoch < writer.epoch for text in other.acked
        ]
        self.served_at.append((len(writer.replayed), known))
        assert set(known) <= set(writer.replayed), "an opener does not know what was acked"
        self.writers.append(writer)
        for round_ in range(self.rng.randint(1, 4)):
            texts = [f"{writer.epoch}.{round_}.{n}" for n in range(self.rng.randint(1, 6))]
            await writer.write(*texts)
            await trio.sleep(self.rng.choice([0.0, 1.0, 5.0]))
        if self.rng.random() < 0.3:
            await writer.close()

    async def _pauses(self, process: Process) -> None:
        while True:
            await trio.sleep(self.rng.uniform(0.1, 10.0))
            await process.stop_for(self.rng.choice([0.1, 2.0, 40.0]))


def simulate(seed: int, flaw: str = "") -> tuple[Simulation, list[str]]:
    simulation = Simulation(seed, flaw)
    return simulation, run_seeded(seed, simulation.run)


def check(simulation: Simulation, final: list[str]) -> None:
    """Everything a writer was told or told others is what the log begins with, in that order."""
    assert len(set(final)) == len(final), "something was replayed twice"
    for writer in simulation.writers:
        assert final[: len(writer.known)] == writer.known
    epochs = [writer.epoch for writer in simulation.writers]
    assert len(set(epochs)) == len(epochs)


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(4))
def test_whatever_the_interleaving_what_was_acked_stays_and_no_two_writers_disagree(
    batch: int,
) -> None:
    acked = contested = 0
    for seed in range(batch * 60, batch * 60 + 60):
        simulation, final = simulate(seed)
        check(simulation, final)
        acked += sum(len(writer.acked) for writer in simulation.writers)
        contested += simulation.fenced > 0
    assert acked > 200
    assert contested > 5


@pytest.mark.slow
@pytest.mark.parametrize("flaw", ["acks out of order", "trusts what exists"])
def test_the_simulation_finds_out_a_writer_that_breaks_the_rules(flaw: str) -> None:
    def is_caught(seed: int) -> bool:
        try:
            check(*simulate(seed, flaw))
        except (AssertionError, ExceptionGroup):
            return True
        return False

    assert any(is_caught(seed) for seed in range(100))


def test_a_seed_lives_through_the_same_twice() -> None:
    def trace(seed: int) -> list[object]:
        simulation, final = simulate(seed)
        return [final, [(w.epoch, w.acked) for w in simulation.writers], simulation.served_at]

    assert trace(3) == trace(3)
    assert trace(3) != trace(4)
