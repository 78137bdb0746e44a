"""Keys: what is one, and that nothing shows it."""

import base64
import copy
import pickle
import traceback

import attrs
import pytest

from s2lite.model.encryption import EncryptionKey
from s2lite.model.errors import InvalidInput

SECRET = b"a key of letters, 32 bytes of it"
TEXT = base64.b64encode(SECRET)


def test_a_key_is_parsed_from_padded_base64() -> None:
    assert EncryptionKey.parse(TEXT).secret == SECRET


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"!!!!",
        b"AAAA",
        base64.b64encode(SECRET[:31]),
        base64.b64encode(SECRET + b"x"),
        TEXT.rstrip(b"="),
        TEXT[:-2] + b"\n=",
        TEXT[:-2] + b"D=",  # bits behind the last byte
        base64.urlsafe_b64encode(b"\xff" * 32),
        b" " + TEXT,
        b"=" * 44,
        b"\xff" * 44,
    ],
)
def test_anything_else_is_refused_without_being_quoted(text: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        EncryptionKey.parse(text)
    shown = "".join(traceback.format_exception(caught.value))
    assert len(text) < 5 or text.decode("latin-1") not in shown.replace(__file__, "")
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_refused(secret: bytes) -> None:
    with pytest.raises(InvalidInput):
        EncryptionKey(secret)


def test_keys_are_compared_by_what_they_are() -> None:
    assert EncryptionKey(SECRET) == EncryptionKey.parse(TEXT)
    assert EncryptionKey(SECRET) != EncryptionKey(bytes(32))
    assert EncryptionKey(SECRET) != SECRET


def test_nothing_shows_a_key() -> None:
    @attrs.frozen
    class Holder:
        key: EncryptionKey

    key = EncryptionKey(SECRET)
    for shown in (str(key), f"{key}", repr(Holder(key)), repr([key]), f"{key!r}"):
        assert "redacted" in shown
        assert TEXT.decode() not in shown
        assert SECRET.decode() not in shown
        assert SECRET.hex() not in shown
    assert not hasattr(key, "__dict__")


def test_a_key_is_neither_copied_nor_pickled_nor_hashed() -> None:
    key = EncryptionKey(SECRET)
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps, hash):
        with pytest.raises(TypeError):
            attempt(key)
