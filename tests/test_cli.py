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

from s2lite.cli import cli, lite, next_on_path, settings_of
from s2lite.settings import BucketStorage, LocalStorage, MemoryStorage, Settings, Storage
from s2lite.storage.objects.buckets import Provider

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


def s2lite(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `s2lite`."""
    return run(sys.executable, "-m", "s2lite", *arguments, **environment)


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
    for flag in ("--port", "--host", "--local-root", "--bucket", "--path", "--store-url"):
        assert flag in helped.stdout
    for flag in ("--no-cors", "--append-inflight-bytes", "--read-cache-bytes", "--flush-interval"):
        assert flag in helped.stdout
    assert "SL8_FLUSH_INTERVAL" in helped.stdout
    assert "S2LITE_PIPELINE" in helped.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--local-root", "d", "--bucket", "b"], "exclude each other"),
        (["--store-url", "s3://b", "--bucket", "b"], "exclude each other"),
        (["--store-url", "s3://b", "--local-root", "d"], "exclude each other"),
        (["--store-url", "s3://bucket", "--path", "p"], "leave out --path"),
        (["--store-url", "bucket/path"], "begins with none of s3://"),
        (["--store-url", "https://bucket/path"], "begins with none of s3://"),
        (["--store-url", ""], "begins with none of s3://"),
        (["--store-url", "s3:///path"], "bucket's name"),
        (["--store-url", "s3://bucket/a/../b"], "`..`"),
        (["--store-url", "s3://bucket/%2e%2e/b"], "`..`"),
        (["--store-url", "s3://key:secret@bucket"], "access is for the environment"),
        (["--store-url", "az://c/p?sig=secret"], "access is for the environment"),
        (["--store-url", "file://dir"], "three slashes"),
        (["--store-url", "file:///"], "three slashes"),
        (["--store-url", "memory://x"], "memory:///"),
        (["--bucket", ""], "bucket's name"),
        (["--bucket", "a/b"], "bucket's name"),
        (["--bucket", "b", "--path", "../up"], "`..`"),
        (["--bucket", "b", "--path", "a//b"], "empty parts"),
        (["--flush-interval", "5"], "--flush-interval"),
        (["--flush-interval", "0"], "--flush-interval"),
        (["--flush-interval", ""], "--flush-interval"),
        (["--flush-interval", "-1s"], "--flush-interval"),
        (["--flush-interval", "1s fast"], "--flush-interval"),
        (["--flush-interval", "1 year"], "--flush-interval"),
        (["--read-cache-bytes", "some"], "--read-cache-bytes"),
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
    assert "secret" not in refused.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SL8_FLUSH_INTERVAL", "soon"),
        ("SL8_FLUSH_INTERVAL", "10"),
        ("S2LITE_PIPELINE", "no"),
        ("S2LITE_PIPELINE", ""),
        ("S2LITE_PIPELINE", "False"),
    ],
)
def test_a_wrong_value_in_the_environment_is_a_usage_error_that_names_it(
    name: str, value: str
) -> None:
    refused = CliRunner(env={name: value}).invoke(cli, ["lite"], prog_name="s2lite")
    assert refused.exit_code == 2
    assert name in refused.stderr.splitlines()[-1]


def test_a_usage_error_is_the_exit_status_of_the_process() -> None:
    refused = s2lite("lite", "--local-root", "d", "--bucket", "b")
    assert refused.returncode == 2
    assert "exclude each other" in refused.stderr
    assert "Traceback" not in refused.stderr


def settings_for(monkeypatch: pytest.MonkeyPatch, *arguments: str, **environment: str) -> Settings:
    """The settings that the command line would run a server with."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with lite.make_context("lite", list(arguments)) as context:
        return settings_of(**context.params)


@pytest.mark.parametrize(
    ("arguments", "storage"),
    [
        ([], MemoryStorage()),
        (["--store-url", "memory:///"], MemoryStorage()),
        (["--local-root", "d", "--path", "a/b"], LocalStorage(Path("d/a/b"))),
        (["--store-url", "file:///data/a%20b"], LocalStorage(Path("/data/a b"))),
        (["--bucket", "my-bucket"], BucketStorage("my-bucket")),
        (["--bucket", "my-bucket", "--path", "/a/b/"], BucketStorage("my-bucket", "a/b")),
        (["--store-url", "s3://my-bucket/a/b"], BucketStorage("my-bucket", "a/b")),
        (
            ["--store-url", "gs://b.example.com/p/"],
            BucketStorage("b.example.com", "p", Provider.GCS),
        ),
        (["--store-url", "az://container"], BucketStorage("container", "", Provider.AZURE)),
    ],
)
def test_storage_is_named_by_flags_or_by_a_url(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], storage: Storage
) -> None:
    assert settings_for(monkeypatch, *arguments).storage == storage


def test_defaults_are_those_that_suit_the_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = settings_for(monkeypatch, "--bucket", "b")
    assert bucket.shared
    assert (bucket.wal_in_flight, bucket.flush_interval_seconds) == (4, 0.05)
    assert bucket.gc_min_age_seconds == 3600
    for arguments in ([], ["--local-root", "d"]):
        settings = settings_for(monkeypatch, *arguments)
        assert not settings.shared
        assert (settings.wal_in_flight, settings.flush_interval_seconds) == (1, 0)
        assert settings.gc_min_age_seconds == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10ms", 0.01), ("1s", 1.0), ("1m30s", 90.0), ("1h 2m", 3720.0), ("1.5s", 1.5), ("0s", 0.0)],
)
def test_the_flush_interval_is_a_flag_or_a_variable(
    monkeypatch: pytest.MonkeyPatch, text: str, seconds: float
) -> None:
    flag = settings_for(monkeypatch, "--flush-interval", text, SL8_FLUSH_INTERVAL="7s")
    assert flag.flush_interval_seconds == pytest.approx(seconds)
    variable = settings_for(monkeypatch, "--bucket", "b", SL8_FLUSH_INTERVAL=text)
    assert variable.flush_interval_seconds == pytest.approx(seconds)


def test_unknown_storage_engine_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_for(monkeypatch, SL8_MANIFEST_POLL="x", SL8_WHATEVER="y") == Settings()


def test_pipelining_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_for(monkeypatch, "--bucket", "b", S2LITE_PIPELINE="true").wal_in_flight == 4
    assert settings_for(monkeypatch, "--bucket", "b", S2LITE_PIPELINE="false").wal_in_flight == 1


def test_the_read_cache_has_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_for(monkeypatch).read_cache_bytes == 128 * 1024 * 1024
    assert settings_for(monkeypatch, "--read-cache-bytes", "1GiB").read_cache_bytes == 1 << 30


def test_a_bucket_without_credentials_is_said_in_one_line(tmp_path: Path) -> None:
    nowhere = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    refused = s2lite("lite", "--bucket", "b", "--port", "0", **nowhere)
    assert refused.returncode == 1
    errors = [line for line in refused.stdout.splitlines() if "ERROR" in line]
    assert len(errors) == 1
    assert "AWS_ACCESS_KEY_ID" in errors[0]
    assert "Traceback" not in refused.stdout + refused.stderr


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


# --- counting garbage -----------------------------------------------------------------------------


def test_help_of_gc_says_that_it_deletes_nothing() -> None:
    helped = CliRunner().invoke(cli, ["gc", "--help"], prog_name="s2lite")
    assert helped.exit_code == 0
    assert "Deletes nothing" in helped.stdout
    for flag in ("--store-url", "--bucket", "--local-root", "--path"):
        assert flag in helped.stdout


@pytest.mark.parametrize("arguments", [[], ["--store-url", "memory:///"]])
def test_garbage_is_counted_somewhere(arguments: list[str]) -> None:
    refused = CliRunner().invoke(cli, ["gc", *arguments], prog_name="s2lite")
    assert refused.exit_code == 2
    assert "say which store" in refused.stderr


def test_counting_garbage_creates_no_directory(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    refused = CliRunner().invoke(cli, ["gc", "--local-root", str(absent)], prog_name="s2lite")
    assert refused.exit_code == 1
    assert "no such directory" in refused.stderr
    assert not absent.exists()


def test_counting_the_garbage_of_an_empty_directory_changes_nothing(tmp_path: Path) -> None:
    counted = CliRunner().invoke(cli, ["gc", "--local-root", str(tmp_path)], prog_name="s2lite")
    assert counted.exit_code == 0
    assert counted.stdout.startswith("kept: ")
    assert list(tmp_path.iterdir()) == []


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
