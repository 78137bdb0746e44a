"""The official client, as a program that uses it would set it up."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from typing import ParamSpec, TypeVar

from s2_sdk import (
    S2,
    AppendInput,
    AppendRetryPolicy,
    Compression,
    Endpoints,
    ReadSession,
    Record,
    Retry,
    S2Stream,
    SeqNum,
    SequencedRecord,
)

from tests.conformance.server_process import ServerProcess

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE_SECONDS = 30
BOTH_STORAGES = ("memory", "local")


def on_asyncio(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Make a test of a coroutine that needs asyncio, as everything with the client does."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def patient() -> None:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await test(*args, **kwargs)

        asyncio.run(patient())

    # The wrapped coroutine function must not be mistaken for a test of the runner's own loop.
    return run


def connect(
    server: ServerProcess, compression: Compression = Compression.NONE, *, attempts: int = 1
) -> S2:
    """A client that reports the first failure, unless it is given more attempts."""
    client: S2 = S2(
        "ignored",
        endpoints=Endpoints(server.url, server.url),
        compression=compression,
        retry=Retry(max_attempts=attempts),
    )
    return client


def connect_patiently(
    server: ServerProcess, policy: AppendRetryPolicy = AppendRetryPolicy.ALL
) -> S2:
    """A client that goes on trying for as long as a server may take to come back."""
    endpoints = Endpoints(server.url, server.url)
    shortest, longest = timedelta(milliseconds=50), timedelta(milliseconds=100)
    client: S2 = S2("ignored", endpoints=endpoints, retry=Retry(200, shortest, longest, policy))
    return client


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition holds; for what a server does in its own time after its answer."""
    while not await condition():  # noqa: ASYNC110 - what changes is in another process
        await asyncio.sleep(0.01)


def batch(
    *bodies: bytes,
    match_seq_num: int | None = None,
    fencing_token: str | None = None,
    timestamps: Sequence[int | None] = (),
) -> AppendInput:
    """An input of records with these bodies."""
    stamps = [*timestamps, *[None] * (len(bodies) - len(timestamps))]
    records = [Record(body, timestamp=at) for body, at in zip(bodies, stamps, strict=True)]
    return AppendInput(records, match_seq_num=match_seq_num, fencing_token=fencing_token)


def bodies(records: Iterable[SequencedRecord]) -> list[bytes]:
    """Only the bodies."""
    return [record.body for record in records]


def seq_nums(records: Iterable[SequencedRecord]) -> list[int]:
    """Only the sequence numbers."""
    return [record.seq_num for record in records]


async def read_all(stream: S2Stream, start: int = 0) -> list[SequencedRecord]:
    """Everything from `start` to the tail."""
    return await drain(stream.read_session(start=SeqNum(start), wait=0))


async def drain(session: ReadSession) -> list[SequencedRecord]:
    """Every record of a session that ends by itself."""
    records: list[SequencedRecord] = []
    async with session:
        async for each in session:
            records += each.records
    return records


async def take(session: ReadSession, count: int) -> list[SequencedRecord]:
    """Records of a session until there are this many."""
    records: list[SequencedRecord] = []
    while len(records) < count:
        records += (await anext(session)).records
    return records
