"""Reads many objects ahead of their use, in the order in which they are used."""

import random
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from s2lite.storage.objects.object_store import ObjectNotFound, ObjectStore
from s2lite.storage.retry import retrying

FETCHES_AHEAD: Final = 16
FETCHED_BYTES_AHEAD: Final = 64 * 1024 * 1024


@attrs.frozen
class Wanted:
    """What to read: an object, or only `part` (start and length) of it, and how big it may be."""

    key: str
    size_bytes: int = 0
    part: tuple[int, int] | None = None


@attrs.define(eq=False)
class Fetched:
    """What was read; `data` is None if there is no object of that key."""

    wanted: Wanted
    data: bytes | None = None
    _error: Exception | None = None
    _done: trio.Event = attrs.field(factory=trio.Event)

    async def fetch(self, store: ObjectStore, rng: random.Random) -> None:
        """Read it; what goes wrong is raised to whoever waits for it."""
        key, part = self.wanted.key, self.wanted.part
        try:
            if part is None:
                self.data = await retrying(key, lambda: store.get(key), rng)
            else:
                self.data = await retrying(key, lambda: store.get_range(key, *part), rng)
        except ObjectNotFound:
            pass
        except Exception as error:
            self._error = error
        self._done.set()

    async def wait(self) -> None:
        """Return when it was read. Raises `StorageFailed` if it cannot be, and `ObjectTooShort`."""
        await self._done.wait()
        if self._error is not None:
            raise self._error


@attrs.define(eq=False)
class Fetching:
    """Objects that are being read; `next` gives them in order."""

    store: ObjectStore
    rng: random.Random
    nursery: trio.Nursery
    _wanted: Iterator[Wanted]
    _ahead: deque[Fetched] = attrs.field(factory=deque)
    _ahead_bytes: int = 0
    _upcoming: Wanted | None = None

    async def next(self) -> Fetched | None:
        """The next object, or None after the last.

        Raises `StorageFailed` and `ObjectTooShort` if it cannot be read; the one after it may be.
        """
        self._fill()
        if not self._ahead:
            return None
        fetched = self._ahead.popleft()
        try:
            await fetched.wait()
        finally:
            self._ahead_bytes -= fetched.wanted.size_bytes
        self._fill()
        return fetched

    def _fill(self) -> None:
        while len(self._ahead) < FETCHES_AHEAD:
            self._upcoming = wanted = self._upcoming or next(self._wanted, None)
            if wanted is None or not self._fits(wanted):
                return
            self._upcoming = None
            fetched = Fetched(wanted)
            self._ahead.append(fetched)
            self._ahead_bytes += wanted.size_bytes
            self.nursery.start_soon(fetched.fetch, self.store, self.rng)

    def _fits(self, wanted: Wanted) -> bool:
        return not self._ahead or self._ahead_bytes + wanted.size_bytes <= FETCHED_BYTES_AHEAD


@asynccontextmanager
async def fetching(
    store: ObjectStore, wanted: Iterable[Wanted], rng: random.Random
) -> AsyncIterator[Fetching]:
    """Read these objects, a bounded number of them ahead.

    What is not used when the block is left is given up.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield Fetching(store, rng, nursery, iter(wanted))
        except Exception as error:
            failure = error  # raised below, where the nursery does not put it into a group
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
