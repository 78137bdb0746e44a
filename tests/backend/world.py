"""Short words for tests of the backend: basins, streams, batches, and what was delivered."""

from collections.abc import Sequence

from s2lite.backend.backend import Backend, Purpose
from s2lite.backend.stream_handle import StreamHandle
from s2lite.codec import s2_pb2
from s2lite.codec.protobuf import append_input_from, decode_payload
from s2lite.model.config import BasinConfig, StreamConfigLayer
from s2lite.model.names import BasinName, StreamName
from s2lite.model.reads import DeliveredBatch, FromSeqNum, ReadEvent, ReadLimits, ReadRequest
from s2lite.model.records import AppendInput, Command, Fence, Trim, command_parts

BASIN, STREAM = BasinName("test-basin"), StreamName("s")
FROM_START = ReadRequest(FromSeqNum(0))

Item = bytes | str | Command


def append_of(
    *items: Item,
    match: int | None = None,
    token: str | None = None,
    timestamps: Sequence[int | None] | None = None,
) -> AppendInput:
    """Records with these bodies, and commands."""
    message = s2_pb2.AppendInput()
    if match is not None:
        message.match_seq_num = match
    if token is not None:
        message.fencing_token = token
    for index, item in enumerate(items):
        record = message.records.add()
        if isinstance(item, Fence | Trim):
            headers, record.body = command_parts(item)
            for name, value in headers:
                record.headers.add(name=name, value=value)
        else:
            record.body = item.encode() if isinstance(item, str) else item
        timestamp = timestamps[index] if timestamps is not None else None
        if timestamp is not None:
            record.timestamp = timestamp
    return append_input_from(message)


async def new_stream(
    backend: Backend,
    name: str = STREAM,
    config: StreamConfigLayer | None = None,
    purpose: Purpose = Purpose.APPEND,
) -> StreamHandle:
    """A stream in the basin `test-basin`, which is made if it is missing."""
    if backend.catalog.basin(BASIN) is None:
        await backend.create_basin(BASIN, BasinConfig(), None)
    await backend.create_stream(BASIN, StreamName(name), config or StreamConfigLayer(), None)
    return await open_stream(backend, name, purpose)


async def open_stream(
    backend: Backend, name: str = STREAM, purpose: Purpose = Purpose.APPEND
) -> StreamHandle:
    """A handle of an existing stream."""
    return await backend.open_stream(BASIN, StreamName(name), purpose)


def bodies(batch: DeliveredBatch | None) -> list[str]:
    """The bodies of what was delivered, none for no batch."""
    if batch is None:
        return []
    return [record.body.decode("latin-1") for record in decode_payload(batch.payload)]


def seq_nums(batch: DeliveredBatch | None) -> list[int]:
    """The numbers of what was delivered."""
    if batch is None:
        return []
    return [record.seq_num for record in decode_payload(batch.payload)]


async def read_all(handle: StreamHandle, start: int = 0) -> list[str]:
    """The bodies of all records there are from `start` on."""
    found: list[str] = []
    request = ReadRequest(FromSeqNum(start), clamp=True, wait_seconds=0)
    async with handle.read_session(request) as session:
        async for event in session:
            assert isinstance(event, DeliveredBatch)
            found += bodies(event)
    return found


async def collect(handle: StreamHandle, request: ReadRequest, into: list[ReadEvent]) -> None:
    """Put all that a read delivers into a list, until the read ends."""
    async with handle.read_session(request) as session:
        async for event in session:
            into.append(event)


def following(start: int = 0, wait: int | None = None, **limits: int) -> ReadRequest:
    """A read from there on that stays."""
    return ReadRequest(FromSeqNum(start), limits=ReadLimits(**limits), wait_seconds=wait)
