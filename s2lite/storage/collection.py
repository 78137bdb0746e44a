"""Garbage collection: deletes what neither of the newest two manifests needs.

Theory of operation. What is needed is said in `inventory`. The collector learns what stops being
needed from the commits of manifests, and lists the store only once, after the start, to find what
crashes have left behind. It keeps what it learnt in *lots*, oldest first. A lot may go when

- `min_age_seconds` have passed, by our own clock, since this process saw that the newest manifest
  does not need it. Deleting an object makes its number free again, so another writer that was
  stopped before it wrote an object of that number could succeed later, and take that for a proof
  that it still is the writer. After so long it looks at the manifests first (see `ownership`);
- and another manifest has followed the one that stopped needing it. If nothing else makes one, the
  collector commits the same manifest once more.

Deleting is safe at any time, also for a writer that has been fenced off without knowing it: what is
unneeded stays so. The proof of ownership before each lot puts an end to its requests. The one thing
that could go wrong is an object that was handed over as abandoned although the manifest that names
it was written after all, by a commit that failed: so it waits for the next commit, which shows what
the number of that manifest was used for, and what is named then stays.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs
import trio

from actors.clock import Clock
from s2lite.model.manifest import Manifest, ObjectId, SegmentInfo
from s2lite.storage.catalog_objects import catalog_copy_key, catalog_key
from s2lite.storage.current_manifest import CurrentManifest
from s2lite.storage.inventory import (
    ITEMS_PER_CHECKPOINT,
    Kind,
    Needs,
    Pile,
    Standing,
    named_by,
    parse_name,
)
from s2lite.storage.manifest import manifest_key
from s2lite.storage.objects.object_store import (
    ObjectInfo,
    ObjectStore,
    StoreRefused,
    StoreUnavailable,
)
from s2lite.storage.retry import ATTEMPT_SECONDS, retrying
from s2lite.storage.segments import segment_key
from s2lite.storage.wal import wal_key

_log = logging.getLogger("s2lite.storage")

SHARED_MIN_AGE_SECONDS: Final = 3600.0
"""For stores that a stopped writer may come back to: far beyond the age of a proof it may use."""

PAUSE_SECONDS: Final = 10.0
"""From one round to the next: several commits share a round, and an extra commit is rarer."""

RETRY_SECONDS: Final = 60.0
"""The same after a round in which something failed."""

DELETIONS_AT_ONCE: Final = 16
LOT_OBJECTS: Final = 256
"""How many objects are deleted between two looks at whether they are ours to delete."""

MAX_FAILURES: Final = 64
"""A round ends when so many deletions have failed: the others would, too."""


@attrs.frozen
class Garbage:
    """An object that is not needed; its size is 0 if it is not known."""

    key: str
    kind: Kind
    object_id: ObjectId | None = None
    size_bytes: int = 0


@attrs.define(eq=False)
class _Lot:
    """What stopped being needed at one time: at most `LOT_OBJECTS` objects.

    `dropped_by` is the number of the first manifest that does not need them. WAL objects are given
    by their numbers alone: an hour can see millions.
    """

    since: float
    dropped_by: int
    objects: Sequence[Garbage] | range

    def __iter__(self) -> Iterator[Garbage]:
        for each in self.objects:
            yield each if isinstance(each, Garbage) else Garbage(wal_key(each), Kind.WAL)


@attrs.define
class Round:
    """What one round deleted, by kind, and what it could not delete."""

    deleted: dict[Kind, Pile] = attrs.field(factory=dict)
    failed: list[Garbage] = attrs.field(factory=list)
    last_error: Exception | None = None

    def __str__(self) -> str:
        return ", ".join(
            f"{pile.count} {kind}" + (f" ({pile.size_bytes:,} bytes)" if pile.size_bytes else "")
            for kind, pile in self.deleted.items()
        )


@attrs.define(eq=False)
class Collector:
    """Knows what is garbage and deletes it, round by round. One per writer, for all of its life.

    Only `collect` makes requests. One task at a time may be in it; the rest never waits.
    """

    store: ObjectStore
    manifest: CurrentManifest
    clock: Clock
    min_age_seconds: float
    _lots: deque[_Lot] = attrs.field(factory=deque)
    _listed: bool = False
    _halted: bool = False
    _resting_until: float = -float("inf")

    # --- what becomes garbage -------------------------------------------------------------------

    def committed(self, previous: Manifest, new: Manifest) -> None:
        """Note what the manifest that is now in force does not need any more."""
        number = self.manifest.number
        self._add(number, range(previous.wal_floor, new.wal_floor))
        self._add(number, list(_dropped(previous, new)))
        if number > 2:
            self._add(number - 1, [Garbage(manifest_key(number - 2), Kind.MANIFEST)])

    def abandoned(self, keys: Iterable[str]) -> None:
        """Take over segments and catalog objects that were made and then not used.

        A commit that was to name them must have ended, well or not. Raises `ValueError` for a key
        that is neither.
        """
        found = []
        for key in keys:
            name = parse_name(key)
            if name is None or name.object_id is None:
                raise ValueError(f"not a segment or catalog object: {key!r}")
            found.append(Garbage(key, name.kind, name.object_id))
        self._add(self.manifest.number, found)

    def _add(self, dropped_by: int, objects: Sequence[Garbage] | range) -> None:
        if self._halted:
            return
        self._lots.extend(_lots_of(self.clock.elapsed_seconds(), dropped_by, objects))

    # --- when it goes ---------------------------------------------------------------------------

    def due_in_seconds(self) -> float | None:
        """When `collect` has something to do; None: not before the next commit."""
        now = self.clock.elapsed_seconds()
        if self._listed and not self._lots:
            return None
        due = self._lots[0].since + self.min_age_seconds if self._listed else now
        return max(0.0, due - now, self._resting_until - now)

    def rest(self) -> None:
        """Do nothing for a while: the store has failed."""
        self._resting_until = self.clock.elapsed_seconds() + RETRY_SECONDS

    async def collect(self) -> Round | None:
        """Delete what may go by now; None if it is not time for a round.

        What could not be deleted is tried again in a later round, as is what was not reached when
        this raises or is cancelled. Raises `WriterFenced` if another writer has taken over, and
        `StorageFailed` if the store does not tell. See `CurrentManifest.commit` about cancellation.
        """
        if self.due_in_seconds() != 0.0:
            return None
        if not self._listed:
            await self._take_stock()
        self._resting_until = self.clock.elapsed_seconds() + PAUSE_SECONDS
        this = Round()
        if self._first_due() is not None:
            await self._commit_if_awaited()
            await self._delete_due(this)
        return this

    def _first_due(self) -> _Lot | None:
        """The oldest lot, if it is old enough."""
        return self._lots[0] if self._lots and self._is_old(self._lots[0]) else None

    def _is_old(self, lot: _Lot) -> bool:
        return lot.since + self.min_age_seconds <= self.clock.elapsed_seconds()

    def _is_free(self, lot: _Lot) -> bool:
        """Whether the manifest before the one in force does not need it either."""
        return lot.dropped_by < self.manifest.number

    async def _commit_if_awaited(self) -> None:
        if any(self._is_old(lot) and not self._is_free(lot) for lot in self._lots):
            await self.manifest.commit(lambda manifest: manifest)

    async def _delete_due(self, this: Round) -> None:
        since = self._lots[0].since
        try:
            while (lot := self._first_due()) is not None and self._is_free(lot):
                if len(this.failed) >= MAX_FAILURES:
                    break
                await self.manifest.ownership.ensure_current()
                await self._delete(lot, this)
                self._lots.popleft()  # still the first one: others only append
        finally:
            if this.failed:
                self._lots.appendleft(_Lot(since, 0, this.failed))
                self.rest()
            _report(this)

    async def _delete(self, lot: _Lot, this: Round) -> None:
        """Delete the objects of one lot, but for those that a manifest names after all."""
        objects = list(lot)
        if any(each.object_id is not None for each in objects):
            named = named_by(self.manifest.value) | named_by(self.manifest.previous)
            objects = [each for each in objects if each.object_id not in named]
        queue = iter(objects)

        async def work() -> None:
            for each in queue:
                await self._delete_one(each, this)

        async with trio.open_nursery() as nursery:
            for _ in range(min(DELETIONS_AT_ONCE, len(objects))):
                nursery.start_soon(work)

    async def _delete_one(self, garbage: Garbage, this: Round) -> None:
        try:
            with trio.fail_after(ATTEMPT_SECONDS):
                await self.store.delete(garbage.key)
        except (StoreUnavailable, StoreRefused, trio.TooSlowError) as error:
            _log.debug("could not delete %s: %r", garbage.key, error)
            this.failed.append(garbage)
            this.last_error = error
        else:
            _log.debug("deleted %s", garbage.key)
            this.deleted.setdefault(garbage.kind, Pile()).add(garbage.size_bytes)

    # --- what was there before --------------------------------------------------------------------

    async def _take_stock(self) -> None:
        """Find what earlier writers, and crashes of theirs, have left behind."""
        # As of now, before the listing: what a later commit stops needing, it will have told us.
        number, since = self.manifest.number, self.clock.elapsed_seconds()
        epoch = self.manifest.creator.writer.epoch
        needs = Needs(number, epoch, self.manifest.value, self.manifest.previous)
        known = {each.key for lot in self._lots for each in lot}
        leaving: list[Garbage] = []
        unneeded: list[Garbage] = []
        for index, info in enumerate(await self._list()):
            if index % ITEMS_PER_CHECKPOINT == 0:
                await trio.lowlevel.checkpoint()
            name = parse_name(info.key)
            if name is None or info.key in known:
                continue
            garbage = Garbage(info.key, name.kind, name.object_id, info.size)
            match needs.standing(name):
                case Standing.LEAVING:
                    leaving.append(garbage)
                case Standing.UNNEEDED:
                    unneeded.append(garbage)
                case Standing.OF_A_NEWER_WRITER:
                    await self._halt(info.key)
                    return
                case _:
                    pass
        self._lots.extend(_lots_of(since, number, leaving))
        self._lots.extend(_lots_of(since, number - 1, unneeded))
        self._listed = True

    async def _list(self) -> list[ObjectInfo]:
        return await retrying("", lambda: self.store.list(""), self.manifest.creator.rng)

    async def _halt(self, key: str) -> None:
        """Delete nothing, ever: what another writer needs is not ours to tell."""
        await self.manifest.ownership.ensure_current()
        _log.warning("`%s` is of a newer writer than this one: nothing is collected", key)
        self._lots.clear()
        self._listed = self._halted = True


def _lots_of(since: float, dropped_by: int, objects: Sequence[Garbage] | range) -> Iterator[_Lot]:
    for start in range(0, len(objects), LOT_OBJECTS):
        yield _Lot(since, dropped_by, objects[start : start + LOT_OBJECTS])


def _dropped(previous: Manifest, new: Manifest) -> Iterator[Garbage]:
    """The segments and catalog objects that the one manifest names and the other does not."""
    # An edit leaves most runs as they are; those need no look.
    before, after = set(map(id, previous.runs)), set(map(id, new.runs))
    added = tuple(run for run in new.runs if id(run) not in before)
    names = named_by(attrs.evolve(new, runs=added))
    for run in previous.runs:
        if id(run) not in after:
            yield from (_segment(each) for each in run.segments if each.object_id not in names)
    for object_id in previous.catalog:
        if object_id not in names:
            for key in (catalog_key(object_id), catalog_copy_key(object_id)):
                yield Garbage(key, Kind.CATALOG, object_id)


def _segment(info: SegmentInfo) -> Garbage:
    return Garbage(segment_key(info.object_id), Kind.SEGMENT, info.object_id, info.size_bytes)


def _report(this: Round) -> None:
    if this.deleted:
        _log.info("deleted what is not needed any more: %s", this)
    if this.failed:
        _log.warning(
            "%d objects that are not needed could not be deleted, and will be tried again: %s",
            len(this.failed),
            this.last_error,
        )
