"""Conditions, commands and timestamps of appends, against tables and a model that keeps records."""

from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2lite.core.sequencer import Refusal, Sequencer, assign_timestamps
from s2lite.model.config import StreamConfig, TimestampingMode
from s2lite.model.errors import (
    CipherExhausted,
    FencingTokenMismatch,
    InvalidInput,
    SeqNumMismatch,
)
from s2lite.model.limits import TERMINAL_TRIM_POINT, U64_MAX
from s2lite.model.positions import StreamPosition
from s2lite.model.records import AppendBatch, AppendInput, Command, Fence, Trim

NOW = 1_000
PREFER = StreamConfig()
UNCAPPED = StreamConfig(timestamping_uncapped=True)
REQUIRE = StreamConfig(timestamping_mode=TimestampingMode.CLIENT_REQUIRE)
ARRIVAL = StreamConfig(timestamping_mode=TimestampingMode.ARRIVAL)
ARRIVAL_UNCAPPED = StreamConfig(
    timestamping_mode=TimestampingMode.ARRIVAL, timestamping_uncapped=True
)

Item = Command | None


def append(
    *items: Item,
    match: int | None = None,
    token: str | None = None,
    timestamps: Sequence[int | None] | None = None,
) -> AppendInput:
    """A batch of ordinary records (None) and commands."""
    commands = tuple((index, item) for index, item in enumerate(items) if item is not None)
    stamps = timestamps if timestamps is not None else [None] * len(items)
    batch = AppendBatch([object()] * len(items), len(items), 8 * len(items), stamps, commands)
    return AppendInput(batch, match, token)


def records(count: int) -> AppendInput:
    return append(*[None] * count)


@pytest.fixture
def sequencer() -> Sequencer:
    return Sequencer(StreamPosition.ZERO)


def facts(error: FencingTokenMismatch | SeqNumMismatch) -> tuple[object, ...]:
    """What an error says; exceptions themselves compare by identity."""
    return type(error), *attrs.astuple(error)


def refused(sequencer: Sequencer, input_: AppendInput) -> tuple[tuple[object, ...], int]:
    """What the refusal says and depends on; it must change nothing."""
    before = attrs.asdict(sequencer)
    with pytest.raises(Refusal) as caught:
        sequencer.assign(input_, PREFER, NOW)
    assert attrs.asdict(sequencer) == before
    return refusal_facts(caught.value)


def refusal_facts(refusal: Refusal) -> tuple[tuple[object, ...], int]:
    assert isinstance(refusal.error, FencingTokenMismatch | SeqNumMismatch)
    return facts(refusal.error), refusal.depends_on


# --- numbers ----------------------------------------------------------------------------------


def test_numbers_start_at_zero_and_are_dense(sequencer: Sequencer) -> None:
    firsts = [sequencer.assign(records(count), PREFER, NOW).first_seq_num for count in (1, 1, 2, 3)]
    assert firsts == [0, 1, 2, 4]
    assert sequencer.tail == StreamPosition(7, NOW)


def test_an_assignment_tells_the_tail_after_it(sequencer: Sequencer) -> None:
    assignment = sequencer.assign(append(None, None, timestamps=[5, 7]), PREFER, NOW)
    assert assignment.timestamps == [5, 7]
    assert assignment.tail == StreamPosition(2, 7)


# --- conditions -------------------------------------------------------------------------------


def test_match_seq_num_zero_is_a_condition(sequencer: Sequencer) -> None:
    sequencer.assign(append(None, match=0), PREFER, NOW)
    assert refused(sequencer, append(None, match=0)) == (facts(SeqNumMismatch(1)), 1)


def test_match_seq_num_must_be_the_next_number(sequencer: Sequencer) -> None:
    sequencer.assign(records(2), PREFER, NOW)
    for wrong in (0, 1, 3, U64_MAX):
        assert refused(sequencer, append(None, match=wrong)) == (facts(SeqNumMismatch(2)), 2)
    sequencer.assign(append(None, match=2), PREFER, NOW)


def test_a_seq_num_refusal_depends_on_every_record_it_counts(sequencer: Sequencer) -> None:
    sequencer.assign(records(5), PREFER, NOW)
    assert refused(sequencer, append(None, match=4)) == (facts(SeqNumMismatch(5)), 5)


def test_the_token_in_force_starts_empty(sequencer: Sequencer) -> None:
    sequencer.assign(append(None, token=""), PREFER, NOW)
    assert refused(sequencer, append(None, token="x")) == (facts(FencingTokenMismatch("")), 0)


def test_an_append_without_a_token_is_not_fenced(sequencer: Sequencer) -> None:
    sequencer.assign(append(Fence("tok")), PREFER, NOW)
    sequencer.assign(records(1), PREFER, NOW)
    sequencer.assign(append(None, token="tok"), PREFER, NOW)
    expected = facts(FencingTokenMismatch("tok")), 1
    assert refused(sequencer, append(None, token="other")) == expected


def test_the_fencing_token_is_checked_before_the_number(sequencer: Sequencer) -> None:
    sequencer.assign(append(Fence("tok")), PREFER, NOW)
    error, _ = refused(sequencer, append(None, token="x", match=99))
    assert error == facts(FencingTokenMismatch("tok"))


def test_conditions_are_checked_before_missing_timestamps(sequencer: Sequencer) -> None:
    for condition in (append(None, match=9), append(None, token="x")):
        with pytest.raises(Refusal):
            sequencer.assign(condition, REQUIRE, NOW)


@pytest.mark.parametrize("twin", ["e\u0301", "\u00e9"])
def test_tokens_are_compared_byte_for_byte(sequencer: Sequencer, twin: str) -> None:
    sequencer.assign(append(Fence("\u00e9")), PREFER, NOW)
    if twin == "\u00e9":
        sequencer.assign(append(None, token=twin), PREFER, NOW)
    else:
        refused(sequencer, append(None, token=twin))


# --- commands ---------------------------------------------------------------------------------


def test_a_fence_is_checked_against_the_token_before_its_own_batch(sequencer: Sequencer) -> None:
    sequencer.assign(append(Fence("b"), token=""), PREFER, NOW)
    assert refused(sequencer, append(None, token=""))[0] == facts(FencingTokenMismatch("b"))


def test_the_last_of_two_fences_in_a_batch_wins(sequencer: Sequencer) -> None:
    assignment = sequencer.assign(append(Fence("a"), None, Fence("b")), PREFER, NOW)
    assert assignment.fencing_token == sequencer.fencing_token == "b"


def test_an_empty_fence_clears_the_token(sequencer: Sequencer) -> None:
    sequencer.assign(append(Fence("a")), PREFER, NOW)
    assignment = sequencer.assign(append(Fence(""), token="a"), PREFER, NOW)
    assert assignment.fencing_token == ""
    sequencer.assign(append(None, token=""), PREFER, NOW)


def test_a_fencing_refusal_depends_on_the_record_that_set_the_token(sequencer: Sequencer) -> None:
    sequencer.assign(records(3), PREFER, NOW)
    sequencer.assign(append(None, Fence("a"), None, None), PREFER, NOW)
    sequencer.assign(records(10), PREFER, NOW)
    assert refused(sequencer, append(None, token="x"))[1] == 5
    sequencer.assign(append(Fence("")), PREFER, NOW)
    assert refused(sequencer, append(None, token="a"))[1] == 18


def test_a_batch_without_commands_changes_neither_token_nor_trim_point(
    sequencer: Sequencer,
) -> None:
    sequencer.assign(append(None, Fence("t"), Trim(1)), PREFER, NOW)
    assignment = sequencer.assign(records(1), PREFER, NOW)
    assert (assignment.fencing_token, assignment.trim_point) == (None, None)
    assert (sequencer.fencing_token, sequencer.trim_point) == ("t", 1)


@pytest.mark.parametrize(
    ("trims", "expected"),
    [
        ([0], 0),
        ([2], 2),
        ([3], 3),
        ([4], 4),  # the trim record itself is number 3
        ([5], 4),
        ([TERMINAL_TRIM_POINT], 4),
        ([3, 1], 3),
        ([3, 3], 3),
        ([1, 3], 3),
        ([99, 99], 5),
    ],
)
def test_a_trim_reaches_at_most_through_its_own_record_and_never_back(
    sequencer: Sequencer, trims: list[int], expected: int
) -> None:
    sequencer.assign(records(3), PREFER, NOW)
    for point in trims:
        sequencer.assign(append(Trim(point)), PREFER, NOW)
    assert sequencer.trim_point == expected


def test_a_trim_that_moves_nothing_is_no_change(sequencer: Sequencer) -> None:
    sequencer.assign(records(3), PREFER, NOW)
    assert sequencer.assign(append(Trim(0)), PREFER, NOW).trim_point is None
    assert sequencer.assign(append(Trim(2)), PREFER, NOW).trim_point == 2
    assert sequencer.assign(append(Trim(2)), PREFER, NOW).trim_point is None
    assert sequencer.assign(append(Trim(1)), PREFER, NOW).trim_point is None


def test_a_trim_in_the_middle_of_a_batch_is_limited_by_its_own_place(sequencer: Sequencer) -> None:
    assignment = sequencer.assign(append(None, Trim(99), None, None), PREFER, NOW)
    assert assignment.trim_point == 2


def test_trimming_changes_no_number(sequencer: Sequencer) -> None:
    sequencer.assign(append(None, Trim(99)), PREFER, NOW)
    assert sequencer.assign(records(1), PREFER, NOW).first_seq_num == 2


def test_commands_of_a_refused_batch_do_nothing(sequencer: Sequencer) -> None:
    sequencer.assign(records(3), PREFER, NOW)
    refused(sequencer, append(Fence("x"), Trim(2), match=0))
    refused(sequencer, append(Fence("x"), Trim(2), token="y"))


def test_commands_of_a_batch_without_required_timestamps_do_nothing(sequencer: Sequencer) -> None:
    before = attrs.asdict(sequencer)
    with pytest.raises(InvalidInput):
        sequencer.assign(append(Fence("x"), None, timestamps=[1, None]), REQUIRE, NOW)
    assert attrs.asdict(sequencer) == before


# --- timestamps -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "given_timestamps", "floor", "expected"),
    [
        (PREFER, [900, 950], 0, [900, 950]),
        (PREFER, [None, None], 0, [NOW, NOW]),
        (PREFER, [None, 900, None], 0, [NOW, NOW, NOW]),
        (PREFER, [900, 800, 950], 0, [900, 900, 950]),
        (PREFER, [500, 600], 1000, [1000, 1000]),
        (PREFER, [0], 0, [0]),
        (PREFER, [NOW + 1], 0, [NOW]),
        (PREFER, [U64_MAX], 0, [NOW]),
        (PREFER, [None, 5], 5_000, [5_000, 5_000]),  # an uncapped past lies beyond now
        (UNCAPPED, [NOW + 1, 3], 0, [NOW + 1, NOW + 1]),
        (UNCAPPED, [U64_MAX, None], 0, [U64_MAX, U64_MAX]),
        (UNCAPPED, [None], 0, [NOW]),
        (REQUIRE, [900, 2_000], 0, [900, NOW]),
        (REQUIRE, [0], 0, [0]),
        (ARRIVAL, [900, None, 5_000], 0, [NOW, NOW, NOW]),
        (ARRIVAL, [1], 5_000, [5_000]),
        (ARRIVAL_UNCAPPED, [5_000], 0, [NOW]),
    ],
)
def test_timestamps_by_mode(
    config: StreamConfig, given_timestamps: list[int | None], floor: int, expected: list[int]
) -> None:
    stamped = assign_timestamps(given_timestamps, config, now_ms=NOW, floor=floor)
    assert list(stamped) == expected


@pytest.mark.parametrize("given_timestamps", [[None], [1, None], [None, 1]])
def test_a_required_timestamp_that_is_missing_refuses_the_batch(
    given_timestamps: list[int | None],
) -> None:
    with pytest.raises(InvalidInput, match="has no timestamp"):
        assign_timestamps(given_timestamps, REQUIRE, now_ms=NOW, floor=0)


def test_a_wall_clock_that_goes_back_does_not_take_timestamps_with_it(
    sequencer: Sequencer,
) -> None:
    for config in (PREFER, ARRIVAL):
        sequencer.assign(records(1), config, NOW)
        assert list(sequencer.assign(records(2), config, NOW - 500).timestamps) == [NOW, NOW]


# --- against a model --------------------------------------------------------------------------


@attrs.define
class ModelStream:
    """All of the records ever accepted; everything else is worked out from them each time."""

    items: list[Item] = attrs.field(factory=list)
    timestamps: list[int] = attrs.field(factory=list)

    @property
    def token(self) -> str:
        fences = [item.token for item in self.items if isinstance(item, Fence)]
        return fences[-1] if fences else ""

    @property
    def fence_end(self) -> int:
        ends = [number + 1 for number, item in enumerate(self.items) if isinstance(item, Fence)]
        return ends[-1] if ends else 0

    @property
    def survivors(self) -> set[int]:
        gone: set[int] = set()
        for number, item in enumerate(self.items):
            if isinstance(item, Trim):
                gone |= {each for each in range(number + 1) if each < item.trim_point}
        return set(range(len(self.items))) - gone

    def verdict(self, input_: AppendInput) -> tuple[tuple[object, ...], int] | None:
        if input_.fencing_token not in (None, self.token):
            return facts(FencingTokenMismatch(self.token)), self.fence_end
        if input_.match_seq_num not in (None, len(self.items)):
            return facts(SeqNumMismatch(len(self.items))), len(self.items)
        return None

    def stamp(self, wanted: int | None, config: StreamConfig, now_ms: int) -> None:
        if config.timestamping_mode is TimestampingMode.ARRIVAL or wanted is None:
            wanted = now_ms
        if wanted > now_ms and not config.timestamping_uncapped:
            wanted = now_ms
        self.timestamps.append(max([wanted, *self.timestamps]))


tokens = st.sampled_from(["", "a", "b"])
items = st.one_of(
    st.none(),
    st.builds(Fence, tokens),
    st.builds(Trim, st.integers(0, 30) | st.just(TERMINAL_TRIM_POINT)),
)
stamps = st.none() | st.integers(0, 40) | st.just(U64_MAX)


@st.composite
def appends(draw: st.DrawFn) -> AppendInput:
    batch = draw(st.lists(items, min_size=1, max_size=4))
    return append(
        *batch,
        match=draw(st.none() | st.integers(0, 12)),
        token=draw(st.none() | tokens),
        timestamps=[draw(stamps) for _ in batch],
    )


configs = st.builds(
    StreamConfig,
    timestamping_mode=st.sampled_from(TimestampingMode),
    timestamping_uncapped=st.booleans(),
)


@pytest.mark.slow
@given(st.lists(st.tuples(appends(), configs, st.integers(0, 40)), max_size=30))
def test_any_sequence_of_appends_does_what_the_model_does(
    steps: list[tuple[AppendInput, StreamConfig, int]],
) -> None:
    sequencer, model = Sequencer(StreamPosition.ZERO), ModelStream()
    for input_, config, now_ms in steps:
        refusal = model.verdict(input_)
        missing = (
            config.timestamping_mode is TimestampingMode.CLIENT_REQUIRE
            and None in input_.batch.timestamps
        )
        if refusal is not None:
            with pytest.raises(Refusal) as caught:
                sequencer.assign(input_, config, now_ms)
            assert refusal_facts(caught.value) == refusal
        elif missing:
            with pytest.raises(InvalidInput):
                sequencer.assign(input_, config, now_ms)
        else:
            first = len(model.items)
            commands = dict(input_.batch.commands)
            for index, wanted in enumerate(input_.batch.timestamps):
                model.items.append(commands.get(index))
                model.stamp(wanted, config, now_ms)
            assignment = sequencer.assign(input_, config, now_ms)
            assert assignment.first_seq_num == first
            assert list(assignment.timestamps) == model.timestamps[first:]
        assert sequencer.tail.seq_num == len(model.items)
        assert sequencer.tail.timestamp == max(model.timestamps, default=0)
        assert sequencer.fencing_token == model.token
        surviving = {n for n in range(len(model.items)) if n >= sequencer.trim_point}
        assert surviving == model.survivors


@pytest.mark.parametrize(
    ("items", "fits"),
    [
        ([None, None], True),
        ([None, None, None], False),
        ([None, None, Fence("t"), Trim(1)], True),
        ([Fence("t"), None, None], False),
        ([Fence("t")] * 5, True),
        ([Fence("t")] * 5 + [None], False),
    ],
)
def test_only_commands_get_numbers_above_those_of_the_cipher(items: list[Item], fits: bool) -> None:
    sequencer = Sequencer(StreamPosition(99, 5), max_seq_num=100)
    if fits:
        assert sequencer.assign(append(*items), PREFER, NOW).first_seq_num == 99
        return
    with pytest.raises(Refusal) as caught:
        sequencer.assign(append(*items), PREFER, NOW)
    assert isinstance(caught.value.error, CipherExhausted)
    assert caught.value.depends_on == 99
    assert sequencer.tail == StreamPosition(99, 5)
    assert sequencer.fencing_token == ""


def test_a_condition_goes_before_numbers_that_have_run_out() -> None:
    sequencer = Sequencer(StreamPosition(99, 5), max_seq_num=98)
    with pytest.raises(Refusal) as caught:
        sequencer.assign(append(None, match=1), PREFER, NOW)
    assert isinstance(caught.value.error, SeqNumMismatch)
