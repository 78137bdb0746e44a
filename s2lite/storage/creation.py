"""Creates numbered objects so that their writer knows whether it was the one who did.

Theory of operation. A put that creates if absent can be answered ambiguously: the connection
breaks, a retry (ours, or one inside the client of the store) meets the object of the first attempt.
"Already exists" then proves nothing. Every object carries its writer's id and a nonce drawn for
this write; an object in the way is ours if and only if both match.
"""

import random
from collections.abc import Callable

import attrs

from s2lite.codec.envelope import HEADER_BYTES, Header, ObjectKind, WriterIdentity, read_header
from s2lite.model.errors import CorruptObject, StorageError, WriterFenced
from s2lite.storage.objects.object_store import ObjectExists, ObjectStore, ObjectTooShort
from s2lite.storage.retry import retrying


@attrs.define
class NumberTaken(StorageError):
    """Another write owns the number; `header` says whose."""

    key: str
    header: Header

    def __str__(self) -> str:
        return f"object `{self.key}` belongs to the writer of epoch {self.header.writer.epoch}"


@attrs.frozen(eq=False)
class ObjectCreator:
    """Creates objects as one writer, with retries; safe to use from many tasks at once."""

    store: ObjectStore
    writer: WriterIdentity
    rng: random.Random

    async def create(
        self, kind: ObjectKind, number: int, key: str, encode: Callable[[Header], bytes | bytearray]
    ) -> None:
        """Create the object `encode` makes for the header it is given; durable on return.

        Raises `NumberTaken` if another write owns the key, `CorruptObject` if what is there does
        not say whose it is, and `StorageFailed` if the outcome cannot be learned before the
        deadline or the store refuses. After a cancellation or a failure the object may or may not
        exist.
        """
        header = Header(kind, number, self.writer, nonce=self.rng.getrandbits(64))
        data = encode(header)
        await retrying(key, lambda: self._attempt(key, header, data), self.rng, len(data))

    async def _attempt(self, key: str, header: Header, data: bytes | bytearray) -> None:
        try:
            await self.store.put_new(key, data)
        except ObjectExists:
            owner = await self._owner_of(key)
            if (owner.writer, owner.nonce) != (header.writer, header.nonce):
                raise NumberTaken(key, owner) from None

    async def _owner_of(self, key: str) -> Header:
        try:
            head = await self.store.get_range(key, 0, HEADER_BYTES)
        except ObjectTooShort as error:
            raise CorruptObject(key, f"it is cut short at {error.size} bytes") from error
        return read_header(key, head)

    def refuse_newer(self, taken: NumberTaken) -> None:
        """Raise `WriterFenced` if the number was taken by a writer that came after this one."""
        if taken.header.writer.epoch > self.writer.epoch:
            raise WriterFenced.by(taken.header.writer.epoch) from taken
