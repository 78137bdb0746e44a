"""Keeps Python's search for garbage cycles short, however much the server holds in memory.

Theory of operation. Nearly everything is freed when the last reference to it goes. What is left for
the collector (see `gc`) are cycles, and to find them it visits all there is, in one go: with ten
thousand streams in use that holds up everybody for half a second. So what has been there for a
while is taken out of its sight (frozen), again and again; that costs nothing, and what is frozen is
freed by its references like everything else. Only a cycle that was frozen and then given up stays.
The server makes none that live long. In case that it does after all, everything is looked at when
the process has doubled in size, which ends the growth of a leak, and costs a second at most.
"""

import gc
import resource
from pathlib import Path
from typing import Final

import trio

FREEZE_SECONDS: Final = 10.0

YOUNG_OBJECTS: Final = 1_000
"""How many new objects there are before the young ones are looked at. An object takes one or two
microseconds, so that a pass is short, and one over those that survived a few passes as well."""

YOUNG_PASSES: Final = 5
"""How many such passes before those that survived them are looked at again."""

NEVER: Final = 1_000_000
"""So many of those before everything is looked at: freezing does away with the need."""

GROWTH: Final = 2.0
"""Everything is looked at when the process is so many times as large as after the last look."""

LEAST_GROWTH_BYTES: Final = 1024 * 1024 * 1024
"""And by so much at least: the memory budgets of a busy server add up to half of that."""

_MEMORY: Final = Path("/proc/self/statm")


def freeze() -> None:
    """Take what is in memory now, but for cycles that are young, out of the collector's sight."""
    gc.collect(1)
    gc.freeze()


async def keep_frozen() -> None:
    """Freeze what there is now, and from then on what stays, until cancelled."""
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_PASSES, NEVER)
    look_at_everything()
    size = resident_bytes()
    while True:
        await trio.sleep(FREEZE_SECONDS)
        freeze()
        if resident_bytes() > max(size * GROWTH, size + LEAST_GROWTH_BYTES):
            look_at_everything()
            size = resident_bytes()


def look_at_everything() -> None:
    """Free cycles wherever they are; holds up everybody for as long as it takes."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def resident_bytes() -> int:
    """How much memory the process has, or 0 where the system does not tell."""
    if not _MEMORY.exists():
        return 0
    return int(_MEMORY.read_text().split()[1]) * resource.getpagesize()
