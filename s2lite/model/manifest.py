"""The manifest: what exists under a storage path, as its writer last knew it."""

import attrs


@attrs.frozen
class Manifest:
    """One version of the manifest. Each is written once, under the next number, and never changed.

    Every WAL object below `wal_floor` is covered by other objects and need not be replayed.
    `wal_in_flight` is how many WAL objects the writer may be writing at once, and so how far beyond
    a fence an object of it may still turn up. `closed_cleanly` says that nothing follows this.
    """

    wal_floor: int = 0
    wal_in_flight: int = 1
    closed_cleanly: bool = False
