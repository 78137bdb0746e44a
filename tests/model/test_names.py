from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2lite.model import names
from s2lite.model.errors import InvalidName


@pytest.mark.parametrize(
    "name", ["abcdefgh", "a" * 48, "0bcdefg9", "with-inner-hyphen", "two--hyphens", "12345678"]
)
def test_a_basin_name_of_lowercase_letters_digits_and_inner_hyphens_is_legal(name: str) -> None:
    assert names.parse_basin_name(name) == name


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "at least 8"),
        ("short", "at least 8"),
        ("a" * 7, "at least 8"),
        ("a" * 49, "not exceed 48"),
        ("é" * 25, "not exceed 48"),
        ("Abcdefgh", "start with"),
        ("-abcdefgh", "start with"),
        ("abcdefgh-", "end with"),
        ("abcdefgH", "end with"),
        ("abcdEfgh", "only lowercase"),
        ("abc_defgh", "only lowercase"),
        ("abc.defgh", "only lowercase"),
        ("abcdéfgh", "only lowercase"),
        ("abcd\udc80fgh", "valid UTF-8"),
    ],
)
def test_a_basin_name_that_breaks_a_rule_is_refused_naming_the_rule(name: str, rule: str) -> None:
    with pytest.raises(InvalidName, match=rule) as caught:
        names.parse_basin_name(name)
    assert caught.value.kind == "basin name"
    assert str(caught.value).startswith("basin name must")


@pytest.mark.parametrize("part", ["", "a", "abcdefg-", "a-", "a" * 48])
def test_a_basin_prefix_or_cursor_may_be_short_and_may_end_in_a_hyphen(part: str) -> None:
    assert names.parse_basin_prefix(part) == part
    assert names.parse_basin_start_after(part) == part


@pytest.mark.parametrize("part", ["-abc", "Abc", "ab_cd", "a" * 49])
def test_what_no_basin_name_can_start_with_is_no_prefix_and_no_cursor(part: str) -> None:
    with pytest.raises(InvalidName, match="basin prefix"):
        names.parse_basin_prefix(part)
    with pytest.raises(InvalidName, match="basin start_after"):
        names.parse_basin_start_after(part)


@pytest.mark.parametrize(
    "name", ["a", "x" * 512, "a/b", "with space", "日本語", "🎉", "\x01\n", "...", "é" * 256, ".a"]
)
def test_a_stream_name_is_any_text_of_up_to_512_bytes(name: str) -> None:
    assert names.parse_stream_name(name) == name


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "not be empty"),
        ("x" * 513, "not exceed 512"),
        ("é" * 257, "not exceed 512"),
        (".", "not be"),
        ("..", "not be"),
        ("a\0b", "NUL"),
        ("\ud800", "valid UTF-8"),
    ],
)
def test_a_stream_name_that_breaks_a_rule_is_refused(name: str, rule: str) -> None:
    with pytest.raises(InvalidName, match=rule):
        names.parse_stream_name(name)


@pytest.mark.parametrize("part", ["", ".", "..", "a/", "x" * 512])
def test_a_stream_prefix_or_cursor_may_be_empty_or_dots(part: str) -> None:
    assert names.parse_stream_prefix(part) == part
    assert names.parse_stream_start_after(part) == part


@pytest.mark.parametrize("part", ["x" * 513, "a\0"])
def test_a_stream_prefix_or_cursor_obeys_the_length_and_has_no_nul(part: str) -> None:
    with pytest.raises(InvalidName, match="stream prefix"):
        names.parse_stream_prefix(part)
    with pytest.raises(InvalidName, match="stream start_after"):
        names.parse_stream_start_after(part)


@pytest.mark.parametrize("name", ["aws:us-east-1", "cloud:US-West-2.edge", "x", "a" * 64])
def test_a_location_name_has_ascii_letters_digits_colons_hyphens_and_dots(name: str) -> None:
    assert names.parse_location_name(name) == name


@pytest.mark.parametrize("name", ["", "aws/us", "a_b", "a b", "é", "a" * 65, "aws:us\n"])
def test_a_location_name_with_anything_else_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        names.parse_location_name(name)


@pytest.mark.parametrize("token", ["", "a", " ~", "x" * 36])
def test_a_request_token_is_printable_ascii_and_may_be_empty(token: str) -> None:
    assert names.parse_request_token(token) == token


@pytest.mark.parametrize("token", ["x" * 37, "é", "a\n", "\x7f", "a\tb"])
def test_a_request_token_that_is_long_or_not_printable_is_refused(token: str) -> None:
    with pytest.raises(InvalidName):
        names.parse_request_token(token)


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(exclude_categories=())), st.integers(0, 600))
def test_any_text_is_a_name_or_is_refused_with_a_reason(text: str, times: int) -> None:
    for parse in (
        names.parse_basin_name,
        names.parse_basin_prefix,
        names.parse_stream_name,
        names.parse_stream_prefix,
        names.parse_location_name,
        names.parse_request_token,
    ):
        with suppress(InvalidName):
            assert parse(text * times) == text * times


@settings(deadline=None, max_examples=50)
@given(
    st.text("ab09", min_size=1, max_size=9),
    st.text("a-", min_size=6, max_size=30),
    st.text("z9", min_size=1, max_size=9),
)
def test_every_prefix_of_a_basin_name_is_a_legal_prefix(start: str, inner: str, end: str) -> None:
    name = names.parse_basin_name(start + inner + end)
    for length in range(len(name) + 1):
        names.parse_basin_prefix(name[:length])
