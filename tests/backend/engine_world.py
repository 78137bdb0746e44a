"""Drives a whole engine through a program of steps, with crashes, next to a model of it.

A program is a list of steps, each of which makes sense in any state: so any part of a program is
a program, and one that fails can be made shorter (`shortest_failing`). Run with the same seed it
does the same, to the order in which trio runs its tasks.

A crash happens at one call of the store, before or after its effect. What the store holds at that
instant stays. Puts and deletes that were under way then may be lost, or land, or land later, while
the next server runs already.
"""

import builtins
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TypeAlias, TypeVar

import attrs
import pytest
import trio

from actors.testing import VirtualClock, run_seeded
from s2lite.backend.backend import Backend, Purpose
from s2lite.backend.stream_handle import StreamHandle
from s2lite.codec import s2_pb2
from s2lite.codec.protobuf import decode_payload
from s2lite.model.config import (
    BasinConfig,
    BasinReconfiguration,
    RetentionPolicy,
    StreamConfigLayer,
    StreamReconfiguration,
    reconfigure_basin,
    reconfigure_stream,
    resolve,
)
from s2lite.model.errors import (
    BasinDeletionPending,
    FencingTokenMismatch,
    StreamDeletionPending,
    StreamExists,
    StreamUnavailable,
)
from s2lite.model.names import BasinName, StreamName
from s2lite.model.reads import (
    DeliveredBatch,
    FromSeqNum,
    FromTailOffset,
    FromTimestamp,
    ReadLimits,
    ReadRequest,
    ReadStart,
)
from s2lite.model.records import Fence, Trim
from s2lite.model.resources import ListRequest
from s2lite.settings import BucketStorage, MemoryStorage, Settings
from s2lite.storage.layout import Layout
from s2lite.storage.manifest import read_manifest
from s2lite.storage.objects.object_store import ObjectInfo
from tests.backend.engine_model import BasinModel, Batch, Item, Stored, StreamModel, retention
from tests.backend.world import append_of
from tests.fakes.backend import START_MS, running_backend
from tests.fakes.object_store import FakeObjectStore, FaultRates, Latency, StoredObject

T = TypeVar("T")

FOLLOWER_PATIENCE_SECONDS = 60.0
DELETION_PATIENCE_SECONDS = 90.0
COLLECTION_SECONDS = 1000.0
COLLECTION_ROUNDS = 8
"""Garbage is collected one after the other: what is deleted last has made garbage itself."""
NO_TOKEN_IN_USE = "never"

# --- a store that dies with its process ---------------------------------------------------------


@attrs.frozen
class PutUnderWay:
    """A put that has not been answered."""

    key: str
    data: bytes

    def land(self, store: FakeObjectStore) -> None:
        """Take effect, if nobody else has the key."""
        if self.key not in store.objects:
            store.objects[self.key] = StoredObject(self.data, store.now_ms())


@attrs.frozen
class DeleteUnderWay:
    """A delete that has not been answered."""

    key: str

    def land(self, store: FakeObjectStore) -> None:
        """Take effect."""
        store.objects.pop(self.key, None)


Write: TypeAlias = PutUnderWay | DeleteUnderWay


@attrs.define(eq=False)
class ProcessStore:
    """The object store as one server process sees it, until that dies at a call.

    `on_death` has to cancel the process. `remains` is the store for the next one, `late` what has
    left the dead one and is still to arrive there.
    """

    store: FakeObjectStore
    rng: Random
    on_death: Callable[[], None]
    dies_at: int | None = None
    dies_after_effect: bool = False
    calls: int = 0
    remains: FakeObjectStore | None = None
    late: builtins.list[Write] = attrs.field(factory=list)
    _under_way: dict[int, Write] = attrs.field(factory=dict)

    async def put_new(self, key: str, data: bytes | bytearray) -> None:
        """See `ObjectStore.put_new`."""
        write = PutUnderWay(key, bytes(data))
        await self._call(lambda: self.store.put_new(key, data), write)

    async def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        return await self._call(lambda: self.store.get(key))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `ObjectStore.get_range`."""
        return await self._call(lambda: self.store.get_range(key, start, length))

    async def list(self, prefix: str, start_after: str = "") -> builtins.list[ObjectInfo]:
        """See `ObjectStore.list`."""
        return await self._call(lambda: self.store.list(prefix, start_after))

    async def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        await self._call(lambda: self.store.delete(key), DeleteUnderWay(key))

    def die(self) -> None:
        """Be dead from now on."""
        if self.remains is not None:
            return
        self.remains = self.store.fork(Random(self.rng.random()))
        for write in self._under_way.values():
            match self.rng.choice(["lost", "landed", "late", "late"]):
                case "landed":
                    write.land(self.remains)
                case "late":
                    self.late.append(write)
        self.on_death()

    async def _call(self, call: Callable[[], Awaitable[T]], write: Write | None = None) -> T:
        if self.remains is not None:
            await trio.sleep_forever()
        self.calls += 1
        number = self.calls
        if number == self.dies_at and not self.dies_after_effect:
            self.die()
            await trio.sleep_forever()
        if write is not None:
            self._under_way[number] = write
        deadly = number == self.dies_at
        try:
            return await call()
        except trio.Cancelled:
            deadly = False  # whoever has cancelled it goes on, or has ended in an orderly way
            raise
        finally:
            self._under_way.pop(number, None)
            if deadly:
                self.die()


# --- steps --------------------------------------------------------------------------------------


@attrs.frozen
class Records:
    """One batch: sizes of records in bytes, with one command among them or none.

    `trim` goes to that share of what is there. `age_ms` stamps the records by the client, so long
    before now; None leaves it to arrival. A `wrong` one is refused.
    """

    sizes: tuple[int, ...] = (10,)
    fence: str | None = None
    trim: float | None = None
    age_ms: int | None = None
    match: bool = False
    token: bool = False
    wrong: bool = False


@attrs.frozen
class Append:
    """Append batches to a stream, one behind the other in one session."""

    basin: int = 0
    stream: int = 0
    batches: tuple[Records, ...] = (Records(),)


@attrs.frozen
class Together:
    """Append to several streams at once."""

    appends: tuple[Append, ...]


@attrs.frozen
class Create:
    """Create a stream with this retention; None keeps records for good."""

    basin: int = 0
    stream: int = 0
    age_seconds: int | None = None


@attrs.frozen
class Delete:
    """Delete a stream."""

    basin: int = 0
    stream: int = 0


@attrs.frozen
class Reconfigure:
    """Change a stream's retention."""

    basin: int = 0
    stream: int = 0
    age_seconds: int | None = None


@attrs.frozen
class ReconfigureBasin:
    """Change the retention that new streams of a basin get."""

    basin: int = 0
    age_seconds: int | None = None


@attrs.frozen
class DeleteBasin:
    """Delete a basin with all of its streams, and wait until it is gone."""

    basin: int = 0


@attrs.frozen
class Follow:
    """Follow a stream from somewhere, as long as this server lives."""

    basin: int = 0
    stream: int = 0
    share: float = 0.0


@attrs.frozen
class Check:
    """Look at everything that can be seen of a stream."""

    basin: int = 0
    stream: int = 0


@attrs.frozen
class CheckAll:
    """Look at everything."""


@attrs.frozen
class CheckStore:
    """Wait until all garbage is collected, and see that what is needed is there, and no more."""


@attrs.frozen
class Wait:
    """Let time pass."""

    seconds: float = 1.0


@attrs.frozen
class Crash:
    """Have the server die at the n-th call of the store from now, whatever is going on then."""

    calls: int = 1
    after_effect: bool = False


@attrs.frozen
class Restart:
    """Stop the server in an orderly way, and start it anew."""


Step: TypeAlias = (
    Append
    | Together
    | Create
    | Delete
    | Reconfigure
    | ReconfigureBasin
    | DeleteBasin
    | Follow
    | Check
    | CheckAll
    | CheckStore
    | Wait
    | Crash
    | Restart
)
Program: TypeAlias = Sequence[Step]


# --- the world ----------------------------------------------------------------------------------


@attrs.define(eq=False)
class Follower:
    """What a read session that stays has been given."""

    model: StreamModel
    start: int
    found: list[s2_pb2.SequencedRecord] = attrs.field(factory=list)
    ended: bool = False

    async def run(self, handle: StreamHandle) -> None:
        """Read until the stream or the server goes away."""
        request = ReadRequest(FromSeqNum(self.start), clamp=True)
        try:
            async with handle.read_session(request) as session:
                async for event in session:
                    if isinstance(event, DeliveredBatch):
                        self._take(decode_payload(event.payload))
        except StreamUnavailable:
            self.ended = True

    def _take(self, records: Sequence[s2_pb2.SequencedRecord]) -> None:
        for record in records:
            assert not self.found or record.seq_num > self.found[-1].seq_num
            self.model.check_followed(record)
            self.found.append(record)


@attrs.frozen
class Profile:
    """How servers are set up, and how their store behaves."""

    layout: Layout = attrs.field(factory=lambda: TINY)
    latency_seconds: float = 0.05
    error_rate: float = 0.0
    shared: bool = False
    """Whether it is a bucket, in which writes of a dead server may still turn up."""
    wal_in_flight: int = 1
    flush_interval_seconds: float = 0.0
    gc_min_age_seconds: float = 0.0
    read_cache_bytes: int = 20_000
    loses: str | None = None
    """Null control: at a crash the newest object under this prefix is gone, and its copy."""


TINY: Layout = Layout(
    memtable_bytes=12_000,
    wal_object_bytes=3_000,
    wal_objects=12,
    entry_bytes=400,
    block_bytes=1_000,
    segment_bytes=5_000,
    footer_bytes=1_000,
    fanout=2,
)


@attrs.define(eq=False)
class World:
    """One store, the servers that come and go on it, and the model of what is in it."""

    seed: int
    profile: Profile
    rng: Random = attrs.field(init=False)
    clock: VirtualClock = attrs.field(init=False)
    store: FakeObjectStore = attrs.field(init=False)
    process: ProcessStore = attrs.field(init=False)
    basins: list[BasinModel | None] = attrs.field(factory=lambda: [None, None])
    followers: list[Follower] = attrs.field(factory=list)
    serial: int = 0
    servers: int = 0
    counts: Counter[str] = attrs.field(factory=Counter)
    calls_of_servers: list[int] = attrs.field(factory=list)
    _backend: Backend = attrs.field(init=False)
    _nursery: trio.Nursery = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.rng = Random(f"world {self.seed}")
        self.clock = VirtualClock(START_MS)
        self.store = FakeObjectStore(Random(f"store {self.seed}"), now_ms=self.clock.now_ms)

    async def run(self, program: Program, crash_at: tuple[int, bool] | None = None) -> "World":
        """Run the program, and look at everything in the end, also after one more restart.

        `crash_at` has the first server die at that call, before or after its effect.
        """
        self.clock.now_ms()  # time counts from here
        # After the wait nothing is on its way any more that a collection would have to find.
        steps = [*program, CheckAll(), Wait(30), Restart(), CheckAll(), CheckStore()]
        steps.reverse()
        async with trio.open_nursery() as nursery:
            while steps:
                crashed = await self._one_server(steps, crash_at if not self.servers else None)
                if crashed:
                    nursery.start_soon(self._arrive_late, self.process.late)
            nursery.cancel_scope.cancel()
        return self

    async def _one_server(self, steps: list[Step], crash_at: tuple[int, bool] | None) -> bool:
        profile = self.profile
        self.store.latency = Latency.all(0.0, profile.latency_seconds)
        self.store.faults = FaultRates(
            error_before=profile.error_rate / 2, error_after=profile.error_rate / 2
        )
        self.servers += 1
        with trio.CancelScope() as life:
            self.process = ProcessStore(self.store, self.rng, life.cancel)
            if crash_at is not None:
                self.process.dies_at, self.process.dies_after_effect = crash_at
            try:
                async with running_backend(
                    self.process,
                    settings=self._settings(),
                    clock=self.clock,
                    seed=self.seed * 1000 + self.servers,
                ) as backend:
                    await self._use(backend, steps)
            except* Exception:
                # A client may learn that its server is going before it is cancelled itself.
                if self.process.remains is None:
                    raise
        self.calls_of_servers.append(self.process.calls)
        for each in self.store.log:
            self.counts[f"{each.op} {each.key.split('/')[0]}"] += 1
        self.store.log.clear()
        if self.process.remains is None:
            return False
        self.counts["crashes"] += 1
        self._forget_what_is_lost(self.process.remains)
        self.store = self.process.remains
        return True

    def _settings(self) -> Settings:
        profile = self.profile
        return Settings(
            storage=BucketStorage("bucket") if profile.shared else MemoryStorage(),
            layout=profile.layout,
            wal_in_flight=profile.wal_in_flight,
            flush_interval_seconds=profile.flush_interval_seconds,
            gc_min_age_seconds=profile.gc_min_age_seconds,
            read_cache_bytes=profile.read_cache_bytes,
            stream_idle_seconds=5.0,
        )

    def _forget_what_is_lost(self, remains: FakeObjectStore) -> None:
        keys = [key for key in remains.objects if key.startswith(self.profile.loses or "/")]
        if keys:
            newest = max(keys).removesuffix(".copy")
            remains.objects.pop(newest, None)
            remains.objects.pop(newest + ".copy", None)

    async def _arrive_late(self, writes: Sequence[Write]) -> None:
        for write in writes:
            if self.profile.shared:
                await trio.sleep(self.rng.uniform(0, 2))
                write.land(self.store)

    async def _use(self, backend: Backend, steps: list[Step]) -> None:
        self._backend = backend
        self.followers.clear()
        async with trio.open_nursery() as self._nursery:
            await self._find_out()
            while steps:
                step = steps.pop()
                if isinstance(step, Restart):
                    break
                await self._do(step)
            self._nursery.cancel_scope.cancel()

    async def _do(self, step: Step) -> None:
        match step:
            case Append():
                await self._append(step)
            case Together(appends):
                async with trio.open_nursery() as nursery:
                    for append in {(each.basin, each.stream): each for each in appends}.values():
                        await self._stream(append.basin, append.stream)
                        nursery.start_soon(self._append, append)
            case Create(basin, stream, age_seconds):
                await self._stream(basin, stream, age_seconds)
            case Delete():
                await self._delete(step)
            case Reconfigure():
                await self._reconfigure(step)
            case ReconfigureBasin():
                await self._reconfigure_basin(step)
            case DeleteBasin():
                await self._delete_basin(step)
            case Follow():
                await self._follow(step)
            case Check(basin, stream):
                await self._check_stream(basin, stream)
            case CheckAll():
                await self._check_all()
            case CheckStore():
                await self._check_store()
            case Wait(seconds):
                await trio.sleep(seconds)
            case Crash(calls, after_effect):
                self.process.dies_at = self.process.calls + calls
                self.process.dies_after_effect = after_effect
            case Restart():
                raise AssertionError("restarting is up to the loop over the servers")

    # --- basins and streams -------------------------------------------------------------------

    async def _basin(self, number: int) -> BasinModel:
        """The model of a basin, which is created if it does not exist."""
        model = self.basins[number]
        if model is None:
            config = BasinConfig(retention([None, 3600][number]))
            model = self.basins[number] = BasinModel(config, in_doubt=True)
            made = await self._patiently(
                lambda: self._backend.create_basin(basin_name(number), config, None)
            )
            model.in_doubt, model.created_at_ms = False, made.info.created_at_ms
        return model

    async def _stream(
        self, basin_number: int, number: int, age_seconds: int | None = 0
    ) -> StreamModel:
        """The model of a stream, which is created if it does not exist; 0 takes the default."""
        basin = await self._basin(basin_number)
        names = basin_name(basin_number), stream_name(number)
        layer = StreamConfigLayer() if age_seconds == 0 else retention(age_seconds)
        model = basin.streams.get(names[1])
        if model is not None:
            return model
        config = resolve(layer, basin.config.default_stream_config)
        model = basin.streams[names[1]] = StreamModel(config, in_doubt=True)
        made = await self._patiently(lambda: self._backend.create_stream(*names, layer, None))
        model.in_doubt, model.created_at_ms = False, made.info.created_at_ms
        with pytest.raises(StreamExists):
            await self._backend.create_stream(*names, layer, None)
        return model

    async def _patiently(self, create: Callable[[], Awaitable[T]]) -> T:
        """Create something as soon as its name is free."""
        with trio.fail_after(DELETION_PATIENCE_SECONDS):
            while True:
                try:
                    return await create()
                except (BasinDeletionPending, StreamDeletionPending):
                    await trio.sleep(0.05)

    async def _handle(self, basin: int, stream: int) -> StreamHandle:
        return await self._backend.open_stream(
            basin_name(basin), stream_name(stream), Purpose.APPEND
        )

    async def _delete(self, step: Delete) -> None:
        basin, name = await self._basin(step.basin), stream_name(step.stream)
        model = basin.streams.get(name)
        if model is not None:
            model.in_doubt = model.deleting = True
            await self._backend.delete_stream(basin_name(step.basin), name)
            del basin.streams[name]
            self.counts["deletions"] += 1

    async def _reconfigure(self, step: Reconfigure) -> None:
        basin, model = await self._basin(step.basin), await self._stream(step.basin, step.stream)
        change = StreamReconfiguration(retention_policy=RetentionPolicy(step.age_seconds))
        names = basin_name(step.basin), stream_name(step.stream)
        expected = reconfigure_stream(model.config, change, basin.config.default_stream_config)
        model.other_config = expected
        assert await self._backend.reconfigure_stream(*names, change) == expected
        model.config, model.other_config = expected, None

    async def _reconfigure_basin(self, step: ReconfigureBasin) -> None:
        model = await self._basin(step.basin)
        change = BasinReconfiguration(
            StreamReconfiguration(retention_policy=RetentionPolicy(step.age_seconds))
        )
        model.other_config = reconfigure_basin(model.config, change)
        found = await self._backend.reconfigure_basin(basin_name(step.basin), change)
        assert found == model.other_config
        model.config, model.other_config = found, None

    async def _delete_basin(self, step: DeleteBasin) -> None:
        model = self.basins[step.basin]
        if model is None:
            return
        model.in_doubt = True
        for stream in model.streams.values():
            stream.deleting = True
        await self._backend.delete_basin(basin_name(step.basin))
        self.basins[step.basin] = None
        self.counts["basin deletions"] += 1

    # --- appends ------------------------------------------------------------------------------

    async def _append(self, step: Append) -> None:
        model = await self._stream(step.basin, step.stream)
        handle = await self._handle(step.basin, step.stream)
        failed = False
        async with handle.append_session() as session:
            plan = []
            for records in step.batches:
                batch, now_ms = self._batch(model, records), self.clock.now_ms()
                verdict = StreamUnavailable if failed else model.verdict(batch)
                failed = failed or verdict is not None
                stored = [] if failed else model.append(batch, now_ms)
                encoded = append_of(
                    *batch.items, match=batch.match, token=batch.token, timestamps=batch.stamps
                )
                plan.append((stored, verdict, await session.submit(encoded)))
            for stored, verdict, pending in plan:
                if verdict is not None:
                    with pytest.raises(verdict):
                        await pending.wait()
                    self.counts["refusals"] += 1
                    continue
                ack = await pending.wait()
                first, last = stored[0].seq_num, stored[-1].seq_num
                assert (ack.start.seq_num, ack.end.seq_num) == (first, last + 1)
                times = ack.start.timestamp, ack.end.timestamp, self.clock.now_ms()
                model.acked(stored, *times)
                self.counts["acks"] += 1

    def _batch(self, model: StreamModel, records: Records) -> Batch:
        items: list[Item] = [self._body(size) for size in records.sizes]
        end = len(model.records)
        if records.fence is not None:
            items.append(Fence(records.fence))
        if records.trim is not None:
            items.insert(0, Trim(round(records.trim * (end + 1))))
        stamps = None
        if records.age_ms is not None:
            stamps = (self.clock.now_ms() - records.age_ms,) * len(items)
        wrong_match = records.wrong and (records.match or not records.token)
        match = end + wrong_match if records.match or wrong_match else None
        token = model.token if records.token else None
        if records.wrong and token is not None:
            token = NO_TOKEN_IN_USE
        return Batch(tuple(items), stamps, match, token)

    def _body(self, size: int) -> bytes:
        """A body like no other, as far as its size allows."""
        self.serial += 1
        return (b"%d." % self.serial * (size // 2 + 1))[:size]

    # --- looking ------------------------------------------------------------------------------

    async def _find_out(self) -> None:
        """After a start, learn what came of whatever was in doubt; then all must be as it was."""
        for number, basin in enumerate(self.basins):
            if basin is not None:
                await self._find_out_about(number, basin)
        await self._check_all()

    async def _find_out_about(self, number: int, basin: BasinModel) -> None:
        if basin.in_doubt and basin_name(number) not in await self._listed_basins():
            self.basins[number] = None
            return
        basin.in_doubt = False
        config = await self._backend.basin_config(basin_name(number))
        if basin.other_config == config:
            basin.config = config
        basin.other_config = None
        alive = await self._listed_streams(number)
        for name, model in list(basin.streams.items()):
            if model.in_doubt and name not in alive:
                del basin.streams[name]
                continue
            model.in_doubt = model.deleting = False
            found = await self._backend.stream_config(basin_name(number), StreamName(name))
            # Appends under way had the old one: there is only one thing in doubt at a time.
            handle = await self._backend.open_stream(
                basin_name(number), StreamName(name), Purpose.READ
            )
            tail = (await handle.check_tail()).seq_num
            self.counts["resolved"] += len(model.tails) > 1
            model.settle_tail(tail, self.clock.now_ms())
            if model.other_config == found:
                model.config = found
            model.other_config = None

    async def _listed_basins(self) -> dict[str, int]:
        items = (await self._backend.list_basins(ListRequest())).items
        return {info.name: info.created_at_ms for info in items if info.deleted_at_ms is None}

    async def _listed_streams(self, basin: int) -> dict[str, int]:
        page = await self._backend.list_streams(basin_name(basin), ListRequest())
        items = page.items
        return {info.name: info.created_at_ms for info in items if info.deleted_at_ms is None}

    async def _check_all(self) -> None:
        self.counts["checks"] += 1
        assert self._backend.health() is None
        damage = self._backend.damage
        assert dict(damage.items) == {}
        assert damage.catalog_is_whole
        basins = await self._listed_basins()
        assert set(basins) == {basin_name(n) for n, each in enumerate(self.basins) if each}
        for number, basin in enumerate(self.basins):
            if basin is None:
                continue
            name = basin_name(number)
            basin.created_at_ms = basin.created_at_ms or basins[name]
            assert basins[name] == basin.created_at_ms
            assert await self._backend.basin_config(name) == basin.config
            streams = await self._listed_streams(number)
            assert set(streams) == set(basin.streams)
            for stream, model in basin.streams.items():
                model.created_at_ms = model.created_at_ms or streams[stream]
                assert streams[stream] == model.created_at_ms
                await self._check_stream(number, int(stream.removeprefix("stream-")))

    async def _check_store(self) -> None:
        garbage = await self._garbage()
        for _ in range(COLLECTION_ROUNDS):
            if garbage:
                await trio.sleep(COLLECTION_SECONDS + self.profile.gc_min_age_seconds)
                garbage = await self._garbage()
        assert garbage == set(), "garbage was not collected"

    async def _garbage(self) -> set[str]:
        """What neither of the newest two manifests needs; what they do has to be there."""
        store = self.store.fork(Random(0))  # it has no faults, and makes no difference to the run
        present = set(store.objects)
        newest = max(int(key.removeprefix("manifest/")) for key in present if key[:2] == "ma")
        needed = set()
        for number in (newest - 1, newest):
            needed.add(f"manifest/{number:020d}")
            manifest = (await read_manifest(store, number)).manifest
            needed |= {f"segment/{segment.object_id}" for segment in manifest.segments}
            for catalog in manifest.catalog:
                needed |= {f"catalog/{catalog}", f"catalog/{catalog}.copy"}
            needed |= {key for key in present if key >= f"wal/{manifest.wal_floor:020d}"}
        assert needed - present == set(), "objects are missing"
        return present - needed

    async def _check_stream(self, basin: int, stream: int) -> None:
        model = await self._stream(basin, stream)
        names = basin_name(basin), stream_name(stream)
        assert await self._backend.stream_config(*names) == model.config
        handle = await self._handle(basin, stream)
        tail = await handle.check_tail()
        assert tail.seq_num == model.tail
        model.tail_is_stamped(tail.timestamp)
        await self._check_token(handle, model)
        await self._check_reads(handle, model)
        for follower in self.followers:
            if follower.model is model:
                await self._check_follower(follower)

    async def _check_token(self, handle: StreamHandle, model: StreamModel) -> None:
        with pytest.raises(FencingTokenMismatch) as refused:
            await handle.append(append_of("refused", token=NO_TOKEN_IN_USE))
        assert refused.value.actual == model.token

    async def _check_reads(self, handle: StreamHandle, model: StreamModel) -> None:
        rng, records = self.rng, model.records
        await self._check_read(handle, model, FromSeqNum(0), records)
        if not records:
            return
        start, limit = rng.randint(0, len(records)), rng.choice([None, 1, rng.randint(1, 50)])
        await self._check_read(handle, model, FromSeqNum(start), records[start:], limit)
        offset = rng.randint(0, len(records))
        await self._check_read(
            handle, model, FromTailOffset(offset), records[len(records) - offset :], limit
        )
        timestamp = max(0, rng.choice(records).stamp.least + rng.randint(-1, 1))
        wanted = [record for record in records if record.stamp.most >= timestamp]
        await self._check_read(handle, model, FromTimestamp(timestamp), wanted, limit)

    async def _check_read(
        self,
        handle: StreamHandle,
        model: StreamModel,
        start: ReadStart,
        wanted: Sequence[Stored],
        limit: int | None = None,
    ) -> None:
        found: list[s2_pb2.SequencedRecord] = []
        # A read that is bounded may not start at the tail.
        limit = limit if wanted else None
        request = ReadRequest(start, clamp=True, limits=ReadLimits(count=limit), wait_seconds=0)
        began_ms = self.clock.now_ms()
        async with handle.read_session(request) as session:
            async for event in session:
                assert isinstance(event, DeliveredBatch)
                found += decode_payload(event.payload)
        model.check_read(found, wanted, (began_ms, self.clock.now_ms()), limit)
        self.counts["reads"] += 1

    async def _follow(self, step: Follow) -> None:
        model = await self._stream(step.basin, step.stream)
        follower = Follower(model, round(step.share * model.tail))
        self.followers.append(follower)
        self._nursery.start_soon(follower.run, await self._handle(step.basin, step.stream))

    async def _check_follower(self, follower: Follower) -> None:
        model = follower.model
        wanted = model.records[follower.start :]
        with trio.move_on_after(FOLLOWER_PATIENCE_SECONDS):
            # Not an event: records also expire while they are waited for.
            while self._missing(follower, wanted) and not follower.ended:  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert not follower.ended, "a follower was told that the stream is gone"
        missing = self._missing(follower, wanted)
        assert not missing, f"{len(missing)} records never came, such as {missing[0]}"
        self.counts["followed"] += len(follower.found)

    def _missing(self, follower: Follower, wanted: Sequence[Stored]) -> list[Stored]:
        found = {record.seq_num for record in follower.found}
        trim_point, now_ms = follower.model.trim_point, self.clock.now_ms()
        return [
            record
            for record in wanted
            if record.must_be_seen(trim_point, now_ms) and record.seq_num not in found
        ]


def basin_name(number: int) -> BasinName:
    """The name of a basin."""
    return BasinName(f"basin-{number}-of-engine")


def stream_name(number: int) -> StreamName:
    """The name of a stream."""
    return StreamName(f"stream-{number}")


# --- programs -----------------------------------------------------------------------------------


def run_program(
    seed: int, program: Program, profile: Profile, crash_at: tuple[int, bool] | None = None
) -> World:
    """Run a program in a world of its own; raises whatever is found wrong."""
    return run_seeded(seed, World(seed, profile).run, program, crash_at)


def shortest_failing(program: Program, fails: Callable[[Program], bool]) -> Program:
    """Leave out steps for as long as it fails without them."""
    size = len(program)
    while size:
        start = 0
        while start < len(program):
            shorter = [*program[:start], *program[start + size :]]
            if fails(shorter):
                program = shorter
            else:
                start += size
        size //= 2
    return program
