"""What an operator may tune. Components are not settings: `server` builds those."""

from pathlib import Path

import attrs

from s2lite.model.limits import MAX_BATCH_BYTES

MIB = 1024 * 1024
DEFAULT_APPEND_INFLIGHT_BYTES = 128 * MIB


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
    """A bucket of an S3-compatible object store, below `path`."""

    bucket: str
    path: str = ""


Storage = MemoryStorage | LocalStorage | BucketStorage


@attrs.frozen
class Settings:
    """One server's settings. Sizes are in bytes, times in seconds."""

    storage: Storage = attrs.field(factory=MemoryStorage)
    host: str = "0.0.0.0"  # noqa: S104  (as users of `s2 lite` expect)
    port: int = 80
    cors: bool = True

    append_inflight_bytes: int = attrs.field(
        default=DEFAULT_APPEND_INFLIGHT_BYTES, converter=_at_least_one_batch
    )
    """Metered bytes of appends that are accepted and not answered; at least one largest batch."""

    memtable_payload_bytes: int = 64 * MIB
    """Payloads of the newest batches that are kept in memory for readers."""

    wal_in_flight: int = 1
    """WAL objects written at once. More than one pays off only where a write takes long."""

    read_lease_seconds: float = 1.0
    """How long an earlier writer may still take itself for the current one, where no lock tells."""

    stream_idle_seconds: float = 60.0
    """A stream's actor without users goes after this."""

    grace_seconds: float = 10.0
    """From a signal to the end of the process, whatever clients do."""
