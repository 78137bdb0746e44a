"""The official TypeScript client: everything a program does with it, against a real server."""

import asyncio
import signal
from pathlib import Path

import httpx
import pytest

from tests.conformance import typescript_client
from tests.conformance.conftest import StartServer, new_basin_name
from tests.conformance.restarts import (
    BASIN,
    Numbered,
    PythonSessions,
    check_interrupted,
    contents,
    contents_now,
    start_again,
    start_with_streams,
)
from tests.conformance.sdk import connect, connect_patiently, eventually, on_asyncio
from tests.conformance.server_process import ServerProcess
from tests.conformance.typescript_client import Event, run, running

pytestmark = [pytest.mark.conformance, pytest.mark.slow, pytest.mark.usefixtures("installed")]


@pytest.fixture(scope="module")
def installed() -> None:
    typescript_client.install()


@pytest.fixture
def place(server: ServerProcess, basin: str, stream: str) -> dict[str, str]:
    """Where a scenario finds the fresh stream."""
    return {"url": server.url, "basin": basin, "stream": stream}


def told(event: Event) -> tuple[str, int, str]:
    """What an error says to a program."""
    return event["type"], event["status"], event.get("code", "")


# --- basins and streams -------------------------------------------------------------------------


def test_basins_are_made_configured_listed_and_deleted(server: ServerProcess, basin: str) -> None:
    seen = run("basins", url=server.url, basin=basin)
    name = f"{basin}-made"
    assert seen["created"] == {"name": name, "dated": True}
    assert told(seen["again"]) == ("S2Error", 409, "resource_already_exists")
    assert seen["config"]["createStreamOnAppend"] is True
    assert seen["config"]["defaultStreamConfig"]["retentionPolicy"] == {"ageSecs": 3600}
    assert seen["config"]["defaultStreamConfig"]["timestamping"]["mode"] == "arrival"
    assert seen["ensured"]["results"] == ["noop", "updated"]
    assert seen["reconfigured"]["createStreamOnRead"] is True
    assert seen["listed"] == {"names": [name], "hasMore": False}
    assert told(seen["missing"]) == ("S2Error", 404, "basin_not_found")


def test_streams_are_made_configured_listed_and_deleted(server: ServerProcess, basin: str) -> None:
    seen = run("streams", url=server.url, basin=basin)
    assert told(seen["again"]) == ("S2Error", 409, "resource_already_exists")
    assert seen["listed"]["names"] == ["a/b", "c d", "x1", "x2", "x3", "é"]
    assert seen["page"] == {"names": ["x2"], "hasMore": True}
    assert seen["ensured"]["results"] == ["created", "noop", "updated"]
    assert seen["config"]["deleteOnEmpty"] == {"minAgeSecs": 60}
    assert seen["config"]["timestamping"]["mode"] == "client-require"
    assert told(seen["missing"]) == ("S2Error", 404, "stream_not_found")


def test_a_stream_is_made_on_first_use_with_the_config_that_came_with_it(
    server: ServerProcess, basin: str
) -> None:
    seen = run("automatic", url=server.url, basin=basin)
    assert told(seen["missing"]) == ("S2Error", 404, "stream_not_found")
    assert seen["ages"] == {"unary": 77, "session": 77, "read-s2s": 77, "read-fetch": 77}


# --- single requests ----------------------------------------------------------------------------


def test_what_is_appended_is_read_back(place: dict[str, str]) -> None:
    seen = run("unary", **place)
    assert seen["acked"] == {"start": [0, 5], "end": 3, "tail": 3}
    plain, greeting, empty = seen["strings"]["records"]
    assert plain == {"seqNum": 0, "timestamp": 5, "body": "plain", "headers": []}
    assert (greeting["body"], greeting["timestamp"]) == ("grüße 🌍", 6)
    assert greeting["headers"] == [["k", "v"], ["k", ""]]
    assert empty["body"] == ""
    binary, mixed = seen["bytes"]["records"][3:]
    assert (binary["body"], binary["headers"]) == ("00ff80", [["ff", "00"]])
    assert mixed["body"] == b"mixed".hex()
    assert seen["places"] == {"last": "mixed", "from": 1}
    assert seen["tail"]["seqNum"] == 5
    assert (seen["large"]["end"], seen["large read"]["size"]) == (6, 2**20 - 8)


def test_conditions_fences_and_trims_mean_what_they_say(place: dict[str, str]) -> None:
    seen = run("conditions", **place)
    for name in ("mismatch", "binary mismatch"):
        assert (seen[name]["type"], seen[name]["expected"]) == ("SeqNumMismatchError", 2)
    assert seen["fenced"]["type"] == "FencingTokenMismatchError"
    assert seen["fenced"]["expected"] == "owner"
    fence, data, trim = seen["commands"]["records"]
    assert (fence["headers"], fence["body"]) == ([["", b"fence".hex()]], b"owner".hex())
    assert (trim["headers"], trim["body"]) == ([["", b"trim".hex()]], f"{2:016x}")
    assert [each["seqNum"] for each in seen["data"]["records"]] == [data["seqNum"]] == [3]


def test_a_read_where_nothing_is_yet_is_told_the_tail(place: dict[str, str]) -> None:
    seen = run("unwritten", **place)
    tail = seen["tail"]["position"]
    names = ("unary at 2", "unary at 3", "clamped", "s2s past the tail", "fetch past the tail")
    for name in names:
        assert (seen[name]["type"], seen[name]["status"]) == ("RangeNotSatisfiableError", 416)
        assert seen[name]["tail"] == tail
    assert seen["waited"] == {"bodies": ["c"], "same": True}
    assert seen["s2s past the tail"]["records"] == seen["fetch past the tail"]["records"] == 0
    for name in ("missing", "missing session"):
        assert told(seen[name]) == ("S2Error", 404, "stream_not_found")


@pytest.mark.parametrize("cipher", ["aegis-256", "aes-256-gcm"])
def test_records_of_a_stream_with_a_cipher_take_the_key(
    server: ServerProcess, http: httpx.Client, cipher: str
) -> None:
    basin = new_basin_name()
    created = http.post("/v1/basins", json={"basin": basin, "config": {"stream_cipher": cipher}})
    assert created.status_code == 201
    http.headers["s2-basin"] = basin
    assert http.post("/v1/streams", json={"stream": "s"}).status_code == 201
    seen = run("encrypted", url=server.url, basin=basin)
    assert seen["listed"]["cipher"] == cipher
    records = seen["read"]["records"]
    expected = [b"secret".hex(), "00ff", b"more".hex()]
    assert [each["body"] for each in records] == expected
    assert records[0]["headers"] == [[b"k".hex(), b"v".hex()]]
    assert seen["session"]["records"] == records
    for name in ("wrong", "wrong session"):
        assert told(seen[name]) == ("S2Error", 400, "decryption_failed")
    assert told(seen["none"]) == ("S2Error", 400, "bad_header")
    assert cipher in seen["none"]["message"]


# --- sessions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transport", "compression"), [("s2s", "none"), ("s2s", "gzip"), ("fetch", "none")]
)
def test_a_session_appends_in_the_order_of_its_inputs(
    place: dict[str, str], transport: str, compression: str
) -> None:
    count = 40
    seen = run("appending", count=count, transport=transport, compression=compression, **place)
    expected = [f"{i}/{j}" for i in range(count) for j in range(1 + i % 3)]
    assert seen["read"]["bodies"] == expected
    ranges = seen["acked"]["ranges"]
    assert [end - start for start, end in ranges] == [1 + i % 3 for i in range(count)]
    assert [start for start, _ in ranges] == [0, *[end for _, end in ranges[:-1]]]
    assert seen["acked"]["last"] == len(expected)


def test_a_session_carries_more_than_fits_into_any_window(place: dict[str, str]) -> None:
    assert run("large", **place)["read"] == {"count": 14, "same": True}


def test_a_failed_condition_ends_the_session_and_nothing_after_it_counts(
    place: dict[str, str],
) -> None:
    seen = run("refused", **place)
    assert seen["first"]["end"] == 1
    for name in ("second", "third", "close"):
        assert (seen[name]["type"], seen[name]["expected"]) == ("SeqNumMismatchError", 1)
    assert seen["tail"]["seqNum"] == 1


def test_a_producer_batches_records_and_tells_each_its_number(place: dict[str, str]) -> None:
    seen = run("producing", **place)
    assert seen["acked"]["seqNums"] == list(range(100))
    assert seen["read"]["bodies"] == [str(i) for i in range(100)]


@pytest.mark.parametrize("transport", ["s2s", "fetch"])
def test_a_session_catches_up_and_then_follows(place: dict[str, str], transport: str) -> None:
    seen = run("following", transport=transport, **place)
    assert seen["caught up"]["bodies"] == ["a", "b"]
    assert (seen["caught up"]["tail"][0], seen["caught up"]["is"]) == (2, True)
    live = seen["live"]["records"]
    assert [each["body"] for each in live] == ["c", "d"]
    assert [live[0]["seqNum"], live[0]["timestamp"]] == seen["live"]["start"]
    assert seen["after"] == {"next": 4, "tail": 4}
    assert seen["cancelled"]["tail"] == 4
    assert seen["bounded"]["count"] == 3


def test_sessions_go_on_behind_the_clients_goodbye(place: dict[str, str]) -> None:
    seen = run("goodbye", **place)
    assert seen["before"]["bodies"] == ["before"]
    assert seen["behind"]["bodies"] == ["behind", "other"]
    assert seen["read"]["bodies"] == ["before", "behind", "other"]


def test_sessions_that_are_advised_to_reconnect_lose_and_repeat_nothing(
    place: dict[str, str],
) -> None:
    done = run("advised", count=200, **place)["done"]
    expected = [[i, str(i)] for i in range(200)]
    assert done["acked"] == done["read"] == expected
    # Both sessions have left the first connection, with one GOAWAY, and share the second.
    assert (done["connections"], done["goaways"]) == (2, 1)


# --- a server that goes away --------------------------------------------------------------------


def numbered(pairs: list[list[int | str]]) -> Numbered:
    """Pairs as JSON has them."""
    return [(int(seq_num), str(body)) for seq_num, body in pairs]


def check(done: Event, found: Numbered) -> None:
    """Check a scenario whose sessions were interrupted."""
    for read in done["read"]:
        assert numbered(read) == found
    check_interrupted(found, numbered(done["acked"]), done["sent"])


def test_the_client_goes_on_when_the_server_is_killed_and_comes_back(
    start_server: StartServer, tmp_path: Path
) -> None:
    names = ("sessions", "once", "unary")
    server = start_with_streams(start_server, tmp_path, *names)
    at = {name: {"url": server.url, "basin": BASIN, "stream": name} for name in names}
    with (
        running("interrupted", enough=100, **at["sessions"]) as sessions,
        running("exactlyOnce", count=400, enough=150, **at["once"]) as once,
        running("unaryThroughout", **at["unary"]) as unary,
    ):
        for scenario in (sessions, once, unary):
            scenario.until("under way")
        server.kill()
        unary.go_on()
        server = start_again(start_server, server, tmp_path)
        sessions.go_on()
        check(sessions.until("done"), contents_now(server, "sessions"))
        once.until("done")
        assert contents_now(server, "once") == [(i, str(i)) for i in range(400)]
        done = unary.until("done")
        assert (done["end"], done["bodies"]) == (2, ["before", "after"])


@on_asyncio
async def test_sessions_of_both_clients_go_on_after_a_shutdown_and_a_restart(
    start_server: StartServer, tmp_path: Path
) -> None:
    # Both at once: the server waits for sessions as long as it may, which is ten seconds.
    server = start_with_streams(start_server, tmp_path, "ts", "py")
    place = {"url": server.url, "basin": BASIN, "stream": "ts"}
    async with connect_patiently(server) as s2, asyncio.TaskGroup() as tasks:
        python = PythonSessions(s2[BASIN]["py"], enough=100)
        tasks.create_task(python.run())
        await python.under_way.wait()
        with running("interrupted", enough=100, **place) as scenario:
            await asyncio.to_thread(scenario.until, "under way")
            server.signal(signal.SIGTERM)
            enough = len(python.acked) + 100  # it serves sessions to the last

            async def served() -> bool:
                return len(python.acked) > enough

            await eventually(served)
            python.hold()
            assert await asyncio.to_thread(server.wait) == 0
            server = await asyncio.to_thread(start_again, start_server, server, tmp_path)
            python.stop()
            scenario.go_on()
            done = await asyncio.to_thread(scenario.until, "done")
    async with connect(server) as s2:
        python.check(await contents(s2, "py"))
        check(done, await contents(s2, "ts"))
