"""HTTP/1.1 on plain sockets: sessions with a body each way, and unary requests."""

import socket
from collections.abc import Mapping

import attrs

from scripts.benchmark.wire import ChunkedResponse, FrameScanner, chunk

Address = tuple[str, int]

RECEIVE_BYTES = 1024 * 1024
TIMEOUT_SECONDS = 20.0


def connect(address: Address) -> socket.socket:
    """Open a connection that sends small pieces at once."""
    opened = socket.create_connection(address, TIMEOUT_SECONDS)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


def request_head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    """Make the head of a request."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


@attrs.define(eq=False)
class Http1Exchange:
    """A session over a connection of its own: frames out, frames in, neither waiting."""

    scanner: FrameScanner
    _socket: socket.socket
    _response: ChunkedResponse = attrs.field(factory=ChunkedResponse)
    _unsent: list[memoryview] = attrs.field(factory=list)

    @classmethod
    def open(
        cls,
        address: Address,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        keep: bool = False,
    ) -> "Http1Exchange":
        """Connect and send the head of the request, a POST with a chunked body or a GET."""
        opened = connect(address)
        chunked = {"transfer-encoding": "chunked"} if method == "POST" else {}
        opened.sendall(request_head(method, path, {**headers, **chunked}))
        opened.setblocking(False)
        return cls(FrameScanner(keep), opened)

    @property
    def ended(self) -> bool:
        """Whether the response is complete."""
        return self._response.ended

    @property
    def wants_write(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._unsent)

    def fileno(self) -> int:
        """Give the descriptor to wait for."""
        return self._socket.fileno()

    @staticmethod
    def prepare(frame: bytes, copies: int = 1) -> memoryview:
        """Make of a frame what `write` takes: each copy is a chunk of its own."""
        return memoryview(chunk(frame) * copies)

    def write(self, prepared: memoryview) -> None:
        """Send as much as the socket takes; the rest when it takes more."""
        self._unsent.append(prepared)
        self.send_some()

    def send_some(self) -> None:
        """Send what waits, as far as the socket takes it."""
        while self._unsent:
            piece = self._unsent[0]
            try:
                sent = self._socket.send(piece)
            except BlockingIOError:
                return
            if sent == len(piece):
                del self._unsent[0]
            else:
                self._unsent[0] = piece[sent:]

    def receive_some(self) -> None:
        """Take what has arrived; an end of the connection ends the response."""
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("the server closed the connection of a session")
        for body in self._response.feed(data):
            self.scanner.feed(body)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
