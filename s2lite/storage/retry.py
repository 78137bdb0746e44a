"""Tries a request to the store again until it is answered, or the store has been away too long."""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from s2lite.model.errors import StorageFailed
from s2lite.storage.objects.object_store import StoreRefused, StoreUnavailable

T = TypeVar("T")

ATTEMPT_SECONDS = 10.0
"""How long one attempt may take before it is given up as ambiguous and made again."""

ATTEMPT_BYTES_PER_SECOND = 1024 * 1024
"""How slow the transfer itself may be: an attempt has so much longer the more it moves."""

DEADLINE_SECONDS = 60.0
"""How long a request is retried; a store that is away for longer stops the server."""

FIRST_BACKOFF_SECONDS = 0.05
MAX_BACKOFF_SECONDS = 2.0


async def retrying(
    what: str, attempt: Callable[[], Awaitable[T]], rng: random.Random, size_bytes: int = 0
) -> T:
    """What the first attempt that succeeds returns; `what` names the request in errors.

    `size_bytes` is how much an attempt moves, where that may take a while.

    Raises `StorageFailed` if none does before the deadline or the store refuses, and at once
    whatever else an attempt raises. Attempts that failed may have taken effect.
    """
    deadline = trio.current_time() + DEADLINE_SECONDS
    attempt_seconds = ATTEMPT_SECONDS + size_bytes / ATTEMPT_BYTES_PER_SECOND
    backoff = FIRST_BACKOFF_SECONDS
    while True:
        try:
            with trio.fail_after(attempt_seconds):
                return await attempt()
        except StoreRefused as error:
            raise StorageFailed(str(error)) from error
        except (StoreUnavailable, trio.TooSlowError) as error:
            pause = backoff * rng.uniform(0.5, 1.0)
            if trio.current_time() + pause > deadline:
                raise StorageFailed(
                    f"the object store has not answered for `{what}`"
                    f" within {DEADLINE_SECONDS:.0f} s: {error!r}"
                ) from error
        await trio.sleep(pause)
        backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)
