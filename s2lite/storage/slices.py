"""Long work on the event loop, in slices that are short enough for everybody else."""

from collections.abc import Iterable
from heapq import merge
from typing import Final

import attrs
import trio

from s2lite.model.log import StreamId

SLICE_BYTES: Final = 256 * 1024
SLICE_ITEMS: Final = 500
SORTED_AT_ONCE: Final = 4096


@attrs.define(eq=False)
class Slices:
    """Counts work, and lets others have their turn after each slice of it."""

    _items: int = 0
    _bytes: int = 0

    async def worked(self, size_bytes: int = 0) -> None:
        """One more item, and so many bytes that were copied or summed up, are done."""
        self._items += 1
        self._bytes += size_bytes
        if self._items >= SLICE_ITEMS or self._bytes >= SLICE_BYTES:
            self._items = self._bytes = 0
            await trio.lowlevel.checkpoint()


async def sorted_in_slices(stream_ids: Iterable[StreamId]) -> list[StreamId]:
    """What `sorted` returns; a hundred thousand ids would take it a tenth of a second."""
    unsorted = list(stream_ids)
    chunks: list[list[StreamId]] = []
    for start in range(0, len(unsorted), SORTED_AT_ONCE):
        chunks.append(sorted(unsorted[start : start + SORTED_AT_ONCE]))
        await trio.lowlevel.checkpoint()
    slices = Slices()
    result: list[StreamId] = []
    for stream_id in merge(*chunks):
        result.append(stream_id)
        await slices.worked()
    return result


async def gathered_in_slices(items: Iterable[object]) -> list[object]:
    """The items as a list."""
    slices = Slices()
    gathered: list[object] = []
    for item in items:
        gathered.append(item)
        await slices.worked()
    return gathered


async def free_in_slices(pieces: list[object]) -> None:
    """Empty the list of the parts of a structure, containers last, that nobody else holds any more.

    To free a large structure at once takes almost as long as to build it.
    """
    while pieces:
        del pieces[-SLICE_ITEMS:]
        await trio.lowlevel.checkpoint()
