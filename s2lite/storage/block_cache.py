"""What was read of segments, for whoever reads it next.

Theory of operation. An item is one block or one footer. It is *wanted* from when somebody asks for
it until there is room for it, then it is *loading*, and then *kept* until its room is needed.
Whoever asks for it meanwhile gets the same item and waits with the others: one request to the
store for all. Room is taken before anything is loaded, so that the budget holds for what is being
loaded as well; only what is kept can make room, oldest use first, and if that is not enough, those
that want room wait in line until something has been loaded.

Loading happens in a nursery of the cache's own, so that a reader who is cancelled does not take it
away from the others. What fails is not kept: those who wait for it get the error, and whoever asks
next tries again.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from s2lite.codec.segment import Footer
from s2lite.model.errors import StorageError, StorageFailed
from s2lite.model.manifest import ObjectId

CacheKey = tuple[ObjectId, int]
"""A segment, and the offset in it."""

Value = bytes | Footer
Load = Callable[[], Awaitable[Sequence[Value | StorageError]]]
"""Reads items that lie back to back: for each its value, or why there is none."""


@attrs.define(eq=False)
class CacheItem:
    """One item, wherever it is on its way. Whoever holds it has its value, kept or not."""

    key: CacheKey
    size_bytes: int
    _outcome: Value | StorageError | None = None
    _settled: trio.Event = attrs.field(factory=trio.Event)

    async def value(self) -> Value:
        """The value once it is there. Raises what loading it has raised: `StorageError`."""
        await self._settled.wait()
        assert self._outcome is not None
        if isinstance(self._outcome, StorageError):
            raise self._outcome
        return self._outcome

    @property
    def is_there(self) -> bool:
        """Whether it has been loaded, and well."""
        return self._settled.is_set() and not isinstance(self._outcome, StorageError)

    def settle(self, outcome: Value | StorageError) -> None:
        """Give those who wait for it the value, or the reason why there is none."""
        self._outcome = outcome
        self._settled.set()


@attrs.define(eq=False)
class BlockCache:
    """Items by key, `budget_bytes` of them at most, or one that is larger than that.

    Made by `open_block_cache`. `used_bytes` counts what is kept and what is being loaded.
    """

    nursery: trio.Nursery
    budget_bytes: int
    used_bytes: int = 0
    hits: int = 0
    misses: int = 0
    _pending: dict[CacheKey, CacheItem] = attrs.field(factory=dict)
    _kept: OrderedDict[CacheKey, CacheItem] = attrs.field(factory=OrderedDict)
    # Fair: who came first gets room first, however much of it.
    _line: trio.Lock = attrs.field(factory=trio.Lock)
    _loaded: trio.Event = attrs.field(factory=trio.Event)

    def __contains__(self, key: CacheKey) -> bool:
        return key in self._kept or key in self._pending

    def look(self, key: CacheKey) -> CacheItem | None:
        """The item if it is kept or on its way; that counts as a use, and as a hit or a miss."""
        item = self._pending.get(key)
        if item is None and (item := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
        if item is None:
            self.misses += 1
        else:
            self.hits += 1
        return item

    def peek(self, key: CacheKey) -> Value | None:
        """The value if it is kept; that counts as nothing."""
        item = self._kept.get(key)
        value = None if item is None else item._outcome
        return None if isinstance(value, StorageError) else value

    def load(self, sizes: Sequence[tuple[CacheKey, int]], load: Load) -> list[CacheItem]:
        """Have items loaded that are neither kept nor on their way, all by one call of `load`.

        Together they should not be larger than the budget. Returns at once.
        """
        items = [CacheItem(key, size_bytes) for key, size_bytes in sizes]
        self._pending.update((item.key, item) for item in items)
        self.nursery.start_soon(self._load, items, load)
        return items

    async def _load(self, items: list[CacheItem], load: Load) -> None:
        outcomes: Sequence[Value | StorageError] = ()
        error: StorageError = StorageFailed("the server is stopping")
        needed = sum(item.size_bytes for item in items)
        taken = 0
        try:
            await self._take_room(needed)
            taken = needed
            outcomes = await load()
        except StorageError as failure:
            error = failure
        finally:
            self.used_bytes -= taken
            for index, item in enumerate(items):
                self._settle(item, outcomes[index] if outcomes else error)
            self._loaded.set()

    def _settle(self, item: CacheItem, outcome: Value | StorageError) -> None:
        del self._pending[item.key]
        if not isinstance(outcome, StorageError):
            self._kept[item.key] = item
            self.used_bytes += item.size_bytes
        item.settle(outcome)

    async def _take_room(self, needed: int) -> None:
        async with self._line:
            while not self._make_room(needed):
                self._loaded = trio.Event()
                await self._loaded.wait()
            self.used_bytes += needed

    def _make_room(self, needed: int) -> bool:
        """Let go of what was not used for longest; whether there is room now."""
        while self._kept and self.used_bytes + needed > self.budget_bytes:
            _, item = self._kept.popitem(last=False)
            self.used_bytes -= item.size_bytes
        return self.used_bytes + needed <= self.budget_bytes or self.used_bytes == 0


@asynccontextmanager
async def open_block_cache(budget_bytes: int) -> AsyncIterator[BlockCache]:
    """Make a cache that can be used inside of the block; what is being loaded then is given up.

    Those who still wait for it at the end get `StorageFailed`.
    """
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield BlockCache(nursery, budget_bytes)
        except Exception as error:
            failure = error  # raised below, where the nursery does not put it into a group
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
