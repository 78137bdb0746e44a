"""Finishes deletions: removes deleted streams, and deleted basins once they have no stream left.

What is to be done is read off the durable catalog each time, so nothing is lost by a crash or a
missed signal: on start, on every kick and every now and then the actor does all there is to do.
"""

import attrs
import trio

from actors import Actor, ActorRef
from s2lite.backend.catalog import Catalog
from s2lite.backend.catalog_actor import CatalogClient
from s2lite.backend.stream_handle import StreamRegistry, delete_through
from s2lite.core import provisioning
from s2lite.model.log import StreamId
from s2lite.model.names import BasinName

RECHECK_SECONDS = 60.0
"""A deletion whose client went away before it was durable has kicked nobody; this finds it."""


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
        for stream_id in self.catalog.deleted_streams():
            await self._remove_stream(stream_id)
        for name in self.catalog.deleted_basins():
            await self._remove_basin(name)

    async def _look_now_and_then(self) -> None:
        while True:
            self.context.ref.wake()
            await trio.sleep(RECHECK_SECONDS)

    async def _delete_streams_of(self, basin: BasinName) -> None:
        for entry in self.catalog.streams_of(basin):
            if entry.record.deleted_at_ms is None:
                await delete_through(self.streams, entry.record.stream_id)

    async def _remove_stream(self, stream_id: StreamId) -> None:
        await self.streams.stop_key(stream_id)
        entry = self.catalog.stream_by_id(stream_id)
        if entry is not None:
            record = entry.record
            await self.catalog_client.mutate(lambda view: provisioning.remove_stream(view, record))

    async def _remove_basin(self, name: BasinName) -> None:
        await self.catalog_client.mutate(lambda view: provisioning.remove_basin(view, name))


@attrs.frozen(eq=False)
class DeletionClient:
    """What the rest of the server sees of it."""

    ref: ActorRef[None]

    def kick(self) -> None:
        """There is something to do. Never waits."""
        self.ref.wake()
