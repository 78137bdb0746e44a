"""The manifest: what exists under a storage path, as its writer last knew it.

Records lie in *segments*, immutable objects sorted by stream and seq_num. A *run* is an ordered
list of segments that do not overlap: what one flush or one compaction wrote. Runs are ordered by
age, so that of two runs that hold records of the same stream, the older one has the lower seq_nums.
"""

from typing import NamedTuple

import attrs

from s2lite.model.log import StreamId


class ObjectId(NamedTuple):
    """The identity of a segment or a catalog object: never given twice under one path.

    The epoch is that of the writer who made it, the number counts that writer's objects.
    """

    epoch: int
    number: int

    def __str__(self) -> str:
        return f"{self.epoch:010d}-{self.number:010d}"


class StreamKey(NamedTuple):
    """A place in the order of segments: by stream, then by seq_num."""

    stream_id: StreamId
    seq_num: int


@attrs.frozen
class SegmentInfo:
    """One segment: what can be told of it without reading it.

    It holds records from `first` up to, and not including, `end`, of these two streams and of those
    between. `footer_offset` is where its index begins. At `expires_at_ms` its last record has
    expired, at `half_expires_at_ms` half of its bytes have; None is never.
    """

    object_id: ObjectId
    size_bytes: int
    footer_offset: int
    first: StreamKey
    end: StreamKey
    expires_at_ms: int | None = None
    half_expires_at_ms: int | None = None


@attrs.frozen
class Run:
    """Segments in order. A flush makes runs of tier 0, merging runs of a tier one of the next."""

    tier: int
    segments: tuple[SegmentInfo, ...]

    @property
    def size_bytes(self) -> int:
        """The size of its segments."""
        return sum(segment.size_bytes for segment in self.segments)


@attrs.frozen
class Manifest:
    """One version of the manifest. Each is written once, under the next number, and never changed.

    Every WAL object below `wal_floor` is covered by `runs` (oldest first) and by the `catalog`
    objects (oldest first: the newer one wins), and need not be replayed. `wal_in_flight` is how
    many WAL objects the writer may be writing at once, and so how far beyond a fence an object of
    it may still turn up. `wal_end` is one past the last WAL object if the writer closed cleanly,
    which means that nothing follows, and else None. `catalog_is_whole` is False once a change of
    the catalog may have been lost: there may have been streams that it does not know.
    """

    wal_floor: int = 0
    wal_in_flight: int = 1
    runs: tuple[Run, ...] = ()
    catalog: tuple[ObjectId, ...] = ()
    wal_end: int | None = None
    closed_cleanly: bool = False
    catalog_is_whole: bool = True

    @property
    def segments(self) -> tuple[SegmentInfo, ...]:
        """All live segments."""
        return tuple(segment for run in self.runs for segment in run.segments)
