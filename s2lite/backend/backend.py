"""The one object that handlers call: basins, streams, and handles to a stream's records."""

import enum
import random

import attrs

from actors import ActorError
from actors.clock import Clock
from s2lite.backend.catalog import Catalog, StreamEntry
from s2lite.backend.catalog_actor import CatalogClient, Decide
from s2lite.backend.read_session import ReadContext
from s2lite.backend.storage_actor import StorageStatus
from s2lite.backend.stream_handle import AppendPath, FollowThrough, StreamHandle, delete_through
from s2lite.backend.tasks.deletion import DeletionClient
from s2lite.core import provisioning
from s2lite.core.provisioning import NewStream, T, basin_info, stream_info
from s2lite.model.config import (
    BasinConfig,
    BasinReconfiguration,
    StreamConfig,
    StreamConfigLayer,
    StreamReconfiguration,
)
from s2lite.model.errors import (
    BasinNotFound,
    OutcomeUnknown,
    StorageError,
    StreamDeletionPending,
    StreamNotFound,
)
from s2lite.model.log import STREAM_ID_BYTES, StreamId
from s2lite.model.names import BasinName, StreamName
from s2lite.model.resources import (
    BasinInfo,
    ListRequest,
    Page,
    Provisioned,
    StreamInfo,
)
from s2lite.storage.damage import Damage
from s2lite.storage.ownership import Ownership
from s2lite.storage.reader import LogReader


class Purpose(enum.Enum):
    """What a stream is opened for; it decides which flag of the basin governs auto-creation."""

    APPEND = "append"
    READ = "read"


@attrs.frozen(eq=False)
class Backend:
    """Basin and stream operations. Every change is durable when its method returns.

    What only reads shows durable state, as current as this process can prove it to be: that takes a
    request to the store at times, if other processes can write there. The same goes for refusals.
    Any method may raise `StorageError`: the store has failed, or another writer has taken over.
    """

    catalog: Catalog
    catalog_client: CatalogClient
    deletion: DeletionClient
    path: AppendPath
    log: LogReader
    storage_status: StorageStatus
    damage: Damage
    ownership: Ownership
    clock: Clock
    rng: random.Random

    def health(self) -> StorageError | None:
        """Why this server cannot serve, or None if it can."""
        return self.storage_status.failure

    # --- basins -------------------------------------------------------------------------------

    async def create_basin(
        self, name: BasinName, config: BasinConfig, request_token: str | None
    ) -> Provisioned[BasinInfo]:
        """Create a basin; a replay with the same token and config finds the one it created.

        Raises `BasinExists` and `BasinDeletionPending`.
        """
        now_ms = self.clock.now_ms()
        return await self._mutate(
            lambda view: provisioning.create_basin(view, name, config, request_token, now_ms)
        )

    async def ensure_basin(self, name: BasinName, config: BasinConfig) -> Provisioned[BasinInfo]:
        """Make the basin exist with exactly this config. Raises `BasinDeletionPending`."""
        now_ms = self.clock.now_ms()
        return await self._mutate(
            lambda view: provisioning.ensure_basin(view, name, config, now_ms)
        )

    async def reconfigure_basin(self, name: BasinName, change: BasinReconfiguration) -> BasinConfig:
        """Change a basin's config, and return all of it.

        Raises `BasinNotFound` and `BasinDeletionPending`.
        """
        return await self._mutate(
            lambda view: provisioning.reconfigure_basin_config(view, name, change)
        )

    async def delete_basin(self, name: BasinName) -> None:
        """Mark a basin for deletion; its streams and then it itself go in the background.

        Raises `BasinNotFound`.
        """
        now_ms = self.clock.now_ms()
        await self._mutate(lambda view: provisioning.delete_basin(view, name, now_ms))
        self.deletion.kick()

    async def basin_config(self, name: BasinName) -> BasinConfig:
        """A basin's config, deletion pending or not. Raises `BasinNotFound`."""
        await self.ownership.ensure_current()
        return self._basin_config(name)

    async def list_basins(self, request: ListRequest) -> Page[BasinInfo]:
        """A page of basins by name."""
        await self.ownership.ensure_current()
        page = self.catalog.list_basins(request)
        return Page(tuple(map(basin_info, page.items)), page.has_more)

    # --- streams ------------------------------------------------------------------------------

    async def create_stream(
        self,
        basin: BasinName,
        name: StreamName,
        config: StreamConfigLayer,
        request_token: str | None,
    ) -> Provisioned[StreamInfo]:
        """Create a stream; a replay with the same token and config finds the one it created.

        Raises `BasinNotFound`, `BasinDeletionPending`, `StreamDeletionPending`, `StreamExists`.
        """
        new = self._new_stream()
        return await self._mutate(
            lambda view: provisioning.create_stream(view, basin, name, config, request_token, new)
        )

    async def ensure_stream(
        self, basin: BasinName, name: StreamName, config: StreamConfigLayer
    ) -> Provisioned[StreamInfo]:
        """Make the stream exist with exactly this config over the basin's defaults.

        Raises `BasinNotFound`, `BasinDeletionPending`, `StreamDeletionPending`.
        """
        new = self._new_stream()
        return await self._mutate(
            lambda view: provisioning.ensure_stream(view, basin, name, config, new)
        )

    async def reconfigure_stream(
        self, basin: BasinName, name: StreamName, change: StreamReconfiguration
    ) -> StreamConfig:
        """Change a stream's config, and return all of it; the next append obeys it.

        Raises `BasinNotFound`, `BasinDeletionPending`, `StreamNotFound`, `StreamDeletionPending`.
        """
        return await self._mutate(
            lambda view: provisioning.reconfigure_stream_config(view, basin, name, change)
        )

    async def delete_stream(self, basin: BasinName, name: StreamName) -> None:
        """Mark a stream deleted, after every append it has accepted; its records go later.

        Once more is no error. Raises `StreamNotFound`.
        """
        await self.ownership.ensure_current()
        entry = self._stream(basin, name)
        if entry.record.deleted_at_ms is None:
            await delete_through(self.path.streams, entry.record.stream_id)
        self.deletion.kick()

    async def stream_config(self, basin: BasinName, name: StreamName) -> StreamConfig:
        """A stream's config. Raises `StreamNotFound` and `StreamDeletionPending`."""
        await self.ownership.ensure_current()
        return self._live_stream(basin, name).record.config

    async def list_streams(self, basin: BasinName, request: ListRequest) -> Page[StreamInfo]:
        """A page of a basin's streams by name; an unknown basin has none."""
        await self.ownership.ensure_current()
        page = self.catalog.list_streams(basin, request)
        return Page(tuple(map(stream_info, page.items)), page.has_more)

    # --- records ------------------------------------------------------------------------------

    async def open_stream(
        self,
        basin: BasinName,
        name: StreamName,
        purpose: Purpose,
        config: StreamConfigLayer | None = None,
    ) -> StreamHandle:
        """Find a stream, or create it if the basin says so for this purpose.

        `config` goes before the basin's defaults if the stream is created, and else has no effect.
        Raises `BasinNotFound`, `StreamNotFound`, `BasinDeletionPending`, `StreamDeletionPending`.
        """
        try:
            if self.catalog.stream(basin, name) is None:
                await self._auto_create(basin, name, purpose, config or StreamConfigLayer())
            entry = self._live_stream(basin, name)
        except (BasinNotFound, StreamNotFound, StreamDeletionPending):
            # Only now: an append to a stream that is there need not ask, its ack proves enough.
            await self.ownership.ensure_current()
            raise
        follow = FollowThrough(self.path.streams, entry.record.stream_id)
        context = ReadContext(entry, self.log, self.ownership, follow, self.clock, self.rng)
        return StreamHandle(context, self.path)

    async def _auto_create(
        self, basin: BasinName, name: StreamName, purpose: Purpose, config: StreamConfigLayer
    ) -> None:
        basin_config = self._basin_config(basin)
        allowed = (
            basin_config.create_stream_on_append
            if purpose is Purpose.APPEND
            else basin_config.create_stream_on_read
        )
        if not allowed:
            raise StreamNotFound(basin, name)
        new = self._new_stream()
        await self._mutate(
            lambda view: provisioning.auto_create_stream(view, basin, name, config, new)
        )

    def _basin_config(self, name: BasinName) -> BasinConfig:
        record = self.catalog.basin(name)
        if record is None:
            raise BasinNotFound(name)
        return record.config

    def _stream(self, basin: BasinName, name: StreamName) -> StreamEntry:
        entry = self.catalog.stream(basin, name)
        if entry is None:
            raise StreamNotFound(basin, name)
        return entry

    def _live_stream(self, basin: BasinName, name: StreamName) -> StreamEntry:
        entry = self._stream(basin, name)
        if entry.record.deleted_at_ms is not None:
            raise StreamDeletionPending(basin, name)
        return entry

    def _new_stream(self) -> NewStream:
        stream_id = StreamId(self.rng.randbytes(STREAM_ID_BYTES))
        return NewStream(stream_id, self.clock.now_ms())

    async def _mutate(self, decide: Decide[T]) -> T:
        # What changes something proves itself, but a refusal, or a replay's answer, does not.
        await self.ownership.ensure_current()
        try:
            return await self.catalog_client.mutate(decide)
        except ActorError as error:
            raise self.storage_status.failure or OutcomeUnknown(str(error)) from error
