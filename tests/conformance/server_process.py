"""The server as its users run it: a process of its own, on a port it chose itself."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import httpx

START_TIMEOUT_SECONDS = 30
STOP_TIMEOUT_SECONDS = 20
PROJECT = Path(__file__).parents[2]

_LISTENING = re.compile(r"listening on (\S+):(\d+)$")


def server_environment() -> dict[str, str]:
    """The environment for a Python that is to find this project first."""
    return {**os.environ, "PYTHONPATH": str(PROJECT)}


def server_command(*arguments: str, port: int = 0) -> list[str]:
    """The command that starts a server on this machine only."""
    lite = [sys.executable, "-m", "s2lite", "lite"]
    return [*lite, "--host", "127.0.0.1", "--port", str(port), *arguments]


def run_to_the_end(*arguments: str, port: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to end by itself."""
    return subprocess.run(
        server_command(*arguments, port=port),
        env=server_environment(),
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_SECONDS,
        check=False,
    )


@attrs.define(eq=False)
class ServerProcess:
    """A running server. `output` is what it has printed so far, line by line."""

    process: subprocess.Popen[str]
    port: int = 0
    output: list[str] = attrs.field(factory=list)
    _changed: threading.Condition = attrs.field(factory=threading.Condition)
    _reader: threading.Thread | None = None

    @classmethod
    def launch(cls, *arguments: str) -> "ServerProcess":
        """Start the process and return at once."""
        process = subprocess.Popen(
            server_command(*arguments),
            env=server_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        server = cls(process)
        server._reader = threading.Thread(target=server._read_output, daemon=True)
        server._reader.start()
        return server

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.output.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self.output.append("-- end of output")
            self._changed.notify_all()

    def wait_ready(self) -> None:
        """Wait until it says where it listens, and until it says that it is well."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: self._find_port() or self._has_ended(), START_TIMEOUT_SECONDS
            )
        assert found, "the server does not say where it listens"
        assert self.port, "the server ended before it listened"
        assert httpx.get(f"{self.url}/health", timeout=10).text == "OK"

    def _find_port(self) -> bool:
        for line in self.output:
            if listening := _LISTENING.search(line):
                self.port = int(listening[2])
        return self.port != 0

    def _has_ended(self) -> bool:
        return self.output[-1:] == ["-- end of output"]

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal and return at once."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the process to end and return its exit status (negative: a signal's number)."""
        status = self.process.wait(STOP_TIMEOUT_SECONDS)
        if self._reader is not None:
            self._reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    def stop(self) -> int:
        """End it in good order and return its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it as a power failure would."""
        self.signal(signal.SIGKILL)
        self.wait()


@attrs.define(eq=False)
class Fleet:
    """All servers of a test run; none outlives the `with` block."""

    directory: Path
    servers: list[ServerProcess] = attrs.field(factory=list)
    _shared: dict[str, ServerProcess] = attrs.field(factory=dict)

    def launch(self, *arguments: str) -> ServerProcess:
        """Start a server and return at once."""
        server = ServerProcess.launch(*arguments)
        self.servers.append(server)
        return server

    def start(self, *arguments: str) -> ServerProcess:
        """Start a server and wait until it serves."""
        server = self.launch(*arguments)
        server.wait_ready()
        return server

    def shared(self, storage: str) -> ServerProcess:
        """The server that tests share: with its storage in `memory`, or in a `local` directory."""
        server = self._shared.get(storage)
        if server is None or not server.alive:
            root = self.directory / "shared"
            server = self.start(*(["--local-root", str(root)] if storage == "local" else []))
            self._shared[storage] = server
        return server

    def end(self, first: int = 0) -> None:
        """End the servers from the `first` one on, whatever state they are in."""
        for server in self.servers[first:]:
            if server.alive:
                server.kill()
            elif server._reader is not None:
                server.wait()
        del self.servers[first:]

    @contextmanager
    def block(self) -> Iterator["Fleet"]:
        """End everything that was started in the block."""
        first = len(self.servers)
        try:
            yield self
        finally:
            self.end(first)
