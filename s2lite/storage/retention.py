"""What of the log is still wanted."""

from collections.abc import Callable

import attrs

from actors.clock import Clock
from s2lite.model.log import StreamId

FloorOf = Callable[[StreamId], int | None]
"""The durable trim point of a stream; None if the stream is gone with all of its records."""


@attrs.frozen(eq=False)
class Retention:
    """Tells records that may be dropped from those that must be kept, as of now."""

    floor_of: FloorOf
    clock: Clock

    def keeps(self, stream_id: StreamId, end_seq_num: int, expires_at_ms: int | None) -> bool:
        """Whether records of the stream up to `end_seq_num` are not all trimmed or expired.

        `expires_at_ms` is when the last of them expires; None is never.
        """
        floor = self.floor_of(stream_id)
        if floor is None or end_seq_num <= floor:
            return False
        return expires_at_ms is None or expires_at_ms > self.clock.now_ms()
