"""What is asked of a store is counted, also what it refuses."""

from random import Random

import pytest

from s2lite.storage.objects.metered_store import MeteredObjectStore
from s2lite.storage.objects.object_store import (
    MemoryObjectStore,
    ObjectExists,
    ObjectNotFound,
    StoreUnavailable,
)
from tests.fakes.object_store import FakeObjectStore, Fault, Op


async def test_calls_are_counted_by_their_kind_and_bytes_by_their_way() -> None:
    store = MeteredObjectStore(MemoryObjectStore())

    await store.put_new("a", b"12345")
    await store.put_new("b", b"")
    assert await store.get("a") == b"12345"
    assert await store.get_range("a", 1, 2) == b"23"
    assert [info.key for info in await store.list("")] == ["a", "b"]
    await store.delete("a")

    counts = store.counts
    assert (counts.puts, counts.put_bytes) == (2, 5)
    assert (counts.gets, counts.get_bytes) == (2, 7)
    assert (counts.lists, counts.deletes, counts.calls) == (1, 1, 6)


async def test_calls_that_fail_count_as_well() -> None:
    inner = FakeObjectStore(Random(1))
    inner.fail_next(Op.DELETE, "", Fault.ERROR_BEFORE)
    store = MeteredObjectStore(inner)

    await store.put_new("a", b"12")
    with pytest.raises(ObjectExists):
        await store.put_new("a", b"34")
    with pytest.raises(ObjectNotFound):
        await store.get("b")
    with pytest.raises(StoreUnavailable):
        await store.delete("a")

    counts = store.counts
    assert (counts.puts, counts.put_bytes) == (2, 4)
    assert (counts.gets, counts.get_bytes, counts.deletes) == (1, 0, 1)
