"""Writes catalog objects, each in two copies, and loads the catalog from them.

Theory of operation. A catalog object holds the rows that changed since the one before it, in pages
that are verified one by one. It is written twice, the same pages in the same order: a page that is
damaged in one object is taken from the other. What is damaged in both leaves a gap in the catalog,
and `Damage.catalog_is_whole` says so.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs
import trio

from s2lite.codec.catalog_object import (
    CatalogPage,
    decode_catalog_object,
    encode_catalog_object,
    encode_catalog_page,
    split_facts,
)
from s2lite.codec.envelope import ObjectKind
from s2lite.model.errors import CorruptObject, StorageFailed
from s2lite.model.log import CatalogFacts
from s2lite.model.manifest import ObjectId
from s2lite.storage.creation import NumberTaken, ObjectCreator
from s2lite.storage.damage import Damage, refuse_newer_format
from s2lite.storage.fetching import Fetched, Fetching, Wanted, fetching
from s2lite.storage.objects.object_store import ObjectStore

CATALOG_PREFIX: Final = "catalog/"


def catalog_key(object_id: ObjectId) -> str:
    """The key of a catalog object."""
    return f"{CATALOG_PREFIX}{object_id}"


def catalog_copy_key(object_id: ObjectId) -> str:
    """The key of the copy of a catalog object."""
    return f"{catalog_key(object_id)}.copy"


async def write_catalog_object(
    creator: ObjectCreator, object_id: ObjectId, facts: CatalogFacts
) -> None:
    """Write these rows as a catalog object and its copy; both are durable on return.

    The facts must not change meanwhile. Raises `WriterFenced` and `StorageFailed`; then, and when
    cancelled, either object may be there.
    """
    pages = []
    for part in split_facts(facts):
        pages.append(encode_catalog_page(part))
        await trio.lowlevel.checkpoint()
    failures: list[Exception] = []

    async def create(key: str) -> None:
        try:
            await creator.create(
                ObjectKind.CATALOG,
                object_id.number,
                key,
                lambda header: encode_catalog_object(header, pages),
            )
        except Exception as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(create, catalog_key(object_id))
        nursery.start_soon(create, catalog_copy_key(object_id))
    for failure in failures:
        if isinstance(failure, NumberTaken):
            creator.refuse_newer(failure)
            raise StorageFailed(f"an id was given twice: {failure}") from failure
        raise failure


async def load_catalog(
    store: ObjectStore, ids: Sequence[ObjectId], damage: Damage, rng: random.Random
) -> CatalogFacts:
    """What the catalog objects, oldest first, make of basins and streams; nothing is None in it.

    What is damaged is reported; rows of which neither copy can be read are not there, or as the
    objects before say. Raises `StorageFailed` if the store does not answer, and `NewerFormat` if an
    object was written by a newer version of this server.
    """
    facts = CatalogFacts()
    async with fetching(store, [Wanted(catalog_key(each)) for each in ids], rng) as objects:
        for object_id in ids:
            for part in await _read_pages(objects, object_id, damage):
                _merge(facts, part)
                await trio.lowlevel.checkpoint()
    return facts


def _merge(facts: CatalogFacts, newer: CatalogFacts) -> None:
    for name, record in newer.basins.items():
        if record is None:
            facts.basins.pop(name, None)
        else:
            facts.basins[name] = record
    for stream_id, state in newer.streams.items():
        if state is None:
            facts.streams.pop(stream_id, None)
        else:
            facts.streams[stream_id] = state


@attrs.define(eq=False)
class _Pages:
    """The pages of one object by their index; those not in `intact` are damaged."""

    count: int = 0
    intact: dict[int, CatalogFacts] = attrs.field(factory=dict)

    @property
    def is_whole(self) -> bool:
        return len(self.intact) == self.count


async def _read_pages(
    objects: Fetching, object_id: ObjectId, damage: Damage
) -> Iterable[CatalogFacts]:
    """What the pages of the next object say; those that are damaged are taken from its copy."""
    pages = await _decode(await objects.next(), object_id, damage)
    if pages.is_whole:
        return pages.intact.values()
    async with fetching(
        objects.store, [Wanted(catalog_copy_key(object_id))], objects.rng
    ) as copies:
        copy = await _decode(await copies.next(), object_id, damage)
    if copy.is_whole:
        return copy.intact.values()
    # An object whose pages cannot be followed to the end counts the rest as one: where that is so
    # in both, the last page of the longer one is missing from both.
    pages.count = max(pages.count, copy.count)
    pages.intact |= copy.intact
    if not pages.is_whole:
        damage.catalog_is_whole = False
    return [facts for _, facts in sorted(pages.intact.items())]


async def _decode(fetched: Fetched | None, object_id: ObjectId, damage: Damage) -> _Pages:
    """The intact pages of an object; what is damaged is reported."""
    assert fetched is not None
    pages, key = _Pages(), fetched.wanted.key
    try:
        for page in _pages_of(key, fetched.data, object_id):
            pages.count += 1
            if page.facts is not None:
                pages.intact[page.index] = page.facts
            elif page.error is not None:
                damage.report(key, page.error.reason)
            await trio.lowlevel.checkpoint()
    except CorruptObject as error:
        refuse_newer_format(key, fetched.data or b"")
        damage.report(key, error.reason)
        pages.count = 1
    return pages


def _pages_of(key: str, data: bytes | None, object_id: ObjectId) -> Iterator[CatalogPage]:
    if data is None:
        raise CorruptObject(key, "it is missing")
    header, pages = decode_catalog_object(key, data)
    found = ObjectId(header.writer.epoch, header.number)
    if found != object_id:
        raise CorruptObject(key, f"it is object {found}")
    return pages
