"""What each object below a storage path is for, as the newest two manifests tell it.

Needed are the newest two manifests, what they name, and the WAL from the lower of their floors up:
the newer one is in force, and the older one is there in case it turns out to be damaged. A segment
or catalog object of the present writer that no manifest names may be in the making: from outside it
cannot be told from one that was given up. Everything else that has one of our names is unneeded,
and stays so: floors only rise, and no id is given twice.
"""

import enum
import re
from collections.abc import Iterable
from typing import Final

import attrs
import trio

from s2lite.model.errors import CorruptObject
from s2lite.model.manifest import Manifest, ObjectId
from s2lite.storage.manifest import MANIFEST_PREFIX, read_manifest
from s2lite.storage.objects.object_store import ObjectInfo, ObjectNotFound, ObjectStore

ITEMS_PER_CHECKPOINT: Final = 200
"""A listing can be long; so many of its objects are looked at before others get their turn."""

FOREIGN_KEYS_SHOWN: Final = 10

_NUMBERED = re.compile(r"(wal|manifest)/([0-9]{20})")
_NAMED = re.compile(r"(?:segment/([0-9]+)-([0-9]+)|catalog/([0-9]+)-([0-9]+)(?:\.copy)?)")


class Kind(enum.StrEnum):
    """The kinds of objects, in words that follow a number."""

    WAL = "WAL objects"
    MANIFEST = "manifests"
    SEGMENT = "segments"
    CATALOG = "catalog objects"


class Standing(enum.Enum):
    """How needed an object is, in words for people."""

    NEEDED = "needed"
    UNFINISHED = "in no manifest: being written, or left behind by a crash, as the next start tells"
    OF_A_NEWER_WRITER = "of a newer writer than that of the newest manifest"
    LEAVING = "needed by the last manifest but one only: may go when there is another manifest"
    UNNEEDED = "unneeded: may go when the server has known it for the minimum age"

    @property
    def kept(self) -> bool:
        """Whether nobody may delete such an object now."""
        return self in (Standing.NEEDED, Standing.UNFINISHED, Standing.OF_A_NEWER_WRITER)


@attrs.frozen
class Name:
    """A key taken apart. A WAL object or manifest has a number, the others have an id."""

    kind: Kind
    number: int = 0
    object_id: ObjectId | None = None


def parse_name(key: str) -> Name | None:
    """What an object of this key is; None if the key is not one that any part of us would give."""
    if numbered := _NUMBERED.fullmatch(key):
        return Name(Kind.WAL if numbered[1] == "wal" else Kind.MANIFEST, int(numbered[2]))
    if named := _NAMED.fullmatch(key):
        kind = Kind.SEGMENT if named[1] is not None else Kind.CATALOG
        object_id = ObjectId(int(named[1] or named[3]), int(named[2] or named[4]))
        if f"/{object_id}" in key:  # or else it is another spelling of that id
            return Name(kind, object_id=object_id)
    return None


def named_by(manifest: Manifest) -> frozenset[ObjectId]:
    """The segments and catalog objects that a manifest names."""
    return frozenset((*(segment.object_id for segment in manifest.segments), *manifest.catalog))


@attrs.frozen
class Needs:
    """What the manifest in force, of this number, and the one before it need.

    `epoch` is that of the writer whose unfinished objects are to be kept.
    """

    number: int
    epoch: int
    newest: Manifest
    previous: Manifest
    _newest_names: frozenset[ObjectId] = attrs.field(init=False)
    _previous_names: frozenset[ObjectId] = attrs.field(init=False)

    @_newest_names.default
    def _make_newest_names(self) -> frozenset[ObjectId]:
        return named_by(self.newest)

    @_previous_names.default
    def _make_previous_names(self) -> frozenset[ObjectId]:
        return named_by(self.previous)

    def standing(self, name: Name) -> Standing:
        """How needed the object of this name is."""
        if name.object_id is not None:
            return self._standing_of_object(name.object_id)
        if name.kind is Kind.MANIFEST:
            # One above the newest is being written, or shows that it is not the newest any more.
            return Standing.NEEDED if name.number >= self.number - 1 else Standing.UNNEEDED
        if name.number >= self.newest.wal_floor:
            return Standing.NEEDED
        return Standing.LEAVING if name.number >= self.previous.wal_floor else Standing.UNNEEDED

    def _standing_of_object(self, object_id: ObjectId) -> Standing:
        if object_id in self._newest_names:
            return Standing.NEEDED
        if object_id in self._previous_names:
            return Standing.LEAVING
        if object_id.epoch > self.epoch:
            return Standing.OF_A_NEWER_WRITER
        return Standing.UNFINISHED if object_id.epoch == self.epoch else Standing.UNNEEDED


@attrs.define
class Pile:
    """So many objects, and how many bytes they are."""

    count: int = 0
    size_bytes: int = 0

    def add(self, size_bytes: int) -> None:
        """Count one more object."""
        self.count += 1
        self.size_bytes += size_bytes


@attrs.define
class Survey:
    """What lies below a storage path. `foreign_keys` are the first few of those nobody knows."""

    piles: dict[tuple[Kind, Standing], Pile] = attrs.field(factory=dict)
    foreign: Pile = attrs.field(factory=Pile)
    foreign_keys: list[str] = attrs.field(factory=list)

    @property
    def kept(self) -> dict[tuple[Kind, Standing], Pile]:
        """What nobody may delete now."""
        return {reason: pile for reason, pile in self.piles.items() if reason[1].kept}

    @property
    def unneeded(self) -> dict[tuple[Kind, Standing], Pile]:
        """What the server deletes by and by."""
        return {reason: pile for reason, pile in self.piles.items() if not reason[1].kept}

    def lines(self) -> list[str]:
        """The survey for people: what is kept and what is not, and why."""
        return [
            *_section("kept", self.kept),
            *_section("unneeded", self.unneeded),
            f"not of this server, and never touched: {_amount(self.foreign, 'objects')}",
            *(f"  {key}" for key in self.foreign_keys),
        ]

    def count(self, key: str, size_bytes: int, needs: Needs) -> None:
        """Put one more object on its pile."""
        name = parse_name(key)
        if name is None:
            self.foreign.add(size_bytes)
            if len(self.foreign_keys) < FOREIGN_KEYS_SHOWN:
                self.foreign_keys.append(key)
        else:
            reason = name.kind, needs.standing(name)
            self.piles.setdefault(reason, Pile()).add(size_bytes)


async def survey(store: ObjectStore) -> Survey:
    """Count what lies below a storage path, by what it is for; changes nothing.

    Needs no ownership: a server may be at work meanwhile, and what it does during the survey may or
    may not show in it. Raises `StorageError`: `CorruptObject` if the newest manifest is damaged,
    and `ObjectNotFound` if it was collected meanwhile by a server that commits very often.
    """
    found = await store.list("")
    needs = await _newest_needs(store, _newest_number(found))
    result = Survey()
    for index, info in enumerate(found):
        if index % ITEMS_PER_CHECKPOINT == 0:
            await trio.lowlevel.checkpoint()
        result.count(info.key, info.size, needs)
    return result


def _newest_number(found: list[ObjectInfo]) -> int:
    names = [parse_name(info.key) for info in found if info.key.startswith(MANIFEST_PREFIX)]
    return max((name.number for name in names if name is not None), default=0)


async def _newest_needs(store: ObjectStore, number: int) -> Needs:
    if number == 0:
        return Needs(0, 0, Manifest(), Manifest())
    newest = await read_manifest(store, number)
    try:
        previous = await read_manifest(store, number - 1)
    except (ObjectNotFound, CorruptObject):
        previous = newest
    return Needs(number, newest.header.writer.epoch, newest.manifest, previous.manifest)


def _section(title: str, piles: dict[tuple[Kind, Standing], Pile]) -> Iterable[str]:
    total = Pile(
        sum(pile.count for pile in piles.values()), sum(pile.size_bytes for pile in piles.values())
    )
    yield f"{title}: {_amount(total, 'objects')}"
    for (kind, standing), pile in sorted(piles.items(), key=lambda item: item[0][0]):
        yield f"  {_amount(pile, kind)}, {standing.value}"


def _amount(pile: Pile, what: str) -> str:
    return f"{pile.count:,} {what} ({pile.size_bytes:,} bytes)"
