"""The JSON bodies of the control plane as classes, and the converter that fills them.

A class here has the members of one JSON object. Members without a default are required; `| None`
says that null is allowed, and in a configuration null is the same as absent. In a patch, absent
(`KEEP`), null (clear) and a value are three different things.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum
from types import NoneType
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn

from s2lite.codec import _strict_json as strict
from s2lite.model.config import (
    KEEP,
    Keep,
    RetentionPolicy,
    StorageClass,
    StreamCipher,
    TimestampingMode,
    parse_storage_class,
)
from s2lite.model.errors import InvalidInput, InvalidName, JsonError
from s2lite.model.names import (
    BasinName,
    LocationName,
    StreamName,
    parse_basin_name,
    parse_location_name,
    parse_stream_name,
)

T = TypeVar("T")

_Kept: TypeAlias = Literal[Keep.KEEP]
_Change: TypeAlias = T | _Kept | None
_Replacement: TypeAlias = T | _Kept


# --- the bodies of create and ensure ----------------------------------------------------------


@attrs.frozen
class TimestampingBody:
    """`timestamping` of a stream configuration."""

    mode: TimestampingMode | None = None
    uncapped: bool | None = None


@attrs.frozen
class DeleteOnEmptyBody:
    """`delete_on_empty` of a stream configuration; an empty object sets the age to zero."""

    min_age_secs: int = 0


@attrs.frozen
class StreamConfigBody:
    """A stream configuration."""

    storage_class: StorageClass | None = None
    retention_policy: RetentionPolicy | None = None
    timestamping: TimestampingBody | None = None
    delete_on_empty: DeleteOnEmptyBody | None = None


@attrs.frozen
class BasinConfigBody:
    """A basin configuration."""

    default_stream_config: StreamConfigBody | None = None
    stream_cipher: StreamCipher | None = None
    create_stream_on_append: bool = False
    create_stream_on_read: bool = False


@attrs.frozen
class CreateBasinBody:
    """What creates a basin."""

    basin: BasinName
    config: BasinConfigBody | None = None
    location: LocationName | None = None


@attrs.frozen
class EnsureBasinBody:
    """What makes a basin be there; its name is in the path."""

    config: BasinConfigBody | None = None
    location: LocationName | None = None


@attrs.frozen
class CreateStreamBody:
    """What creates a stream."""

    stream: StreamName
    config: StreamConfigBody | None = None


# --- the bodies of reconfigure ----------------------------------------------------------------


@attrs.frozen
class TimestampingPatch:
    """`timestamping` of a stream's patch."""

    mode: _Change[TimestampingMode] = KEEP
    uncapped: _Change[bool] = KEEP


@attrs.frozen
class DeleteOnEmptyPatch:
    """`delete_on_empty` of a stream's patch; an empty object changes nothing."""

    min_age_secs: _Change[int] = KEEP


@attrs.frozen
class StreamPatch:
    """A change to a stream's configuration."""

    storage_class: _Change[StorageClass] = KEEP
    retention_policy: _Change[RetentionPolicy] = KEEP
    timestamping: _Change[TimestampingPatch] = KEEP
    delete_on_empty: _Change[DeleteOnEmptyPatch] = KEEP


@attrs.frozen
class BasinPatch:
    """A change to a basin's configuration."""

    default_stream_config: _Change[StreamPatch] = KEEP
    stream_cipher: _Change[StreamCipher] = KEEP
    create_stream_on_append: _Replacement[bool] = KEEP
    create_stream_on_read: _Replacement[bool] = KEEP


# --- structuring ------------------------------------------------------------------------------


def structure(data: bytes, body: type[T]) -> T:
    """Read JSON into one of the classes above.

    Raises `JsonError` if the body or anything in it is malformed, of the wrong type, missing or no
    legal name, and only else `InvalidInput` if a value is not allowed. Both name the value's path.
    """
    return structure_value(strict.loads(data), body)


def structure_value(value: object, body: type[T]) -> T:
    """Read parsed JSON into one of the classes above, and raise as `structure` does."""
    try:
        return _CONVERTER.structure(value, body)
    except (cattrs.ClassValidationError, JsonError) as error:
        raise _gravest(list(_problems(error, ""))) from None


def _problems(error: Exception, path: str) -> Iterator[tuple[str, Exception]]:
    if not isinstance(error, cattrs.ClassValidationError):
        yield path, error
        return
    for inner, note in error.group_exceptions()[0]:
        yield from _problems(inner, f"{path}.{note.name}" if path else note.name)


def _gravest(problems: list[tuple[str, Exception]]) -> Exception:
    for path, error in problems:
        match error:
            case JsonError():
                return JsonError(f"{path or 'the body'}{error}")
            case InvalidName():
                return JsonError(f"{path}: {error}")
            case KeyError():
                return JsonError(f"{path}: this member is required")
            case InvalidInput():
                continue
            case _:
                return error
    path, error = problems[0]
    return InvalidInput(f"{path}: {error}")


def _structure_enum(value: object, kind: type[StrEnum]) -> StrEnum:
    text = strict.string(value, "")
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(f"`{member}`" for member in kind)
        raise JsonError(f": unknown value `{text}`, expected one of {known}") from None


def _structure_retention_policy(value: object, _: type[RetentionPolicy]) -> RetentionPolicy:
    policy = strict.members(value, {"age", "infinite"}, "")
    match list(policy.items()):
        case [("age", age)]:
            return RetentionPolicy(strict.u64(age, ".age"))
        case [("infinite", dict())]:
            return RetentionPolicy(None)
        case _:
            raise JsonError(': expected {"age": <seconds>} or {"infinite": {}}')


def _is_change(kind: Any) -> bool:
    return _Kept in get_args(kind)


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True)

    def text_hook(parse: Callable[[str], T]) -> Callable[[object, Any], T]:
        return lambda value, _: parse(strict.string(value, ""))

    def object_hook(body: type[T]) -> Callable[[object, Any], T]:
        structure_members = make_dict_structure_fn(body, converter)
        known = {field.name for field in attrs.fields(body)}  # type: ignore[arg-type]
        return lambda value, _: structure_members(strict.members(value, known, ""), body)

    def change_hook(kind: Any) -> Callable[[object, Any], Any]:
        inner, *_ = (part for part in get_args(kind) if part not in (NoneType, _Kept))
        structure_inner = converter.get_structure_hook(inner)
        nullable = NoneType in get_args(kind)
        return lambda value, _: (
            None if value is None and nullable else structure_inner(value, inner)
        )

    converter.register_structure_hook_factory(attrs.has, object_hook)
    converter.register_structure_hook_factory(_is_change, change_hook)
    converter.register_structure_hook(int, lambda value, _: strict.u64(value, ""))
    converter.register_structure_hook(bool, lambda value, _: strict.boolean(value, ""))
    converter.register_structure_hook(TimestampingMode, _structure_enum)
    converter.register_structure_hook(StreamCipher, _structure_enum)
    converter.register_structure_hook(StorageClass, text_hook(parse_storage_class))
    converter.register_structure_hook(RetentionPolicy, _structure_retention_policy)
    converter.register_structure_hook(BasinName, text_hook(parse_basin_name))
    converter.register_structure_hook(StreamName, text_hook(parse_stream_name))
    converter.register_structure_hook(LocationName, text_hook(parse_location_name))
    return converter


_CONVERTER: Final = _make_converter()
