"""The servers that are measured: started here for each case, or running elsewhere already."""

import http.client
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import attrs

from scripts.benchmark.http1 import TIMEOUT_SECONDS, Address
from scripts.benchmark.wire import BenchmarkError

ROOT = Path(__file__).resolve().parent.parent.parent

_POLL_SECONDS = 0.02


@attrs.frozen
class Server:
    """A running server; `pid` is None if it is not known."""

    address: Address
    pid: int | None

    def create(self, basin: str, *streams: str) -> None:
        """Make a basin and streams in it."""
        self.call("POST", "/v1/basins", {"basin": basin})
        for stream in streams:
            self.call("POST", "/v1/streams", {"stream": stream}, basin)

    def call(self, method: str, path: str, body: object = None, basin: str | None = None) -> bytes:
        """Make a request that is not measured; raises `BenchmarkError` if it is refused."""
        headers = {"content-type": "application/json"}
        if basin is not None:
            headers["s2-basin"] = basin
        connection = http.client.HTTPConnection(*self.address, timeout=TIMEOUT_SECONDS)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise BenchmarkError(f"{method} {path}: {response.status} {answer.decode()}")
        return answer


class Target(Protocol):
    """Something to measure."""

    @property
    def name(self) -> str:
        """What it is called in the table."""

    def serve(self, directory: Path) -> Iterator[Server]:
        """Run it for a while, with `directory` to keep its data in."""


@attrs.frozen
class CommandTarget:
    """A server that is started afresh, on an empty store, for every case.

    In the command, `{port}` becomes a free port and `{root}` an empty directory.
    """

    name: str
    command: tuple[str, ...]

    @classmethod
    def of(cls, name: str, command: str) -> "CommandTarget":
        """Make one of a command line."""
        return cls(name, tuple(shlex.split(command)))

    def serve(self, directory: Path) -> Iterator[Server]:
        """Start it, wait until it answers, and stop it in the end."""
        port = _free_port()
        command = [part.format(port=port, root=directory) for part in self.command]
        with (directory.parent / f"{directory.name}.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
            try:
                server = Server(("127.0.0.1", port), process.pid)
                _wait_until_serving(server, process, Path(log.name))
                yield server
            finally:
                process.terminate()
                try:
                    process.wait(TIMEOUT_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@attrs.frozen
class UrlTarget:
    """A server that is running already."""

    name: str
    url: str

    def serve(self, directory: Path) -> Iterator[Server]:
        """Use it as it is; nothing of ours is kept in `directory`."""
        parts = urlsplit(self.url)
        if parts.scheme != "http" or parts.hostname is None:
            raise BenchmarkError(f"{self.url} is not an http:// URL")
        yield Server((parts.hostname, parts.port or 80), None)


def own_target(store: str) -> CommandTarget:
    """Make the target for this project's server, with its store in memory or in a directory."""
    command = [sys.executable, "-m", "s2lite", "lite", "--host", "127.0.0.1", "--port", "{port}"]
    if store == "local":
        command += ["--local-root", "{root}"]
    return CommandTarget(f"s2lite {store}", tuple(command))


@contextmanager
def serving(target: Target) -> Iterator[Server]:
    """Run a target with a fresh directory, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="s2lite-bench-") as root:
        directory = Path(root) / "data"
        directory.mkdir()
        yield from target.serve(directory)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_serving(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.perf_counter() + TIMEOUT_SECONDS
    pause = threading.Event()
    while time.perf_counter() < deadline and process.poll() is None:
        try:
            server.call("GET", "/v1/basins")
        except OSError:
            pause.wait(_POLL_SECONDS)
        else:
            return
    raise BenchmarkError(f"the server did not start:{os.linesep}{log.read_text()[-2000:]}")
