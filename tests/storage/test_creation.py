"""Creating objects under faults: who owns what is found, and how long a writer tries."""

import itertools
from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock

from s2lite.codec.envelope import Header, ObjectKind, WriterIdentity, read_header, seal
from s2lite.model.errors import CorruptObject, StorageFailed, WriterFenced
from s2lite.storage.creation import NumberTaken, ObjectCreator
from s2lite.storage.retry import (
    ATTEMPT_BYTES_PER_SECOND,
    ATTEMPT_SECONDS,
    DEADLINE_SECONDS,
    FIRST_BACKOFF_SECONDS,
    MAX_BACKOFF_SECONDS,
)
from tests.fakes.object_store import FakeObjectStore, Fault, FaultRates, Latency, Op

KEY = "wal/1"


@pytest.fixture
def store() -> FakeObjectStore:
    return FakeObjectStore(Random(1))


def creator(store: FakeObjectStore, epoch: int = 1, seed: int = 0) -> ObjectCreator:
    return ObjectCreator(store, WriterIdentity(epoch, bytes([epoch]) * 16), Random(seed))


async def create(writer: ObjectCreator, body: bytes = b"body") -> None:
    await writer.create(ObjectKind.WAL, 1, KEY, lambda header: seal(header, body))


def owner(store: FakeObjectStore) -> Header:
    return read_header(KEY, store.objects[KEY].data)


@attrs.frozen
class Racer:
    epoch: int
    writer: ObjectCreator
    outcomes: list[tuple[int, str]]

    async def run(self) -> None:
        try:
            await create(self.writer)
        except NumberTaken:
            self.outcomes.append((self.epoch, "lost"))
        else:
            self.outcomes.append((self.epoch, "won"))


async def test_an_object_says_who_wrote_it(store: FakeObjectStore) -> None:
    await create(creator(store, epoch=7))
    assert owner(store).writer == WriterIdentity(7, b"\x07" * 16)
    assert (owner(store).kind, owner(store).number) == (ObjectKind.WAL, 1)


async def test_each_write_has_a_nonce_of_its_own(store: FakeObjectStore) -> None:
    writer = creator(store)
    await create(writer)
    first = owner(store).nonce
    await store.delete(KEY)
    await create(writer)
    assert owner(store).nonce != first


@pytest.mark.parametrize("fault", [Fault.ERROR_BEFORE, Fault.ERROR_AFTER])
@pytest.mark.parametrize("times", [1, 5])
async def test_an_ambiguous_put_is_retried_until_it_is_known_to_be_ours(
    store: FakeObjectStore, autojump_clock: MockClock, fault: Fault, times: int
) -> None:
    store.fail_next(Op.PUT_NEW, KEY, fault, times)
    await create(creator(store))
    assert owner(store).writer.epoch == 1


@pytest.mark.parametrize("fault", [Fault.STALL_BEFORE, Fault.STALL_AFTER])
async def test_an_attempt_that_hangs_is_given_up_and_made_again(
    store: FakeObjectStore, autojump_clock: MockClock, fault: Fault
) -> None:
    store.fail_next(Op.PUT_NEW, KEY, fault)
    start = trio.current_time()
    await create(creator(store))
    assert ATTEMPT_SECONDS < trio.current_time() - start < ATTEMPT_SECONDS + 1
    assert owner(store).writer.epoch == 1


async def test_a_large_object_has_more_time_for_an_attempt(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    size = 8 * ATTEMPT_BYTES_PER_SECOND
    store.latency = Latency(put_new=(ATTEMPT_SECONDS + 7, ATTEMPT_SECONDS + 7))
    await create(creator(store), bytes(size))
    assert len(store.operations(Op.PUT_NEW)) == 1
    with pytest.raises(StorageFailed):
        await creator(store).create(ObjectKind.WAL, 2, "wal/2", lambda header: seal(header, b""))


async def test_a_lookup_that_fails_after_an_ambiguous_put_is_retried_too(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    store.fail_next(Op.PUT_NEW, KEY, Fault.ERROR_AFTER)
    store.fail_next(Op.GET_RANGE, KEY, Fault.ERROR_BEFORE, times=3)
    await create(creator(store))
    assert len(store.operations(Op.PUT_NEW)) == 5


@pytest.mark.parametrize("ambiguous", [False, True])
async def test_an_object_of_somebody_else_is_named(
    store: FakeObjectStore, autojump_clock: MockClock, ambiguous: bool
) -> None:
    await create(creator(store, epoch=2))
    if ambiguous:
        store.fail_next(Op.PUT_NEW, KEY, Fault.ERROR_BEFORE)
    with pytest.raises(NumberTaken) as caught:
        await create(creator(store, epoch=1))
    assert caught.value.key == KEY
    assert caught.value.header.writer.epoch == 2


async def test_an_object_of_the_same_writer_but_another_write_is_not_this_one(
    store: FakeObjectStore,
) -> None:
    await create(creator(store, seed=0))
    with pytest.raises(NumberTaken):
        await create(creator(store, seed=1))


async def test_an_ambiguous_put_that_somebody_else_won_is_told_apart_from_our_own(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    """The first attempt never arrives, and somebody else takes the key before the second."""
    store.fail_next(Op.PUT_NEW, KEY, Fault.ERROR_BEFORE)
    outcomes: list[tuple[int, str]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Racer(1, creator(store, epoch=1), outcomes).run)
        await trio.sleep(FIRST_BACKOFF_SECONDS / 5)
        await create(creator(store, epoch=2))
    assert outcomes == [(1, "lost")]
    assert len(store.operations(Op.PUT_NEW)) == 3


async def test_only_a_newer_epoch_fences(store: FakeObjectStore) -> None:
    await create(creator(store, epoch=2))
    for epoch, fenced in ((1, True), (2, False), (3, False)):
        late = creator(store, epoch, seed=9)
        with pytest.raises(NumberTaken) as caught:
            await create(late)
        if fenced:
            with pytest.raises(WriterFenced):
                late.refuse_newer(caught.value)
        else:
            late.refuse_newer(caught.value)


@pytest.mark.parametrize("damage", [b"", b"S2LT", bytes(64), bytes(200)])
async def test_an_object_in_the_way_that_says_nothing_is_damage(
    store: FakeObjectStore, autojump_clock: MockClock, damage: bytes
) -> None:
    await store.put_new(KEY, damage)
    with pytest.raises(CorruptObject) as caught:
        await create(creator(store))
    assert caught.value.key == KEY


async def test_a_store_that_refuses_ends_it_at_once(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    store.fail_next(Op.PUT_NEW, KEY, Fault.REFUSED)
    with pytest.raises(StorageFailed, match="not allowed"):
        await create(creator(store))
    assert len(store.operations(Op.PUT_NEW)) == 1
    assert trio.current_time() == 0.0


@pytest.mark.parametrize("rates", [FaultRates(error_before=1.0), FaultRates(stall_before=1.0)])
async def test_a_store_that_stays_away_past_the_deadline_ends_it(
    store: FakeObjectStore, autojump_clock: MockClock, rates: FaultRates
) -> None:
    store.faults = rates
    with pytest.raises(StorageFailed, match=r"has not answered .* within 60 s"):
        await create(creator(store))
    assert trio.current_time() >= DEADLINE_SECONDS - MAX_BACKOFF_SECONDS
    assert trio.current_time() <= DEADLINE_SECONDS + ATTEMPT_SECONDS


async def test_a_store_that_comes_back_before_the_deadline_is_written_to(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    store.faults = FaultRates(error_before=1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(create, creator(store))
        await trio.sleep(DEADLINE_SECONDS - 5)
        store.faults = FaultRates()
    assert owner(store).writer.epoch == 1


async def test_retries_back_off_up_to_a_limit(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    store.faults = FaultRates(error_before=1.0)
    with pytest.raises(StorageFailed):
        await create(creator(store))
    starts = [each.start for each in store.operations(Op.PUT_NEW)]
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert all(0 < pause <= MAX_BACKOFF_SECONDS for pause in pauses)
    assert pauses[0] < 0.1 < 1.0 <= min(pauses[8:])
    assert len(set(pauses)) == len(pauses)  # jittered


async def test_a_cancelled_creation_stops_trying(
    store: FakeObjectStore, autojump_clock: MockClock
) -> None:
    store.faults = FaultRates(error_before=1.0)
    with trio.move_on_after(5):
        await create(creator(store))
    assert trio.current_time() == 5
    count = len(store.log)
    await trio.sleep(100)
    assert len(store.log) == count


async def test_writers_that_race_for_a_key_get_it_once(autojump_clock: MockClock) -> None:
    for seed in range(20):
        store = FakeObjectStore(Random(seed), faults=FaultRates(error_before=0.3, error_after=0.3))
        outcomes: list[tuple[int, str]] = []
        await _race(store, outcomes)
        winners = [epoch for epoch, outcome in outcomes if outcome == "won"]
        assert len(outcomes) == 4
        assert winners == [owner(store).writer.epoch]


async def _race(store: FakeObjectStore, outcomes: list[tuple[int, str]]) -> None:
    async with trio.open_nursery() as nursery:
        for epoch in range(1, 5):
            racer = Racer(epoch, creator(store, epoch, seed=epoch), outcomes)
            nursery.start_soon(racer.run)
