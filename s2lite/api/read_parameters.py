"""The query parameters of a read."""

import attrs

from s2lite.api.query import Query
from s2lite.codec.sse import BatchEventId
from s2lite.model.reads import ReadLimits, ReadRequest, choose_start


@attrs.frozen
class ReadParameters:
    """The parameters as given; None is absent. What they mean together is checked later."""

    seq_num: int | None
    timestamp: int | None
    tail_offset: int | None
    clamp: bool
    limits: ReadLimits
    wait_seconds: int | None

    @classmethod
    def parse(cls, query: Query) -> "ReadParameters":
        """Parse each parameter by itself; raises `BadRequest`."""
        return cls(
            seq_num=query.u64("seq_num"),
            timestamp=query.u64("timestamp"),
            tail_offset=query.u64("tail_offset"),
            clamp=query.boolean("clamp"),
            limits=ReadLimits(query.u64("count"), query.u64("bytes"), query.u64("until")),
            wait_seconds=query.u32("wait"),
        )

    def to_request(self, resumed_at: BatchEventId | None = None) -> ReadRequest:
        """Put the parameters together; raises `InvalidInput` if they contradict each other.

        The event after which to resume takes the place of the start, which must still be valid.
        """
        start = choose_start(self.seq_num, self.timestamp, self.tail_offset)
        if resumed_at is None:
            return ReadRequest(start, self.clamp, self.limits, self.wait_seconds)
        return ReadRequest(
            clamp=self.clamp, limits=self.limits, wait_seconds=self.wait_seconds
        ).resumed_after(resumed_at.seq_num, resumed_at.count, resumed_at.metered_bytes)
