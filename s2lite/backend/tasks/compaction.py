"""Keeps the runs few, and gives back the space of what is trimmed, expired or removed.

What is to be done is read off the manifest each time, so nothing is lost by a crash or a missed
signal; what was trimmed or removed before a restart is found by one pass over all segments a while
after it. An idle server makes no requests but those of that pass.
"""

import attrs
import trio

from actors import Actor, ActorRef, RestartKind, RestartPolicy
from s2lite.backend.tasks.alarm import Alarm
from s2lite.core.compaction import Job, next_job
from s2lite.model.log import StreamId
from s2lite.storage.compaction import Compactor
from s2lite.storage.fates import SegmentFates

TOUCHED_SECONDS = 1.0
"""How long trims and removals are gathered before segments are weighed for them."""

WEIGHING_INTERVAL_SECONDS = 60.0
"""How often that is done at most: a stream may be trimmed all the time."""

WEIGHING_SHARE = 20
"""Weighing takes at most one in so many seconds, however many segments there are."""

FIRST_PASS_SECONDS = 300.0
"""How long after the start all segments are weighed, when others have what they need in caches."""

WEIGHED_AT_ONCE = 16
"""So many segments of that pass are weighed before more urgent work is looked for."""

LONGEST_SLEEP_SECONDS = 3600.0
"""How long the wall clock is trusted to go at the pace of the timers."""

COMPACTION_RESTARTS = RestartPolicy(
    RestartKind.PERMANENT, max_restarts=10, first_delay_seconds=1.0, max_delay_seconds=60.0
)
"""It fails when the store does not answer, and that never uses this up: it may be late."""


@attrs.define(eq=False)
class CompactionActor(Actor[None]):
    """Carries out one job after the other. Takes no messages: it is woken.

    May be restarted after a failure: `fates` outlives it.
    """

    compactor: Compactor
    fates: SegmentFates
    _alarm: Alarm = attrs.field(init=False)
    _first_pass_at: float | None = None
    _weigh_at: float | None = None
    _rested_at: float = 0.0

    async def started(self) -> None:
        """Take up what an earlier run left."""
        self._alarm = Alarm(self.context)
        if not self.fates.was_weighed:
            self._first_pass_at = trio.current_time() + FIRST_PASS_SECONDS
        self.context.ref.wake()

    async def woken(self) -> None:
        """Do all there is to do, the most urgent first."""
        await self._weigh_touched()
        await self.fates.judge()
        while (job := self._next_job()) is not None:
            blocked = await self.compactor.carry_out(job, self.fates.known)
            if blocked is not None:
                self.fates.blocked.add(blocked)
            await self.fates.judge()
        await self.compactor.compact_catalog()
        await self._go_on_with_pass()
        self._set_alarm()

    def _next_job(self) -> Job | None:
        runs, fanout = self.compactor.manifest.value.runs, self.compactor.layout.fanout
        return next_job(runs, fanout, self.fates.known, self.fates.blocked)

    async def _weigh_touched(self) -> None:
        now = trio.current_time()
        if self.fates.has_touched and self._weigh_at is None:
            self._weigh_at = max(now + TOUCHED_SECONDS, self._rested_at)
        if self._weigh_at is not None and now >= self._weigh_at:
            await self.fates.weigh_touched()
            took = trio.current_time() - now
            self._weigh_at = None
            pause = max(WEIGHING_INTERVAL_SECONDS, took * WEIGHING_SHARE)
            self._rested_at = trio.current_time() + pause

    async def _go_on_with_pass(self) -> None:
        if self._first_pass_at is not None and trio.current_time() >= self._first_pass_at:
            self._first_pass_at = None
            self.fates.weigh_all_later()
        if self.fates.unweighed:
            await self.fates.weigh_some(WEIGHED_AT_ONCE)
            self.context.ref.wake()

    def _set_alarm(self) -> None:
        times = [at for at in (self._first_pass_at, self._weigh_at) if at is not None]
        if self.fates.next_change_ms is not None:
            seconds = (self.fates.next_change_ms - self.fates.retention.clock.now_ms()) / 1000
            times.append(trio.current_time() + min(seconds, LONGEST_SLEEP_SECONDS))
        if times:
            self._alarm.set(min(times))


@attrs.frozen(eq=False)
class CompactionClient:
    """What the rest of the server sees of it."""

    ref: ActorRef[None]
    fates: SegmentFates

    def flushed(self) -> None:
        """There is a new run. Never waits."""
        self.ref.wake()

    def touched(self, stream_id: StreamId) -> None:
        """The stream's trim point has moved, durably, or the stream is gone. Never waits."""
        woken_before = self.fates.has_touched
        self.fates.touch(stream_id)
        if not woken_before:
            self.ref.wake()
