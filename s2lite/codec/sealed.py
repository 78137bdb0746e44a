"""Sealed payloads: how the records of an encrypted stream are stored.

Theory of operation. The payload of a batch is a sequence of *frames*, each for records that follow
each other. A *sealed* frame holds ordinary records, encrypted; a *clear* frame holds commands,
which the server itself has to read and write without a key. A frame says how long it is and which
records it holds, so payloads of adjacent batches may be concatenated like plain ones, and limits
can be applied to frames that nobody has opened.

Each sealed frame is encrypted under a key and a nonce of its own, both derived from the client's
key and 32 random bytes in the frame. So neither of the two ciphers ever sees one of its keys twice,
and how many frames a client's key may seal is bounded by collisions among 256-bit numbers alone:
not by the 96 bits of an AES-GCM nonce, which random ones would exhaust at 2^32 frames. What a frame
says of itself, and the id of its stream, are authenticated with it: a frame that was changed, cut,
or put into another place does not open.
"""

import hmac
import struct
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyaegis import Aegis256, DecryptionError

from s2lite.codec import s2_pb2
from s2lite.codec.protobuf import decode_payload, record_metas
from s2lite.model.config import StreamCipher
from s2lite.model.encryption import EncryptionKey
from s2lite.model.errors import DecryptionFailed, ProtobufError, SealedFrameError
from s2lite.model.log import StreamId
from s2lite.model.records import SequencedBatch

VERSION: Final = 1
SALT_BYTES: Final = 32
AEGIS_TAG_BYTES: Final = 32
GCM_TAG_BYTES: Final = 16

# version, kind, first seq_num, count, first and last timestamp, metered bytes, size of what follows
_HEAD: Final = struct.Struct(">BBQIQQII")
_AEGIS_NONCE_BYTES: Final = 32
_GCM_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_LABEL: Final = b"s2lite sealed frame"

Randomness = Callable[[int], bytes]
"""Gives so many random bytes that nobody can have drawn before: the system's, but in tests."""


class _Kind(IntEnum):
    CLEAR = 0
    AEGIS_256 = 1
    AES_256_GCM = 2


_KINDS: Final = {
    StreamCipher.AEGIS_256: _Kind.AEGIS_256,
    StreamCipher.AES_256_GCM: _Kind.AES_256_GCM,
}
_aegis: Final = Aegis256(AEGIS_TAG_BYTES)


class _Head(NamedTuple):
    version: int
    kind: int
    first_seq_num: int
    records: int
    first_timestamp: int
    last_timestamp: int
    metered_bytes: int
    size: int

    @property
    def salt_bytes(self) -> int:
        return 0 if self.kind == _Kind.CLEAR else SALT_BYTES


@attrs.frozen
class Seal:
    """What the records of one stream are sealed with: its cipher, its id, and a client's key."""

    cipher: StreamCipher
    stream_id: StreamId
    key: EncryptionKey

    def seal(
        self, batch: SequencedBatch, commands: Sequence[int], randomness: Randomness
    ) -> SequencedBatch:
        """Make a batch whose payload is frames; `commands` are the indices that stay clear."""
        frames = [
            self._frame(part, clear=clear, randomness=randomness)
            for clear, part in _parts(batch, commands)
        ]
        return _with_payload(batch, b"".join(frames))

    def frames(self, batch: SequencedBatch) -> Iterator[SequencedBatch]:
        """Cut a batch into its frames: batches that `open` takes one by one, without opening them.

        Raises `SealedFrameError`: what is stored is no sequence of frames of this batch, or of
        another cipher.
        """
        payload, offset, seq_num = batch.payload, 0, batch.first_seq_num
        while offset < len(payload):
            head = self._head(payload, offset)
            end = offset + _HEAD.size + head.salt_bytes + head.size
            if end > len(payload):
                raise SealedFrameError("a sealed frame is cut off")
            next_seq_num = seq_num + head.records
            in_batch = seq_num < next_seq_num <= batch.end_seq_num
            if head.first_seq_num != seq_num or not in_batch:
                raise SealedFrameError("sealed frames are not those of their batch")
            yield SequencedBatch(*head[2:7], payload[offset:end])
            offset, seq_num = end, next_seq_num
        if seq_num != batch.end_seq_num:
            raise SealedFrameError("sealed frames are not those of their batch")

    def open(self, frame: SequencedBatch) -> SequencedBatch:
        """Open one of the `frames`: its records, as a plain payload.

        Raises `DecryptionFailed`, and `SealedFrameError` for a clear frame with other records than
        commands. Nothing proves who wrote one: it must not pass for what a key would have to open.
        """
        head = self._head(frame.payload, 0)
        start = _HEAD.size + head.salt_bytes
        content = frame.payload[start:]
        if head.kind == _Kind.CLEAR:
            _check_commands(frame, content)
            return _with_payload(frame, content)
        key, nonce = self._derive(frame.payload[_HEAD.size : start])
        bound = frame.payload[:start] + self.stream_id
        try:
            if self.cipher is StreamCipher.AEGIS_256:
                opened = bytes(_aegis.decrypt(key, nonce, content, bound))
            else:
                opened = AESGCM(key).decrypt(nonce[:_GCM_NONCE_BYTES], content, bound)
        except (InvalidTag, DecryptionError):
            raise DecryptionFailed() from None
        return _with_payload(frame, opened)

    def _frame(self, part: SequencedBatch, *, clear: bool, randomness: Randomness) -> bytes:
        if clear:
            return _packed_head(_Kind.CLEAR, part) + part.payload
        head = _packed_head(_KINDS[self.cipher], part, self._tag_bytes)
        salt = randomness(SALT_BYTES)
        key, nonce = self._derive(salt)
        bound = head + salt + self.stream_id
        if self.cipher is StreamCipher.AEGIS_256:
            content = _aegis.encrypt(key, nonce, part.payload, bound)
        else:
            content = AESGCM(key).encrypt(nonce[:_GCM_NONCE_BYTES], part.payload, bound)
        return b"".join((head, salt, content))

    def _derive(self, salt: bytes) -> tuple[bytes, bytes]:
        """A frame's own key and nonce, by HKDF-Expand with SHA-512.

        There is nothing to extract: a client's key is as good as random, or nothing can help it.
        """
        info = b"".join((_LABEL, bytes((VERSION, _KINDS[self.cipher])), salt))
        derived = hmac.digest(self.key.secret, info + b"\x01", "sha512")
        return derived[:_KEY_BYTES], derived[_KEY_BYTES : _KEY_BYTES + _AEGIS_NONCE_BYTES]

    def _head(self, payload: bytes, offset: int) -> _Head:
        if len(payload) - offset < _HEAD.size:
            raise SealedFrameError("a sealed frame is cut off")
        head = _Head._make(_HEAD.unpack_from(payload, offset))
        if head.version != VERSION:
            raise SealedFrameError(f"a sealed frame has version {head.version}, not {VERSION}")
        if head.kind == _Kind.CLEAR:
            return head
        if head.kind != _KINDS[self.cipher]:
            raise SealedFrameError(f"a frame of a stream with {self.cipher} is of another kind")
        if head.size < self._tag_bytes:
            raise SealedFrameError("a sealed frame is cut off")
        return head

    @property
    def _tag_bytes(self) -> int:
        return AEGIS_TAG_BYTES if self.cipher is StreamCipher.AEGIS_256 else GCM_TAG_BYTES


def clear_frames(batch: SequencedBatch) -> SequencedBatch:
    """Make a batch of nothing but commands fit for an encrypted stream; that takes no key."""
    return _with_payload(batch, _packed_head(_Kind.CLEAR, batch) + batch.payload)


def _packed_head(kind: _Kind, records: SequencedBatch, tag_bytes: int = 0) -> bytes:
    return _HEAD.pack(
        VERSION,
        kind,
        records.first_seq_num,
        records.count,
        records.first_timestamp,
        records.last_timestamp,
        records.metered_bytes,
        len(records.payload) + tag_bytes,
    )


def _parts(batch: SequencedBatch, commands: Sequence[int]) -> Iterator[tuple[bool, SequencedBatch]]:
    """Cut a plain batch into runs of commands and of other records; says which is which."""
    if not commands:
        yield False, batch
        return
    # Batches with commands are rare, so they may be decoded again.
    records, metas = decode_payload(batch.payload), record_metas(batch.payload)
    clear = set(commands)
    start = 0
    for stop in range(1, batch.count + 1):
        if stop < batch.count and (stop in clear) == (start in clear):
            continue
        yield (
            start in clear,
            SequencedBatch(
                batch.first_seq_num + start,
                stop - start,
                metas[start].timestamp,
                metas[stop - 1].timestamp,
                sum(meta.metered_bytes for meta in metas[start:stop]),
                s2_pb2.ReadBatch(records=records[start:stop]).SerializeToString(),
            ),
        )
        start = stop


def _check_commands(frame: SequencedBatch, content: bytes) -> None:
    try:
        records = decode_payload(content)
    except ProtobufError as error:
        raise SealedFrameError(str(error)) from None
    numbered = all(
        record.seq_num == seq_num for seq_num, record in enumerate(records, frame.first_seq_num)
    )
    if len(records) != frame.count or not numbered:
        raise SealedFrameError("a clear frame holds other records than it says")
    if not all(len(record.headers) == 1 and not record.headers[0].name for record in records):
        raise SealedFrameError("a clear frame holds more than commands")


def _with_payload(batch: SequencedBatch, payload: bytes) -> SequencedBatch:
    return SequencedBatch(
        batch.first_seq_num,
        batch.count,
        batch.first_timestamp,
        batch.last_timestamp,
        batch.metered_bytes,
        payload,
    )
