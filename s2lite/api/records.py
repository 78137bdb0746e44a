"""Records: append, read, check tail. Plain ASGI, because sessions are read and written at once.

Each handler checks its request in the order that decides which of several problems is reported,
all of it before the stream is looked up: a request that is malformed creates nothing.
"""

import attrs

from actors.clock import Clock
from s2lite.api.append_session import serve_append_session
from s2lite.api.asgi import Request, Response, Send, json_response, send_response
from s2lite.api.body import check_content_encoding, check_not_encoded, read_body
from s2lite.api.errors import BadRequest, ErrorCode
from s2lite.api.headers import (
    basin_header,
    check_encryption_key_header,
    encryption_key,
    last_event_id_header,
    stream_config_header,
    stream_in_path,
)
from s2lite.api.negotiation import (
    AppendMode,
    ReadMode,
    append_mode,
    read_mode,
    record_format,
    wants_protobuf,
)
from s2lite.api.query import Query
from s2lite.api.read_parameters import ReadParameters
from s2lite.api.read_session import (
    S2SEncoding,
    SessionEncoding,
    SseEncoding,
    serve_read_session,
)
from s2lite.backend.backend import Backend, Purpose
from s2lite.backend.stream_handle import StreamHandle
from s2lite.codec import json, protobuf
from s2lite.codec.json import RecordFormat
from s2lite.codec.s2s import select_compression
from s2lite.codec.sse import BatchEventId
from s2lite.model.config import StreamConfigLayer
from s2lite.model.errors import ProtobufError
from s2lite.model.names import BasinName, StreamName
from s2lite.model.reads import DeliveredBatch
from s2lite.model.records import AppendAck, AppendInput


@attrs.frozen
class _Target:
    """The stream a request is about, and the configuration it gets if the request creates it."""

    basin: BasinName
    stream: StreamName
    config: StreamConfigLayer | None = None


@attrs.frozen
class Records:
    """The handlers of a stream's records. Each sends its response, or raises before it has begun.

    They raise the errors that `errors.error_response` describes, and `ClientDisconnected`.
    """

    _backend: Backend
    _clock: Clock

    async def append(self, request: Request, send: Send, stream_segment: str) -> None:
        """Append a batch, or serve an append session."""
        check_content_encoding(request)
        basin, stream = basin_header(request), stream_in_path(stream_segment)
        check_encryption_key_header(request)
        target = _Target(basin, stream, stream_config_header(request))
        mode = append_mode(request.header(b"content-type"))
        if mode is AppendMode.SESSION:
            check_not_encoded(request)
            await self._append_session(request, send, target)
        else:
            append_input = await _read_input(request, mode)
            await send_response(send, await self._append(request, target, append_input))

    async def read(self, request: Request, send: Send, stream_segment: str) -> None:
        """Read a batch, or serve a read session."""
        check_content_encoding(request)
        basin, stream = basin_header(request), stream_in_path(stream_segment)
        parameters = ReadParameters.parse(Query(request.query_string))
        check_encryption_key_header(request)
        mode = read_mode(request.header(b"content-type"), request.header(b"accept"))
        record_fmt, resumed_at = _read_headers(request, mode)
        target = _Target(basin, stream, stream_config_header(request))
        wanted = parameters.to_request(resumed_at)
        handle = await self._open(request, target, Purpose.READ)
        match mode:
            case ReadMode.SESSION | ReadMode.SSE:
                encoding = self._session_encoding(request, mode, record_fmt)
                await serve_read_session(request, send, handle.read_session(wanted), encoding)
            case ReadMode.PROTOBUF | ReadMode.JSON:
                batch = await request.unless_disconnected(lambda: handle.read(wanted))
                await send_response(send, _batch_response(batch, mode, record_fmt))

    async def check_tail(self, request: Request, send: Send, stream_segment: str) -> None:
        """Tell the tail; a stream's cipher does not matter here."""
        check_content_encoding(request)
        basin, stream = basin_header(request), stream_in_path(stream_segment)
        handle = await self._backend.open_stream(basin, stream, Purpose.READ)
        tail = await handle.check_tail()
        await send_response(send, json_response(json.encode_tail_response(tail)))

    async def _append_session(self, request: Request, send: Send, target: _Target) -> None:
        handle = await self._open(request, target, Purpose.APPEND)
        async with handle.append_session() as session:
            await serve_append_session(request, send, session)

    async def _append(
        self, request: Request, target: _Target, append_input: AppendInput
    ) -> Response:
        handle = await self._open(request, target, Purpose.APPEND)
        if handle.has_room_for(append_input):
            # It is submitted at once, and then takes effect whether the client stays or goes.
            ack = await handle.append(append_input)
        else:
            ack = await request.unless_disconnected(lambda: handle.append(append_input))
        return _ack_response(ack, as_protobuf=wants_protobuf(request.header(b"accept")))

    async def _open(self, request: Request, target: _Target, purpose: Purpose) -> StreamHandle:
        """Find the stream, or create it if its basin says so; then its cipher may want a key."""
        handle = await self._backend.open_stream(
            target.basin, target.stream, purpose, target.config
        )
        if handle.cipher is None:
            return handle
        return handle.with_key(encryption_key(request, handle.cipher))

    def _session_encoding(
        self, request: Request, mode: ReadMode, record_fmt: RecordFormat
    ) -> SessionEncoding:
        if mode is ReadMode.SSE:
            return SseEncoding(record_fmt, self._clock)
        return S2SEncoding(select_compression(_accepted_encodings(request)))


async def _read_input(request: Request, mode: AppendMode) -> AppendInput:
    if mode is AppendMode.PROTOBUF:
        return _decode_protobuf(await read_body(request, ErrorCode.BAD_PROTO))
    record_fmt = record_format(request.header(b"s2-format"))
    return json.decode_append_input(await read_body(request, ErrorCode.BAD_JSON), record_fmt)


def _decode_protobuf(body: bytes) -> AppendInput:
    try:
        return protobuf.decode_append_input(body)
    except ProtobufError as error:
        raise BadRequest(ErrorCode.BAD_PROTO, str(error)) from error


def _read_headers(request: Request, mode: ReadMode) -> tuple[RecordFormat, BatchEventId | None]:
    if mode is ReadMode.SESSION:
        return RecordFormat.RAW, None
    record_fmt = record_format(request.header(b"s2-format"))
    return record_fmt, last_event_id_header(request) if mode is ReadMode.SSE else None


def _ack_response(ack: AppendAck, *, as_protobuf: bool) -> Response:
    if as_protobuf:
        return _protobuf_response(protobuf.encode_ack(ack))
    return json_response(json.encode_ack(ack))


def _batch_response(
    batch: DeliveredBatch | None, mode: ReadMode, record_fmt: RecordFormat
) -> Response:
    payload, tail = (batch.payload, batch.tail) if batch else (b"", None)
    if mode is ReadMode.PROTOBUF:
        return _protobuf_response(payload + (protobuf.encode_tail(tail) if tail else b""))
    return json_response(json.encode_read_batch(payload, record_fmt, tail))


def _protobuf_response(body: bytes) -> Response:
    return Response(200, body, ((b"content-type", b"application/protobuf"),))


def _accepted_encodings(request: Request) -> list[str]:
    return [line.decode("latin-1") for line in request.header_lines(b"accept-encoding")]
