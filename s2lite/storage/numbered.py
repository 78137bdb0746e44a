"""Tells numbered objects from whatever else somebody has put beside them."""

from collections.abc import Iterable
from typing import Final

from s2lite.model.limits import U64_MAX
from s2lite.storage.objects.object_store import ObjectInfo

DIGITS: Final = 20


def numbered(listed: Iterable[ObjectInfo], prefix: str) -> list[ObjectInfo]:
    """Those of the objects whose keys are `prefix` and a number as we write it."""
    return [info for info in listed if _is_numbered(info.key, prefix)]


def _is_numbered(key: str, prefix: str) -> bool:
    digits = key.removeprefix(prefix)
    return len(digits) == DIGITS and digits.isdecimal() and int(digits) <= U64_MAX
