"""How a writer knows that it still is the writer of its path, and for how long it may rely on it.

Theory of operation. Ownership is lost without notice: another process takes the next epoch, and
from then on this one must neither ack nor answer a read as current. What it can have is a *proof*:
a moment at which no newer writer served yet. That is the start of a put that became the newest of
an unbroken prefix of ours (a newer writer would have fenced that prefix off), or the start of a
look at the manifests that found no newer epoch. Moments are times of a clock that goes on while
the machine sleeps.

- *Reads* are current for `lease_seconds` after a proof. A newer writer waits for as long after
  fencing us off, so that until then nobody has seen anything newer. An answer is current as well if
  the proof is from after the question.
- *Writes* prove themselves, except that the number they created may have been used by a newer
  writer and collected since: then the put succeeds and means nothing. A collector deletes nothing
  that it has not seen to be unneeded for an hour, so a put that ended within a minute of a proof
  cannot have met such a number. After any other the manifests are looked at.
- *The look* is one request for the number after our newest manifest. It, too, may have been created
  and collected, but not within half an hour of a proof; after that the manifests are listed, where
  the newest, which is never collected, cannot be missing.
"""

import logging
import random
from collections.abc import Callable
from typing import Final

import attrs
import trio

from actors.clock import Clock
from s2lite.codec.envelope import HEADER_BYTES, Header, ObjectKind, WriterIdentity, read_header
from s2lite.model.errors import CorruptObject, StorageError, WriterFenced
from s2lite.storage.manifest import MANIFEST_PREFIX, manifest_key
from s2lite.storage.numbered import numbered
from s2lite.storage.objects.object_store import ObjectNotFound, ObjectStore, ObjectTooShort
from s2lite.storage.retry import retrying

_log = logging.getLogger("s2lite.storage")

WRITES_PROVEN_SECONDS: Final = 60.0
"""A put that ended so long after a proof has not met a number that was collected."""

NEXT_NUMBER_PROVEN_SECONDS: Final = 30 * 60.0
"""The number after our newest manifest has not been collected so long after a proof."""


def _tell_nobody(error: WriterFenced) -> None:
    pass


@attrs.define(eq=False)
class _Look:
    """A look at the manifests that is under way; without an error it ended well or was given up."""

    done: trio.Event = attrs.field(factory=trio.Event)
    error: StorageError | None = None


@attrs.define(eq=False)
class Ownership:
    """When this process last knew that it was the writer; safe to use from many tasks at once.

    `manifest_number` is the number of the newest manifest that this writer knows of. With
    `lease_seconds` None something else, a lock, keeps other writers out: then nothing here makes a
    request. `on_fenced` is told once, when a newer writer has been found; it must not block or
    raise. From then on whatever may raise `WriterFenced` does so at once.
    """

    store: ObjectStore
    clock: Clock
    writer: WriterIdentity
    manifest_number: Callable[[], int]
    rng: random.Random
    lease_seconds: float | None
    on_fenced: Callable[[WriterFenced], None] = _tell_nobody
    _proof: float = -float("inf")
    _fenced: WriterFenced | None = None
    _look: _Look | None = None

    def now(self) -> float:
        """The time, in seconds, by the clock in which proofs are dated."""
        return self.clock.elapsed_seconds()

    def proved(self, started: float) -> None:
        """Note that what was started then shows that no newer writer served before it.

        Only for a put that `ensure_writes_proven` has vouched for; else see `confirm`.
        """
        self._proof = max(self._proof, started)

    @property
    def is_current(self) -> bool:
        """Whether `ensure_current` would return at once."""
        if self._fenced is not None:
            return False
        return self.lease_seconds is None or self.now() - self._proof <= self.lease_seconds

    async def ensure_current(self) -> None:
        """Return when what this process shows is what is current; look at it before any wait.

        Raises `WriterFenced`, and `StorageError` if the store does not tell. When cancelled, others
        that wait for the same answer get theirs.
        """
        asked = self.now()
        while not self.is_current and (self._fenced is not None or self._proof < asked):
            await self._look_once()

    async def ensure_writes_proven(self) -> None:
        """Return when the puts that had ended before the call are known to have met free numbers.

        Raises `WriterFenced`, and `StorageError` if the store does not tell.
        """
        ended = self.now()
        while self._fenced is not None or not self._proves_puts_until(ended):
            await self._look_once()

    async def confirm(self, started: float) -> None:
        """Have a put, just ended, that was started then count as a proof; to be called after it.

        The put must be one that a newer writer would have prevented: of the next manifest, or of
        the WAL object that follows an unbroken prefix of ours. Raises as `ensure_writes_proven`.
        """
        await self.ensure_writes_proven()
        self.proved(started)

    def lose(self, error: WriterFenced) -> None:
        """Note that a newer writer has taken over, as whoever met one of its objects found."""
        if self._fenced is None:
            self._fenced = error
            _log.error("not the writer any more, of epoch %d: %s", self.writer.epoch, error)
            self.on_fenced(error)

    def _proves_puts_until(self, ended: float) -> bool:
        return self.lease_seconds is None or ended - self._proof <= WRITES_PROVEN_SECONDS

    # --- looking at the manifests -----------------------------------------------------------------

    async def _look_once(self) -> None:
        """Look, or wait for the look that is under way, which may have begun before this call."""
        if self._fenced is not None:
            raise self._fenced
        look = self._look
        if look is None:
            await self._lead()
            return
        await look.done.wait()
        if look.error is not None:
            raise look.error

    async def _lead(self) -> None:
        self._look = look = _Look()
        try:
            await self._prove()
        except StorageError as error:
            look.error = error
            raise
        finally:
            # Also when cancelled: then one of those who waited looks in its turn.
            self._look = None
            look.done.set()

    async def _prove(self) -> None:
        started, last_proof = self.now(), self._proof
        await self._walk_up(self.manifest_number())
        # Only now: the machine may have slept before the walk's last request.
        if self.now() - last_proof > NEXT_NUMBER_PROVEN_SECONDS:
            await self._walk_up(await self._newest_listed())
        self.proved(started)

    async def _newest_listed(self) -> int:
        """The number of the newest manifest, by a listing."""
        while True:
            found = await retrying(
                MANIFEST_PREFIX, lambda: self.store.list(MANIFEST_PREFIX), self.rng
            )
            listed = numbered(found, MANIFEST_PREFIX)
            newest = listed[-1].key if listed else MANIFEST_PREFIX
            ours = manifest_key(self.manifest_number())
            if newest < ours:
                raise CorruptObject(ours, "it is missing")
            try:
                return (await self._check(newest)).number
            except ObjectNotFound:
                continue  # it was collected after the listing, and so there is a newer one

    async def _walk_up(self, number: int) -> None:
        """Check the manifests above this number; our own are there while we commit one."""
        while True:
            number += 1
            try:
                await self._check(manifest_key(number))
            except ObjectNotFound:
                return

    async def _check(self, key: str) -> Header:
        """The header of a manifest, unless it shows a newer writer: that raises `WriterFenced`."""
        header = await retrying(key, lambda: self._read_header(key), self.rng)
        # An epoch can be given twice, to an opener who slept while the number it then took was
        # used and collected; but not both of them can have gone unnoticed by the other.
        if header.writer != self.writer and header.writer.epoch >= self.writer.epoch:
            self.lose(WriterFenced.by(header.writer.epoch))
        if self._fenced is not None:
            raise self._fenced
        return header

    async def _read_header(self, key: str) -> Header:
        """What says whose a manifest is can be read even where the rest of it is damaged."""
        try:
            head = await self.store.get_range(key, 0, HEADER_BYTES)
        except ObjectTooShort as error:
            raise CorruptObject(key, f"it is cut short at {error.size} bytes") from error
        header = read_header(key, head)
        if header.kind is not ObjectKind.MANIFEST or manifest_key(header.number) != key:
            raise CorruptObject(key, f"it is {header.kind.name.lower()} number {header.number}")
        return header
