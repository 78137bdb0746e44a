"""What is kept of damage: enough to tell what is wrong, and never more than a bound."""

import logging

import pytest

from s2lite.model.log import StreamId
from s2lite.storage.damage import MAX_ITEMS, MAX_STREAMS, Damage


def stream_id(number: int) -> StreamId:
    return StreamId(number.to_bytes(16, "big"))


def test_the_first_report_of_an_object_is_logged_and_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage = Damage()
    with caplog.at_level(logging.ERROR, "s2lite.storage"):
        damage.report("wal/1", "it is missing")
        damage.report("wal/1", "it is still missing")
        damage.report("wal/2", "it is too long")
    assert damage.items == {"wal/1": "it is missing", "wal/2": "it is too long"}
    assert damage.count == 2
    assert [each.message for each in caplog.records] == [
        "object `wal/1` is damaged: it is missing",
        "object `wal/2` is damaged: it is too long",
    ]


def test_streams_are_added_up_over_reports_each_once() -> None:
    damage = Damage()
    damage.report("wal/1", "it is missing", [stream_id(1)])
    damage.report("wal/1", "it is missing", [stream_id(2), stream_id(1)])
    assert damage.objects[0].streams == {stream_id(1), stream_id(2)}


def test_no_more_is_kept_than_fits_but_all_is_counted() -> None:
    damage = Damage()
    for number in range(MAX_ITEMS + 10):
        damage.report(f"wal/{number}", "it is missing")
    assert len(damage.items) == MAX_ITEMS
    assert damage.count == MAX_ITEMS + 10
    for number in range(3):
        damage.report(f"wal/{number}", "", map(stream_id, range(MAX_STREAMS - 100)))
    assert sum(len(each.streams) for each in damage.objects) == MAX_STREAMS
