"""Server-sent events: what a read session looks like to a browser."""

from typing import Final

import attrs

from s2lite.model.errors import InvalidName
from s2lite.model.limits import U64_MAX

DONE: Final = b"data: [DONE]\n\n"
"""The event that ends a session in good order."""


def encode_event(name: str, data: bytes, event_id: str | None = None) -> bytes:
    """Encode an event; `data` is JSON, which has no newlines when it is compact."""
    identity = "" if event_id is None else f"id: {event_id}\n"
    return b"event: %b\n%bdata: %b\n\n" % (name.encode(), identity.encode(), data)


@attrs.frozen
class BatchEventId:
    """The id of a batch event: its last record, and how much was delivered up to and with it.

    `count` and `metered_bytes` are totals of the connection that delivered the event.
    """

    seq_num: int
    count: int
    metered_bytes: int

    def __str__(self) -> str:
        return f"{self.seq_num},{self.count},{self.metered_bytes}"


def parse_event_id(text: str) -> BatchEventId:
    """Parse a `last-event-id`, three unsigned integers; raises `InvalidName`."""
    parts = [_parse_u64(part) for part in text.split(",", 2)]
    match parts:
        case [int(seq_num), int(count), int(metered_bytes)]:
            return BatchEventId(seq_num, count, metered_bytes)
        case _:
            raise InvalidName("last-event-id", "must be an event's id: `seq_num,count,bytes`")


def _parse_u64(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        return None
    value = int(text)
    return value if value <= U64_MAX else None
