"""What an operator may tune. Components are not settings: `server` builds those."""

import re
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

from s2lite.model.limits import MAX_BATCH_BYTES
from s2lite.storage.collection import SHARED_MIN_AGE_SECONDS
from s2lite.storage.layout import Layout
from s2lite.storage.objects.buckets import Provider

MIB: Final = 1024 * 1024
DEFAULT_APPEND_INFLIGHT_BYTES: Final = 128 * MIB
DEFAULT_READ_CACHE_BYTES: Final = 128 * MIB

_BUCKET = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]*")


def _at_least_one_batch(size_bytes: int) -> int:
    return max(size_bytes, MAX_BATCH_BYTES)


@attrs.frozen
class MemoryStorage:
    """Everything in this process's memory, and gone with it."""


@attrs.frozen
class LocalStorage:
    """A directory, which is created if it is missing. Only one server at a time can have it."""

    root: Path


@attrs.frozen
class BucketStorage:
    """A bucket of a cloud provider or of a store that speaks its protocol, below `path`."""

    bucket: str
    path: str = ""
    provider: Provider = Provider.S3

    def __str__(self) -> str:
        return f"{self.provider}://{self.bucket}" + (f"/{self.path}" if self.path else "")


Storage = MemoryStorage | LocalStorage | BucketStorage


@attrs.frozen
class Settings:
    """One server's settings. Sizes are in bytes, times in seconds.

    What depends on the kind of storage has the default that suits it.
    """

    storage: Storage = attrs.field(factory=MemoryStorage)
    host: str = "0.0.0.0"  # noqa: S104  (as users of `s2 lite` expect)
    port: int = 80
    cors: bool = True

    append_inflight_bytes: int = attrs.field(
        default=DEFAULT_APPEND_INFLIGHT_BYTES, converter=_at_least_one_batch
    )
    """Metered bytes of appends that are accepted and not answered; at least one largest batch."""

    read_cache_bytes: int = DEFAULT_READ_CACHE_BYTES
    """What is kept in memory of what was read from storage."""

    layout: Layout = attrs.field(factory=Layout)

    wal_in_flight: int = attrs.field()
    """WAL objects written at once. More than one pays off only where a write takes long."""

    flush_interval_seconds: float = attrs.field()
    """How long appends are gathered for one write: a write of a bucket costs money and time."""

    read_lease_seconds: float = 1.0
    """How long an earlier writer may still take itself for the current one, where no lock tells."""

    gc_min_age_seconds: float = attrs.field()
    """What nothing refers to is kept for so long: another writer may be about to refer to it."""

    stream_idle_seconds: float = 60.0
    """A stream's actor without users goes after this."""

    grace_seconds: float = 10.0
    """From a signal to the end of the process, whatever clients do."""

    @property
    def shared(self) -> bool:
        """Whether another server may open the same storage: no lock keeps it out."""
        return isinstance(self.storage, BucketStorage)

    @wal_in_flight.default
    def _default_wal_in_flight(self) -> int:
        return 4 if self.shared else 1

    @flush_interval_seconds.default
    def _default_flush_interval(self) -> float:
        return 0.05 if self.shared else 0.0

    @gc_min_age_seconds.default
    def _default_gc_min_age(self) -> float:
        return SHARED_MIN_AGE_SECONDS if self.shared else 0.0

    @gc_min_age_seconds.validator
    def _check_gc_min_age(self, _: object, value: float) -> None:
        if self.shared and value < SHARED_MIN_AGE_SECONDS:
            raise ValueError(
                f"garbage in a bucket is kept for {SHARED_MIN_AGE_SECONDS:.0f} s at least:"
                " the proof that a server is the only writer rests on it"
            )


# --- storage by name ----------------------------------------------------------------------------


def bucket_storage(provider: Provider, bucket: str, path: str) -> BucketStorage:
    """The storage below a path in a bucket. Raises `ValueError` for what cannot be one."""
    if not _BUCKET.fullmatch(bucket):
        raise ValueError("a bucket's name has letters, digits, dots, hyphens and underscores")
    path = path.strip("/")
    if path and any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError("a path in a bucket has no empty parts, and none that are `.` or `..`")
    if not path.isprintable():
        raise ValueError("a path in a bucket has no control characters")
    return BucketStorage(bucket, path, provider)


def storage_at(url: str) -> Storage:
    """The storage that a URL names. Raises `ValueError`, in whose text the URL is not repeated."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("it is not a URL") from None
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("it has more than a bucket and a path; access is for the environment")
    match parts.scheme:
        case "memory":
            if parts.netloc or parts.path.strip("/"):
                raise ValueError("memory has no parts: it is `memory:///`")
            return MemoryStorage()
        case "file":
            return LocalStorage(_directory_of(parts))
        case "s3" | "gs" | "az":
            return bucket_storage(Provider(parts.scheme), parts.netloc, unquote(parts.path))
        case _:
            raise ValueError("it begins with none of s3://, gs://, az://, file:///, memory:///")


def _directory_of(parts: SplitResult) -> Path:
    if parts.netloc not in ("", "localhost") or len(parts.path) < 2:
        raise ValueError("a directory's URL has three slashes and an absolute path: file:///data")
    path = unquote(parts.path)
    if "\0" in path:
        raise ValueError("a directory's name has no zero bytes")
    return Path(path)
