"""Listing, the catalog as the log makes it, and what is made of a log that lost something."""

import gc
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from s2lite.backend.catalog import MAX_LOST_RANGES, Catalog, DurableState, StreamEntry
from s2lite.codec.catalog_object import (
    decode_catalog_object,
    encode_catalog_object,
    encode_catalog_page,
    split_facts,
)
from s2lite.codec.envelope import Header, ObjectKind, WriterIdentity
from s2lite.codec.wal import LostEntry
from s2lite.model.config import BasinConfig, StreamConfig, StreamConfigLayer
from s2lite.model.errors import CorruptObject
from s2lite.model.log import (
    AppendEntry,
    BasinCreated,
    BasinDeleted,
    BasinReconfigured,
    BasinRecord,
    BasinRemoved,
    CatalogFacts,
    LogEntry,
    LostRange,
    StreamCreated,
    StreamCreation,
    StreamDeleted,
    StreamId,
    StreamReconfigured,
    StreamRecord,
    StreamRemoved,
    StreamState,
)
from s2lite.model.names import BasinName, StreamName
from s2lite.model.positions import StreamPosition
from s2lite.model.records import SequencedBatch
from s2lite.model.resources import ListRequest
from s2lite.storage.damage import Damage
from s2lite.storage.layout import Layout
from s2lite.storage.memtable import Memtable
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


# --- the state as the log makes it --------------------------------------------------------------

ONE, TWO = StreamId(b"1" * 16), StreamId(b"2" * 16)
DAMAGED = CorruptObject("wal/7", "its checksum does not match")


def state_of(*entries: LogEntry) -> DurableState:
    state = DurableState(Catalog(), Memtable(Layout()), Damage())
    state.apply_all(entries)
    return state


def basin_created(name: BasinName = BASIN) -> BasinCreated:
    return BasinCreated(BasinRecord(name, BasinConfig(), 0))


def created(stream_id: StreamId, name: str = "", at_ms: int = 0) -> StreamCreated:
    stream = StreamName(name or stream_id.decode())
    return StreamCreated(StreamRecord(stream_id, BASIN, stream, StreamConfig(), at_ms))


def batch(
    stream_id: StreamId, start: int, end: int, *, token: str | None = None, trim: int | None = None
) -> AppendEntry:
    sequenced = SequencedBatch(start, end - start, 10 * start, 10 * end, 8, b"x")
    return AppendEntry(stream_id, sequenced, fencing_token=token, trim_point=trim)


def entry_of(state: DurableState, stream_id: StreamId = ONE) -> StreamEntry:
    entry = state.catalog.stream_by_id(stream_id)
    assert entry is not None
    return entry


def lost_of(state: DurableState, stream_id: StreamId = ONE) -> list[tuple[int, int]]:
    return [(each.start, each.end) for each in entry_of(state, stream_id).state.lost]


def starts(state: DurableState, stream_id: StreamId = ONE) -> list[int]:
    return [each.batch.first_seq_num for each in state.memtable.find(stream_id, 0, 10**9)]


def test_a_batch_moves_the_tail_and_what_else_it_says() -> None:
    state = state_of(basin_created(), created(ONE), batch(ONE, 0, 3, token="t"))
    state.apply(batch(ONE, 3, 4, trim=2))
    assert entry_of(state).state == StreamState(
        entry_of(state).record, StreamPosition(4, 40), "t", 2
    )
    assert starts(state) == [0, 3]
    assert state.damage.count == 0


def test_a_state_that_was_taken_does_not_change_with_the_stream() -> None:
    state = state_of(basin_created(), created(ONE))
    entry, taken = entry_of(state), entry_of(state).state
    before = replace(taken)
    state.apply(batch(ONE, 0, 3, token="t", trim=1))
    state.apply(StreamDeleted(ONE, 5))
    assert taken == before
    assert entry.tail.seq_num == 3
    assert entry.record.deleted_at_ms == 5


def test_the_memtable_has_the_newest_of_all_that_changed() -> None:
    other = BasinName("other-basin")
    state = state_of(basin_created(), basin_created(other), created(ONE), created(TWO))
    facts = state.memtable.active.facts
    state.apply_all([batch(ONE, 0, 1), batch(TWO, 0, 1), StreamRemoved(TWO), BasinRemoved(other)])
    assert facts.streams == {ONE: entry_of(state).state, TWO: None}
    assert facts.basins == {BASIN: state.catalog.basin(BASIN), other: None}
    state.apply(BasinDeleted(BASIN, 3))
    config = StreamConfig(timestamping_uncapped=True)
    state.apply(StreamReconfigured(ONE, config))
    assert facts.streams[ONE] == entry_of(state).state
    assert entry_of(state).record.config == config
    assert facts.basins[BASIN] == BasinRecord(BASIN, BasinConfig(), 0, 3)
    assert starts(state, TWO) == []


def test_the_memtable_is_whole_after_each_wal_object() -> None:
    state = state_of(basin_created(), created(ONE))
    before = state.memtable.whole
    state.advanced(4)
    assert (before, state.memtable.whole) == (False, True)
    assert state.memtable.wal_end == 5


def test_the_floor_of_a_stream_is_its_trim_point_while_it_is_there() -> None:
    state = state_of(basin_created(), created(ONE), batch(ONE, 0, 5, trim=3))
    assert state.floor_of(ONE) == 3
    assert state.floor_of(TWO) is None
    state.damage.catalog_is_whole = False
    assert state.floor_of(ONE) == 3
    assert state.floor_of(TWO) == 0


def test_compaction_is_told_when_a_stream_shrinks() -> None:
    state = state_of(basin_created(), created(ONE), batch(ONE, 0, 5))
    told: list[StreamId] = []
    state.on_shrunk = told.append
    state.apply(batch(ONE, 5, 6))
    assert told == []
    state.apply(batch(ONE, 6, 7, trim=3))
    state.apply(StreamDeleted(ONE, 5))
    assert told == [ONE]
    state.apply(StreamRemoved(ONE))
    assert told == [ONE, ONE]


# --- loading --------------------------------------------------------------------------------------


def loaded(*states: StreamState, basins: Iterable[BasinName] = (BASIN,)) -> DurableState:
    state = DurableState(Catalog(), Memtable(Layout()), Damage())
    state.load(CatalogFacts({name: BasinRecord(name, BasinConfig(), 0) for name in basins}))
    for each in states:
        state.load(CatalogFacts(streams={each.record.stream_id: each}))
    return state


def test_what_is_loaded_is_there_and_is_no_change() -> None:
    lost = (LostRange(1, 2, "damage"),)
    stream = StreamState(created(ONE).record, StreamPosition(9, 99), "t", 4, lost)
    state = loaded(stream)
    assert entry_of(state).state == stream
    assert state.catalog.stream(BASIN, StreamName("1" * 16)) is entry_of(state)
    assert state.memtable.active.is_empty
    assert state.damage.count == 0


def test_a_stream_whose_basin_was_lost_can_still_be_reached() -> None:
    state = loaded(StreamState(created(ONE, at_ms=7).record), basins=())
    assert state.catalog.stream(BASIN, StreamName("1" * 16)) is not None
    assert state.catalog.basin(BASIN) == BasinRecord(BASIN, BasinConfig(), 7)
    assert state.memtable.active.facts.basins == {BASIN: state.catalog.basin(BASIN)}
    assert not state.damage.catalog_is_whole


@pytest.mark.parametrize("newer_first", [True, False])
def test_of_two_streams_of_one_name_the_newer_one_is_there(newer_first: bool) -> None:
    both = [StreamState(created(ONE, "s", 1).record), StreamState(created(TWO, "s", 2).record)]
    state = loaded(*(reversed(both) if newer_first else both))
    assert state.catalog.stream_by_id(ONE) is None
    assert state.catalog.stream(BASIN, StreamName("s")) is entry_of(state, TWO)
    assert state.floor_of(ONE) == 0  # nothing is deleted on a guess


def test_tails_go_forward_to_what_the_segments_have_and_never_back() -> None:
    state = loaded(StreamState(created(ONE).record, StreamPosition(9, 99)))
    state.reached(ONE, StreamPosition(8, 200))
    assert entry_of(state).tail == StreamPosition(9, 99)
    state.reached(ONE, StreamPosition(12, 0))
    state.reached(TWO, StreamPosition(12, 0))
    assert entry_of(state).tail == StreamPosition(12, 99)
    assert state.memtable.active.facts.streams == {ONE: entry_of(state).state}
    assert lost_of(state) == []


# --- a log that lost something --------------------------------------------------------------------


def test_a_gap_between_batches_is_a_lost_range() -> None:
    state = state_of(basin_created(), created(ONE), batch(ONE, 0, 2), batch(ONE, 5, 6))
    assert lost_of(state) == [(2, 5)]
    assert entry_of(state).tail == StreamPosition(6, 60)
    assert starts(state) == [0, 5]
    assert state.damage.objects[0].streams == {ONE}


def test_a_gap_is_put_down_to_the_object_that_was_lost() -> None:
    state = state_of(basin_created(), created(ONE), batch(ONE, 0, 2))
    state.lost(LostEntry(None), DAMAGED)
    state.apply(batch(ONE, 5, 6))
    assert [each.reason for each in entry_of(state).state.lost] == [str(DAMAGED)]
    assert state.damage.items == {DAMAGED.key: DAMAGED.reason}
    assert state.damage.objects[0].streams == {ONE}


def test_records_that_are_known_to_be_lost_are_not_numbered_again() -> None:
    state = state_of(basin_created(), created(ONE), batch(ONE, 0, 2))
    state.lost(LostEntry(ONE, 2, 5, 77), DAMAGED)
    assert entry_of(state).tail == StreamPosition(5, 77)
    assert entry_of(state).state.lost == (LostRange(2, 5, str(DAMAGED)),)
    assert state.memtable.active.facts.streams == {ONE: entry_of(state).state}
    state.lost(LostEntry(ONE, 2, 5, 77), DAMAGED)
    state.lost(LostEntry(ONE, 0, 2, 0), DAMAGED)
    state.lost(LostEntry(TWO, 2, 5, 77), DAMAGED)
    assert entry_of(state).tail == StreamPosition(5, 77)
    assert lost_of(state) == [(2, 5)]
    assert state.damage.objects[0].streams == {ONE, TWO}
    assert state.damage.catalog_is_whole


def test_a_timestamp_never_goes_back_over_a_loss() -> None:
    state = state_of(basin_created(), created(ONE), batch(ONE, 0, 2))
    state.lost(LostEntry(ONE, 2, 5, 0), DAMAGED)
    assert entry_of(state).tail == StreamPosition(5, 20)


def test_adjacent_losses_are_one() -> None:
    state = state_of(basin_created(), created(ONE))
    for start in (0, 2, 4):
        state.lost(LostEntry(ONE, start, start + 2, 0), DAMAGED)
    state.apply(batch(ONE, 6, 7))
    state.lost(LostEntry(ONE, 7, 8, 0), DAMAGED)
    assert lost_of(state) == [(0, 6), (7, 8)]


def test_the_oldest_losses_are_merged_where_there_are_too_many() -> None:
    state = state_of(basin_created(), created(ONE))
    for number in range(MAX_LOST_RANGES + 2):
        state.lost(LostEntry(ONE, 2 * number, 2 * number + 1, 0), DAMAGED)
        state.apply(batch(ONE, 2 * number + 1, 2 * number + 2))
    lost = lost_of(state)
    assert len(lost) == MAX_LOST_RANGES
    assert lost[:2] == [(0, 5), (6, 7)]


def test_losses_below_the_trim_point_are_forgotten() -> None:
    state = state_of(basin_created(), created(ONE))
    for start in (0, 4, 8):
        state.lost(LostEntry(ONE, start, start + 2, 0), DAMAGED)
        state.apply(batch(ONE, start + 2, start + 4))
    state.apply(batch(ONE, 12, 13, trim=5))
    assert lost_of(state) == [(4, 6), (8, 10)]
    state.apply(batch(ONE, 13, 14, trim=6))
    assert lost_of(state) == [(8, 10)]


def test_a_batch_whose_numbers_are_taken_is_ignored() -> None:
    state = state_of(basin_created(), created(ONE), batch(ONE, 0, 5), batch(ONE, 3, 5, token="t"))
    assert starts(state) == [0]
    assert entry_of(state).fencing_token == ""
    assert entry_of(state).tail.seq_num == 5
    assert state.damage.count == 1


def test_a_batch_of_a_stream_that_nobody_knows_is_kept() -> None:
    state = state_of(batch(ONE, 3, 5))
    assert starts(state) == [3]
    assert state.memtable.active.facts.streams == {}
    assert state.floor_of(ONE) == 0
    assert state.damage.objects[0].streams == {ONE}


def test_changes_of_what_nobody_knows_are_skipped() -> None:
    state = state_of(
        BasinReconfigured(BASIN, BasinConfig()),
        BasinDeleted(BASIN, 1),
        BasinRemoved(BASIN),
        StreamReconfigured(ONE, StreamConfig()),
        StreamDeleted(ONE, 1),
        StreamRemoved(ONE),
    )
    assert state.memtable.active.is_empty
    assert state.damage.count == 1
    assert not state.damage.catalog_is_whole


def test_a_stream_of_a_basin_that_nobody_knows_brings_it_along() -> None:
    state = state_of(created(ONE))
    assert state.catalog.basin(BASIN) is not None
    assert entry_of(state).record.basin == BASIN
    assert set(state.memtable.active.facts.basins) == {BASIN}


@pytest.mark.parametrize("change", [basin_created(), BasinRemoved(BASIN), created(TWO, "1" * 16)])
def test_what_must_have_been_removed_before_a_change_is_removed(change: LogEntry) -> None:
    state = state_of(basin_created(), created(ONE), batch(ONE, 0, 1))
    entry = entry_of(state)
    state.apply(change)
    assert entry.removed
    assert state.catalog.stream_by_id(ONE) is None
    assert state.memtable.active.facts.streams[ONE] is None
    assert not state.damage.catalog_is_whole


# --- what it costs --------------------------------------------------------------------------------


def many_streams(count: int) -> CatalogFacts:
    """As different as streams of one kind are."""
    states = {}
    for number in range(count):
        stream_id = StreamId(number.to_bytes(16, "big"))
        record = StreamRecord(
            stream_id,
            BasinName("a-basin-with-a-longer-name"),
            StreamName(f"tenants/{number:08d}/events/of/some/kind"),
            StreamConfig(),
            1_700_000_000_000 + number,
            creation=StreamCreation(f"{number:032x}", StreamConfigLayer()),
        )
        tail = StreamPosition(1000 + number, 1_700_000_000_000 + number)
        states[stream_id] = StreamState(record, tail, trim_point=1000 + number // 2)
    basin = BasinName("a-basin-with-a-longer-name")
    return CatalogFacts({basin: BasinRecord(basin, BasinConfig(), 0)}, {**states})


@pytest.mark.slow
def test_an_idle_stream_takes_less_than_a_kibibyte() -> None:
    count = 20_000
    header = Header(ObjectKind.CATALOG, 1, WriterIdentity(1, bytes(16)), 1)
    data = encode_catalog_object(header, map(encode_catalog_page, split_facts(many_streams(count))))
    state = DurableState(Catalog(), Memtable(Layout()), Damage())
    gc.collect()
    tracemalloc.start()
    for page in decode_catalog_object("key", data)[1]:
        assert page.facts is not None
        state.load(page.facts)
    del page
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 1024 * count  # it was 746 when this was written


def test_streams_share_what_they_have_in_common() -> None:
    def record(number: int) -> StreamRecord:
        layer = StreamConfigLayer(timestamping_uncapped=True)
        return StreamRecord(
            StreamId(number.to_bytes(16, "big")),
            BasinName("".join(BASIN)),
            StreamName(f"s{number}"),
            StreamConfig(timestamping_uncapped=True),
            0,
            creation=StreamCreation("token", layer),
        )

    state = loaded(StreamState(record(1)))
    state.apply(StreamCreated(record(2)))
    state.apply(StreamReconfigured(record(2).stream_id, StreamConfig(timestamping_uncapped=True)))
    one, two = (entry_of(state, record(number).stream_id).record for number in (1, 2))
    assert one == record(1)
    assert two == record(2)
    assert one.config is two.config
    assert one.basin is two.basin
    assert one.creation is not None
    assert two.creation is not None
    assert one.creation.config is two.creation.config
