"""How obstore's errors become the port's."""

import pytest
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from s2lite.model.errors import StorageError
from s2lite.storage.objects.object_store import (
    ObjectExists,
    ObjectNotFound,
    StoreRefused,
    StoreUnavailable,
    raised_as_ours,
    translated,
)

NO_RIGHTS = "Generic LocalFileSystem error: Unable to open file /x: Permission denied (os error 13)"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AlreadyExistsError("taken"), ObjectExists),
        (FileNotFoundError("gone"), ObjectNotFound),
        (PermissionDeniedError("no rights"), StoreRefused),
        (UnauthenticatedError("who are you"), StoreRefused),
        (NotSupportedError("no conditions"), StoreRefused),
        (NotImplementedError("put_opts when conditional put is disabled"), StoreRefused),
        (GenericError(NO_RIGHTS), StoreRefused),
        (GenericError("Connection refused (os error 111)"), StoreUnavailable),
        (PreconditionError("changed"), StoreUnavailable),
        (BaseError("whatever"), StoreUnavailable),
        (OSError("whatever"), StoreUnavailable),
    ],
)
def test_an_error_of_obstore_becomes_one_of_the_port(
    error: BaseError | OSError | NotImplementedError, kind: type[StorageError]
) -> None:
    with pytest.raises(StorageError) as caught, raised_as_ours("wal/1"):
        raise error
    ours = caught.value

    assert type(ours) is kind
    assert "`wal/1`" in str(ours)


ANSWERED = (
    "Generic S3 error: Error performing GET https://host/b/k in 3ms - Server returned non-2xx"
)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("503 Service Unavailable: ", "HTTP 503"),
        ("502 Bad Gateway: upstream\n is away", "HTTP 502: upstream is away"),
        ("500 Internal Server Error: <html>sorry</html>", "HTTP 500"),
        (
            '429 Too Many Requests: {"error": {"message": "slower", "errors": [{"reason": "x"}]}}',
            "HTTP 429 x: slower",
        ),
        ('400 Bad Request: {"error": "no object"}', 'HTTP 400: {"error": "no object"}'),
        (
            "500 Internal Server Error: <Error><Code>InternalError</Code>"
            "<Message>We are sorry</Message></Error>",
            "HTTP 500 InternalError: We are sorry",
        ),
        ("500 Internal Server Error: " + "x" * 400, "HTTP 500: " + "x" * 300 + "..."),
    ],
)
def test_of_an_answer_only_status_code_and_message_are_repeated(answer: str, reason: str) -> None:
    text = f"{ANSWERED} status code: {answer}\n\nDebug source:\nGeneric {{}}"

    ours = translated("wal/1", GenericError(text))

    assert isinstance(ours, StoreUnavailable)
    assert ours.reason == reason


def test_a_signature_in_a_url_is_not_repeated() -> None:
    text = "Error performing GET https://user:pw@host/c/k?sv=1&sig=abc in 3ms - HTTP error: reset"

    ours = translated("wal/1", GenericError(text))

    assert isinstance(ours, StoreUnavailable)
    assert ours.reason == "Error performing GET https://host/c/k in 3ms - HTTP error: reset"


def test_credentials_that_cannot_be_had_now_may_be_had_later() -> None:
    text = "External AWS credential provider: CredentialRetrievalError: try again"

    assert isinstance(translated("wal/1", UnauthenticatedError(text)), StoreUnavailable)


def test_the_debug_print_below_a_message_of_obstore_is_left_out() -> None:
    ours = translated("wal/1", GenericError("it broke\n\nDebug source:\nGeneric {\n}"))

    assert str(ours) == "the object store failed at `wal/1`: it broke"
