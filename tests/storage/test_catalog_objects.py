"""Catalog objects: two copies, page by page, and the newest word on each row."""

from random import Random

import pytest
from trio.testing import MockClock

from s2lite.codec.catalog_object import PAGE_ROWS
from s2lite.codec.envelope import CHECKSUM, HEADER, HEADER_BYTES, WriterIdentity, checksum
from s2lite.model.config import BasinConfig, StreamConfig
from s2lite.model.errors import StorageFailed, WriterFenced
from s2lite.model.log import BasinRecord, CatalogFacts, StreamId, StreamRecord, StreamState
from s2lite.model.manifest import ObjectId
from s2lite.model.names import BasinName, StreamName
from s2lite.model.positions import StreamPosition
from s2lite.storage.catalog_objects import (
    catalog_copy_key,
    catalog_key,
    load_catalog,
    write_catalog_object,
)
from s2lite.storage.creation import ObjectCreator
from s2lite.storage.damage import Damage, NewerFormat
from tests.fakes.object_store import FakeObjectStore, Fault, Latency, Op

BASIN = BasinName("test-basin")
FIRST, SECOND = ObjectId(3, 1), ObjectId(3, 2)


@pytest.fixture
def store() -> FakeObjectStore:
    return FakeObjectStore(Random(1))


def creator(store: FakeObjectStore, epoch: int = 3) -> ObjectCreator:
    return ObjectCreator(store, WriterIdentity(epoch, bytes([epoch]) * 16), Random(epoch))


def state(number: int, tail: int = 0) -> StreamState:
    stream_id = StreamId(number.to_bytes(16, "big"))
    record = StreamRecord(stream_id, BASIN, StreamName(f"s{number}"), StreamConfig(), 0)
    return StreamState(record, StreamPosition(tail, 0))


def streams(*states: StreamState) -> dict[StreamId, StreamState | None]:
    return {each.record.stream_id: each for each in states}


def basins(*names: str) -> dict[BasinName, BasinRecord | None]:
    return {BasinName(name): BasinRecord(BasinName(name), BasinConfig(), 0) for name in names}


MANY = CatalogFacts(basins("test-basin"), streams(*map(state, range(2 * PAGE_ROWS + 5))))
"""Four pages: one of basins and three of streams."""


async def load(store: FakeObjectStore, *ids: ObjectId) -> tuple[CatalogFacts, Damage]:
    damage = Damage()
    return await load_catalog(store, ids, damage, Random(1)), damage


def flip(store: FakeObjectStore, key: str, index: int) -> None:
    data = bytearray(store.objects[key].data)
    data[index] ^= 1
    store.damage(key, bytes(data))


async def test_what_was_written_is_loaded(store: FakeObjectStore) -> None:
    await write_catalog_object(creator(store), FIRST, MANY)
    assert set(store.objects) == {"catalog/0000000003-0000000001", catalog_copy_key(FIRST)}
    facts, damage = await load(store, FIRST)
    assert facts == MANY
    assert (damage.count, damage.catalog_is_whole) == (0, True)


async def test_no_objects_make_an_empty_catalog(store: FakeObjectStore) -> None:
    assert (await load(store))[0] == CatalogFacts()


async def test_the_newer_row_wins_and_what_was_removed_is_not_there(
    store: FakeObjectStore,
) -> None:
    older = CatalogFacts(basins("a" * 8, "b" * 8), streams(state(1), state(2), state(3)))
    newer = CatalogFacts(
        {BasinName("a" * 8): None, BasinName("unknown1"): None},
        {**streams(state(2, tail=7)), state(3).record.stream_id: None, StreamId(b"?" * 16): None},
    )
    await write_catalog_object(creator(store), FIRST, older)
    await write_catalog_object(creator(store), SECOND, newer)
    facts, _ = await load(store, FIRST, SECOND)
    assert facts == CatalogFacts(basins("b" * 8), streams(state(1), state(2, tail=7)))
    assert (await load(store, SECOND, FIRST))[0] != facts


@pytest.mark.parametrize("key", [catalog_key(FIRST), catalog_copy_key(FIRST)])
@pytest.mark.parametrize("index", [3, 70, 5000, 12_000, -40])
async def test_damage_to_one_of_the_copies_costs_nothing(
    store: FakeObjectStore, key: str, index: int
) -> None:
    await write_catalog_object(creator(store), FIRST, MANY)
    flip(store, key, index)
    facts, damage = await load(store, FIRST)
    assert facts == MANY
    assert damage.catalog_is_whole
    assert list(damage.items) == ([key] if key == catalog_key(FIRST) else [])


@pytest.mark.parametrize("length", [None, 0, 64, 100, 10_000, -9])
async def test_an_object_that_is_cut_short_or_missing_is_replaced_by_its_copy(
    store: FakeObjectStore, length: int | None
) -> None:
    await write_catalog_object(creator(store), FIRST, MANY)
    key = catalog_key(FIRST)
    if length is None:
        del store.objects[key]
    else:
        store.damage(key, store.objects[key].data[:length])
    facts, damage = await load(store, FIRST)
    assert facts == MANY
    assert list(damage.items) == [key]
    assert damage.catalog_is_whole


async def test_copies_with_different_pages_damaged_complete_each_other(
    store: FakeObjectStore,
) -> None:
    await write_catalog_object(creator(store), FIRST, MANY)
    flip(store, catalog_key(FIRST), 5000)
    flip(store, catalog_copy_key(FIRST), -100)
    facts, damage = await load(store, FIRST)
    assert facts == MANY
    assert list(damage.items) == [catalog_key(FIRST), catalog_copy_key(FIRST)]
    assert damage.catalog_is_whole


async def test_the_pages_of_one_copy_may_not_be_followed_where_those_of_the_other_are(
    store: FakeObjectStore,
) -> None:
    await write_catalog_object(creator(store), FIRST, MANY)
    flip(store, catalog_key(FIRST), HEADER_BYTES)  # the size of the first page
    flip(store, catalog_copy_key(FIRST), -100)
    facts, damage = await load(store, FIRST)
    assert len(facts.streams) == 2 * PAGE_ROWS
    assert facts.basins == MANY.basins
    assert not damage.catalog_is_whole


async def test_it_is_noticed_when_the_last_page_of_the_longer_copy_is_damaged(
    store: FakeObjectStore,
) -> None:
    two_pages = CatalogFacts(basins("test-basin"), streams(state(1)))
    await write_catalog_object(creator(store), FIRST, two_pages)
    flip(store, catalog_key(FIRST), HEADER_BYTES)
    flip(store, catalog_copy_key(FIRST), -20)
    facts, damage = await load(store, FIRST)
    assert facts == CatalogFacts(two_pages.basins)
    assert not damage.catalog_is_whole


async def test_a_page_that_is_damaged_in_both_copies_is_the_only_one_that_is_lost(
    store: FakeObjectStore,
) -> None:
    await write_catalog_object(creator(store), FIRST, MANY)
    await write_catalog_object(creator(store), SECOND, CatalogFacts(streams=streams(state(0, 9))))
    for key in (catalog_key(FIRST), catalog_copy_key(FIRST)):
        flip(store, key, 5000)
    facts, damage = await load(store, FIRST, SECOND)
    assert not damage.catalog_is_whole
    assert len(facts.streams) == PAGE_ROWS + 5 + 1  # one comes again in the second object
    assert facts.basins == MANY.basins


async def test_an_object_that_is_missing_twice_is_a_gap(store: FakeObjectStore) -> None:
    await write_catalog_object(creator(store), FIRST, MANY)
    facts, damage = await load(store, FIRST, SECOND)
    assert facts == MANY
    assert not damage.catalog_is_whole
    assert damage.items == dict.fromkeys(
        [catalog_key(SECOND), catalog_copy_key(SECOND)], "it is missing"
    )


async def test_an_object_under_the_key_of_another_is_damage(store: FakeObjectStore) -> None:
    await write_catalog_object(creator(store), FIRST, MANY)
    await write_catalog_object(creator(store), SECOND, CatalogFacts(basins("other-basin")))
    store.damage(catalog_key(FIRST), store.objects[catalog_key(SECOND)].data)
    facts, damage = await load(store, FIRST)
    assert facts == MANY
    assert damage.items == {catalog_key(FIRST): f"it is object {SECOND}"}


async def test_an_object_of_a_newer_version_is_not_taken_for_damage(
    store: FakeObjectStore,
) -> None:
    await write_catalog_object(creator(store), FIRST, MANY)
    key = catalog_key(FIRST)
    data = store.objects[key].data
    header = bytearray(data[: HEADER.size])
    header[5] = 99
    store.damage(key, bytes(header) + CHECKSUM.pack(checksum(bytes(header))) + data[HEADER_BYTES:])
    with pytest.raises(NewerFormat):
        await load(store, FIRST)


async def test_both_copies_are_written_at_once_and_many_objects_are_read_at_once(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    store.latency = Latency.all(1.0, 1.0)
    ids = [ObjectId(3, number) for number in range(40)]
    for object_id in ids:
        await write_catalog_object(creator(store), object_id, CatalogFacts(basins("test-basin")))
    assert store.log[-1].end == pytest.approx(40)
    await load(store, *ids)
    assert store.log[-1].end == pytest.approx(43)  # sixteen at a time


async def test_a_store_that_stays_away_fails_the_load_with_the_error_itself(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    await write_catalog_object(creator(store), FIRST, MANY)
    store.fail_next(Op.GET, "catalog/", Fault.ERROR_BEFORE, times=10_000)
    with pytest.raises(StorageFailed):
        await load(store, FIRST)


async def test_a_writer_that_finds_the_object_of_a_newer_one_was_fenced(
    store: FakeObjectStore,
) -> None:
    await write_catalog_object(creator(store, epoch=4), FIRST, MANY)
    with pytest.raises(WriterFenced):
        await write_catalog_object(creator(store), FIRST, MANY)
    with pytest.raises(StorageFailed):
        await write_catalog_object(creator(store, epoch=5), FIRST, MANY)
