"""Timestamps: the client's, the server's, and how they never go back."""

import time
from collections.abc import Callable

import httpx
import pytest

from tests.conformance.cases import case
from tests.conformance.raw import (
    Json,
    append,
    appended,
    error_of,
    reconfigure,
    stamped,
    tail_of,
    timestamps_of,
)

pytestmark = [pytest.mark.conformance]

FAR = 2**62


def now_ms() -> int:
    """The machine's clock, which is the server's as well."""
    return time.time_ns() // 1_000_000  # noqa: TID251 - what the server's clock is compared with


def _is_now(act: Callable[[], object], timestamps: Callable[[], list[int]]) -> None:
    before = now_ms()
    act()
    after = now_ms()
    assert all(before <= timestamp <= after for timestamp in timestamps())


@case(68)
def test_the_clients_timestamp_counts_if_there_is_one(api: httpx.Client) -> None:
    appended(api, stamped(900), stamped(950))
    assert timestamps_of(api) == [900, 950]
    _is_now(lambda: appended(api, "a", "b"), lambda: timestamps_of(api)[2:])


@case(69)
def test_timestamps_do_not_go_back_within_a_batch(api: httpx.Client) -> None:
    appended(api, stamped(1000), stamped(900), stamped(1100))
    assert timestamps_of(api) == [1000, 1000, 1100]


@case(70)
def test_timestamps_do_not_go_back_from_batch_to_batch(api: httpx.Client) -> None:
    appended(api, stamped(1000))
    appended(api, stamped(500), stamped(600))
    assert timestamps_of(api) == [1000, 1000, 1000]


@case(71, 72, 76)
def test_a_stream_may_require_timestamps(api: httpx.Client) -> None:
    appended(api, "a")
    reconfigure(api, timestamping={"mode": "client-require", "uncapped": True})
    assert error_of(append(api, "a")) == (422, "invalid")
    assert error_of(append(api, stamped(123), "a")) == (422, "invalid")
    assert tail_of(api) == 1
    ack = appended(api, stamped(FAR))
    assert (ack["start"]["seq_num"], ack["start"]["timestamp"]) == (1, FAR)


@case(71)
def test_a_required_timestamp_may_be_any(http: httpx.Client, basin: str) -> None:
    config = {"timestamping": {"mode": "client-require"}}
    assert http.post("/v1/streams", json={"stream": "s", "config": config}).status_code == 201
    assert error_of(append(http, "a")) == (422, "invalid")
    assert appended(http, stamped(123))["start"]["timestamp"] == 123


@case(73)
def test_a_stream_may_ignore_the_clients_timestamps(api: httpx.Client) -> None:
    reconfigure(api, timestamping={"mode": "arrival"})
    _is_now(lambda: appended(api, stamped(900), stamped(950)), lambda: timestamps_of(api))


@case(74)
def test_a_timestamp_in_the_future_is_now(api: httpx.Client) -> None:
    _is_now(lambda: appended(api, stamped(FAR)), lambda: timestamps_of(api))


@case(74)
def test_a_timestamp_in_the_future_is_kept_if_the_stream_says_so(api: httpx.Client) -> None:
    reconfigure(api, timestamping={"uncapped": True})
    appended(api, stamped(FAR))
    appended(api, "a")
    assert timestamps_of(api) == [FAR, FAR]


@case(75)
def test_an_ack_tells_the_first_and_the_last_timestamp(api: httpx.Client) -> None:
    ack: Json = appended(api, stamped(1000), stamped(1500), stamped(2000))
    assert ack == {
        "start": {"seq_num": 0, "timestamp": 1000},
        "end": {"seq_num": 3, "timestamp": 2000},
        "tail": {"seq_num": 3, "timestamp": 2000},
    }
