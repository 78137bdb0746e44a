"""Broadcast: one publisher, many subscribers, and none of them can slow it down.

Theory of operation
-------------------
Publishing is synchronous: it appends the item to each subscription's backlog and wakes its reader.
Items are shared, never copied, so a backlog costs what the items it holds alive cost.

A backlog is a trio memory channel, bounded by items and by bytes. A reader that lets it overflow
loses all of it, the item that did not fit included, and from then on nothing is queued until the
reader has been told, by `SubscriptionLagged` out of its next receive. That makes the loss one
contiguous range which ends at the moment of the raise: a reader that fetches what it missed from
elsewhere, up to what has been published at that moment, has no gap and no overlap with what it
receives next.

An item larger than the whole bound in bytes is taken when the backlog is empty, since otherwise no
reader could ever get past it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

import attrs
import trio

from ._errors import BroadcastClosed, SubscriptionLagged

T = TypeVar("T")


@attrs.define(eq=False)
class Subscription(Generic[T]):
    """One subscriber's view of a `Broadcast`: items from the moment it subscribed.

    Use it as a context manager, or close it. Only one task at a time may receive.
    """

    _broadcast: Broadcast[T]
    _max_items: int
    _max_bytes: int
    _outgoing: trio.MemorySendChannel[tuple[T, int]] = attrs.field(init=False, repr=False)
    _incoming: trio.MemoryReceiveChannel[tuple[T, int]] = attrs.field(init=False, repr=False)
    _backlog_bytes: int = attrs.field(default=0, init=False)
    _missed_items: int = attrs.field(default=0, init=False)
    _end: BroadcastClosed | None = attrs.field(default=None, init=False)
    _receiving: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._outgoing, self._incoming = trio.open_memory_channel[tuple[T, int]](self._max_items)

    @property
    def backlog_items(self) -> int:
        """How many items wait to be received."""
        return self._incoming.statistics().current_buffer_used

    @property
    def backlog_bytes(self) -> int:
        """The sum of the sizes, as published, of the items that wait to be received."""
        return self._backlog_bytes

    @property
    def lagged(self) -> bool:
        """Whether the next receive will raise SubscriptionLagged."""
        return self._missed_items > 0

    def __enter__(self) -> Subscription[T]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unsubscribe and drop the backlog; a task that is receiving gets BroadcastClosed."""
        self._broadcast._subscriptions.pop(self, None)
        self._drop_backlog()
        self._missed_items = 0
        self._finish(BroadcastClosed())

    def receive_nowait(self) -> T:
        """Return the next item; raises trio.WouldBlock if there is none yet, else as `receive`."""
        self._check_lag()
        with contextlib.suppress(trio.EndOfChannel):
            return self._taken(self._incoming.receive_nowait())
        raise self._closed()

    async def receive(self) -> T:
        """Wait for the next item; cancelling it loses nothing.

        Raises SubscriptionLagged if items were lost, once per loss, after which it can be called
        again. Raises BroadcastClosed when the broadcast is closed and all items received, or this
        subscription is closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this subscription")
        self._check_lag()
        self._receiving = True
        try:
            with contextlib.suppress(trio.EndOfChannel):
                return self._taken(await self._incoming.receive())
        finally:
            self._receiving = False
        raise self._closed()

    def _check_lag(self) -> None:
        if self._missed_items:
            missed, self._missed_items = self._missed_items, 0
            raise SubscriptionLagged(missed)

    def _taken(self, entry: tuple[T, int]) -> T:
        item, size_bytes = entry
        self._changed(-size_bytes)
        return item

    def _changed(self, size_bytes: int) -> None:
        self._backlog_bytes += size_bytes
        if self._broadcast.on_backlog is not None:
            self._broadcast.on_backlog(size_bytes)

    def _closed(self) -> BroadcastClosed:
        assert self._end is not None
        return BroadcastClosed(self._end.error)

    def _push(self, item: T, size_bytes: int) -> None:
        if self._missed_items:
            self._missed_items += 1
            return
        # A reader that waits has no backlog, so an overflow never has to wake one.
        if self._backlog_bytes + size_bytes <= self._max_bytes or not self.backlog_items:
            try:
                self._outgoing.send_nowait((item, size_bytes))
            except trio.WouldBlock:
                pass
            else:
                self._changed(size_bytes)
                return
        self._missed_items = self._drop_backlog() + 1

    def _drop_backlog(self) -> int:
        dropped = 0
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                self._taken(self._incoming.receive_nowait())
                dropped += 1
        return dropped

    def _finish(self, end: BroadcastClosed) -> None:
        if self._end is None:
            self._end = end
            self._outgoing.close()


@attrs.define(eq=False)
class Broadcast(Generic[T]):
    """Hands every item to every subscriber, without ever waiting for one.

    `max_items` and `max_bytes` bound the backlog of each subscription that does not set its own.
    `on_backlog` is called with every change, in bytes, of the backlog of any of them.
    """

    max_items: int = attrs.field(default=1024, validator=attrs.validators.ge(1))
    max_bytes: int = attrs.field(default=16 * 1024 * 1024, validator=attrs.validators.ge(0))
    on_backlog: Callable[[int], None] | None = None
    _subscriptions: dict[Subscription[T], None] = attrs.field(factory=dict, init=False)
    _end: BroadcastClosed | None = attrs.field(default=None, init=False)

    def __len__(self) -> int:
        """Return how many subscribers there are."""
        return len(self._subscriptions)

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._end is not None

    def subscribe(
        self, *, max_items: int | None = None, max_bytes: int | None = None
    ) -> Subscription[T]:
        """Return a subscription to what is published from now on.

        On a closed broadcast it is one whose `receive` raises BroadcastClosed.
        """
        subscription = Subscription(
            self,
            self.max_items if max_items is None else max_items,
            self.max_bytes if max_bytes is None else max_bytes,
        )
        if self._end is None:
            self._subscriptions[subscription] = None
        else:
            subscription._finish(self._end)
        return subscription

    def publish(self, item: T, size_bytes: int = 0) -> None:
        """Hand the item to every subscriber; never blocks.

        Raises BroadcastClosed after `close`.
        """
        if self._end is not None:
            raise BroadcastClosed(self._end.error)
        for subscription in self._subscriptions:
            subscription._push(item, size_bytes)

    def close(self, error: BaseException | None = None) -> None:
        """Let the subscribers receive what is queued, then BroadcastClosed with `error` in it.

        A second call does nothing.
        """
        if self._end is not None:
            return
        self._end = BroadcastClosed(error)
        for subscription in self._subscriptions:
            subscription._finish(self._end)
        self._subscriptions.clear()
