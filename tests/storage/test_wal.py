"""Writing WAL objects and fences, and reading them back."""

from random import Random

import pytest

from s2lite.codec.envelope import ObjectKind, WriterIdentity
from s2lite.model.errors import CorruptObject, StorageError, StorageFailed, WriterFenced
from s2lite.model.log import AppendEntry, BasinRemoved, StreamId
from s2lite.model.names import BasinName
from s2lite.model.records import SequencedBatch
from s2lite.storage.creation import NumberTaken, ObjectCreator
from s2lite.storage.objects.object_store import ObjectNotFound
from s2lite.storage.wal import read_wal, wal_key, write_fence, write_wal
from tests.fakes.object_store import FakeObjectStore

ID = StreamId(b"s" * 16)
BASIN = BasinName("test-basin")


@pytest.fixture
def store() -> FakeObjectStore:
    return FakeObjectStore(Random(1))


def writer(store: FakeObjectStore, epoch: int) -> ObjectCreator:
    return ObjectCreator(store, WriterIdentity(epoch, bytes([epoch]) * 16), Random(epoch))


def batches(*payloads: bytes) -> list[AppendEntry]:
    return [
        AppendEntry(ID, SequencedBatch(number, 1, 0, 0, 8, payload))
        for number, payload in enumerate(payloads)
    ]


async def test_what_was_written_is_read_back(store: FakeObjectStore) -> None:
    await write_wal(writer(store, 1), 5, [*batches(b"one", b"two"), BasinRemoved(BASIN)])
    header, entries = await read_wal(store, 5)
    assert (header.kind, header.number, header.writer.epoch) == (ObjectKind.WAL, 5, 1)
    payloads = [each.batch.payload for each in entries if isinstance(each, AppendEntry)]
    assert payloads == [b"one", b"two"]
    assert entries[2] == BasinRemoved(BASIN)


async def test_an_object_under_the_key_of_another_is_damage(store: FakeObjectStore) -> None:
    await write_wal(writer(store, 1), 5, batches(b"one"))
    await store.put_new(wal_key(6), store.objects[wal_key(5)].data)
    with pytest.raises(CorruptObject, match="it is number 5") as caught:
        await read_wal(store, 6)
    assert caught.value.key == wal_key(6)


async def test_a_number_that_was_never_written_is_not_found(store: FakeObjectStore) -> None:
    with pytest.raises(ObjectNotFound):
        await read_wal(store, 5)


async def test_a_fence_has_no_entries(store: FakeObjectStore) -> None:
    await write_fence(writer(store, 1), 5)
    header, entries = await read_wal(store, 5)
    assert (header.kind, entries) == (ObjectKind.FENCE, [])


@pytest.mark.parametrize(
    ("owner", "error"), [(2, WriterFenced), (1, StorageFailed), (3, WriterFenced)]
)
async def test_a_write_to_a_number_that_is_taken_says_by_whom(
    store: FakeObjectStore, owner: int, error: type[StorageError]
) -> None:
    await write_fence(writer(store, owner), 5)
    late = writer(store, 1)
    with pytest.raises(error):
        await write_wal(ObjectCreator(store, late.writer, Random(99)), 5, batches(b"one"))


async def test_a_fence_on_a_number_that_is_taken_says_whose_it_is(store: FakeObjectStore) -> None:
    await write_wal(writer(store, 1), 5, batches(b"one"))
    with pytest.raises(NumberTaken) as caught:
        await write_fence(writer(store, 2), 5)
    assert caught.value.header.writer.epoch == 1
    assert "epoch 1" in str(caught.value)
