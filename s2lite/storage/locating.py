"""Finds where in the runs a stream's records are, with as few requests as that takes.

Theory of operation. In a run, a stream's records are in one segment or in a few that follow one
another, and a segment says of its first and its last stream exactly where its part begins or ends.
So in each run at most one segment can have the record at a position, and often that alone tells
which run it is in. Otherwise the indexes (footers) of the segments that may have it tell. Runs do
not overlap within a stream: a block that spans the position is the right one, whatever others say;
and when no block spans it, what follows next is in the oldest run that has anything behind it.

An index that cannot be read may hide anything between what is before it and what is behind it.
Only what may be hidden there cannot be read.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from s2lite.codec.segment import BlockRow, Footer
from s2lite.model.errors import CorruptObject, StorageError
from s2lite.model.limits import U64_MAX
from s2lite.model.log import StreamId
from s2lite.model.manifest import Run, SegmentInfo, StreamKey
from s2lite.storage.block_cache import CacheItem
from s2lite.storage.current_manifest import CurrentManifest
from s2lite.storage.objects.object_store import ObjectNotFound
from s2lite.storage.segments import Place, Segments, footer_in, segment_key
from s2lite.storage.slices import Slices

Runs = Sequence[Run]

FOOTERS_AT_ONCE: Final = 8

_NOT_SAID: Final = U64_MAX


@attrs.define
class SegmentReplaced(StorageError):
    """A segment is gone, and the manifest in force has others in its place: look there."""

    key: str

    def __str__(self) -> str:
        return f"object `{self.key}` has been replaced"


@attrs.frozen(eq=False)
class _Found:
    """A block, by its segment and its place in the index."""

    segment: SegmentInfo
    footer: Footer
    index: int

    @property
    def row(self) -> BlockRow:
        return self.footer.row(self.index)

    def rows(self, stream_id: StreamId, end: int) -> Iterator[BlockRow]:
        """It and those behind it, as far as they are of the same stream and begin before `end`."""
        for index in range(self.index, len(self.footer)):
            row = self.footer.row(index)
            if row.stream_id != stream_id or row.first_seq_num >= end:
                return
            yield row


@attrs.frozen(eq=False)
class Locator:
    """Knows the way from a stream and a position to blocks.

    Its methods raise `SegmentReplaced` if the runs they were given are no longer in force,
    `CorruptObject` if damage may hide what is looked for, and `StorageFailed`.
    """

    manifest: CurrentManifest
    segments: Segments

    async def stretch(
        self,
        runs: Runs,
        stream_id: StreamId,
        start: int,
        end: int,
        now_ms: int,
        *,
        max_bytes: int,
        max_records: int = U64_MAX,
        far: bool = False,
    ) -> list[Place]:
        """The next blocks in [start, end) of which something has not expired, if there are any.

        They are as few as reach `max_bytes` or `max_records`, and unless it is to be `far`, only
        those that take no further requests once there is one. An error cuts the stretch short; it
        is raised only if there is nothing before it.
        """
        places: list[Place] = []
        position, size, records = start, 0, 0
        slices = Slices()
        try:
            while position < end and size < max_bytes and records < max_records:
                found = await self._next_block(
                    runs, stream_id, position, end, now_ms, may_request=far or not places
                )
                if found is None:
                    break
                for row in found.rows(stream_id, end):
                    if row.expires_at_ms > now_ms:
                        places.append(Place(found.segment, row))
                        records += row.end_seq_num - max(row.first_seq_num, start)
                        size += row.size
                    position = row.end_seq_num
                    if size >= max_bytes or records >= max_records:
                        break
                    await slices.worked()
        except StorageError:
            if not places:
                raise
        return places

    async def first_at_or_after(
        self, runs: Runs, stream_id: StreamId, timestamp: int
    ) -> Place | None:
        """The stream's first block whose last record is stamped `timestamp` or later."""
        segments = [each for run in runs for each in _segments_of(run, stream_id)]
        unreadable: list[tuple[int, CorruptObject]] = []
        found: Place | None = None
        # Everything before `low` is earlier, and nothing from `high` on is wanted any more.
        low, high = 0, len(segments)
        left = list(range(high))
        while left:
            middle = left[len(left) // 2]
            try:
                footer = await self._footer(
                    segments[middle], self.segments.start_footer(segments[middle])
                )
            except CorruptObject as error:
                unreadable.append((middle, error))
                left.remove(middle)
                continue
            first = _own_row(footer, footer.first_ending_after(stream_id, 0), stream_id)
            row = _own_row(footer, footer.first_at_or_after(stream_id, timestamp), stream_id)
            if first is None:
                left.remove(middle)
            elif row is None:
                low = middle + 1
            else:
                found, high = Place(segments[middle], row), middle
                if first.first_timestamp < timestamp:
                    return found
            left = [each for each in left if low <= each < high]
        for index, damage in unreadable:
            if low <= index < high:
                raise damage
        return found

    def missing(self, segment: SegmentInfo) -> StorageError:
        """What it means that a segment is not in the store."""
        key = segment_key(segment.object_id)
        named = (each.object_id for each in self.manifest.value.segments)
        return (
            CorruptObject(key, "it is missing")
            if segment.object_id in named
            else SegmentReplaced(key)
        )

    async def _next_block(
        self,
        runs: Runs,
        stream_id: StreamId,
        position: int,
        end: int,
        now_ms: int,
        *,
        may_request: bool,
    ) -> _Found | None:
        """The stream's first block that ends after `position`, if it begins before `end`.

        None as well if it takes a request to know and none may be made.
        """
        segments = _candidates(runs, stream_id, position, end, now_ms)
        for segment in reversed(segments):
            footer = self.segments.kept_footer(segment)
            if footer is not None:
                found = _found(segment, footer, stream_id, position)
                if found is not None and found.row.first_seq_num <= position:
                    return found
        unreadable: CorruptObject | None = None
        needed = list(_until_certain(segments, stream_id, position))
        if not may_request and None in map(self.segments.kept_footer, needed):
            return None
        for first in range(0, len(needed), FOOTERS_AT_ONCE):
            group = needed[first : first + FOOTERS_AT_ONCE]
            for segment, footer_or_error in zip(group, await self._footers(group), strict=True):
                if isinstance(footer_or_error, CorruptObject):
                    unreadable = unreadable or footer_or_error
                    continue
                if _begins_by(footer_or_error, stream_id, position):
                    unreadable = None  # what is older ends before that
                found = _found(segment, footer_or_error, stream_id, position)
                if found is None:
                    continue
                if unreadable is not None:
                    raise unreadable
                return found if found.row.first_seq_num < end else None
        if unreadable is not None:
            raise unreadable
        return None

    async def _footers(self, segments: Sequence[SegmentInfo]) -> list[Footer | CorruptObject]:
        """The indexes, read at the same time."""
        items = [self.segments.start_footer(segment) for segment in segments]
        footers: list[Footer | CorruptObject] = []
        for segment, item in zip(segments, items, strict=True):
            try:
                footers.append(await self._footer(segment, item))
            except CorruptObject as error:
                footers.append(error)
        return footers

    async def _footer(self, segment: SegmentInfo, item: CacheItem) -> Footer:
        try:
            return await footer_in(item)
        except ObjectNotFound as error:
            raise self.missing(segment) from error


def _candidates(
    runs: Runs, stream_id: StreamId, start: int, end: int, now_ms: int
) -> list[SegmentInfo]:
    """The segment of each run, oldest first, that may have the first records in [start, end)."""
    of_runs = (_candidate(run, stream_id, start, end, now_ms) for run in runs)
    candidates = [segment for segment in of_runs if segment is not None]
    for index in range(len(candidates) - 1, 0, -1):
        if _begins(candidates[index], stream_id) <= start:
            return candidates[index:]  # those before it end where it begins, at the latest
    return candidates


def _candidate(
    run: Run, stream_id: StreamId, start: int, end: int, now_ms: int
) -> SegmentInfo | None:
    segments, last = run.segments, StreamKey(stream_id, end)
    index = bisect_right(segments, StreamKey(stream_id, start), key=_end)
    while index < len(segments) and segments[index].first < last:
        expires_at_ms = segments[index].expires_at_ms
        if expires_at_ms is None or expires_at_ms > now_ms:
            return segments[index]
        index += 1
    return None


def _until_certain(
    candidates: Sequence[SegmentInfo], stream_id: StreamId, start: int
) -> Iterator[SegmentInfo]:
    """Those up to the first that has records of the stream from `start` on, as its ends say."""
    for segment in candidates:
        yield segment
        if start < _begins(segment, stream_id) < _NOT_SAID or segment.end.stream_id == stream_id:
            return


def _segments_of(run: Run, stream_id: StreamId) -> Iterator[SegmentInfo]:
    """The segments of the run that may have records of the stream."""
    index = bisect_right(run.segments, StreamKey(stream_id, 0), key=_end)
    while index < len(run.segments) and run.segments[index].first.stream_id <= stream_id:
        yield run.segments[index]
        index += 1


def _begins(segment: SegmentInfo, stream_id: StreamId) -> int:
    """Where the stream begins in the segment, if the segment's first key tells."""
    return segment.first.seq_num if segment.first.stream_id == stream_id else _NOT_SAID


def _end(segment: SegmentInfo) -> StreamKey:
    return segment.end


def _found(
    segment: SegmentInfo, footer: Footer, stream_id: StreamId, position: int
) -> _Found | None:
    """The stream's first block in the segment that ends after `position`."""
    index = footer.first_ending_after(stream_id, position)
    own = _own_row(footer, index, stream_id)
    return None if own is None else _Found(segment, footer, index)


def _begins_by(footer: Footer, stream_id: StreamId, position: int) -> bool:
    """Whether the stream is in the segment, and begins there at `position` or before it."""
    first = _own_row(footer, footer.first_ending_after(stream_id, 0), stream_id)
    return first is not None and first.first_seq_num <= position


def _own_row(footer: Footer, index: int, stream_id: StreamId) -> BlockRow | None:
    row = footer.row(index) if index < len(footer) else None
    return row if row is not None and row.stream_id == stream_id else None
