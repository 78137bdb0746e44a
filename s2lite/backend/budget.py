"""A budget of bytes that whoever brings data takes from before it is accepted."""

from collections import deque

import attrs
import trio


@attrs.define(eq=False)
class Permit:
    """Bytes taken from a budget, to be given back once; giving back again does nothing."""

    _budget: "ByteBudget"
    _size_bytes: int

    def give_back(self) -> None:
        """Return the bytes, and let those in who wait for them."""
        size, self._size_bytes = self._size_bytes, 0
        self._budget.release(size)


@attrs.define(eq=False)
class ByteBudget:
    """So many bytes and no more; those who wait are served in the order they came.

    Strictly first in, first out: a small request does not overtake a large one, which could
    otherwise wait forever.
    """

    total_bytes: int
    used_bytes: int = 0
    _waiting: deque[tuple[int, trio.Event]] = attrs.field(factory=deque)

    def has_room(self, size_bytes: int) -> bool:
        """Whether `take` would not wait."""
        size = min(size_bytes, self.total_bytes)
        return not self._waiting and self.used_bytes + size <= self.total_bytes

    async def take(self, size_bytes: int) -> Permit:
        """Wait until there is room, and take it; a cancelled call has taken nothing.

        More than the whole budget counts as the whole budget, and so waits until it is free.
        """
        size = min(size_bytes, self.total_bytes)
        if self.has_room(size):
            await trio.lowlevel.checkpoint_if_cancelled()
            self.used_bytes += size
        else:
            await self._wait(size)
        return Permit(self, size)

    def release(self, size_bytes: int) -> None:
        """Return bytes; for permits."""
        self.used_bytes -= size_bytes
        self._serve()

    async def _wait(self, size: int) -> None:
        ticket = (size, trio.Event())
        self._waiting.append(ticket)
        try:
            await ticket[1].wait()
        except trio.Cancelled:
            if ticket[1].is_set():
                self.used_bytes -= size
            else:
                self._waiting.remove(ticket)
            self._serve()
            raise

    def _serve(self) -> None:
        while self._waiting and self.used_bytes + self._waiting[0][0] <= self.total_bytes:
            size, turn = self._waiting.popleft()
            self.used_bytes += size
            turn.set()
