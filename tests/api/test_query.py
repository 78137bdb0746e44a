import pytest

from s2lite.api.errors import BadRequest, ErrorCode
from s2lite.api.query import Query
from s2lite.model.limits import U32_MAX, U64_MAX


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", None),
        (b"other=1", None),
        (b"n=0", 0),
        (b"n=007", 7),
        (b"n=%31", 1),
        (b"n=18446744073709551615", U64_MAX),
        (b"other=1&other=2&n=5", 5),
    ],
)
def test_a_number_is_plain_decimal_and_absent_is_none(query: bytes, expected: int | None) -> None:
    assert Query(query).u64("n") == expected


@pytest.mark.parametrize(
    "value",
    ["", "-1", "1.5", "1e3", "+1", "%2B1", "0x1", "1_0", "%D9%A1", " 1", "18446744073709551616"],
)
def test_anything_else_is_a_bad_query(value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        Query(f"n={value}".encode()).u64("n")
    assert caught.value.code is ErrorCode.BAD_QUERY


def test_a_number_of_32_bits_has_its_own_limit() -> None:
    assert Query(b"wait=4294967295").u32("wait") == U32_MAX
    with pytest.raises(BadRequest):
        Query(b"wait=4294967296").u32("wait")


@pytest.mark.parametrize(
    ("query", "expected"), [(b"", False), (b"clamp=true", True), (b"clamp=false", False)]
)
def test_a_boolean_is_true_or_false_and_defaults_to_false(query: bytes, expected: bool) -> None:
    assert Query(query).boolean("clamp") is expected


@pytest.mark.parametrize("value", ["", "1", "True", "yes"])
def test_no_other_boolean_is_understood(value: str) -> None:
    with pytest.raises(BadRequest):
        Query(f"clamp={value}".encode()).boolean("clamp")


def test_a_known_parameter_may_not_be_repeated() -> None:
    with pytest.raises(BadRequest):
        Query(b"count=1&count=1").u64("count")


def test_text_is_form_encoded() -> None:
    query = Query(b"prefix=a+b%2Fc&start_after=")
    assert query.text("prefix") == "a b/c"
    assert query.text("start_after") == ""
