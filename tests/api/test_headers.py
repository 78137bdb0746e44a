import pytest

from s2lite.api.asgi import Event, Request
from s2lite.api.errors import BadRequest, ErrorCode
from s2lite.api.headers import (
    basin_header,
    basin_in_path,
    check_encryption_key_header,
    last_event_id_header,
    request_token_header,
    stream_config_header,
    stream_in_path,
)
from s2lite.codec.sse import BatchEventId
from s2lite.model.config import RetentionPolicy, StreamConfigLayer, TimestampingMode
from s2lite.model.limits import U64_MAX


async def no_body() -> Event:
    raise AssertionError("the body is not read")


def request(*headers: tuple[bytes, bytes]) -> Request:
    return Request({"headers": headers}, no_body)


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("plain", "plain"),
        ("a%2Fb%20c", "a/b c"),
        ("a+b", "a+b"),
        ("%E6%97%A5", "日"),
        ("\xe6\x97\xa5", "日"),
        ("%252F", "%2F"),
        ("100%", "100%"),
        ("%zz", "%zz"),
        ("...", "..."),
        ("a" * 512, "a" * 512),
    ],
)
def test_a_path_segment_is_decoded_once(segment: str, name: str) -> None:
    assert stream_in_path(segment) == name


@pytest.mark.parametrize("segment", ["%FF", "%2E%2E", "..", ".", "%2e", "a%00b", "a" * 513])
def test_a_segment_that_is_no_stream_name_is_a_bad_path(segment: str) -> None:
    with pytest.raises(BadRequest) as caught:
        stream_in_path(segment)
    assert caught.value.code is ErrorCode.BAD_PATH


def test_a_segment_that_is_no_basin_name_is_a_bad_path() -> None:
    assert basin_in_path("my%2Dbasin-1") == "my-basin-1"
    with pytest.raises(BadRequest) as caught:
        basin_in_path("Bad_Name")
    assert caught.value.code is ErrorCode.BAD_PATH


@pytest.mark.parametrize(
    "value", [None, b"", b"Abc", b"short", b" test-basin", b"b\xc3\xa9b\xc3\xa9"]
)
def test_a_basin_header_that_is_missing_or_no_name_is_a_bad_header(value: bytes | None) -> None:
    headers = [] if value is None else [(b"s2-basin", value)]
    with pytest.raises(BadRequest) as caught:
        basin_header(request(*headers))
    assert caught.value.code is ErrorCode.BAD_HEADER


def test_only_the_first_basin_header_counts() -> None:
    twice = request((b"s2-basin", b"test-basin"), (b"s2-basin", b"Bad"))
    assert basin_header(twice) == "test-basin"


@pytest.mark.parametrize(("value", "token"), [(b"", ""), (b"t 1", "t 1"), (b"x" * 36, "x" * 36)])
def test_the_empty_request_token_is_a_token(value: bytes, token: str) -> None:
    assert request_token_header(request((b"s2-request-token", value))) == token
    assert request_token_header(request()) is None


@pytest.mark.parametrize("value", [b"x" * 37, b"\xc3\xa9", b"\t"])
def test_a_request_token_is_at_most_36_printable_characters(value: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        request_token_header(request((b"s2-request-token", value)))
    assert caught.value.code is ErrorCode.BAD_HEADER


@pytest.mark.parametrize("value", [b"!", b"!!!!", b" abcd ", b"A" * 44])
def test_only_the_shape_of_a_key_is_checked(value: bytes) -> None:
    check_encryption_key_header(request((b"s2-encryption-key", value)))


@pytest.mark.parametrize("value", [b"", b"  ", b"A" * 45, b"\xc3\xa9"])
def test_a_key_of_another_shape_is_a_bad_header(value: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        check_encryption_key_header(request((b"s2-encryption-key", value)))
    assert caught.value.code is ErrorCode.BAD_HEADER


@pytest.mark.parametrize(
    ("value", "layer"),
    [
        (b"{}", StreamConfigLayer()),
        (b'{"timestamping":{}}', StreamConfigLayer()),
        (
            b'{ "retention_policy" : { "age" : 60 } }',
            StreamConfigLayer(retention_policy=RetentionPolicy(60)),
        ),
        (
            b'{"timestamping":{"mode":"arrival"},"unknown":1}',
            StreamConfigLayer(timestamping_mode=TimestampingMode.ARRIVAL),
        ),
    ],
)
def test_a_stream_config_is_a_json_object(value: bytes, layer: StreamConfigLayer) -> None:
    assert stream_config_header(request((b"s2-stream-config", value))) == layer
    assert stream_config_header(request()) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"[]",
        b'{"retention_policy":{"age":0}}',
        b'{"timestamping":{"mode":"x"}}',
        b'{"storage_class":"bogus"}',
        b"\xff",
    ],
)
def test_a_stream_config_that_create_would_refuse_is_a_bad_header(value: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        stream_config_header(request((b"s2-stream-config", value)))
    assert caught.value.code is ErrorCode.BAD_HEADER


@pytest.mark.parametrize(
    ("value", "point"),
    [
        (b"0,1,10", BatchEventId(0, 1, 10)),
        (b"18446744073709551615,0,0", BatchEventId(U64_MAX, 0, 0)),
    ],
)
def test_an_event_id_is_three_numbers(value: bytes, point: BatchEventId) -> None:
    assert last_event_id_header(request((b"last-event-id", value))) == point
    assert last_event_id_header(request()) is None


@pytest.mark.parametrize("value", [b"", b"1", b"1,2", b"a,b,c", b"1,2,3,4", b"1, 2,3", b"1,2,-3"])
def test_any_other_event_id_is_a_bad_header(value: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        last_event_id_header(request((b"last-event-id", value)))
    assert caught.value.code is ErrorCode.BAD_HEADER
