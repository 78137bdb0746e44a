"""HTTP/1.1: hypercorn's `H11Protocol`, made full duplex in every order of events.

hypercorn's class parses, formats, answers what is malformed and recognises HTTP/2 (by its preface
or an `Upgrade: h2c`). Done differently: a request body is bounded, and read on as the application
takes it; an answer that comes early does not cost the client its connection, because the rest of
the request is read and dropped first; a client that half-closes still gets its answer; an answer
that breaks off never looks complete.
"""

import logging

import h11
import trio
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Body, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol

from s2lite.serving.exchange import ClientDisconnected, Exchange
from s2lite.serving.link import Link

logger = logging.getLogger("s2lite.serving")


class Http1(H11Protocol):
    """One HTTP/1.1 connection: one exchange at a time, in the order of the requests."""

    connection: h11.Connection

    def __init__(self, link: Link) -> None:
        super().__init__(
            link.app, link.config, link.context, link.tasks, link.state, link.ssl, link.client,
            link.server, link.send,
        )  # fmt: skip
        self._link = link
        self._exchange: Exchange | None = None
        self._answered = trio.lowlevel.ParkingLot()
        self._discard_left: int | None = None
        self._head_timer_runs = False

    @property
    def idle(self) -> bool:
        """Whether no request is being answered or dropped."""
        return self._exchange is None and self._discard_left is None

    def dismantle(self) -> None:
        """Let go of all parts, at the very end."""
        vars(self).clear()

    async def initiate(self) -> None:
        """Wait for a request for as long as between two of them."""
        self._link.set_read_deadline(self._link.settings.keep_alive_seconds)

    def fill(self) -> None:
        """Do nothing: what is sent goes straight to the outbox."""

    async def handle(self, event: Event) -> None:
        """Handle bytes from the client (none: it half-closed), or its having gone.

        Waits while the request body or a pipelined request cannot be taken yet. Raises
        `H2ProtocolAssumedError` if this was the preface of HTTP/2, `H2CProtocolRequiredError` if
        the client was granted an upgrade to it.
        """
        if isinstance(event, RawData):
            self.connection.receive_data(event.data)
            await self._handle_events()
        elif isinstance(event, Closed) and self._exchange is not None:
            self._exchange.close()
            self._exchange = None

    # What the application sends

    async def stream_send(self, event: StreamEvent) -> None:
        """Handle an event of the exchange; raises `ClientDisconnected` if nobody is there."""
        match event:
            case Response():
                self._send_head(event)
            case Body():
                self._write(h11.Data(data=event.data))
                await self._link.outbox.wait_below(self._link.settings.send_buffer_bytes)
                if self._link.outbox.broken:
                    raise ClientDisconnected
            case EndBody():
                self._write(h11.EndOfMessage())
            case StreamClosed():
                self._exchange_over()

    def _send_head(self, event: Response) -> None:
        headers = event.headers + self.config.response_headers("h11")
        if self._link.draining:
            headers.append((b"connection", b"close"))
        self._write(h11.Response(headers=headers, status_code=event.status_code))

    def _write(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        for piece in self.connection.send_with_data_passthrough(event) or ():
            self._link.outbox.write(piece)

    def _exchange_over(self) -> None:
        """Go on from a response that is complete, or will never be."""
        if self._exchange is None:
            return
        self._exchange.close()
        self._exchange = None
        if self.connection.our_state not in {h11.DONE, h11.MUST_CLOSE}:
            self._break_off()
        elif self.connection.their_state is h11.SEND_BODY:
            self._discard_left = self._link.settings.drain_bytes
            self._link.set_read_deadline(self._link.settings.drain_seconds)
        else:
            self._recycle()
        self._answered.unpark_all()

    def _break_off(self) -> None:
        """Close so that the client sees that something is missing.

        An HTTP/1.0 client sees the end of a response in a close, unless it is a reset.
        """
        version = self.connection.their_http_version
        self._link.close(linger=False, reset=version is not None and version < b"1.1")

    def _recycle(self) -> None:
        """Be ready for the next request, unless this has been the last one."""
        self._discard_left = None
        if self.connection.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            self.connection.start_next_cycle()
            self._link.set_read_deadline(self._link.settings.keep_alive_seconds)
            if not self._link.draining:
                return
        # Bytes left unread would turn the close into a reset.
        self._link.close(linger=bool(self.connection.trailing_data[0]))

    # What the client sends

    async def _handle_events(self) -> None:
        while not self._link.closing:
            await self._continue_if_expected()
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse(error)
                return
            if event is h11.NEED_DATA:
                self._watch_head()
                return
            if event is h11.PAUSED:
                await self._wait_answered()
            elif isinstance(event, h11.Request):
                await self._begin(event)
            elif isinstance(event, h11.Data):
                await self._take(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._request_complete()
            elif isinstance(event, h11.ConnectionClosed):
                await self._hung_up()
                return

    async def _continue_if_expected(self) -> None:
        if self.connection.they_are_waiting_for_100_continue:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    def _watch_head(self) -> None:
        """Give the rest of a request head its time, counted from its first byte."""
        if (
            self.connection.their_state is h11.IDLE
            and not self._head_timer_runs
            and self.connection.trailing_data[0]
        ):
            self._head_timer_runs = True
            self._link.set_read_deadline(self._link.settings.head_timeout_seconds)

    async def _begin(self, request: h11.Request) -> None:
        link = self._link
        self._head_timer_runs = False
        link.set_read_deadline(float("inf"))
        await self._check_protocol(request)
        if sum(len(name) + len(value) for name, value in request.headers) > (
            link.settings.max_header_list_bytes
        ):
            await self._answer_error(431)
            return
        self._exchange = exchange = Exchange(
            link.app, link.config, link.context, link.tasks, link.ssl, link.client, link.server,
            self.stream_send, STREAM_ID,
        )  # fmt: skip
        await exchange.begin(
            Request(
                STREAM_ID,
                list(request.headers),
                request.http_version.decode("ascii"),
                request.method.decode("ascii").upper(),
                request.target,
                link.state,
            )
        )

    async def _take(self, data: bytes) -> None:
        if self._exchange is not None:
            body = self._exchange.body
            body.feed(data, 0)
            await body.wait_below(self._link.settings.stream_window_bytes)
        elif self._discard_left is not None:
            self._discard_left -= len(data)
            if self._discard_left < 0:
                self._link.close(linger=False)

    def _request_complete(self) -> None:
        if self._exchange is not None:
            self._exchange.body.complete()
        elif self._discard_left is not None:
            self._recycle()

    async def _wait_answered(self) -> None:
        while self._exchange is not None:
            await self._answered.park()

    async def _hung_up(self) -> None:
        """Let the application finish: a client may close its side behind a complete request."""
        if self._exchange is not None:
            self._exchange.body.hang_up()
            await self._wait_answered()

    async def _refuse(self, error: h11.RemoteProtocolError) -> None:
        # Not its text: that may quote header values.
        logger.info(
            "HTTP/1.1 protocol error from %s, hint %d", self._link.client, error.error_status_hint
        )
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None
        await self._answer_error(error.error_status_hint)

    async def _answer_error(self, status_code: int) -> None:
        """Answer instead of the application if nothing was answered yet, and close."""
        answerable = self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}
        if answerable:
            await self._send_error_response(status_code)
        self._link.close(linger=answerable)
