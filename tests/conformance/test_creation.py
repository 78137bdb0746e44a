"""Checking the tail, and streams that come into being because somebody uses them."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.conformance.cases import case
from tests.conformance.conftest import OpenSession
from tests.conformance.raw import (
    EVENTS,
    PROTOBUF,
    RECORDS,
    append,
    appended,
    check_tail,
    error_of,
    streams_of,
    tail_of,
)

pytestmark = [pytest.mark.conformance]

NEW = "/v1/streams/new/records"
SESSION = {"content-type": "s2s/proto"}


def allow(api: httpx.Client, basin: str, **flags: bool) -> None:
    """Set the flags of the basin."""
    assert api.patch(f"/v1/basins/{basin}", json=flags).status_code == 200


@case(157)
def test_the_tail_of_a_stream_is_where_the_last_append_ended(api: httpx.Client) -> None:
    assert check_tail(api).content == b'{"tail":{"seq_num":0,"timestamp":0}}'
    ack = appended(api, "a", "b")
    assert check_tail(api).json() == {"tail": ack["end"]}
    # Neither of these means anything to it.
    answer = api.get(f"{RECORDS}/tail", headers={**PROTOBUF, **SESSION, "s2-format": "bogus"})
    assert answer.json() == {"tail": ack["end"]}


@case(157)
def test_what_is_missing_has_no_tail(api: httpx.Client) -> None:
    assert error_of(check_tail(api, NEW)) == (404, "stream_not_found")
    answer = api.get(f"{RECORDS}/tail", headers={"s2-basin": "no-such-basin"})
    assert error_of(answer) == (404, "basin_not_found")


@case(158, 162)
def test_an_append_creates_the_stream_if_the_basin_says_so(api: httpx.Client, basin: str) -> None:
    allow(api, basin, create_stream_on_read=True)
    assert error_of(append(api, "a", path=NEW)) == (404, "stream_not_found")
    assert streams_of(api) == ["s"]
    allow(api, basin, create_stream_on_read=False, create_stream_on_append=True)
    assert append(api, "a", path=NEW).status_code == 200
    assert tail_of(api, NEW) == 1
    assert streams_of(api) == ["new", "s"]


@case(159, 162)
@pytest.mark.parametrize(
    "headers", [{}, PROTOBUF, EVENTS, SESSION], ids=["json", "protobuf", "events", "session"]
)
def test_a_read_creates_the_stream_if_the_basin_says_so(
    api: httpx.Client, basin: str, headers: dict[str, str]
) -> None:
    allow(api, basin, create_stream_on_append=True)
    for path in (NEW, f"{NEW}/tail"):
        assert error_of(api.get(path, headers=headers)) == (404, "stream_not_found")
    assert streams_of(api) == ["s"]
    allow(api, basin, create_stream_on_append=False, create_stream_on_read=True)
    answer = api.get(f"{NEW}?count=1", headers=headers)
    assert (answer.status_code, answer.content) == (416, b'{"tail":{"seq_num":0,"timestamp":0}}')
    assert streams_of(api) == ["new", "s"]
    newer = check_tail(api, "/v1/streams/newer/records")
    assert newer.content == b'{"tail":{"seq_num":0,"timestamp":0}}'
    assert streams_of(api) == ["new", "newer", "s"]


@case(158)
async def test_a_session_creates_the_stream_even_if_it_sends_nothing(
    open_session: OpenSession, http: httpx.Client, basin: str
) -> None:
    allow(http, basin, create_stream_on_append=True)
    session = await open_session(path=NEW)
    assert (await session.head()).status == 200
    assert streams_of(http) == ["new", "s"]
    await session.send(b"", end=True)
    assert await session.rest() == b""


@case(158)
def test_an_append_that_is_refused_has_created_the_stream(api: httpx.Client, basin: str) -> None:
    allow(api, basin, create_stream_on_append=True)
    refused = append(api, "a", path=NEW, match_seq_num=5)
    assert (refused.status_code, refused.content) == (412, b'{"seq_num_mismatch":0}')
    assert streams_of(api) == ["new", "s"]


@case(161)
def test_of_racing_appends_one_creates_the_stream(
    http: httpx.Client, basin: str, stream: str
) -> None:
    allow(http, basin, create_stream_on_append=True)
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda n: append(http, str(n), path=NEW), range(10)))
    assert [answer.status_code for answer in answers] == [200] * 10
    starts = [answer.json()["start"]["seq_num"] for answer in answers]
    assert sorted(starts) == list(range(10))
    assert tail_of(http, NEW) == 10
    assert streams_of(http) == ["new", "s"]


@case(161)
def test_of_racing_reads_one_creates_the_stream(
    http: httpx.Client, basin: str, stream: str
) -> None:
    allow(http, basin, create_stream_on_read=True)
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: http.get(f"{NEW}?seq_num=0"), range(10)))
    assert [answer.status_code for answer in answers] == [416] * 10
    assert streams_of(http) == ["new", "s"]


@case(164)
def test_a_stream_that_is_created_again_is_new(http: httpx.Client, stream: str) -> None:
    appended(http, {"headers": [["", "fence"]], "body": "tok"}, "a")
    assert http.delete("/v1/streams/s").status_code == 202
    created = 409
    while created == 409:  # for as long as it is being deleted
        created = http.post("/v1/streams", json={"stream": "s"}).status_code
    assert created == 201
    assert tail_of(http) == 0
    ack = appended(http, "b", fencing_token="", match_seq_num=0)
    assert ack["start"]["seq_num"] == 0
