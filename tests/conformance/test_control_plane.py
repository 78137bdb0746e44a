"""Basins and streams, through the official client."""

from typing import Any

import httpx
import pytest
from s2_sdk import (
    S2,
    BasinConfig,
    Compression,
    EnsureStatus,
    S2Basin,
    S2ServerError,
    StreamConfig,
    Timestamping,
    TimestampingMode,
)

from tests.conformance.conftest import new_basin_name
from tests.conformance.sdk import BOTH_STORAGES, batch, connect, eventually, on_asyncio
from tests.conformance.server_process import ServerProcess

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.parametrize("server", BOTH_STORAGES, indirect=True),
]

STANDARD = StreamConfig(
    storage_class="standard",
    retention_policy="infinite",
    timestamping=Timestamping(mode=TimestampingMode.ARRIVAL, uncapped=True),
    delete_on_empty_min_age=300,
)
DEFAULTS = StreamConfig(
    storage_class="express",
    retention_policy=604800,
    timestamping=Timestamping(mode=TimestampingMode.CLIENT_PREFER, uncapped=False),
    delete_on_empty_min_age=0,
)


@pytest.mark.parametrize("compression", list(Compression), ids=lambda each: each.value)
@on_asyncio
async def test_a_basin_is_created_listed_and_deleted(
    server: ServerProcess, compression: Compression
) -> None:
    name = new_basin_name()
    async with connect(server, compression) as s2:
        created = await s2.create_basin(name)
        assert created.name == name
        assert created.deleted_at is None
        listed = await s2.list_basins(prefix=name)
        assert listed.items == [created]
        assert not listed.has_more
        await s2.delete_basin(name)
        assert [each.name async for each in s2.list_all_basins(prefix=name)] == []
        # Gone, or still going: either way not to be had.
        await s2.delete_basin(name, ignore_not_found=True)


@on_asyncio
async def test_a_basin_that_exists_is_not_created_again(server: ServerProcess) -> None:
    name = new_basin_name()
    async with connect(server) as s2:
        await s2.create_basin(name)
        with pytest.raises(S2ServerError) as refusal:
            await s2.create_basin(name)
        assert (refusal.value.status_code, refusal.value.code) == (409, "resource_already_exists")


@on_asyncio
async def test_ensuring_a_basin_creates_it_updates_it_or_leaves_it(server: ServerProcess) -> None:
    name = new_basin_name()
    config = BasinConfig(default_stream_config=STANDARD, create_stream_on_append=True)
    async with connect(server) as s2:
        assert (await s2.ensure_basin(name)).status is EnsureStatus.CREATED
        assert (await s2.ensure_basin(name)).status is EnsureStatus.CONFIG_UNCHANGED
        updated = await s2.ensure_basin(name, config=config)
        assert updated.status is EnsureStatus.CONFIG_UPDATED
        assert (await s2.ensure_basin(name, config=config)).status is EnsureStatus.CONFIG_UNCHANGED
        shown = await s2.get_basin_config(name)
        assert shown.default_stream_config == STANDARD
        assert shown.create_stream_on_append
        # Ensuring means exactly this config: what it does not mention is reset.
        assert (await s2.ensure_basin(name)).status is EnsureStatus.CONFIG_UPDATED
        assert not (await s2.get_basin_config(name)).create_stream_on_append


@on_asyncio
async def test_reconfiguring_a_basin_changes_only_what_is_given(server: ServerProcess) -> None:
    name = new_basin_name()
    async with connect(server) as s2:
        await s2.create_basin(name, config=BasinConfig(create_stream_on_read=True))
        change = BasinConfig(default_stream_config=StreamConfig(retention_policy=3600))
        changed = await s2.reconfigure_basin(name, config=change)
        assert changed.create_stream_on_read
        assert changed.default_stream_config is not None
        assert changed.default_stream_config.retention_policy == 3600
        assert await s2.get_basin_config(name) == changed


@on_asyncio
async def test_a_stream_takes_its_defaults_from_the_basin_and_then_from_the_system(
    server: ServerProcess,
) -> None:
    name = new_basin_name()
    async with connect(server) as s2:
        await s2.create_basin(name, config=BasinConfig(default_stream_config=STANDARD))
        basin = s2[name]
        await basin.create_stream("inherits", config=StreamConfig(retention_policy=60))
        shown = await basin.get_stream_config("inherits")
        assert shown.retention_policy == 60
        assert shown.storage_class == "standard"
        assert shown.timestamping == STANDARD.timestamping
        await s2.ensure_basin(name)
        await basin.create_stream("plain")
        assert await basin.get_stream_config("plain") == DEFAULTS
        assert (await basin.get_stream_config("inherits")).storage_class == "standard"


@on_asyncio
async def test_a_stream_is_ensured_and_reconfigured(server: ServerProcess, basin: str) -> None:
    async with connect(server) as s2:
        streams = s2[basin]
        assert (await streams.ensure_stream("s")).status is EnsureStatus.CREATED
        ensured = await streams.ensure_stream("s", config=STANDARD)
        assert ensured.status is EnsureStatus.CONFIG_UPDATED
        assert await streams.get_stream_config("s") == STANDARD
        change = StreamConfig(timestamping=Timestamping(mode=TimestampingMode.CLIENT_REQUIRE))
        changed = await streams.reconfigure_stream("s", config=change)
        assert changed.timestamping is not None
        assert changed.timestamping.mode is TimestampingMode.CLIENT_REQUIRE
        assert changed.timestamping.uncapped
        assert changed.retention_policy == "infinite"


@on_asyncio
async def test_streams_are_listed_bytewise_and_paged(server: ServerProcess, basin: str) -> None:
    names = ["a", "a b", "a/", "a/b", "aa", "b", "日本語", "😀"]
    async with connect(server) as s2:
        streams = s2[basin]
        for name in reversed(names):
            await streams.create_stream(name)
        assert [each.name async for each in streams.list_all_streams()] == names
        page = await streams.list_streams(limit=3)
        assert [each.name for each in page.items] == names[:3]
        assert page.has_more
        page = await streams.list_streams(limit=5, start_after=names[2])
        assert [each.name for each in page.items] == names[3:]
        assert not page.has_more
        under = await streams.list_streams(prefix="a/")
        assert [each.name for each in under.items] == ["a/", "a/b"]


@on_asyncio
async def test_a_stream_of_any_name_can_be_used(server: ServerProcess, basin: str) -> None:
    names = ["a/b c", "日本語", "%2F", "a+b?c=d&e", "...", "é" * 256]
    async with connect(server) as s2:
        for name in names:
            await s2[basin].create_stream(name)
            ack = await s2[basin][name].append(batch(name.encode()))
            assert ack.end.seq_num == 1
            assert await s2[basin][name].check_tail() == ack.tail


@on_asyncio
async def test_a_deleted_stream_is_gone_and_its_name_starts_over(
    server: ServerProcess, basin: str
) -> None:
    async with connect(server) as s2:
        streams = s2[basin]
        await streams.create_stream("s")
        await streams["s"].append(batch(b"old"))
        await streams.delete_stream("s")
        assert [each.name async for each in streams.list_all_streams()] == []
        await eventually(lambda: _is_created_again(streams))
        assert (await streams["s"].check_tail()).seq_num == 0


async def _is_created_again(streams: S2Basin) -> bool:
    try:
        await streams.create_stream("s")
    except S2ServerError as error:
        if error.code != "stream_deletion_pending":
            raise
        return False
    return True


@on_asyncio
async def test_a_deleted_basin_takes_its_streams_with_it(server: ServerProcess, basin: str) -> None:
    async with connect(server) as s2:
        await s2[basin].create_stream("s")
        await s2[basin]["s"].append(batch(b"old"))
        await s2.delete_basin(basin)
        await eventually(lambda: _is_gone(s2, basin))
        await s2.create_basin(basin)
        assert (await s2[basin].list_streams()).items == []


async def _is_gone(s2: S2, basin: str) -> bool:
    try:
        await s2.get_basin_config(basin)
    except S2ServerError as error:
        if error.code != "basin_not_found":
            raise
        return True
    return False


# --- request tokens, which the client makes up for itself ---------------------------------------


def create(http: httpx.Client, path: str, body: dict[str, Any], token: str) -> tuple[int, str, Any]:
    answer = http.post(path, json=body, headers={"s2-request-token": token})
    result = answer.headers.get("s2-provision-result") or answer.json()["code"]
    return answer.status_code, result, answer.json()


def test_a_create_that_is_repeated_with_its_token_changes_nothing(http: httpx.Client) -> None:
    name = new_basin_name()
    body = {"basin": name, "config": {"create_stream_on_read": True}}
    first = create(http, "/v1/basins", body, "t")
    assert first[:2] == (201, "created")
    assert create(http, "/v1/basins", body, "t") == (201, "noop", first[2])
    assert create(http, "/v1/basins", body, "u")[:2] == (409, "resource_already_exists")
    assert create(http, "/v1/basins", {"basin": name}, "t")[:2] == (409, "resource_already_exists")


def test_a_stream_create_is_replayed_even_after_the_stream_has_changed(
    http: httpx.Client, basin: str
) -> None:
    body = {"stream": "s", "config": {"storage_class": "standard"}}
    first = create(http, "/v1/streams", body, "")
    assert first[:2] == (201, "created")
    changed = http.patch("/v1/streams/s", json={"storage_class": "express"})
    assert changed.json()["storage_class"] == "express"
    assert create(http, "/v1/streams", body, "") == (201, "noop", first[2])
    assert http.get("/v1/streams/s").json() == changed.json()
