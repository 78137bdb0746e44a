"""How big the pieces are in which the log is kept."""

from typing import Final

import attrs

KIB: Final = 1024
MIB: Final = 1024 * KIB


@attrs.frozen
class Layout:
    """Sizes in bytes. The defaults suit a server; tests take small ones, to see many pieces."""

    memtable_bytes: int = 64 * MIB
    """What is kept in memory before it is flushed; as much again while a flush is under way."""

    wal_object_bytes: int = 8 * MIB
    """A WAL object is closed when it reaches this: larger ones gain nothing per request."""

    wal_object_entries: int = 500
    """And when it has so many entries: they are applied in one step, which has to be short."""

    wal_objects: int = 1024
    """A flush is due when so many WAL objects are not covered by one: each costs a replay a GET."""

    entry_bytes: int = 64 * KIB
    """Small adjacent batches of a stream are joined to entries of up to this in a segment."""

    block_bytes: int = 256 * KIB
    """The unit in which a segment is read, verified and cached."""

    segment_bytes: int = 32 * MIB
    """A segment is closed when its blocks reach this: it is put together in memory."""

    footer_bytes: int = 1 * MIB
    """A segment is closed when its index reaches this: the index is read and cached as a whole."""

    fanout: int = 8
    """So many adjacent runs of a tier are merged into one of the next."""
