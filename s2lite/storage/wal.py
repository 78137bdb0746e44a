"""Writes WAL objects and fences, and reads them back."""

from collections.abc import Sequence

from s2lite.codec.envelope import Header, ObjectKind
from s2lite.codec.wal import decode_wal_object, encode_wal_object
from s2lite.model.errors import CorruptObject, StorageFailed
from s2lite.model.log import LogEntry
from s2lite.storage.creation import NumberTaken, ObjectCreator
from s2lite.storage.objects.object_store import ObjectStore

WAL_PREFIX = "wal/"


def wal_key(number: int) -> str:
    """The key of a WAL object or fence."""
    return f"{WAL_PREFIX}{number:020d}"


async def write_wal(creator: ObjectCreator, number: int, entries: Sequence[LogEntry]) -> None:
    """Write the entries as the WAL object of this number; durable on return.

    Raises `WriterFenced` if a newer writer owns the number. An older one cannot: opening the path
    fenced every number it might still write to. That the write counts is for `Ownership` to say.
    """
    try:
        await creator.create(
            ObjectKind.WAL,
            number,
            wal_key(number),
            lambda header: encode_wal_object(header, entries),
        )
    except NumberTaken as taken:
        creator.refuse_newer(taken)
        raise StorageFailed(f"an older writer got past its fence: {taken}") from taken


async def write_fence(creator: ObjectCreator, number: int) -> None:
    """Take the number, so that no older writer can; raises `NumberTaken` if somebody has it."""
    await creator.create(
        ObjectKind.FENCE, number, wal_key(number), lambda header: encode_wal_object(header, ())
    )


async def read_wal(store: ObjectStore, number: int) -> tuple[Header, list[LogEntry]]:
    """The header and entries of a WAL object; a fence has none.

    Raises `ObjectNotFound`, and `CorruptObject` if it is damaged or is not the object of its key.
    """
    key = wal_key(number)
    header, entries = decode_wal_object(key, await store.get(key))
    if header.number != number:
        raise CorruptObject(key, f"it is number {header.number}")
    return header, entries
