"""What clients send, decoder by decoder."""

import gzip
import json as stdlib_json
import zlib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Final, TypeVar

import zstandard

from s2lite.api.asgi import Event, Request
from s2lite.api.body import read_body
from s2lite.api.compression import choose_encoding
from s2lite.api.errors import BadRequest, ErrorCode
from s2lite.api.headers import (
    basin_header,
    basin_in_path,
    check_encryption_key_header,
    last_event_id_header,
    request_token_header,
    stream_config_header,
    stream_in_path,
)
from s2lite.api.negotiation import append_mode, read_mode, record_format, wants_protobuf
from s2lite.api.query import Query
from s2lite.api.read_parameters import ReadParameters
from s2lite.codec import control_json, json, protobuf, s2_pb2
from s2lite.codec.json import RecordFormat
from s2lite.codec.s2s import Compression, FrameDecoder, encode_frame, select_compression
from s2lite.codec.sse import parse_event_id
from s2lite.core.reads import locate, unary_request
from s2lite.model.config import BasinConfig, StreamConfig
from s2lite.model.errors import (
    FrameError,
    InvalidInput,
    InvalidName,
    JsonError,
    ProtobufError,
    ReadPastTail,
)
from s2lite.model.limits import (
    MAX_BATCH_BYTES,
    MAX_FRAME_LENGTH,
    MAX_FRAME_PAYLOAD_BYTES,
    MAX_UNARY_BODY_BYTES,
)
from s2lite.model.positions import StreamPosition
from s2lite.model.records import AppendInput
from scripts.fuzzing.mutation import Mutator
from scripts.fuzzing.target import Target, expect

T = TypeVar("T")

MAX_HEAD_BYTES: Final = 64 * 1024
"""No server passes on more of a request's head."""

# --- protobuf ---------------------------------------------------------------------------------


def append_messages() -> list[bytes]:
    """Valid `AppendInput` messages of every kind."""
    messages = [s2_pb2.AppendInput() for _ in range(7)]
    plain, many, headed, fence, trim, conditions, large = messages
    plain.records.add(body=b"hello")
    for index in range(30):
        many.records.add(body=b"x" * index, timestamp=1_700_000_000_000 + index)
    record = headed.records.add(body=bytes(range(256)), timestamp=2**64 - 1)
    for index in range(10):
        record.headers.add(name=b"name-%d" % index, value=b"\xff" * index)
    fence.records.add(body=b"token").headers.add(name=b"", value=b"fence")
    trim.records.add(body=(5).to_bytes(8, "big")).headers.add(name=b"", value=b"trim")
    conditions.records.add(body=b"")
    conditions.match_seq_num = 2**64 - 1
    conditions.fencing_token = "tok\u00e9n"  # noqa: S105  (it protects nothing)
    large.records.add(body=bytes(range(256)) * 40)
    return [message.SerializeToString() for message in messages]


def _check_taken(taken: AppendInput) -> None:
    """What was accepted holds together: it can be stored, cut, metered and shown."""
    batch = taken.batch
    expect(0 < batch.count == len(batch.timestamps) <= 1000, "a batch has 1 to 1000 records")
    expect(batch.metered_bytes <= MAX_BATCH_BYTES, "a batch meters a mebibyte at most")
    payload = protobuf.encode_records(batch, 2**63, [stamp or 0 for stamp in batch.timestamps])
    metas = protobuf.record_metas(payload)
    expect(sum(meta.metered_bytes for meta in metas) == batch.metered_bytes, "it meters the same")
    middle = batch.count // 2
    halves = [protobuf.slice_records(payload, *cut) for cut in ((0, middle), (middle, len(metas)))]
    expect(b"".join(halves) == payload, "two halves are the whole")
    expect(b"".join(protobuf.split_payload(payload, 4096)) == payload, "so are the pieces")
    for record_fmt in RecordFormat:
        shown = stdlib_json.loads(json.encode_read_batch(payload, record_fmt, None))
        expect(len(shown["records"]) == batch.count, "every record is shown")


def _check_append_message(message: bytes) -> None:
    with suppress(ProtobufError, InvalidInput):
        _check_taken(protobuf.decode_append_input(message))


def check_protobuf(mutator: Mutator) -> None:
    """Decode a damaged message, as an input and as a stored payload."""
    message = mutator.damaged()
    _check_append_message(message)
    for look in (
        protobuf.record_metas,
        lambda payload: protobuf.slice_records(payload, 1, 2),
        lambda payload: protobuf.split_payload(payload, 100),
        lambda payload: json.encode_read_batch(payload, RecordFormat.RAW, None),
    ):
        with suppress(ProtobufError):
            look(message)


# --- frames -----------------------------------------------------------------------------------

_CODINGS: Final[list[tuple[int, Callable[[bytes], bytes]]]] = [
    (0x00, bytes),
    (0x00, bytes),
    (0x20, zstandard.ZstdCompressor(level=1).compress),
    (0x20, lambda data: (coder := zstandard.ZstdCompressor(level=1).compressobj()).compress(data)
        + coder.flush()),
    (0x40, lambda data: gzip.compress(data, 1)),
]  # fmt: skip


def frame_streams() -> list[bytes]:
    """Valid sessions, and parts of sessions."""
    messages = append_messages()
    streams = [encode_frame(message, Compression.NONE) for message in messages]
    streams += [encode_frame(messages[-1], compression) for compression in Compression]
    streams.append(b"".join(streams))
    return streams


def _frame_of(mutator: Mutator, message: bytes) -> bytes:
    """A frame whose flag tells the truth, most of the time, about what is in it."""
    flag, compress = mutator.rng.choice(_CODINGS)
    payload = compress(message)
    if mutator.rng.random() < 0.3:
        payload = mutator.damaged(payload)
    if mutator.rng.random() < 0.1:
        flag = mutator.rng.randrange(256)
    return (1 + len(payload)).to_bytes(4, "big")[1:] + bytes([flag]) + payload


def check_frames(mutator: Mutator) -> None:
    """Decode a damaged session in one piece and in many, and the messages in it."""
    if mutator.rng.random() < 0.5:
        session = mutator.damaged()
    else:
        count = mutator.rng.choice((1, 1, 2, 5))
        session = b"".join(_frame_of(mutator, mutator.damaged(_MESSAGES[0])) for _ in range(count))
    whole = _delivered([session])
    expect(whole == _delivered(mutator.chunks(session)), "chunks make no difference")
    _check_cuts(session, *whole)
    for message in whole[0]:
        expect(len(message) <= MAX_FRAME_PAYLOAD_BYTES, "a message is no larger than a frame")
        _check_append_message(message)


def _check_cuts(session: bytes, messages: list[bytes], error: str | None) -> None:
    """Cut the session in the simplest way, and compare as far as that goes."""
    offset = 0
    for message in messages:
        length, flag = int.from_bytes(session[offset : offset + 3], "big"), session[offset + 3]
        expect(0 < length <= MAX_FRAME_LENGTH, "a length is within its bounds")
        expect(not flag & 0x80 and flag & 0x60 != 0x60, "a flag means something")
        end = offset + 3 + length
        expect(
            flag & 0x60 != 0 or message == session[offset + 4 : end], "a message is what is sent"
        )
        offset = end
    expect(offset <= len(session), "no more is delivered than was sent")
    expect((error is None) == (offset == len(session)), "an end is an error unless all was taken")


_MESSAGES: Final = append_messages()


def _delivered(chunks: list[bytes]) -> tuple[list[bytes], str | None]:
    decoder = FrameDecoder()
    messages: list[bytes] = []
    try:
        for chunk in chunks:
            for message in decoder.feed(chunk):
                messages.append(message)
        decoder.close()
    except FrameError as error:
        return messages, str(error)
    return messages, None


# --- JSON -------------------------------------------------------------------------------------


def append_bodies() -> list[bytes]:
    """Appends in JSON, raw and in base64."""
    return [
        b'{"records":[{"body":"hello"}]}',
        b'{"records":[{"body":"aGVsbG8=","headers":[["bg==","dg=="]]}]}',
        b'{"records":[{"timestamp":1700000000000,"headers":[["n","v"],["",""]],"body":"\\u00e9"}],'
        b'"match_seq_num":18446744073709551615,"fencing_token":"tok"}',
        b'{"records":[{"headers":[["","fence"]],"body":"token"}],"fencing_token":null}',
        b'{"records":[{"headers":[["","trim"]],"body":"\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000'
        b'\\u0000\\u0001"}], "unknown": {"a": [1, 2.5e3, -1, null, true]}}',
        b'{"records":[' + b",".join([b'{"body":"x"}'] * 100) + b"]}",
    ]


def check_json(mutator: Mutator) -> None:
    """Decode a damaged append in both formats."""
    body = mutator.damaged()
    for record_fmt in RecordFormat:
        with suppress(JsonError, InvalidInput):
            _check_taken(json.decode_append_input(body, record_fmt))


def control_bodies() -> list[bytes]:
    """The bodies of the control plane."""
    stream_config = (
        b'{"storage_class":"express","retention_policy":{"age":86400},'
        b'"timestamping":{"mode":"client-prefer","uncapped":true},'
        b'"delete_on_empty":{"min_age_secs":60}}'
    )
    return [
        b"null",
        b"{}",
        stream_config,
        b'{"retention_policy":{"infinite":{}},"timestamping":null,"delete_on_empty":{}}',
        b'{"basin":"some-basin","location":"aws:us-east-1","config":{"default_stream_config":'
        + stream_config
        + b',"stream_cipher":"aes-256-gcm","create_stream_on_append":true}}',
        b'{"stream":"some/stream","config":' + stream_config + b"}",
        b'{"default_stream_config":null,"create_stream_on_read":false,"stream_cipher":null}',
    ]


def check_control_json(mutator: Mutator) -> None:
    """Decode a damaged body as each of the control plane's; what is taken can be shown."""
    body = mutator.damaged()
    for decode in (
        control_json.decode_create_basin,
        control_json.decode_ensure_basin,
        control_json.decode_basin_patch,
        control_json.decode_create_stream,
        control_json.decode_stream_config,
        control_json.decode_stream_config_header,
        control_json.decode_stream_patch,
    ):
        with suppress(JsonError, InvalidInput):
            _show(decode(body))


def _show(decoded: object) -> None:
    match decoded:
        case BasinConfig():
            stdlib_json.loads(control_json.encode_basin_config(decoded))
        case control_json.CreateBasinRequest(config=config):
            stdlib_json.loads(control_json.encode_basin_config(config))
        case StreamConfig():
            stdlib_json.loads(control_json.encode_stream_config(decoded))


# --- heads of requests ------------------------------------------------------------------------


def queries() -> list[bytes]:
    """Query strings of reads."""
    return [
        b"",
        b"seq_num=0&count=10&bytes=1000&until=1700000000000&clamp=true&wait=60",
        b"timestamp=1700000000000&until=1700000000001",
        b"tail_offset=5&wait=0&clamp=false",
        b"seq_num=18446744073709551615&unknown=%F0%9F%98%80&x",
        b"s+eq%5Fnum=1;count=1",
    ]


def check_query(mutator: Mutator) -> None:
    """Parse a damaged query, and find where the read would start."""
    with suppress(BadRequest, InvalidInput, ReadPastTail):
        query = Query(mutator.damaged()[:MAX_HEAD_BYTES])
        for name in ("prefix", "start_after"):
            query.text(name)
        wanted = ReadParameters.parse(query).to_request()
        locate(unary_request(wanted), StreamPosition(10, 1_700_000_000_000))


def header_values() -> list[bytes]:
    """Values of headers, and segments of paths."""
    return [
        b"some-basin", b"stream", b"a%2Fb%20c", b"%F0%9F%98%80", b"token-1",
        b'{"storage_class":"standard","retention_policy":{"age":1}}',
        b"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        b"17,3,4711", b"application/json; charset=utf-8", b"application/protobuf", b"s2s/proto",
        b"text/event-stream, */*;q=0.1", b"gzip;q=0.5, zstd;q=1.0, identity;q=0, *;q=nan",
        b"raw", b"base64",
    ]  # fmt: skip


_HEADERS: Final = (
    b"s2-basin", b"s2-request-token", b"s2-encryption-key", b"s2-stream-config", b"last-event-id",
    b"s2-format", b"content-type", b"accept", b"accept-encoding",
)  # fmt: skip


def request_with(
    headers: list[tuple[bytes, bytes]], chunks: list[bytes], query: bytes = b""
) -> Request:
    """A request whose body comes in chunks, none of which is waited for."""
    events: Iterator[Event] = iter(
        [
            *({"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks),
            {"type": "http.request", "body": b"", "more_body": False},
        ]
    )

    async def receive() -> Event:
        return next(events)

    scope = {"type": "http", "method": "POST", "headers": headers, "query_string": query}
    return Request(scope, receive)


def check_headers(mutator: Mutator) -> None:
    """Parse damaged values as every header there is, and as segments of a path."""
    request = request_with([(name, mutator.damaged()[:MAX_HEAD_BYTES]) for name in _HEADERS], [])
    segment = mutator.damaged().decode("latin-1")
    for parse in (
        basin_header,
        request_token_header,
        check_encryption_key_header,
        stream_config_header,
        last_event_id_header,
        lambda request: record_format(request.header(b"s2-format")),
        lambda request: append_mode(request.header(b"content-type")),
        lambda _request: stream_in_path(segment),
        lambda _request: basin_in_path(segment),
    ):
        with suppress(BadRequest):
            parse(request)
    read_mode(request.header(b"content-type"), request.header(b"accept"))
    wants_protobuf(request.header(b"accept"))
    lines = request.header_lines(b"accept-encoding")
    choose_encoding(lines)
    select_compression(line.decode("latin-1") for line in lines)


def event_ids() -> list[bytes]:
    """Ids of server-sent events."""
    return [b"17,3,4711", b"0,0,0", b"18446744073709551615,1,18446744073709551615"]


def check_event_ids(mutator: Mutator) -> None:
    """Parse a damaged id; one that is taken is spelled the same way again, but for zeros."""
    text = mutator.damaged().decode("latin-1")
    with suppress(InvalidName):
        event_id = parse_event_id(text)
        expect(parse_event_id(str(event_id)) == event_id, "an id means what it says")


# --- whole bodies -----------------------------------------------------------------------------


def encoded_bodies() -> list[bytes]:
    """Bodies in each content encoding, of one piece and of several."""
    texts = [b"", b'{"records":[{"body":"hello"}]}', b"x" * 5000, bytes(range(256)) * 20]
    streamed = zstandard.ZstdCompressor().compressobj()
    bomb = zstandard.compress(bytes(20 * 1024 * 1024))
    return [
        *map(gzip.compress, texts),
        *map(zstandard.compress, texts),
        gzip.compress(texts[1]) + gzip.compress(texts[2]),
        zstandard.compress(texts[2]) + zstandard.compress(texts[3]),
        streamed.compress(texts[3]) + streamed.flush(),
        bomb,
        gzip.compress(bytes(20 * 1024 * 1024), 9),
        zlib.compress(texts[2]),
    ]


def check_bodies(mutator: Mutator) -> None:
    """Read a damaged body, in each encoding; what comes out is no larger than is allowed."""
    body = mutator.damaged()
    for encoding in (b"gzip", b"zstd", b"identity"):
        request = request_with([(b"content-encoding", encoding)], mutator.chunks(body))
        with suppress(BadRequest):
            decoded = _finished(read_body(request, ErrorCode.BAD_JSON))
            expect(len(decoded) <= MAX_UNARY_BODY_BYTES, "a body is 2 MiB at most")


def _finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of what has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits for something")


WIRE_TARGETS: Final = (
    Target("frames", "S2S sessions", frame_streams, check_frames, weight=2),
    Target("protobuf", "appends and stored records", append_messages, check_protobuf, weight=2),
    Target("json", "appends in JSON", append_bodies, check_json, weight=2),
    Target("control-json", "bodies of the control plane", control_bodies, check_control_json),
    Target("query", "query strings", queries, check_query),
    Target("headers", "headers and paths", header_values, check_headers),
    Target("event-ids", "ids of server-sent events", event_ids, check_event_ids),
    Target("bodies", "bodies in content encodings", encoded_bodies, check_bodies, weight=0.5),
)
