"""Bytes on their way to one socket."""

from collections.abc import Callable

import trio
from trio.abc import SendStream


class Outbox:
    """Collects what any task wants sent, and has one task send it.

    Writers never block and never meet a socket error; one that has to wait for room awaits
    `wait_below`. Because there is a single sender, whatever is written before it gets its turn
    leaves in one system call, and no close or send can race another.
    """

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._wakeup = trio.Event()
        self._progress = trio.lowlevel.ParkingLot()
        self._finishing = False
        self.size = 0
        self.broken = False

    def write(self, data: bytes) -> None:
        """Add bytes behind those already waiting. Dropped if the socket has failed."""
        if self.broken or not data:
            return
        self._chunks.append(data)
        self.size += len(data)
        self._wakeup.set()

    def wake(self) -> None:
        """Have the sender call its `fill` soon."""
        self._wakeup.set()

    def fail(self) -> None:
        """Drop everything, now and from now on, and let nobody wait."""
        self.broken = True
        self._chunks.clear()
        self.size = 0
        self._wakeup.set()
        self._progress.unpark_all()

    async def wait_below(self, limit: int) -> None:
        """Wait until fewer than `limit` bytes are unsent, or the socket has failed."""
        while self.size >= limit and not self.broken:
            await self._progress.park()

    async def finish(self) -> None:
        """Wait until everything is sent (or the socket has failed), then end `send_to`."""
        self._finishing = True
        self._wakeup.set()
        await self.wait_below(1)

    async def send_to(self, stream: SendStream, fill: Callable[[], None]) -> None:
        """Send until `finish` or a failure of the socket; `fill` is called before each write.

        Raises nothing of the socket's: a failure shows in `broken`.
        """
        while not self.broken:
            fill()
            if self._chunks:
                await self._send_once(stream)
            elif self._finishing:
                return
            else:
                await self._wakeup.wait()
                self._wakeup = trio.Event()

    async def _send_once(self, stream: SendStream) -> None:
        chunks, self._chunks = self._chunks, []
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        try:
            await stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            self.fail()
        else:
            self.size -= len(data)
            self._progress.unpark_all()
