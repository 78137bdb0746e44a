"""What each object is for."""

from random import Random

import attrs
import pytest

from actors.testing import VirtualClock
from s2lite.model.manifest import Manifest, ObjectId, Run
from s2lite.storage.inventory import (
    FOREIGN_KEYS_SHOWN,
    Kind,
    Name,
    Needs,
    Pile,
    Standing,
    parse_name,
    survey,
)
from s2lite.storage.manifest import manifest_key
from s2lite.storage.wal import wal_key
from tests.fakes.object_store import FakeObjectStore, Op
from tests.storage.path_writer import BODY, PathWriter, info_of


def name_of(key: str) -> Name:
    name = parse_name(key)
    assert name is not None
    return name


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (wal_key(7), Name(Kind.WAL, 7)),
        (manifest_key(12), Name(Kind.MANIFEST, 12)),
        ("segment/0000000003-0000000004", Name(Kind.SEGMENT, object_id=ObjectId(3, 4))),
        ("segment/12345678901-0000000004", Name(Kind.SEGMENT, object_id=ObjectId(12345678901, 4))),
        ("catalog/0000000003-0000000004", Name(Kind.CATALOG, object_id=ObjectId(3, 4))),
        ("catalog/0000000003-0000000004.copy", Name(Kind.CATALOG, object_id=ObjectId(3, 4))),
        ("segment/0000000003-0000000004.copy", None),
        ("segment/3-4", None),
        ("segment/00000000003-0000000004", None),
        ("wal/7", None),
        ("wal/00000000000000000007.old", None),
        ("backup/wal/00000000000000000007", None),
        ("segments/0000000003-0000000004", None),
        ("notes.txt", None),
    ],
)
def test_a_key_is_taken_apart_or_foreign(key: str, name: Name | None) -> None:
    assert parse_name(key) == name


OLD, BOTH, NEW, NONE = (ObjectId(4, number) for number in range(4))
PREVIOUS = Manifest(wal_floor=5, runs=(Run(0, (info_of(OLD), info_of(BOTH))),))
NEWEST = Manifest(wal_floor=8, runs=(Run(0, (info_of(BOTH), info_of(NEW))),))
IN_CATALOG = ObjectId(4, 9)
NEEDS = Needs(20, 4, NEWEST, PREVIOUS)


@pytest.mark.parametrize(
    ("key", "standing"),
    [
        (wal_key(4), Standing.UNNEEDED),
        (wal_key(5), Standing.LEAVING),
        (wal_key(7), Standing.LEAVING),
        (wal_key(8), Standing.NEEDED),
        (wal_key(900), Standing.NEEDED),
        (manifest_key(18), Standing.UNNEEDED),
        (manifest_key(19), Standing.NEEDED),
        (manifest_key(20), Standing.NEEDED),
        (manifest_key(21), Standing.NEEDED),
        (f"segment/{OLD}", Standing.LEAVING),
        (f"segment/{BOTH}", Standing.NEEDED),
        (f"segment/{NEW}", Standing.NEEDED),
        (f"segment/{NONE}", Standing.UNFINISHED),
        (f"segment/{ObjectId(3, 1)}", Standing.UNNEEDED),
        (f"segment/{ObjectId(5, 1)}", Standing.OF_A_NEWER_WRITER),
        (f"catalog/{IN_CATALOG}", Standing.UNFINISHED),
        (f"catalog/{ObjectId(3, 1)}.copy", Standing.UNNEEDED),
        (f"catalog/{ObjectId(5, 1)}.copy", Standing.OF_A_NEWER_WRITER),
    ],
)
def test_the_newest_two_manifests_say_how_needed_an_object_is(key: str, standing: Standing) -> None:
    assert NEEDS.standing(name_of(key)) is standing


def test_a_catalog_object_is_needed_with_its_copy() -> None:
    needs = attrs.evolve(NEEDS, newest=attrs.evolve(NEWEST, catalog=(IN_CATALOG,)))
    for key in (f"catalog/{IN_CATALOG}", f"catalog/{IN_CATALOG}.copy"):
        assert needs.standing(name_of(key)) is Standing.NEEDED


def test_every_standing_is_either_kept_or_not() -> None:
    assert [each for each in Standing if not each.kept] == [Standing.LEAVING, Standing.UNNEEDED]


async def test_a_survey_counts_everything_and_changes_nothing() -> None:
    store = FakeObjectStore(Random(1))
    writer = await PathWriter.open(store, VirtualClock())
    await writer.write(3)
    await writer.flush()
    await writer.write(2)
    await writer.flush()
    await writer.make_segment()
    await writer.compact()
    for number in range(FOREIGN_KEYS_SHOWN + 5):
        await store.put_new(f"elsewhere/{number:02d}", b"12")
    before, seen = dict(store.objects), len(store.log)

    found = await survey(store)

    assert store.objects == before
    assert {each.op for each in store.log[seen:]} <= {Op.LIST, Op.GET}
    size = len(BODY)
    manifest_bytes = [len(before[manifest_key(number)].data) for number in range(1, 5)]
    assert found.piles == {
        (Kind.MANIFEST, Standing.UNNEEDED): Pile(2, sum(manifest_bytes[:2])),
        (Kind.MANIFEST, Standing.NEEDED): Pile(2, sum(manifest_bytes[2:])),
        (Kind.WAL, Standing.UNNEEDED): Pile(6, 6 * size),
        (Kind.SEGMENT, Standing.NEEDED): Pile(1, size),
        (Kind.SEGMENT, Standing.LEAVING): Pile(2, 2 * size),
        (Kind.SEGMENT, Standing.UNFINISHED): Pile(1, size),
        (Kind.CATALOG, Standing.NEEDED): Pile(2, 2 * size),
        (Kind.CATALOG, Standing.LEAVING): Pile(4, 4 * size),
    }
    assert found.kept.keys() | found.unneeded.keys() == found.piles.keys()
    assert found.foreign == Pile(FOREIGN_KEYS_SHOWN + 5, 2 * (FOREIGN_KEYS_SHOWN + 5))
    lines = found.lines()
    assert lines[0].startswith("kept: 6 objects (")
    assert "  2 segments (8 bytes), " + Standing.LEAVING.value in lines
    assert lines[-FOREIGN_KEYS_SHOWN:] == [
        f"  elsewhere/{number:02d}" for number in range(FOREIGN_KEYS_SHOWN)
    ]


async def test_an_empty_path_and_one_manifest_can_be_surveyed() -> None:
    store = FakeObjectStore(Random(1))
    assert (await survey(store)).piles == {}
    await PathWriter.open(store, VirtualClock())
    found = await survey(store)
    assert found.unneeded == {}
    assert found.kept.keys() == {(Kind.MANIFEST, Standing.NEEDED), (Kind.WAL, Standing.NEEDED)}


async def test_a_survey_does_without_a_damaged_older_manifest() -> None:
    store = FakeObjectStore(Random(1))
    writer = await PathWriter.open(store, VirtualClock())
    await writer.flush()
    store.damage(manifest_key(1), b"damaged")
    found = await survey(store)
    assert found.kept[Kind.MANIFEST, Standing.NEEDED].count == 2
