"""Registry: key -> running actor, started once on first use, stopped when unused for long enough.

Theory of operation
-------------------
The registry has a supervisor of its own, which starts its actors with the temporary policy: a crash
ends an actor, and the next lease starts another. An entry is made in the same step in which the
actor is started, and dropped in the same step in which the actor is over (the supervisor's
`on_end`), so there is never more than one actor to a key, and everything in between is the actor's
state:

* STARTING: whoever wants a lease waits for it to run. Nobody in particular starts it, so
  cancelling a waiter, even the first, concerns that waiter alone.
* RUNNING: a lease is a count, taken without waiting.
* STOPPING: whoever wants a lease waits for the end, and then begins again.

A lease is counted before its taker waits, so an actor cannot be found idle between being started
and being used.

Idle entries are kept in the order in which they became idle. All have the same time to go, so the
first is due first, and one task sleeping until then serves them all.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

import attrs
import trio

from ._mailbox import M
from ._ref import ActorRef, ActorState, StopReason
from ._restart import TEMPORARY
from ._supervisor import (
    ActorSpec,
    CrashHandler,
    Supervisor,
    log_crash,
    open_supervisor,
)

K = TypeVar("K")


@attrs.define(eq=False)
class _Entry(Generic[K, M]):
    key: K
    ref: ActorRef[M] = attrs.field(init=False)
    leases: int = attrs.field(default=0, init=False)
    idle_until: float = attrs.field(default=0.0, init=False)


@attrs.define(eq=False)
class Registry(Generic[K, M]):
    """Actors by key, each running only while it is used; see `open_registry`.

    Must be used in the trio thread.
    """

    _supervisor: Supervisor
    _make_spec: Callable[[K], ActorSpec[M]]
    _idle_seconds: float
    _entries: dict[K, _Entry[K, M]] = attrs.field(factory=dict, init=False)
    _idle: OrderedDict[K, _Entry[K, M]] = attrs.field(factory=OrderedDict, init=False)
    _idle_added: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __len__(self) -> int:
        """Return how many actors there are, starting and stopping ones included."""
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        """Iterate over the keys there are now, in the order in which they were started."""
        return iter(tuple(self._entries))

    def running(self, key: K) -> ActorRef[M] | None:
        """Return the actor of this key if it runs now, without starting or leasing it."""
        entry = self._entries.get(key)
        if entry is None or entry.ref.state is not ActorState.RUNNING:
            return None
        return entry.ref

    def lease(self, key: K) -> Lease[K, M]:
        """Return a context manager that yields the ref of the key's actor, starting it if need be.

        The actor is not stopped for idleness inside the block. It may still crash, or be stopped by
        `stop_key` or by itself, which the holder finds out from its next message.

        Entering it returns at once if the actor runs; if it is being stopped it waits for that, and
        starts a new one. Raises ActorCrashed if the actor fails to start, for everyone who waits
        for it; the next lease tries afresh. Raises SupervisorClosed if the registry is closing.
        """
        return Lease(self, key)

    async def stop_key(self, key: K, reason: StopReason = StopReason.REQUESTED) -> None:
        """Stop the actor of this key, leased or not, and wait until it is over.

        Does nothing if there is none. A lease taken meanwhile starts a new one after that.
        """
        entry = self._entries.get(key)
        if entry is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._supervisor.stop(entry.ref, reason)

    async def _take(self, key: K) -> _Entry[K, M]:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            entry = self._entries.get(key) or self._activate(key)
            if entry.ref.state is ActorState.STOPPING:
                await entry.ref.wait_stopped()
                continue
            self._add_lease(entry)
            try:
                if entry.ref.state is not ActorState.RUNNING:
                    await entry.ref.wait_started()
            except BaseException:
                self._drop_lease(entry)
                raise
            return entry

    def _activate(self, key: K) -> _Entry[K, M]:
        entry: _Entry[K, M] = _Entry(key)
        entry.ref = self._supervisor.start_soon(
            attrs.evolve(self._make_spec(key), policy=TEMPORARY),
            on_end=lambda: self._forget(entry),
        )
        self._entries[key] = entry
        return entry

    def _forget(self, entry: _Entry[K, M]) -> None:
        del self._entries[entry.key]
        self._idle.pop(entry.key, None)

    def _add_lease(self, entry: _Entry[K, M]) -> None:
        entry.leases += 1
        self._idle.pop(entry.key, None)

    def _drop_lease(self, entry: _Entry[K, M]) -> None:
        entry.leases -= 1
        if entry.leases == 0 and not entry.ref.state.final:
            self._add_idle(entry)

    def _add_idle(self, entry: _Entry[K, M]) -> None:
        entry.idle_until = trio.current_time() + self._idle_seconds
        self._idle[entry.key] = entry
        self._idle_added.set()

    async def _sweep(self) -> None:
        while True:
            if not self._idle:
                self._idle_added = trio.Event()
                await self._idle_added.wait()
            first = next(iter(self._idle.values()), None)
            if first is not None:
                await trio.sleep_until(first.idle_until)
                self._stop_due(trio.current_time())

    def _stop_due(self, now: float) -> None:
        while self._idle:
            entry = next(iter(self._idle.values()))
            if entry.idle_until > now:
                return
            del self._idle[entry.key]
            if entry.ref.idle:
                self._supervisor.stop_soon(entry.ref, StopReason.IDLE)
            elif entry.ref.state is not ActorState.STOPPING:
                # Unused but busy, or owing an answer: look again after another idle period.
                self._add_idle(entry)


@attrs.define(eq=False)
class Lease(Generic[K, M]):
    """The right to use the actor of a key; see `Registry.lease`. Good for one `async with`."""

    _registry: Registry[K, M]
    _key: K
    _entry: _Entry[K, M] | None = attrs.field(default=None, init=False)

    async def __aenter__(self) -> ActorRef[M]:
        self._entry = await self._registry._take(self._key)
        return self._entry.ref

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._entry is not None
        self._registry._drop_lease(self._entry)


@contextlib.asynccontextmanager
async def open_registry(
    name: str,
    make_spec: Callable[[K], ActorSpec[M]],
    *,
    idle_seconds: float,
    on_crash: CrashHandler = log_crash,
) -> AsyncIterator[Registry[K, M]]:
    """Open a registry, and stop all of its actors, together, on leaving the block.

    `make_spec` says how to make the actor of a key; what it raises comes out of the lease. Its
    restart policy is not used: a registry starts actors on demand and does not restart them. An
    actor that nobody leases is stopped after `idle_seconds`, which must be positive, unless it is
    busy, has messages queued or owes an answer, in which case it is given as long again.
    """
    if not idle_seconds > 0:
        raise ValueError(f"idle_seconds must be positive, not {idle_seconds}")
    async with (
        open_supervisor(name, on_crash=on_crash, stop_together=True) as supervisor,
        trio.open_nursery() as nursery,
    ):
        registry = Registry(supervisor, make_spec, idle_seconds)
        nursery.start_soon(registry._sweep, name=f"registry {name}: sweep")
        yield registry
        nursery.cancel_scope.cancel()
