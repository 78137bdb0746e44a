"""An S3 server for tests: moto, as a process of its own on a port of this machine."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import httpx
from obstore.store import ObjectStore as AnyObstore

from s2lite.storage.objects.buckets import Provider, make_store

BUCKET = "test-bucket"

_RUNNING = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")


@attrs.frozen
class S3Server:
    """A running server with one bucket in it."""

    url: str
    bucket: str = BUCKET

    @property
    def environment(self) -> dict[str, str]:
        """What to set for a client of it."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
        }

    def make_store(self, path: str = "", bucket: str = BUCKET) -> AnyObstore:
        """One of obstore's stores, for what is below the path."""
        return make_store(Provider.S3, bucket, path, self.environment)


@contextmanager
def running_s3_server() -> Iterator[S3Server]:
    """Run a server, with nothing but an empty bucket, until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            url = next(found[1] for line in process.stdout if (found := _RUNNING.search(line)))
            # It logs every request, and would stand still if nobody read that.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            httpx.put(f"{url}/{BUCKET}", timeout=30).raise_for_status()
            yield S3Server(url)
        finally:
            process.kill()
            process.wait()
