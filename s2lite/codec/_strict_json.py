"""The one reader of JSON that clients send.

It refuses what the standard library lets through: bytes that are not UTF-8, `NaN` and `Infinity`,
a repeated member (if it is one the caller knows), and lone surrogates, which escapes can spell.
Members the caller does not know are ignored, whatever they hold.

All failures are `JsonError`. What takes a value also takes its path, for the text of the error:
`path: what is wrong`. A path may be relative; then the caller puts the rest in front.
"""

import json
from collections import Counter
from collections.abc import Set as AbstractSet
from typing import Any, Final, NoReturn

from s2lite.model.errors import JsonError
from s2lite.model.limits import U64_MAX

JsonObject = dict[str, object]

_MAX_U64_DIGITS: Final = len(str(U64_MAX))


class _ObjectWithRepeats(dict[str, object]):
    """An object in which members are repeated; the last of each counts, if anybody asks."""

    __slots__ = ("repeated",)

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        times_given = Counter(name for name, _ in pairs)
        self.repeated = {name for name, times in times_given.items() if times > 1}


def loads(data: bytes) -> object:
    """Parse one JSON value with nothing but whitespace around it.

    An integer that is no u64 by its looks (a sign, too many digits) comes out as a float, so that
    it fails only where the caller wants an integer.
    """
    try:
        return _DECODER.decode(data.decode())
    except UnicodeDecodeError as error:
        raise JsonError(f"malformed JSON: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"malformed JSON: {error}") from None
    except RecursionError:
        raise JsonError("malformed JSON: nested too deeply") from None


def members(value: object, known: AbstractSet[str], path: str) -> JsonObject:
    """Take a value as an object in which no known member is repeated."""
    if not isinstance(value, dict):
        raise JsonError(f"{path}: expected an object")
    if isinstance(value, _ObjectWithRepeats):
        for name in sorted(value.repeated & known):
            raise JsonError(f"{path}: member `{name}` is repeated")
    return value


def u64(value: object, path: str) -> int:
    """Take a value as an unsigned 64-bit integer."""
    if type(value) is not int or value > U64_MAX:  # `loads` makes no negative integers
        raise JsonError(f"{path}: expected an unsigned integer of at most 64 bits")
    return value


def boolean(value: object, path: str) -> bool:
    """Take a value as a boolean."""
    if not isinstance(value, bool):
        raise JsonError(f"{path}: expected true or false")
    return value


def array(value: object, path: str) -> list[object]:
    """Take a value as an array."""
    if not isinstance(value, list):
        raise JsonError(f"{path}: expected an array")
    return value


def utf8(value: object, path: str) -> bytes:
    """Take a value as a string of Unicode characters, and encode it."""
    if not isinstance(value, str):
        raise JsonError(f"{path}: expected a string")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise JsonError(f"{path}: the string has a lone surrogate") from None


def string(value: object, path: str) -> str:
    """Take a value as a string of Unicode characters."""
    return utf8(value, path).decode()


def _object(pairs: list[tuple[str, object]]) -> JsonObject:
    value = dict(pairs)
    return value if len(value) == len(pairs) else _ObjectWithRepeats(pairs)


def _integer(digits: str) -> int | float:
    if digits[0] == "-" or len(digits) > _MAX_U64_DIGITS:
        return float(digits)
    return int(digits)


def _not_json(constant: str) -> NoReturn:
    raise JsonError(f"malformed JSON: {constant} is not a JSON number")


_DECODER: Final[Any] = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_constant=_not_json
)
