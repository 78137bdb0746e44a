"""ASGI applications to be served in tests."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import trio

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def start(
    send: Send, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers or []})


async def body(send: Send, data: bytes, *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def reply(send: Send, content: bytes, status: int = 200) -> None:
    await start(send, status, [(b"content-length", b"%d" % len(content))])
    await body(send, content)


class GoneError(Exception):
    """The client went before it had sent its request."""


async def read_all(receive: Receive) -> bytes:
    content = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise GoneError
        content += bytes(message["body"])
        if not message["more_body"]:
            return content


class Playground:
    """Routes that behave in every way an application may; `notes` records what they saw."""

    def __init__(self) -> None:
        self.notes: list[Any] = []
        self.gate = trio.Event()
        """Holds back `/gated`, `/unread` and `/until-gone`."""
        self.running = 0
        self._returned = trio.lowlevel.ParkingLot()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        route = getattr(self, scope["path"].strip("/").replace("-", "_") or "hello")
        self.running += 1
        try:
            await route(scope, receive, send)
        except GoneError:
            self.notes.append("gone")
        finally:
            self.running -= 1
            self._returned.unpark_all()

    async def until_idle(self) -> None:
        """Wait until every request has been left by the application."""
        with trio.fail_after(5):
            while self.running:
                await self._returned.park()

    async def hello(self, scope: Any, receive: Receive, send: Send) -> None:
        await reply(send, b"hello")

    async def scope(self, scope: Any, receive: Receive, send: Send) -> None:
        self.notes.append(scope)
        await reply(send, b"")

    async def length(self, scope: Any, receive: Receive, send: Send) -> None:
        await reply(send, b"%d" % len(await read_all(receive)))

    async def echo(self, scope: Any, receive: Receive, send: Send) -> None:
        """Full duplex: the head at once, then every chunk as it comes."""
        await start(send)
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.notes.append("disconnect")
                return
            more = message["more_body"]
            await body(send, message["body"], more=more)

    async def refuse(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer without reading the request."""
        await reply(send, b"no", 413)

    async def unread(self, scope: Any, receive: Receive, send: Send) -> None:
        """Read nothing until the gate opens, then everything."""
        await start(send)
        await self.gate.wait()
        await body(send, b"%d" % len(await read_all(receive)))

    async def gated(self, scope: Any, receive: Receive, send: Send) -> None:
        await self.gate.wait()
        await reply(send, b"opened")

    async def until_gone(self, scope: Any, receive: Receive, send: Send) -> None:
        """Wait for the client to go."""
        await start(send)
        while (message := await receive())["type"] != "http.disconnect":
            pass
        self.notes.append(message["type"])

    async def endless(self, scope: Any, receive: Receive, send: Send) -> None:
        await start(send)
        try:
            while True:
                await body(send, b"x" * 10_000, more=True)
                self.notes.append("sent")
        except OSError as error:
            self.notes.append(type(error).__name__)
            raise

    async def megabyte(self, scope: Any, receive: Receive, send: Send) -> None:
        await reply(send, bytes(2**20))

    async def trickle(self, scope: Any, receive: Receive, send: Send) -> None:
        """A response that comes in pieces for a fifth of a second at least."""
        await start(send)
        for _ in range(200):
            await body(send, b"drop", more=True)
            await trio.sleep(0.001)
        await body(send, b"")

    async def fail(self, scope: Any, receive: Receive, send: Send) -> None:
        raise ValueError("by design")

    async def fail_late(self, scope: Any, receive: Receive, send: Send) -> None:
        await start(send)
        await body(send, b"so far", more=True)
        raise ValueError("by design")

    async def fail_short(self, scope: Any, receive: Receive, send: Send) -> None:
        await start(send, headers=[(b"content-length", b"100")])
        await body(send, b"so far", more=True)

    async def bad_header(self, scope: Any, receive: Receive, send: Send) -> None:
        await start(send, headers=[(b"x-fine", b"1"), (b"x-bad", b"a\r\nb")])

    async def silent(self, scope: Any, receive: Receive, send: Send) -> None:
        """Return without an answer."""
