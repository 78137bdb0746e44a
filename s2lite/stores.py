"""Opens the object store that the settings name: to write to it, or only to look."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from s2lite.settings import BucketStorage, LocalStorage, MemoryStorage, Storage
from s2lite.storage.objects.buckets import open_bucket
from s2lite.storage.objects.local_store import LocalObjectStore
from s2lite.storage.objects.object_store import MemoryObjectStore, ObjectStore
from s2lite.storage.objects.read_only import ReadOnlyStore, UnlockedDirectory


@asynccontextmanager
async def open_store(storage: Storage) -> AsyncIterator[ObjectStore]:
    """The object store of these settings. Raises `StorageError` if it cannot be had."""
    match storage:
        case MemoryStorage():
            yield MemoryObjectStore()
        case LocalStorage(root):
            async with LocalObjectStore.open(root) as local:
                yield local
        case BucketStorage(bucket, path, provider):
            async with open_bucket(provider, bucket, path) as remote:
                yield remote


@asynccontextmanager
async def open_for_reading(storage: Storage) -> AsyncIterator[ObjectStore]:
    """The same store, refusing to be written to; a server may have it open meanwhile.

    Raises as `open_store` does, and `StoreRefused` if the directory does not exist.
    """
    if isinstance(storage, LocalStorage):
        yield ReadOnlyStore(UnlockedDirectory.open(storage.root))
        return
    async with open_store(storage) as store:
        yield ReadOnlyStore(store)
