"""Accepting connections, and the life of the server as a whole."""

import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from hypercorn.app_wrappers import ASGIWrapper

from s2lite.serving.body import ignore
from s2lite.serving.connection import Connection, Transport
from s2lite.serving.settings import BoundAddress, ServingSettings, hypercorn_config

logger = logging.getLogger("s2lite.serving")

# Plain applications declare ASGI's messages as dicts, frameworks as typed dicts of their own.
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]

# Accepting failed for want of something that comes back when connections end.
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
_SHORTAGE_PAUSE_SECONDS = 0.1


async def serve(
    app: AsgiApp,
    settings: ServingSettings,
    *,
    shutdown: trio.Event,
    ssl_context: ssl.SSLContext | None = None,
    buffered: Callable[[int], None] = ignore,
    task_status: trio.TaskStatus[list[BoundAddress]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application over HTTP/1.1 and HTTP/2 until `shutdown` is set.

    Reports the bound addresses once connections are accepted. After `shutdown` nothing more is
    accepted, idle connections are closed, and the others are served (new requests on them too)
    until they are idle. Returns when all have ended, after `grace_seconds` at the latest: what is
    left by then is cancelled. Cancelling `serve` cuts every connection at once. Raises `OSError` if
    the address cannot be bound.

    The application gets no lifespan events: whoever builds it starts and stops it. With an
    `ssl_context`, which should offer `h2` and `http/1.1` by ALPN, only TLS is spoken. `buffered` is
    told of every change in the bytes of request bodies that have arrived and were not asked for.
    """
    server = _Server(app, settings, ssl_context, buffered)
    listeners = await trio.open_tcp_listeners(
        settings.port, host=settings.host, backlog=settings.backlog
    )
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            for listener in listeners:
                accepting.start_soon(server.accept, listener, connections)
            task_status.started([_bound_address(listener) for listener in listeners])
            await shutdown.wait()
            accepting.cancel_scope.cancel()
        server.drain()
        connections.cancel_scope.deadline = trio.current_time() + settings.grace_seconds


def _bound_address(listener: trio.SocketListener) -> BoundAddress:
    host, port = listener.socket.getsockname()[:2]
    return BoundAddress(host, port)


class _Server:
    """The connections there are."""

    def __init__(
        self,
        app: AsgiApp,
        settings: ServingSettings,
        ssl_context: ssl.SSLContext | None,
        buffered: Callable[[int], None],
    ) -> None:
        self._app = ASGIWrapper(app)
        self._settings = settings
        self._config = hypercorn_config(settings)
        self._ssl_context = ssl_context
        self._buffered = buffered
        self._connections: set[Connection] = set()
        self._draining = False
        self._room = trio.Semaphore(settings.max_connections)

    def drain(self) -> None:
        """Have every connection end once it is idle."""
        self._draining = True
        for connection in list(self._connections):
            connection.drain()

    async def accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        """Accept connections while there is room, each in its own task, until cancelled."""
        async with listener:
            while True:
                await self._room.acquire()
                try:
                    stream = await _accept_one(listener)
                except BaseException:
                    self._room.release()
                    raise
                nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        _probe_when_silent(stream)
        connection = Connection(
            self._app, self._settings, self._config, self._secured(stream), self._buffered
        )
        self._connections.add(connection)
        if self._draining:  # accepted in the last moment
            connection.drain()
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._room.release()
            connection.dismantle()

    def _secured(self, stream: trio.SocketStream) -> Transport:
        if self._ssl_context is None:
            return stream
        return trio.SSLStream(stream, self._ssl_context, server_side=True, https_compatible=True)


def _probe_when_silent(stream: trio.SocketStream) -> None:
    """Have the kernel notice a client that has vanished without a word, in about two minutes.

    An append session may be silent for hours, so nothing else would.
    """
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):  # not everywhere
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def _accept_one(listener: trio.SocketListener) -> trio.SocketStream:
    """Accept a connection; if the machine is short of something, wait for it to come back."""
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if error.errno not in _SHORTAGES:
                raise
            logger.error("cannot accept connections: %s", error)
            await trio.sleep(_SHORTAGE_PAUSE_SECONDS)
