"""The chain of numbered manifests."""

from random import Random

import pytest

from s2lite.codec.envelope import WriterIdentity
from s2lite.model.errors import CorruptObject, WriterFenced
from s2lite.model.manifest import Manifest
from s2lite.storage.creation import NumberTaken, ObjectCreator
from s2lite.storage.damage import Damage
from s2lite.storage.manifest import (
    FoundManifests,
    find_manifests,
    manifest_key,
    newest_manifest,
    read_manifest,
    write_manifest,
)
from s2lite.storage.objects.object_store import ObjectInfo, ObjectNotFound
from tests.fakes.object_store import FakeObjectStore


@pytest.fixture
def store() -> FakeObjectStore:
    return FakeObjectStore(Random(1))


def writer(store: FakeObjectStore, epoch: int, seed: int = 0) -> ObjectCreator:
    return ObjectCreator(store, WriterIdentity(epoch, bytes([seed]) * 16), Random(seed))


async def test_a_fresh_path_has_no_manifest(store: FakeObjectStore) -> None:
    assert await newest_manifest(store) is None


async def test_the_newest_is_the_one_with_the_highest_number(store: FakeObjectStore) -> None:
    for number in range(1, 12):
        await write_manifest(writer(store, number), number, Manifest(wal_floor=number))
    newest = await newest_manifest(store)
    assert newest is not None
    assert newest.header.number == newest.header.writer.epoch == newest.manifest.wal_floor == 11


class StaleListing(FakeObjectStore):
    """A store whose listings show the first object only."""

    async def list(self, prefix: str, start_after: str = "") -> list[ObjectInfo]:
        return (await super().list(prefix, start_after))[:1]


async def test_a_listing_that_lags_behind_does_not_hide_the_newest() -> None:
    store = StaleListing(Random(1))
    for number in (1, 2, 3):
        await write_manifest(writer(store, number), number, Manifest())
    newest = await newest_manifest(store)
    assert newest is not None
    assert newest.header.number == 3


async def test_a_number_that_is_taken_tells_a_newer_writer_from_a_peer(
    store: FakeObjectStore,
) -> None:
    await write_manifest(writer(store, 2), 1, Manifest())
    with pytest.raises(WriterFenced):
        await write_manifest(writer(store, 1, seed=1), 1, Manifest())
    with pytest.raises(NumberTaken):
        await write_manifest(writer(store, 2, seed=1), 1, Manifest())
    with pytest.raises(NumberTaken):
        await write_manifest(writer(store, 3, seed=1), 1, Manifest())


async def test_a_damaged_manifest_is_named(store: FakeObjectStore) -> None:
    await write_manifest(writer(store, 1), 1, Manifest())
    store.damage(manifest_key(1), store.objects[manifest_key(1)].data[:-1])
    with pytest.raises(CorruptObject) as caught:
        await newest_manifest(store)
    assert caught.value.key == manifest_key(1)


async def test_a_manifest_under_the_key_of_another_is_damage(store: FakeObjectStore) -> None:
    await write_manifest(writer(store, 1), 1, Manifest())
    await store.put_new(manifest_key(2), store.objects[manifest_key(1)].data)
    with pytest.raises(CorruptObject) as caught:
        await newest_manifest(store)
    assert caught.value.key == manifest_key(2)


# --- what an opener finds -----------------------------------------------------------------------


async def found(store: FakeObjectStore) -> tuple[FoundManifests, Damage]:
    damage = Damage()
    return await find_manifests(store, damage, Random(1)), damage


async def test_an_opener_of_a_fresh_path_finds_nothing(store: FakeObjectStore) -> None:
    manifests, damage = await found(store)
    assert manifests == FoundManifests(None, 0)
    assert (manifests.is_whole, manifests.highest_epoch, damage.count) == (True, 0, 0)


@pytest.mark.parametrize("stale", [True, False])
async def test_an_opener_finds_the_newest(stale: bool) -> None:
    store = (StaleListing if stale else FakeObjectStore)(Random(1))
    for number in (1, 2, 3):
        await write_manifest(writer(store, 10 + number), number, Manifest(wal_floor=number))
    manifests, _ = await found(store)
    assert manifests.newest is not None
    assert manifests.newest.manifest.wal_floor == 3
    assert (manifests.is_whole, manifests.number, manifests.highest_epoch) == (True, 3, 13)


@pytest.mark.parametrize("stale", [True, False])
async def test_damaged_manifests_are_passed_over_and_each_may_have_had_an_epoch(
    stale: bool,
) -> None:
    store = (StaleListing if stale else FakeObjectStore)(Random(1))
    for number in (1, 2, 3, 4):
        await write_manifest(writer(store, 10), number, Manifest(wal_floor=number))
    for number in (3, 4):
        store.damage(manifest_key(number), store.objects[manifest_key(number)].data[:-1])
    manifests, damage = await found(store)
    assert manifests.newest is not None
    assert manifests.newest.manifest.wal_floor == 2
    assert (manifests.is_whole, manifests.number, manifests.highest_epoch) == (False, 4, 12)
    assert set(damage.items) == {manifest_key(3), manifest_key(4)}


async def test_where_none_can_be_read_there_were_no_more_epochs_than_numbers(
    store: FakeObjectStore,
) -> None:
    for number in (7, 8):
        await write_manifest(writer(store, number), number, Manifest())
        store.damage(manifest_key(number), b"")
    manifests, damage = await found(store)
    assert manifests == FoundManifests(None, 8)
    assert (manifests.is_whole, manifests.highest_epoch, damage.count) == (False, 8, 2)


async def test_a_manifest_is_read_by_its_number(store: FakeObjectStore) -> None:
    for number in (1, 2):
        await write_manifest(writer(store, number), number, Manifest(wal_floor=number))
    assert (await read_manifest(store, 1)).manifest.wal_floor == 1
    with pytest.raises(ObjectNotFound):
        await read_manifest(store, 3)


async def test_what_was_written_is_returned(store: FakeObjectStore) -> None:
    written = await write_manifest(writer(store, 1), 1, Manifest())
    assert written == store.objects[manifest_key(1)].data
