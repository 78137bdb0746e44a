"""The power fails, at any moment, and the disk forgets what it was not told to fsync.

Several servers live one after the other in a directory. Clients append; the power goes during an
append, a flush, a compaction or a collection. Whatever was acked must be there in the next life.
The null control is a disk that ignores fsync: it must be caught.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TypeVar

import attrs
import pytest
import trio

from actors.clock import SystemClock
from s2lite.backend.backend import Backend, Purpose
from s2lite.codec.protobuf import decode_payload
from s2lite.model.config import BasinConfig
from s2lite.model.names import StreamName
from s2lite.model.reads import DeliveredBatch, FromSeqNum, ReadRequest
from s2lite.model.records import Trim
from s2lite.settings import Settings
from s2lite.storage.inventory import Kind, Standing, survey
from s2lite.storage.layout import Layout
from s2lite.storage.objects.local_store import LocalObjectStore
from tests.backend.world import BASIN, append_of, open_stream
from tests.fakes.backend import running_backend
from tests.fakes.disks import Died, VolatileDisk

pytestmark = pytest.mark.slow

T = TypeVar("T")

SMALL = Settings(
    layout=Layout(
        memtable_bytes=8_000,
        wal_object_bytes=4_000,
        wal_objects=16,
        entry_bytes=500,
        block_bytes=1_000,
        segment_bytes=4_000,
        footer_bytes=1_000,
        fanout=2,
    )
)
"""Everything is small, so that there is a flush every few appends, and most lead to a merge."""

CLIENTS = 3
BATCHES = 60
"""How many batches a client appends in a life, if the power does not fail before."""


@attrs.frozen
class Moment:
    """Right before, or after, a system call of this name on a path with this in it."""

    call: str
    path: str
    after: bool = False


MOMENTS = [
    Moment(call, path, after)
    for call, path in [
        ("write", ".staging/"),
        ("fsync", ".staging/"),
        ("link", "wal/"),
        ("fsync", "wal"),
        ("link", "segment/"),
        ("fsync", "segment"),
        ("link", "catalog/"),
        ("link", "manifest/"),
        ("fsync", "manifest"),
        ("unlink", "wal/"),
        ("unlink", "segment/"),
        ("unlink", "catalog/"),
        ("unlink", "manifest/"),
    ]
    for after in (False, True)
]


@attrs.define(eq=False)
class DyingDisk(VolatileDisk):
    """A volatile disk whose power fails at the `countdown`-th such moment; for many threads."""

    moment: Moment | None = None
    countdown: int = 1
    dead: bool = False
    _turn: threading.RLock = attrs.field(factory=threading.RLock)

    def create(self, path: str) -> int:
        return self._do("create", path, lambda: super(DyingDisk, self).create(path))

    def write(self, descriptor: int, data: memoryview) -> int:
        path = self.paths[descriptor]
        return self._do("write", path, lambda: super(DyingDisk, self).write(descriptor, data))

    def fsync(self, descriptor: int) -> None:
        path = self.paths[descriptor]
        self._do("fsync", path, lambda: super(DyingDisk, self).fsync(descriptor))

    def link(self, source: str, target: str) -> None:
        self._do("link", target, lambda: super(DyingDisk, self).link(source, target))

    def unlink(self, path: str) -> None:
        self._do("unlink", path, lambda: super(DyingDisk, self).unlink(path))

    def make_directory(self, path: str) -> None:
        self._do("mkdir", path, lambda: super(DyingDisk, self).make_directory(path))

    def open_directory(self, path: str) -> int:
        return self._do("open", path, lambda: super(DyingDisk, self).open_directory(path))

    def _do(self, call: str, path: str, act: Callable[[], T]) -> T:
        with self._turn:
            if self.dead:
                raise Died
            now = self._is_the_moment(call, path)
            if now and self.moment is not None and not self.moment.after:
                self._die()
            done = act()
            if now:
                self._die()
            return done

    def _is_the_moment(self, call: str, path: str) -> bool:
        moment = self.moment
        if moment is None or call != moment.call or f"/{moment.path}" not in path:
            return False
        self.countdown -= 1
        return self.countdown == 0

    def _die(self) -> None:
        self.dead = True
        raise Died


@attrs.define(eq=False)
class Client:
    """Appends to one stream, batch after batch, and trims it now and then.

    `items` are all that it ever sent, in order; the first `acked` of them were acked.
    """

    name: str
    rng: Random
    items: list[str] = attrs.field(factory=list)
    acked: int = 0
    created: bool = False
    trim_point: int = 0

    async def live(self, backend: Backend) -> None:
        if not self.created:
            stream = await backend.open_stream(BASIN, StreamName(self.name), Purpose.APPEND)
            self.created = True
        stream = await open_stream(backend, self.name)
        for _ in range(BATCHES):
            texts = [self._text() for _ in range(self.rng.randint(1, 4))]
            if self.rng.random() < 0.1:
                # Before it is acked it may have happened or not, so it is counted at once.
                self.trim_point = self.rng.randint(self.trim_point, self.acked)
                self.items.append("")
                await stream.append(append_of(Trim(self.trim_point)))
            else:
                self.items.extend(texts)
                await stream.append(append_of(*texts))
            self.acked = len(self.items)

    async def check(self, backend: Backend) -> None:
        """All that was acked is there; of what was not, any number may be, from the first on."""
        entry = backend.catalog.stream(BASIN, StreamName(self.name))
        if entry is None:
            assert not self.created
            self.items.clear()
            return
        tail = entry.tail.seq_num
        assert self.acked <= tail, f"{self.acked} records were acked and {tail} are there"
        assert tail <= len(self.items)
        found = await self._read(backend)
        for number in range(self.trim_point, tail):
            text = found.pop(number)
            assert self.items[number] in ("", text)
        assert not found or max(found) < self.trim_point
        del self.items[tail:]
        self.acked, self.created = tail, True

    async def _read(self, backend: Backend) -> dict[int, str]:
        stream = await backend.open_stream(BASIN, StreamName(self.name), Purpose.READ)
        found = {}
        request = ReadRequest(FromSeqNum(self.trim_point), clamp=True, wait_seconds=0)
        async with stream.read_session(request) as session:
            async for event in session:
                assert isinstance(event, DeliveredBatch)
                for record in decode_payload(event.payload):
                    found[record.seq_num] = record.body.decode("latin-1")
        return found

    def _text(self) -> str:
        return f"{self.name} {self.rng.getrandbits(64):x} " + "." * self.rng.randint(0, 200)


@attrs.define(eq=False)
class World:
    """A directory, the clients of whatever server lives there, and what happened to it."""

    root: Path
    rng: Random
    clients: list[Client] = attrs.field(init=False)
    lives: int = 0

    def __attrs_post_init__(self) -> None:
        self.clients = [
            Client(f"s{number}", Random(self.rng.getrandbits(32))) for number in range(CLIENTS)
        ]

    async def live(
        self, moment: Moment | None, *, forgetful: bool = False, rest_seconds: float = 0.0
    ) -> bool:
        """One life, up to the moment or its end; whether the power failed. Then it does anyway."""
        self.lives += 1
        disk = DyingDisk(
            self.root / f"attic-{self.lives}",
            forgetful=forgetful,
            moment=moment,
            countdown=self.rng.randint(1, 5),
        )
        died = await self.live_on(disk, rest_seconds)
        disk.lose_power()
        return died

    async def live_on(self, disk: DyingDisk, rest_seconds: float = 0.0) -> bool:
        """One life on this disk; whether the power failed."""
        try:
            async with (
                LocalObjectStore.open(self.root / "store", disk) as store,
                running_backend(
                    store, settings=SMALL, clock=SystemClock(), seed=self.rng.getrandbits(32)
                ) as backend,
            ):
                await self._serve(backend)
                await trio.sleep(rest_seconds)
        except* Died:
            pass
        return disk.dead

    async def _serve(self, backend: Backend) -> None:
        for client in self.clients:
            await client.check(backend)
        if backend.catalog.basin(BASIN) is None:
            config = BasinConfig(create_stream_on_append=True)
            await backend.create_basin(BASIN, config, None)
        async with trio.open_nursery() as nursery:
            for client in self.clients:
                nursery.start_soon(client.live, backend)

    async def count(self, prefix: str) -> int:
        """How many objects there are below a prefix."""
        async with LocalObjectStore.open(self.root / "store") as store:
            return len(await store.list(prefix))


@pytest.mark.parametrize(
    "moment",
    MOMENTS,
    ids=lambda each: f"{'after' if each.after else 'before'} {each.call} {each.path}",
)
async def test_what_was_acked_outlasts_a_power_loss_at_any_moment(
    tmp_path: Path, moment: Moment
) -> None:
    world = World(tmp_path, Random(repr(moment)))
    losses = 0
    for _ in range(3):
        losses += await world.live(moment)
    assert losses >= 1
    assert not await world.live(None)  # the last of them checks, works, and ends well
    assert await world.count("segment/") > 0


@pytest.mark.parametrize("seed", range(3))
async def test_lives_that_end_at_random_calls_lose_nothing(tmp_path: Path, seed: int) -> None:
    world = World(tmp_path, Random(seed))
    for _ in range(8):
        await world.live(world.rng.choice(MOMENTS))
    assert not await world.live(None)


async def test_a_disk_that_ignores_fsync_is_caught(tmp_path: Path) -> None:
    world = World(tmp_path, Random(1))
    await world.live(None)
    await world.live(Moment("link", "segment/"), forgetful=True)
    with pytest.raises(AssertionError, match="records were acked"):
        await world.live(None)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("prefix", ["wal/", "segment/", "catalog/", "manifest/"])
async def test_a_torn_last_object_costs_nothing_that_was_acked(
    tmp_path: Path, prefix: str, share: float
) -> None:
    """As on a disk that keeps a name before the data: of what was being written as it failed."""
    world = World(tmp_path, Random(f"{prefix}{share}"))
    await world.live(None)
    disk = DyingDisk(tmp_path / "attic", moment=Moment("link", prefix, after=True), countdown=3)
    assert await world.live_on(disk)
    torn = disk.unsynced_names.pop()  # all of the others go
    assert f"/{prefix}" in torn
    disk.lose_power()
    os.truncate(torn, int(Path(torn).stat().st_size * share))  # noqa: ASYNC240
    assert not await world.live(None)
    assert not await world.live(None)


async def test_what_power_losses_leave_behind_is_collected(tmp_path: Path) -> None:
    world = World(tmp_path, Random(2))
    for _ in range(6):
        await world.live(world.rng.choice(MOMENTS))
    world.clients.clear()
    for _ in range(10):  # a life may end before it has collected what its own merges left
        await world.live(None, rest_seconds=0.5)
        async with LocalObjectStore.open(tmp_path / "store") as store:
            found = await survey(store)
        standings = {
            standing for kind, standing in found.piles if kind in (Kind.SEGMENT, Kind.CATALOG)
        }
        if standings == {Standing.NEEDED}:
            break
    assert standings == {Standing.NEEDED}
    # What the last flush and the end of that life have added.
    assert sum(pile.count for pile in found.unneeded.values()) < 20
