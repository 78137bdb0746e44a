from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2lite.codec import json, sse
from s2lite.codec.sse import BatchEventId, encode_event, parse_event_id
from s2lite.model.errors import InvalidName
from s2lite.model.positions import StreamPosition


def test_a_batch_event_has_its_name_its_id_and_its_data_in_this_order() -> None:
    assert encode_event("batch", b'{"records":[]}', str(BatchEventId(0, 1, 10))) == (
        b'event: batch\nid: 0,1,10\ndata: {"records":[]}\n\n'
    )


def test_an_event_without_an_id_has_no_id_line() -> None:
    ping = encode_event("ping", json.encode_ping(1_700_000_000_123, StreamPosition.ZERO))
    assert ping == (
        b'event: ping\ndata: {"timestamp":1700000000123,"tail":{"seq_num":0,"timestamp":0}}\n\n'
    )


def test_an_error_event_has_the_body_of_the_error() -> None:
    assert encode_event("error", json.encode_error("unavailable", "gone\n")) == (
        b'event: error\ndata: {"code":"unavailable","message":"gone\\n"}\n\n'
    )


def test_the_last_event_has_neither_name_nor_id() -> None:
    assert sse.DONE == b"data: [DONE]\n\n"


def test_an_event_id_is_three_numbers() -> None:
    assert parse_event_id("7,2,30") == BatchEventId(7, 2, 30)
    largest = 2**64 - 1
    assert parse_event_id(f"{largest},0,0") == BatchEventId(largest, 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1,2",
        "1,2,",
        "a,b,c",
        "1,2,3,4",
        "1, 2,3",
        " 1,2,3",
        "-1,2,3",
        "+1,2,3",
        "1.0,2,3",
        "٣,2,3",
        "²,2,3",
        "18446744073709551616,0,0",
        "9" * 5000 + ",0,0",
    ],
)
def test_anything_else_is_no_event_id(text: str) -> None:
    with pytest.raises(InvalidName, match="last-event-id"):
        parse_event_id(text)


@settings(deadline=None, max_examples=50)
@given(st.text("0123456789,-+ ", max_size=12))
def test_any_text_is_an_event_id_or_refused(text: str) -> None:
    with suppress(InvalidName):
        event_id = parse_event_id(text)
        assert parse_event_id(str(event_id)) == event_id
