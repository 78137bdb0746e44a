"""How often the log writer may start a write; arithmetic only, the caller passes the time."""

from typing import Final

import attrs

BURST: Final = 20
"""How many writes may follow each other at once after a pause."""

SHORTEST_PAUSE_SECONDS: Final = 1e-6
"""What is shorter is a rounding error, after which there might be another, and no time between."""


@attrs.define(eq=False)
class Pacing:
    """A bucket of `burst` tokens, one write each, that gains one every `interval_seconds`.

    What is paid for is the number of requests, so under steady load they are so far apart on
    average; whoever comes after a pause does not wait. With an interval of 0 nobody ever does.
    """

    interval_seconds: float = 0.0
    burst: int = BURST
    # One time says it all: when the bucket is full, or will be if no token is taken.
    _full_at: float = -float("inf")

    def seconds_to_wait(self, now: float) -> float:
        """How long it is until there is a token; 0 if there is one."""
        pause = self._full_at - (self.burst - 1) * self.interval_seconds - now
        return pause if pause > SHORTEST_PAUSE_SECONDS else 0.0

    def take(self, now: float) -> None:
        """Take a token. Where there is none, who does not wait leaves no debt to those after it."""
        empty = now + self.burst * self.interval_seconds
        self._full_at = min(max(self._full_at, now) + self.interval_seconds, empty)
