"""Opens a storage path: becomes its only writer, and recovers what earlier writers left.

Theory of operation. A writer numbers its WAL objects densely and acknowledges in order, so what it
acknowledged is a prefix without gaps. The opener

1. takes the next epoch by creating the next manifest;
2. loads the catalog, and walks the WAL upwards from the floor, replaying, until it meets a free
   number (see `replay`);
3. creates a *fence* there. Creation is conditional: either the fence stands, and the old writer can
   never complete that prefix any further, or the old writer was faster, and its object is replayed
   like the others and the next number tried;
4. fences the numbers after it that the old writer may still have writes in flight to. What turns
   up there has an epoch lower than the fence before it; it was never acknowledged, and nobody
   replays it.

After that the old writer cannot create an object that counts, whatever it had in flight and however
long it was stopped, and every number from `next_wal_number` on is this writer's to give.

Damage does not keep a path from being opened: what is left is recovered, and the rest reported. The
one exception is a path with segments but without any manifest that can be read. To go on there
would be to take every record for garbage.
"""

import logging
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

import attrs
import trio

from actors.clock import Clock
from s2lite.codec.envelope import HEADER_BYTES, WriterIdentity, read_header
from s2lite.codec.segment import BlockRow, Footer, decode_footer, footer_range
from s2lite.model.errors import CorruptObject, StorageError, WriterFenced
from s2lite.model.log import CatalogFacts
from s2lite.model.manifest import Manifest, SegmentInfo
from s2lite.model.positions import StreamPosition
from s2lite.storage.catalog_objects import CATALOG_PREFIX, load_catalog
from s2lite.storage.creation import NumberTaken, ObjectCreator
from s2lite.storage.current_manifest import CurrentManifest
from s2lite.storage.damage import Damage
from s2lite.storage.fetching import Wanted, fetching
from s2lite.storage.manifest import (
    FoundManifests,
    find_manifests,
    manifest_key,
    write_manifest,
)
from s2lite.storage.numbered import numbered
from s2lite.storage.objects.conditions import check_conditions
from s2lite.storage.objects.object_store import (
    ObjectInfo,
    ObjectNotFound,
    ObjectStore,
    ObjectTooShort,
)
from s2lite.storage.ownership import Ownership
from s2lite.storage.replay import LogState, Replay
from s2lite.storage.retry import retrying
from s2lite.storage.segments import SEGMENT_PREFIX, segment_key
from s2lite.storage.wal import WAL_PREFIX, wal_key, write_fence

_log = logging.getLogger("s2lite.storage")

K = TypeVar("K")
V = TypeVar("V")

UNKNOWN_REACH: Final = 16
"""How many WAL objects a writer may have had in flight whose manifest cannot be read."""

LOADED_ROWS: Final = 256
"""So many rows of the catalog, or of a segment's index, are taken before others get their turn."""


@attrs.define
class ManifestLost(StorageError):
    """There are segments, and no manifest that says what is in them."""

    reason: str

    def __str__(self) -> str:
        return (
            f"{self.reason}: without a manifest all records would be taken for garbage, so this"
            " path is not opened. Put back a copy of its newest manifest"
        )


@attrs.frozen(eq=False)
class OpenedLog:
    """A path of which this process is the writer."""

    creator: ObjectCreator
    ownership: Ownership
    manifest: CurrentManifest
    next_wal_number: int

    async def close(self, wal_end: int) -> None:
        """Record that everything was written, so that the next opener need not wait.

        Only for a writer without writes in flight, now and later; `wal_end` is one past its last
        WAL object. Raises `WriterFenced` if another took over, and `StorageFailed`.
        """
        await self.manifest.commit(
            lambda manifest: attrs.evolve(manifest, closed_cleanly=True, wal_end=wal_end)
        )


async def open_log(
    store: ObjectStore,
    *,
    rng: random.Random,
    clock: Clock,
    wal_in_flight: int,
    lease_seconds: float | None,
    state: LogState,
    damage: Damage,
) -> OpenedLog:
    """Become the writer of the path, and put every durable entry into `state`, in order.

    `wal_in_flight` is how many WAL objects this writer will have in flight at most. `lease_seconds`
    is for how long a writer may take itself for the current one without a look; None says that a
    lock keeps others out. Unless the last writer closed cleanly, its lease is waited out.

    What is damaged is reported to `damage`. Raises `WriterFenced` if another server opened the path
    meanwhile, `StorageFailed` if the store is away, `ManifestLost`, `StoreIgnoresConditions`, and
    `NewerFormat` if a newer version of this server wrote there. What an opening that failed or was
    cancelled leaves behind can be opened again.
    """
    opening = _Opening(store, rng, clock, wal_in_flight, lease_seconds, damage)
    previous, opened = await opening.take_epoch()
    damage.catalog_is_whole = previous.manifest.catalog_is_whole
    await _load(store, rng, previous.manifest, state, damage)
    replay = Replay(
        store,
        rng,
        opened.creator.writer,
        state,
        damage,
        number=previous.manifest.wal_floor,
        reach=previous.reach,
        wal_end=previous.manifest.wal_end,
    )
    await _fence(opened.creator, replay, previous.reach, damage)
    # The fences stand, and nobody but this writer writes beyond them: whoever comes next needs to
    # reckon with no more than it has in flight itself. Written with the next manifest: until then
    # the number in the store is the larger one, which is only more careful.
    # The same holds for what was found out about the catalog: until then the next opener finds out.
    opened.manifest.value = attrs.evolve(
        opened.manifest.value,
        wal_in_flight=wal_in_flight,
        catalog_is_whole=damage.catalog_is_whole,
    )
    if previous.may_be_alive and lease_seconds is not None:
        await trio.sleep(lease_seconds)
    _log.info(
        "opened as the writer of epoch %d: replayed %d entries, next WAL object is %d",
        opened.creator.writer.epoch,
        replay.applied,
        replay.number,
    )
    return attrs.evolve(opened, next_wal_number=replay.number)


# --- the epoch ----------------------------------------------------------------------------------


@attrs.frozen
class _Previous:
    """What was there before: the last manifest, and the highest number and epoch in use.

    `lost_manifest` is the key of one that is missing, and why it must have been there.
    """

    number: int
    epoch: int
    manifest: Manifest
    lost_manifest: CorruptObject | None = None

    @property
    def may_be_alive(self) -> bool:
        """Whether there was a writer, and it did not say that it is gone."""
        return self.epoch > 0 and not self.manifest.closed_cleanly

    @property
    def reach(self) -> int:
        """How many numbers from the first free one on an earlier writer may still write to."""
        return self.manifest.wal_in_flight if self.may_be_alive else 1


@attrs.frozen(eq=False)
class _Opening:
    """What an opening is given."""

    store: ObjectStore
    rng: random.Random
    clock: Clock
    wal_in_flight: int
    lease_seconds: float | None
    damage: Damage

    async def take_epoch(self) -> tuple[_Previous, OpenedLog]:
        """Create the next manifest, and so become the writer unless another does after this."""
        writer_id = self.rng.randbytes(16)
        while True:
            previous = await self._find_previous()
            writer = WriterIdentity(previous.epoch + 1, writer_id)
            creator = ObjectCreator(self.store, writer, self.rng)
            number = previous.number + 1
            manifest = attrs.evolve(
                previous.manifest,
                # Kept at the larger until a fence stands: this opener may die before it has one.
                wal_in_flight=max(self.wal_in_flight, previous.reach),
                wal_end=None,
                closed_cleanly=False,
            )
            started = self.clock.elapsed_seconds()
            try:
                written = await write_manifest(creator, number, manifest)
            except (NumberTaken, WriterFenced):
                continue  # another opener was faster
            if previous.lost_manifest is not None:
                self.damage.report(previous.lost_manifest.key, previous.lost_manifest.reason)
            current = await self._own(creator, number, manifest, previous, written, started)
            opened = OpenedLog(creator, current.ownership, current, next_wal_number=0)
            return previous, opened

    async def _own(
        self,
        creator: ObjectCreator,
        number: int,
        manifest: Manifest,
        previous: _Previous,
        written: bytes,
        started: float,
    ) -> CurrentManifest:
        """Make sure that the manifest that was `written` is what it seems to be."""
        key = manifest_key(number)
        if self.lease_seconds is not None:
            # A store that ignores conditions is found out before anything else is put into it.
            await retrying(key, lambda: check_conditions(self.store, key, written), self.rng)
        ownership = Ownership(
            self.store, self.clock, creator.writer, lambda: number, self.rng, self.lease_seconds
        )
        # The number may be one that was used and collected while this opener slept.
        await ownership.confirm(started)
        current = CurrentManifest(creator, ownership, number, manifest, previous.manifest)
        ownership.manifest_number = lambda: current.number
        return current

    async def _find_previous(self) -> _Previous:
        found = await find_manifests(self.store, self.damage, self.rng)
        if found.newest is None:
            await self._refuse_if_flushed(found)
        manifest = Manifest() if found.newest is None else found.newest.manifest
        wal_epoch = await self._last_epoch_of_wal(manifest.wal_floor)
        epoch, lost = found.highest_epoch, None
        if wal_epoch > epoch:
            reason = f"it is missing, but the log has objects of epoch {wal_epoch}"
            epoch, lost = wal_epoch, CorruptObject(manifest_key(found.number + 1), reason)
        if lost is not None or not found.is_whole:
            # What the last writer said of itself is lost: suppose that it was careless, and died.
            manifest = attrs.evolve(
                manifest,
                wal_in_flight=max(manifest.wal_in_flight, UNKNOWN_REACH),
                wal_end=None,
                closed_cleanly=False,
            )
        return _Previous(found.number, epoch, manifest, lost)

    async def _refuse_if_flushed(self, found: FoundManifests) -> None:
        """Raise `ManifestLost` if there is more than a WAL, which can be replayed as a whole."""
        which = "none can be read" if found.number else "there is none"
        for prefix in (SEGMENT_PREFIX, CATALOG_PREFIX):
            if await self._list(prefix):
                raise ManifestLost(f"there are objects below `{prefix}`, but of manifests {which}")

    async def _last_epoch_of_wal(self, floor: int) -> int:
        """The epoch of the last WAL object, 0 if there is none or it does not say.

        It is higher than that of the newest manifest only if one was lost. It must not be given
        again: two writers are told apart by their epochs.
        """
        start_after = wal_key(floor - 1) if floor else ""
        listed = numbered(await self._list(WAL_PREFIX, start_after), WAL_PREFIX)
        if not listed:
            return 0
        key = listed[-1].key
        try:
            head = await retrying(key, lambda: self.store.get_range(key, 0, HEADER_BYTES), self.rng)
            return read_header(key, head).writer.epoch
        except (ObjectNotFound, ObjectTooShort, CorruptObject):
            return 0

    async def _list(self, prefix: str, start_after: str = "") -> list[ObjectInfo]:
        return await retrying(
            prefix, lambda: self.store.list(prefix, start_after=start_after), self.rng
        )


# --- the catalog --------------------------------------------------------------------------------


async def _load(
    store: ObjectStore,
    rng: random.Random,
    manifest: Manifest,
    state: LogState,
    damage: Damage,
) -> None:
    facts = await load_catalog(store, manifest.catalog, damage, rng)
    for basins in _parts(facts.basins):
        state.load(CatalogFacts(basins=basins))
        await trio.lowlevel.checkpoint()
    for streams in _parts(facts.streams):
        state.load(CatalogFacts(streams=streams))
        await trio.lowlevel.checkpoint()
    if not damage.catalog_is_whole:
        # Rows that were lost said where streams end. What was acked must not be numbered again.
        await _raise_tails(store, rng, manifest.segments, state, damage)


def _parts(rows: dict[K, V]) -> Iterator[dict[K, V]]:
    items = iter(rows.items())
    while part := dict(islice(items, LOADED_ROWS)):
        yield part


async def _raise_tails(
    store: ObjectStore,
    rng: random.Random,
    segments: Sequence[SegmentInfo],
    state: LogState,
    damage: Damage,
) -> None:
    """Have no stream end before what its segments hold."""
    wanted = [
        Wanted(segment_key(info.object_id), footer_range(info)[1], footer_range(info))
        for info in segments
    ]
    async with fetching(store, wanted, rng) as footers:
        for info, each in zip(segments, wanted, strict=True):
            try:
                fetched = await footers.next()
                data = None if fetched is None else fetched.data
                footer = _footer(each.key, info, data)
            except (CorruptObject, ObjectTooShort) as error:
                damage.report(each.key, f"its index cannot be read: {error}")
                state.reached(info.end.stream_id, StreamPosition(info.end.seq_num, 0))
                continue
            for count, row in enumerate(_last_rows(footer), 1):
                end = StreamPosition(row.end_seq_num, row.last_timestamp)
                state.reached(row.stream_id, end)
                if count % LOADED_ROWS == 0:
                    await trio.lowlevel.checkpoint()


def _footer(key: str, info: SegmentInfo, data: bytes | None) -> Footer:
    if data is None:
        raise CorruptObject(key, "it is missing")
    return decode_footer(key, info, data)


def _last_rows(footer: Footer) -> Iterator[BlockRow]:
    """The last row of each stream."""
    last: BlockRow | None = None
    for row in footer.rows():
        if last is not None and last.stream_id != row.stream_id:
            yield last
        last = row
    if last is not None:
        yield last


# --- the end of the log -------------------------------------------------------------------------


async def _fence(creator: ObjectCreator, replay: Replay, reach: int, damage: Damage) -> None:
    """Replay to the end, and fence it off; from `replay.number` on the numbers are ours to give."""
    while True:
        await replay.run_to_end()
        if await _take_number(creator, replay.number, damage):
            break  # else the old writer was faster: replay its object
    first = replay.number
    replay.fenced(first)
    for number in range(first + 1, first + reach):
        await _take_number(creator, number, damage)
        replay.fenced(number)


async def _take_number(creator: ObjectCreator, number: int, damage: Damage) -> bool:
    """Set a fence, unless an object of an older writer has the number."""
    try:
        await write_fence(creator, number)
    except NumberTaken as taken:
        creator.refuse_newer(taken)
        return False
    except CorruptObject as error:  # it is taken, nobody can tell by whom
        damage.report(error.key, error.reason)
        return False
    return True
