"""Read sessions as server-sent events."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.conformance.cases import case
from tests.conformance.raw import (
    EVENTS,
    RECORDS,
    Json,
    appended,
    error_of,
    fill,
    read,
    stamped,
)

pytestmark = [pytest.mark.conformance]


def events_of(api: httpx.Client, query: str, **headers: str) -> str:
    """All events of a session that ends."""
    answer = read(api, query, **EVENTS, **headers)
    assert answer.status_code == 200, answer.text
    return answer.text


def next_event(lines: Iterator[str]) -> Json:
    """The fields of the next event."""
    fields = {}
    while line := next(lines):
        name, _, value = line.partition(": ")
        assert name not in fields
        fields[name] = value
    return fields


@case(124)
@pytest.mark.parametrize("accepted", ["gzip", "zstd", "*"])
def test_a_session_of_events_is_neither_cached_nor_compressed(
    api: httpx.Client, accepted: str
) -> None:
    fill(api, "x" * 5000)
    answer = read(api, "seq_num=0&wait=0", **EVENTS, accept_encoding=accepted)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in answer.headers
    assert "content-length" not in answer.headers
    assert answer.content.startswith(b"event: batch\nid: 0,1,5008\ndata: {")


@case(125, 126)
def test_events_come_as_things_happen(api: httpx.Client, http: httpx.Client) -> None:
    with api.stream("GET", f"{RECORDS}?count=2&wait=30", headers=EVENTS) as answer:
        lines = answer.iter_lines()
        ping = next_event(lines)
        assert list(ping) == ["event", "data"]
        assert ping["event"] == "ping"
        data = json.loads(ping["data"])
        assert list(data) == ["timestamp", "tail"]
        assert data["tail"] == {"seq_num": 0, "timestamp": 0}
        for number in range(2):
            before = appended(http, stamped(1000, "hi"))["start"]["timestamp"]
            assert data["timestamp"] > before == 1000
            assert next_event(lines) == {
                "event": "batch",
                "id": f"{number},{number + 1},{10 * (number + 1)}",
                "data": f'{{"records":[{{"seq_num":{number},"timestamp":1000,"body":"hi"}}],'
                f'"tail":{{"seq_num":{number + 1},"timestamp":1000}}}}',
            }
        assert next_event(lines) == {"data": "[DONE]"}
        assert list(lines) == []


@case(127)
def test_a_session_that_has_all_it_wanted_is_done(api: httpx.Client) -> None:
    fill(api, "a", "b")
    assert events_of(api, "count=1&seq_num=0") == (
        "event: batch\nid: 0,1,9\n"
        'data: {"records":[{"seq_num":0,"timestamp":1000,"body":"a"}]}\n\n'
        "data: [DONE]\n\n"
    )


@case(105)
def test_a_session_that_gets_nothing_is_just_done(api: httpx.Client) -> None:
    fill(api, "a")
    assert events_of(api, "wait=0") == "data: [DONE]\n\n"


@case(128)
def test_a_session_may_be_resumed_behind_an_event(api: httpx.Client) -> None:
    fill(api, "hi", "hi", "hi")
    resumed = events_of(api, "seq_num=0&count=2", last_event_id="0,1,10")
    assert resumed == (
        "event: batch\nid: 1,1,10\n"
        'data: {"records":[{"seq_num":1,"timestamp":1000,"body":"hi"}]}\n\n'
        "data: [DONE]\n\n"
    )
    # What was delivered counts, in records and in bytes; and the start that is named does not.
    for query, last in (("seq_num=0&bytes=29", "0,1,10"), ("timestamp=1&count=2", "0,1,10")):
        assert events_of(api, query, last_event_id=last).startswith("event: batch\nid: 1,1,10\n")


@case(129)
@pytest.mark.parametrize("event_id", ["1", "a,b,c", "1,2,3,4", "1, 2,3", "", "1,2,", "-1,1,1"])
def test_an_id_that_no_event_has_is_refused(api: httpx.Client, event_id: str) -> None:
    fill(api, "a")
    answer = read(api, "seq_num=0", **EVENTS, last_event_id=event_id)
    assert error_of(answer) == (400, "bad_header")
    assert read(api, "seq_num=0", last_event_id=event_id).status_code == 200


@case(130)
def test_who_resumes_behind_the_last_record_is_told_the_tail(api: httpx.Client) -> None:
    fill(api, "a", "b")
    answer = read(api, "seq_num=0&count=9", **EVENTS, last_event_id="1,2,18")
    assert (answer.status_code, answer.json()) == (416, {"tail": {"seq_num": 2, "timestamp": 1000}})
    assert events_of(api, "seq_num=0&wait=0", last_event_id="1,2,18") == "data: [DONE]\n\n"


@case(132)
def test_events_may_be_base64(api: httpx.Client) -> None:
    fill(api, "hi")
    text = events_of(api, "seq_num=0&count=1", s2_format="base64")
    assert '"body":"aGk="' in text
