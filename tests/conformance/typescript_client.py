"""The official TypeScript client: the scenarios of `typescript/`, each a process of its own."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import attrs
import pytest

DIRECTORY = Path(__file__).parent / "typescript"
SKIP = "S2LITE_SKIP_TYPESCRIPT"
PATIENCE_SECONDS = 40

Event = dict[str, Any]


def install() -> None:
    """Install the client that the lock file names, unless it is there; skip or fail if that cannot
    be.
    """
    if os.environ.get(SKIP):
        pytest.skip(f"{SKIP} is set")
    if missing := [each for each in ("node", "npm") if shutil.which(each) is None]:
        pytest.fail(f"no {' and no '.join(missing)}: install Node.js 20 or later, or set {SKIP}=1")
    lock = (DIRECTORY / "package-lock.json").read_text()
    installed = DIRECTORY / "node_modules" / ".installed"
    if installed.exists() and installed.read_text() == lock:
        return
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=DIRECTORY, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"`npm ci` does not work, set {SKIP}=1 to do without:\n{done.stderr}")
    installed.write_text(lock)


@attrs.define(eq=False)
class Scenario:
    """A scenario that runs; what it prints is read as it is asked for."""

    _stdin: IO[str]
    _stdout: IO[str]

    def until(self, event: str) -> Event:
        """Read on to this event."""
        for each in self.events():
            if each["event"] == event:
                return each
        raise AssertionError(f"the scenario ended without telling {event!r}")

    def events(self) -> Iterator[Event]:
        """What it tells, to its end."""
        for line in self._stdout:
            print(line[:500].rstrip())
            yield json.loads(line)

    def go_on(self) -> None:
        """Tell it that what it waits for has happened."""
        self._stdin.write("\n")
        self._stdin.flush()


@contextmanager
def running(name: str, **arguments: object) -> Iterator[Scenario]:
    """Run a scenario for the length of the block; it has to end well, and soon."""
    command = ["node", "run.mjs", name, json.dumps(arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=DIRECTORY, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        watchdog = threading.Timer(PATIENCE_SECONDS, process.kill)
        watchdog.start()
        try:
            scenario = Scenario(process.stdin, process.stdout)
            yield scenario
            list(scenario.events())
            assert process.wait() == 0, f"the scenario {name} failed, see its stack trace"
        finally:
            process.kill()
            watchdog.cancel()
            watchdog.join()


def run(name: str, **arguments: object) -> dict[str, Event]:
    """Run a scenario to its end and return what it told, by name."""
    with running(name, **arguments) as scenario:
        return {each.pop("event"): each for each in scenario.events()}
