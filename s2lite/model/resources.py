"""What is said about basins and streams: their info, pages of it, and what a request did."""

from enum import StrEnum
from typing import Generic, TypeVar

import attrs

from s2lite.model.config import StreamCipher
from s2lite.model.limits import MAX_LIST_LIMIT
from s2lite.model.names import BasinName, LocationName, StreamName

T_co = TypeVar("T_co", covariant=True)


@attrs.frozen
class BasinInfo:
    """A basin as listings show it; times are in milliseconds since the epoch."""

    name: BasinName
    location: LocationName | None
    created_at_ms: int
    deleted_at_ms: int | None  # set while deletion is pending


@attrs.frozen
class StreamInfo:
    """A stream as listings show it; times are in milliseconds since the epoch."""

    name: StreamName
    created_at_ms: int
    deleted_at_ms: int | None  # set while deletion is pending
    cipher: StreamCipher | None


class ProvisionResult(StrEnum):
    """What a create or ensure request did."""

    CREATED = "created"
    UPDATED = "updated"
    NOOP = "noop"


@attrs.frozen
class Provisioned(Generic[T_co]):
    """The resource a create or ensure request left behind, and what it did."""

    info: T_co
    result: ProvisionResult


def list_limit(requested: int | None) -> int:
    """How many entries a page may have: none requested, 0 and anything above 1000 mean 1000."""
    if not requested or requested > MAX_LIST_LIMIT:
        return MAX_LIST_LIMIT
    return requested


@attrs.frozen
class ListRequest:
    """Which names to list: those with `prefix`, strictly above `start_after`, at most `limit`.

    Names are ordered and compared by their UTF-8 bytes. `limit` is normalised as by `list_limit`.
    """

    prefix: str = ""
    start_after: str = ""
    limit: int = attrs.field(default=None, converter=list_limit)


@attrs.frozen
class Page(Generic[T_co]):
    """Part of a listing; `has_more` says whether at least one further entry matches."""

    items: tuple[T_co, ...]
    has_more: bool
