"""What a request says outside its body: names in path and headers, and the `s2-` headers.

Every function raises `BadRequest` for a value that is missing or breaks its rule.
"""

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from s2lite.api.asgi import Request
from s2lite.api.errors import BadRequest, ErrorCode, blamed_on
from s2lite.codec import control_json
from s2lite.codec.sse import BatchEventId, parse_event_id
from s2lite.model.config import StreamCipher, StreamConfigLayer
from s2lite.model.encryption import EncryptionKey
from s2lite.model.errors import EncryptionKeyMissing, InvalidInput
from s2lite.model.limits import ENCRYPTION_KEY_BYTES
from s2lite.model.names import (
    BasinName,
    StreamName,
    parse_basin_name,
    parse_request_token,
    parse_stream_name,
)

T = TypeVar("T")

_MAX_KEY_CHARACTERS = (ENCRYPTION_KEY_BYTES + 2) // 3 * 4  # padded base64


def basin_in_path(segment: str) -> BasinName:
    """Parse a path segment, still percent-encoded, as a basin's name."""
    return path_value(segment, parse_basin_name)


def stream_in_path(segment: str) -> StreamName:
    """Parse a path segment, still percent-encoded, as a stream's name."""
    return path_value(segment, parse_stream_name)


def path_value(segment: str, parse: Callable[[str], T]) -> T:
    """Decode a path segment once and parse what comes out."""
    try:
        text = unquote_to_bytes(segment.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise BadRequest(ErrorCode.BAD_PATH, "the path is not UTF-8") from None
    with blamed_on(ErrorCode.BAD_PATH):
        return parse(text)


def basin_header(request: Request) -> BasinName:
    """Parse `s2-basin`, which every request about streams must have."""
    value = request.header(b"s2-basin")
    if value is None:
        raise BadRequest(ErrorCode.BAD_HEADER, "missing header s2-basin")
    with blamed_on(ErrorCode.BAD_HEADER):
        return parse_basin_name(value.decode("latin-1"))


def request_token_header(request: Request) -> str | None:
    """Parse `s2-request-token`; the empty token is a token."""
    value = request.header(b"s2-request-token")
    if value is None:
        return None
    with blamed_on(ErrorCode.BAD_HEADER):
        return parse_request_token(value.decode("latin-1"))


def check_encryption_key_header(request: Request) -> None:
    """Check the shape of `s2-encryption-key`, before anything is known of the stream."""
    value = request.header(b"s2-encryption-key")
    if value is None:
        return
    key = value.strip()
    if not key.isascii() or not 0 < len(key) <= _MAX_KEY_CHARACTERS:
        text = f"s2-encryption-key must be 1 to {_MAX_KEY_CHARACTERS} ASCII characters"
        raise BadRequest(ErrorCode.BAD_HEADER, text)


def encryption_key(request: Request, cipher: StreamCipher) -> EncryptionKey:
    """Parse `s2-encryption-key` for a stream that turned out to have a cipher.

    Raises `EncryptionKeyMissing` if there is none.
    """
    value = request.header(b"s2-encryption-key")
    if value is None:
        raise EncryptionKeyMissing(cipher)
    try:
        return EncryptionKey.parse(value.strip())
    except InvalidInput as error:
        text = f"s2-encryption-key does not fit the stream's cipher {cipher}: {error}"
        raise BadRequest(ErrorCode.BAD_HEADER, text) from None


def stream_config_header(request: Request) -> StreamConfigLayer | None:
    """Parse `s2-stream-config`, which a stream gets if this request creates it."""
    value = request.header(b"s2-stream-config")
    if value is None:
        return None
    with blamed_on(ErrorCode.BAD_HEADER):
        return control_json.decode_stream_config_header(value)


def last_event_id_header(request: Request) -> BatchEventId | None:
    """Parse `last-event-id`, the id of the last event that a broken SSE session delivered."""
    value = request.header(b"last-event-id")
    if value is None:
        return None
    with blamed_on(ErrorCode.BAD_HEADER):
        return parse_event_id(value.decode("latin-1"))
