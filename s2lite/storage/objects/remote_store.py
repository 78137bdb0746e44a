"""An object store over a network: any store of obstore, behind the port.

obstore's asynchronous calls need asyncio; trio-asyncio runs an asyncio loop inside of trio's, so a
request is a task of this thread's, and cancelling the call drops the request and its connection.
(A worker thread could not be interrupted: a server whose store hangs could not even end.)

Nothing is retried here, and obstore is told not to either: what failed is said at once, and callers
go on as they see fit. A put that was cancelled, or failed in any way but a refusal, may have
happened or may happen yet.
"""

import builtins
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import attrs
import obstore
import trio
import trio_asyncio
from obstore.exceptions import GenericError
from obstore.store import ObjectStore as AnyObstore

from s2lite.storage.objects.http_answers import find_answer
from s2lite.storage.objects.object_store import (
    LIST_CHUNK,
    ObjectInfo,
    ObjectNotFound,
    ObjectTooShort,
    StoreUnavailable,
    check_key,
    check_prefix,
    check_range,
    infos_in,
    is_key,
    raised_as_ours,
)

T = TypeVar("T")

RANGE_NOT_SATISFIABLE = 416


@attrs.define(eq=False)
class RemoteObjectStore:
    """An `ObjectStore` over a network. Make it with `open_remote_store`.

    Each call is one request (a range that does not fit, and an empty one, are two; a listing is one
    for every thousand objects), which a cancellation ends. After `open_remote_store` has ended its
    block, calls raise `trio.ClosedResourceError`.
    """

    _objects: AnyObstore
    _loop: trio_asyncio.TrioEventLoop
    _closed: bool = attrs.field(default=False, init=False)

    async def put_new(self, key: str, data: bytes | bytearray) -> None:
        """Create the object if there is none of that key. See `ObjectStore.put_new`."""
        check_key(key)
        # The multipart way that obstore takes for large data by itself knows no conditions.
        await self._request(
            key, obstore.put_async, self._objects, key, data, mode="create", use_multipart=False
        )

    async def get(self, key: str) -> bytes:
        """Read a whole object. See `ObjectStore.get`."""
        check_key(key)
        return await self._request(key, _read_object, self._objects, key)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read exactly `length` bytes from offset `start`. See `ObjectStore.get_range`."""
        check_range(key, start, length)
        return await self._request(key, _read_range, self._objects, key, start, length)

    async def list(self, prefix: str, start_after: str = "") -> builtins.list[ObjectInfo]:
        """List the objects below `prefix`, ascending. See `ObjectStore.list`."""
        check_prefix(prefix)
        return await self._request(prefix, _list_objects, self._objects, prefix, start_after)

    async def delete(self, key: str) -> None:
        """Delete the object; an absent one is fine. See `ObjectStore.delete`."""
        check_key(key)
        with suppress(ObjectNotFound):
            await self._request(key, obstore.delete_async, self._objects, key)

    async def _request(
        self, key: str, call: Callable[..., Awaitable[T]], *arguments: Any, **options: Any
    ) -> T:
        """Run a function of asyncio's world, and raise its errors as the port's."""
        if self._closed:
            raise trio.ClosedResourceError("the object store has been closed")
        with raised_as_ours(key):
            result: T = await trio_asyncio.aio_as_trio(call, loop=self._loop)(*arguments, **options)
        return result


@asynccontextmanager
async def open_remote_store(objects: AnyObstore) -> AsyncIterator[RemoteObjectStore]:
    """Serve calls to one of obstore's stores for as long as the block runs. Makes no request.

    The block must outlive every call of the store: nest the nurseries that make calls inside of it.
    What the block raises comes out as it is.
    """
    failure: Exception | None = None
    async with trio_asyncio.open_loop() as loop:
        store = RemoteObjectStore(objects, loop)
        try:
            yield store
        except Exception as error:
            failure = error  # the nurseries of the loop would wrap it in groups of their own
        finally:
            store._closed = True
    if failure is not None:
        raise failure


# --- in asyncio's world -------------------------------------------------------------------------


async def _read_object(objects: AnyObstore, key: str) -> bytes:
    answer = await obstore.get_async(objects, key)
    return bytes(await answer.bytes_async())


async def _read_range(objects: AnyObstore, key: str, start: int, length: int) -> bytes:
    """Read exactly the range. Stores differ about those that begin or end past the end."""
    if length == 0:
        await _check_size(objects, key, start, length)
        return b""
    try:
        found = await obstore.get_range_async(objects, key, start=start, length=length)
    except GenericError as error:
        if _is_about_the_range(str(error)):
            await _check_size(objects, key, start, length)
        raise
    data = bytes(found)
    if len(data) < length:
        raise ObjectTooShort(key, start, length, start + len(data))
    if len(data) > length:
        raise StoreUnavailable(key, f"it sent {len(data)} bytes where {length} were asked for")
    return data


def _is_about_the_range(text: str) -> bool:
    """Whether a store may have failed because the range is past the object's end."""
    answer = find_answer(text)
    if answer is None:
        return "range" in text.lower()  # it answered, with one that makes no sense
    return answer.status == RANGE_NOT_SATISFIABLE


async def _check_size(objects: AnyObstore, key: str, start: int, length: int) -> None:
    size = (await obstore.head_async(objects, key))["size"]
    if start + length > size:
        raise ObjectTooShort(key, start, length, size)


async def _list_objects(objects: AnyObstore, prefix: str, start_after: str) -> list[ObjectInfo]:
    found: list[ObjectInfo] = []
    # Where the store can, it begins after the cursor itself; `infos_in` looks once more.
    offset = start_after if is_key(start_after) else None
    listing = obstore.list(objects, prefix or None, offset=offset, chunk_size=LIST_CHUNK)
    async for chunk in listing:
        found += infos_in(chunk, start_after)
    return sorted(found, key=lambda info: info.key)
