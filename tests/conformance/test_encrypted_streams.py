"""Streams whose records are encrypted, as raw HTTP: what a key opens, and what needs none."""

import base64
import json

import httpx
import pytest

from tests.api.frames import parse_frames
from tests.conformance.cases import case
from tests.conformance.raw import (
    EVENTS,
    PROTOBUF,
    RECORDS,
    append,
    appended,
    batch_of,
    bodies_of,
    check_tail,
    command,
    create_stream,
    error_of,
    read,
    records_of,
    span,
    tail_of,
    trim_command,
)

pytestmark = [pytest.mark.conformance]

KEY = base64.b64encode(b"this is the key of 32 bytes here").decode()
OTHER_KEY = base64.b64encode(bytes(range(32))).decode()
SESSION = {"content-type": "s2s/proto"}

FORMATS = {"json": {}, "protobuf": PROTOBUF, "events": EVENTS, "session": SESSION}
every_format = pytest.mark.parametrize("headers", FORMATS.values(), ids=FORMATS)


def use_key(api: httpx.Client, key: str | None) -> None:
    """Send this key with every request from now on."""
    api.headers.pop("s2-encryption-key", None)
    if key is not None:
        api.headers["s2-encryption-key"] = key


def encrypt_new_streams(api: httpx.Client, basin: str, cipher: str | None) -> None:
    """Set the cipher of the basin."""
    assert api.patch(f"/v1/basins/{basin}", json={"stream_cipher": cipher}).status_code == 200


@pytest.fixture(params=["aegis-256", "aes-256-gcm"])
def cipher(request: pytest.FixtureRequest) -> str:
    """Every cipher there is."""
    name: str = request.param
    return name


@pytest.fixture
def secret(http: httpx.Client, basin: str, cipher: str) -> httpx.Client:
    """A client with a key, and the encrypted stream `s`."""
    encrypt_new_streams(http, basin, cipher)
    create_stream(http)
    use_key(http, KEY)
    return http


def cipher_of(api: httpx.Client, stream: str) -> str | None:
    """What the listing says of a stream."""
    listed = {each["name"]: each for each in api.get("/v1/streams").json()["streams"]}
    name: str | None = listed[stream].get("cipher")
    return name


@case(57)
def test_conditions_are_those_of_any_stream(secret: httpx.Client) -> None:
    appended(secret, command("fence", "tok"), "a", match_seq_num=0, fencing_token="")
    refused = append(secret, "b", match_seq_num=0)
    assert (refused.status_code, refused.content) == (412, b'{"seq_num_mismatch":2}')
    refused = append(secret, "b", match_seq_num=0, fencing_token="other")
    assert (refused.status_code, refused.content) == (412, b'{"fencing_token_mismatch":"tok"}')
    assert tail_of(secret) == 2


@case(131)
def test_another_key_in_the_middle_ends_a_session_of_events(secret: httpx.Client) -> None:
    with secret.stream("GET", f"{RECORDS}?wait=30", headers=EVENTS) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: ping"
        appended(secret, "mine")
        while (line := next(lines)) != "event: batch":
            assert not line.startswith("event: error")
        use_key(secret, OTHER_KEY)
        appended(secret, "theirs")
        rest = list(lines)
    assert rest[0] == "id: 0,1,12"
    end = rest.index("event: error")
    assert json.loads(rest[end + 1].removeprefix("data: "))["code"] == "decryption_failed"
    assert "data: [DONE]" not in rest
    assert not any("theirs" in line for line in rest)


@case(160)
def test_a_stream_that_an_append_creates_has_the_cipher_of_the_basin(
    http: httpx.Client, basin: str, cipher: str
) -> None:
    encrypt_new_streams(http, basin, cipher)
    flags = {"create_stream_on_append": True}
    assert http.patch(f"/v1/basins/{basin}", json=flags).status_code == 200
    status, code = error_of(append(http, "a"))
    assert (status, code) == (400, "bad_header")
    assert cipher_of(http, "s") == cipher  # it was created all the same
    use_key(http, KEY)
    assert span(appended(http, "a")) == (0, 1)


@case(163)
def test_deleting_needs_no_key(secret: httpx.Client) -> None:
    appended(secret, "a")
    use_key(secret, None)
    assert secret.delete("/v1/streams/s").status_code == 202
    status, code = error_of(check_tail(secret))
    assert (status, code) in ((409, "stream_deletion_pending"), (404, "stream_not_found"))


@case(166)
@every_format
def test_without_a_key_nothing_is_read_and_the_cipher_is_named(
    secret: httpx.Client, cipher: str, headers: dict[str, str]
) -> None:
    appended(secret, "a")
    use_key(secret, None)
    answer = secret.get(f"{RECORDS}?seq_num=0", headers=headers)
    assert error_of(answer) == (400, "bad_header")
    assert "missing encryption key" in answer.json()["message"]
    assert cipher in answer.json()["message"]


@case(166)
def test_without_a_key_nothing_is_appended_not_even_a_command(
    secret: httpx.Client, cipher: str
) -> None:
    use_key(secret, None)
    session = secret.post(RECORDS, content=b"", headers=SESSION)
    for answer in (append(secret, "a"), append(secret, command("fence", "t")), session):
        assert error_of(answer) == (400, "bad_header")
        assert cipher in answer.json()["message"]
    assert tail_of(secret) == 0


@case(167)
@every_format
def test_with_another_key_nothing_is_read(secret: httpx.Client, headers: dict[str, str]) -> None:
    appended(secret, command("fence", ""), "a")
    use_key(secret, OTHER_KEY)
    answer = secret.get(f"{RECORDS}?seq_num=0", headers=headers)
    if headers is SESSION:
        (frame,) = parse_frames(answer.content)
        status, body = frame.terminal
        assert (status, body["code"]) == (400, "decryption_failed")
    elif headers is EVENTS:
        assert answer.text.startswith("event: error\n")
    else:
        assert error_of(answer) == (400, "decryption_failed")
        assert "record decryption failed" in answer.json()["message"]
    # Commands are not encrypted.
    assert [each["headers"] for each in records_of(secret, "seq_num=0&count=1")] == [
        [["", "fence"]]
    ]


@case(168)
@pytest.mark.parametrize(
    "key",
    [
        base64.b64encode(bytes(33)).decode(),
        base64.b64encode(bytes(4)).decode(),
        "!!!!",
        KEY.rstrip("="),
        KEY[:-2] + "f=",  # not canonical: bits are set that no byte has
    ],
)
def test_what_is_no_key_is_refused(secret: httpx.Client, key: str) -> None:
    use_key(secret, key)
    for answer in (append(secret, "a"), read(secret), read(secret, **EVENTS)):
        assert error_of(answer) == (400, "bad_header")
        assert key not in answer.text
    assert tail_of(secret) == 0


@case(169)
def test_a_stream_that_is_not_encrypted_ignores_keys(api: httpx.Client) -> None:
    for number, key in enumerate([KEY, "!!!!", "x", "x" * 44]):
        use_key(api, key)
        assert span(appended(api, "a")) == (number, number + 1)
        assert len(records_of(api)) == number + 1


@case(169)
@pytest.mark.parametrize("key", ["x" * 45, ""], ids=["too long", "empty"])
def test_what_has_not_the_shape_of_a_key_is_refused_by_every_stream(
    api: httpx.Client, key: str
) -> None:
    use_key(api, key)
    for path in (RECORDS, "/v1/streams/missing/records"):
        assert error_of(append(api, "a", path=path)) == (400, "bad_header")
        assert error_of(api.get(path)) == (400, "bad_header")
    assert tail_of(api) == 0


@case(170)
def test_a_fence_may_be_the_first_record(secret: httpx.Client) -> None:
    assert span(appended(secret, command("fence", "tok"))) == (0, 1)
    appended(secret, "a", fencing_token="tok")
    assert append(secret, "b", fencing_token="").status_code == 412
    assert bodies_of(secret) == ["tok", "a"]
    appended(secret, trim_command(1))
    assert bodies_of(secret)[0] == "a"


@case(171)
def test_each_key_opens_what_was_appended_with_it(secret: httpx.Client) -> None:
    appended(secret, "mine")
    use_key(secret, OTHER_KEY)
    appended(secret, "theirs")
    assert bodies_of(secret, "seq_num=1") == ["theirs"]
    assert error_of(read(secret)) == (400, "decryption_failed")
    use_key(secret, KEY)
    assert bodies_of(secret, "seq_num=0&count=1") == ["mine"]
    assert error_of(read(secret)) == (400, "decryption_failed")


@case(172)
def test_the_tail_is_told_without_a_key(secret: httpx.Client) -> None:
    ack = appended(secret, "a", "b")
    use_key(secret, None)
    assert check_tail(secret).json() == {"tail": ack["end"]}


@case(173)
def test_a_stream_keeps_its_cipher(secret: httpx.Client, basin: str, cipher: str) -> None:
    appended(secret, "a")
    other = "aegis-256" if cipher == "aes-256-gcm" else "aes-256-gcm"
    for number, later in enumerate([other, None]):
        encrypt_new_streams(secret, basin, later)
        create_stream(secret, f"later-{number}")
        assert cipher_of(secret, f"later-{number}") == later
        assert cipher_of(secret, "s") == cipher
    appended(secret, "b")
    assert bodies_of(secret) == ["a", "b"]
    use_key(secret, None)
    assert error_of(read(secret)) == (400, "bad_header")


@case(175)
def test_limits_are_of_what_can_be_read(secret: httpx.Client) -> None:
    appended(secret, "a", "b", "c")  # 9 metered bytes each
    assert bodies_of(secret, "seq_num=0&bytes=18") == ["a", "b"]
    assert bodies_of(secret, "seq_num=0&bytes=17") == ["a"]
    assert batch_of(read(secret, "seq_num=0&bytes=8"))["records"] == []
    largest = "x" * (1024 * 1024 - 8)
    assert span(appended(secret, largest)) == (3, 4)
    assert error_of(append(secret, largest + "x")) == (422, "invalid")
    assert bodies_of(secret, "seq_num=3") == [largest]
    assert span(appended(secret, *["y"] * 1000)) == (4, 1004)
    events = read(secret, "seq_num=0&count=2", **EVENTS)
    assert "id: 1,2,18\n" in events.text
