"""Servers that the tests of stores share."""

from collections.abc import Iterator

import pytest

from tests.fakes.s3_server import S3Server, running_s3_server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 server with a bucket, for the whole run: each test takes a path of its own."""
    with running_s3_server() as server:
        yield server
