"""RestartPolicy and its time window; arithmetic only, the caller passes the time."""

from __future__ import annotations

import enum
import random
from collections import deque
from typing import Any

import attrs


class RestartKind(enum.Enum):
    """Which ends of a child call for a restart."""

    PERMANENT = "permanent"
    """Every one, also when it stops of its own accord."""
    TRANSIENT = "transient"
    """Only a crash."""
    TEMPORARY = "temporary"
    """None."""


def _positive(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not value > 0:
        raise ValueError(f"{attribute.name} must be positive, not {value}")


def _not_negative(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if value < 0:
        raise ValueError(f"{attribute.name} must not be negative, not {value}")


@attrs.frozen
class RestartPolicy:
    """When a child is restarted, how soon, and how often before its supervisor gives up.

    Up to `max_restarts` restarts are allowed in any `window_seconds`; one more and the supervisor
    fails. The first restart in a window comes after `first_delay_seconds`, each further one after
    `multiplier` times as long, at most `max_delay_seconds`. `jitter` is the share of each delay
    that is random: 0.1 makes it 0.9 to 1.1 times as long.
    """

    kind: RestartKind = RestartKind.TEMPORARY
    max_restarts: int = attrs.field(default=5, validator=_not_negative)
    window_seconds: float = attrs.field(default=60.0, validator=_positive)
    first_delay_seconds: float = attrs.field(default=0.1, validator=_not_negative)
    max_delay_seconds: float = attrs.field(default=10.0, validator=_not_negative)
    multiplier: float = attrs.field(default=2.0, validator=_positive)
    jitter: float = attrs.field(default=0.1, validator=_not_negative)

    def wants_restart(self, crashed: bool) -> bool:
        """Whether a child that crashed, or stopped of its own accord, is to be restarted."""
        match self.kind:
            case RestartKind.PERMANENT:
                return True
            case RestartKind.TRANSIENT:
                return crashed
            case RestartKind.TEMPORARY:
                return False

    def delay_seconds(self, restarts_before: int, rng: random.Random | None) -> float:
        """Return how long to wait before a restart that has `restarts_before` it in the window.

        Without an `rng` there is no jitter.
        """
        # Past 2**64 the delay is at its maximum with any sane multiplier, and ** would overflow.
        growth = self.multiplier ** min(restarts_before, 64)
        delay = min(self.first_delay_seconds * growth, self.max_delay_seconds)
        if rng is None:
            return delay
        return max(0.0, delay * (1 + self.jitter * rng.uniform(-1, 1)))


PERMANENT = RestartPolicy(RestartKind.PERMANENT)
TRANSIENT = RestartPolicy(RestartKind.TRANSIENT)
TEMPORARY = RestartPolicy(RestartKind.TEMPORARY)


@attrs.define(eq=False)
class RestartWindow:
    """The recent restarts of one child, held against its policy."""

    policy: RestartPolicy
    _times: deque[float] = attrs.field(factory=deque, init=False)

    def admit(self, now_seconds: float) -> int | None:
        """Record a restart at this time and return how many precede it in the window.

        Returns None, and records nothing, if the policy allows no more of them. A restart counts
        until `window_seconds` have passed since it; `now_seconds` never goes back.
        """
        while self._times and now_seconds - self._times[0] >= self.policy.window_seconds:
            self._times.popleft()
        before = len(self._times)
        if before >= self.policy.max_restarts:
            return None
        self._times.append(now_seconds)
        return before
