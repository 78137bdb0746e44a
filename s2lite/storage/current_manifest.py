"""The manifest in force, and the one way to change it.

Theory of operation. Flushes, compactions and the collector all change the manifest; each change is
an edit of the newest one, applied under a lock and written as the next number. An edit is in force
when the write is known to be ours *and* ownership of the path is confirmed: a number that was used
and collected long ago can be created again by a writer that slept through all of it.

A commit that was cancelled may have been written, or be written yet. The next commit finds out: it
wants the same number. If that is taken by this very writer, the earlier edit is in force, and the
new one is applied on top of it.
"""

from collections.abc import Callable

import attrs
import trio

from s2lite.model.manifest import Manifest, ObjectId
from s2lite.storage.creation import NumberTaken, ObjectCreator
from s2lite.storage.manifest import manifest_key, read_manifest, write_manifest
from s2lite.storage.ownership import Ownership
from s2lite.storage.retry import retrying

Edit = Callable[[Manifest], Manifest]
Observer = Callable[[Manifest, Manifest], None]
"""Told the manifest before and the one that took its place. Must not block or raise."""


def _tell_nobody(previous: Manifest, new: Manifest) -> None:
    pass


@attrs.define(eq=False)
class CurrentManifest:
    """What exists. `value` changes only in `commit`, at once when a commit is in force.

    `previous` is the manifest before it, which stays usable as a copy: nothing it names is deleted.
    `on_commit` is told of every change, right after it.
    """

    creator: ObjectCreator
    ownership: Ownership
    number: int
    value: Manifest
    previous: Manifest
    on_commit: Observer = _tell_nobody
    _objects: int = 0
    _lock: trio.Lock = attrs.field(factory=trio.Lock)

    def new_object_id(self) -> ObjectId:
        """An id for a new segment or catalog object."""
        self._objects += 1
        return ObjectId(self.creator.writer.epoch, self._objects)

    async def commit(self, edit: Edit) -> None:
        """Put the manifest that `edit` makes of the one in force in its place; durable on return.

        Raises `WriterFenced` if another process has taken over, and `StorageFailed`. After that, or
        when cancelled, the edit may or may not be in force: for this process the next commit tells.
        """
        async with self._lock:
            while not await self._try(edit(self.value)):
                pass

    async def _try(self, edited: Manifest) -> bool:
        """Write it and put it in force; or else find that an earlier one in doubt is in force."""
        started, number = self.ownership.now(), self.number + 1
        earlier: Manifest | None = None
        try:
            await write_manifest(self.creator, number, edited)
        except NumberTaken as taken:
            if taken.header.writer != self.creator.writer:
                raise
            earlier = await self._read(number)
        await self.ownership.ensure_writes_proven()
        if earlier is None:
            self.ownership.proved(started)  # the earlier one began some other time
        self.number = number
        self.previous, self.value = self.value, earlier or edited
        self.on_commit(self.previous, self.value)
        return earlier is None

    async def _read(self, number: int) -> Manifest:
        store, rng = self.creator.store, self.creator.rng
        stored = await retrying(manifest_key(number), lambda: read_manifest(store, number), rng)
        return stored.manifest
