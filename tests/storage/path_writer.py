"""A writer of a storage path in few lines: what it makes, commits and collects, and what it needs.

What is in its objects does not matter to what they are for, so all but manifests are a few bytes.
"""

from random import Random

import attrs

from actors.testing import VirtualClock
from s2lite.codec.envelope import WriterIdentity
from s2lite.codec.manifest import decode_manifest
from s2lite.model.log import StreamId
from s2lite.model.manifest import Manifest, ObjectId, Run, SegmentInfo, StreamKey
from s2lite.storage.catalog_objects import catalog_copy_key, catalog_key
from s2lite.storage.collection import SHARED_MIN_AGE_SECONDS, Collector
from s2lite.storage.creation import ObjectCreator
from s2lite.storage.current_manifest import CurrentManifest, Edit
from s2lite.storage.manifest import MANIFEST_PREFIX, manifest_key, write_manifest
from s2lite.storage.objects.object_store import ObjectStore
from s2lite.storage.ownership import Ownership
from s2lite.storage.segments import segment_key
from s2lite.storage.wal import WAL_PREFIX, wal_key

BODY = b"body"


def info_of(object_id: ObjectId) -> SegmentInfo:
    """A segment that holds what any other does."""
    stream = StreamId(b"s" * 16)
    return SegmentInfo(object_id, len(BODY), 0, StreamKey(stream, 0), StreamKey(stream, 9))


def keys_of(manifest: Manifest) -> set[str]:
    """The objects that a manifest names."""
    return {
        *(segment_key(segment.object_id) for segment in manifest.segments),
        *(catalog_key(each) for each in manifest.catalog),
        *(catalog_copy_key(each) for each in manifest.catalog),
    }


async def read_manifests(store: ObjectStore) -> dict[str, Manifest]:
    """All manifests there are, oldest first."""
    found = [info.key for info in await store.list(MANIFEST_PREFIX)]
    return {key: decode_manifest(key, await store.get(key))[1] for key in found}


@attrs.define(eq=False)
class PathWriter:
    """The writer of one epoch. `next_wal` is the number of its next WAL object."""

    store: ObjectStore
    manifest: CurrentManifest
    collector: Collector
    next_wal: int

    @classmethod
    async def open(
        cls,
        store: ObjectStore,
        clock: VirtualClock,
        *,
        min_age: float = SHARED_MIN_AGE_SECONDS,
        lease: float | None = 1.0,
        seed: int = 0,
    ) -> "PathWriter":
        """Take over the path, as far as manifests tell; set a fence after what is in the WAL."""
        rng = Random(seed)
        key, base = next(
            reversed((await read_manifests(store)).items()), (manifest_key(0), Manifest())
        )
        number = int(key.removeprefix(MANIFEST_PREFIX)) + 1
        writer = WriterIdentity(number, rng.randbytes(16))
        ownership = Ownership(store, clock, writer, lambda: number, rng, lease)
        started = ownership.now()
        creator = ObjectCreator(store, writer, rng)
        await write_manifest(creator, number, base)
        manifest = CurrentManifest(creator, ownership, number, base, base)
        ownership.manifest_number = lambda: manifest.number
        await ownership.confirm(started)
        collector = Collector(store, manifest, clock, min_age)
        manifest.on_commit = collector.committed
        last = [info.key for info in await store.list(WAL_PREFIX)][-1:]
        next_wal = max([base.wal_floor, *(int(key.removeprefix(WAL_PREFIX)) + 1 for key in last)])
        self = cls(store, manifest, collector, next_wal)
        await self.write()
        return self

    async def write(self, count: int = 1) -> None:
        """Write WAL objects."""
        for _ in range(count):
            await self.store.put_new(wal_key(self.next_wal), BODY)
            self.next_wal += 1

    async def make_segment(self) -> ObjectId:
        """Write a segment that no manifest names yet."""
        object_id = self.manifest.new_object_id()
        await self.store.put_new(segment_key(object_id), BODY)
        return object_id

    async def make_catalog(self) -> ObjectId:
        """Write a catalog object that no manifest names yet."""
        object_id = self.manifest.new_object_id()
        await self.store.put_new(catalog_key(object_id), BODY)
        await self.store.put_new(catalog_copy_key(object_id), BODY)
        return object_id

    async def flush(self) -> None:
        """Cover the WAL by a segment and a catalog object."""
        await self.manifest.commit(await self.make_flush())

    async def make_flush(self) -> Edit:
        """Do all of a flush but the commit."""
        segment, catalog, floor = (
            await self.make_segment(),
            await self.make_catalog(),
            self.next_wal,
        )
        return lambda old: attrs.evolve(
            old,
            runs=(*old.runs, Run(0, (info_of(segment),))),
            catalog=(*old.catalog, catalog),
            wal_floor=floor,
        )

    async def compact(self) -> None:
        """Merge all runs into one, and all catalog objects, too."""
        segment, catalog = await self.make_segment(), await self.make_catalog()
        await self.manifest.commit(
            lambda old: attrs.evolve(old, runs=(Run(1, (info_of(segment),)),), catalog=(catalog,))
        )

    async def drop_oldest_run(self) -> None:
        """Have the oldest run be dead as a whole."""
        await self.manifest.commit(lambda old: attrs.evolve(old, runs=old.runs[1:]))

    async def commit_nothing(self) -> None:
        """Commit the same manifest again."""
        await self.manifest.commit(lambda old: old)

    def needed(self) -> set[str]:
        """What must be there, as this writer knows it."""
        manifest, number = self.manifest, self.manifest.number
        floor = min(manifest.value.wal_floor, manifest.previous.wal_floor)
        return {
            *keys_of(manifest.value),
            *keys_of(manifest.previous),
            manifest_key(number),
            *([manifest_key(number - 1)] if number > 1 else []),
            *(wal_key(number) for number in range(floor, self.next_wal)),
        }
