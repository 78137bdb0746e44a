"""Which segments are dead, wholly or for the most part, and which cannot be read.

Theory of operation. What is dead stays dead, so a fate that was found is kept for as long as the
segment is named. Much can be told from the manifest alone, which costs nothing: when a segment has
expired, and whether the one stream it holds was trimmed past its end or is gone. For segments of
several streams, the rows of their footer have to be weighed. That is done for those that may hold
records of a stream that was trimmed or removed since the last look, and once, some while after a
start, for all of them: a restart forgets what was trimmed before it.
"""

from bisect import bisect_left

import attrs

from s2lite.codec.segment import NEVER_MS
from s2lite.core.compaction import Fate
from s2lite.model.errors import CorruptObject
from s2lite.model.log import StreamId
from s2lite.model.manifest import ObjectId, SegmentInfo
from s2lite.storage.current_manifest import CurrentManifest
from s2lite.storage.damage import Damage
from s2lite.storage.objects.object_store import ObjectNotFound
from s2lite.storage.retention import Retention
from s2lite.storage.segments import Segments
from s2lite.storage.slices import Slices, sorted_in_slices


@attrs.define(eq=False)
class SegmentFates:
    """What is known of the segments in force. Outlives the actor that uses it.

    `known` has those that are not live, `blocked` those whose damage keeps jobs from being done:
    they are tried again after a restart of the server. `unweighed` are to be weighed at
    leisure.
    """

    manifest: CurrentManifest
    segments: Segments
    retention: Retention
    damage: Damage
    known: dict[ObjectId, Fate] = attrs.field(factory=dict, init=False)
    blocked: set[ObjectId] = attrs.field(factory=set, init=False)
    unweighed: list[SegmentInfo] = attrs.field(factory=list, init=False)
    was_weighed: bool = attrs.field(default=False, init=False)
    """Whether `weigh_all_later` has been called."""
    next_change_ms: int | None = attrs.field(default=None, init=False)
    """When, by the wall clock, `judge` will next find that a segment has expired; None is never."""
    _touched: set[StreamId] = attrs.field(factory=set, init=False)

    def touch(self, stream_id: StreamId) -> None:
        """The stream was trimmed or removed: segments that hold records of it need a look."""
        self._touched.add(stream_id)

    @property
    def has_touched(self) -> bool:
        """Whether a stream was touched since the last look."""
        return bool(self._touched)

    async def judge(self) -> None:
        """Tell the fates of all segments in force as far as that needs no reading."""
        now_ms = self.retention.clock.now_ms()
        slices = Slices()
        known: dict[ObjectId, Fate] = {}
        changes: list[int] = []
        for info in self.manifest.value.segments:
            fate = self._at_a_glance(info, now_ms) or self.known.get(info.object_id)
            if fate is not None:
                known[info.object_id] = fate
            change_ms = _next_change_ms(info, now_ms)
            if change_ms is not None:
                changes.append(change_ms)
            await slices.worked()
        self.known = known
        self.next_change_ms = min(changes, default=None)

    async def weigh_touched(self) -> None:
        """Weigh the segments that may hold records of a stream that was touched.

        Raises `StorageFailed` if one cannot be read: then they still count as touched.
        """
        touched = self._touched
        self._touched = set()
        try:
            in_order = await sorted_in_slices(touched)
            for info in self.manifest.value.segments:
                if self._may_hold(info, in_order):
                    await self._weigh(info)
        except BaseException:
            self._touched |= touched
            raise

    def weigh_all_later(self) -> None:
        """Have all segments in force weighed by `weigh_some`."""
        self.unweighed = list(self.manifest.value.segments)
        self.was_weighed = True

    async def weigh_some(self, count: int) -> None:
        """Weigh so many of `unweighed`. Raises `StorageFailed` if one cannot be read."""
        for _ in range(min(count, len(self.unweighed))):
            await self._weigh(self.unweighed[-1])
            self.unweighed.pop()

    def _at_a_glance(self, info: SegmentInfo, now_ms: int) -> Fate | None:
        if info.expires_at_ms is not None and info.expires_at_ms <= now_ms:
            return Fate.DEAD
        stream_id, end_seq_num = info.end
        if info.first.stream_id == stream_id and not self.retention.keeps(
            stream_id, end_seq_num, info.expires_at_ms
        ):
            return Fate.DEAD
        if info.half_expires_at_ms is not None and info.half_expires_at_ms <= now_ms:
            return self.known.get(info.object_id, Fate.MOSTLY_DEAD)
        return None

    def _may_hold(self, info: SegmentInfo, touched: list[StreamId]) -> bool:
        index = bisect_left(touched, info.first.stream_id)
        return index < len(touched) and touched[index] <= info.end.stream_id

    async def _weigh(self, info: SegmentInfo) -> None:
        """Find out from its footer how much of a segment is dead."""
        if self.known.get(info.object_id) is Fate.DEAD:
            return
        try:
            footer = await self.segments.footer(info)
        except ObjectNotFound as error:
            self._block(info, error.key, "it is missing")
            return
        except CorruptObject as error:
            self._block(info, error.key, error.reason)
            return
        slices = Slices()
        total = dead = 0
        for row in footer.rows():
            total += row.size
            expires_at_ms = None if row.expires_at_ms == NEVER_MS else row.expires_at_ms
            if not self.retention.keeps(row.stream_id, row.end_seq_num, expires_at_ms):
                dead += row.size
            await slices.worked()
        if dead == total:
            self.known[info.object_id] = Fate.DEAD
        elif dead * 2 > total:
            self.known[info.object_id] = Fate.MOSTLY_DEAD

    def _block(self, info: SegmentInfo, key: str, reason: str) -> None:
        named = (each.object_id for each in self.manifest.value.segments)
        if info.object_id in named:  # or else it was replaced since, and may be gone
            self.damage.report(key, reason)
            self.blocked.add(info.object_id)


def _next_change_ms(info: SegmentInfo, now_ms: int) -> int | None:
    """When half of it, or all of it if half of it has, will have expired."""
    for change_ms in (info.half_expires_at_ms, info.expires_at_ms):
        if change_ms is not None and change_ms > now_ms:
            return change_ms
    return None
