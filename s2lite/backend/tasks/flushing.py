"""Flushes the memtable when it is full, when it is old, and at the end."""

from collections.abc import Callable

import attrs
import trio

from actors import Actor, ActorRef, Reply
from s2lite.backend.tasks.alarm import Alarm
from s2lite.storage.current_manifest import CurrentManifest
from s2lite.storage.flush import flush
from s2lite.storage.layout import Layout
from s2lite.storage.memtable import Memtable
from s2lite.storage.retention import Retention
from s2lite.storage.slices import free_in_slices, gathered_in_slices

FLUSH_AGE_SECONDS = 300.0
"""How long a batch stays in the WAL alone: a quiet server must not have to replay it for ever."""


@attrs.frozen(eq=False)
class FlushAll:
    """Flush what there is; answered when it is in force."""

    reply: Reply[None]


@attrs.define(eq=False)
class FlushActor(Actor[FlushAll]):
    """The one that flushes. If it fails, what is in force is in doubt: the process has to end.

    Raises what `flush` does. `on_flushed` is told after each flush that there is room again.
    """

    memtable: Memtable
    manifest: CurrentManifest
    retention: Retention
    layout: Layout
    on_flushed: Callable[[], None]
    _alarm: Alarm = attrs.field(init=False)
    _old_at: float | None = None
    """When what is in the active table is old, by trio's clock."""

    async def started(self) -> None:
        """Be woken from now on whenever there may be something to do."""
        self._alarm = Alarm(self.context)
        self.memtable.on_pending = self.context.ref.wake
        self.context.ref.wake()

    async def woken(self) -> None:
        """Flush if it is time."""
        while self._is_due:
            await self._flush()
        if self._old_at is None and not self.memtable.active.is_empty:
            self._old_at = trio.current_time() + FLUSH_AGE_SECONDS
            self._alarm.set(self._old_at)

    async def receive(self, message: FlushAll) -> None:
        """Flush what there is, but for a WAL object that is being applied."""
        if self.memtable.whole and not self.memtable.active.is_empty:
            await self._flush()
        message.reply.set(None)

    @property
    def _is_due(self) -> bool:
        memtable = self.memtable
        is_old = self._old_at is not None and trio.current_time() >= self._old_at
        return memtable.flush_due or (is_old and memtable.whole)

    async def _flush(self) -> None:
        self._alarm.clear()
        self._old_at = None
        table = self.memtable.freeze()
        pieces = await gathered_in_slices(table.pieces())
        await flush(table, self.manifest, self.retention, self.layout)
        self.memtable.release()
        del table
        self.on_flushed()
        await free_in_slices(pieces)


@attrs.frozen(eq=False)
class FlushClient:
    """What the rest of the server sees of it."""

    ref: ActorRef[FlushAll]

    async def flush_all(self) -> None:
        """Flush what there is: for an orderly end, when nothing is being written any more.

        On return the next start has nothing to replay. A flush that is under way ends first. When
        this is cancelled the flush goes on. Raises `ActorCrashed` if flushing failed.
        """
        await self.ref.ask(FlushAll)
