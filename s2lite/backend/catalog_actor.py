"""The owner of the catalog: decides control-plane requests one by one, and answers when durable.

Theory of operation. A request is decided at once, against the durable catalog plus the changes that
were decided but are not durable yet (the overlay). So nothing waits for a write in order to decide,
many requests share one commit, and no two decisions ever conflict. Every answer, refusals included,
waits until all changes decided before it are durable: it may rest on any of them.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from actors import Actor, ActorRef, Reply
from s2lite.backend.catalog import Catalog
from s2lite.backend.storage_actor import StorageClient
from s2lite.core.provisioning import CatalogView, Decision
from s2lite.model.errors import S2LiteError, StorageError
from s2lite.model.log import (
    BasinCreated,
    BasinDeleted,
    BasinReconfigured,
    BasinRecord,
    BasinRemoved,
    CatalogChange,
    StreamCreated,
    StreamDeleted,
    StreamId,
    StreamReconfigured,
    StreamRecord,
    StreamRemoved,
)
from s2lite.model.names import BasinName, StreamName

T = TypeVar("T")

Decide = Callable[[CatalogView], Decision[T]]

CATALOG_MAILBOX_CAPACITY = 1024


@attrs.frozen(eq=False)
class Mutate:
    """Decide, make the changes durable, answer."""

    decide: Decide[Any]
    reply: Reply[Any]


@attrs.frozen(eq=False)
class _Held:
    needs: int
    reply: Reply[Any]
    outcome: object


@attrs.define(eq=False)
class Overlay:
    """The catalog as decided: the durable one, and the records that pending changes leave behind.

    A record stays in the overlay until the last change to it is durable. None stands for "removed".
    """

    durable: Catalog
    _basins: dict[BasinName, tuple[int, BasinRecord | None]] = attrs.field(factory=dict)
    _streams: dict[tuple[BasinName, StreamName], tuple[int, StreamRecord | None]] = attrs.field(
        factory=dict
    )
    # The records among `_streams`: thousands of streams may be changed at once.
    _streams_by_id: dict[StreamId, StreamRecord] = attrs.field(factory=dict)

    def basin(self, name: BasinName) -> BasinRecord | None:
        """The basin of that name, deletion pending or not."""
        pending = self._basins.get(name)
        return self.durable.basin(name) if pending is None else pending[1]

    def stream(self, basin: BasinName, name: StreamName) -> StreamRecord | None:
        """The stream of that name, deletion pending or not."""
        pending = self._streams.get((basin, name))
        if pending is not None:
            return self._with_deletion(pending[1])
        entry = self.durable.stream(basin, name)
        return None if entry is None else entry.record

    def has_streams(self, basin: BasinName) -> bool:
        """Whether the basin has any stream, deletion pending or not."""
        return any(
            self.stream(basin, entry.record.name) is not None
            for entry in self.durable.streams_of(basin)
        ) or any(key[0] == basin and item[1] for key, item in self._streams.items())

    def add(self, change: CatalogChange, number: int) -> None:
        """Show a change that was decided as the `number`th."""
        match change:
            case BasinCreated(record):
                self._basins[record.name] = number, record
            case BasinReconfigured(name, config):
                self._basins[name] = number, attrs.evolve(self._basin(name), config=config)
            case BasinDeleted(name, at_ms):
                self._basins[name] = number, attrs.evolve(self._basin(name), deleted_at_ms=at_ms)
            case BasinRemoved(name):
                self._basins[name] = number, None
            case StreamCreated(record):
                self._put(record, number)
            case StreamReconfigured(stream_id, stream_config):
                self._put(attrs.evolve(self._by_id(stream_id), config=stream_config), number)
            case StreamDeleted(stream_id, at_ms):
                self._put(attrs.evolve(self._by_id(stream_id), deleted_at_ms=at_ms), number)
            case StreamRemoved(stream_id):
                record = self._by_id(stream_id)
                self._streams[record.basin, record.name] = number, None
                self._streams_by_id.pop(stream_id, None)

    def settle(self, number: int) -> None:
        """Forget what the durable catalog shows now, all changes up to `number` being durable."""
        self._basins = {key: item for key, item in self._basins.items() if item[0] > number}
        self._streams = {key: item for key, item in self._streams.items() if item[0] > number}
        records = (record for _, record in self._streams.values() if record is not None)
        self._streams_by_id = {record.stream_id: record for record in records}

    def _put(self, record: StreamRecord, number: int) -> None:
        self._streams[record.basin, record.name] = number, record
        self._streams_by_id[record.stream_id] = record

    def _basin(self, name: BasinName) -> BasinRecord:
        record = self.basin(name)
        assert record is not None
        return record

    def _with_deletion(self, record: StreamRecord | None) -> StreamRecord | None:
        """The record as it is; a stream's owner marks it deleted in the log without asking here."""
        entry = None if record is None else self.durable.stream_by_id(record.stream_id)
        if record is None or entry is None:
            return record
        return attrs.evolve(record, deleted_at_ms=entry.record.deleted_at_ms)

    def _by_id(self, stream_id: StreamId) -> StreamRecord:
        pending = self._streams_by_id.get(stream_id)
        if pending is not None:
            return pending
        entry = self.durable.stream_by_id(stream_id)
        assert entry is not None
        return entry.record


@attrs.define(eq=False)
class CatalogActor(Actor[Mutate]):
    """Decides in the order of its mailbox. One per server."""

    overlay: Overlay
    storage: StorageClient
    _decided: int = 0
    _durable: int = 0
    _failure: StorageError | None = None
    _held: deque[_Held] = attrs.field(factory=deque)

    async def started(self) -> None:
        """Wait for what a predecessor that crashed has decided: this one does not know of it."""
        await self.storage.settle()

    async def receive(self, message: Mutate) -> None:
        """Decide one request."""
        try:
            decision = message.decide(self.overlay)
        except S2LiteError as error:
            outcome: object = error
        else:
            outcome = decision.answer
            if decision.changes:
                self._submit(decision.changes)
        self._held.append(_Held(self._decided, message.reply, outcome))
        self._release()

    async def woken(self) -> None:
        """Answer what has become durable."""
        self.overlay.settle(self._durable)
        self._release()

    def _submit(self, changes: tuple[CatalogChange, ...]) -> None:
        self._decided += 1
        number = self._decided
        for change in changes:
            self.overlay.add(change, number)
        self.storage.submit(changes, lambda error: self._settled(number, error))

    def _settled(self, number: int, error: StorageError | None) -> None:
        if error is None:
            self._durable = number
        else:
            self._failure = error
        self.context.ref.wake()

    def _release(self) -> None:
        while self._held and (self._held[0].needs <= self._durable or self._failure is not None):
            held = self._held.popleft()
            outcome = held.outcome
            if held.needs > self._durable and self._failure is not None:
                held.reply.fail(self._failure)
            elif isinstance(outcome, Exception):
                held.reply.fail(outcome)
            else:
                held.reply.set(outcome)


@attrs.frozen(eq=False)
class CatalogClient:
    """What the rest of the server sees of the catalog's owner."""

    ref: ActorRef[Mutate]

    async def mutate(self, decide: Decide[T]) -> T:
        """Decide and make durable; the answer, or the refusal as an exception, holds from then on.

        A request that is cancelled once it was taken is carried out all the same.
        """
        answer: T = await self.ref.ask(lambda reply: Mutate(decide, reply))
        return answer
