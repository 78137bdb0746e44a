"""An object store that counts what is asked of another one."""

import builtins

import attrs

from s2lite.storage.objects.object_store import ObjectInfo, ObjectStore


@attrs.define(eq=False)
class StoreCounts:
    """How many calls of each kind were made, and how many bytes went each way.

    A call counts when it is made, whatever comes of it, because a bucket is paid for that. Bytes
    that are put count with the call, bytes that are got when they are there.
    """

    puts: int = 0
    put_bytes: int = 0
    gets: int = 0
    get_bytes: int = 0
    lists: int = 0
    deletes: int = 0

    @property
    def calls(self) -> int:
        """All calls, of whichever kind."""
        return self.puts + self.gets + self.lists + self.deletes


@attrs.frozen(eq=False)
class MeteredObjectStore:
    """An `ObjectStore` that passes everything on to `inner`, and keeps `counts`."""

    inner: ObjectStore
    counts: StoreCounts = attrs.field(factory=StoreCounts)

    async def put_new(self, key: str, data: bytes | bytearray) -> None:
        """Create the object if there is none of that key. See `ObjectStore.put_new`."""
        self.counts.puts += 1
        self.counts.put_bytes += len(data)
        await self.inner.put_new(key, data)

    async def get(self, key: str) -> bytes:
        """Read a whole object. See `ObjectStore.get`."""
        self.counts.gets += 1
        data = await self.inner.get(key)
        self.counts.get_bytes += len(data)
        return data

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read exactly `length` bytes from offset `start`. See `ObjectStore.get_range`."""
        self.counts.gets += 1
        data = await self.inner.get_range(key, start, length)
        self.counts.get_bytes += len(data)
        return data

    async def list(self, prefix: str, start_after: str = "") -> builtins.list[ObjectInfo]:
        """List the objects below `prefix`, ascending. See `ObjectStore.list`."""
        self.counts.lists += 1
        return await self.inner.list(prefix, start_after)

    async def delete(self, key: str) -> None:
        """Delete the object; an absent one is fine. See `ObjectStore.delete`."""
        self.counts.deletes += 1
        await self.inner.delete(key)
