"""One accepted connection: its socket, its protocol, its tasks, and their containment.

Stands in for hypercorn's `TCPServer` and `ProtocolWrapper`. Whatever goes wrong here, by the
client's doing or by a defect of ours, ends this connection only.
"""

import logging
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr

from s2lite.serving.exchange import RequestTasks
from s2lite.serving.http1 import Http1
from s2lite.serving.http2 import Http2
from s2lite.serving.link import Address
from s2lite.serving.outbox import Outbox
from s2lite.serving.settings import ServingSettings

logger = logging.getLogger("s2lite.serving")

# on, for 0 seconds
_LINGER_RESET = struct.pack("ii", 1, 0)

Transport = trio.SocketStream | trio.SSLStream[trio.SocketStream]


def _socket_of(stream: Transport) -> trio.socket.SocketType:
    return (stream.transport_stream if isinstance(stream, trio.SSLStream) else stream).socket


def _address(family: int, ask: Callable[[], Any]) -> Address:
    """Return the address, or None if the client has gone already."""
    try:
        return parse_socket_addr(family, ask())
    except OSError:
        return None


class Connection:
    """Serves one client until it goes, is idle too long, or breaks the protocol.

    Three kinds of task: the caller's reads, one writes, and one per request runs the application.
    """

    def __init__(
        self,
        app: AppWrapper,
        settings: ServingSettings,
        config: Config,
        stream: Transport,
        buffered: Callable[[int], None],
    ) -> None:
        self.app = app
        self.settings = settings
        self.config = config
        self.context = WorkerContext(None)
        self.tasks = RequestTasks(buffered)
        self.state = ConnectionState(LifespanState({}))
        self.outbox = Outbox()
        self.ssl = isinstance(stream, trio.SSLStream)
        self._stream = stream
        self._socket = _socket_of(stream)
        self.client = _address(self._socket.family, self._socket.getpeername)
        self.server = _address(self._socket.family, self._socket.getsockname)
        self.draining = False
        self._reading = trio.CancelScope()
        self.closing = False
        self._linger = False
        self._reset = False
        self._protocol: Http1 | Http2 = Http1(self)

    async def run(self) -> None:
        """Serve the connection to its end. Raises nothing but cancellation."""
        try:
            await self._run()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError):
            logger.debug("connection from %s lost", self.client)
        except* Exception:
            logger.exception("connection from %s failed", self.client)
        finally:
            await trio.aclose_forcefully(self._stream)

    def drain(self) -> None:
        """Close the connection now if it is idle, else as soon as it is."""
        self.draining = True
        if self._protocol.idle:
            self.close(linger=False)

    def dismantle(self) -> None:
        """Let go of all parts of a connection that has ended.

        They refer to each other, and would wait for the garbage collector: it comes late, and what
        it has to look at holds up everybody.
        """
        self._protocol.dismantle()
        vars(self).clear()

    # For the protocols

    def set_read_deadline(self, seconds: float) -> None:
        """End the connection unless this is called again within so many seconds."""
        self._reading.deadline = trio.current_time() + seconds

    def close(self, *, linger: bool, reset: bool = False) -> None:
        """Read no more; send what is waiting, then close. What was asked first counts."""
        if self.closing:
            return
        self.closing = True
        self._linger = linger
        self._reset = reset
        self._reading.cancel()

    async def send(self, event: Event) -> None:
        """Take an event of a hypercorn protocol; waits for room if it is data."""
        if isinstance(event, RawData):
            self.outbox.write(event.data)
            await self.outbox.wait_below(self.settings.send_buffer_bytes)
        elif isinstance(event, Closed):
            self.close(linger=True)

    # The life of the connection

    async def _run(self) -> None:
        if await self._handshake() == "h2":
            self._protocol = Http2(self)
        async with self.tasks:
            self.tasks.spawn(self._write)
            await self._protocol.initiate()
            await self._read()
            await self._finish()

    async def _handshake(self) -> str | None:
        if not isinstance(self._stream, trio.SSLStream):
            return None
        with trio.fail_after(self.settings.handshake_timeout_seconds):
            await self._stream.do_handshake()
        alpn: str | None = self._stream.selected_alpn_protocol()
        return alpn

    async def _write(self) -> None:
        await self.outbox.send_to(self._stream, self._fill)
        if self.outbox.broken:
            self.close(linger=False)

    def _fill(self) -> None:
        self._protocol.fill()

    async def _read(self) -> None:
        """Read until the client ends, a deadline passes, or `close`."""
        with self._reading:
            while not self.closing:
                try:
                    data = await self._stream.receive_some(self.settings.recv_bytes)
                except trio.BrokenResourceError:
                    self.outbox.fail()
                    return
                await self._handle(bytes(data))
                if not data:
                    return

    async def _handle(self, data: bytes) -> None:
        """Have the protocol handle it, or the one it turns out to be."""
        try:
            await self._protocol.handle(RawData(data))
        except H2ProtocolAssumedError as error:
            await self._switch_to_http2(error.data)
        except H2CProtocolRequiredError as error:
            await self._switch_to_http2(error.data, error.headers, error.settings)

    async def _switch_to_http2(
        self,
        data: bytes,
        headers: list[tuple[bytes, bytes]] | None = None,
        settings: bytes | None = None,
    ) -> None:
        self._protocol = protocol = Http2(self)
        await protocol.initiate(headers, settings)
        if data:
            await protocol.handle(RawData(data))

    async def _finish(self) -> None:
        """Tell the applications, send the rest, and close; the client cannot hold this up."""
        await self._protocol.handle(Closed())
        with trio.move_on_after(self.settings.drain_seconds):
            await self.outbox.finish()
            if self._linger and not self.outbox.broken:
                await self._read_out()
        if self._reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        await trio.aclose_forcefully(self._stream)

    async def _read_out(self) -> None:
        """Wait for the client to close.

        To close with bytes unread is to reset the connection, and that may overtake the answer.
        """
        left = self.settings.drain_bytes
        with suppress(trio.BrokenResourceError, OSError):
            if isinstance(self._stream, trio.SocketStream):
                await self._stream.send_eof()
            while left > 0 and (data := await self._stream.receive_some(self.settings.recv_bytes)):
                left -= len(data)
