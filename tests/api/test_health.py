import pytest
from prometheus_client import CollectorRegistry

from s2lite.backend.backend import Backend
from s2lite.model.errors import StorageError, StorageFailed, WriterFenced
from s2lite.model.log import StreamId
from tests.fakes.asgi_client import AsgiClient


async def test_a_server_that_is_well_says_ok(bare: AsgiClient) -> None:
    for path in ("/health", "/ping"):
        reply = await bare.request("GET", path)
        assert (reply.status, reply.body) == (200, b"OK")
        assert reply.header("content-type") == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("failure", "reason"), [(WriterFenced(), b"Fenced"), (StorageFailed(), b"Panic")]
)
async def test_a_server_whose_storage_is_closed_says_why(
    bare: AsgiClient, backend: Backend, failure: StorageError, reason: bytes
) -> None:
    backend.storage_status.failure = failure
    reply = await bare.request("GET", "/health")
    assert (reply.status, reply.body) == (503, reason)
    assert (await bare.request("HEAD", "/ping")).status == 503


async def test_the_details_of_health_tell_what_is_damaged(
    bare: AsgiClient, backend: Backend
) -> None:
    reply = await bare.request("GET", "/health?detail")
    assert reply.header("content-type") == "application/json"
    assert reply.json() == {
        "status": "OK",
        "catalog_is_whole": True,
        "damaged_objects": 0,
        "damaged": [],
    }
    stream_ids = [StreamId(bytes([number]) * 16) for number in range(2)]
    backend.damage.report("wal/1", "it is missing")
    backend.damage.report("segment/1", "its checksum does not match", stream_ids)
    backend.damage.catalog_is_whole = False
    backend.storage_status.failure = StorageFailed()
    reply = await bare.request("GET", "/health?detail=1")
    assert reply.status == 503
    assert reply.json() == {
        "status": "Panic",
        "catalog_is_whole": False,
        "damaged_objects": 2,
        "damaged": [
            {"key": "wal/1", "reason": "it is missing", "streams": 0},
            {"key": "segment/1", "reason": "its checksum does not match", "streams": 2},
        ],
    }


async def test_a_server_with_damage_is_well_and_counts_it(
    bare: AsgiClient, backend: Backend
) -> None:
    backend.damage.report("wal/1", "it is missing")
    reply = await bare.request("GET", "/health")
    assert (reply.status, reply.body) == (200, b"OK")
    assert b"s2lite_damaged_objects 1.0" in (await bare.request("GET", "/metrics")).body


async def test_metrics_are_what_the_registry_has(
    client: AsgiClient, registry: CollectorRegistry
) -> None:
    reply = await client.request_json("POST", "/v1/streams/s/records", {"records": [{}]})
    assert reply.status == 200
    reply = await client.request("GET", "/metrics", accept_encoding="gzip")
    assert reply.header("content-type") == "text/plain; version=0.0.4"
    assert reply.header("content-encoding") is None
    assert b"s2_append_batch_records_count 1.0" in reply.body
