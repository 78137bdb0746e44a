"""What values look like on the command line and in the environment."""

import re
from typing import Any

import click

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
_SIZE_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _SIZE_UNITS[f"{_letter}b"] = 1000**_power
    _SIZE_UNITS[f"{_letter}ib"] = 1024**_power

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|ms|s|m|h)\s*")
_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Size(click.ParamType[int]):
    """A number of bytes, with or without a unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse `1048576`, `128MiB` or `1.5 GB`."""
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(value)
        unit = _SIZE_UNITS.get(found[2].lower()) if found else None
        if found is None or unit is None:
            self.fail(f"{value!r} is not a size such as 1048576, 128MiB or 1.5GB", param, ctx)
        return int(float(found[1]) * unit)


class Duration(click.ParamType[float]):
    """A time in seconds, written with units."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse `10ms`, `1s` or `1m30s`."""
        if isinstance(value, float):
            return value
        text = value.strip()
        seconds, end = 0.0, 0
        while part := _DURATION_PART.match(text, end):
            seconds += float(part[1]) * _DURATION_UNITS[part[2]]
            end = part.end()
        if not text or end < len(text):
            self.fail(f"{value!r} is not a time such as 10ms, 1s or 1m30s", param, ctx)
        return seconds
