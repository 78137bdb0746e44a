"""Writes WAL objects and fences, and reads them back."""

from collections.abc import Sequence

from s2lite.codec.envelope import Header, ObjectKind
from s2lite.codec.wal import EntryLocation, LocatedEntry, decode_entry, decode_wal_object
from s2lite.codec.wal import encode_wal_object as encode
from s2lite.model.errors import CorruptObject, StorageFailed
from s2lite.model.log import AppendEntry, LogEntry
from s2lite.storage.creation import NumberTaken, ObjectCreator
from s2lite.storage.object_store import ObjectStore, ObjectTooShort

WAL_PREFIX = "wal/"


def wal_key(number: int) -> str:
    """The key of a WAL object or fence."""
    return f"{WAL_PREFIX}{number:020d}"


async def write_wal(
    creator: ObjectCreator, number: int, entries: Sequence[LogEntry]
) -> list[LocatedEntry]:
    """Write the entries as the WAL object of this number; durable on return.

    Returns the entries with their places. Raises `WriterFenced` if a newer writer owns the number.
    An older one cannot: opening the path fenced every number it might still write to.
    """
    located: list[LocatedEntry] = []

    def encode_for(header: Header) -> bytes:
        data, located[:] = encode(header, entries)
        return data

    try:
        await creator.create(ObjectKind.WAL, number, wal_key(number), encode_for)
    except NumberTaken as taken:
        creator.refuse_newer(taken)
        raise StorageFailed(f"an older writer got past its fence: {taken}") from taken
    return located


async def write_fence(creator: ObjectCreator, number: int) -> None:
    """Take the number, so that no older writer can; raises `NumberTaken` if somebody has it."""
    await creator.create(
        ObjectKind.FENCE, number, wal_key(number), lambda header: encode(header, ())[0]
    )


async def read_wal(store: ObjectStore, number: int) -> tuple[Header, list[LocatedEntry]]:
    """The header and entries of a WAL object; a fence has none.

    Raises `ObjectNotFound`, and `CorruptObject` if it is damaged or is not the object of its key.
    """
    key = wal_key(number)
    header, entries = decode_wal_object(key, await store.get(key))
    if header.number != number:
        raise CorruptObject(key, f"it is number {header.number}")
    return header, entries


async def read_appends(store: ObjectStore, locations: Sequence[EntryLocation]) -> list[AppendEntry]:
    """Append entries that lie back to back in one object, by one range read.

    Raises `CorruptObject` if one of them is damaged.
    """
    first, last = locations[0], locations[-1]
    key = wal_key(first.wal_number)
    try:
        data = await store.get_range(key, first.offset, last.offset + last.size - first.offset)
    except ObjectTooShort as error:
        raise CorruptObject(key, f"it is cut short at {error.size} bytes") from error
    view = memoryview(data)
    return [
        _decode_append(key, view[place.offset - first.offset :][: place.size])
        for place in locations
    ]


def _decode_append(key: str, frame: memoryview) -> AppendEntry:
    entry = decode_entry(key, frame)
    if not isinstance(entry, AppendEntry):
        raise CorruptObject(key, "there is no batch where one should be")
    return entry
