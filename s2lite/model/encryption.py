"""The key that a client sends along to seal records with, and to open them again."""

import base64
import binascii
from hmac import compare_digest
from typing import NoReturn

from s2lite.model.errors import InvalidInput
from s2lite.model.limits import ENCRYPTION_KEY_BYTES


class EncryptionKey:
    """A client's key. It lives as long as the request it came with, and is never written anywhere.

    Nothing shows it: not its repr, so that whatever holds one may be logged, and it can be neither
    copied nor pickled. Comparing two takes the same time whatever they share.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != ENCRYPTION_KEY_BYTES:
            raise InvalidInput(f"an encryption key is {ENCRYPTION_KEY_BYTES} bytes")
        self._secret = bytes(secret)

    @classmethod
    def parse(cls, text: bytes) -> "EncryptionKey":
        """Decode a key from padded base64; raises `InvalidInput`, which does not quote it."""
        try:
            secret = base64.b64decode(text, validate=True)
        except binascii.Error:
            secret = b""
        # What encodes differently had stray bits behind its last byte.
        if len(secret) != ENCRYPTION_KEY_BYTES or base64.b64encode(secret) != text:
            raise InvalidInput(f"it must be {ENCRYPTION_KEY_BYTES} bytes in padded base64")
        return cls(secret)

    @property
    def secret(self) -> bytes:
        """The key's bytes, for the cipher only."""
        return self._secret

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EncryptionKey):
            return NotImplemented
        return compare_digest(self._secret, other._secret)

    __hash__ = None  # type: ignore[assignment]  # a table of keys would keep them

    def __repr__(self) -> str:
        return "EncryptionKey(redacted)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("an encryption key is not copied or pickled")
