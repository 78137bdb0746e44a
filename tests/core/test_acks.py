"""Answers leave when what they depend on is durable, in an order that clients can rely on."""

from typing import TypeAlias

import attrs
from hypothesis import given
from hypothesis import strategies as st

from s2lite.core.acks import PendingAcks
from s2lite.model.errors import SeqNumMismatch, StorageFailed
from s2lite.model.positions import StreamPosition
from s2lite.model.records import AppendAck

Given: TypeAlias = list[tuple[str, object]]


@attrs.frozen
class Slot:
    """An answer that notes when it is given."""

    name: str
    given: Given

    def set(self, value: AppendAck, /) -> None:
        self.given.append((self.name, value))

    def fail(self, error: Exception, /) -> None:
        self.given.append((self.name, error))


def ack(start: int, end: int) -> AppendAck:
    tail = StreamPosition(end, 0)
    return AppendAck(StreamPosition(start, 0), tail, tail)


def names(given_: Given) -> list[str]:
    return [name for name, _ in given_]


def test_an_ack_waits_for_the_last_record_of_its_batch() -> None:
    given_: Given = []
    pending = PendingAcks()
    pending.accept(ack(0, 3), Slot("a", given_))
    for durable in (0, 1, 2):
        pending.release(durable)
        assert given_ == []
    pending.release(3)
    assert given_ == [("a", ack(0, 3))]
    pending.release(4)
    assert len(given_) == 1


def test_a_refusal_waits_for_the_state_it_reveals() -> None:
    given_: Given = []
    pending = PendingAcks()
    error = SeqNumMismatch(3)
    pending.accept(ack(0, 3), Slot("ack", given_))
    pending.refuse(error, 3, Slot("refusal", given_))
    pending.release(2)
    assert given_ == []
    assert len(pending) == 2
    pending.release(3)
    assert given_ == [("ack", ack(0, 3)), ("refusal", error)]


def test_a_refusal_that_depends_on_less_overtakes_an_ack() -> None:
    given_: Given = []
    pending = PendingAcks()
    pending.accept(ack(1, 2), Slot("ack", given_))
    pending.refuse(SeqNumMismatch(1), 1, Slot("refusal", given_))
    pending.release(1)
    assert names(given_) == ["refusal"]


def test_a_refusal_that_depends_on_nothing_leaves_at_once() -> None:
    given_: Given = []
    pending = PendingAcks()
    pending.refuse(SeqNumMismatch(0), 0, Slot("refusal", given_))
    pending.release(0)
    assert names(given_) == ["refusal"]


def test_failing_gives_all_of_them_the_error_and_forgets_them() -> None:
    given_: Given = []
    pending = PendingAcks()
    pending.accept(ack(0, 1), Slot("a", given_))
    pending.refuse(SeqNumMismatch(1), 1, Slot("b", given_))
    pending.accept(ack(1, 2), Slot("c", given_))
    error = StorageFailed()
    pending.fail(error)
    assert given_ == [("a", error), ("b", error), ("c", error)]
    pending.release(99)
    assert len(given_) == 3


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("accept"), st.integers(1, 3)),
            st.tuples(st.just("refuse"), st.integers(0, 12)),
            st.tuples(st.just("release"), st.integers(0, 4)),
        ),
        max_size=40,
    )
)
def test_every_answer_leaves_once_no_earlier_than_it_may_and_acks_in_order(
    steps: list[tuple[str, int]],
) -> None:
    given_: Given = []
    pending = PendingAcks()
    assigned = durable = 0
    needs: dict[str, int] = {}
    for number, (step, value) in enumerate(steps):
        name = f"{step} {number}"
        if step == "accept":
            pending.accept(ack(assigned, assigned + value), Slot(name, given_))
            assigned += value
            needs[name] = assigned
        elif step == "refuse":
            needs[name] = min(value, assigned)
            pending.refuse(SeqNumMismatch(0), needs[name], Slot(name, given_))
        else:
            durable = min(assigned, durable + value)
            pending.release(durable)
            assert set(names(given_)) == {each for each in needs if needs[each] <= durable}
        assert all(needs[each] <= durable for each in names(given_))
    assert len(given_) == len(set(names(given_)))
    acks = [value.start.seq_num for _, value in given_ if isinstance(value, AppendAck)]
    assert acks == sorted(acks)
    assert len(pending) == len(needs) - len(given_)
