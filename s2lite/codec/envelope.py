"""The frame around every object in the store: who wrote it, as which version, and is it whole.

    offset  size  field
         0     4  magic, "S2LT"
         4     1  kind (ObjectKind)
         5     1  major version of the kind's format: a reader refuses one it does not know
         6     1  minor version: additions that an older reader may ignore
         7     1  zero
         8     8  number of the object within its kind
        16     8  epoch of the writer
        24    16  id of the writer process
        40     8  nonce of this write
        48     8  length of the body
        56     8  xxh3-64 of bytes 0 to 55
        64     n  body
      64+n     8  xxh3-64 of the body

All integers are unsigned and big-endian. The writer id and the nonce let a writer whose request was
answered ambiguously find out whether the object it finds is its own.
"""

import enum
import struct

import attrs
import xxhash

from s2lite.model.errors import CorruptObject

MAGIC = b"S2LT"
HEADER = struct.Struct(">4sBBBBQQ16sQQ")
CHECKSUM = struct.Struct(">Q")
HEADER_BYTES = HEADER.size + CHECKSUM.size
"""64: what has to be read of an object to learn whose it is."""


class ObjectKind(enum.IntEnum):
    """What the body of an object is."""

    WAL = 1
    FENCE = 2
    MANIFEST = 3
    SEGMENT = 4
    CATALOG = 5


FORMAT_VERSIONS: dict[ObjectKind, tuple[int, int]] = {
    ObjectKind.WAL: (1, 1),
    ObjectKind.FENCE: (1, 1),
    ObjectKind.MANIFEST: (2, 0),
    ObjectKind.SEGMENT: (1, 0),
    ObjectKind.CATALOG: (1, 0),
}
"""The (major, minor) version this server writes. It reads this major one and all before it."""


@attrs.frozen
class WriterIdentity:
    """Who writes: the epoch won when the path was opened, and a random id of the process."""

    epoch: int
    writer_id: bytes


@attrs.frozen
class Header:
    """The identity of one object, and the (major, minor) version of its format."""

    kind: ObjectKind
    number: int
    writer: WriterIdentity
    nonce: int
    version: tuple[int, int] = attrs.field()

    @version.default
    def _written_version(self) -> tuple[int, int]:
        return FORMAT_VERSIONS[self.kind]


def checksum(*pieces: bytes | bytearray | memoryview) -> int:
    """xxh3-64 of the pieces as one, as it is used in every object."""
    if len(pieces) == 1:
        return xxhash.xxh3_64_intdigest(pieces[0])
    state = xxhash.xxh3_64()
    for piece in pieces:
        state.update(piece)
    return state.intdigest()


def seal(header: Header, *body: bytes) -> bytes:
    """The whole object: header, body and body checksum. The body may come in pieces."""
    head = encode_head(header, sum(map(len, body)))
    return b"".join((head, *body, CHECKSUM.pack(checksum(*body))))


def encode_head(header: Header, body_bytes: int) -> bytes:
    """The first `HEADER_BYTES` bytes of an object, for whoever puts the rest together himself.

    What follows are `body_bytes` of body, and their `checksum` packed as `CHECKSUM`.
    """
    major, minor = header.version
    head = HEADER.pack(
        MAGIC,
        header.kind,
        major,
        minor,
        0,
        header.number,
        header.writer.epoch,
        header.writer.writer_id,
        header.nonce,
        body_bytes,
    )
    return head + CHECKSUM.pack(checksum(head))


def read_header(key: str, data: bytes | memoryview) -> Header:
    """The header of an object, from its first `HEADER_BYTES` bytes or more.

    Raises `CorruptObject` if it is damaged, or written in a format newer than this server reads.
    """
    return _parse_header(key, data)[0]


def read_head(key: str, data: bytes, *kinds: ObjectKind) -> tuple[Header, int]:
    """The header of an object of one of `kinds`, and how many bytes its body should have.

    For formats that verify their body in parts; it may be damaged or cut short. Raises
    `CorruptObject` if the header is damaged, too new, or that of another kind.
    """
    header, body_bytes = _parse_header(key, data)
    if header.kind not in kinds:
        raise CorruptObject(key, f"it is a {header.kind.name.lower()} object")
    return header, body_bytes


def unseal(key: str, data: bytes, *kinds: ObjectKind) -> tuple[Header, memoryview]:
    """The header and the verified body of a whole object of one of `kinds`.

    Raises `CorruptObject` naming `key` if anything about it is wrong.
    """
    header, body_bytes = read_head(key, data, *kinds)
    if len(data) != HEADER_BYTES + body_bytes + CHECKSUM.size:
        raise CorruptObject(key, f"it has {len(data)} bytes, and its header says otherwise")
    body = memoryview(data)[HEADER_BYTES : HEADER_BYTES + body_bytes]
    (expected,) = CHECKSUM.unpack_from(data, HEADER_BYTES + body_bytes)
    if checksum(body) != expected:
        raise CorruptObject(key, "the checksum of its body does not match")
    return header, body


def _parse_header(key: str, data: bytes | memoryview) -> tuple[Header, int]:
    if len(data) < HEADER_BYTES:
        raise CorruptObject(key, f"it is cut short at {len(data)} bytes")
    magic, kind, major, minor, _, number, epoch, writer_id, nonce, length = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise CorruptObject(key, "it does not begin like an object of this server")
    (expected,) = CHECKSUM.unpack_from(data, HEADER.size)
    if checksum(data[: HEADER.size]) != expected:
        raise CorruptObject(key, "the checksum of its header does not match")
    try:
        object_kind = ObjectKind(kind)
    except ValueError:
        raise CorruptObject(key, f"its kind {kind} is unknown: a newer server wrote it") from None
    if major > FORMAT_VERSIONS[object_kind][0]:
        raise CorruptObject(
            key, f"its format version {major}.{minor} is newer than this server reads"
        )
    writer = WriterIdentity(epoch, writer_id)
    return Header(object_kind, number, writer, nonce, (major, minor)), length
