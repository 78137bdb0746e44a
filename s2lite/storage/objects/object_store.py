"""The object store port: named, immutable byte strings that are created once, read and deleted.

An object is never overwritten: whoever creates a key first owns it until it is deleted. That one
conditional operation (create if absent) is what the log above needs in order to have one writer.

Keys are relative paths: segments of `[a-z0-9_.-]`, not starting with a dot, joined by `/`. That is
what every store can name without escaping, and what has the same order everywhere. No key may be a
directory of another one (`a` and `a/b`), and nothing lives at or below `lock`: a directory could
not hold the former and needs the latter for itself. `check_key` and `check_prefix` refuse the rest
with `ValueError`, because a wrong key is a mistake in this program and not a fault of the store.

Stores over a network are in `remote_store`; below are the store in memory, and what all stores that
are made of obstore share: the translation of its errors, and the rules for ranges and listings.
"""

import builtins
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import obstore
import trio
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import MemoryStore
from obstore.store import ObjectStore as AnyObstore

from s2lite.model.errors import StorageError
from s2lite.storage.objects.http_answers import Answer, find_answer, without_secrets

if TYPE_CHECKING:
    from obstore import ObjectMeta  # exists for type checkers only

LOCK_NAME: Final = "lock"
"""The one top-level name that is no key: a store in a directory keeps its lock there."""

_KEY = re.compile(r"[a-z0-9_-][a-z0-9_.-]*(/[a-z0-9_-][a-z0-9_.-]*)*")

# Exact, where `timestamp() * 1000` is now and then one less.
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

_NO_RIGHTS = re.compile(r"\(os error (1|13)\)")
"""EPERM and EACCES: obstore has no class of its own for what a file system does not permit."""


_NO_CREDENTIALS_NOW = "External AWS credential provider"
"""Our own source of credentials failed. It had some at the start, so it may again."""

_BUCKET_HINT = "create the bucket, or correct its name or the endpoint"
_CREDENTIALS_HINT = "check the credentials"
_RIGHTS_HINT = "the credentials need the rights to get, put, list and delete objects there"
_REGION_HINT = "set AWS_REGION to the region of the bucket"
_CONDITIONS_HINT = "the store must be able to put an object only if it does not exist yet"

_HINTS = {
    "NoSuchBucket": _BUCKET_HINT,
    "ContainerNotFound": _BUCKET_HINT,
    "InvalidBucketName": _BUCKET_HINT,
    "InvalidAccessKeyId": _CREDENTIALS_HINT,
    "InvalidClientTokenId": _CREDENTIALS_HINT,
    "InvalidToken": _CREDENTIALS_HINT,
    "SignatureDoesNotMatch": _CREDENTIALS_HINT,
    "InvalidAuthenticationInfo": _CREDENTIALS_HINT,
    "AuthenticationFailed": _CREDENTIALS_HINT,
    "RequestTimeTooSkewed": "set the clock of this machine",
    "AuthorizationHeaderMalformed": _REGION_HINT,
    "PermanentRedirect": _REGION_HINT,
}
"""What to do about the error codes of stores that no retry helps against."""

LIST_CHUNK: Final = 1000
"""Objects per step of a listing: as many as a page of S3 has, and a few milliseconds of work."""


@attrs.frozen
class ObjectInfo:
    """What a listing says of an object; `last_modified_ms` is by the store's own clock."""

    key: str
    size: int
    last_modified_ms: int


@attrs.define
class ObjectNotFound(StorageError):
    """There is no object of that key."""

    key: str

    def __str__(self) -> str:
        return f"object `{self.key}` not found"


@attrs.define
class ObjectExists(StorageError):
    """The key is taken, by whomever: possibly by an earlier attempt of the same put."""

    key: str

    def __str__(self) -> str:
        return f"object `{self.key}` already exists"


@attrs.define
class ObjectTooShort(StorageError):
    """The object has only `size` bytes: it ends before the range that was asked for does."""

    key: str
    start: int
    length: int
    size: int

    def __str__(self) -> str:
        end = self.start + self.length
        return f"object `{self.key}` has {self.size} bytes, not the {end} that were to be read"


@attrs.define
class StoreUnavailable(StorageError):
    """The operation failed and may have taken effect all the same; a retry may succeed."""

    key: str
    reason: str

    def __str__(self) -> str:
        return f"the object store failed at `{self.key}`: {self.reason}"


@attrs.define
class StoreRefused(StorageError):
    """The store will not do it, and not on a retry either: no rights, disk full, disk broken.

    A refused put has left nothing visible. Whether it can come back after a crash of the machine is
    for the store to say; callers that cannot tell treat it like a put of unknown outcome.
    """

    key: str
    reason: str

    def __str__(self) -> str:
        return f"the object store refused `{self.key}`: {self.reason}"


class ObjectStore(Protocol):
    """Where objects live. Every method may be called from any number of tasks at once.

    Each operation on a key takes effect at one instant between call and return. An object is seen
    whole or not at all, and whatever a call has shown (`ObjectExists` included) is durable.

    A cancelled `put_new` or `delete` may or may not have taken effect, as one that raised
    `StoreUnavailable`; where the store is a server, it may do so even after the call has ended.
    Nothing partial is left behind in either case. Every call is a checkpoint.

    All methods raise `StoreUnavailable` and `StoreRefused`, and `ValueError` for a malformed key.
    """

    async def put_new(self, key: str, data: bytes | bytearray) -> None:
        """Create the object if there is none of that key; durable and visible on return.

        Raises `ObjectExists` if the key is taken, whoever took it. After `StoreUnavailable` a
        retry can meet the object of the first attempt: only its content tells whose it is.
        """
        ...

    async def get(self, key: str) -> bytes:
        """Read a whole object. Raises `ObjectNotFound`."""
        ...

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read exactly `length` bytes from offset `start`; never fewer.

        Raises `ObjectNotFound`, and `ObjectTooShort` if the object ends before the range does (an
        empty range may start at the very end), and `ValueError` for a negative start or length.
        """
        ...

    async def list(self, prefix: str, start_after: str = "") -> builtins.list[ObjectInfo]:
        """List the objects below `prefix` in ascending order of their keys, at any depth.

        `prefix` is a directory: empty for everything, or else with a slash at its end, so that
        `wal/` does not match `wal-old/1`. Keys up to and including `start_after`, which may be any
        string and need not be a key that exists, are left out. An object that was there all
        through the call is in the list; one that came or went meanwhile may or may not be.
        """
        ...

    async def delete(self, key: str) -> None:
        """Delete the object, durably on return; an absent one is fine. Then its key is free."""
        ...


@attrs.define(eq=False)
class MemoryObjectStore:
    """An `ObjectStore` in this process's memory: gone with the process, and durable until then.

    Uses no threads, so that it also works under a virtual clock. Calls are checkpoints before they
    do anything: a cancelled one has had no effect.
    """

    _store: MemoryStore = attrs.field(factory=MemoryStore, init=False)

    async def put_new(self, key: str, data: bytes | bytearray) -> None:
        """Create the object if there is none of that key. See `ObjectStore.put_new`."""
        check_key(key)
        await trio.lowlevel.checkpoint()
        with raised_as_ours(key):
            # The multipart way that obstore takes for large data by itself knows no conditions.
            obstore.put(self._store, key, data, mode="create", use_multipart=False)

    async def get(self, key: str) -> bytes:
        """Read a whole object. See `ObjectStore.get`."""
        check_key(key)
        await trio.lowlevel.checkpoint()
        return read_object(self._store, key)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read exactly `length` bytes from offset `start`. See `ObjectStore.get_range`."""
        check_range(key, start, length)
        await trio.lowlevel.checkpoint()
        return read_range(self._store, key, start, length)

    async def list(self, prefix: str, start_after: str = "") -> builtins.list[ObjectInfo]:
        """List the objects below `prefix`, ascending. See `ObjectStore.list`."""
        check_prefix(prefix)
        await trio.lowlevel.checkpoint()
        return list_objects(self._store, prefix, start_after)

    async def delete(self, key: str) -> None:
        """Delete the object; an absent one is fine. See `ObjectStore.delete`."""
        check_key(key)
        await trio.lowlevel.checkpoint()
        with raised_as_ours(key):
            obstore.delete(self._store, key)


# --- keys -------------------------------------------------------------------------------------


def is_key(text: str) -> bool:
    """Whether the text may be an object's key."""
    return _KEY.fullmatch(text) is not None and text.split("/", 1)[0] != LOCK_NAME


def check_key(key: str) -> None:
    """Raise `ValueError` unless the text may be an object's key."""
    if not is_key(key):
        raise ValueError(f"not an object key: {key!r}")


def check_prefix(prefix: str) -> None:
    """Raise `ValueError` unless the text is empty or a directory of keys with its final slash."""
    if prefix and not (prefix.endswith("/") and is_key(prefix[:-1])):
        raise ValueError(f"not a directory of object keys: {prefix!r}")


def check_range(key: str, start: int, length: int) -> None:
    """Raise `ValueError` unless the key is one and the range has a start and a length."""
    check_key(key)
    if start < 0 or length < 0:
        raise ValueError(f"not a range of bytes: {length} from {start}")


# --- what stores made of obstore share ----------------------------------------------------------


@contextmanager
def raised_as_ours(key: str) -> Iterator[None]:
    """Turn whatever obstore raises in the block into one of the port's errors about `key`."""
    try:
        yield
    except (BaseError, OSError, NotImplementedError) as error:
        raise translated(key, error) from error


def translated(key: str, error: BaseError | OSError | NotImplementedError) -> StorageError:
    """Return the port's error for one that obstore raised while it worked on `key`."""
    answer = find_answer(str(error))
    if answer is not None:
        return _answered(key, error, answer)
    match error:
        case AlreadyExistsError():
            return ObjectExists(key)
        case FileNotFoundError():
            return ObjectNotFound(key)
        case UnauthenticatedError() if _NO_CREDENTIALS_NOW in str(error):
            return StoreUnavailable(key, summary(error))
        case PermissionDeniedError() | UnauthenticatedError() | NotSupportedError():
            return StoreRefused(key, summary(error))
        case NotImplementedError():
            return StoreRefused(key, f"{summary(error)} ({_CONDITIONS_HINT})")
        case GenericError() if _NO_RIGHTS.search(str(error)):
            return StoreRefused(key, summary(error))
        case GenericError() if "redirect without LOCATION" in str(error):
            return StoreRefused(key, f"it is in another region: {_REGION_HINT}")
        case _:
            return StoreUnavailable(key, summary(error))


def _answered(key: str, error: Exception, answer: Answer) -> StorageError:
    """Return the port's error for an answer of a store's HTTP server.

    A 409 is somebody else's put under way at this moment, which may yet fail: it is worth a retry,
    except where (Azure) it is how a key that is taken is told.
    """
    hint = _hint_for(answer)
    match answer.status:
        case _ if hint:
            return StoreRefused(key, f"{answer}; {hint}")
        case 404 if isinstance(error, FileNotFoundError):
            return ObjectNotFound(key)
        case 409 if answer.code.endswith("AlreadyExists"):
            return ObjectExists(key)
        case 412 | 304 if isinstance(error, AlreadyExistsError):
            return ObjectExists(key)
        case _:
            return StoreUnavailable(key, str(answer))


def _hint_for(answer: Answer) -> str:
    """What to do about an answer that a retry will not change; empty for all others."""
    if answer.code in _HINTS:
        return _HINTS[answer.code]
    if answer.status == 404 and "bucket does not exist" in answer.message:
        return _BUCKET_HINT
    if answer.status == 501:
        return _CONDITIONS_HINT
    if answer.status == 401:
        return _CREDENTIALS_HINT
    if answer.status == 403 and not answer.code.lower().endswith("ratelimitexceeded"):
        return _RIGHTS_HINT
    return ""


def read_object(store: AnyObstore, key: str) -> bytes:
    """Read a whole object in the calling thread. Raises the port's errors."""
    with raised_as_ours(key):
        return bytes(obstore.get(store, key).bytes())


def read_range(store: AnyObstore, key: str, start: int, length: int) -> bytes:
    """Read exactly the range in the calling thread. Raises the port's errors.

    Stores differ about a range that begins or ends past the end: they answer with less, or fail in
    a way that looks like any other failure. So in both cases, and for an empty range, which none of
    them takes, the object's size decides.
    """
    with raised_as_ours(key):
        if length == 0:
            _check_size(store, key, start, length)
            return b""
        try:
            data = bytes(obstore.get_range(store, key, start=start, length=length))
        except GenericError:
            _check_size(store, key, start, length)
            raise
    if len(data) < length:
        raise ObjectTooShort(key, start, length, start + len(data))
    return data


def _check_size(store: AnyObstore, key: str, start: int, length: int) -> None:
    size = obstore.head(store, key)["size"]
    if start + length > size:
        raise ObjectTooShort(key, start, length, size)


def list_objects(store: AnyObstore, prefix: str, start_after: str) -> list[ObjectInfo]:
    """List a directory's objects, ascending, in the calling thread. Raises the port's errors."""
    found = []
    with raised_as_ours(prefix):
        for chunk in obstore.list(store, prefix or None, chunk_size=LIST_CHUNK):
            found += infos_in(chunk, start_after)
    return sorted(found, key=lambda info: info.key)


def infos_in(chunk: "Sequence[ObjectMeta]", start_after: str) -> list[ObjectInfo]:
    """What the port's listing says of a part of obstore's.

    What is no key is not ours (an operator's file, a `lost+found`) and is left out.
    """
    return [
        ObjectInfo(meta["path"], meta["size"], (meta["last_modified"] - _EPOCH) // _MILLISECOND)
        for meta in chunk
        if meta["path"] > start_after and is_key(meta["path"])
    ]


def summary(error: BaseException) -> str:
    """The text of one of obstore's errors, without secrets and without what only repeats it."""
    # Below its first paragraph, an obstore message repeats itself as a Rust debug print.
    return without_secrets(str(error).split("\n\n", 1)[0])
