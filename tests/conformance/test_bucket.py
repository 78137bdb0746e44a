"""The server on a bucket, of an S3 server on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conformance.conftest import StartServer
from tests.conformance.sdk import batch, bodies, connect, on_asyncio, read_all
from tests.conformance.server_process import run_to_the_end
from tests.fakes.s3_server import S3Server, running_s3_server
from tests.test_cli import s2lite

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

BASIN = "bucket-basin"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    with running_s3_server() as server:
        yield server


@pytest.fixture(autouse=True)
def environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What an operator sets, for every server of the test, and nothing of this machine."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)


@on_asyncio
async def test_a_log_in_a_bucket_survives_the_death_of_its_server(
    start_server: StartServer, s3_server: S3Server
) -> None:
    storage = ("--bucket", s3_server.bucket, "--path", "killed/log")
    server = start_server(*storage)
    async with connect(server) as s2:
        await s2.create_basin(BASIN)
        await s2[BASIN].create_stream("s")
        async with s2[BASIN]["s"].append_session() as session:
            for i in range(100):
                await session.submit(batch(b"%d" % i))
    server.kill()
    server = start_server("--store-url", f"s3://{s3_server.bucket}/killed/log")
    async with connect(server) as s2:
        assert bodies(await read_all(s2[BASIN]["s"])) == [b"%d" % i for i in range(100)]
        assert (await s2[BASIN]["s"].append(batch(b"on"))).start.seq_num == 100
    assert server.stop() == 0


@on_asyncio
async def test_two_paths_of_a_bucket_are_two_servers(
    start_server: StartServer, s3_server: S3Server
) -> None:
    one = start_server("--bucket", s3_server.bucket, "--path", "one")
    two = start_server("--bucket", s3_server.bucket, "--path", "two")
    async with connect(one) as s2:
        await s2.create_basin(BASIN)
    async with connect(two) as s2:
        assert (await s2.list_basins()).items == []
    assert (one.stop(), two.stop()) == (0, 0)


@on_asyncio
async def test_a_second_server_takes_over_and_the_first_one_ends(
    start_server: StartServer, s3_server: S3Server
) -> None:
    storage = ("--bucket", s3_server.bucket, "--path", "taken")
    first = start_server(*storage)
    async with connect(first) as s2:
        await s2.create_basin(BASIN)
    second = start_server(*storage)
    async with connect(second) as s2:
        assert [each.name for each in (await s2.list_basins()).items] == [BASIN]
    async with httpx.AsyncClient(timeout=10) as client:
        with pytest.raises(httpx.HTTPError):
            (await client.put(f"{first.url}/v1/basins/other-basin")).raise_for_status()
    assert first.wait() == 3
    assert any("has taken over" in line for line in first.output)
    first.output.clear()  # its errors were expected
    assert second.stop() == 0


@on_asyncio
async def test_credentials_of_a_profile_are_as_good_as_keys(
    start_server: StartServer,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[team]\naws_access_key_id = key\naws_secret_access_key = secret\n"
    )
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_PROFILE", "team")
    server = start_server("--bucket", s3_server.bucket, "--path", "profile")
    async with connect(server) as s2:
        await s2.create_basin(BASIN)
    assert server.stop() == 0


@on_asyncio
async def test_garbage_can_be_counted_beside_a_server(
    start_server: StartServer, s3_server: S3Server, tmp_path: Path
) -> None:
    bucket = ("--bucket", s3_server.bucket, "--path", "surveyed")
    directory = ("--local-root", str(tmp_path / "surveyed"))
    for storage in (bucket, directory):
        server = start_server(*storage)
        async with connect(server) as s2:
            await s2.create_basin(BASIN)
            before = s2lite("gc", *storage)
            again = s2lite("gc", *storage)
        assert server.stop() == 0
        assert before.returncode == 0
        assert "kept: " in before.stdout
        assert "unneeded: " in before.stdout
        assert again.stdout == before.stdout
        assert before.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "variables", "complaint"),
    [
        (["--bucket", "no-such-bucket"], {}, "create the bucket"),
        (["--bucket", "b"], {"AWS_ENDPOINT_URL_S3": "nonsense"}, "AWS_ENDPOINT_URL_S3"),
        (["--bucket", "b"], {"AWS_UNSIGNED_PAYLOAD": "perhaps"}, "perhaps"),
        (["--store-url", "az://c"], {}, "AZURE_STORAGE_ACCOUNT_NAME"),
        (["--store-url", "gs://b"], {"GOOGLE_APPLICATION_CREDENTIALS": "/none"}, "/none"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], variables: dict[str, str], complaint: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    refused = run_to_the_end(*arguments)
    errors = [line for line in refused.stdout.splitlines() if " ERROR " in line]
    assert len(errors) == 1
    assert complaint in errors[0]
    assert refused.returncode in (1, 4)
    assert "Traceback" not in refused.stdout + refused.stderr
    assert "test-secret" not in refused.stdout + refused.stderr
