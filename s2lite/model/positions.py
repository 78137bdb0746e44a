"""Where in a stream something is."""

from typing import ClassVar

import msgspec


# Here and wherever else `gc=False` is: there may be hundreds of thousands of these at a time. The
# garbage collector would visit all of them, and meanwhile nothing else happens. Values like these
# are in no cycle.
class StreamPosition(msgspec.Struct, frozen=True, gc=False):
    """A sequence number together with a timestamp in milliseconds.

    As a record's position both are the record's own. As a *tail*, `seq_num` is the number the next
    record will get and `timestamp` is the last record's; a stream that never had a record has the
    tail `StreamPosition.ZERO`.
    """

    seq_num: int
    timestamp: int

    ZERO: ClassVar["StreamPosition"]


StreamPosition.ZERO = StreamPosition(0, 0)
