"""The command line: `s2lite`, and `s2`, which hands everything but ours to the S2 client.

The official client is called `s2` as well, and its users know this server as `s2 lite`. So our `s2`
runs `s2 lite` itself and becomes the next `s2` on PATH for everything else.
"""

import logging
import os
import random
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
import trio
from prometheus_client import CollectorRegistry, disable_created_metrics

from actors import ActorError
from actors.clock import SystemClock
from s2lite import __version__
from s2lite.backend.metrics import register_process_metrics
from s2lite.model.errors import S2LiteError, StorageFailed, WriterFenced
from s2lite.server import Environment, run_until_signalled
from s2lite.settings import (
    DEFAULT_APPEND_INFLIGHT_BYTES,
    BucketStorage,
    LocalStorage,
    MemoryStorage,
    Settings,
    Storage,
)

EXIT_FAILED = 1
EXIT_FENCED = 3
EXIT_STORAGE = 4
EXIT_NO_CLIENT = 127
"""What a shell answers for a command it does not find."""

OUR_COMMANDS = frozenset({"lite"})

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _UNITS[f"{_letter}b"] = 1000**_power
    _UNITS[f"{_letter}ib"] = 1024**_power


class Size(click.ParamType[int]):
    """A number of bytes, with or without a unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse `1048576`, `128MiB` or `1.5 GB`."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", value)
        unit = _UNITS.get(found[2].lower()) if found else None
        if found is None or unit is None:
            self.fail(f"{value!r} is not a size such as 1048576, 128MiB or 1.5GB", param, ctx)
        return int(float(found[1]) * unit)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="s2lite")
def cli() -> None:
    """Durable streams, self-hosted: a server for the S2 API."""


@cli.command()
@click.option("--port", type=click.IntRange(0, 65535), default=80, show_default=True,
              help="Port to listen on; 0 takes any free one.")  # fmt: skip
@click.option("--host", default="0.0.0.0", show_default=True,  # noqa: S104
              help="Address to listen on; 127.0.0.1 keeps the server to this machine.")  # fmt: skip
@click.option("--local-root", type=click.Path(path_type=Path, file_okay=False),
              help="Keep everything in this directory; it is created if missing.")  # fmt: skip
@click.option("--bucket", help="Keep everything in this S3-compatible bucket.")
@click.option("--path", default="", help="Base path inside the bucket or directory.")
@click.option("--no-cors", is_flag=True, help="Do not answer web pages of other origins.")
@click.option("--append-inflight-bytes", type=Size(), default=DEFAULT_APPEND_INFLIGHT_BYTES,
              show_default="128MiB", metavar="SIZE",
              help="How much may be appended and not yet durable, over all streams.")  # fmt: skip
def lite(
    port: int,
    host: str,
    local_root: Path | None,
    bucket: str | None,
    path: str,
    no_cors: bool,
    append_inflight_bytes: int,
) -> None:
    """Run the server. Without --local-root or --bucket it keeps everything in memory."""
    settings = Settings(
        storage=_storage_of(local_root, bucket, path),
        host=host,
        port=port,
        cors=not no_cors,
        append_inflight_bytes=append_inflight_bytes,
    )
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    sys.exit(_run(settings))


def _storage_of(local_root: Path | None, bucket: str | None, path: str) -> Storage:
    if local_root is not None and bucket is not None:
        raise click.UsageError("--local-root and --bucket exclude each other: give one of them")
    if bucket is not None:
        return BucketStorage(bucket, path)
    if local_root is not None:
        base = Path(path)
        if base.is_absolute() or ".." in base.parts:
            raise click.UsageError("--path must be relative, and stay inside the directory")
        return LocalStorage(local_root / base)
    return MemoryStorage()


def _run(settings: Settings) -> int:
    log = logging.getLogger("s2lite")
    log.info("s2lite %s, %s", __version__, _described(settings.storage))
    disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types
    registry = CollectorRegistry()
    register_process_metrics(registry)
    environment = Environment(SystemClock(), random.SystemRandom())
    try:
        trio.run(run_until_signalled, settings, environment, registry)
    except BaseExceptionGroup as group:
        expected, unexpected = group.split((S2LiteError, ActorError))
        if expected is None or unexpected is not None:
            raise
        return _explained(log, expected)
    log.info("stopped")
    return 0


def _described(storage: Storage) -> str:
    match storage:
        case MemoryStorage():
            return "in memory: everything is lost when it stops"
        case LocalStorage(root):
            return f"keeping everything in {root}"
        case BucketStorage(bucket, path):
            return f"keeping everything in bucket {bucket}" + (f", path {path}" if path else "")


def _explained(log: logging.Logger, group: BaseExceptionGroup[Exception]) -> int:
    """Log why the server ended, and return the exit code for it."""
    code = EXIT_FAILED
    for error in _leaves(group):
        log.error("%s", error)
        if isinstance(error, WriterFenced):
            code = EXIT_FENCED
        elif isinstance(error, StorageFailed):
            code = EXIT_STORAGE
    return code


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    cause = error.__cause__
    return _leaves(cause) if isinstance(error, ActorError) and cause is not None else [error]


# --- the two commands -------------------------------------------------------------------------


def s2lite() -> None:
    """The command `s2lite`."""
    cli(prog_name="s2lite")


def s2() -> None:
    """The command `s2`: ours for `s2 lite`, otherwise the next `s2` on PATH."""
    if len(sys.argv) > 1 and sys.argv[1] in OUR_COMMANDS:
        cli(prog_name="s2")
    else:
        _hand_over()


def _hand_over() -> NoReturn:
    client = next_on_path("s2", Path(sys.argv[0]))
    if client is None:
        print(
            "s2: only `s2 lite` is here; for the client itself, `cargo install s2-cli` "
            "or see https://s2.dev/docs/quickstart",
            file=sys.stderr,
        )
        sys.exit(EXIT_NO_CLIENT)
    os.execv(client, ["s2", *sys.argv[1:]])  # noqa: S606  (to become the client is the point)


def next_on_path(name: str, own: Path) -> str | None:
    """The first executable of this name on PATH that is not `own`."""
    for directory in os.get_exec_path():
        found = shutil.which(name, path=directory)
        if found is not None and not _is_ours(Path(found), own):
            return found
    return None


def _is_ours(candidate: Path, own: Path) -> bool:
    """Whether the candidate is this program, also when installed in another environment."""
    if candidate.resolve() == own.resolve():
        return True
    try:
        with candidate.open("rb") as file:
            return b"s2lite.cli" in file.read(4096)
    except OSError:
        return False  # it may be run but not read, as no script of ours
