"""The command line of the long runs."""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from scripts.benchmark.machine import facts
from scripts.benchmark.targets import CommandTarget, Server
from scripts.benchmark.wire import BenchmarkError
from scripts.longrun.idle import IdleResult, measure_idle
from scripts.longrun.loads import Load, ManyStreams, OneStream, ReadBack, create_basin
from scripts.longrun.watching import GIB, MIB, Watch, directory_bytes, rss_bytes

SMALL_BYTES = 100
LARGE_BYTES = 1000
LARGE_BATCH = 1000
QUIET_SECONDS = 5.0
SETTLE_SECONDS = 300.0
WRITES = ("puts", "deletes")

CASES = {
    "small": "many small records over many streams, by unary appends",
    "large": "one stream, by one append session of 1000 records of 1000 bytes a batch; then read",
    "idle": "many streams that nobody uses: calls of the store, which have to be none",
}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/long-run",
        description="Load this project's server for a long time, and watch its rate, its memory "
        "and its store. The server is a process of its own that keeps everything in a directory.",
        epilog="Cases: "
        + "; ".join(f"{name}: {text}" for name, text in CASES.items())
        + ". A run of two minutes: scripts/long-run --short",
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="which cases (default: all)")
    parser.add_argument("--short", action="store_true", help="all sizes about 1/40 of the default")
    parser.add_argument("--records", type=int, help="small: records in all (10,000,000)")
    parser.add_argument("--streams", type=int, help="small: streams (10,000)")
    parser.add_argument("--batch", type=int, default=10, help="small: records an append (10)")
    parser.add_argument("--connections", type=int, default=64, help="small: appends at once (64)")
    parser.add_argument("--gib", type=float, help="large: GiB of records (20)")
    parser.add_argument("--idle-streams", type=int, help="idle: streams (100,000)")
    parser.add_argument("--idle-hours", type=float, default=48.0, help="idle: virtual time (48)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two lines (5)")
    parser.add_argument(
        "--local-root", type=Path, help="where the server keeps its data (default: temporary)"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(unknown)}")
    scale = 40 if arguments.short else 1
    sizes = {"records": 10_000_000, "streams": 10_000, "gib": 20.0, "idle_streams": 100_000}
    for name, size in sizes.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, type(size)(size / scale))
    return arguments


@attrs.define(eq=False)
class Summary:
    """The table in the end."""

    rows: list[tuple[str, str, str]] = attrs.field(factory=list)

    def add(self, case: str, figure: str, value: str) -> None:
        """Add a figure."""
        self.rows.append((case, figure, value))

    def add_watch(self, case: str, watch: Watch) -> None:
        """Add what was seen of a load."""
        load = watch.load
        payload = load.goal * load.record_bytes
        self.add(case, "records", f"{load.goal:,} of {load.record_bytes} B")
        for name, start, end in (("rate", 0, 1), ("first tenth", 0, 0.1), ("last tenth", 0.9, 1)):
            rate = watch.rate(start, end)
            mib = rate * load.record_bytes / MIB
            self.add(case, name, f"{rate:,.0f} records/s, {mib:,.1f} MiB/s")
        rss = max(sample.rss_bytes for sample in watch.samples)
        self.add(case, "max RSS", f"{rss / MIB:,.0f} MiB")
        for name, steps in (
            ("longest steps of the event loop", watch.longest("held")),
            ("of that, busy", watch.longest("busy")),
        ):
            text = ", ".join(f"{seconds * 1000:.0f} ms ({task})" for task, seconds in steps[:3])
            self.add(case, name, text or "none above 1 ms")
        self._add_counters(case, watch, payload)

    def _add_counters(self, case: str, watch: Watch, payload: int) -> None:
        put, got = (watch.grown(f"s2lite_store_{way}_bytes_total") for way in ("put", "get"))
        if put is not None and got is not None:
            self.add(case, "bytes put / bytes of records", f"{put / payload:.2f}")
            self.add(case, "bytes got / bytes of records", f"{got / payload:.2f}")
        for what in ("puts", "gets", "lists", "deletes"):
            count = watch.grown(f"s2lite_store_{what}_total")
            if count is not None:
                per_gib = count / payload * GIB
                self.add(case, what, f"{count:,.0f}, {per_gib:,.0f} per GiB of records")
        stalled = watch.grown("s2lite_write_stall_seconds_total")
        if stalled is not None:
            self.add(case, "writes stalled", f"{stalled:.1f} s")

    def table(self) -> str:
        """Make it markdown."""
        lines = ["| case | figure | value |", "| --- | --- | --- |"]
        lines += [f"| {case} | {figure} | {value} |" for case, figure, value in self.rows]
        return "\n".join(lines)


@contextmanager
def directory_for(arguments: argparse.Namespace, case: str) -> Iterator[Path]:
    """A new directory for a case, which is removed afterwards unless the operator has named one."""
    if arguments.local_root is not None:
        directory = arguments.local_root / f"{case}-{int(time.monotonic())}"
        directory.mkdir(parents=True)
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="s2lite-long-run-") as root:
        directory = Path(root) / case
        directory.mkdir()
        yield directory


@contextmanager
def serving(directory: Path) -> Iterator[Server]:
    """Run a server on what is in the directory."""
    command = (sys.executable, "-m", "scripts.longrun.watched", "--port", "{port}")
    target = CommandTarget("watched", (*command, "--local-root", "{root}"))
    yield from target.serve(directory)


def run_load(
    arguments: argparse.Namespace,
    summary: Summary,
    case: str,
    directory: Path,
    start: Callable[[Server], Load],
    *,
    first: bool = True,
) -> None:
    """Run a load on a server, let it settle, and see how long the next one takes to start."""
    print(f"\n{case}:", flush=True)
    with serving(directory) as server:
        if first:
            create_basin(server)
        watch = Watch(server, directory, start(server))
        watch.run(arguments.every)
        seconds = settle(server, watch)
        summary.add_watch(case, watch)
        summary.add(case, "until it was quiet again", f"{seconds:.0f} s")
        rss = rss_bytes(server.pid)
        summary.add(case, "RSS then", f"{rss / MIB:,.0f} MiB")
    size = directory_bytes(directory)
    payload = watch.load.goal * watch.load.record_bytes
    if first:
        summary.add(case, "store / records, after the end", f"{size / payload:.2f}")
    started = time.perf_counter()
    with serving(directory) as server:
        summary.add(case, "next start", f"{time.perf_counter() - started:.1f} s")
        rss = rss_bytes(server.pid)
        summary.add(case, "RSS after the next start", f"{rss / MIB:,.0f} MiB")


def settle(server: Server, watch: Watch) -> float:
    """Wait until the server puts and deletes nothing any more; give how long that was."""
    pause = threading.Event()
    started = quiet_since = time.perf_counter()
    while time.perf_counter() - started < SETTLE_SECONDS:
        before = [watch.samples[-1].metrics.get(f"s2lite_store_{what}_total") for what in WRITES]
        pause.wait(0.5)
        watch.take()
        after = [watch.samples[-1].metrics.get(f"s2lite_store_{what}_total") for what in WRITES]
        now = time.perf_counter()
        if before != after:
            quiet_since = now
        elif now - quiet_since > QUIET_SECONDS:
            return quiet_since - started
    return SETTLE_SECONDS


def run_small(arguments: argparse.Namespace, summary: Summary) -> None:
    """Many streams."""

    def start(server: Server) -> Load:
        return ManyStreams.open(
            server,
            streams=arguments.streams,
            records=arguments.records,
            record_bytes=SMALL_BYTES,
            batch=arguments.batch,
            connections=arguments.connections,
        )

    with directory_for(arguments, "small") as directory:
        run_load(arguments, summary, "small", directory, start)


def run_large(arguments: argparse.Namespace, summary: Summary) -> None:
    """One stream, appended and then read."""
    batches = max(1, round(arguments.gib * GIB / LARGE_BYTES / LARGE_BATCH))
    records = batches * LARGE_BATCH

    def append(server: Server) -> Load:
        return OneStream.open(server, records=records, record_bytes=LARGE_BYTES, batch=LARGE_BATCH)

    def read(server: Server) -> Load:
        return ReadBack.open(server, records=records, record_bytes=LARGE_BYTES)

    with directory_for(arguments, "large") as directory:
        run_load(arguments, summary, "large", directory, append)
        run_load(arguments, summary, "large, read back", directory, read, first=False)


def run_idle(arguments: argparse.Namespace, summary: Summary) -> None:
    """Streams that nobody uses."""
    for shared in (False, True):
        case = "idle, bucket" if shared else "idle"
        print(f"\n{case}:", flush=True)
        result = measure_idle(arguments.idle_streams, arguments.idle_hours, shared=shared)
        print(result, flush=True)
        add_idle(summary, case, result)


def add_idle(summary: Summary, case: str, result: IdleResult) -> None:
    """Add what an idle server has asked of its store."""
    summary.add(case, "streams", f"{result.streams:,}")
    summary.add(case, "calls while they were made", f"{result.making.calls:,}")
    summary.add(case, "calls until all was tidy", f"{result.settling.calls:,}")
    summary.add(case, f"calls in {result.idle_hours:,.0f} h after that", f"{result.idle.calls:,}")
    if result.idle.calls:
        raise BenchmarkError(f"an idle server made {result.idle.calls} calls: {result.idle}")


def main() -> None:
    """Run, and print what came of it."""
    arguments = parse_arguments()
    for fact, value in facts(arguments.local_root or Path(tempfile.gettempdir())).items():
        print(f"- {fact}: {value}")
    summary = Summary()
    failures = 0
    for case in arguments.cases or CASES:
        try:
            {"small": run_small, "large": run_large, "idle": run_idle}[case](arguments, summary)
        except (BenchmarkError, OSError) as error:
            failures += 1
            print(f"{case} failed: {error}", file=sys.stderr)
    print(f"\n{summary.table()}")
    if failures:
        sys.exit(f"{failures} cases failed; see above")


main()
