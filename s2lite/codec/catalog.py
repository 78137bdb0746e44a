"""Catalog changes as JSON, for the inside of WAL entries.

They are rare and small, so they are kept in a form that a person can read and a later version can
extend: unknown members are ignored. Bytes are written as hexadecimal digits. Members are written
even where they have their default, because a later version may have another.
"""

from typing import Any

import cattrs
import msgspec
from cattrs.strategies import configure_tagged_union

from s2lite.model.errors import CorruptObject, InvalidInput
from s2lite.model.log import CatalogChange


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=False)
    converter.register_unstructure_hook(bytes, bytes.hex)
    converter.register_structure_hook(bytes, lambda text, _: bytes.fromhex(text))
    configure_tagged_union(CatalogChange, converter, tag_name="change")
    return converter


_converter = _make_converter()


def encode_catalog_change(change: CatalogChange) -> bytes:
    """The JSON object of a change; its member `change` names which one it is."""
    return msgspec.json.encode(_converter.unstructure(change, unstructure_as=CatalogChange))


def decode_catalog_change(key: str, data: bytes) -> CatalogChange:
    """The change that `data` describes; raises `CorruptObject` naming `key` if there is none."""
    try:
        members = msgspec.json.decode(data, type=dict[str, Any])
        # The stub knows no unions for types.
        change: CatalogChange = _converter.structure(members, CatalogChange)  # type: ignore[arg-type]
    except (
        msgspec.DecodeError,
        InvalidInput,
        ValueError,
        TypeError,
        KeyError,
        RecursionError,
    ) as error:
        raise CorruptObject(key, f"it does not hold what it should: {error!r}") from error
    return change
