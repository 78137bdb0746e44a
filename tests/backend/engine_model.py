"""What basins and streams ought to be, for tests that drive a whole engine and crash it.

The model knows every record ever appended, and of what was under way at a crash all that may have
come of it: a stream's possible tails, whether it exists, which of two configs it has. Looking at
the engine afterwards settles which it is, and from then on there is one truth again.

Times are known to the client only as spans: a record was stamped between its submission and its
ack. A record past its expiry may be hidden or not for a moment, see `Stored.may_be_seen`.
"""

from collections.abc import Iterable, Sequence

import attrs

from s2lite.codec import s2_pb2
from s2lite.model.config import BasinConfig, RetentionPolicy, StreamConfig, StreamConfigLayer
from s2lite.model.errors import FencingTokenMismatch, S2LiteError, SeqNumMismatch
from s2lite.model.records import TERMINAL_TRIM, Command, Fence, Trim, command_parts

FOREVER_MS = 2**62
"""A time that never comes."""

JOINED_MS = 999
"""Small batches that expire within one second may be joined, and then expire with the last."""

Item = bytes | Command


@attrs.define(eq=False)
class Span:
    """A moment that is known to lie between two times, both inclusive."""

    least: int
    most: int = FOREVER_MS

    def narrow(self, least: int, most: int) -> None:
        """It also lies between these two."""
        self.least, self.most = max(self.least, least), min(self.most, most)
        assert self.least <= self.most, f"a time cannot be both in {self} and {(least, most)}"


@attrs.define(eq=False)
class Stored:
    """A record that was appended, or may have been."""

    seq_num: int
    item: Item
    stamp: Span
    expiry: Span

    @property
    def content(self) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Headers and body."""
        return ([], self.item) if isinstance(self.item, bytes) else command_parts(self.item)

    def must_be_seen(self, trim_point: int, until_ms: int) -> bool:
        """Whether readers find it, whichever moment up to `until_ms` they look at."""
        return self.seq_num >= trim_point and until_ms < self.expiry.least

    def may_be_seen(self, trim_point: int, from_ms: int) -> bool:
        """Whether readers may find it, if they look at `from_ms` or later."""
        return self.seq_num >= trim_point and from_ms < self.expiry.most + JOINED_MS

    def check(self, found: s2_pb2.SequencedRecord) -> None:
        """It was read; from its stamp, learn what was not known."""
        assert found.seq_num == self.seq_num
        headers = [(header.name, header.value) for header in found.headers]
        assert (headers, found.body) == self.content, f"record {self.seq_num} has other content"
        self.stamp.narrow(found.timestamp, found.timestamp)


@attrs.frozen
class Batch:
    """An append as a client means it. Without `stamps`, its records are stamped on arrival."""

    items: tuple[Item, ...]
    stamps: tuple[int, ...] | None = None
    match: int | None = None
    token: str | None = None


@attrs.define(eq=False)
class StreamModel:
    """One life of a stream, from its creation to its deletion."""

    config: StreamConfig
    records: list[Stored] = attrs.field(factory=list)
    tails: list[int] = attrs.field(factory=lambda: [0])
    """The tails it may have; more than one while appends are under way."""
    created_at_ms: int | None = None
    in_doubt: bool = False
    """Whether it may be that it does not exist (any more)."""
    deleting: bool = False
    """Whether a deletion was asked for, which appends a last record."""
    other_config: StreamConfig | None = None
    """What a reconfiguration that is under way makes of the config."""
    seen_end: int = 0
    """One past the highest record anybody was shown."""

    @property
    def tail(self) -> int:
        """The only tail it may have."""
        (tail,) = self.tails
        return tail

    @property
    def token(self) -> str:
        """The fencing token in force."""
        tokens = [each.item.token for each in self.records if isinstance(each.item, Fence)]
        return tokens[-1] if tokens else ""

    @property
    def trim_point(self) -> int:
        """Records below it are gone."""
        points = [
            min(each.item.trim_point, each.seq_num + 1)
            for each in self.records
            if isinstance(each.item, Trim)
        ]
        return max(points, default=0)

    def verdict(self, batch: Batch) -> type[S2LiteError] | None:
        """What becomes of an append: None if it is accepted."""
        if batch.token not in (None, self.token):
            return FencingTokenMismatch
        if batch.match not in (None, len(self.records)):
            return SeqNumMismatch
        return None

    # --- appends ------------------------------------------------------------------------------

    def append(self, batch: Batch, now_ms: int) -> Sequence[Stored]:
        """Submit an append that will be accepted. From now on it may be there."""
        age_ms = self.config.retention_policy.age_ms
        added = []
        for index, item in enumerate(batch.items):
            floor = self.records[-1].stamp if self.records else Span(0, 0)
            given = Span(now_ms) if batch.stamps is None else Span(*[batch.stamps[index]] * 2)
            stamp = Span(max(floor.least, given.least), max(floor.most, given.most))
            expiry = Span(FOREVER_MS) if age_ms is None else Span(now_ms + age_ms)
            added.append(Stored(len(self.records), item, stamp, expiry))
            self.records.append(added[-1])
        self.tails.append(len(self.records))
        return added

    def acked(self, records: Sequence[Stored], start_ms: int, end_ms: int, now_ms: int) -> None:
        """An append is acked, with the stamps of its first and its last record."""
        records[0].stamp.narrow(start_ms, start_ms)
        records[-1].stamp.narrow(end_ms, end_ms)
        self._happened_by(records, now_ms)
        end = records[-1].seq_num + 1
        self.tails = [tail for tail in self.tails if tail >= end]

    def shown(self, seq_num: int) -> None:
        """Somebody was shown that record: a crash must not undo it."""
        self.seen_end = max(self.seen_end, seq_num + 1)

    def tail_is_stamped(self, timestamp: int) -> None:
        """Learn the stamp of the last record; there is none if nothing was ever appended."""
        if self.records:
            self.records[-1].stamp.narrow(timestamp, timestamp)
        for record in self.records:
            record.stamp.most = min(record.stamp.most, timestamp)

    def settle_tail(self, tail: int, now_ms: int) -> None:
        """It turned out to have this tail."""
        assert tail in self.tails, f"the tail is {tail} and not one of {self.tails}"
        assert tail >= self.seen_end, f"the tail is {tail}, but {self.seen_end - 1} was shown"
        del self.records[tail:]
        self.tails = [tail]
        self._happened_by(self.records, now_ms)

    def _happened_by(self, records: Iterable[Stored], now_ms: int) -> None:
        age_ms = self.config.retention_policy.age_ms
        for record in records:
            # Stamps are never above the server's time, and arrival comes before the ack.
            record.stamp.most = max(record.stamp.least, min(record.stamp.most, now_ms))
            if record.expiry.most == FOREVER_MS and record.expiry.least < FOREVER_MS:
                assert age_ms is not None
                record.expiry.most = now_ms + age_ms

    # --- reads --------------------------------------------------------------------------------

    def check_followed(self, found: s2_pb2.SequencedRecord) -> None:
        """Compare a record that a follower was given, at whatever time that was."""
        if self.deleting and found.seq_num == len(self.records):
            assert found.body == command_parts(TERMINAL_TRIM)[1]
            return
        assert found.seq_num < len(self.records), "it was never appended"
        self.records[found.seq_num].check(found)
        self.shown(found.seq_num)

    def check_read(
        self,
        found: Sequence[s2_pb2.SequencedRecord],
        wanted: Sequence[Stored],
        times_ms: tuple[int, int],
        limit: int | None = None,
    ) -> None:
        """Compare what a read between two times found with the records that were asked for.

        All that must be seen has to be there, up to `limit` records, and nothing that may not be.
        """
        trim_point = self.trim_point
        rest = list(found)
        for record in wanted:
            if limit is not None and len(found) - len(rest) == limit:
                break
            if rest and rest[0].seq_num == record.seq_num:
                assert record.may_be_seen(trim_point, times_ms[0]), (
                    f"{record} is trimmed or expired"
                )
                record.check(rest.pop(0))
                self.shown(record.seq_num)
            else:
                assert not record.must_be_seen(trim_point, times_ms[1]), f"{record} is missing"
        assert not rest, f"record {rest[0].seq_num} was not asked for"


@attrs.define(eq=False)
class BasinModel:
    """One life of a basin."""

    config: BasinConfig
    streams: dict[str, StreamModel] = attrs.field(factory=dict)
    created_at_ms: int | None = None
    in_doubt: bool = False
    other_config: BasinConfig | None = None


def retention(age_seconds: int | None) -> StreamConfigLayer:
    """A layer that sets the retention, and nothing else."""
    return StreamConfigLayer(retention_policy=RetentionPolicy(age_seconds))
