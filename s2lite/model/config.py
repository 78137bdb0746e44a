"""Configuration of basins and streams: layers, their resolution, and changes to them.

A stream's configuration has five leaves. In a *layer* (a request, or a basin's defaults) each leaf
is set or unset; a stream stores the *resolved* form, in which every leaf has a value. All values
here compare by content, so that an idempotent replay of a request is recognised with `==`.
"""

from enum import Enum, StrEnum
from typing import Final, Literal, TypeAlias, TypeVar

import attrs

from s2lite.model.errors import InvalidInput
from s2lite.model.limits import DEFAULT_RETENTION_SECONDS, U32_MAX, U64_MAX

T = TypeVar("T")

_MAX_AGE_MS: Final = 2**63 - 1


class StorageClass(StrEnum):
    """How a stream is stored; recorded and shown, with no other effect."""

    STANDARD = "standard"
    EXPRESS = "express"


class TimestampingMode(StrEnum):
    """Whose clock stamps a record."""

    CLIENT_PREFER = "client-prefer"
    CLIENT_REQUIRE = "client-require"
    ARRIVAL = "arrival"


class StreamCipher(StrEnum):
    """The cipher a stream's records are sealed with, fixed when the stream is created."""

    AEGIS_256 = "aegis-256"
    AES_256_GCM = "aes-256-gcm"

    @property
    def max_seq_num(self) -> int:
        """The highest seq_num of a record sealed with it; S2's rule, not one of our format."""
        return U32_MAX if self is StreamCipher.AES_256_GCM else U64_MAX


def parse_storage_class(text: str) -> StorageClass:
    """Find a storage class by name; raises `InvalidInput` for one this server does not offer."""
    try:
        return StorageClass(text)
    except ValueError:
        offered = " or ".join(f"`{known}`" for known in StorageClass)
        raise InvalidInput(f"unknown storage class `{text}`, use {offered}") from None


def _check_age(_instance: object, _attribute: object, age_seconds: int | None) -> None:
    if age_seconds == 0:
        raise InvalidInput("retention age must be at least 1 second")


@attrs.frozen
class RetentionPolicy:
    """How long records are kept, in seconds; None keeps them until they are trimmed.

    Raises `InvalidInput` for an age of zero.
    """

    age_seconds: int | None = attrs.field(validator=_check_age)

    @property
    def age_ms(self) -> int | None:
        """The age in milliseconds; None if records never expire.

        An age whose milliseconds do not fit a signed 64-bit integer never expires.
        """
        if self.age_seconds is None or self.age_seconds * 1000 > _MAX_AGE_MS:
            return None
        return self.age_seconds * 1000


@attrs.frozen
class StreamConfig:
    """A stream's resolved configuration; the defaults are the system's."""

    storage_class: StorageClass = StorageClass.EXPRESS
    retention_policy: RetentionPolicy = RetentionPolicy(DEFAULT_RETENTION_SECONDS)
    timestamping_mode: TimestampingMode = TimestampingMode.CLIENT_PREFER
    timestamping_uncapped: bool = False
    delete_on_empty_min_age_seconds: int = 0  # zero: never


@attrs.frozen
class StreamConfigLayer:
    """A stream configuration in which a leaf may be unset (None); `StreamConfigLayer()` sets none.

    A zero `delete_on_empty_min_age_seconds` is set: it overrides what lies below.
    """

    storage_class: StorageClass | None = None
    retention_policy: RetentionPolicy | None = None
    timestamping_mode: TimestampingMode | None = None
    timestamping_uncapped: bool | None = None
    delete_on_empty_min_age_seconds: int | None = None


@attrs.frozen
class BasinConfig:
    """A basin's configuration; `default_stream_config` is kept as given, unresolved."""

    default_stream_config: StreamConfigLayer = StreamConfigLayer()
    stream_cipher: StreamCipher | None = None
    create_stream_on_append: bool = False
    create_stream_on_read: bool = False


class Keep(Enum):
    """The type of `KEEP`, which in a change stands for "leave this as it is"."""

    KEEP = "keep"

    def __repr__(self) -> str:
        return "KEEP"


KEEP: Final = Keep.KEEP
_Kept: TypeAlias = Literal[Keep.KEEP]


@attrs.frozen
class StreamReconfiguration:
    """A change to a stream's leaves: each is kept (`KEEP`), cleared (None) or set to a value."""

    storage_class: StorageClass | _Kept | None = KEEP
    retention_policy: RetentionPolicy | _Kept | None = KEEP
    timestamping_mode: TimestampingMode | _Kept | None = KEEP
    timestamping_uncapped: bool | _Kept | None = KEEP
    delete_on_empty_min_age_seconds: int | _Kept | None = KEEP


@attrs.frozen
class BasinReconfiguration:
    """A change to a basin's configuration; of the stream defaults each leaf changes by itself."""

    default_stream_config: StreamReconfiguration = StreamReconfiguration()
    stream_cipher: StreamCipher | _Kept | None = KEEP
    create_stream_on_append: bool | _Kept = KEEP
    create_stream_on_read: bool | _Kept = KEEP


def resolve(layer: StreamConfigLayer, basin_default: StreamConfigLayer) -> StreamConfig:
    """Give every leaf a value: the layer's, else the basin's default, else the system's."""
    system = StreamConfig()
    return StreamConfig(
        _first(layer.storage_class, basin_default.storage_class, system.storage_class),
        _first(layer.retention_policy, basin_default.retention_policy, system.retention_policy),
        _first(layer.timestamping_mode, basin_default.timestamping_mode, system.timestamping_mode),
        _first(
            layer.timestamping_uncapped,
            basin_default.timestamping_uncapped,
            system.timestamping_uncapped,
        ),
        _first(
            layer.delete_on_empty_min_age_seconds,
            basin_default.delete_on_empty_min_age_seconds,
            system.delete_on_empty_min_age_seconds,
        ),
    )


def reconfigure_layer(layer: StreamConfigLayer, change: StreamReconfiguration) -> StreamConfigLayer:
    """Apply a change to a layer; a cleared leaf becomes unset."""
    return StreamConfigLayer(
        _changed(layer.storage_class, change.storage_class),
        _changed(layer.retention_policy, change.retention_policy),
        _changed(layer.timestamping_mode, change.timestamping_mode),
        _changed(layer.timestamping_uncapped, change.timestamping_uncapped),
        _changed(layer.delete_on_empty_min_age_seconds, change.delete_on_empty_min_age_seconds),
    )


def reconfigure_stream(
    config: StreamConfig, change: StreamReconfiguration, basin_default: StreamConfigLayer
) -> StreamConfig:
    """Apply a change to a stored configuration; a cleared leaf takes the basin's default anew."""
    stored = StreamConfigLayer(
        config.storage_class,
        config.retention_policy,
        config.timestamping_mode,
        config.timestamping_uncapped,
        config.delete_on_empty_min_age_seconds,
    )
    return resolve(reconfigure_layer(stored, change), basin_default)


def reconfigure_basin(config: BasinConfig, change: BasinReconfiguration) -> BasinConfig:
    """Apply a change to a basin's configuration."""
    append, read = change.create_stream_on_append, change.create_stream_on_read
    return BasinConfig(
        reconfigure_layer(config.default_stream_config, change.default_stream_config),
        _changed(config.stream_cipher, change.stream_cipher),
        config.create_stream_on_append if append is KEEP else append,
        config.create_stream_on_read if read is KEEP else read,
    )


def _first(own: T | None, default: T | None, system: T) -> T:
    if own is not None:
        return own
    return system if default is None else default


def _changed(current: T | None, change: T | _Kept | None) -> T | None:
    return current if change is KEEP else change
