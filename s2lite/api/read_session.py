"""Read sessions: batches and heartbeats as S2S frames or as server-sent events.

A session writes an event and asks for the next one when that is written: a client that does not
read stops the session, not the server. A clean end of the body means that the read is over, so a
failure after the head is always told, as a terminal frame or as an `error` event.
"""

from collections.abc import AsyncIterator
from typing import Protocol

import attrs

from actors.clock import Clock
from s2lite.api.asgi import HeaderList, Request, Send, send_body, send_head
from s2lite.api.errors import error_response
from s2lite.api.session_heads import S2S_HEAD, SSE_HEAD
from s2lite.backend.read_session import ReadSession
from s2lite.codec import json, protobuf, s2s, sse
from s2lite.codec.json import RecordFormat
from s2lite.codec.s2s import Compression
from s2lite.model.limits import MAX_FRAME_PAYLOAD_BYTES
from s2lite.model.reads import DeliveredBatch, Heartbeat, ReadEvent


class SessionEncoding(Protocol):
    """How the events of one read session are written."""

    @property
    def head(self) -> HeaderList:
        """The headers of the response."""

    def event(self, event: ReadEvent) -> bytes:
        """Write a batch or a heartbeat."""

    def failure(self, error: Exception) -> bytes:
        """Write why the session ends early."""

    def end(self) -> bytes:
        """Write that the session ends in good order."""


async def serve_read_session(
    request: Request, send: Send, session: ReadSession, encoding: SessionEncoding
) -> None:
    """Open a session and serve it to its end; raises `ClientDisconnected`.

    What opening the session raises is passed on, and nothing has been sent then. A HEAD request
    gets the head alone.
    """

    async def serve() -> None:
        async with session as events:
            await send_head(send, 200, encoding.head)
            if request.method == "HEAD":
                await send_body(send, b"", more=False)
            else:
                await _send_events(send, events, encoding)

    await request.unless_disconnected(serve)


async def _send_events(
    send: Send, events: AsyncIterator[ReadEvent], encoding: SessionEncoding
) -> None:
    try:
        async for event in events:
            await send_body(send, encoding.event(event), more=True)
        last = encoding.end()
    except OSError:
        raise  # nobody is left to be told
    except Exception as error:  # the head is out: whatever it is, the client is told in the body
        last = encoding.failure(error)
    await send_body(send, last, more=False)


@attrs.frozen
class S2SEncoding:
    """Events as frames, each a protobuf `ReadBatch`. Large frames are compressed in place."""

    compression: Compression

    @property
    def head(self) -> HeaderList:
        """The headers of the response."""
        return S2S_HEAD

    def event(self, event: ReadEvent) -> bytes:
        """Write a frame, or as many as it takes."""
        payload = event.payload if isinstance(event, DeliveredBatch) else b""
        tail = b"" if event.tail is None else protobuf.encode_tail(event.tail)
        if len(payload) + len(tail) > MAX_FRAME_PAYLOAD_BYTES:
            return self._cut(payload, tail)
        return s2s.encode_frame(payload + tail, self.compression)

    def _cut(self, payload: bytes, tail: bytes) -> bytes:
        """Write several frames: bytes that meter as one may take two when they are encoded.

        Tiny headers do. A tail that finds no room behind the records goes as a heartbeat does.
        """
        *messages, last = protobuf.split_payload(payload, MAX_FRAME_PAYLOAD_BYTES)
        if len(last) + len(tail) <= MAX_FRAME_PAYLOAD_BYTES:
            messages.append(last + tail)
        else:
            messages += [last, tail] if tail else [last]
        return b"".join(s2s.encode_frame(message, self.compression) for message in messages)

    def failure(self, error: Exception) -> bytes:
        """Write a terminal frame."""
        response = error_response(error)
        return s2s.encode_terminal(response.status, response.body)

    def end(self) -> bytes:
        """Write nothing: the body just ends."""
        return b""


@attrs.define
class SseEncoding:
    """Server-sent events with JSON data.

    An event's id tells how much this connection has delivered, so that a client can resume.
    """

    _format: RecordFormat
    _clock: Clock
    _count: int = 0
    _metered_bytes: int = 0

    @property
    def head(self) -> HeaderList:
        """The headers of the response."""
        return SSE_HEAD

    def event(self, event: ReadEvent) -> bytes:
        """Write a `batch` or a `ping` event."""
        match event:
            case DeliveredBatch():
                return self._batch(event)
            case Heartbeat(tail=tail):
                return sse.encode_event("ping", json.encode_ping(self._clock.now_ms(), tail))

    def failure(self, error: Exception) -> bytes:
        """Write an `error` event; it has no place for the status."""
        return sse.encode_event("error", error_response(error).body)

    def end(self) -> bytes:
        """Write the event that tells an end from a broken connection."""
        return sse.DONE

    def _batch(self, batch: DeliveredBatch) -> bytes:
        self._count += batch.count
        self._metered_bytes += batch.metered_bytes
        event_id = sse.BatchEventId(batch.last_seq_num, self._count, self._metered_bytes)
        data = json.encode_read_batch(batch.payload, self._format, batch.tail)
        return sse.encode_event("batch", data, str(event_id))
