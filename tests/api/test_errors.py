import json
import logging

import pytest

from s2lite.api.errors import (
    BadRequest,
    ErrorCode,
    MethodNotAllowed,
    NoSuchRoute,
    UnsupportedContentEncoding,
    blamed_on,
    error_response,
)
from s2lite.model import errors
from s2lite.model.positions import StreamPosition


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BadRequest(ErrorCode.BAD_HEADER, "no"), 400, "bad_header"),
        (BadRequest(ErrorCode.BAD_PROTO, "no"), 400, "bad_proto"),
        (errors.JsonError("no"), 400, "bad_json"),
        (errors.FrameError("no"), 400, "bad_frame"),
        (errors.InvalidName("basin name", "no"), 400, "bad_json"),
        (errors.InvalidInput("no"), 422, "invalid"),
        (errors.NotImplementedYet("it"), 501, "not_implemented"),
        (errors.BasinNotFound("b"), 404, "basin_not_found"),
        (errors.StreamNotFound("b", "s"), 404, "stream_not_found"),
        (errors.BasinExists("b"), 409, "resource_already_exists"),
        (errors.StreamExists("b", "s"), 409, "resource_already_exists"),
        (errors.BasinDeletionPending("b"), 409, "basin_deletion_pending"),
        (errors.StreamDeletionPending("b", "s"), 409, "stream_deletion_pending"),
        (errors.StorageFailed(), 500, "storage"),
        (errors.WriterFenced(), 500, "storage"),
        (errors.CorruptObject("k", "no"), 500, "storage"),
        (errors.ProtobufError("stored"), 500, "storage"),
        (errors.SealedFrameError("stored"), 500, "storage"),
        (errors.EncryptionKeyMissing("aegis-256"), 400, "bad_header"),
        (errors.DecryptionFailed(), 400, "decryption_failed"),
        (errors.CipherExhausted("no"), 422, "invalid"),
        (errors.StreamUnavailable(), 503, "unavailable"),
        (errors.OutcomeUnknown(), 500, "other"),
    ],
)
def test_an_error_has_a_status_and_a_code(error: Exception, status: int, code: str) -> None:
    response = error_response(error)
    assert response.status == status
    assert dict(response.headers) == {b"content-type": b"application/json"}
    assert json.loads(response.body) == {"code": code, "message": str(error)}
    assert str(error)


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (errors.SeqNumMismatch(7), 412, b'{"seq_num_mismatch":7}'),
        (errors.FencingTokenMismatch("t"), 412, b'{"fencing_token_mismatch":"t"}'),
        (
            errors.ReadPastTail(StreamPosition(3, 9)),
            416,
            b'{"tail":{"seq_num":3,"timestamp":9}}',
        ),
    ],
)
def test_some_errors_tell_the_state_instead(error: Exception, status: int, body: bytes) -> None:
    response = error_response(error)
    assert (response.status, response.body) == (status, body)


def test_errors_of_routing_have_no_body() -> None:
    assert error_response(NoSuchRoute()).body == b""
    response = error_response(MethodNotAllowed({"PATCH", "PUT", "HEAD", "GET"}))
    assert (response.status, response.headers) == (405, ((b"allow", b"GET,HEAD,PUT,PATCH"),))
    response = error_response(UnsupportedContentEncoding())
    assert (response.status, response.headers) == (415, ((b"accept-encoding", b"zstd,gzip"),))


def test_an_error_nobody_foresaw_is_logged_and_tells_the_client_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "s2lite.api")
    response = error_response(RuntimeError("secret"))
    assert (response.status, json.loads(response.body)["code"]) == (500, "other")
    assert b"secret" not in response.body
    (record,) = caplog.records
    assert record.exc_info


def test_a_bad_value_is_blamed_on_where_it_came_from() -> None:
    with pytest.raises(BadRequest) as caught, blamed_on(ErrorCode.BAD_QUERY):
        raise errors.InvalidName("prefix", "is wrong")
    assert (caught.value.code, str(caught.value)) == (ErrorCode.BAD_QUERY, "prefix is wrong")
