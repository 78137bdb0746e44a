"""Flushes a frozen table: its batches become a run, its catalog changes a catalog object.

Nothing is in force before the manifest that names both is; until then what was written is garbage.
"""

import attrs

from s2lite.model.manifest import Manifest, ObjectId, Run, SegmentInfo
from s2lite.storage.catalog_objects import write_catalog_object
from s2lite.storage.current_manifest import CurrentManifest
from s2lite.storage.layout import Layout
from s2lite.storage.memtable import Table
from s2lite.storage.retention import Retention
from s2lite.storage.segments import RunWriter
from s2lite.storage.slices import Slices, sorted_in_slices


async def flush(
    table: Table, manifest: CurrentManifest, retention: Retention, layout: Layout
) -> None:
    """Write what is still wanted of a frozen table, and commit the manifest that names it.

    On return all of it is durable and the WAL below `table.wal_end` is not needed any more; the
    caller releases the table at once. Raises `WriterFenced` and `StorageFailed`: then, and when
    cancelled, the manifest may or may not be in force for the next opener, so the process has to
    end; what was written is garbage, or named by that manifest.
    """
    segments = await _write_run(table, manifest, retention, layout)
    catalog = await _write_facts(table, manifest)
    if segments or catalog or table.wal_end > manifest.value.wal_floor:
        await manifest.commit(lambda newest: _with_table(newest, table, segments, catalog))


async def _write_run(
    table: Table, manifest: CurrentManifest, retention: Retention, layout: Layout
) -> tuple[SegmentInfo, ...]:
    slices = Slices()
    async with RunWriter(manifest.creator, manifest.new_object_id, layout) as writer:
        for stream_id in await sorted_in_slices(table.stream_ids):
            for entry in table.entries(stream_id):
                if retention.keeps(stream_id, entry.batch.end_seq_num, entry.expires_at_ms):
                    await writer.add(entry)
                await slices.worked()
        return await writer.finish()


async def _write_facts(table: Table, manifest: CurrentManifest) -> tuple[ObjectId, ...]:
    if not (table.facts.basins or table.facts.streams):
        return ()
    object_id = manifest.new_object_id()
    await write_catalog_object(manifest.creator, object_id, table.facts)
    return (object_id,)


def _with_table(
    manifest: Manifest,
    table: Table,
    segments: tuple[SegmentInfo, ...],
    catalog: tuple[ObjectId, ...],
) -> Manifest:
    runs = (Run(0, segments),) if segments else ()
    return attrs.evolve(
        manifest,
        runs=manifest.runs + runs,
        catalog=manifest.catalog + catalog,
        wal_floor=table.wal_end,
    )
