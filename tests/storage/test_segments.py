"""Writing runs, and reading parts of their segments back."""

from collections.abc import Iterator, Sequence
from itertools import count
from random import Random

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple
from trio.testing import MockClock

from s2lite.codec.envelope import WriterIdentity, read_header
from s2lite.codec.segment import BlockRow
from s2lite.model.errors import CorruptObject, StorageFailed
from s2lite.model.log import AppendEntry
from s2lite.model.manifest import ObjectId, SegmentInfo, StreamKey
from s2lite.storage.block_cache import open_block_cache
from s2lite.storage.creation import ObjectCreator
from s2lite.storage.layout import KIB, MIB, Layout
from s2lite.storage.objects.object_store import ObjectNotFound
from s2lite.storage.segments import Place, RunWriter, Segments, entries_in, segment_key
from tests.fakes.object_store import FakeObjectStore, Fault, Latency, Op
from tests.storage.run_log import (
    ONE,
    SMALL,
    THREE,
    TWO,
    all_entries,
    entry_of,
    payload_of,
    write_run,
)

JOINING = attrs.evolve(SMALL, entry_bytes=100, block_bytes=10_000)
NOTHING_JOINED = attrs.evolve(SMALL, block_bytes=10_000)


def new_ids() -> Iterator[ObjectId]:
    return (ObjectId(1, number) for number in count(1))


@attrs.define(eq=False)
class Written:
    """A run, and all that is in it."""

    store: FakeObjectStore
    infos: tuple[SegmentInfo, ...]
    rows: list[tuple[SegmentInfo, BlockRow]]
    entries: list[AppendEntry]


def creator_of(store: FakeObjectStore) -> ObjectCreator:
    return ObjectCreator(store, WriterIdentity(1, bytes(16)), Random(1))


async def read_back(store: FakeObjectStore, infos: tuple[SegmentInfo, ...]) -> Written:
    written = Written(store, infos, [], [])
    async with open_block_cache(MIB) as cache:
        segments = Segments(store, cache, Random(1))
        for info in infos:
            rows = list((await segments.footer(info)).rows())
            written.rows.extend((info, row) for row in rows)
            written.entries.extend(await all_entries(segments, info))
    return written


async def written(layout: Layout, entries: Sequence[AppendEntry]) -> Written:
    store, ids = FakeObjectStore(Random(1)), new_ids()
    infos = await write_run(creator_of(store), layout, entries, lambda: next(ids))
    return await read_back(store, infos)


def values(entries: Sequence[AppendEntry]) -> list[tuple[object, ...]]:
    return [(e.stream_id, astuple(e.batch), e.expires_at_ms) for e in entries]


# --- writing ------------------------------------------------------------------------------------


async def test_a_run_of_nothing_has_no_segments_and_writes_none() -> None:
    run = await written(SMALL, [])
    assert run.infos == ()
    assert not run.store.log


async def test_what_is_written_is_read_back_in_order() -> None:
    entries = [entry_of(ONE, n) for n in range(7)] + [entry_of(TWO, n, 2) for n in range(0, 8, 2)]
    run = await written(SMALL, entries)
    assert values(run.entries) == values(entries)
    assert len(run.infos) > 1
    for info, following in zip(run.infos, run.infos[1:], strict=False):
        assert info.first < info.end <= following.first


async def test_a_segment_says_whose_it_is() -> None:
    run = await written(SMALL, [entry_of(ONE, n) for n in range(20)])
    for info in run.infos:
        data = run.store.objects[segment_key(info.object_id)].data
        header = read_header("key", data)
        assert (header.writer.epoch, header.number) == info.object_id
        assert len(data) == info.size_bytes


async def test_a_block_has_entries_of_one_stream_and_no_more_than_its_size() -> None:
    entries = [entry_of(each, n) for each in (ONE, TWO, THREE) for n in range(5)]
    layout = attrs.evolve(SMALL, block_bytes=200, segment_bytes=10**6)
    run = await written(layout, entries)
    assert [(row.stream_id, row.first_seq_num, row.end_seq_num) for _, row in run.rows] == [
        (each, *span) for each in (ONE, TWO, THREE) for span in ((0, 3), (3, 5))
    ]
    assert max(row.size for _, row in run.rows) <= 200


async def test_a_batch_larger_than_a_block_is_a_block_of_its_own() -> None:
    sizes = (20, 5000, 20, 20)
    run = await written(
        attrs.evolve(SMALL, block_bytes=200),
        [entry_of(ONE, n, size=s) for n, s in enumerate(sizes)],
    )
    assert [(row.first_seq_num, row.end_seq_num) for _, row in run.rows] == [(0, 1), (1, 2), (2, 4)]


async def test_a_segment_ends_when_its_blocks_or_its_index_are_large_enough() -> None:
    entries = [entry_of(ONE, n) for n in range(40)]
    by_blocks = await written(attrs.evolve(SMALL, segment_bytes=500), entries)
    assert {info.footer_offset - 64 >= 500 for info in by_blocks.infos[:-1]} == {True}
    by_index = await written(attrs.evolve(SMALL, segment_bytes=10**6, footer_bytes=300), entries)
    assert [info.first.seq_num for info in by_index.infos] == list(range(0, 40, 4))
    assert by_index.infos[0].end == StreamKey(ONE, 4)


async def test_small_neighbours_are_joined_to_one_entry() -> None:
    run = await written(JOINING, [entry_of(ONE, 3 * n, 3, size=10) for n in range(7)])
    assert [(e.batch.first_seq_num, e.batch.count) for e in run.entries] == [
        (0, 9),
        (9, 9),
        (18, 3),
    ]
    for entry in run.entries:
        batch = entry.batch
        assert batch.payload == payload_of(ONE, batch.first_seq_num, batch.end_seq_num, 10)
        assert batch.metered_bytes == 8 * batch.count
        assert batch.first_timestamp == batch.first_seq_num // 3 * 10
        assert batch.last_timestamp == (batch.end_seq_num - 1) // 3 * 10


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([entry_of(ONE, 0), entry_of(TWO, 1)], "of two streams"),
        ([entry_of(ONE, 0), entry_of(ONE, 2)], "with a gap between them"),
        ([entry_of(ONE, 0, size=60), entry_of(ONE, 1, size=60)], "too large together"),
        ([entry_of(ONE, 0, 999, size=0), entry_of(ONE, 999, 2, size=0)], "too many records"),
        ([entry_of(ONE, 0), entry_of(ONE, 1, expires=9)], "one of which expires"),
        ([entry_of(ONE, 0, expires=1999), entry_of(ONE, 1, expires=2000)], "in different seconds"),
    ],
)
async def test_what_has_to_be_told_apart_is_not_joined(
    entries: list[AppendEntry], why: str
) -> None:
    layout = attrs.evolve(JOINING, entry_bytes=10_000 if "records" in why else 100)
    run = await written(layout, entries)
    assert values(run.entries) == values(entries)


async def test_what_expires_in_the_same_second_is_joined_and_expires_with_the_last() -> None:
    expiries = (1000, 1999, 1500)
    run = await written(JOINING, [entry_of(ONE, n, expires=e) for n, e in enumerate(expiries)])
    assert [entry.expires_at_ms for entry in run.entries] == [1999]


async def test_a_block_expires_when_all_of_it_has() -> None:
    entries = [entry_of(ONE, n, expires=e) for n, e in enumerate((5000, 9000, 7000))]
    [(_, row)] = (await written(NOTHING_JOINED, entries)).rows
    assert row.expires_at_ms == 9000
    [(_, row)] = (await written(NOTHING_JOINED, [*entries, entry_of(ONE, 3)])).rows
    assert row.expires_at_ms == 2**64 - 1


async def test_blocks_are_copied_between_entries_in_order() -> None:
    old = await written(SMALL, [entry_of(ONE, n) for n in range(1, 6)])
    store, ids = old.store, (ObjectId(2, number) for number in count())
    async with open_block_cache(MIB) as cache:
        segments = Segments(store, cache, Random(1))
        async with RunWriter(creator_of(store), lambda: next(ids), JOINING) as writer:
            await writer.add(entry_of(ONE, 0))
            for info, row in old.rows:
                [item] = segments.start_blocks([Place(info, row)])
                data = await item.value()
                assert isinstance(data, bytes)
                await writer.add_block(row, data)
            await writer.add(entry_of(ONE, 6))
            new = await read_back(store, await writer.finish())
    assert values(new.entries) == values([entry_of(ONE, n) for n in range(7)])
    assert [row.checksum for _, row in new.rows[1:-1]] == [row.checksum for _, row in old.rows]


async def test_a_segment_is_written_while_the_next_is_put_together_but_not_a_third(
    autojump_clock: MockClock,
) -> None:
    store, ids = FakeObjectStore(Random(1)), new_ids()
    gate = store.hold("segment/")
    added: list[int] = []

    async def adding(writer: RunWriter) -> None:
        for n in range(50):
            await writer.add(entry_of(ONE, n))
            added.append(n)

    async with RunWriter(creator_of(store), lambda: next(ids), SMALL) as writer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(adding, writer)
            await gate.wait_held()
            await trio.testing.wait_all_tasks_blocked()
            stood_at = len(added)
            assert len(writer.created) == 1
            assert 4 < stood_at < 12
            gate.release()
        infos = await writer.finish()
    assert [info.object_id for info in infos] == writer.created
    assert len(added) == 50


async def test_a_segment_that_cannot_be_written_fails_the_run_with_its_own_error(
    autojump_clock: MockClock,
) -> None:
    store, ids = FakeObjectStore(Random(1)), new_ids()
    store.fail_next(Op.PUT_NEW, "segment/", Fault.REFUSED)
    with pytest.raises(StorageFailed):
        await write_run(
            creator_of(store), SMALL, [entry_of(ONE, n) for n in range(50)], lambda: next(ids)
        )
    store.fail_next(Op.PUT_NEW, "segment/", Fault.REFUSED)
    with pytest.raises(StorageFailed):
        await write_run(creator_of(store), SMALL, [entry_of(ONE, 0)], lambda: next(ids))


async def test_leaving_early_raises_what_it_was_left_with_and_gives_the_write_up(
    autojump_clock: MockClock,
) -> None:
    store, ids = FakeObjectStore(Random(1)), new_ids()
    gate = store.hold("segment/")

    async def leaving_early() -> None:
        async with RunWriter(creator_of(store), lambda: next(ids), SMALL) as writer:
            for n in range(7):
                await writer.add(entry_of(ONE, n))
            await gate.wait_held()
            assert writer.created == [ObjectId(1, 1)]
            raise CorruptObject("key", "reason")

    with pytest.raises(CorruptObject):
        await leaving_early()
    assert [each.outcome for each in store.log] == ["cancelled"]


async def test_a_write_that_hangs_can_be_cancelled(autojump_clock: MockClock) -> None:
    store, ids = FakeObjectStore(Random(1)), new_ids()
    store.hold("segment/")
    with trio.move_on_after(5) as scope:
        await write_run(creator_of(store), SMALL, [entry_of(ONE, 0)], lambda: next(ids))
    assert scope.cancelled_caught


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.sampled_from((ONE, TWO, THREE)),
            st.integers(1, 4),
            st.sampled_from((0, 5, 60, 300)),
            st.sampled_from((None, 1000, 2000)),
            st.integers(0, 1),
        ),
        max_size=40,
    ),
    st.builds(
        Layout,
        entry_bytes=st.sampled_from((0, 40, 1000)),
        block_bytes=st.sampled_from((1, 100, 10_000)),
        segment_bytes=st.sampled_from((1, 300, 10_000)),
        footer_bytes=st.sampled_from((1, 200, 10_000)),
    ),
)
def test_whatever_is_written_comes_back(
    appends: list[tuple[bytes, int, int, int | None, int]], layout: Layout
) -> None:
    entries: list[AppendEntry] = []
    position: dict[bytes, int] = {}
    records: dict[tuple[bytes, int], tuple[bytes, int | None]] = {}
    for stream_id, number, size, expires, gap in sorted(appends, key=lambda each: each[0]):
        first = position.get(stream_id, 0) + gap
        entry = entry_of(stream_id, first, number, expires=expires, size=size)  # type: ignore[arg-type]  # a StreamId is bytes
        entries.append(entry)
        position[stream_id] = first + number
        for each in range(first, first + number):
            payload = payload_of(entry.stream_id, each, each + 1, size)
            records[stream_id, each] = (payload, expires)

    async def check() -> None:
        run = await written(layout, entries)
        read = dict[tuple[bytes, int], tuple[bytes, int | None]]()
        for entry in run.entries:
            batch, payload = entry.batch, b""
            for each in range(batch.first_seq_num, batch.end_seq_num):
                read[entry.stream_id, each] = record = records[entry.stream_id, each]
                assert record[1] == entry.expires_at_ms
                payload += record[0]
            assert batch.payload == payload
            assert batch.count <= 1000
        assert list(read) == list(records)
        keys = [key for info in run.infos for key in (info.first, info.end)]
        assert keys == sorted(keys)

    trio.run(check, clock=MockClock(autojump_threshold=0))


# --- reading ------------------------------------------------------------------------------------


async def test_a_long_range_is_read_by_a_few_large_requests_at_once(
    autojump_clock: MockClock,
) -> None:
    run = await written(Layout(), [entry_of(ONE, n, size=250 * KIB) for n in range(32)])
    places = [Place(*each) for each in run.rows]
    run.store.latency = Latency.all(1, 1)
    for wanted, requests in ((places, 4), (places[:5], 1), ([places[0], places[2]], 2)):
        run.store.log.clear()
        async with open_block_cache(64 * MIB) as cache:
            started = trio.current_time()
            for item in Segments(run.store, cache, Random(1)).start_blocks(wanted):
                await item.value()
            assert trio.current_time() - started == pytest.approx(1)
            assert len(run.store.log) == requests


async def test_what_is_in_the_cache_is_not_read_again(autojump_clock: MockClock) -> None:
    run = await written(SMALL, [entry_of(ONE, n) for n in range(4)])
    places = [Place(*each) for each in run.rows][:3]
    async with open_block_cache(MIB) as cache:
        segments = Segments(run.store, cache, Random(1))
        segments.read_ahead(places[1:2])
        run.store.log.clear()
        items = segments.start_blocks(places)
        segments.read_ahead(places)
        numbers = [
            entry.batch.first_seq_num
            for place, item in zip(places, items, strict=True)
            for entry in await entries_in(place, item)
        ]
        assert numbers == [0, 1, 2]
        assert len(run.store.log) == 3
        assert (cache.hits, cache.misses) == (1, 2)


async def test_a_footer_is_read_once(autojump_clock: MockClock) -> None:
    run = await written(SMALL, [entry_of(ONE, 0)])
    run.store.log.clear()
    async with open_block_cache(MIB) as cache:
        segments = Segments(run.store, cache, Random(1))
        assert segments.kept_footer(run.infos[0]) is None
        footer = await segments.footer(run.infos[0])
        assert await segments.footer(run.infos[0]) is footer
        assert segments.kept_footer(run.infos[0]) is footer
        assert (cache.misses, cache.hits) == (1, 1)
    assert len(run.store.log) == 1


async def test_a_request_is_made_again_until_it_is_answered(autojump_clock: MockClock) -> None:
    run = await written(SMALL, [entry_of(ONE, 0)])
    run.store.fail_next(Op.GET_RANGE, "segment/", Fault.ERROR_BEFORE, times=3)
    assert len((await read_back(run.store, run.infos)).entries) == 1


async def test_a_bad_block_does_not_spoil_the_others() -> None:
    run = await written(SMALL, [entry_of(ONE, n) for n in range(4)])
    rows = [row for info, row in run.rows if info is run.infos[0]]
    key = segment_key(run.infos[0].object_id)
    data = bytearray(run.store.objects[key].data)
    data[rows[1].offset] ^= 1
    run.store.damage(key, bytes(data))
    async with open_block_cache(MIB) as cache:
        segments = Segments(run.store, cache, Random(1))
        items = segments.start_blocks([Place(run.infos[0], row) for row in rows])
        with pytest.raises(CorruptObject):
            await items[1].value()
        await items[0].value()
        await items[2].value()


async def test_a_segment_that_is_cut_short_or_missing_is_found_out() -> None:
    run = await written(SMALL, [entry_of(ONE, n) for n in range(3)])
    [info, *_] = run.infos
    key = segment_key(info.object_id)
    run.store.damage(key, run.store.objects[key].data[:80])
    async with open_block_cache(MIB) as cache:
        segments = Segments(run.store, cache, Random(1))
        with pytest.raises(CorruptObject, match="cut short"):
            await segments.footer(info)
        with pytest.raises(CorruptObject, match="cut short"):
            await segments.start_blocks([Place(*run.rows[0])])[0].value()
        await run.store.delete(key)
        with pytest.raises(ObjectNotFound):
            await segments.footer(info)
        with pytest.raises(ObjectNotFound):
            await segments.start_blocks([Place(*run.rows[0])])[0].value()
