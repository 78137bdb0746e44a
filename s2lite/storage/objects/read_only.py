"""Object stores that can only be looked at, for tools that run beside a server."""

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import attrs
import trio
from obstore.store import LocalStore

from s2lite.storage.objects.object_store import (
    ObjectInfo,
    ObjectStore,
    StoreRefused,
    check_key,
    check_prefix,
    check_range,
    list_objects,
    read_object,
    read_range,
)

T = TypeVar("T")


@attrs.frozen(eq=False)
class ReadOnlyStore:
    """Another store, without its writes: those raise `StoreRefused`."""

    _store: ObjectStore

    async def put_new(self, key: str, data: bytes | bytearray) -> None:
        """Raise `StoreRefused`."""
        _refuse(key)

    async def get(self, key: str) -> bytes:
        """Read a whole object. See `ObjectStore.get`."""
        return await self._store.get(key)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read exactly `length` bytes from offset `start`. See `ObjectStore.get_range`."""
        return await self._store.get_range(key, start, length)

    async def list(self, prefix: str, start_after: str = "") -> builtins.list[ObjectInfo]:
        """List the objects below `prefix`, ascending. See `ObjectStore.list`."""
        return await self._store.list(prefix, start_after)

    async def delete(self, key: str) -> None:
        """Raise `StoreRefused`."""
        _refuse(key)


@attrs.frozen(eq=False)
class UnlockedDirectory:
    """The directory of a local store, read without its lock: beside the server that holds that.

    What it shows may be on disk only a moment later, so nothing may be decided by it. Calls run in
    worker threads. Writes raise `StoreRefused`.
    """

    _objects: LocalStore

    @classmethod
    def open(cls, root: Path) -> "UnlockedDirectory":
        """Raises `StoreRefused` if there is no such directory; it is not created."""
        if not root.is_dir():
            raise StoreRefused(str(root), "there is no such directory")
        return cls(LocalStore(root))

    async def put_new(self, key: str, data: bytes | bytearray) -> None:
        """Raise `StoreRefused`."""
        _refuse(key)

    async def get(self, key: str) -> bytes:
        """Read a whole object. See `ObjectStore.get`."""
        check_key(key)
        return await self._in_thread(read_object, key)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read exactly `length` bytes from offset `start`. See `ObjectStore.get_range`."""
        check_range(key, start, length)
        return await self._in_thread(read_range, key, start, length)

    async def list(self, prefix: str, start_after: str = "") -> builtins.list[ObjectInfo]:
        """List the objects below `prefix`, ascending. See `ObjectStore.list`."""
        check_prefix(prefix)
        return await self._in_thread(list_objects, prefix, start_after)

    async def delete(self, key: str) -> None:
        """Raise `StoreRefused`."""
        _refuse(key)

    async def _in_thread(self, read: Callable[..., T], *arguments: Any) -> T:
        result: T = await trio.to_thread.run_sync(read, self._objects, *arguments)
        return result


def _refuse(key: str) -> NoReturn:
    raise StoreRefused(key, "it was opened for reading only")
