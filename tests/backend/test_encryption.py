"""Streams with a cipher: what a key opens, where its absence matters, and what the store shows."""

import base64
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from s2lite.backend.backend import Backend
from s2lite.backend.stream_handle import StreamHandle
from s2lite.model.config import BasinConfig, StreamCipher, StreamConfigLayer
from s2lite.model.encryption import EncryptionKey
from s2lite.model.errors import (
    CipherExhausted,
    DecryptionFailed,
    EncryptionKeyMissing,
    FencingTokenMismatch,
    SealedFrameError,
    SeqNumMismatch,
)
from s2lite.model.limits import U32_MAX
from s2lite.model.positions import StreamPosition
from s2lite.model.reads import (
    DeliveredBatch,
    FromSeqNum,
    FromTimestamp,
    Heartbeat,
    ReadEvent,
    ReadLimits,
    ReadRequest,
    ReadStart,
)
from s2lite.model.records import Fence, Trim
from s2lite.settings import Settings
from s2lite.storage.layout import Layout
from tests.backend.world import (
    BASIN,
    FROM_START,
    STREAM,
    append_of,
    bodies,
    collect,
    following,
    new_stream,
    open_stream,
    read_all,
    seq_nums,
)
from tests.fakes.backend import running_backend
from tests.fakes.object_store import FakeObjectStore

KEY = EncryptionKey(b"the first key of these tests....")
OTHER_KEY = EncryptionKey(b"the second key of these tests...")
SMALL = Settings(layout=Layout(memtable_bytes=4096, block_bytes=2048, wal_objects=8, fanout=2))
UNCAPPED = StreamConfigLayer(timestamping_uncapped=True)


@attrs.define(eq=False)
class Encrypted:
    """A stream with a cipher, for a client with one key and for one with another."""

    backend: Backend
    store: FakeObjectStore
    bare: StreamHandle

    @property
    def mine(self) -> StreamHandle:
        return self.bare.with_key(KEY)

    @property
    def theirs(self) -> StreamHandle:
        return self.bare.with_key(OTHER_KEY)

    async def five_records(self) -> None:
        """The bodies 0 to 4, stamped 10 to 50: 2 and 3 by the other key, 1 and 4 fences."""
        await self.mine.append(append_of("0", Fence("1"), timestamps=[10, 20]))
        await self.theirs.append(append_of("2", timestamps=[30]))
        await self.theirs.append(append_of("3", Fence("4"), timestamps=[40, 50]))


@asynccontextmanager
async def encrypted(
    cipher: StreamCipher,
    store: FakeObjectStore | None = None,
    settings: Settings | None = None,
    config: StreamConfigLayer = UNCAPPED,
) -> AsyncIterator[Encrypted]:
    store = store or FakeObjectStore(Random(1))
    async with running_backend(store, settings=settings) as backend:
        if backend.catalog.basin(BASIN) is None:
            await backend.create_basin(BASIN, BasinConfig(stream_cipher=cipher), None)
            yield Encrypted(backend, store, await new_stream(backend, config=config))
        else:
            yield Encrypted(backend, store, await open_stream(backend))


@pytest.fixture(params=StreamCipher, ids=str)
def cipher(request: pytest.FixtureRequest) -> StreamCipher:
    chosen: StreamCipher = request.param
    return chosen


@pytest.fixture
async def stream(cipher: StreamCipher) -> AsyncIterator[Encrypted]:
    async with encrypted(cipher) as made:
        yield made


def all_bytes(store: FakeObjectStore) -> bytes:
    return b"".join(key.encode() + stored.data for key, stored in store.objects.items())


def is_sealed(data: bytes) -> bool:
    shown = (b"secret", KEY.secret, KEY.secret.hex().encode(), base64.b64encode(KEY.secret))
    return not any(each in data for each in shown)


# --- round trips ------------------------------------------------------------------------------


async def test_what_was_appended_with_a_key_is_read_with_it(stream: Encrypted) -> None:
    ack = await stream.mine.append(append_of("a", "b", Fence("tok"), "c"))
    assert (ack.start.seq_num, ack.end.seq_num) == (0, 4)
    batch = await stream.mine.read(FROM_START)
    assert bodies(batch) == ["a", "b", "tok", "c"]
    assert batch is not None
    assert (batch.count, batch.metered_bytes) == (4, 9 * 3 + 8 + 2 + 5 + 3)
    assert await read_all(stream.mine, 1) == ["b", "tok", "c"]


async def test_a_follower_is_given_records_as_they_come(
    stream: Encrypted, autojump_clock: MockClock
) -> None:
    events: list[ReadEvent] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, stream.mine, following(count=5, wait=60), events)
        await wait_all_tasks_blocked()
        await stream.mine.append(append_of("a", Fence("t"), "b"))
        await stream.mine.append(append_of("c", "d", "e"))
    assert [bodies(event) for event in events if isinstance(event, DeliveredBatch)] == [
        ["a", "t", "b"],
        ["c", "d"],
    ]
    tails = [event.tail.seq_num for event in events if event.tail is not None]
    assert tails == [0, 3, 6]


async def test_a_follower_with_another_key_is_given_commands_and_then_fails(
    stream: Encrypted, autojump_clock: MockClock
) -> None:
    async with stream.theirs.read_session(following()) as session:
        assert isinstance(await anext(session), Heartbeat)
        await stream.mine.append(append_of(Fence("t")))
        assert bodies(await session.next_batch()) == ["t"]
        await stream.mine.append(append_of(Fence("u"), "a"))
        with pytest.raises(DecryptionFailed):
            await anext(session)


async def test_it_survives_flushes_compaction_and_a_restart_and_never_shows_in_the_store(
    cipher: StreamCipher, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = FakeObjectStore(Random(1))
    expected: list[str] = []
    async with encrypted(cipher, store, SMALL) as stream:
        for number in range(120):
            texts = [f"secret {number} {'x' * (number % 50)}", f"secret fence {number}"]
            expected += [texts[0], f"token {number}"] if number % 10 == 0 else texts
            second = Fence(f"token {number}") if number % 10 == 0 else texts[1]
            await stream.mine.append(append_of(texts[0], second))
        await trio.sleep(600)
        assert await read_all(stream.mine) == expected
    assert b'"tier":1' in all_bytes(store)
    assert is_sealed(all_bytes(store))
    async with encrypted(cipher, store, SMALL) as stream:
        await stream.mine.append(append_of("secret last"))
        assert await read_all(stream.mine) == [*expected, "secret last"]
        assert await read_all(stream.mine, 117) == [*expected[117:], "secret last"]
        with pytest.raises(DecryptionFailed):
            await read_all(stream.theirs)
    assert is_sealed(all_bytes(store))
    assert is_sealed(caplog.text.encode())


# --- keys -------------------------------------------------------------------------------------


async def test_nothing_goes_without_a_key_but_the_tail(stream: Encrypted) -> None:
    await stream.mine.append(append_of("a"))
    for append in (append_of("b"), append_of(Fence("t"))):
        with pytest.raises(
            EncryptionKeyMissing, match=f"missing encryption key.*{stream.bare.cipher}"
        ):
            await stream.bare.append(append)
    with pytest.raises(EncryptionKeyMissing):
        await stream.bare.read(FROM_START)
    with pytest.raises(EncryptionKeyMissing):
        stream.bare.read_session(FROM_START)
    assert (await stream.bare.check_tail()).seq_num == 1


async def test_a_session_without_a_key_applies_nothing_more(stream: Encrypted) -> None:
    async with stream.bare.append_session() as session:
        pending = await session.submit(append_of("a"))
        with pytest.raises(EncryptionKeyMissing):
            await pending.wait()
    assert (await stream.bare.check_tail()).seq_num == 0


async def test_a_key_has_no_use_without_a_cipher() -> None:
    async with running_backend() as backend:
        stream = await new_stream(backend)
        await stream.with_key(KEY).append(append_of("a"))
        assert await read_all(stream) == await read_all(stream.with_key(OTHER_KEY)) == ["a"]


@pytest.mark.parametrize(
    ("start", "limits", "expected"),
    [
        (FromSeqNum(0), ReadLimits(), None),
        (FromSeqNum(0), ReadLimits(count=2), [0, 1]),
        (FromSeqNum(0), ReadLimits(count=3), None),
        (FromSeqNum(1), ReadLimits(count=1), [1]),
        (FromSeqNum(0), ReadLimits(bytes=9 + 16), [0, 1]),
        (FromSeqNum(0), ReadLimits(bytes=9 + 16 + 7), [0, 1]),
        (FromSeqNum(0), ReadLimits(until=30), [0, 1]),
        (FromSeqNum(0), ReadLimits(until=31), None),
        (FromSeqNum(2), ReadLimits(), None),
        (FromSeqNum(2), ReadLimits(count=0), []),
        (FromSeqNum(2), ReadLimits(until=30), []),
        (FromSeqNum(4), ReadLimits(), [4]),
        (FromTimestamp(11), ReadLimits(count=1), [1]),
        (FromTimestamp(21), ReadLimits(), None),
        (FromTimestamp(41), ReadLimits(), [4]),
    ],
)
async def test_a_key_matters_for_the_records_in_the_range_that_are_no_commands(
    stream: Encrypted, start: ReadStart, limits: ReadLimits, expected: list[int] | None
) -> None:
    await stream.five_records()
    request = ReadRequest(start, limits=limits)
    if expected is None:
        with pytest.raises(DecryptionFailed):
            await stream.mine.read(request)
    else:
        assert seq_nums(await stream.mine.read(request)) == expected


async def test_a_session_fails_where_it_meets_the_other_key_and_not_when_it_begins(
    stream: Encrypted,
) -> None:
    await stream.five_records()
    for start in (FromSeqNum(0), FromSeqNum(2), FromTimestamp(25)):
        async with stream.mine.read_session(ReadRequest(start)) as session:
            with pytest.raises(DecryptionFailed):
                await anext(session)


async def test_batches_before_the_one_that_does_not_open_are_delivered(stream: Encrypted) -> None:
    await stream.mine.append(append_of(*["a"] * 1000))
    await stream.theirs.append(append_of("b"))
    async with stream.mine.read_session(FROM_START) as session:
        event = await anext(session)
        assert isinstance(event, DeliveredBatch)
        assert event.count == 1000
        with pytest.raises(DecryptionFailed):
            await anext(session)


async def test_limits_are_for_plaintext(stream: Encrypted) -> None:
    large = b"x" * (1024 * 1024 - 8)
    await stream.mine.append(append_of(large))
    await stream.mine.append(append_of(*["y"] * 1000))
    batch = await stream.mine.read(FROM_START)
    assert batch is not None
    assert (batch.count, batch.metered_bytes) == (1, 1024 * 1024)
    assert seq_nums(
        await stream.mine.read(ReadRequest(FromSeqNum(1), limits=ReadLimits(bytes=27)))
    ) == [1, 2, 3]


# --- commands and conditions ------------------------------------------------------------------


async def test_commands_and_conditions_work_as_on_any_stream(stream: Encrypted) -> None:
    await stream.mine.append(append_of(Fence("tok")))
    with pytest.raises(FencingTokenMismatch):
        await stream.mine.append(append_of("a", token="other"))
    with pytest.raises(SeqNumMismatch):
        await stream.mine.append(append_of("a", match=0))
    await stream.mine.append(append_of("a", "b", match=1, token="tok"))
    await stream.mine.append(append_of(Trim(2), "c"))
    assert seq_nums(await stream.mine.read(FROM_START)) == [2, 3, 4]


async def test_a_stream_is_deleted_without_a_key_and_followers_see_it(
    stream: Encrypted, autojump_clock: MockClock
) -> None:
    await stream.mine.append(append_of("a"))
    async with stream.theirs.read_session(following(1)) as session:
        assert isinstance(await anext(session), Heartbeat)
        await stream.backend.delete_stream(BASIN, STREAM)
        assert bodies(await session.next_batch()) == ["\xff" * 8]


@pytest.mark.parametrize(
    ("items", "accepted"),
    [
        (["a"], True),
        (["a", "b"], False),
        (["a", Fence("t")], True),
        ([Fence("t"), "a"], False),
        ([Fence("t"), Trim(0)], True),
    ],
)
async def test_aes_seals_no_record_above_32_bits(
    items: list[str | Fence | Trim], accepted: bool
) -> None:
    for cipher in StreamCipher:
        async with encrypted(cipher) as stream:
            entry = stream.backend.catalog.stream(BASIN, STREAM)
            assert entry is not None
            entry.state = msgspec.structs.replace(entry.state, tail=StreamPosition(U32_MAX, 1))
            if accepted or cipher is StreamCipher.AEGIS_256:
                ack = await stream.mine.append(append_of(*items))
                assert ack.end.seq_num == U32_MAX + len(items)
            else:
                with pytest.raises(CipherExhausted, match="above 4294967295"):
                    await stream.mine.append(append_of(*items))
                assert (await stream.mine.check_tail()).seq_num == U32_MAX


# --- damage -----------------------------------------------------------------------------------


async def test_what_was_never_sealed_is_damage_and_not_a_wrong_key(cipher: StreamCipher) -> None:
    async with running_backend() as backend:
        stream = await new_stream(backend)
        await stream.append(append_of("plain"))
        entry = backend.catalog.stream(BASIN, STREAM)
        assert entry is not None
        record = attrs.evolve(entry.record, cipher=cipher)
        entry.state = msgspec.structs.replace(entry.state, record=record)
        for start in (FromSeqNum(0), FromTimestamp(0)):
            with pytest.raises(SealedFrameError):
                await stream.with_key(KEY).read(ReadRequest(start))


class Turns(trio.abc.Instrument):
    """Counts how often every task had its turn."""

    taken = 0

    def before_io_wait(self, timeout: float) -> None:
        self.taken += 1


async def turns_of(read: Callable[[], Awaitable[object]]) -> int:
    turns = Turns()
    trio.lowlevel.add_instrument(turns)
    await read()
    trio.lowlevel.remove_instrument(turns)
    return turns.taken


async def test_many_small_frames_leave_others_their_turn(stream: Encrypted) -> None:
    await stream.mine.append(append_of(*[Fence("t") if n % 2 else "x" for n in range(1000)]))
    few = ReadRequest(FromSeqNum(0), limits=ReadLimits(count=10))
    quick = await turns_of(lambda: stream.mine.read(few))
    assert await turns_of(lambda: stream.mine.read(FROM_START)) >= quick + 2


async def test_a_session_delivers_no_more_at_once_than_a_batch_may_hold(stream: Encrypted) -> None:
    for _ in range(3):
        await stream.mine.append(append_of(*["x"] * 400))
    await stream.mine.append(append_of(bytes(600_000)))
    await stream.mine.append(append_of(bytes(600_000)))
    sizes = []
    async with stream.mine.read_session(ReadRequest(FromSeqNum(0), wait_seconds=0)) as session:
        async for event in session:
            assert isinstance(event, DeliveredBatch)
            sizes.append(event.count)
    assert sizes == [800, 401, 1]
