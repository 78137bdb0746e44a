"""The command line of the benchmark."""

import argparse
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

from scripts.benchmark.cases import CASES
from scripts.benchmark.drivers import Figure
from scripts.benchmark.machine import CpuTimes, facts
from scripts.benchmark.report import Report, Result
from scripts.benchmark.targets import CommandTarget, Target, UrlTarget, own_target, serving
from scripts.benchmark.wire import BenchmarkError

WARM_UP_SECONDS = 0.3

_basin_numbers = itertools.count()


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure s2lite, and other servers of the S2 API by the same cases.",
        epilog="Cases: " + "; ".join(f"{name}: {case.description}" for name, case in CASES.items()),
    )
    parser.add_argument(
        "--store",
        action="append",
        choices=["memory", "local", "none"],
        help="a store for this project's server; may be repeated (default: memory and local)",
    )
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another server to start for each case: {port} and {root} are filled in",
    )
    parser.add_argument(
        "--url",
        action="append",
        default=[],
        metavar="NAME=URL",
        help="another server that is running already, such as peer=http://127.0.0.1:8080",
    )
    parser.add_argument("--only", action="append", choices=list(CASES), metavar="CASE")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured per case and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures")
    return parser.parse_args()


def targets_of(arguments: argparse.Namespace) -> list[Target]:
    """Make what is to be measured; the first is what the others are compared with."""
    targets: list[Target] = [
        own_target(store) for store in arguments.store or ["memory", "local"] if store != "none"
    ]
    for text in arguments.compare:
        name, _, command = text.partition("=")
        targets.append(CommandTarget.of(name, command))
    for text in arguments.url:
        name, _, url = text.partition("=")
        targets.append(UrlTarget(name, url))
    return targets


def measure(name: str, target: Target, seconds: float) -> Result:
    """Run one case on a server of its own, warm-up first."""
    basin = f"bench-{os.getpid()}-{next(_basin_numbers)}"
    with serving(target) as server:
        driver = CASES[name].start(server, basin)
        driver.run(WARM_UP_SECONDS)
        driver.reset()
        before, started = CpuTimes.read(server.pid), time.perf_counter()
        driver.run(seconds)
        elapsed = time.perf_counter() - started
        cpu = CpuTimes.read(server.pid).since(before, elapsed)
        figures = driver.figures(elapsed)
        if cpu.server is not None:
            figures += per_cpu_second(figures, cpu.server)
        driver.close()
        if server.pid is None:
            server.call("DELETE", f"/v1/basins/{basin}")
    return Result(name, target.name, figures, cpu)


def per_cpu_second(figures: list[Figure], server: float) -> list[Figure]:
    """Divide the rates by what the server used, which other work on the machine hardly changes."""
    return [
        Figure(f"{figure.name} per server CPU s", figure.unit.removesuffix("/s"), rate)
        for figure in figures
        if figure.unit.endswith("/s") and (rate := figure.value / server if server else 0.0)
    ]


def main() -> None:
    """Measure, and print what came of it."""
    arguments = parse_arguments()
    targets = targets_of(arguments)
    names = list(arguments.only or CASES)
    about = facts(Path(tempfile.gettempdir()))
    for fact, value in about.items():
        print(f"- {fact}: {value}")
    results: list[Result] = []
    failures = 0
    # Round by round and target by target, so that what else the machine does hits all alike.
    for round_number, name, target in itertools.product(range(arguments.rounds), names, targets):
        print(f"round {round_number + 1}: {name} on {target.name}", file=sys.stderr)
        try:
            results.append(measure(name, target, arguments.seconds))
        except (BenchmarkError, OSError) as error:
            failures += 1
            print(f"  failed: {error}", file=sys.stderr)
    descriptions = {name: CASES[name].description for name in names}
    report = Report(about, [target.name for target in targets], descriptions, results)
    print(f"\n{report.table()}\n\nProcessors used, server / client / others:\n\n{report.costs()}")
    if arguments.json is not None:
        report.write_json(arguments.json)
    if failures:
        sys.exit(f"{failures} measurements failed; see above")


main()
