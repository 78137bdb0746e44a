"""Random lives of a server, with crashes: whatever was acked is there, and nothing else ever shows.

A client per stream does one thing after the other and keeps a model of its stream. A crash leaves
the objects that were in the store at that instant; of what a client had not been answered by then,
any prefix may have happened, and the server that is opened next says which.
"""

from collections.abc import Iterable
from random import Random

import attrs
import pytest
import trio

from actors.testing import VirtualClock, run_seeded
from s2lite.backend.backend import Backend, Purpose
from s2lite.backend.stream_handle import PendingAck
from s2lite.codec.protobuf import decode_payload
from s2lite.model.config import BasinConfig, BasinReconfiguration, StreamConfigLayer
from s2lite.model.errors import (
    FencingTokenMismatch,
    S2LiteError,
    SeqNumMismatch,
    StreamDeletionPending,
    StreamExists,
    StreamUnavailable,
)
from s2lite.model.names import StreamName
from s2lite.model.positions import StreamPosition
from s2lite.model.reads import DeliveredBatch, FromSeqNum, ReadRequest
from s2lite.model.records import AppendAck, AppendInput, Fence, Trim
from s2lite.settings import Settings
from s2lite.storage.layout import Layout
from s2lite.storage.objects.object_store import StoreUnavailable
from tests.backend.world import BASIN, append_of, open_stream
from tests.fakes.backend import START_MS, running_backend
from tests.fakes.object_store import FakeObjectStore, FaultRates, Latency

NAMES = ("one", "two", "three")
Item = str | Fence | Trim
EMPTY = StreamConfigLayer()


@attrs.frozen
class Batch:
    """An append as a client means it."""

    items: tuple[Item, ...]
    match: int | None = None
    token: str | None = None

    def encoded(self) -> AppendInput:
        return append_of(*self.items, match=self.match, token=self.token)


@attrs.frozen
class Model:
    """What a stream is: every item ever appended to it."""

    items: tuple[Item, ...] = ()

    def verdict(self, batch: Batch) -> type[S2LiteError] | None:
        if batch.token not in (None, self.token):
            return FencingTokenMismatch
        if batch.match not in (None, len(self.items)):
            return SeqNumMismatch
        return None

    def after(self, batch: Batch) -> "Model":
        return Model(self.items + batch.items)

    @property
    def token(self) -> str:
        return next((item.token for item in reversed(self.items) if isinstance(item, Fence)), "")

    @property
    def first(self) -> int:
        """The first record that was not trimmed."""
        points = [
            min(item.trim_point, number + 1)
            for number, item in enumerate(self.items)
            if isinstance(item, Trim)
        ]
        return max(points, default=0)

    def records(self, start: int) -> list[tuple[int, str]]:
        start = max(start, self.first)
        return [(number, shown(self.items[number])) for number in range(start, len(self.items))]


def shown(item: Item) -> str:
    match item:
        case Fence(token):
            return token
        case Trim(point):
            return point.to_bytes(8, "big").decode("latin-1")
        case _:
            return item


@attrs.define(eq=False)
class Client:
    """Owns one stream name. `candidates` are the states its stream may be in; None: no stream.

    There is one, but for what is under way.
    """

    name: str
    rng: Random
    candidates: list[Model | None] = attrs.field(factory=lambda: [None])
    acks: int = 0
    refusals: int = 0
    reads: int = 0
    removals: int = 0
    resolved: int = 0

    @property
    def model(self) -> Model | None:
        (model,) = self.candidates
        return model

    async def live(self, backend: Backend) -> None:
        while True:
            if self.model is None:
                await self._create(backend)
            else:
                action = self.rng.choice([self._append] * 6 + [self._read] * 3 + [self._delete])
                await action(backend)
            await trio.sleep(self.rng.choice([0.0, 0.0, 0.02, 0.3]))

    async def resolve(self, backend: Backend) -> None:
        """After a restart: find out which of the candidates it is."""
        found = await self._find(backend)
        assert found in self.candidates, (found, self.candidates)
        self.resolved += len(self.candidates) > 1
        self.candidates = [found]

    async def _find(self, backend: Backend) -> Model | None:
        entry = backend.catalog.stream(BASIN, StreamName(self.name))
        if entry is None:
            return None
        tail = entry.tail.seq_num
        found = await read(backend, self.name, 0)
        for model in self.candidates:
            if model is not None and len(model.items) == tail and model.records(0) == found:
                return model
        raise AssertionError(f"{tail} {found} is none of {self.candidates}")

    # --- what it does -------------------------------------------------------------------------

    async def _create(self, backend: Backend) -> None:
        self.candidates = [None, Model()]
        while True:
            try:
                if self.rng.random() < 0.5:
                    await backend.create_stream(BASIN, StreamName(self.name), EMPTY, None)
                else:
                    await backend.open_stream(BASIN, StreamName(self.name), Purpose.APPEND)
                break
            except StreamDeletionPending:
                await trio.sleep(0.05)
            except StreamExists:
                raise AssertionError("it was created twice") from None
        self.candidates = [Model()]
        stream = await open_stream(backend, self.name)
        assert await stream.check_tail() == StreamPosition.ZERO

    async def _delete(self, backend: Backend) -> None:
        assert self.model is not None
        self.candidates = [self.model, None]
        await backend.delete_stream(BASIN, StreamName(self.name))
        self.candidates = [None]
        self.removals += 1

    async def _read(self, backend: Backend) -> None:
        model = self.model
        assert model is not None
        start = self.rng.randint(0, len(model.items))
        assert await read(backend, self.name, start) == model.records(start)
        stream = await open_stream(backend, self.name, Purpose.READ)
        assert (await stream.check_tail()).seq_num == len(model.items)
        self.reads += 1

    async def _append(self, backend: Backend) -> None:
        """Some batches, pipelined in one session; each comes to what the model says."""
        model = self.model
        assert model is not None
        plan: list[tuple[Batch, Model, type[S2LiteError] | None]] = []
        failed = False
        for _ in range(self.rng.randint(1, 5)):
            batch = self._batch(model)
            verdict = StreamUnavailable if failed else model.verdict(batch)
            failed = failed or verdict is not None
            before, model = model, model if failed else model.after(batch)
            plan.append((batch, before, verdict))
        self._expect([plan[0][1], *(before for _, before, _ in plan), model])
        stream = await open_stream(backend, self.name)
        async with stream.append_session() as session:
            pending = [await session.submit(batch.encoded()) for batch, _, _ in plan]
            for (batch, before, verdict), each in zip(plan, pending, strict=True):
                await self._check(batch, before, verdict, each)
                if verdict is None:
                    self._forget(before)
        self.candidates = [model]

    async def _check(
        self, batch: Batch, before: Model, verdict: type[S2LiteError] | None, pending: PendingAck
    ) -> None:
        if verdict is not None:
            with pytest.raises(verdict) as refused:
                await pending.wait()
            error = refused.value
            assert not isinstance(error, FencingTokenMismatch) or error.actual == before.token
            self.refusals += 1
            return
        ack: AppendAck = await pending.wait()
        first, count = len(before.items), len(batch.items)
        assert (ack.start.seq_num, ack.end.seq_num) == (first, first + count)
        self.acks += 1

    def _expect(self, models: Iterable[Model]) -> None:
        self.candidates = list(dict.fromkeys(models))

    def _forget(self, passed: Model) -> None:
        """It has been left behind: what came after is acked."""
        assert self.candidates[0] == passed
        self.candidates.pop(0)

    def _batch(self, model: Model) -> Batch:
        rng = self.rng
        items: list[Item] = []
        for _ in range(rng.randint(1, 4)):
            roll = rng.random()
            if roll < 0.08:
                items.append(Fence(rng.choice(["", "a", "b"])))
            elif roll < 0.15:
                items.append(Trim(rng.randint(0, len(model.items) + 10)))
            else:
                items.append(f"{self.name} {rng.randint(0, 10**6)}")
        match = rng.choice([None] * 5 + [len(model.items)] * 4 + [len(model.items) + 1])
        token = rng.choice([None] * 5 + [model.token] * 4 + ["x"])
        return Batch(tuple(items), match, token)


async def read(backend: Backend, name: str, start: int) -> list[tuple[int, str]]:
    """All there is from there on; the server does not retry what the store fails to read."""
    while True:
        try:
            return await _read(backend, name, start)
        except StoreUnavailable:
            await trio.sleep(0.01)


async def _read(backend: Backend, name: str, start: int) -> list[tuple[int, str]]:
    stream = await open_stream(backend, name, Purpose.READ)
    found: list[tuple[int, str]] = []
    request = ReadRequest(FromSeqNum(start), wait_seconds=0)
    async with stream.read_session(request) as session:
        async for event in session:
            assert isinstance(event, DeliveredBatch)
            records = decode_payload(event.payload)
            found += [(record.seq_num, record.body.decode("latin-1")) for record in records]
    return found


@attrs.define(eq=False)
class Administrator:
    """Reconfigures the basin again and again: a counter, of which no acked step may be lost."""

    rng: Random
    acked: int = 0
    asked: int = 0

    async def live(self, backend: Backend) -> None:
        while True:
            self.asked = self.acked + 1
            defaults = attrs.evolve(
                BasinReconfiguration().default_stream_config,
                delete_on_empty_min_age_seconds=self.asked,
            )
            await backend.reconfigure_basin(BASIN, BasinReconfiguration(defaults))
            self.acked = self.asked
            await trio.sleep(self.rng.uniform(0, 0.5))

    async def resolve(self, backend: Backend) -> None:
        config = (await backend.basin_config(BASIN)).default_stream_config
        found = config.delete_on_empty_min_age_seconds or 0
        assert found in (self.acked, self.asked)
        self.acked = found


@attrs.define(eq=False)
class Life:
    """Several servers, one after the other, on what the one before has left."""

    seed: int
    loses: bool = False
    rng: Random = attrs.field(init=False)
    store: FakeObjectStore = attrs.field(init=False)
    clients: list[Client] = attrs.field(init=False)
    administrator: Administrator = attrs.field(init=False)
    crashes: int = 0

    def __attrs_post_init__(self) -> None:
        self.rng = Random(self.seed)
        self.store = self._faulty(FakeObjectStore(Random(self.seed)))
        self.clients = [Client(name, Random(f"{self.seed} {name}")) for name in NAMES]
        self.administrator = Administrator(Random(self.seed))

    def _faulty(self, store: FakeObjectStore) -> FakeObjectStore:
        store.latency = Latency.all(0.0, 0.1)
        store.faults = FaultRates(error_before=0.02, error_after=0.03)
        return store

    async def run(self) -> "Life":
        clock = VirtualClock(START_MS)
        for number in range(6):
            settings = Settings(
                wal_in_flight=self.rng.randint(1, 4),
                layout=Layout(memtable_bytes=self.rng.choice([1, 3000, 10**6])),
                stream_idle_seconds=self.rng.choice([0.2, 60.0]),
            )
            async with running_backend(
                self.store, settings=settings, clock=clock, seed=self.seed * 100 + number
            ) as backend:
                await self._resolve(backend, first=number == 0)
                await self._one_server(backend)
        return self

    async def _resolve(self, backend: Backend, *, first: bool) -> None:
        if first:
            await backend.create_basin(BASIN, BasinConfig(create_stream_on_append=True), None)
        # Deletions that were under way finish by themselves; only then is a name's state one thing.
        await trio.sleep(1)
        for client in self.clients:
            await client.resolve(backend)
        await self.administrator.resolve(backend)

    async def _one_server(self, backend: Backend) -> None:
        crashed: FakeObjectStore | None = None
        async with trio.open_nursery() as nursery:
            for client in self.clients:
                nursery.start_soon(client.live, backend)
            nursery.start_soon(self.administrator.live, backend)
            await trio.sleep(self.rng.uniform(0.5, 3))
            if self.rng.random() < 0.8:
                crashed = self._what_a_crash_leaves()
            nursery.cancel_scope.cancel()
        if crashed is not None:
            self.store = crashed
            self.crashes += 1

    def _what_a_crash_leaves(self) -> FakeObjectStore:
        crashed = self._faulty(self.store.fork(Random(self.rng.random())))
        if self.loses:
            newest = max(key for key in crashed.objects if key.startswith("wal/"))
            del crashed.objects[newest]
        return crashed


def live_through(seed: int, *, loses: bool = False) -> Life:
    return run_seeded(seed, Life(seed, loses).run)


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(4))
def test_whatever_is_acked_is_there_after_any_crash(batch: int) -> None:
    lives = [live_through(seed) for seed in range(batch * 5, batch * 5 + 5)]
    clients = [client for life in lives for client in life.clients]
    assert sum(life.crashes for life in lives) > 10
    assert sum(client.resolved for client in clients) > 5
    for count in ("acks", "refusals", "reads", "removals"):
        assert sum(getattr(client, count) for client in clients) > 20, count
    assert all(life.administrator.acked > 3 for life in lives)


@pytest.mark.slow
def test_a_store_that_loses_its_newest_object_is_caught() -> None:
    """Without this the test above might see nothing at all."""

    def is_caught(seed: int) -> bool:
        try:
            live_through(seed, loses=True)
        except AssertionError:
            return True
        except ExceptionGroup as group:
            return group.subgroup(AssertionError) is not None
        return False

    assert any(is_caught(seed) for seed in range(10))


@pytest.mark.slow
def test_the_same_seed_lives_the_same_life() -> None:
    def trace(seed: int) -> list[object]:
        life = live_through(seed)
        counts = [(each.acks, each.refusals, each.reads) for each in life.clients]
        return [counts, sorted(life.store.objects), [each.candidates for each in life.clients]]

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)
