"""The command line: `s2lite`, and `s2`, which hands everything but ours to the S2 client.

The official client is called `s2` as well, and its users know this server as `s2 lite`. So our `s2`
runs `s2 lite` itself and becomes the next `s2` on PATH for everything else.
"""

import logging
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import attrs
import click
import trio
from prometheus_client import CollectorRegistry, disable_created_metrics

from actors import ActorError
from actors.clock import SystemClock
from s2lite import __version__
from s2lite.backend.metrics import register_process_metrics
from s2lite.cli_values import Duration, Size
from s2lite.model.errors import S2LiteError, StorageFailed, WriterFenced
from s2lite.server import Environment, run_until_signalled
from s2lite.settings import (
    DEFAULT_APPEND_INFLIGHT_BYTES,
    DEFAULT_READ_CACHE_BYTES,
    BucketStorage,
    LocalStorage,
    MemoryStorage,
    Settings,
    Storage,
    bucket_storage,
    storage_at,
)
from s2lite.storage.inventory import survey
from s2lite.storage.objects.buckets import Provider
from s2lite.stores import open_for_reading

EXIT_FAILED = 1
EXIT_FENCED = 3
EXIT_STORAGE = 4
EXIT_NO_CLIENT = 127
"""What a shell answers for a command it does not find."""

OUR_COMMANDS = frozenset({"lite"})


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="s2lite")
def cli() -> None:
    """Durable streams, self-hosted: a server for the S2 API."""


def storage_options(command: Callable[..., None]) -> Callable[..., None]:
    """The flags that say where everything is kept."""
    flags = [
        click.option("--store-url", metavar="URL",
                     help="Keep everything at this URL: s3://BUCKET/PATH, gs://BUCKET/PATH, "
                          "az://CONTAINER/PATH, file:///DIRECTORY or memory:///."),
        click.option("--bucket", metavar="NAME",
                     help="Keep everything in this bucket of S3, or of what speaks its protocol; "
                          "access and endpoint come from the AWS_ environment variables."),
        click.option("--local-root", type=click.Path(path_type=Path, file_okay=False),
                     help="Keep everything in this directory; it is created if missing."),
        click.option("--path", default="", help="Base path inside the bucket or directory."),
    ]  # fmt: skip
    for flag in reversed(flags):
        command = flag(command)
    return command


@cli.command()
@click.option("--port", type=click.IntRange(0, 65535), default=80, show_default=True,
              help="Port to listen on; 0 takes any free one.")  # fmt: skip
@click.option("--host", default="0.0.0.0", show_default=True,  # noqa: S104
              help="Address to listen on; 127.0.0.1 keeps the server to this machine.")  # fmt: skip
@storage_options
@click.option("--flush-interval", type=Duration(), envvar="SL8_FLUSH_INTERVAL", show_envvar=True,
              metavar="TIME",
              help="Gather appends for so long before they are written, such as 10ms or 1s. Longer "
                   "means fewer requests to the store, which cost money, and later answers to "
                   "appends. By default 50ms for buckets, and no time otherwise.")  # fmt: skip
@click.option("--no-cors", is_flag=True, help="Do not answer web pages of other origins.")
@click.option("--append-inflight-bytes", type=Size(), default=DEFAULT_APPEND_INFLIGHT_BYTES,
              show_default="128MiB", metavar="SIZE",
              help="How much may be appended and not yet durable, over all streams.")  # fmt: skip
@click.option("--read-cache-bytes", type=Size(), default=DEFAULT_READ_CACHE_BYTES,
              show_default="128MiB", metavar="SIZE",
              help="How much memory to use for what was read from the store before.")  # fmt: skip
def lite(**flags: Any) -> None:
    """Run the server. Without a place to keep things it keeps everything in memory.

    S2LITE_PIPELINE=false in the environment makes it write one object at a time to a bucket, where
    it otherwise has several under way.
    """
    settings = settings_of(**flags)
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    sys.exit(_run(settings))


def settings_of(
    port: int,
    host: str,
    store_url: str | None,
    bucket: str | None,
    local_root: Path | None,
    path: str,
    flush_interval: float | None,
    no_cors: bool,
    append_inflight_bytes: int,
    read_cache_bytes: int,
) -> Settings:
    """The settings that the flags of `lite` and the environment amount to."""
    settings = Settings(
        storage=_storage_of(store_url, bucket, local_root, path),
        host=host,
        port=port,
        cors=not no_cors,
        append_inflight_bytes=append_inflight_bytes,
        read_cache_bytes=read_cache_bytes,
    )
    if flush_interval is not None:
        settings = attrs.evolve(settings, flush_interval_seconds=flush_interval)
    return settings if _pipelining() else attrs.evolve(settings, wal_in_flight=1)


@cli.command()
@storage_options
def gc(store_url: str | None, bucket: str | None, local_root: Path | None, path: str) -> None:
    """Say what a server would delete from its store as garbage, what it keeps, and why.

    Deletes nothing and writes nothing; a server may be running on the store meanwhile.
    """
    storage = _storage_of(store_url, bucket, local_root, path)
    if isinstance(storage, MemoryStorage):
        raise click.UsageError("say which store: --store-url, --bucket or --local-root")
    try:
        trio.run(_print_survey, storage)
    except S2LiteError as error:
        click.echo(f"s2lite: {error}", err=True)
        sys.exit(EXIT_FAILED)


async def _print_survey(storage: Storage) -> None:
    async with open_for_reading(storage) as store:
        for line in (await survey(store)).lines():
            click.echo(line)


def _pipelining() -> bool:
    value = os.environ.get("S2LITE_PIPELINE", "true")
    if value not in ("true", "false"):
        raise click.UsageError(f"S2LITE_PIPELINE is true or false, not {value!r}")
    return value == "true"


def _storage_of(
    store_url: str | None, bucket: str | None, local_root: Path | None, path: str
) -> Storage:
    if sum(each is not None for each in (store_url, bucket, local_root)) > 1:
        raise click.UsageError(
            "--store-url, --bucket and --local-root exclude each other: give one of them"
        )
    try:
        if store_url is not None:
            if path:
                raise click.UsageError("--store-url has the path in it: leave out --path")
            return storage_at(store_url)
        if bucket is not None:
            return bucket_storage(Provider.S3, bucket, path)
    except ValueError as error:
        flag = "--bucket or --path" if store_url is None else "--store-url"
        raise click.UsageError(f"{flag} cannot be used: {error}") from error
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
        case BucketStorage():
            return f"keeping everything in {storage}"


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
