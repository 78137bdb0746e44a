"""Catalog changes as JSON: everything survives, and damage has a name."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2lite.codec.catalog import decode_catalog_change, encode_catalog_change
from s2lite.model.config import StreamConfig
from s2lite.model.errors import CorruptObject
from s2lite.model.log import (
    BasinDeleted,
    CatalogChange,
    StreamCreated,
    StreamId,
    StreamReconfigured,
    StreamRecord,
)
from s2lite.model.names import BasinName, StreamName
from tests.codec.log_values import catalog_changes

KEY = "wal/1"


@given(catalog_changes)
def test_a_change_decodes_to_what_was_encoded(change: CatalogChange) -> None:
    decoded = decode_catalog_change(KEY, encode_catalog_change(change))
    assert decoded == change
    assert type(decoded) is type(change)


def test_members_that_a_later_version_added_are_ignored() -> None:
    data = b'{"change":"BasinDeleted","name":"test-basin","deleted_at_ms":5,"why":["x",{}]}'
    assert decode_catalog_change(KEY, data) == BasinDeleted(BasinName("test-basin"), 5)


def test_a_config_is_stored_in_full_so_that_a_new_default_does_not_change_old_streams() -> None:
    record = StreamRecord(
        StreamId(bytes(16)), BasinName("test-basin"), StreamName("s"), StreamConfig(), 1
    )
    for change in (
        StreamCreated(record),
        StreamReconfigured(record.stream_id, StreamConfig()),
    ):
        data = encode_catalog_change(change)
        for leaf in (b"express", b"604800", b"client-prefer", b"false", b'seconds":0'):
            assert leaf in data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b"{}",
        b'{"change":"Unheard"}',
        b'{"change":7}',
        b'{"change":["BasinDeleted"]}',
        b'{"change":"BasinDeleted"}',
        b'{"change":"BasinDeleted","name":"test-basin","deleted_at_ms":"soon"}',
        b'{"change":"BasinDeleted","name":"test-basin","deleted_at_ms":{}}',
        b'{"change":"StreamRemoved","stream_id":"zz"}',
        b'{"change":"StreamRemoved","stream_id":5}',
        b'{"change":"StreamReconfigured","stream_id":"00","config":{"storage_class":"tape"}}',
        b'{"change":"StreamReconfigured","stream_id":"00","config":null}',
        b'{"change":"StreamReconfigured","stream_id":"00",'
        b'"config":{"retention_policy":{"age_seconds":0}}}',
        b'{"change":"BasinRemoved","name":"\xff"}',
        b'{"change":' + b"[" * 100_000,
    ],
)
def test_what_is_no_change_is_a_damaged_object(data: bytes) -> None:
    with pytest.raises(CorruptObject) as caught:
        decode_catalog_change(KEY, data)
    assert caught.value.key == KEY


@given(catalog_changes, st.data())
def test_a_damaged_change_decodes_or_is_found_but_fails_in_no_other_way(
    change: CatalogChange, data: st.DataObject
) -> None:
    encoded = bytearray(encode_catalog_change(change))
    index = data.draw(st.integers(0, len(encoded) - 1))
    encoded[index] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CorruptObject):
        decode_catalog_change(KEY, bytes(encoded))
