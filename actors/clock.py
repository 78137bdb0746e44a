"""Clock: where wall time comes from, so that tests can supply their own."""

from __future__ import annotations

import time
from typing import Protocol

import attrs


class Clock(Protocol):
    """Wall time. Timers do not use it: they run on trio's clock, which never jumps."""

    def now_ms(self) -> int:
        """Return the wall time in milliseconds since the epoch; it may go back."""


@attrs.frozen
class SystemClock:
    """The machine's own clock, UTC."""

    def now_ms(self) -> int:
        """Return the wall time in milliseconds since the epoch; it may go back."""
        return time.time_ns() // 1_000_000  # noqa: TID251  # everyone else is passed this clock
