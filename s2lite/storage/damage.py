"""What was found damaged since the start: for the log, the metrics, and whoever asks for health.

Damage stays where it is. Whoever meets it reports it here and goes on with what is left; whoever
asked for exactly that which is damaged gets `CorruptObject`.
"""

import logging
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

import attrs

from s2lite.codec.envelope import CHECKSUM, HEADER, HEADER_BYTES, MAGIC, checksum, read_header
from s2lite.model.errors import CorruptObject, StorageError
from s2lite.model.log import StreamId

_log = logging.getLogger("s2lite.storage")

MAX_ITEMS: Final = 1000
"""So many damaged objects are kept by name; of any more it is only known how many reports came."""

MAX_STREAMS: Final = 10_000
"""So many affected streams are kept in all."""


@attrs.define
class NewerFormat(StorageError):
    """An object is not damaged: a newer version of this server wrote it, and this one cannot."""

    key: str
    reason: str

    def __str__(self) -> str:
        return f"object `{self.key}` cannot be read by this version: {self.reason}"


@attrs.frozen(eq=False)
class DamagedObject:
    """One object, why it cannot be read, and the streams known to be affected."""

    key: str
    reason: str
    streams: set[StreamId] = attrs.field(factory=set)


@attrs.define(eq=False)
class Damage:
    """What was found damaged, by the key of the object. Bounded, however much there is.

    `catalog_is_whole` is False once a change of the catalog may have been lost: then a stream that
    the catalog does not know may have existed all the same, and its records must not be deleted.
    """

    catalog_is_whole: bool = True
    unnamed: int = 0
    _objects: dict[str, DamagedObject] = attrs.field(factory=dict)
    _streams: int = 0

    def report(self, key: str, reason: str, streams: Iterable[StreamId] = ()) -> None:
        """Note that an object is damaged, and which streams that affects, if it is known.

        The first report of an object is logged; further ones only add to its streams.
        """
        found = self._objects.get(key)
        if found is None:
            if len(self._objects) == MAX_ITEMS:
                self.unnamed += 1
                return
            _log.error("object `%s` is damaged: %s", key, reason)
            found = self._objects[key] = DamagedObject(key, reason)
        for stream_id in streams:
            if stream_id not in found.streams and self._streams < MAX_STREAMS:
                found.streams.add(stream_id)
                self._streams += 1

    @property
    def items(self) -> Mapping[str, str]:
        """Why each damaged object cannot be read."""
        return MappingProxyType({key: found.reason for key, found in self._objects.items()})

    @property
    def objects(self) -> list[DamagedObject]:
        """What is damaged, in the order in which it was found."""
        return list(self._objects.values())

    @property
    def count(self) -> int:
        """How many objects are damaged; reports of objects that are not kept by name count each."""
        return len(self._objects) + self.unnamed


def refuse_newer_format(key: str, data: bytes) -> None:
    """Raise `NewerFormat` if an object that does not decode has an intact header.

    Called before anything is given up as damaged: an older version that was started by mistake must
    not take what it does not understand for lost.
    """
    if len(data) < HEADER_BYTES or not data.startswith(MAGIC):
        return
    if CHECKSUM.unpack_from(data, HEADER.size)[0] != checksum(data[: HEADER.size]):
        return
    try:
        read_header(key, data)
    except CorruptObject as error:
        raise NewerFormat(key, error.reason) from error
