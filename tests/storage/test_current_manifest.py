"""Changes of the manifest: one after the other, durable, and what a cancelled one leaves behind."""

from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.testing import VirtualClock
from s2lite.model.errors import WriterFenced
from s2lite.model.manifest import Manifest
from s2lite.storage.manifest import manifest_key
from tests.fakes.object_store import FakeObjectStore, Fault, Latency, Op
from tests.storage.path_writer import PathWriter, read_manifests


@pytest.fixture
def store() -> FakeObjectStore:
    return FakeObjectStore(Random(1))


async def raised(writer: PathWriter) -> None:
    """Commit a floor one higher."""
    await writer.manifest.commit(
        lambda manifest: attrs.evolve(manifest, wal_floor=manifest.wal_floor + 1)
    )


async def test_commits_at_the_same_time_build_on_each_other(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    writer = await PathWriter.open(store, VirtualClock())
    floor, number = writer.manifest.value.wal_floor, writer.manifest.number
    store.latency = Latency.all(0.1, 1.0)
    seen: list[tuple[int, int]] = []
    writer.manifest.on_commit = lambda old, new: seen.append((old.wal_floor, new.wal_floor))
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(raised, writer)
    assert seen == [(floor + n, floor + n + 1) for n in range(5)]
    assert writer.manifest.number == number + 5
    assert writer.manifest.previous.wal_floor == floor + 4
    stored = [manifest.wal_floor for manifest in (await read_manifests(store)).values()]
    assert stored[-5:] == [floor + n for n in range(1, 6)]


async def test_a_commit_is_in_force_only_when_it_is_durable(store: FakeObjectStore) -> None:
    writer = await PathWriter.open(store, VirtualClock())
    before = writer.manifest.value
    gate = store.hold("manifest/")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raised, writer)
        await gate.wait_held()
        assert writer.manifest.value is before
        gate.release()
    assert writer.manifest.value.wal_floor == before.wal_floor + 1


@pytest.mark.parametrize("landed", [True, False])
async def test_a_commit_that_was_cancelled_counts_if_it_was_written_and_else_not(
    store: FakeObjectStore, landed: bool
) -> None:
    writer = await PathWriter.open(store, VirtualClock())
    floor, number = writer.manifest.value.wal_floor, writer.manifest.number
    gate = store.hold("manifest/", after_effect=landed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raised, writer)
        await gate.wait_held()
        nursery.cancel_scope.cancel()
    gate.release()
    assert writer.manifest.value.wal_floor == floor  # nobody knows yet
    history: list[int] = []
    writer.manifest.on_commit = lambda _, new: history.append(new.wal_floor)
    await raised(writer)
    assert history == ([floor + 1, floor + 2] if landed else [floor + 1])
    assert writer.manifest.number == number + len(history)
    newest = (await read_manifests(store))[manifest_key(writer.manifest.number)]
    assert newest == writer.manifest.value


async def test_a_writer_that_was_replaced_commits_nothing(store: FakeObjectStore) -> None:
    writer = await PathWriter.open(store, VirtualClock())
    before = writer.manifest.value
    successor = await PathWriter.open(store, VirtualClock(), seed=1)
    with pytest.raises(WriterFenced):
        await raised(writer)
    assert writer.manifest.value is before
    await raised(successor)


async def test_an_edit_sees_what_is_in_force_when_its_turn_comes(store: FakeObjectStore) -> None:
    writer = await PathWriter.open(store, VirtualClock())
    gate = store.hold("manifest/")
    given: list[Manifest] = []

    def edit(manifest: Manifest) -> Manifest:
        given.append(manifest)
        return manifest

    async with trio.open_nursery() as nursery:
        nursery.start_soon(raised, writer)
        await gate.wait_held()
        nursery.start_soon(writer.manifest.commit, edit)
        await wait_all_tasks_blocked()
        assert given == []
        gate.release()
    assert given == [writer.manifest.previous]


async def test_ids_of_new_objects_are_never_given_twice(store: FakeObjectStore) -> None:
    writer = await PathWriter.open(store, VirtualClock())
    successor = await PathWriter.open(store, VirtualClock(), seed=1)
    given = [each.manifest.new_object_id() for each in (writer, successor) for _ in range(10)]
    assert len(set(given)) == 20


async def give_up_a_commit(store: FakeObjectStore, writer: PathWriter) -> None:
    """Have the writer commit a floor of 5; it is written, and the writer does not learn it."""
    gate = store.hold("manifest/", after_effect=True)
    with trio.move_on_after(1):
        await writer.manifest.commit(lambda old: attrs.evolve(old, wal_floor=5))
    gate.release()
    assert writer.manifest.value.wal_floor == 0


@pytest.mark.parametrize("fault", [Fault.ERROR_BEFORE, Fault.STALL_BEFORE])
async def test_the_earlier_one_is_found_though_the_store_is_briefly_away(
    store: FakeObjectStore, autojump_clock: MockClock, fault: Fault
) -> None:
    writer = await PathWriter.open(store, VirtualClock(0))
    await give_up_a_commit(store, writer)
    store.fail_next(Op.GET, "manifest/", fault)
    with trio.fail_after(60):
        await writer.manifest.commit(lambda old: attrs.evolve(old, wal_in_flight=7))
    assert (writer.manifest.value.wal_floor, writer.manifest.value.wal_in_flight) == (5, 7)
    assert writer.manifest.number == 3


async def test_that_the_earlier_one_was_written_proves_nothing_about_now(
    store: FakeObjectStore, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Another server has taken over between the two, and may have acked what this one lacks."""
    clock = VirtualClock(0)
    writer = await PathWriter.open(store, clock)
    await give_up_a_commit(store, writer)
    newer = await PathWriter.open(store, clock, seed=1)
    clock.suspend(30)
    assert not writer.manifest.ownership.is_current

    gate = store.hold(manifest_key(newer.manifest.number))
    outcomes: list[WriterFenced] = []

    async def commit() -> None:
        with pytest.raises(WriterFenced) as fenced:
            await writer.manifest.commit(lambda old: old)
        outcomes.append(fenced.value)

    nursery.start_soon(commit)
    await gate.wait_held()
    assert not writer.manifest.ownership.is_current
    gate.release()
    await trio.sleep(1)
    assert outcomes
