"""Strategies for what the log holds, over the full range of every field."""

from hypothesis import strategies as st

from s2lite.model.config import (
    BasinConfig,
    RetentionPolicy,
    StorageClass,
    StreamCipher,
    StreamConfig,
    StreamConfigLayer,
    TimestampingMode,
)
from s2lite.model.limits import MAX_FENCING_TOKEN_BYTES
from s2lite.model.log import (
    AppendEntry,
    BasinCreated,
    BasinCreation,
    BasinDeleted,
    BasinReconfigured,
    BasinRecord,
    BasinRemoved,
    CatalogChange,
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
from s2lite.model.manifest import Manifest, ObjectId, Run, SegmentInfo, StreamKey
from s2lite.model.names import BasinName, StreamName
from s2lite.model.positions import StreamPosition
from s2lite.model.records import SequencedBatch

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

stream_ids = st.binary(min_size=16, max_size=16).map(StreamId)
basin_names = st.from_regex(r"[a-z0-9-]{8,12}", fullmatch=True).map(BasinName)
stream_names = TEXT.map(StreamName)
tokens = TEXT.filter(lambda text: len(text.encode()) <= MAX_FENCING_TOKEN_BYTES)

retention_policies = st.builds(RetentionPolicy, st.none() | st.integers(1, 2**64 - 1))
layers = st.builds(
    StreamConfigLayer,
    st.none() | st.sampled_from(StorageClass),
    st.none() | retention_policies,
    st.none() | st.sampled_from(TimestampingMode),
    st.none() | st.booleans(),
    st.none() | U64,
)
stream_configs = st.builds(
    StreamConfig,
    st.sampled_from(StorageClass),
    retention_policies,
    st.sampled_from(TimestampingMode),
    st.booleans(),
    U64,
)
ciphers = st.none() | st.sampled_from(StreamCipher)
basin_configs = st.builds(BasinConfig, layers, ciphers, st.booleans(), st.booleans())

basin_records = st.builds(
    BasinRecord,
    basin_names,
    basin_configs,
    U64,
    st.none() | U64,
    st.none() | st.builds(BasinCreation, TEXT, basin_configs),
)
stream_records = st.builds(
    StreamRecord,
    stream_ids,
    basin_names,
    stream_names,
    stream_configs,
    U64,
    ciphers,
    st.none() | U64,
    st.none() | st.builds(StreamCreation, TEXT, layers),
)

catalog_changes: st.SearchStrategy[CatalogChange] = st.one_of(
    st.builds(BasinCreated, basin_records),
    st.builds(BasinReconfigured, basin_names, basin_configs),
    st.builds(BasinDeleted, basin_names, U64),
    st.builds(BasinRemoved, basin_names),
    st.builds(StreamCreated, stream_records),
    st.builds(StreamReconfigured, stream_ids, stream_configs),
    st.builds(StreamDeleted, stream_ids, U64),
    st.builds(StreamRemoved, stream_ids),
)

stream_states = st.builds(
    StreamState,
    stream_records,
    st.builds(StreamPosition, U64, U64),
    tokens,
    U64,
    st.lists(st.builds(LostRange, U64, U64, TEXT), max_size=2).map(tuple),
)


def catalog_facts(max_rows: int = 6) -> st.SearchStrategy[CatalogFacts]:
    """Basins and streams under their own names and ids, and others that were removed."""
    return st.builds(
        lambda basins, gone_basins, streams, gone_streams: CatalogFacts(
            {**dict.fromkeys(gone_basins), **{record.name: record for record in basins}},
            {**dict.fromkeys(gone_streams), **{each.record.stream_id: each for each in streams}},
        ),
        st.lists(basin_records, max_size=max_rows),
        st.lists(basin_names, max_size=max_rows),
        st.lists(stream_states, max_size=max_rows),
        st.lists(stream_ids, max_size=max_rows),
    )


object_ids = st.builds(ObjectId, U64, U64)
stream_keys = st.builds(StreamKey, stream_ids, U64)
segment_infos = st.builds(
    SegmentInfo, object_ids, U64, U64, stream_keys, stream_keys, st.none() | U64, st.none() | U64
)
manifests = st.builds(
    Manifest,
    U64,
    st.integers(1, 2**64 - 1),
    st.lists(st.builds(Run, U32, st.lists(segment_infos, max_size=3).map(tuple)), max_size=3).map(
        tuple
    ),
    st.lists(object_ids, max_size=3).map(tuple),
    st.none() | U64,
    st.booleans(),
)

batches = st.builds(SequencedBatch, U64, U32, U64, U64, U32, st.binary(max_size=60)).filter(
    lambda batch: batch.end_seq_num < 2**64
)
append_entries = st.builds(
    AppendEntry,
    stream_ids,
    batches,
    st.none() | U64,
    st.none() | tokens,
    st.none() | U64,
)

log_entries: st.SearchStrategy[LogEntry] = append_entries | catalog_changes


def facts(entry: LogEntry) -> object:
    """What an entry says, comparable: batches themselves compare by identity."""
    if not isinstance(entry, AppendEntry):
        return entry
    batch = entry.batch
    return (
        entry.stream_id,
        entry.expires_at_ms,
        entry.fencing_token,
        entry.trim_point,
        batch.first_seq_num,
        batch.count,
        batch.first_timestamp,
        batch.last_timestamp,
        batch.metered_bytes,
        batch.payload,
    )
