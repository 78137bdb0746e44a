"""HTTP/2: hypercorn's `H2Protocol`, done anew on h2.

Theory of operation. What arrives is handled without waiting: a request body goes to its
`RequestBody`, whose size the stream's flow-control window bounds, and credit goes back when the
application takes the bytes (h2 saves it up: one update for half a window). What is to be sent waits
in its stream's `ResponseBody` until the connection's sender asks for more (`fill`): then every
stream that has both data and window contributes a frame in turn. So neither a client that does not
read one of its responses, nor an application that does not read one of its requests, holds up any
other stream of the connection.

hypercorn awaits the application in the read loop and the socket in the application, so no method of
its class could stay.
"""

import logging
from collections import deque
from contextlib import suppress
from functools import partial

import attrs
import h2.events as h2e
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Body, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.utils import filter_pseudo_headers

from s2lite.serving.exchange import ClientDisconnected, Exchange
from s2lite.serving.h2_machine import ServerH2Connection
from s2lite.serving.link import Link
from s2lite.serving.response_body import ResponseBody

logger = logging.getLogger("s2lite.serving")

Headers = list[tuple[bytes, bytes]]


def _list_size(headers: Headers) -> int:
    """The size of a header list as the limit on it counts (RFC 9113, 6.5.2)."""
    return sum(len(name) + len(value) + 32 for name, value in headers)


@attrs.define(eq=False)
class _Stream:
    """An HTTP/2 stream whose response is not completely sent."""

    id: int
    exchange: Exchange
    response: ResponseBody = attrs.Factory(ResponseBody)
    queued: bool = False
    """Whether it is waiting for its turn, or for window of the connection."""
    gone: bool = False


class Http2:
    """One HTTP/2 connection. Everything runs in trio's thread and only `handle` and sends wait."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._connection = ServerH2Connection(link.settings)
        self._streams: dict[int, _Stream] = {}
        self._turns: deque[_Stream] = deque()
        self._starved: deque[_Stream] = deque()
        self._running = 0
        self._closed = False
        self._client_said_goodbye = False
        self._part_timer_runs = False

    @property
    def idle(self) -> bool:
        """Whether no response is being worked on."""
        return not self._streams

    def dismantle(self) -> None:
        """Let go of all parts, at the very end."""
        vars(self._connection).clear()
        vars(self).clear()

    async def initiate(self, headers: Headers | None = None, settings: bytes | None = None) -> None:
        """Send our SETTINGS; after an upgrade, also take over the request that asked for it."""
        if settings is None:
            self._connection.initiate_connection()
        else:
            self._connection.initiate_upgrade_connection(settings)
        self._connection.announce()
        self._flush()
        self._rest_if_idle()
        if headers is not None:
            await self._open(1, headers)
            self._streams[1].exchange.body.complete()

    async def handle(self, event: Event) -> None:
        """Handle bytes from the client, or its having gone."""
        if isinstance(event, Closed):
            self._abandon_all()
        elif isinstance(event, RawData) and not self._closed:
            if event.data:
                await self._receive(event.data)
            else:
                self._closed = True  # a client of HTTP/2 has no use for half a connection

    def fill(self) -> None:
        """Turn waiting response bodies into frames, about as many as one write should carry."""
        budget = self._link.settings.send_buffer_bytes
        while self._turns and budget > 0 and not self._closed:
            stream = self._turns.popleft()
            stream.queued = False
            if not stream.gone:
                budget -= self._send_frame(stream)
        self._flush()

    # What the application sends

    async def stream_send(self, event: StreamEvent) -> None:
        """Handle an event of an exchange.

        Raises `ClientDisconnected` if the stream was reset or its connection lost.
        """
        stream = self._streams.get(event.stream_id)
        if stream is None:
            if isinstance(event, StreamClosed):
                return
            raise ClientDisconnected
        match event:
            case Response():
                self._send_head(stream, event)
            case Body():
                await self._send_body(stream, event.data)
            case EndBody():
                stream.response.finished = True
                self._enqueue(stream)
            case StreamClosed():
                self._finish(stream)

    def _send_head(self, stream: _Stream, event: Response) -> None:
        headers = [(b":status", b"%d" % event.status_code), *event.headers]
        self._connection.send_headers(stream.id, headers + self._link.config.response_headers("h2"))
        self._flush()

    async def _send_body(self, stream: _Stream, data: bytes) -> None:
        stream.response.add(data)
        self._enqueue(stream)
        await stream.response.wait_below(self._link.settings.send_buffer_bytes)
        if stream.gone:
            raise ClientDisconnected

    def _finish(self, stream: _Stream) -> None:
        """Note that the application is done with the stream, complete or not."""
        stream.exchange.close()
        if not stream.response.finished:
            self._reset(stream, ErrorCodes.INTERNAL_ERROR)

    # From response bodies to frames

    def _enqueue(self, stream: _Stream) -> None:
        if not stream.queued:
            stream.queued = True
            self._turns.append(stream)
        self._link.outbox.wake()

    def _send_frame(self, stream: _Stream) -> int:
        """Send one frame of the stream if it has any and its windows allow; return its size."""
        response = stream.response
        size = self._frame_size(stream) if response.size else 0
        if response.size and size <= 0:
            self._block(stream)
            return 0
        last = response.finished and size == response.size
        if not size and not last:
            return 0
        self._connection.send_data(stream.id, response.take(size), end_stream=last)
        if last:
            self._sent_completely(stream)
        elif response.size or response.finished:
            stream.queued = True
            self._turns.append(stream)
        return size

    def _frame_size(self, stream: _Stream) -> int:
        return min(
            stream.response.size,
            self._connection.local_flow_control_window(stream.id),
            self._connection.max_outbound_frame_size,
            self._link.settings.max_frame_bytes,
        )

    def _block(self, stream: _Stream) -> None:
        """Put the stream aside until a WINDOW_UPDATE, keeping its place if it needs the shared one.

        Blocked by its own window it waits outside of any queue.
        """
        if self._connection.outbound_flow_control_window <= 0:
            stream.queued = True
            self._starved.append(stream)

    def _sent_completely(self, stream: _Stream) -> None:
        """End the stream for good: a request that is still open has been answered early."""
        state = self._connection.streams.get(stream.id)
        if state is not None and not state.closed:
            self._connection.reset_stream(stream.id, ErrorCodes.NO_ERROR)
        self._remove(stream)

    def _reset(self, stream: _Stream, code: ErrorCodes) -> None:
        if not self._closed:
            self._connection.reset_stream(stream.id, code)
        self._remove(stream)
        self._flush()

    def _remove(self, stream: _Stream) -> None:
        stream.gone = True
        stream.response.drop()
        stream.exchange.close()
        self._streams.pop(stream.id, None)
        self._rest_if_idle()

    def _rest_if_idle(self) -> None:
        if self._streams:
            return
        if self._link.draining or self._client_said_goodbye:
            self._link.close(linger=False)
        elif not self._connection.holds_part:
            self._part_timer_runs = False
            self._link.set_read_deadline(self._link.settings.keep_alive_seconds)
        elif not self._part_timer_runs:
            # The rest of a request head has its time, counted from its first byte.
            self._part_timer_runs = True
            self._link.set_read_deadline(self._link.settings.head_timeout_seconds)

    def _flush(self) -> None:
        self._link.outbox.write(self._connection.data_to_send())

    # What the client sends

    async def _receive(self, data: bytes) -> None:
        try:
            events = self._connection.receive_data(data)
        except ProtocolError as error:
            # Not its text: that may quote header values.
            logger.info(
                "HTTP/2 protocol error from %s: %s", self._link.client, type(error).__name__
            )
            self._flush()  # the GOAWAY that h2 has prepared
            self._closed = True
            self._link.close(linger=True)
            return
        for event in events:
            await self._dispatch(event)
        self._flush()
        self._rest_if_idle()
        await self._link.outbox.wait_below(self._link.settings.control_backlog_bytes)

    async def _dispatch(self, event: h2e.Event) -> None:
        match event:
            case h2e.DataReceived():
                self._data_received(event)
            case h2e.RequestReceived():
                await self._open(event.stream_id, event.headers)
            case h2e.StreamEnded():
                if stream := self._streams.get(event.stream_id):
                    stream.exchange.body.complete()
            case h2e.StreamReset():
                if stream := self._streams.get(event.stream_id):
                    self._remove(stream)
            case h2e.WindowUpdated():
                self._window_opened(event.stream_id)
            case h2e.RemoteSettingsChanged():
                if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
                    self._all_windows_opened()
            case h2e.ConnectionTerminated():
                self._client_said_goodbye = True

    async def _open(self, stream_id: int, headers: Headers) -> None:
        if self._running >= self._link.settings.max_concurrent_streams:
            self._answer_shortly(stream_id, None, ErrorCodes.REFUSED_STREAM)
            return
        fields = dict(headers[:5])  # pseudo-headers come first, and h2 has seen to it
        method, path = fields.get(b":method", b""), fields.get(b":path", b"")
        if not path or not method.isascii() or not path.isascii():  # CONNECT has no path
            self._answer_shortly(stream_id, b"400", ErrorCodes.NO_ERROR)
            return
        if _list_size(headers) > self._link.settings.max_header_list_bytes:
            self._answer_shortly(stream_id, b"431", ErrorCodes.NO_ERROR)
            return
        await self._begin(stream_id, method, path, filter_pseudo_headers(headers))

    def _answer_shortly(self, stream_id: int, status: bytes | None, code: ErrorCodes) -> None:
        """Answer without the application, if the client has not reset the stream meanwhile."""
        with suppress(StreamClosedError):
            if status is not None:
                self._connection.send_headers(stream_id, [(b":status", status)], end_stream=True)
            self._connection.reset_stream(stream_id, code)

    async def _begin(self, stream_id: int, method: bytes, path: bytes, headers: Headers) -> None:
        link = self._link
        exchange = Exchange(
            link.app, link.config, link.context, link.tasks, link.ssl, link.client, link.server,
            self.stream_send, stream_id,
        )  # fmt: skip
        exchange.app_returned = self._app_returned
        self._running += 1
        self._streams[stream_id] = _Stream(stream_id, exchange)
        link.set_read_deadline(float("inf"))
        self._part_timer_runs = False
        name = method.decode("ascii").upper()
        await exchange.begin(Request(stream_id, headers, "2", name, path, link.state))
        exchange.body.consumed = partial(self._consumed, stream_id)

    def _app_returned(self) -> None:
        self._running -= 1

    def _data_received(self, event: h2e.DataReceived) -> None:
        cost = event.flow_controlled_length
        if stream := self._streams.get(event.stream_id):
            stream.exchange.body.feed(event.data, cost)
        else:
            self._consumed(event.stream_id, cost)

    def _consumed(self, stream_id: int, cost: int) -> None:
        if not self._closed:
            self._connection.acknowledge_received_data(cost, stream_id)
            self._flush()

    def _window_opened(self, stream_id: int | None) -> None:
        if not stream_id:
            self._turns.extend(self._starved)
            self._starved.clear()
            self._link.outbox.wake()
        elif (stream := self._streams.get(stream_id)) and stream.response.size:
            self._enqueue(stream)

    def _all_windows_opened(self) -> None:
        for stream in self._streams.values():
            if stream.response.size:
                self._enqueue(stream)

    def _abandon_all(self) -> None:
        """Let every application know that the client is gone, and send nothing more.

        Not even a GOAWAY: it ends all streams of some clients, and an idle connection can do
        without.
        """
        self._closed = True
        for stream in list(self._streams.values()):
            self._remove(stream)
