"""A request body between the connection's read loop and the application."""

from collections.abc import Callable
from typing import Any

import trio


def ignore(_size: int) -> None:
    """Take note of nothing."""


class RequestBody:
    """Holds what has arrived of one request body until the application asks for it.

    The read loop puts without ever waiting; how much can pile up is for flow control to bound.
    `consumed` is called with the flow-control cost of bytes that the application took or that were
    dropped. `buffered` is called with every change of how many bytes are held. Calling the object
    is hypercorn's way of putting an ASGI message.
    """

    def __init__(self, buffered: Callable[[int], None] = ignore) -> None:
        self.consumed: Callable[[int], None] = ignore
        self._buffered = buffered
        self.size = 0
        self._chunks: list[bytes] = []
        self._cost = 0
        self._complete = False
        self._delivered = False
        self._gone = False
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def gone(self) -> bool:
        """Whether nothing more will be delivered but the disconnect."""
        return self._gone

    def feed(self, data: bytes, cost: int) -> None:
        """Add a chunk that took `cost` bytes of flow-control window."""
        if self._gone:
            self.consumed(cost)
            return
        if data:
            self._chunks.append(data)
            self.size += len(data)
            self._buffered(len(data))
        self._cost += cost
        self._notify()

    def complete(self) -> None:
        """Note that the client has sent all of it."""
        self._complete = True
        self._notify()

    def disconnect(self) -> None:
        """Drop what was not asked for; from now on there is only `http.disconnect`."""
        self._gone = True
        self._take()
        self._notify()

    def hang_up(self) -> None:
        """Note that the client has gone after a complete request: deliver that, then disconnect."""
        if not self._complete:
            self.disconnect()
        self._gone = True
        self._notify()

    def close_account(self) -> None:
        """Tell `buffered` of nothing from now on: nobody asks for the rest any more."""
        self._buffered(-self.size)
        self._buffered = ignore

    async def wait_below(self, limit: int) -> None:
        """Wait until fewer than `limit` bytes are unread."""
        while self.size >= limit:
            await self._changed.park()

    async def receive(self) -> dict[str, Any]:
        """Return the next ASGI message: everything that has arrived, as one chunk."""
        while True:
            if self._chunks or (self._complete and not self._delivered):
                self._delivered = self._complete
                more = not self._complete
                return {"type": "http.request", "body": self._take(), "more_body": more}
            if self._gone:
                # An application that loops on receive() must not stop everybody else.
                await trio.lowlevel.checkpoint()
                return {"type": "http.disconnect"}
            await self._changed.park()

    async def __call__(self, message: Any) -> None:
        """Put an ASGI message: `http.request` or `http.disconnect`."""
        if message["type"] == "http.disconnect":
            self.disconnect()
            return
        self.feed(message["body"], len(message["body"]))
        if not message["more_body"]:
            self.complete()

    def _take(self) -> bytes:
        chunks, cost = self._chunks, self._cost
        self._buffered(-self.size)
        self._chunks, self._cost, self.size = [], 0, 0
        self._notify()
        if cost:
            self.consumed(cost)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _notify(self) -> None:
        if self._changed:
            self._changed.unpark_all()
