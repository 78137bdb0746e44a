"""Query strings: form-urlencoded, unknown parameters ignored, a known one given at most once."""

import re
from typing import Final
from urllib.parse import parse_qsl

from s2lite.api.errors import BadRequest, ErrorCode
from s2lite.model.limits import U32_MAX, U64_MAX

# Twenty digits hold every u64; the rest is room for leading zeros, which mean nothing.
_DIGITS: Final = re.compile(r"[0-9]{1,64}")
_BOOLEANS: Final = {"true": True, "false": False}


class Query:
    """The parameters of one request. Every getter raises `BadRequest` for a bad value."""

    def __init__(self, query_string: bytes) -> None:
        self._values: dict[str, list[str]] = {}
        text = query_string.decode("utf-8", "replace")
        for name, value in parse_qsl(text, keep_blank_values=True):
            self._values.setdefault(name, []).append(value)

    def text(self, name: str) -> str | None:
        """Give a parameter's text, None if it is absent."""
        values = self._values.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise BadRequest(ErrorCode.BAD_QUERY, f"{name} is given more than once")
        return values[0]

    def u64(self, name: str) -> int | None:
        """Give an unsigned 64-bit number, None if it is absent."""
        return self._unsigned(name, U64_MAX)

    def u32(self, name: str) -> int | None:
        """Give an unsigned 32-bit number, None if it is absent."""
        return self._unsigned(name, U32_MAX)

    def boolean(self, name: str) -> bool:
        """Give `true` or `false`; absent means false."""
        text = self.text(name)
        if text is None:
            return False
        if text not in _BOOLEANS:
            raise BadRequest(ErrorCode.BAD_QUERY, f"{name} must be `true` or `false`")
        return _BOOLEANS[text]

    def _unsigned(self, name: str, maximum: int) -> int | None:
        text = self.text(name)
        if text is None:
            return None
        number = _parse_unsigned(text, maximum)
        if number is None:
            raise BadRequest(ErrorCode.BAD_QUERY, f"{name} must be an integer from 0 to {maximum}")
        return number


def _parse_unsigned(text: str, maximum: int) -> int | None:
    if not _DIGITS.fullmatch(text):
        return None
    number = int(text)
    return number if number <= maximum else None
