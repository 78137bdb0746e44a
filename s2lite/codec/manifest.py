"""Manifest objects: a JSON body in the common envelope."""

from s2lite.codec.catalog import from_json, to_json
from s2lite.codec.envelope import Header, ObjectKind, seal, unseal
from s2lite.model.manifest import Manifest


def encode_manifest(header: Header, manifest: Manifest) -> bytes:
    """The whole object."""
    return seal(header, to_json(manifest, Manifest))


def decode_manifest(key: str, data: bytes) -> tuple[Header, Manifest]:
    """The header and the manifest; raises `CorruptObject` naming `key` if it is damaged."""
    header, body = unseal(key, data, ObjectKind.MANIFEST)
    manifest: Manifest = from_json(key, bytes(body), Manifest)
    return header, manifest
