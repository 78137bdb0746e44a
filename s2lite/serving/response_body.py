"""A response body between the application and its HTTP/2 stream."""

from collections import deque

import trio


class ResponseBody:
    """Holds what the application has sent until flow control lets it go.

    Whole messages are kept by reference and cut when frames are made of them.
    """

    def __init__(self) -> None:
        self.size = 0
        self.finished = False
        self._chunks: deque[bytes | memoryview] = deque()
        self._room = trio.lowlevel.ParkingLot()

    def add(self, data: bytes) -> None:
        """Add a chunk; it may exceed any bound, the next one has to wait."""
        self._chunks.append(data)
        self.size += len(data)

    async def wait_below(self, limit: int) -> None:
        """Wait until fewer than `limit` bytes are unsent."""
        while self.size >= limit:
            await self._room.park()

    def take(self, length: int) -> bytes | memoryview:
        """Return the next `length` bytes, of which there must be as many."""
        self.size -= length
        parts: list[bytes | memoryview] = []
        while length:
            chunk = self._chunks.popleft()
            if len(chunk) > length:
                view = memoryview(chunk)
                self._chunks.appendleft(view[length:])
                chunk = view[:length]
            parts.append(chunk)
            length -= len(chunk)
        if self._room:
            self._room.unpark_all()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def drop(self) -> None:
        """Forget everything and let nobody wait: the stream is gone."""
        self._chunks.clear()
        self.size = 0
        self._room.unpark_all()
