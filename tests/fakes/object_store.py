"""An object store for tests under a virtual clock: no threads, latency and faults on demand.

It keeps the promises of `ObjectStore`: an operation takes effect at one instant somewhere in its
latency, so concurrent operations interleave as with a real store, and a caller that is cancelled or
gets an error cannot tell whether its put happened. What goes wrong is drawn from the `Random` that
was passed in (`FaultRates`), or ordered by the test (`fail_next`, `hold`).
"""

import builtins
from collections.abc import Callable
from enum import StrEnum, auto
from random import Random
from typing import TypeVar

import attrs
import outcome
import trio

from s2lite.model.errors import StorageError
from s2lite.storage.objects.object_store import (
    ObjectExists,
    ObjectInfo,
    ObjectNotFound,
    ObjectTooShort,
    StoreRefused,
    StoreUnavailable,
    check_key,
    check_prefix,
    check_range,
)

T = TypeVar("T")
Bounds = tuple[float, float]


class Op(StrEnum):
    """The operations of the port."""

    PUT_NEW = auto()
    GET = auto()
    GET_RANGE = auto()
    LIST = auto()
    DELETE = auto()


class Fault(StrEnum):
    """What can go wrong with one operation."""

    ERROR_BEFORE = auto()
    """`StoreUnavailable`, and nothing happened."""
    ERROR_AFTER = auto()
    """`StoreUnavailable`, and it happened all the same."""
    REFUSED = auto()
    """`StoreRefused`; nothing happened."""
    STALL_BEFORE = auto()
    """No answer until cancelled or released; nothing happens before that."""
    STALL_AFTER = auto()
    """It happens, and then there is no answer until cancelled or released."""


@attrs.frozen
class Latency:
    """The least and the most seconds that an operation takes."""

    put_new: Bounds = (0.0, 0.0)
    get: Bounds = (0.0, 0.0)
    get_range: Bounds = (0.0, 0.0)
    list: Bounds = (0.0, 0.0)
    delete: Bounds = (0.0, 0.0)

    @classmethod
    def all(cls, least: float, most: float) -> "Latency":
        """The same bounds for every operation."""
        return cls(*[(least, most)] * 5)

    def bounds(self, op: Op) -> Bounds:
        """The bounds of one operation, in seconds."""
        bounds: Bounds = getattr(self, op.value)
        return bounds


@attrs.frozen
class FaultRates:
    """How probable each fault is, per operation; the sum is at most 1."""

    error_before: float = 0.0
    error_after: float = 0.0
    refused: float = 0.0
    stall_before: float = 0.0
    stall_after: float = 0.0

    def pick(self, drawn: float) -> Fault | None:
        """The fault that a number drawn from [0, 1) stands for."""
        for fault in Fault:
            rate: float = getattr(self, fault.value)
            if drawn < rate:
                return fault
            drawn -= rate
        return None


@attrs.define(eq=False)
class Operation:
    """One call in the log. `outcome` is "ok", the error's class name, "cancelled" or "pending".

    Times are trio's. `effect` is None until the operation has taken effect (or has been answered,
    if it reads), and stays None if it never does.
    """

    op: Op
    key: str
    start: float
    effect: float | None = None
    end: float | None = None
    outcome: str = "pending"


@attrs.define(eq=False)
class Gate:
    """Stops the operations it matches, just before or just after their effect, until released."""

    op: Op
    key_prefix: str
    after_effect: bool
    held: list[Operation] = attrs.field(factory=list, init=False)
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)
    _open: trio.Event = attrs.field(factory=trio.Event, init=False)
    _error: StorageError | None = attrs.field(default=None, init=False)

    async def wait_held(self, count: int = 1) -> None:
        """Wait until this many operations stand at the gate."""
        while len(self.held) < count:
            await self._changed.wait()

    def release(self) -> None:
        """Let those who wait go on, and stop nobody any more."""
        self._open.set()

    def fail(self, error: StorageError) -> None:
        """Make the operations that wait raise the error, and stop nobody any more."""
        self._error = error
        self._open.set()

    def matches(self, operation: Operation, after_effect: bool) -> bool:
        """Whether the operation has to stop here."""
        return (
            not self._open.is_set()
            and operation.op is self.op
            and operation.key.startswith(self.key_prefix)
            and after_effect is self.after_effect
        )

    async def pass_through(self, operation: Operation) -> None:
        """Stop the operation until the gate is opened."""
        self.held.append(operation)
        self._changed.set()
        self._changed = trio.Event()
        try:
            await self._open.wait()
        finally:
            self.held.remove(operation)
        if self._error is not None:
            raise self._error


@attrs.frozen
class StoredObject:
    """The data of an object and when it was made."""

    data: bytes
    last_modified_ms: int


@attrs.define(eq=False)
class _Script:
    op: Op
    key_prefix: str
    fault: Fault
    times: int


def trio_now_ms() -> int:
    """Trio's time in milliseconds: a wall clock whose epoch is the start of the test."""
    return int(trio.current_time() * 1000)


@attrs.define(eq=False)
class FakeObjectStore:
    """An `ObjectStore` in a dict. `latency` and `faults` may be changed while it is in use."""

    rng: Random
    latency: Latency = Latency()
    faults: FaultRates = FaultRates()
    now_ms: Callable[[], int] = trio_now_ms
    objects: dict[str, StoredObject] = attrs.field(factory=dict, kw_only=True)
    log: list[Operation] = attrs.field(factory=list, init=False)
    _scripts: list[_Script] = attrs.field(factory=list, init=False)
    _gates: list[Gate] = attrs.field(factory=list, init=False)
    _stalled: trio.Event = attrs.field(factory=trio.Event, init=False)

    # --- the port ---------------------------------------------------------------------------

    async def put_new(self, key: str, data: bytes | bytearray) -> None:
        """See `ObjectStore.put_new`."""
        check_key(key)
        content = bytes(data)
        await self._perform(Op.PUT_NEW, key, lambda: self._put(key, content))

    async def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        check_key(key)
        return await self._perform(Op.GET, key, lambda: self._get(key))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `ObjectStore.get_range`."""
        check_range(key, start, length)
        return await self._perform(Op.GET_RANGE, key, lambda: self._get_range(key, start, length))

    async def list(self, prefix: str, start_after: str = "") -> builtins.list[ObjectInfo]:
        """See `ObjectStore.list`. The list is the state of one instant."""
        check_prefix(prefix)
        return await self._perform(Op.LIST, prefix, lambda: self._list(prefix, start_after))

    async def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        check_key(key)
        await self._perform(Op.DELETE, key, lambda: self._delete(key))

    # --- what a test can order and ask --------------------------------------------------------

    def fail_next(self, op: Op, key_prefix: str, fault: Fault, times: int = 1) -> None:
        """Have the next operations of that kind, on keys that begin like that, go wrong."""
        self._scripts.append(_Script(op, key_prefix, fault, times))

    def hold(self, key_prefix: str, op: Op = Op.PUT_NEW, after_effect: bool = False) -> Gate:
        """Stop operations on keys that begin like that, before or after their effect."""
        gate = Gate(op, key_prefix, after_effect)
        self._gates.append(gate)
        return gate

    def release_stalled(self) -> None:
        """Let every operation that has stalled go on; later ones may stall again."""
        self._stalled.set()
        self._stalled = trio.Event()

    def fork(self, rng: Random) -> "FakeObjectStore":
        """Return what a crash right now would leave: a store of its own with these objects.

        Operations that are under way and have had no effect yet will have none in the new store.
        It has the same latency and clock, and no faults, gates or log.
        """
        return FakeObjectStore(rng, self.latency, now_ms=self.now_ms, objects=dict(self.objects))

    def damage(self, key: str, data: bytes) -> None:
        """Replace an object's data behind everybody's back."""
        self.objects[key] = attrs.evolve(self.objects[key], data=data)

    def operations(self, op: Op, key_prefix: str = "") -> builtins.list[Operation]:
        """The log's operations of one kind, on keys that begin like that, by their start."""
        return [each for each in self.log if each.op is op and each.key.startswith(key_prefix)]

    # --- how it is done -----------------------------------------------------------------------

    async def _perform(self, op: Op, key: str, effect: Callable[[], T]) -> T:
        operation = Operation(op, key, trio.current_time())
        self.log.append(operation)
        try:
            result = await self._run(operation, effect)
        except BaseException as error:
            cancelled = isinstance(error, trio.Cancelled)
            operation.outcome = "cancelled" if cancelled else type(error).__name__
            raise
        else:
            operation.outcome = "ok"
            return result
        finally:
            operation.end = trio.current_time()

    async def _run(self, operation: Operation, effect: Callable[[], T]) -> T:
        # Everything is drawn at once: what an operation draws must not depend on the others.
        total = self.rng.uniform(*self.latency.bounds(operation.op))
        before = total * self.rng.random()
        drawn = self.faults.pick(self.rng.random())
        fault = self._scripted(operation) or drawn
        await trio.sleep(before)
        await self._pass_gates(operation, after_effect=False)
        await self._go_wrong_before(operation, fault)
        answer = outcome.capture(effect)
        operation.effect = trio.current_time()
        await self._pass_gates(operation, after_effect=True)
        if fault is Fault.STALL_AFTER:
            await self._stalled.wait()
        await trio.sleep(total - before)
        if fault is Fault.ERROR_AFTER:
            raise StoreUnavailable(operation.key, "the answer was lost")
        return answer.unwrap()

    def _scripted(self, operation: Operation) -> Fault | None:
        for script in self._scripts:
            if operation.op is script.op and operation.key.startswith(script.key_prefix):
                script.times -= 1
                if script.times == 0:
                    self._scripts.remove(script)
                return script.fault
        return None

    async def _pass_gates(self, operation: Operation, after_effect: bool) -> None:
        for gate in list(self._gates):
            if gate.matches(operation, after_effect):
                await gate.pass_through(operation)

    async def _go_wrong_before(self, operation: Operation, fault: Fault | None) -> None:
        match fault:
            case Fault.ERROR_BEFORE:
                raise StoreUnavailable(operation.key, "no connection")
            case Fault.REFUSED:
                raise StoreRefused(operation.key, "not allowed")
            case Fault.STALL_BEFORE:
                await self._stalled.wait()
            case _:
                pass

    # --- effects --------------------------------------------------------------------------------

    def _put(self, key: str, data: bytes) -> None:
        if key in self.objects:
            raise ObjectExists(key)
        self.objects[key] = StoredObject(data, self.now_ms())

    def _get(self, key: str) -> bytes:
        if key not in self.objects:
            raise ObjectNotFound(key)
        return self.objects[key].data

    def _get_range(self, key: str, start: int, length: int) -> bytes:
        data = self._get(key)
        if start + length > len(data):
            raise ObjectTooShort(key, start, length, len(data))
        return data[start : start + length]

    def _list(self, prefix: str, start_after: str) -> builtins.list[ObjectInfo]:
        return [
            ObjectInfo(key, len(stored.data), stored.last_modified_ms)
            for key, stored in sorted(self.objects.items())
            if key.startswith(prefix) and key > start_after
        ]

    def _delete(self, key: str) -> None:
        self.objects.pop(key, None)
