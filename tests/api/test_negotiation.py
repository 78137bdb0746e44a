import pytest

from s2lite.api.errors import BadRequest, ErrorCode
from s2lite.api.negotiation import (
    AppendMode,
    MediaClass,
    ReadMode,
    append_mode,
    media_class,
    read_mode,
    record_format,
    wants_protobuf,
)
from s2lite.codec.json import RecordFormat


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (b"", None),
        (b"application/json", MediaClass.JSON),
        (b"application/json; charset=utf-8", MediaClass.JSON),
        (b"Application/JSON", MediaClass.JSON),
        (b"application/vnd.x+json", MediaClass.JSON),
        (b"application/protobuf", MediaClass.PROTOBUF),
        (b"application/x-protobuf", MediaClass.PROTOBUF),
        (b"S2S/Proto", MediaClass.S2S),
        (b"text/event-stream", MediaClass.SSE),
        (b"text/event-stream;q=0.1, application/json", MediaClass.SSE),
        (b"text/html, application/protobuf", None),
        (b"not/a/mime, application/protobuf", None),
        (b"text/vnd.x+json", None),
        (b"*/*", None),
        (b"json", None),
    ],
)
def test_only_the_first_media_type_counts(value: bytes | None, expected: MediaClass | None) -> None:
    assert media_class(value) is expected


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/json", AppendMode.JSON),
        (b"application/x-protobuf", AppendMode.PROTOBUF),
        (b"s2s/proto", AppendMode.SESSION),
    ],
)
def test_an_append_speaks_as_its_content_type_says(
    content_type: bytes, expected: AppendMode
) -> None:
    assert append_mode(content_type) is expected


@pytest.mark.parametrize("content_type", [None, b"text/plain", b"text/event-stream", b"junk"])
def test_an_append_of_another_content_type_is_bad_json(content_type: bytes | None) -> None:
    with pytest.raises(BadRequest) as caught:
        append_mode(content_type)
    assert caught.value.code is ErrorCode.BAD_JSON


@pytest.mark.parametrize(
    ("content_type", "accept", "expected"),
    [
        (None, None, ReadMode.JSON),
        (None, b"*/*", ReadMode.JSON),
        (None, b"application/vnd.x+json", ReadMode.JSON),
        (None, b"application/x-protobuf", ReadMode.PROTOBUF),
        (None, b"text/event-stream", ReadMode.SSE),
        (None, b"s2s/proto", ReadMode.JSON),
        (b"s2s/proto", None, ReadMode.SESSION),
        (b"s2s/proto", b"text/event-stream", ReadMode.SESSION),
        (b"application/protobuf", b"application/json", ReadMode.JSON),
    ],
)
def test_a_read_answers_as_the_session_type_or_else_accept_says(
    content_type: bytes | None, accept: bytes | None, expected: ReadMode
) -> None:
    assert read_mode(content_type, accept) is expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [(None, False), (b"application/protobuf", True), (b"text/html, application/protobuf", False)],
)
def test_an_ack_is_protobuf_only_if_that_comes_first(accept: bytes | None, expected: bool) -> None:
    assert wants_protobuf(accept) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, RecordFormat.RAW),
        (b"raw", RecordFormat.RAW),
        (b"json", RecordFormat.RAW),
        (b" base64 ", RecordFormat.BASE64),
        (b"json-binsafe", RecordFormat.BASE64),
    ],
)
def test_the_record_format_has_two_names_each(value: bytes | None, expected: RecordFormat) -> None:
    assert record_format(value) is expected


@pytest.mark.parametrize("value", [b"", b"BASE64", b"bogus"])
def test_no_other_record_format_is_known(value: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        record_format(value)
    assert caught.value.code is ErrorCode.BAD_HEADER
