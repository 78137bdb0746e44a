"""Reads of one batch: where they start, where they end, and what they are told at the tail."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.conformance.cases import case
from tests.conformance.raw import (
    MIB,
    Json,
    appended,
    batch_of,
    error_of,
    fill,
    read,
    records_of,
    seq_nums_of,
    stamped,
    streams_of,
    trim_command,
)

pytestmark = [pytest.mark.conformance]

LAST_U64 = 2**64 - 1

# A stream is given by the timestamps of its records, whose bodies are `a`: 9 metered bytes each.
Timestamps = list[int]

FIVE: Timestamps = [1000, 2000, 3000, 4000, 5000]

GOT: list[tuple[int, Timestamps, str, list[int]]] = [
    (78, [1, 1, 1], "seq_num=1&count=2", [1, 2]),
    (78, [1, 1, 1], "seq_num=0&count=3", [0, 1, 2]),
    (78, [1, 1], "seq_num=0&count=5", [0, 1]),
    (81, FIVE, "seq_num=0&bytes=18", [0, 1]),
    (81, FIVE, "seq_num=0&bytes=8", []),
    (81, [1, 1, 1], "seq_num=0&bytes=22", [0, 1]),
    (82, [1], "seq_num=0&bytes=0", []),
    (82, [1], "seq_num=0&count=0", []),
    (83, [1] * 20, "seq_num=0&count=5&bytes=1000000", [0, 1, 2, 3, 4]),
    (83, [1] * 20, "seq_num=0&count=100&bytes=27", [0, 1, 2]),
    (87, FIVE, "tail_offset=3", [2, 3, 4]),
    (87, FIVE, "tail_offset=999", [0, 1, 2, 3, 4]),
    (87, FIVE, f"tail_offset={LAST_U64}", [0, 1, 2, 3, 4]),
    (87, FIVE, "tail_offset=2", [3, 4]),
    (88, [1000, 1001, 1002, 1003], "timestamp=1001", [1, 2, 3]),
    (88, [1000, 1001, 1002, 1003], "timestamp=1002&count=1", [2]),
    (88, [1000, 1001, 1002, 1003], "timestamp=1001&bytes=9", [1]),
    (88, FIVE, "timestamp=2001", [2, 3, 4]),
    (90, [7, 7, 7], "timestamp=7", [0, 1, 2]),
    (91, [], "timestamp=0", []),
    (92, [1000, 2000, 3000], "seq_num=0&until=3000", [0, 1]),
    (92, [1000, 2000, 3000], "seq_num=0&until=999", []),
    (92, [1000, 2000, 2000, 3000], "seq_num=0&until=2000", [0]),
    (93, FIVE, "seq_num=0&until=4000&count=2", [0, 1]),
    (93, FIVE, "seq_num=0&until=2000&count=4", [0]),
    (93, FIVE, "seq_num=0&until=4000&bytes=18", [0, 1]),
    (93, FIVE, "seq_num=0&until=2000&bytes=36", [0]),
    (94, FIVE, "timestamp=2000&until=4500", [1, 2, 3]),
    (96, [5], "seq_num=0&until=0", []),
    (98, FIVE, "seq_num=3&wait=30", [3, 4]),
    (98, FIVE, "seq_num=0&count=2&wait=30", [0, 1]),
]

PAST: list[tuple[int, Timestamps, str]] = [
    (77, [], ""),
    (77, [], "seq_num=0"),
    (77, [], "tail_offset=9"),
    (82, FIVE, "count=0"),
    (82, FIVE, "seq_num=5&bytes=0"),
    (84, [9], "seq_num=10"),
    (84, [9], "seq_num=2&wait=5"),
    (85, [9], "seq_num=10&clamp=true"),
    (85, [9], f"seq_num={LAST_U64}&clamp=true"),
    (87, FIVE, "tail_offset=0"),
    (89, [10, 20], "timestamp=21"),
    (89, [10, 20], "timestamp=21&clamp=true"),
    (89, [10, 20], "timestamp=21&wait=5"),
    (91, [], "timestamp=1"),
]


def create(api: httpx.Client, timestamps: Timestamps) -> Json:
    """Fill the stream, and return its tail."""
    if not timestamps:
        return {"seq_num": 0, "timestamp": 0}
    tail: Json = appended(api, *[stamped(each) for each in timestamps])["tail"]
    return tail


@pytest.mark.parametrize(
    ("timestamps", "query", "expected"),
    [pytest.param(*rest, marks=case(number), id=f"DP{number}-{rest[1]}") for number, *rest in GOT],
)
def test_a_read_gets_what_its_start_and_limits_say(
    http: httpx.Client, stream: str, timestamps: Timestamps, query: str, expected: list[int]
) -> None:
    create(http, timestamps)
    batch = batch_of(read(http, query))
    assert [record["seq_num"] for record in batch["records"]] == expected
    assert "tail" not in batch


@pytest.mark.parametrize(
    ("timestamps", "query"),
    [pytest.param(*rest, marks=case(number), id=f"DP{number}-{rest[1]}") for number, *rest in PAST],
)
def test_a_read_that_can_get_nothing_is_told_the_tail(
    http: httpx.Client, stream: str, timestamps: Timestamps, query: str
) -> None:
    tail = create(http, timestamps)
    for accept in ("application/json", "application/protobuf"):
        answer = read(http, query, accept=accept)
        assert (answer.status_code, answer.json()) == (416, {"tail": tail})
        assert answer.headers["content-type"] == "application/json"


@case(79)
def test_a_batch_has_at_most_a_thousand_records(api: httpx.Client) -> None:
    appended(api, *["a"] * 1000)
    appended(api, *["a"] * 5)
    assert seq_nums_of(api, "seq_num=0&count=2000") == list(range(1000))
    assert seq_nums_of(api, "seq_num=0") == list(range(1000))
    assert seq_nums_of(api, "seq_num=1000&count=2000") == list(range(1000, 1005))


@case(80)
def test_a_batch_has_at_most_a_mebibyte(api: httpx.Client) -> None:
    appended(api, "x" * 700_000)
    appended(api, "x" * 700_000)
    assert seq_nums_of(api, "seq_num=0&bytes=2097152") == [0]
    half = MIB // 2 - 8
    first = appended(api, "x" * half)["start"]["seq_num"]
    appended(api, "x" * half)
    appended(api, "")
    assert seq_nums_of(api, f"seq_num={first}") == [first, first + 1]


@case(95)
def test_a_range_of_time_must_not_be_empty(api: httpx.Client, basin: str) -> None:
    enabled = api.patch(f"/v1/basins/{basin}", json={"create_stream_on_read": True})
    assert enabled.status_code == 200
    for query in ("timestamp=5&until=5", "timestamp=6&until=5"):
        assert error_of(api.get(f"/v1/streams/new/records?{query}")) == (422, "invalid")
    assert streams_of(api) == ["s"]


@case(101)
@pytest.mark.parametrize("query", ["seq_num=0", "tail_offset=1", "timestamp=1000&count=9"])
def test_what_was_there_is_read_without_a_tail(api: httpx.Client, query: str) -> None:
    fill(api, "a")
    assert read(api, query).content == (b'{"records":[{"seq_num":0,"timestamp":1000,"body":"a"}]}')


@case(102)
def test_a_stream_that_was_trimmed_to_its_end_has_nothing_to_read(api: httpx.Client) -> None:
    tail = appended(api, "a", "b", trim_command(3))["tail"]
    for query in ("seq_num=0", "seq_num=2", "tail_offset=3", f"timestamp={tail['timestamp']}"):
        assert batch_of(read(api, query)) == {"records": []}
    assert (read(api, "seq_num=3").status_code, read(api, "seq_num=3").json()) == (
        416,
        {"tail": tail},
    )


@case(103)
def test_concurrent_readers_read_the_same(http: httpx.Client, stream: str) -> None:
    for number in range(4):
        appended(http, *[str(5 * number + index) for index in range(5)])
    with ThreadPoolExecutor(10) as threads:
        readings = list(threads.map(lambda _: records_of(http), range(10)))
    assert [record["body"] for record in readings[0]] == [str(number) for number in range(20)]
    assert all(reading == readings[0] for reading in readings)
