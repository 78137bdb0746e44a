"""Appends and their acks: numbers, limits, atomicity, conditions."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.api.frames import append_message
from tests.conformance.cases import case
from tests.conformance.raw import (
    JSON,
    MIB,
    PROTOBUF,
    RECORDS,
    append,
    appended,
    bodies_of,
    check_tail,
    command,
    error_of,
    reconfigure,
    records_of,
    seq_nums_of,
    span,
    streams_of,
    tail_of,
)

pytestmark = [pytest.mark.conformance]

LARGEST_BODY = MIB - 8


@case(34)
def test_the_first_record_gets_number_zero(api: httpx.Client) -> None:
    assert span(appended(api, "lorem")) == (0, 1)
    assert bodies_of(api) == ["lorem"]


@case(35, 36)
@pytest.mark.parametrize("batches", [[["a"], ["b"], ["c", "d"]], [["a", "b", "c"]]])
def test_numbers_have_no_gaps(api: httpx.Client, batches: list[list[str]]) -> None:
    expected = 0
    for bodies in batches:
        assert span(appended(api, *bodies)) == (expected, expected + len(bodies))
        expected += len(bodies)
    assert seq_nums_of(api) == list(range(expected))
    assert bodies_of(api) == [body for bodies in batches for body in bodies]


@case(37, 38)
@pytest.mark.parametrize(
    "headers",
    [
        [[["k1", "v1"], ["k2", "v2"]]],
        [[["empty", ""]]],
        [[["same", "2"], ["same", "1"], ["same", "2"]]],
        [[["a", "1"]], [["b", "2"], ["c", "3"]], []],
    ],
    ids=["two", "an empty value", "one name", "one, two and none"],
)
def test_headers_are_kept_as_they_are(api: httpx.Client, headers: list[list[list[str]]]) -> None:
    appended(api, *[{"headers": each, "body": "x"} for each in headers])
    assert [record.get("headers", []) for record in records_of(api)] == headers


@case(39)
def test_a_record_may_be_empty(api: httpx.Client) -> None:
    assert span(appended(api, "")) == (0, 1)


@case(40)
def test_a_batch_has_at_most_a_thousand_records(api: httpx.Client) -> None:
    assert error_of(append(api, *["a"] * 1001)) == (422, "invalid")
    assert span(appended(api, *["a"] * 1000)) == (0, 1000)


@case(41)
def test_a_record_has_at_most_a_mebibyte(api: httpx.Client) -> None:
    assert error_of(append(api, "x" * (LARGEST_BODY + 1))) == (422, "invalid")
    assert span(appended(api, "x" * LARGEST_BODY)) == (0, 1)
    for size, status in ((LARGEST_BODY + 1, 422), (LARGEST_BODY, 200)):
        answer = api.post(RECORDS, content=append_message(bytes(size)), headers=PROTOBUF)
        assert answer.status_code == status


@case(42)
def test_a_batch_has_at_most_a_mebibyte(api: httpx.Client) -> None:
    assert error_of(append(api, "x" * 600_000, "x" * 600_000)) == (422, "invalid")
    assert tail_of(api) == 0
    half = MIB // 2 - 8
    assert error_of(append(api, "x" * half, "x" * (half + 1))) == (422, "invalid")
    assert span(appended(api, "x" * half, "x" * half)) == (0, 2)


@case(43)
def test_an_append_to_what_is_missing_says_what_is(api: httpx.Client) -> None:
    path = "/v1/streams/missing/records"
    assert error_of(append(api, "a", path=path)) == (404, "stream_not_found")
    headers = {"s2-basin": "no-such-basin"}
    assert error_of(append(api, "a", headers=headers)) == (404, "basin_not_found")


@case(44)
def test_a_bad_append_creates_nothing(api: httpx.Client, basin: str) -> None:
    path = "/v1/streams/new/records"
    enabled = api.patch(f"/v1/basins/{basin}", json={"create_stream_on_append": True})
    assert enabled.status_code == 200
    assert error_of(append(api, path=path)) == (422, "invalid")
    assert error_of(append(api, command("?"), path=path)) == (422, "invalid")
    assert error_of(api.post(path, content="x", headers=JSON)) == (400, "bad_json")
    assert error_of(api.post(path, content="x", headers=PROTOBUF)) == (400, "bad_proto")
    assert streams_of(api) == ["s"]
    assert append(api, "a", path=path).status_code == 200
    assert streams_of(api) == ["new", "s"]


@case(45)
def test_concurrent_appends_each_count_once(http: httpx.Client, stream: str) -> None:
    bodies = [str(number) for number in range(20)]
    with ThreadPoolExecutor(20) as threads:
        acks = list(threads.map(lambda body: appended(http, body), bodies))
    assert tail_of(http) == 20
    found = bodies_of(http)
    assert sorted(found) == sorted(bodies)
    assert [found[ack["start"]["seq_num"]] for ack in acks] == bodies


@case(46)
def test_appends_go_on_while_the_stream_is_reconfigured(http: httpx.Client, stream: str) -> None:
    modes = ["arrival", "client-prefer"] * 5
    with ThreadPoolExecutor(1) as threads:
        changing = threads.map(lambda mode: reconfigure(http, timestamping={"mode": mode}), modes)
        spans = [span(appended(http, str(number))) for number in range(10)]
        list(changing)
    assert spans == [(number, number + 1) for number in range(10)]
    assert bodies_of(http) == [str(number) for number in range(10)]


@case(47)
@pytest.mark.parametrize("server", ["memory", "local"], indirect=True)
def test_what_is_acked_can_be_read_on_any_connection(api: httpx.Client, http: httpx.Client) -> None:
    for number in range(20):
        ack = appended(api, str(number))
        assert check_tail(http).json()["tail"] == ack["end"]
        assert bodies_of(http, f"seq_num={number}") == [str(number)]


# --- conditions ---------------------------------------------------------------------------------


@case(48)
def test_an_append_may_name_the_number_it_expects(api: httpx.Client) -> None:
    appended(api, "a", "b", match_seq_num=0)
    appended(api, "c", match_seq_num=2)
    appended(api, "d", match_seq_num=3)
    assert tail_of(api) == 4


@case(49)
def test_an_append_that_expects_another_number_is_told_the_next(api: httpx.Client) -> None:
    appended(api, "a")
    for wrong in (0, 2, 2**64 - 1):
        answer = append(api, "b", match_seq_num=wrong)
        assert (answer.status_code, answer.content) == (412, b'{"seq_num_mismatch":1}')
    assert tail_of(api) == 1


@case(50)
def test_no_token_is_in_force_at_first(api: httpx.Client) -> None:
    appended(api, "a", fencing_token="")
    _mismatches(append(api, "b", fencing_token="x"), "")


@case(51)
def test_a_fence_lets_in_who_names_its_token_or_none(api: httpx.Client) -> None:
    appended(api, command("fence", "tok"))
    appended(api, "a", fencing_token="tok")
    _mismatches(append(api, "b", fencing_token="other"), "tok")
    appended(api, "c")
    assert tail_of(api) == 3


@case(52)
def test_of_two_failed_conditions_the_token_is_told(api: httpx.Client) -> None:
    appended(api, command("fence", "tok"))
    _mismatches(append(api, "a", fencing_token="x", match_seq_num=99), "tok")


@case(53)
def test_a_fence_is_itself_checked_against_the_token_before_it(api: httpx.Client) -> None:
    appended(api, command("fence", "b"), fencing_token="")
    _mismatches(append(api, command("fence", "c"), fencing_token=""), "b")
    appended(api, command("fence", "c"), "a", fencing_token="b")
    appended(api, "a", fencing_token="c")


@case(54)
def test_an_empty_fence_clears_the_token(api: httpx.Client) -> None:
    appended(api, command("fence", "tok"))
    appended(api, command("fence", ""))
    appended(api, "a")
    appended(api, "b", fencing_token="")
    assert tail_of(api) == 4


@case(55)
def test_of_two_fences_in_a_batch_the_last_counts(api: httpx.Client) -> None:
    appended(api, command("fence", "a"), command("fence", "b"))
    _mismatches(append(api, "x", fencing_token="a"), "b")
    appended(api, "x", fencing_token="b")


def test_the_fence_of_a_batch_that_is_refused_does_nothing(api: httpx.Client) -> None:
    refused = append(api, command("fence", "a"), match_seq_num=5)
    assert refused.status_code == 412
    appended(api, "x", fencing_token="")


def _mismatches(answer: httpx.Response, token: str) -> None:
    assert answer.status_code == 412
    assert answer.json() == {"fencing_token_mismatch": token}
