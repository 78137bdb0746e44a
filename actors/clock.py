"""Clock: where time that does not drive timers comes from, so that tests can supply their own."""

from __future__ import annotations

import time
from typing import Final, Protocol

import attrs

# Linux's monotonic clock stands still while the machine is suspended; that of macOS does not.
_CLOCK_THROUGH_SUSPENSION: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Time that is looked at. Timers do not use it: they run on trio's clock."""

    def now_ms(self) -> int:
        """Return the wall time in milliseconds since the epoch; it may go back."""

    def elapsed_seconds(self) -> float:
        """Return the seconds since some fixed moment; it never goes back.

        It goes on while the machine is suspended or the process is stopped, as trio's clock need
        not: what it measures is how long others may have been active meanwhile.
        """


@attrs.frozen
class SystemClock:
    """The machine's own clock, UTC."""

    def now_ms(self) -> int:
        """Return the wall time in milliseconds since the epoch; it may go back."""
        return time.time_ns() // 1_000_000  # noqa: TID251  # everyone else is passed this clock

    def elapsed_seconds(self) -> float:
        """Return the seconds since some fixed moment, suspension included; it never goes back."""
        return time.clock_gettime(_CLOCK_THROUGH_SUSPENSION)  # see above
