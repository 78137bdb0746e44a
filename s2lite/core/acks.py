"""Holds each answer until what it depends on is durable.

Theory of operation. An answer to an append reveals stream state: an ack says "these records are
there", a refusal "the next seq_num is N" or "the token is T". None of that may be said while a
crash could undo it. Every answer therefore carries the seq_num up to which the stream must be
durable, and waits in a heap ordered by it; answers with equal needs leave in the order they came.
An ack needs its own batch, so acks leave in seq_num order.
"""

import heapq
import itertools
from collections.abc import Iterator
from typing import Protocol

import attrs

from s2lite.model.records import AppendAck


class Answer(Protocol):
    """The slot that the asker waits on."""

    def set(self, value: AppendAck, /) -> None:
        """Answer with an ack."""

    def fail(self, error: Exception, /) -> None:
        """Answer with a refusal."""


@attrs.frozen(order=False, eq=False)
class _Held:
    depends_on: int
    order: int
    answer: Answer
    outcome: AppendAck | Exception

    def __lt__(self, other: "_Held") -> bool:
        return (self.depends_on, self.order) < (other.depends_on, other.order)

    def release(self) -> None:
        if isinstance(self.outcome, Exception):
            self.answer.fail(self.outcome)
        else:
            self.answer.set(self.outcome)


@attrs.define(eq=False)
class PendingAcks:
    """The answers of one stream that wait for durability."""

    _held: list[_Held] = attrs.field(factory=list)
    _order: Iterator[int] = attrs.field(factory=itertools.count)

    def __len__(self) -> int:
        """How many answers are waiting."""
        return len(self._held)

    def accept(self, ack: AppendAck, answer: Answer) -> None:
        """Ack once every record below the ack's end is durable."""
        self._hold(ack.end.seq_num, answer, ack)

    def refuse(self, error: Exception, depends_on: int, answer: Answer) -> None:
        """Refuse once every record below `depends_on` is durable."""
        self._hold(depends_on, answer, error)

    def release(self, durable_seq_num: int) -> None:
        """Give every answer that needs nothing at or above `durable_seq_num`."""
        while self._held and self._held[0].depends_on <= durable_seq_num:
            heapq.heappop(self._held).release()

    def fail(self, error: Exception) -> None:
        """Fail all of them: nothing more will become durable."""
        held, self._held = self._held, []
        for item in sorted(held):
            item.answer.fail(error)

    def _hold(self, depends_on: int, answer: Answer, outcome: AppendAck | Exception) -> None:
        heapq.heappush(self._held, _Held(depends_on, next(self._order), answer, outcome))
