"""Finishes deletions: removes deleted streams, and deleted basins once they have no stream left.

What is to be done is read off the durable catalog each time, so nothing is lost by a crash or a
missed signal: on start, on every kick and every now and then the actor does all there is to do.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

import attrs
import trio

from actors import Actor, ActorRef
from s2lite.backend.catalog import Catalog
from s2lite.backend.catalog_actor import CatalogClient
from s2lite.backend.stream_handle import StreamRegistry, delete_through
from s2lite.core import provisioning
from s2lite.model.log import StreamId, StreamRecord
from s2lite.model.names import BasinName
from s2lite.model.resources import ListRequest

RECHECK_SECONDS = 60.0
"""A deletion whose client went away before it was durable has kicked nobody; this finds it."""

STREAMS_AT_ONCE: Final = 16
"""So many streams are deleted, or removed, at a time: they share writes."""

STREAMS_LISTED: Final = 100
"""So many streams of a basin are looked up at a time: it may have very many."""

T = TypeVar("T")


@attrs.define(eq=False)
class DeletionActor(Actor[None]):
    """Works off pending deletions. Takes no messages: it is woken."""

    catalog: Catalog
    catalog_client: CatalogClient
    streams: StreamRegistry

    async def started(self) -> None:
        """Take up what an earlier run left."""
        self.context.start_soon(self._look_now_and_then)

    async def woken(self) -> None:
        """Do all there is to do: basins first, because they mark their streams deleted."""
        for name in self.catalog.deleted_basins():
            await self._delete_streams_of(name)
        await _for_each(self.catalog.deleted_streams(), self._remove_stream)
        for name in self.catalog.deleted_basins():
            await self._remove_basin(name)

    async def _look_now_and_then(self) -> None:
        while True:
            self.context.ref.wake()
            await trio.sleep(RECHECK_SECONDS)

    async def _delete_streams_of(self, basin: BasinName) -> None:
        request = ListRequest(limit=STREAMS_LISTED)
        while True:
            page = self.catalog.list_streams(basin, request)
            await _for_each(page.items, self._delete_stream)
            if not page.has_more:
                return
            request = attrs.evolve(request, start_after=page.items[-1].name)

    async def _delete_stream(self, record: StreamRecord) -> None:
        if record.deleted_at_ms is None:
            await delete_through(self.streams, record.stream_id)

    async def _remove_stream(self, stream_id: StreamId) -> None:
        await self.streams.stop_key(stream_id)
        entry = self.catalog.stream_by_id(stream_id)
        if entry is not None:
            record = entry.record
            await self.catalog_client.mutate(lambda view: provisioning.remove_stream(view, record))

    async def _remove_basin(self, name: BasinName) -> None:
        await self.catalog_client.mutate(lambda view: provisioning.remove_basin(view, name))


async def _for_each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do the work for all items, `STREAMS_AT_ONCE` of them at a time."""
    queue = iter(items)

    async def work_off() -> None:
        for item in queue:
            await work(item)

    async with trio.open_nursery() as nursery:
        for _ in range(STREAMS_AT_ONCE):
            nursery.start_soon(work_off)


@attrs.frozen(eq=False)
class DeletionClient:
    """What the rest of the server sees of it."""

    ref: ActorRef[None]

    def kick(self) -> None:
        """There is something to do. Never waits."""
        self.ref.wake()
