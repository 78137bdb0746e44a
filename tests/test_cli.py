"""The commands `s2` and `s2lite`, run as commands."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner

from s2lite.cli import cli, next_on_path

pytestmark = [pytest.mark.slow]

PROJECT = Path(__file__).parents[1]
TIMEOUT_SECONDS = 30


def run(
    *command: str | Path, path: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command that is expected to end by itself."""
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "PATH": path or os.environ["PATH"]}
        | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def s2lite(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `s2lite`."""
    return run(sys.executable, "-m", "s2lite", *arguments)


@attrs.frozen
class Commands:
    """Directories for PATH, and what stands in them."""

    root: Path

    @property
    def path(self) -> str:
        """A PATH of exactly these directories, in the order of their names."""
        return os.pathsep.join(str(each) for each in sorted(self.root.iterdir()))

    def ours(self, directory: str, name: str = "s2") -> Path:
        """Our own command, as an installer writes it."""
        code = f"#!{sys.executable}\nimport sys\nfrom s2lite.cli import s2\nsys.exit(s2())\n"
        return self._write(directory, name, code)

    def client(self, directory: str, status: int = 0) -> Path:
        """Another `s2`, which tells how it was called."""
        code = f'#!/bin/sh\necho "client in {directory} called as $0 with $# arguments:"\n'
        return self._write(directory, "s2", f'{code}printf "<%s>" "$@"\nexit {status}\n')

    def _write(self, directory: str, name: str, code: str) -> Path:
        (self.root / directory).mkdir(exist_ok=True)
        file = self.root / directory / name
        file.write_text(code)
        file.chmod(0o755)
        return file


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    (tmp_path / "path").mkdir()
    return Commands(tmp_path / "path")


# --- usage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [["--help"], ["lite", "--help"], ["lite", "-h"]])
def test_help_is_on_standard_output(asked: list[str]) -> None:
    helped = CliRunner().invoke(cli, asked, prog_name="s2lite")
    assert helped.exit_code == 0
    assert helped.stdout.startswith(f"Usage: s2lite {'lite' if 'lite' in asked else '[OPTIONS]'}")
    assert helped.stderr == ""


def test_help_of_s2_lite_speaks_of_s2_and_names_every_flag(commands: Commands) -> None:
    helped = run(commands.ours("1"), "lite", "--help")
    assert helped.returncode == 0
    assert helped.stdout.startswith("Usage: s2 lite ")
    for flag in ("--port", "--local-root", "--bucket", "--path", "--no-cors"):
        assert flag in helped.stdout
    assert "--append-inflight-bytes" in helped.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--local-root", "d", "--bucket", "b"], "exclude each other"),
        (["--port", "65536"], "--port"),
        (["--port", "-1"], "--port"),
        (["--port", "http"], "--port"),
        (["--append-inflight-bytes", "lots"], "--append-inflight-bytes"),
        (["--append-inflight-bytes", "5XB"], "--append-inflight-bytes"),
        (["--append-inflight-bytes", "-5"], "--append-inflight-bytes"),
        (["--append-inflight-bytes", ""], "--append-inflight-bytes"),
        (["--local-root", "d", "--path", "../up"], "--path"),
        (["--local-root", "d", "--path", "/abs"], "--path"),
        (["--local-root", __file__], "--local-root"),
        (["--no-such-flag"], "--no-such-flag"),
        (["extra"], "extra"),
    ],
)
def test_wrong_flags_are_a_usage_error(arguments: list[str], complaint: str) -> None:
    refused = CliRunner().invoke(cli, ["lite", *arguments], prog_name="s2lite")
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("Usage: s2lite lite ")
    assert complaint in refused.stderr.splitlines()[-1]


def test_a_usage_error_is_the_exit_status_of_the_process() -> None:
    refused = s2lite("lite", "--local-root", "d", "--bucket", "b")
    assert refused.returncode == 2
    assert "exclude each other" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_bucket_is_not_available_yet() -> None:
    refused = s2lite("lite", "--bucket", "b", "--port", "0")
    assert refused.returncode == 1
    assert [line for line in refused.stdout.splitlines() if "ERROR" in line] == [
        refused.stdout.splitlines()[-1]
    ]
    assert "--bucket is not available" in refused.stdout.splitlines()[-1]
    assert refused.stderr == ""


def test_a_port_in_use_is_said_in_one_line() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        refused = s2lite("lite", "--host", "127.0.0.1", "--port", port)
    assert refused.returncode == 1
    errors = [line for line in refused.stdout.splitlines() if "ERROR" in line]
    assert len(errors) == 1
    assert "in use" in errors[0]
    assert port in errors[0]
    assert "Traceback" not in refused.stdout + refused.stderr


def test_a_directory_that_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = s2lite("lite", "--port", "0", "--local-root", tmp_path / "file" / "below")
    assert refused.returncode == 1
    assert len([line for line in refused.stdout.splitlines() if "ERROR" in line]) == 1
    assert "Traceback" not in refused.stdout + refused.stderr


# --- a server that starts and ends --------------------------------------------------------------


@pytest.fixture
def started(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A server, by the command and arguments of the test's parameter."""
    process = subprocess.Popen(
        [sys.executable, "-m", "s2lite", "lite", "--port", "0", *getattr(request, "param", [])],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        yield process
        process.kill()


def read_until_export(process: subprocess.Popen[str]) -> list[str]:
    """What it prints up to the last line of its hint."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith("export S2_ACCESS_TOKEN"):
            break
    return lines


@pytest.mark.parametrize(
    ("started", "open_to_all"), [(["--host", "127.0.0.1"], False), ([], True)], indirect=["started"]
)
def test_the_start_up_lines_tell_a_client_what_to_set(
    started: subprocess.Popen[str], open_to_all: bool
) -> None:
    lines = read_until_export(started)
    port = next(line.rpartition(":")[2] for line in lines if "listening on" in line)
    assert 0 < int(port) < 65536
    assert lines[-3:] == [
        f"export S2_ACCOUNT_ENDPOINT=http://localhost:{port}",
        f"export S2_BASIN_ENDPOINT=http://localhost:{port}",
        "export S2_ACCESS_TOKEN=ignored",
    ]
    assert "everything is lost" in lines[0]
    assert any("no authentication" in line for line in lines) is open_to_all


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_good_order(
    started: subprocess.Popen[str], number: signal.Signals
) -> None:
    read_until_export(started)
    started.send_signal(number)
    output, _ = started.communicate(timeout=TIMEOUT_SECONDS)
    assert started.returncode == 0
    assert "ERROR" not in output
    assert "Traceback" not in output


# --- handing over to the client -----------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 7])
def test_other_commands_are_for_the_next_s2_on_the_path(commands: Commands, status: int) -> None:
    ours = commands.ours("1")
    commands.client("2", status)
    commands.client("3", 99)
    handed = run(ours, "append", "s2://b/s", "two words", "--x=*", "", path=commands.path)
    assert handed.returncode == status
    assert "client in 2 called" in handed.stdout
    assert "with 5 arguments:\n<append><s2://b/s><two words><--x=*><>" in handed.stdout
    assert handed.stderr == ""


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["--", "lite"]])
def test_everything_but_lite_is_handed_over(commands: Commands, arguments: list[str]) -> None:
    ours = commands.ours("1")
    commands.client("2")
    handed = run(ours, *arguments, path=commands.path)
    assert f"with {len(arguments)} arguments:" in handed.stdout


def test_our_own_command_is_never_handed_over_to(commands: Commands, tmp_path: Path) -> None:
    ours = commands.ours("1")
    commands.ours("2")  # installed in another environment
    (commands.root / "3").mkdir()
    (commands.root / "3" / "s2").symlink_to(ours)
    (commands.root / "4").symlink_to(commands.root / "1")
    (commands.root / "5").mkdir()
    shutil.copy(ours, commands.root / "5" / "s2")
    (commands.root / "6").mkdir()
    (commands.root / "6" / "s2").write_text("not executable")
    nobody = run(ours, "append", path=commands.path)
    assert nobody.returncode == 127
    commands.client("7")
    handed = run(ours, "append", path=commands.path)
    assert handed.returncode == 0
    assert "client in 7" in handed.stdout


def test_without_another_s2_it_says_what_to_install(commands: Commands) -> None:
    ours = commands.ours("1")
    nobody = run(ours, "append", path=commands.path)
    assert nobody.returncode == 127
    assert nobody.stdout == ""
    assert len(nobody.stderr.splitlines()) == 1
    assert "install" in nobody.stderr


def test_the_path_is_searched_in_order(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = commands.client("1"), commands.client("2")
    monkeypatch.setenv("PATH", commands.path)
    assert next_on_path("s2", Path("/nowhere/s2")) == str(first)
    assert next_on_path("s2", first) == str(commands.root / "2" / "s2")
    monkeypatch.setenv("PATH", os.pathsep.join(["", "/nowhere", str(commands.root / "2")]))
    assert next_on_path("s2", first) == str(commands.root / "2" / "s2")
