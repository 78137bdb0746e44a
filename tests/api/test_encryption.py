"""Streams with a cipher: the key's header, what is answered about it, and that nothing shows it."""

import base64
import json
import logging
from collections.abc import AsyncIterator

import pytest

from s2lite.codec import s2_pb2
from tests.api.frames import append_frame, append_message, command_message, frame, parse_frames
from tests.fakes.asgi_client import AsgiClient, Reply

RECORDS = "/v1/streams/s/records"
BASIN = "/v1/basins/test-basin"
SECRET = b"a key of thirty-two bytes, quite"
KEY = base64.b64encode(SECRET).decode()
OTHER_KEY = base64.b64encode(bytes(range(32))).decode()
CIPHERS = ("aegis-256", "aes-256-gcm")
JSON, PROTOBUF = "application/json", "application/protobuf"
S2S, SSE = {"content_type": "s2s/proto"}, {"accept": "text/event-stream"}
FAILED = (400, "decryption_failed")

EVERY_WAY = [
    ("POST", {"content_type": JSON}),
    ("POST", {"content_type": "s2s/proto"}),
    ("GET", {}),
    ("GET", {"accept": PROTOBUF}),
    ("GET", SSE),
    ("GET", S2S),
]


@pytest.fixture(params=CIPHERS)
async def encrypted(
    request: pytest.FixtureRequest, basin: AsgiClient, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[AsgiClient]:
    """A client of the stream `s` of a basin with a cipher; it names no key. No log shows one."""
    caplog.set_level(logging.DEBUG)
    await basin.request_json("PATCH", BASIN, {"stream_cipher": request.param})
    await basin.request_json("POST", "/v1/streams", {"stream": "s"})
    yield basin
    for shown in (KEY, OTHER_KEY, SECRET.decode()):
        assert shown not in caplog.text


@pytest.fixture
async def keyed(encrypted: AsgiClient) -> AsgiClient:
    """The same with a key."""
    return with_key(encrypted)


def with_key(client: AsgiClient, key: str = KEY) -> AsgiClient:
    return AsgiClient(client.app, {**client.headers, "s2-encryption-key": key})


async def append(client: AsgiClient, *bodies: str, path: str = RECORDS) -> Reply:
    records = [{"headers": [["name", "value"]], "body": body} for body in bodies]
    return await client.request_json("POST", path, {"records": records})


async def fence(client: AsgiClient, token: str) -> Reply:
    record = {"headers": [["", "fence"]], "body": token}
    return await client.request_json("POST", RECORDS, {"records": [record]})


async def read(client: AsgiClient, query: str = "seq_num=0", **headers: str) -> Reply:
    return await client.request("GET", f"{RECORDS}?{query}", **headers)


def bodies_of(reply: Reply) -> list[str]:
    assert reply.status == 200, reply.body
    return [record.get("body", "") for record in reply.json()["records"]]


# --- with the key -----------------------------------------------------------------------------


async def test_unary_requests(keyed: AsgiClient) -> None:
    assert (await append(keyed, "a", "b")).json()["end"]["seq_num"] == 2
    message = append_message(b"c")
    assert (await keyed.request("POST", RECORDS, message, content_type=PROTOBUF)).status == 200
    reply = await read(keyed)
    assert bodies_of(reply) == ["a", "b", "c"]
    assert reply.json()["records"][0]["headers"] == [["name", "value"]]
    batch = s2_pb2.ReadBatch.FromString((await read(keyed, accept=PROTOBUF)).body)
    assert [record.body for record in batch.records] == [b"a", b"b", b"c"]


async def test_sessions(keyed: AsgiClient) -> None:
    inputs = append_frame(b"a", b"b") + frame(command_message(b"fence", b"t")) + append_frame(b"c")
    acks = await keyed.request("POST", RECORDS, inputs, **S2S)
    assert [each.ack for each in parse_frames(acks.body)] == [(0, 2), (2, 3), (3, 4)]
    (found,) = parse_frames((await read(keyed, "seq_num=0&count=4", **S2S)).body)
    assert [record.body for record in found.batch.records] == [b"a", b"b", b"t", b"c"]
    events = (await read(keyed, "seq_num=0&count=4", **SSE)).body.decode().split("\n\n")
    assert events[0].startswith("event: batch\n")
    assert '"body":"c"' in events[0]
    assert events[1] == "data: [DONE]"


async def test_following(keyed: AsgiClient) -> None:
    async with keyed.exchange("GET", RECORDS, **S2S) as exchange:
        await exchange.end()
        assert (await exchange.head())[0] == 200
        (heartbeat,) = parse_frames(await exchange.body())
        assert not heartbeat.batch.records
        await append(keyed, "a")
        await fence(keyed, "t")
        for expected in (b"a", b"t"):
            (live,) = parse_frames(await exchange.body())
            assert [record.body for record in live.batch.records] == [expected]


async def test_a_fence_may_be_the_very_first_record(keyed: AsgiClient) -> None:
    assert (await fence(keyed, "tok")).status == 200
    stale = {"records": [{}], "fencing_token": "other"}
    refused = await keyed.request_json("POST", RECORDS, stale)
    assert (refused.status, refused.json()) == (412, {"fencing_token_mismatch": "tok"})
    mismatched = await keyed.request_json("POST", RECORDS, {"records": [{}], "match_seq_num": 0})
    assert (mismatched.status, mismatched.json()) == (412, {"seq_num_mismatch": 1})


async def test_a_basin_that_changes_its_cipher_leaves_its_streams_alone(keyed: AsgiClient) -> None:
    await append(keyed, "a")
    for cipher in (*CIPHERS, None):
        await keyed.request_json("PATCH", BASIN, {"stream_cipher": cipher})
        assert (await append(keyed, "a")).status == 200
        name = f"with-{cipher}"
        await keyed.request_json("POST", "/v1/streams", {"stream": name})
        assert (await append(keyed, "a", path=f"/v1/streams/{name}/records")).status == 200
    assert bodies_of(await read(keyed)) == ["a"] * 4


@pytest.mark.parametrize("key", [f"  {KEY} ", f"\t{KEY}"])
async def test_blanks_around_a_key_do_not_matter(encrypted: AsgiClient, key: str) -> None:
    assert (await append(with_key(encrypted, key), "a")).status == 200
    assert bodies_of(await read(with_key(encrypted))) == ["a"]


# --- without it -------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "headers"), EVERY_WAY)
async def test_no_key_is_told_with_the_ciphers_name(
    encrypted: AsgiClient, method: str, headers: dict[str, str]
) -> None:
    cipher = (await encrypted.request("GET", "/v1/streams")).json()["streams"][0]["cipher"]
    reply = await encrypted.request(method, RECORDS, b'{"records":[{}]}', **headers)
    assert (reply.status, reply.code) == (400, "bad_header")
    assert "missing encryption key" in reply.json()["message"]
    assert cipher in reply.json()["message"]


@pytest.mark.parametrize(("method", "headers"), EVERY_WAY)
@pytest.mark.parametrize(
    "key",
    [
        "!!!!",
        "AAAA",
        KEY[:-1],
        base64.b64encode(bytes(33)).decode(),
        base64.b64encode(bytes(4)).decode(),
        "A" * 44,
        "_" * 43 + "=",
    ],
)
async def test_what_is_no_key_is_a_bad_header_and_is_not_quoted(
    encrypted: AsgiClient, method: str, headers: dict[str, str], key: str
) -> None:
    client = with_key(encrypted, key)
    reply = await client.request(method, RECORDS, b'{"records":[{}]}', **headers)
    assert (reply.status, reply.code) == (400, "bad_header")
    assert key not in reply.json()["message"]


async def test_the_tail_and_deletion_need_no_key(encrypted: AsgiClient) -> None:
    await append(with_key(encrypted), "a")
    for client in (encrypted, with_key(encrypted, ""), with_key(encrypted, "A" * 45)):
        reply = await client.request("GET", RECORDS + "/tail")
        assert reply.json()["tail"]["seq_num"] == 1
    assert (await encrypted.request("DELETE", "/v1/streams/s")).status == 202


async def test_an_append_without_a_key_still_creates_its_stream(encrypted: AsgiClient) -> None:
    await encrypted.request_json("PATCH", BASIN, {"create_stream_on_append": True})
    reply = await append(encrypted, "a", path="/v1/streams/made/records")
    assert (reply.status, reply.code) == (400, "bad_header")
    listed = (await encrypted.request("GET", "/v1/streams?prefix=made")).json()["streams"]
    assert [info["cipher"] for info in listed] == [
        info["cipher"]
        for info in (await encrypted.request("GET", "/v1/streams?prefix=s")).json()["streams"]
    ]


async def test_a_body_that_is_wrong_goes_before_a_key_that_is_missing(
    encrypted: AsgiClient,
) -> None:
    reply = await encrypted.request_json("POST", RECORDS, {"records": []})
    assert (reply.status, reply.code) == (422, "invalid")
    past = await with_key(encrypted, "!!!!").request("GET", RECORDS + "?seq_num=9")
    assert (past.status, past.code) == (400, "bad_header")


@pytest.mark.parametrize("key", ["!!!!", KEY, " x "])
async def test_a_key_is_ignored_where_there_is_no_cipher(client: AsgiClient, key: str) -> None:
    assert (await append(with_key(client, key), "a")).status == 200
    assert bodies_of(await read(client)) == bodies_of(await read(with_key(client, key))) == ["a"]


@pytest.mark.parametrize("key", ["", "  ", "A" * 45, "\xe9"])
async def test_a_key_of_another_shape_is_a_bad_header_everywhere(
    client: AsgiClient, key: str
) -> None:
    for reply in (await append(with_key(client, key), "a"), await read(with_key(client, key))):
        assert (reply.status, reply.code) == (400, "bad_header")


# --- with another key -------------------------------------------------------------------------


async def test_unary_reads_with_another_key_fail_as_a_whole(keyed: AsgiClient) -> None:
    await append(keyed, "a")
    await append(with_key(keyed, OTHER_KEY), "b")
    for reply in (await read(keyed), await read(with_key(keyed, OTHER_KEY), accept=PROTOBUF)):
        assert (reply.status, reply.code) == FAILED
        assert "record decryption failed" in reply.json()["message"]
    assert bodies_of(await read(keyed, "seq_num=0&count=1")) == ["a"]
    assert bodies_of(await read(with_key(keyed, OTHER_KEY), "seq_num=1")) == ["b"]


async def test_sessions_with_another_key_end_behind_what_it_opens(keyed: AsgiClient) -> None:
    inputs = append_frame(*[b"a"] * 1000)
    assert (await keyed.request("POST", RECORDS, inputs, **S2S)).status == 200
    await append(with_key(keyed, OTHER_KEY), "b")
    reply = await read(keyed, "seq_num=0", **S2S)
    batch, terminal = parse_frames(reply.body)
    assert len(batch.batch.records) == 1000
    assert (terminal.terminal[0], terminal.terminal[1]["code"]) == FAILED
    reply = await read(keyed, "seq_num=0", **SSE)
    first, error, rest = reply.body.decode().split("\n\n")
    assert first.startswith("event: batch\n")
    name, data = error.split("\n")
    assert (name, json.loads(data.removeprefix("data: "))["code"]) == ("event: error", FAILED[1])
    assert rest == ""


async def test_commands_are_read_with_any_key(keyed: AsgiClient) -> None:
    await fence(keyed, "tok")
    await fence(keyed, "")
    assert bodies_of(await read(with_key(keyed, OTHER_KEY))) == ["tok", ""]


async def test_limits_count_plaintext(keyed: AsgiClient) -> None:
    for _ in range(3):
        await append(keyed, "x" * 100)
    metered = 8 + 2 + 9 + 100
    assert len(bodies_of(await read(keyed, f"seq_num=0&bytes={2 * metered}"))) == 2
    assert len(bodies_of(await read(keyed, f"seq_num=0&bytes={2 * metered - 1}"))) == 1
