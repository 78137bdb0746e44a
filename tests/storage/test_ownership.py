"""When a writer may rely on being the writer, what it asks to know, and how it finds out."""

from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.testing import VirtualClock
from s2lite.codec.envelope import HEADER_BYTES, Header, ObjectKind, WriterIdentity, seal
from s2lite.model.errors import CorruptObject, StorageError, StorageFailed, WriterFenced
from s2lite.storage.manifest import manifest_key
from s2lite.storage.ownership import (
    NEXT_NUMBER_PROVEN_SECONDS,
    WRITES_PROVEN_SECONDS,
    Ownership,
)
from tests.fakes.object_store import FakeObjectStore, Fault, Latency, Op, StoredObject

OURS = 10
"""The number of our newest manifest."""

LEASE = 1.0
HOUR = 3600.0


def writer(epoch: int, process: int = 0) -> WriterIdentity:
    return WriterIdentity(epoch, bytes([process]) * 16)


@attrs.define(eq=False)
class World:
    """A store with a manifest of ours, of epoch 5, and what we know of it."""

    store: FakeObjectStore
    clock: VirtualClock
    ownership: Ownership
    fenced_by: list[WriterFenced] = attrs.field(factory=list)

    def manifest(self, number: int, of: WriterIdentity) -> None:
        """A manifest appears."""
        header = Header(ObjectKind.MANIFEST, number, of, nonce=1, version=(1, 0))
        self.store.objects[manifest_key(number)] = StoredObject(seal(header, b"{}"), 0)

    def collect_below(self, number: int) -> None:
        """A collector deletes the older manifests."""
        for key in list(self.store.objects):
            if key < manifest_key(number):
                del self.store.objects[key]

    @property
    def requests(self) -> list[tuple[Op, str]]:
        return [(each.op, each.key) for each in self.store.log]

    def forget(self) -> None:
        self.store.log.clear()


NEXT = (Op.GET_RANGE, manifest_key(OURS + 1))


def make_world(lease_seconds: float | None = LEASE, latency: Latency | None = None) -> World:
    store, clock = FakeObjectStore(Random(1), latency or Latency()), VirtualClock()
    ownership = Ownership(store, clock, writer(5), lambda: OURS, Random(2), lease_seconds)
    world = World(store, clock, ownership)
    ownership.on_fenced = world.fenced_by.append
    world.manifest(OURS, writer(5))
    return world


@pytest.fixture
async def world() -> World:
    """The writer has proved itself just now."""
    made = make_world()
    await made.ownership.confirm(made.ownership.now())
    made.forget()
    return made


# --- reads ----------------------------------------------------------------------------------------


async def test_within_the_lease_nothing_is_asked(world: World, autojump_clock: MockClock) -> None:
    await trio.sleep(LEASE - 0.01)
    await world.ownership.ensure_current()
    assert world.requests == []


async def test_after_the_lease_one_request_renews_it(
    world: World, autojump_clock: MockClock
) -> None:
    await trio.sleep(LEASE + 0.01)
    await world.ownership.ensure_current()
    assert world.requests == [NEXT]
    await trio.sleep(LEASE - 0.01)
    await world.ownership.ensure_current()
    assert world.requests == [NEXT]


async def test_the_lease_counts_from_the_start_of_what_proved_it(
    world: World, autojump_clock: MockClock
) -> None:
    world.store.latency = Latency(get_range=(0.6, 0.6))
    await trio.sleep(2)
    await world.ownership.ensure_current()
    current = []
    for pause in (LEASE - 0.61, 0.02):
        await trio.sleep(pause)
        current.append(world.ownership.is_current)
    assert current == [True, False]


async def test_a_store_slower_than_the_lease_can_still_be_read_from(
    world: World, autojump_clock: MockClock
) -> None:
    """The answer is as of after the question, which is all that it has to be."""
    world.store.latency = Latency(get_range=(3.0, 3.0))
    await trio.sleep(2)
    await world.ownership.ensure_current()
    assert world.requests == [NEXT]


async def test_the_time_for_which_the_machine_slept_counts(
    world: World, autojump_clock: MockClock
) -> None:
    world.clock.suspend(LEASE + 1)
    await world.ownership.ensure_current()
    assert world.requests == [NEXT]


async def test_a_proof_never_goes_back(world: World, autojump_clock: MockClock) -> None:
    await trio.sleep(5)
    world.ownership.proved(world.ownership.now())
    world.ownership.proved(world.ownership.now() - 5)
    assert world.ownership.is_current


async def test_readers_that_come_together_share_a_request(
    world: World, autojump_clock: MockClock
) -> None:
    world.store.latency = Latency(get_range=(0.2, 0.2))
    await trio.sleep(2)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(world.ownership.ensure_current)
    assert world.requests == [NEXT]


async def test_a_reader_that_comes_long_after_a_slow_request_began_asks_anew(
    world: World, autojump_clock: MockClock
) -> None:
    """What the request tells may be older than the lease when it is answered."""
    world.store.latency = Latency(get_range=(3.0, 3.0))
    await trio.sleep(2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.ownership.ensure_current)
        await trio.sleep(1.5)
        await world.ownership.ensure_current()
    assert world.requests == [NEXT, NEXT]


async def test_a_reader_that_is_cancelled_does_not_cancel_it_for_others(
    world: World, autojump_clock: MockClock
) -> None:
    gate = world.store.hold("manifest/", Op.GET_RANGE)
    await trio.sleep(2)
    done: list[int] = []

    async def read(number: int) -> None:
        await world.ownership.ensure_current()
        done.append(number)

    async with trio.open_nursery() as others, trio.open_nursery() as first:
        first.start_soon(read, 0)
        await wait_all_tasks_blocked()
        for number in (1, 2, 3):
            others.start_soon(read, number)
        await wait_all_tasks_blocked()
        assert world.requests == [NEXT]
        first.cancel_scope.cancel()
        await gate.wait_held()
        gate.release()
    assert sorted(done) == [1, 2, 3]
    assert world.requests == [NEXT, NEXT]


async def test_a_store_that_is_away_for_a_while_is_asked_again(
    world: World, autojump_clock: MockClock
) -> None:
    await trio.sleep(2)
    world.store.fail_next(Op.GET_RANGE, "manifest/", Fault.ERROR_BEFORE, times=3)
    await world.ownership.ensure_current()
    assert world.requests == [NEXT] * 4


async def test_a_store_that_does_not_answer_fails_all_who_wait_and_fences_nobody(
    world: World, autojump_clock: MockClock
) -> None:
    await trio.sleep(2)
    world.store.fail_next(Op.GET_RANGE, "manifest/", Fault.STALL_BEFORE, times=20)
    errors: list[StorageError] = []

    async def read() -> None:
        try:
            await world.ownership.ensure_current()
        except StorageFailed as error:
            errors.append(error)

    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read)
    assert len(errors) == 5
    assert world.fenced_by == []


# --- being fenced ---------------------------------------------------------------------------------


async def test_a_newer_writer_is_found_when_the_lease_is_renewed(
    world: World, autojump_clock: MockClock
) -> None:
    world.manifest(OURS + 1, writer(6))
    await world.ownership.ensure_current()
    await trio.sleep(LEASE + 0.01)
    with pytest.raises(WriterFenced, match="epoch 6"):
        await world.ownership.ensure_current()


async def test_after_a_fence_everything_is_refused_at_once_and_it_was_told_once(
    world: World, autojump_clock: MockClock
) -> None:
    world.manifest(OURS + 1, writer(6))
    await trio.sleep(2)
    for _ in range(2):
        with pytest.raises(WriterFenced):
            await world.ownership.ensure_current()
    world.ownership.proved(world.ownership.now())
    assert not world.ownership.is_current
    with pytest.raises(WriterFenced):
        await world.ownership.ensure_current()
    with pytest.raises(WriterFenced):
        await world.ownership.confirm(world.ownership.now())
    with pytest.raises(WriterFenced):
        await world.ownership.ensure_writes_proven()
    assert world.requests == [NEXT]
    assert len(world.fenced_by) == 1


async def test_who_finds_a_newer_writer_elsewhere_ends_it_for_readers_too(
    world: World, autojump_clock: MockClock
) -> None:
    error = WriterFenced()
    world.ownership.lose(error)
    world.ownership.lose(WriterFenced())
    with pytest.raises(WriterFenced):
        await world.ownership.ensure_current()
    assert world.fenced_by == [error]
    assert world.requests == []


async def test_readers_that_wait_together_all_learn_of_the_newer_writer(
    world: World, autojump_clock: MockClock
) -> None:
    world.manifest(OURS + 1, writer(6))
    await trio.sleep(2)
    refused: list[WriterFenced] = []

    async def read() -> None:
        try:
            await world.ownership.ensure_current()
        except WriterFenced as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(read)
    assert len(refused) == 10
    assert len(world.fenced_by) == 1


async def test_a_manifest_of_our_own_that_is_being_committed_is_no_fence(
    world: World, autojump_clock: MockClock
) -> None:
    world.manifest(OURS + 1, writer(5))
    await trio.sleep(2)
    await world.ownership.ensure_current()
    assert world.requests == [NEXT, (Op.GET_RANGE, manifest_key(OURS + 2))]


async def test_a_newer_writer_behind_a_manifest_of_our_own_is_found(
    world: World, autojump_clock: MockClock
) -> None:
    world.manifest(OURS + 1, writer(5))
    world.manifest(OURS + 2, writer(6))
    await trio.sleep(2)
    with pytest.raises(WriterFenced):
        await world.ownership.ensure_current()


async def test_another_process_with_our_epoch_is_a_newer_writer(
    world: World, autojump_clock: MockClock
) -> None:
    """We slept as we took the epoch, on a number that had been used and collected."""
    world.manifest(OURS + 1, writer(5, process=1))
    await trio.sleep(2)
    with pytest.raises(WriterFenced):
        await world.ownership.ensure_current()


async def test_a_damaged_manifest_tells_by_its_header(
    world: World, autojump_clock: MockClock
) -> None:
    world.manifest(OURS + 1, writer(6))
    data = world.store.objects[manifest_key(OURS + 1)].data
    world.store.damage(manifest_key(OURS + 1), data[:HEADER_BYTES])
    await trio.sleep(2)
    with pytest.raises(WriterFenced):
        await world.ownership.ensure_current()


@pytest.mark.parametrize("damage", ["short", "garbage", "elsewhere"])
async def test_a_manifest_whose_header_is_damaged_proves_nothing(
    world: World, autojump_clock: MockClock, damage: str
) -> None:
    world.manifest(OURS + 1, writer(5))
    key = manifest_key(OURS + 1)
    match damage:
        case "short":
            world.store.damage(key, world.store.objects[key].data[:20])
        case "garbage":
            world.store.damage(key, bytes(100))
        case _:
            world.store.damage(key, world.store.objects[manifest_key(OURS)].data)
    await trio.sleep(2)
    with pytest.raises(CorruptObject):
        await world.ownership.ensure_current()
    assert not world.ownership.is_current
    assert world.fenced_by == []


# --- writes ---------------------------------------------------------------------------------------


async def test_a_put_within_a_minute_of_a_proof_is_one(
    world: World, autojump_clock: MockClock
) -> None:
    await trio.sleep(WRITES_PROVEN_SECONDS - 0.01)
    await world.ownership.confirm(world.ownership.now() - 0.5)
    assert world.ownership.is_current
    assert world.requests == []


async def test_a_put_that_ended_later_counts_only_after_a_look_at_the_manifests(
    world: World, autojump_clock: MockClock
) -> None:
    await trio.sleep(WRITES_PROVEN_SECONDS + 0.1)
    await world.ownership.confirm(world.ownership.now() - 0.5)
    assert world.requests == [NEXT]


async def test_a_put_that_ended_later_does_not_count_if_there_is_a_newer_writer(
    world: World, autojump_clock: MockClock
) -> None:
    world.manifest(OURS + 1, writer(6))
    started = world.ownership.now()
    world.clock.suspend(WRITES_PROVEN_SECONDS + 0.1)
    with pytest.raises(WriterFenced):
        await world.ownership.confirm(started)


async def test_a_look_that_began_long_before_the_put_ended_vouches_for_nothing(
    world: World, autojump_clock: MockClock
) -> None:
    """A reader asks; the machine sleeps before the answer; others take over, collect, and leave
    the number of our put free."""
    await trio.sleep(2)
    gate = world.store.hold("manifest/", Op.GET_RANGE, after_effect=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.ownership.ensure_current)
        await gate.wait_held()
        world.manifest(OURS + 1, writer(6))
        world.clock.suspend(WRITES_PROVEN_SECONDS + 1)
        gate.release()
        with pytest.raises(WriterFenced):
            await world.ownership.confirm(world.ownership.now())


async def test_that_puts_met_free_numbers_does_not_renew_the_lease(
    world: World, autojump_clock: MockClock
) -> None:
    """An object that has an older one before it may lie behind a fence."""
    await trio.sleep(2)
    await world.ownership.ensure_writes_proven()
    assert not world.ownership.is_current


async def test_a_new_writer_looks_at_the_list_before_its_first_put_counts(
    autojump_clock: MockClock,
) -> None:
    world = make_world()
    await world.ownership.confirm(world.ownership.now())
    assert (Op.LIST, "manifest/") in world.requests
    assert world.ownership.is_current


# --- numbers that were used and collected ---------------------------------------------------------


async def test_a_next_manifest_that_was_written_and_collected_is_found_by_the_list(
    world: World, autojump_clock: MockClock
) -> None:
    world.clock.suspend(HOUR + 60)
    for number in range(OURS + 1, OURS + 4):
        world.manifest(number, writer(6))
    world.collect_below(OURS + 3)
    with pytest.raises(WriterFenced, match="epoch 6"):
        await world.ownership.ensure_current()
    assert NEXT in world.requests
    assert len(world.fenced_by) == 1


async def test_sleep_in_the_middle_of_the_request_is_noticed(
    world: World, autojump_clock: MockClock
) -> None:
    await trio.sleep(2)
    gate = world.store.hold("manifest/", Op.GET_RANGE)
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(WriterFenced):
                await world.ownership.ensure_current()

        nursery.start_soon(read)
        await gate.wait_held()
        world.clock.suspend(HOUR + 60)
        world.manifest(OURS + 3, writer(6))
        gate.release()


@pytest.mark.parametrize(("slept", "lists"), [(-2.0, False), (1.0, True)])
async def test_the_list_is_read_only_after_half_an_hour_without_a_proof(
    world: World, autojump_clock: MockClock, slept: float, lists: bool
) -> None:
    world.clock.suspend(NEXT_NUMBER_PROVEN_SECONDS + slept)
    await world.ownership.ensure_current()
    assert ((Op.LIST, "manifest/") in world.requests) is lists
    assert world.ownership.is_current


async def test_a_manifest_that_is_collected_after_it_was_listed_is_listed_again(
    world: World, autojump_clock: MockClock
) -> None:
    world.clock.suspend(2 * HOUR)
    world.manifest(OURS + 1, writer(5))
    world.manifest(OURS + 4, writer(5))
    gate = world.store.hold("manifest/", Op.LIST, after_effect=True)
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(WriterFenced):
                await world.ownership.ensure_current()

        nursery.start_soon(read)
        await gate.wait_held()
        world.manifest(OURS + 9, writer(6))
        world.collect_below(OURS + 9)
        gate.release()


async def test_when_our_own_manifest_is_missing_nothing_is_proven(
    world: World, autojump_clock: MockClock
) -> None:
    del world.store.objects[manifest_key(OURS)]
    world.manifest(OURS - 1, writer(4))
    world.clock.suspend(HOUR)
    with pytest.raises(CorruptObject, match="missing"):
        await world.ownership.ensure_current()


# --- behind a lock --------------------------------------------------------------------------------


async def test_behind_a_lock_nothing_is_ever_asked(autojump_clock: MockClock) -> None:
    world = make_world(lease_seconds=None)
    for _ in range(3):
        assert world.ownership.is_current
        await world.ownership.ensure_current()
        await world.ownership.ensure_writes_proven()
        await world.ownership.confirm(world.ownership.now())
        world.clock.suspend(HOUR)
    assert world.requests == []
