"""Where in a stream something is."""

from typing import ClassVar

import attrs


@attrs.frozen
class StreamPosition:
    """A sequence number together with a timestamp in milliseconds.

    As a record's position both are the record's own. As a *tail*, `seq_num` is the number the next
    record will get and `timestamp` is the last record's; a stream that never had a record has the
    tail `StreamPosition.ZERO`.
    """

    seq_num: int
    timestamp: int

    ZERO: ClassVar["StreamPosition"]


StreamPosition.ZERO = StreamPosition(0, 0)
