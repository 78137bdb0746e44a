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
from s2lite.storage.object_store import (
    ObjectExists,
    ObjectNotFound,
    StoreRefused,
    StoreUnavailable,
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
        (GenericError(NO_RIGHTS), StoreRefused),
        (GenericError("Connection refused (os error 111)"), StoreUnavailable),
        (PreconditionError("changed"), StoreUnavailable),
        (BaseError("whatever"), StoreUnavailable),
        (OSError("whatever"), StoreUnavailable),
    ],
)
def test_an_error_of_obstore_becomes_one_of_the_port(
    error: BaseError | OSError, kind: type[StorageError]
) -> None:
    ours = translated("wal/1", error)

    assert type(ours) is kind
    assert "`wal/1`" in str(ours)


def test_the_debug_print_below_a_message_of_obstore_is_left_out() -> None:
    ours = translated("wal/1", GenericError("it broke\n\nDebug source:\nGeneric {\n}"))

    assert str(ours) == "the object store failed at `wal/1`: it broke"
