"""Opening what is stored, one piece at a time: limits are for records, not for what seals them."""

from collections.abc import Iterable
from typing import Protocol

import attrs

from s2lite.codec.sealed import Seal
from s2lite.model.encryption import EncryptionKey
from s2lite.model.errors import EncryptionKeyMissing
from s2lite.model.log import StreamRecord
from s2lite.model.records import SequencedBatch


class Opener(Protocol):
    """Turns stored batches into records."""

    def pieces(self, batch: SequencedBatch) -> Iterable[SequencedBatch]:
        """The parts of a stored batch that can be opened by themselves; their totals are known."""

    def open(self, piece: SequencedBatch) -> SequencedBatch:
        """A piece with its records as a plain payload. Raises `DecryptionFailed`."""


@attrs.frozen
class _Plain:
    def pieces(self, batch: SequencedBatch) -> Iterable[SequencedBatch]:
        return (batch,)

    def open(self, piece: SequencedBatch) -> SequencedBatch:
        return piece


@attrs.frozen
class _Sealed:
    _seal: Seal

    def pieces(self, batch: SequencedBatch) -> Iterable[SequencedBatch]:
        return self._seal.frames(batch)

    def open(self, piece: SequencedBatch) -> SequencedBatch:
        return self._seal.open(piece)


def opener_of(record: StreamRecord, key: EncryptionKey | None) -> Opener:
    """What opens the records of a stream; raises `EncryptionKeyMissing` if that takes a key."""
    if record.cipher is None:
        return _Plain()
    if key is None:
        raise EncryptionKeyMissing(record.cipher)
    return _Sealed(Seal(record.cipher, record.stream_id, key))
