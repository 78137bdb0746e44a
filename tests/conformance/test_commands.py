"""Command records: fences and trims, as they are appended, and as they are read."""

import httpx
import pytest

from tests.api.frames import command_message
from tests.conformance.cases import case
from tests.conformance.raw import (
    PROTOBUF,
    RECORDS,
    Json,
    append,
    appended,
    check_tail,
    command,
    error_of,
    read,
    records_of,
    seq_nums_of,
    span,
    tail_of,
    trim_command,
)

pytestmark = [pytest.mark.conformance]

BAD_COMMANDS: list[tuple[int, Json]] = [
    (59, command("not-a-command")),
    (59, command("FENCE")),
    (59, command("")),
    (59, command("trim ", "12345678")),
    (60, {"headers": [["", "fence"], ["a", "b"]]}),
    (60, {"headers": [["a", "b"], ["", "fence"]]}),
    (60, {"headers": [["", ""], ["", ""]]}),
    (61, command("fence", "x" * 37)),
    (61, command("fence", "é" * 18 + "x")),
    *[(62, command("trim", "\0" * size)) for size in (0, 4, 7, 9, 10)],
]


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(record, marks=case(number), id=f"DP{number}-{record['headers']}")
        for number, record in BAD_COMMANDS
    ],
)
def test_a_command_nobody_knows_is_refused(http: httpx.Client, stream: str, record: Json) -> None:
    assert error_of(append(http, record)) == (422, "invalid")
    # A batch is all or nothing, whatever stands before it.
    assert error_of(append(http, "a", command("fence", "tok"), record)) == (422, "invalid")
    assert tail_of(http) == 0
    appended(http, "a", fencing_token="")


@case(61)
@pytest.mark.parametrize("payload", [b"\xff", b"x" * 37, b"a\xc3"])
def test_a_token_is_text(http: httpx.Client, stream: str, payload: bytes) -> None:
    message = command_message(b"fence", payload)
    assert error_of(http.post(RECORDS, content=message, headers=PROTOBUF)) == (422, "invalid")


@case(63)
def test_a_trim_takes_away_what_is_below_its_number(api: httpx.Client) -> None:
    appended(api, "0", "1", "2")
    assert span(appended(api, trim_command(2))) == (3, 4)
    assert seq_nums_of(api) == [2, 3]
    assert seq_nums_of(api, "seq_num=1&count=1") == [2]
    assert tail_of(api) == 4


@case(64, 102)
def test_a_trim_beyond_the_tail_takes_away_everything_and_itself(api: httpx.Client) -> None:
    appended(api, "0")
    far = {"headers": [["", "trim"]], "body": "\0\0\0\0\0\x01\x02\x03"}
    tail = appended(api, far)["tail"]
    assert tail["seq_num"] == 2
    empty = read(api)
    assert (empty.status_code, empty.content) == (200, b'{"records":[]}')
    assert check_tail(api).json() == {"tail": tail}
    at_the_tail = read(api, "seq_num=2")
    assert (at_the_tail.status_code, at_the_tail.json()) == (416, {"tail": tail})
    assert span(appended(api, "next")) == (2, 3)
    assert seq_nums_of(api) == [2]


@case(65)
def test_a_trim_point_never_moves_back(api: httpx.Client) -> None:
    appended(api, "0", "1", "2", "3")
    assert span(appended(api, trim_command(0))) == (4, 5)
    assert seq_nums_of(api) == [0, 1, 2, 3, 4]
    appended(api, trim_command(3))
    appended(api, trim_command(1))
    assert seq_nums_of(api) == [3, 4, 5, 6]


@case(66)
def test_commands_are_read_as_they_were_written(api: httpx.Client) -> None:
    appended(api, *["a"] * 50)
    appended(api, command("fence", ""), command("fence", "token-1"), trim_command(42))
    nothing, token, trim = records_of(api, "seq_num=50")
    assert nothing["headers"] == token["headers"] == [["", "fence"]]
    assert "body" not in nothing
    assert token["body"] == "token-1"
    assert (trim["headers"], trim["body"]) == ([["", "trim"]], "\0" * 7 + "*")
    nothing, token, trim = read(api, "seq_num=50", s2_format="base64").json()["records"]
    assert nothing["headers"] == token["headers"] == [["", "ZmVuY2U="]]
    assert "body" not in nothing
    assert token["body"] == "dG9rZW4tMQ=="
    assert (trim["headers"], trim["body"]) == ([["", "dHJpbQ=="]], "AAAAAAAAACo=")
    # What a trim says is kept, even where it reaches no further than itself.
    appended(api, "a", trim_command(127))
    appended(api, trim_command(0), "b")
    assert seq_nums_of(api) == [55, 56]


@case(67)
@pytest.mark.parametrize(
    ("record", "metered_bytes"),
    [
        (command("fence", "fence-me"), 23),
        (trim_command(0), 22),
        ({"headers": [["alpha", "1"], ["beta", "two"]], "body": "body"}, 29),
        ({"body": "é"}, 10),
        ({}, 8),
    ],
    ids=str,
)
def test_a_record_weighs_what_the_formula_says(
    http: httpx.Client, stream: str, record: Json, metered_bytes: int
) -> None:
    appended(http, record, record)
    assert seq_nums_of(http, f"seq_num=0&bytes={metered_bytes - 1}") == []
    assert seq_nums_of(http, f"seq_num=0&bytes={metered_bytes}") == [0]
    assert seq_nums_of(http, f"seq_num=0&bytes={2 * metered_bytes - 1}") == [0]
    assert seq_nums_of(http, f"seq_num=0&bytes={2 * metered_bytes}") == [0, 1]
