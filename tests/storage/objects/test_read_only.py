"""Stores that can only be looked at."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from s2lite.settings import LocalStorage, MemoryStorage
from s2lite.storage.objects.local_store import LocalObjectStore
from s2lite.storage.objects.object_store import (
    ObjectNotFound,
    ObjectStore,
    ObjectTooShort,
    StoreRefused,
)
from s2lite.storage.objects.read_only import UnlockedDirectory
from s2lite.stores import open_for_reading


@pytest.fixture
async def reader(tmp_path: Path) -> AsyncIterator[ObjectStore]:
    """A look at a directory that another store has open."""
    async with LocalObjectStore.open(tmp_path) as writer:
        await writer.put_new("wal/1", b"first")
        await writer.put_new("wal/2", b"second")
        async with open_for_reading(LocalStorage(tmp_path)) as reader:
            yield reader


async def test_a_locked_directory_can_be_read(reader: ObjectStore) -> None:
    assert [info.key for info in await reader.list("wal/")] == ["wal/1", "wal/2"]
    assert [info.key for info in await reader.list("", "wal/1")] == ["wal/2"]
    assert await reader.get("wal/1") == b"first"
    assert await reader.get_range("wal/2", 1, 3) == b"eco"
    with pytest.raises(ObjectTooShort):
        await reader.get_range("wal/2", 1, 30)
    with pytest.raises(ObjectNotFound):
        await reader.get("wal/3")


async def test_it_cannot_be_written_to(reader: ObjectStore, tmp_path: Path) -> None:
    for write in (reader.put_new("wal/3", b""), reader.delete("wal/1")):
        with pytest.raises(StoreRefused, match="reading only"):
            await write
    directory = UnlockedDirectory.open(tmp_path)
    for write in (directory.put_new("wal/3", b""), directory.delete("wal/1")):
        with pytest.raises(StoreRefused, match="reading only"):
            await write
    assert [info.key for info in await reader.list("")] == ["wal/1", "wal/2"]


async def test_every_kind_of_store_can_be_opened_for_reading() -> None:
    async with open_for_reading(MemoryStorage()) as store:
        assert await store.list("") == []
        with pytest.raises(StoreRefused):
            await store.put_new("wal/1", b"")


async def test_a_directory_that_does_not_exist_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="no such directory"):
        async with open_for_reading(LocalStorage(tmp_path / "absent")):
            pass
    assert not (tmp_path / "absent").exists()
