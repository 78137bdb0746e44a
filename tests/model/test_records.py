import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2lite.model.errors import InvalidInput
from s2lite.model.positions import StreamPosition
from s2lite.model.records import (
    TERMINAL_TRIM,
    Command,
    Fence,
    SequencedBatch,
    Trim,
    command_parts,
    metered_size,
    parse_command,
)


@pytest.mark.parametrize("token", ["", "token-1", "x" * 36, "é" * 18])
def test_a_fence_carries_a_token_of_up_to_36_bytes(token: str) -> None:
    assert parse_command(b"fence", token.encode()) == Fence(token)


@pytest.mark.parametrize("payload", [b"x" * 37, "é".encode() * 19, b"\xff", b"\xed\xa0\x80"])
def test_a_fence_whose_token_is_long_or_not_utf8_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidInput, match="token"):
        parse_command(b"fence", payload)


@pytest.mark.parametrize("trim_point", [0, 42, 999_999, 2**64 - 1])
def test_a_trim_carries_eight_bytes_big_endian(trim_point: int) -> None:
    assert parse_command(b"trim", trim_point.to_bytes(8, "big")) == Trim(trim_point)


@pytest.mark.parametrize("length", [0, 4, 7, 9, 10])
def test_a_trim_of_any_other_length_is_refused(length: int) -> None:
    with pytest.raises(InvalidInput, match="8 bytes"):
        parse_command(b"trim", bytes(length))


@pytest.mark.parametrize("operation", [b"", b"not-a-command", b"FENCE", b"fence ", b"\xff" * 99])
def test_an_unknown_command_is_refused(operation: bytes) -> None:
    with pytest.raises(InvalidInput, match="unknown command"):
        parse_command(operation, b"")


@pytest.mark.parametrize(
    ("headers", "body", "size"),
    [
        ([], b"", 8),
        ([(b"", b"fence")], b"fence-me", 23),
        ([(b"", b"trim")], bytes(8), 22),
        ([(b"alpha", b"1"), (b"beta", b"two")], b"body", 29),
        ([(b"k", b"")], b"", 11),
    ],
)
def test_a_record_meters_eight_and_two_a_header_and_its_bytes(
    headers: list[tuple[bytes, bytes]], body: bytes, size: int
) -> None:
    assert metered_size(headers, body) == size


@settings(deadline=None)
@given(
    st.builds(Trim, st.integers(0, 2**64 - 1))
    | st.builds(Fence, st.text().filter(lambda text: len(text.encode()) <= 36))
)
def test_a_command_is_read_back_from_its_record(command: Command) -> None:
    [(name, operation)], body = command_parts(command)
    assert name == b""
    assert parse_command(operation, body) == command


def test_the_terminal_trim_covers_every_record() -> None:
    assert command_parts(TERMINAL_TRIM) == ([(b"", b"trim")], b"\xff" * 8)


def test_a_sequenced_batch_knows_its_end_and_tail() -> None:
    batch = SequencedBatch(7, 3, 100, 120, 33, b"payload")
    assert batch.end_seq_num == 10
    assert batch.tail == StreamPosition(10, 120)
