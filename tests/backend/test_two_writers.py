"""One path, two servers: who may ack, who may answer, and that these tests would find it out.

Each test has a twin in which one precaution is left out, and which has to fail.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors import ActorSpec, RestartsExhausted, open_supervisor
from actors.testing import VirtualClock, run_seeded
from s2lite.backend.catalog import Catalog, DurableState
from s2lite.backend.engine import NO_RESTART
from s2lite.backend.storage_actor import (
    STORAGE_MAILBOX_CAPACITY,
    StorageActor,
    StorageClient,
    StorageStatus,
)
from s2lite.model.config import BasinConfig
from s2lite.model.errors import StorageError, WriterFenced
from s2lite.model.log import BasinCreated, BasinRecord
from s2lite.model.names import BasinName
from s2lite.model.resources import ListRequest
from s2lite.storage.damage import Damage
from s2lite.storage.layout import Layout
from s2lite.storage.manifest import MANIFEST_PREFIX, manifest_key
from s2lite.storage.memtable import Memtable
from s2lite.storage.opening import open_log
from s2lite.storage.ownership import Ownership
from s2lite.storage.wal import WAL_PREFIX, wal_key
from tests.fakes.object_store import FakeObjectStore, FaultRates, Latency

LEASE = 1.0
IN_FLIGHT = 4
LONGER_THAN_ANYTHING_IS_KEPT = 3 * 3600.0


@attrs.define(eq=False)
class Trusting(Ownership):
    """Takes every put that succeeds for one that counts."""

    async def ensure_writes_proven(self) -> None:
        """Believe it."""


@attrs.define(eq=False)
class Server:
    """The log writer of one process, what it has acked, and under which numbers."""

    store: FakeObjectStore
    clock: VirtualClock
    ownership: Ownership
    state: DurableState
    client: StorageClient
    manifest_number: int
    next_number: int
    acked: dict[str, int] = attrs.field(factory=dict)
    failed: dict[str, StorageError] = attrs.field(factory=dict)

    def submit(self, name: str) -> None:
        """Submit the creation of a basin."""

        def settled(error: StorageError | None) -> None:
            if error is None:
                self.acked[name] = self.state.memtable.wal_end - 1
            else:
                self.failed[name] = error

        record = BasinRecord(BasinName(name), BasinConfig(), 0)
        self.client.submit([BasinCreated(record)], settled)

    def shows(self) -> set[str]:
        """The basins that are there, as far as this server knows."""
        return {record.name for record in self.state.catalog.list_basins(ListRequest()).items}

    def collect(self) -> None:
        """Delete the WAL and the manifests that a flush of all that there is makes needless."""
        for key in list(self.store.objects):
            end = wal_key(self.state.memtable.wal_end)
            if key.startswith(WAL_PREFIX) and key < end:
                del self.store.objects[key]
            if key.startswith(MANIFEST_PREFIX) and key < manifest_key(self.manifest_number):
                del self.store.objects[key]


async def serve(
    store: FakeObjectStore,
    seed: int,
    make: type[Ownership] = Ownership,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Open the path and write, until a newer writer is found."""
    clock, rng, damage = VirtualClock(), Random(seed), Damage()
    state = DurableState(Catalog(), Memtable(Layout()), damage)
    log = await open_log(
        store,
        rng=rng,
        clock=clock,
        wal_in_flight=IN_FLIGHT,
        lease_seconds=LEASE,
        state=state,
        damage=damage,
    )
    known, status, number = log.ownership, StorageStatus(), log.manifest.number
    ownership = make(store, clock, known.writer, lambda: number, rng, LEASE)
    ownership.proved(known.now())
    spec = ActorSpec(
        "log writer",
        lambda: StorageActor(log.creator, ownership, state, status, log.next_wal_number, IN_FLIGHT),
        NO_RESTART,
        STORAGE_MAILBOX_CAPACITY,
    )
    with suppress(RestartsExhausted):
        async with open_supervisor("storage") as supervisor:
            client = StorageClient(await supervisor.start(spec), status)
            ownership.on_fenced = client.fail
            task_status.started(
                Server(store, clock, ownership, state, client, number, log.next_wal_number)
            )
            await trio.sleep_forever()


async def two_servers(
    store: FakeObjectStore,
    seed: int,
    scenario: Callable[[Server, Callable[[], Awaitable[Server]]], Awaitable[None]],
    make: type[Ownership] = Ownership,
) -> None:
    """Run the scenario with a server, and with a way to start the one that takes over."""
    with trio.fail_after(10_000):
        async with trio.open_nursery() as nursery:
            first: Server = await nursery.start(serve, store, seed, make)

            async def take_over() -> Server:
                # The same objects, but with gates of its own.
                own = FakeObjectStore(
                    Random(seed), store.latency, store.faults, objects=store.objects
                )
                server: Server = await nursery.start(serve, own, seed + 1000)
                return server

            await scenario(first, take_over)
            nursery.cancel_scope.cancel()


# --- acks ---------------------------------------------------------------------------------------


async def takeover_under_load(seed: int) -> None:
    """Appends all the time, a takeover in the middle of it, and a store that is slow and lies."""
    rng = Random(seed)
    faults = FaultRates(error_before=0.03, error_after=0.05)
    store = FakeObjectStore(rng, Latency.all(0.0, rng.choice([0.1, 0.5, 2.0])), faults)
    servers: list[Server] = []

    async def scenario(first: Server, take_over: Callable[[], Awaitable[Server]]) -> None:
        servers.append(first)
        async with trio.open_nursery() as nursery:

            async def submitting(server: Server, label: str) -> None:
                for number in range(60):
                    server.submit(f"{label}-{number:04}")
                    await trio.sleep(rng.uniform(0.0, 0.3))

            nursery.start_soon(submitting, first, "first-one")
            await trio.sleep(rng.uniform(0.0, 10.0))
            servers.append(await take_over())
            nursery.start_soon(submitting, servers[1], "second-one")
        await trio.sleep(200)

    await two_servers(store, seed, scenario)
    first, second = servers
    assert set(first.acked) <= second.shows(), "acked, and lost"
    assert not set(first.acked.values()) & set(second.acked.values()), "one number acked twice"
    assert len(second.acked) == 60, "the one that took over can write"
    assert len(first.acked) + len(first.failed) == 60, "everybody was told"


@pytest.mark.slow
def test_what_was_acked_before_or_during_a_takeover_is_there_after_it() -> None:
    for seed in range(60):
        run_seeded(seed, takeover_under_load, seed)


async def stopped_and_collected(seed: int, make: type[Ownership] = Ownership) -> set[str]:
    """What a server acks and nobody has: it is stopped with requests under way, while another one
    takes over, flushes, and collects all WAL objects and manifests that it can."""
    rng = Random(seed)
    store = FakeObjectStore(rng)
    lost: set[str] = set()

    async def scenario(first: Server, take_over: Callable[[], Awaitable[Server]]) -> None:
        first.submit("before")
        await wait_all_tasks_blocked()
        # Those that land before the takeover count, wherever the server stops after that.
        numbers = range(first.next_number + 1, first.next_number + 1 + IN_FLIGHT)
        landing = rng.randrange(IN_FLIGHT)
        gates = [store.hold(wal_key(number), after_effect=number < numbers[landing])
                 for number in numbers]  # fmt: skip
        for number in numbers:
            first.submit(f"in-flight-{number}")
            await wait_all_tasks_blocked()
        second = await take_over()
        for number in range(rng.randrange(10, 20)):
            second.submit(f"second-one-{number}")
            await wait_all_tasks_blocked()
        second.collect()
        assert wal_key(numbers[-1]) not in store.objects
        first.clock.suspend(LONGER_THAN_ANYTHING_IS_KEPT)
        second.clock.suspend(LONGER_THAN_ANYTHING_IS_KEPT)
        for gate in gates:
            gate.release()
        await wait_all_tasks_blocked()
        assert wal_key(numbers[-1]) in store.objects, "its put met a number that was free again"
        lost.update(set(first.acked) - second.shows())
        assert len(second.acked) >= 10

    await two_servers(store, seed, scenario, make)
    return lost


@pytest.mark.slow
def test_a_server_that_wakes_after_its_numbers_were_used_and_collected_acks_nothing_more() -> None:
    for seed in range(60):
        assert run_seeded(seed, stopped_and_collected, seed) == set()


@pytest.mark.slow
def test_without_a_look_at_the_manifests_it_would() -> None:
    for seed in range(20):
        assert run_seeded(seed, stopped_and_collected, seed, Trusting) != set()


# --- reads ----------------------------------------------------------------------------------------


async def stale_reads(seed: int, ask: bool) -> int:
    """How many reads of the old server missed what somebody had been acked before they began."""
    rng = Random(seed)
    store = FakeObjectStore(rng, Latency.all(0.0, 0.3))
    stale = answered = 0

    async def scenario(first: Server, take_over: Callable[[], Awaitable[Server]]) -> None:
        servers = [first]

        async def reading() -> None:
            nonlocal stale, answered
            while True:
                acked = {name for server in servers for name in server.acked}
                try:
                    if ask:
                        await first.ownership.ensure_current()
                except WriterFenced:
                    return
                stale += not acked <= first.shows()
                answered += 1
                await trio.sleep(rng.uniform(0.0, 0.2))

        async def submitting(server: Server, label: str) -> None:
            for number in range(40):
                server.submit(f"{label}-{number:04}")
                await trio.sleep(rng.uniform(0.0, 0.2))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(reading)
            if rng.random() < 0.7:
                nursery.start_soon(submitting, first, "first-one")
            await trio.sleep(rng.uniform(0.0, 5.0))
            if rng.random() < 0.3:
                first.clock.suspend(rng.uniform(0.0, 7200))
            servers.append(await take_over())
            if rng.random() < 0.3:
                first.clock.suspend(rng.uniform(0.0, 7200))
            await submitting(servers[1], "second-one")
            await trio.sleep(5)
            nursery.cancel_scope.cancel()

    await two_servers(store, seed, scenario)
    assert answered > 5
    return stale


@pytest.mark.slow
def test_a_server_that_was_replaced_refuses_reads_rather_than_answer_with_old_ones() -> None:
    for seed in range(30):
        assert run_seeded(seed, stale_reads, seed, True) == 0


@pytest.mark.slow
def test_without_asking_it_would_answer_with_old_ones() -> None:
    assert all(run_seeded(seed, stale_reads, seed, False) for seed in range(10))
