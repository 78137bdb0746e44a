"""Listing, and the catalog as the log makes it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2lite.backend.catalog import Catalog
from s2lite.model.config import BasinConfig, StreamConfig
from s2lite.model.log import (
    BasinCreated,
    BasinDeleted,
    BasinRecord,
    BasinRemoved,
    StreamCreated,
    StreamDeleted,
    StreamId,
    StreamRecord,
    StreamRemoved,
)
from s2lite.model.names import BasinName, StreamName
from s2lite.model.resources import ListRequest
from tests.backend.world import BASIN


def catalog_of(*names: str) -> Catalog:
    catalog = Catalog()
    catalog.apply(BasinCreated(BasinRecord(BASIN, BasinConfig(), 0)))
    for name in names:
        catalog.apply(
            StreamCreated(StreamRecord(stream_id(name), BASIN, StreamName(name), StreamConfig(), 0))
        )
    return catalog


def stream_id(name: str) -> StreamId:
    return StreamId(name.encode()[:16].ljust(16, b"\0"))


def listed(catalog: Catalog, request: ListRequest) -> tuple[list[str], bool]:
    page = catalog.list_streams(BASIN, request)
    return [record.name for record in page.items], page.has_more


NAMES = ("b", "a/b", "aa", "a", "a/", "\u00e9", "\U0001f600", "\uffff")


def test_names_are_listed_by_their_bytes() -> None:
    expected = sorted(NAMES, key=str.encode)
    assert expected[:3] == ["a", "a/", "a/b"]
    assert listed(catalog_of(*NAMES), ListRequest()) == (expected, False)


@pytest.mark.parametrize(
    ("prefix", "start_after", "limit", "expected"),
    [
        ("", "", None, (["a", "b", "ba", "bb", "c"], False)),
        ("b", "", None, (["b", "ba", "bb"], False)),
        ("b", "b", None, (["ba", "bb"], False)),
        ("b", "a", None, (["b", "ba", "bb"], False)),
        ("b", "bb", None, ([], False)),
        ("b", "c", None, ([], False)),
        ("b", "b0", None, (["ba", "bb"], False)),
        ("", "bb", None, (["c"], False)),
        ("", "z", None, ([], False)),
        ("x", "", None, ([], False)),
        ("b", "", 3, (["b", "ba", "bb"], False)),
        ("b", "", 2, (["b", "ba"], True)),
        ("", "", 1, (["a"], True)),
        ("", "", 0, (["a", "b", "ba", "bb", "c"], False)),
    ],
)
def test_a_page_of_names(
    prefix: str, start_after: str, limit: int | None, expected: tuple[list[str], bool]
) -> None:
    catalog = catalog_of("a", "b", "ba", "bb", "c")
    request = ListRequest(prefix, start_after, limit)
    assert listed(catalog, request) == expected


short_names = st.text(st.sampled_from("ab/\u00e9"), max_size=3)


@given(st.sets(short_names.filter(bool), max_size=12), short_names, short_names, st.integers(1, 5))
def test_paging_gives_every_match_once_in_order(
    names: set[str], prefix: str, start_after: str, limit: int
) -> None:
    catalog = catalog_of(*names)
    matching = sorted(
        (
            name
            for name in names
            if name.startswith(prefix) and name.encode() > start_after.encode()
        ),
        key=str.encode,
    )
    found: list[str] = []
    has_more = True
    while has_more:
        page, has_more = listed(catalog, ListRequest(prefix, start_after, limit))
        found += page
        assert len(page) == limit or not has_more
        start_after = page[-1] if page else start_after
    assert found == matching


def test_an_unknown_basin_has_no_streams() -> None:
    page = Catalog().list_streams(BasinName("unknown-basin"), ListRequest())
    assert (page.items, page.has_more) == ((), False)


def test_what_is_pending_deletion_is_listed_with_its_time_and_what_is_removed_is_not() -> None:
    catalog = catalog_of("a", "b", "c")
    catalog.apply(StreamDeleted(stream_id("a"), 7))
    catalog.apply(StreamDeleted(stream_id("b"), 8))
    catalog.apply(StreamRemoved(stream_id("b")))
    page = catalog.list_streams(BASIN, ListRequest())
    assert [(record.name, record.deleted_at_ms) for record in page.items] == [
        ("a", 7),
        ("c", None),
    ]
    assert catalog.deleted_streams() == [stream_id("a")]
    assert catalog.stream_by_id(stream_id("b")) is None


def test_whoever_holds_an_entry_sees_that_it_was_removed() -> None:
    catalog = catalog_of("a")
    entry = catalog.stream(BASIN, StreamName("a"))
    assert entry is not None
    catalog.apply(StreamRemoved(stream_id("a")))
    assert entry.removed
    catalog.apply(
        StreamCreated(StreamRecord(stream_id("x"), BASIN, StreamName("a"), StreamConfig(), 9))
    )
    assert entry.removed
    successor = catalog.stream(BASIN, StreamName("a"))
    assert successor is not None
    assert not successor.removed


def test_a_basin_is_listed_until_it_is_removed() -> None:
    catalog = catalog_of()
    catalog.apply(BasinDeleted(BASIN, 5))
    assert catalog.deleted_basins() == [BASIN]
    assert [record.deleted_at_ms for record in catalog.list_basins(ListRequest()).items] == [5]
    catalog.apply(BasinRemoved(BASIN))
    assert catalog.list_basins(ListRequest()).items == ()
    assert catalog.deleted_basins() == []
