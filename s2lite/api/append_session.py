"""Append sessions: inputs in, acks out, both at once over one exchange.

One task reads the body and submits each input as soon as it is whole; submitting waits for room
among the bytes in flight, and then the client waits too, because nobody reads its body. The other
task writes the answers in the order of the inputs, as many as are ready in one piece.

Whatever ends a session early, a failed append or an input that cannot be read, ends it behind the
answers to everything before it, with one terminal frame.
"""

from typing import Final, Protocol

import attrs
import trio

from s2lite.api.asgi import ClientDisconnected, Request, Send, send_body, send_head
from s2lite.api.errors import error_response
from s2lite.api.session_heads import S2S_HEAD
from s2lite.codec import protobuf, s2s
from s2lite.codec.s2s import Compression, FrameDecoder
from s2lite.model.errors import FrameError, ProtobufError
from s2lite.model.records import AppendAck, AppendInput

# Bytes in flight are bounded by the permits of the backend. This bounds the answers a session
# remembers when its inputs are tiny, or when the client does not read them.
_MAX_UNANSWERED: Final = 4096


class PendingAck(Protocol):
    """The answer to an input that was submitted."""

    @property
    def done(self) -> bool:
        """Whether `wait` would not block."""

    async def wait(self) -> AppendAck:
        """Give the ack once the batch is durable; raises why the append failed."""


class AppendSession(Protocol):
    """Where inputs go; after one failed, none takes effect."""

    async def submit(self, append: AppendInput, /) -> PendingAck:
        """Hand over an input; waits for room among the bytes in flight, not for the ack."""


async def serve_append_session(request: Request, send: Send, session: AppendSession) -> None:
    """Answer with the session's head at once, then serve it to its end.

    Returns when the response has ended, after a terminal frame too; raises `ClientDisconnected`.
    Inputs submitted before that may still become durable.
    """
    await send_head(send, 200, S2S_HEAD)
    submitted, pending = trio.open_memory_channel[PendingAck](_MAX_UNANSWERED)
    inputs = _Inputs(request, session, submitted)
    answers = _Answers(send, pending, inputs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inputs.run, nursery.cancel_scope)
        await answers.run()
        nursery.cancel_scope.cancel()
    if not answers.ended:
        raise ClientDisconnected


def _decode(message: bytes) -> AppendInput:
    try:
        return protobuf.decode_append_input(message)
    except ProtobufError as error:
        raise FrameError(str(error)) from error


@attrs.define(eq=False)
class _Inputs:
    """The session's inputs on their way in; `failure` is why they ended, None for a half-close."""

    _request: Request
    _session: AppendSession
    _submitted: trio.MemorySendChannel[PendingAck]
    failure: Exception | None = None

    async def run(self, exchange: trio.CancelScope) -> None:
        """Submit all inputs, then wait for the client to go, which cancels the exchange."""
        try:
            with self._submitted:
                await self._submit_all()
            await self._request.wait_disconnected()
        except ClientDisconnected:
            pass
        exchange.cancel()

    async def _submit_all(self) -> None:
        decoder = FrameDecoder()
        try:
            while (chunk := await self._request.next_chunk()) is not None:
                for message in decoder.feed(chunk):
                    await self._submit(_decode(message))
            decoder.close()
        except ClientDisconnected:
            raise
        except Exception as error:  # every failure is answered behind the acks, by the other task
            self.failure = error

    async def _submit(self, append_input: AppendInput) -> None:
        pending = await self._session.submit(append_input)
        try:
            self._submitted.send_nowait(pending)
        except trio.WouldBlock:
            await self._submitted.send(pending)


@attrs.define(eq=False)
class _Answers:
    """The session's answers on their way out; `ended` once the response is complete."""

    _send: Send
    _pending: trio.MemoryReceiveChannel[PendingAck]
    _inputs: _Inputs
    _ready: bytearray = attrs.field(factory=bytearray)
    ended: bool = False

    async def run(self) -> None:
        """Write acks as they become due, then the terminal frame if there is a failure."""
        failure = await self._write_acks()
        if failure is not None:
            response = error_response(failure)
            self._ready += s2s.encode_terminal(response.status, response.body)
        await send_body(self._send, bytes(self._ready), more=False)
        self.ended = True

    async def _write_acks(self) -> Exception | None:
        try:
            while (pending := await self._next()) is not None:
                if not pending.done:
                    await self._flush()
                ack = protobuf.encode_ack(await pending.wait())
                self._ready += s2s.encode_frame(ack, Compression.NONE)  # acks are always small
        except OSError:
            raise  # nobody is left to be told
        except Exception as error:  # the first append that failed ends the session
            return error
        return self._inputs.failure

    async def _next(self) -> PendingAck | None:
        """Give the next pending ack, None after the last; flush before waiting for one."""
        try:
            return self._pending.receive_nowait()
        except trio.WouldBlock:
            await self._flush()
        except trio.EndOfChannel:
            return None
        try:
            return await self._pending.receive()
        except trio.EndOfChannel:
            return None

    async def _flush(self) -> None:
        if self._ready:
            ready = bytes(self._ready)
            self._ready.clear()
            await send_body(self._send, ready, more=True)
