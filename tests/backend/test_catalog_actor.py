"""The catalog as decided: durable rows, and what pending changes make of them."""

import attrs

from s2lite.backend.catalog import Catalog
from s2lite.backend.catalog_actor import Overlay
from s2lite.model.config import BasinConfig, StreamConfig
from s2lite.model.log import (
    BasinCreated,
    BasinRecord,
    CatalogChange,
    StreamCreated,
    StreamDeleted,
    StreamId,
    StreamReconfigured,
    StreamRecord,
    StreamRemoved,
)
from s2lite.model.names import StreamName
from tests.backend.world import BASIN, STREAM

ONE, TWO = StreamId(b"1" * 16), StreamId(b"2" * 16)
UNCAPPED = StreamConfig(timestamping_uncapped=True)


def record(stream_id: StreamId, name: StreamName = STREAM) -> StreamRecord:
    return StreamRecord(stream_id, BASIN, name, StreamConfig(), 0)


def overlay_of(*durable: CatalogChange) -> Overlay:
    catalog = Catalog()
    catalog.apply(BasinCreated(BasinRecord(BASIN, BasinConfig(), 0)))
    for change in durable:
        catalog.apply(change)
    return Overlay(catalog)


def test_a_pending_stream_can_be_changed_by_its_id() -> None:
    overlay = overlay_of()
    overlay.add(StreamCreated(record(ONE)), 1)
    overlay.add(StreamReconfigured(ONE, UNCAPPED), 2)
    assert overlay.stream(BASIN, STREAM) == attrs.evolve(record(ONE), config=UNCAPPED)
    overlay.add(StreamDeleted(ONE, 7), 3)
    assert overlay.stream(BASIN, STREAM) == attrs.evolve(
        record(ONE), config=UNCAPPED, deleted_at_ms=7
    )
    overlay.add(StreamRemoved(ONE), 4)
    assert overlay.stream(BASIN, STREAM) is None


def test_changes_of_a_durable_stream_build_on_those_that_are_pending() -> None:
    overlay = overlay_of(StreamCreated(record(ONE)))
    overlay.add(StreamReconfigured(ONE, UNCAPPED), 1)
    overlay.settle(0)
    overlay.add(StreamDeleted(ONE, 7), 2)
    pending = overlay.stream(BASIN, STREAM)
    assert pending is not None
    assert pending.config == UNCAPPED


def test_a_stream_made_again_under_its_name_is_not_the_one_that_was_removed() -> None:
    overlay = overlay_of(StreamCreated(record(ONE)))
    overlay.add(StreamRemoved(ONE), 1)
    overlay.add(StreamCreated(record(TWO)), 2)
    overlay.add(StreamReconfigured(TWO, UNCAPPED), 3)
    found = overlay.stream(BASIN, STREAM)
    assert found == attrs.evolve(record(TWO), config=UNCAPPED)


def test_what_is_durable_is_shown_as_the_durable_catalog_has_it() -> None:
    overlay = overlay_of(StreamCreated(record(ONE)))
    overlay.add(StreamReconfigured(ONE, UNCAPPED), 1)
    overlay.add(StreamCreated(record(TWO, StreamName("two"))), 2)
    overlay.settle(1)
    assert overlay.stream(BASIN, STREAM) == record(ONE)
    overlay.add(StreamReconfigured(TWO, UNCAPPED), 3)
    assert overlay.stream(BASIN, StreamName("two")) is not None
    overlay.durable.apply(StreamReconfigured(ONE, UNCAPPED))
    overlay.add(StreamDeleted(ONE, 7), 4)
    pending = overlay.stream(BASIN, STREAM)
    assert pending is not None
    assert pending.config == UNCAPPED
