"""Runs the collector of garbage: when something is old enough to go, and else not at all."""

import logging
from collections.abc import Iterable

import attrs
import trio

from actors import Actor, ActorRef
from s2lite.backend.tasks.alarm import Alarm
from s2lite.model.errors import StorageFailed
from s2lite.model.manifest import Manifest
from s2lite.storage.collection import Collector

_log = logging.getLogger("s2lite.backend")


@attrs.define(eq=False)
class CollectionActor(Actor[None]):
    """Does the rounds of the collector, which outlives it. Takes no messages: it is woken.

    With nothing to wait for it has no timer, and so an idle server makes no requests.
    """

    collector: Collector
    _alarm: Alarm = attrs.field(init=False)

    async def started(self) -> None:
        """Look around."""
        self._alarm = Alarm(self.context)
        self.context.ref.wake()

    async def woken(self) -> None:
        """Do a round if one is due, and see to it that the next one is done when it is."""
        try:
            await self.collector.collect()
        except StorageFailed as error:
            # Nothing depends on it; if the store is gone for good, others will find out.
            _log.warning("garbage was not collected, and will be later: %s", error)
            self.collector.rest()
        seconds = self.collector.due_in_seconds()
        if seconds is None:
            self._alarm.clear()
        else:
            self._alarm.set(trio.current_time() + seconds)


@attrs.frozen(eq=False)
class CollectionClient:
    """What the rest of the server sees of it. Nothing here waits."""

    ref: ActorRef[None]
    collector: Collector

    def committed(self, previous: Manifest, new: Manifest) -> None:
        """A manifest is in force. To be made the `on_commit` of the `CurrentManifest`."""
        self.collector.committed(previous, new)
        self.ref.wake()

    def abandoned(self, keys: Iterable[str]) -> None:
        """Segments or catalog objects were made and will not be used; see `Collector.abandoned`."""
        self.collector.abandoned(keys)
        self.ref.wake()
