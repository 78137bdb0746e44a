"""The command line of the fuzzer."""

import argparse
import multiprocessing
import queue
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing.queues import Queue as ProcessQueue
from typing import Any, Final

import attrs

from scripts.fuzzing.requests import REQUEST_TARGETS
from scripts.fuzzing.runner import FailedCase, Progress, run
from scripts.fuzzing.stored import STORED_TARGETS
from scripts.fuzzing.target import Target
from scripts.fuzzing.wire import WIRE_TARGETS

TARGETS: Final = {
    target.name: target for target in (*WIRE_TARGETS, *STORED_TARGETS, *REQUEST_TARGETS)
}
REPORT_EVERY: Final = 500
MAX_TEXT: Final = 5000


@attrs.frozen
class Job:
    """A range of the cases of a target."""

    target: str
    seed: int
    first: int
    cases: int


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description="Damage valid input and feed it to every decoder: what clients send, what is "
        "stored, and whole requests to the API in memory. A decoder may refuse its input with the "
        "errors it declares, or take it; it may not raise anything else, nor take long, nor much "
        "memory. Where bytes are checksummed, what comes out of damaged ones must not differ.",
        epilog="Targets: "
        + "; ".join(f"{target.name}: {target.about}" for target in TARGETS.values())
        + ". The first input that fails is printed with the command that feeds it again, and the "
        "exit code is 1.",
    )
    parser.add_argument("--count", type=int, default=100_000, help="inputs in all (100,000)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other inputs (1)")
    parser.add_argument("--first", type=int, default=0, help="the first case of each target (0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (1)")
    parser.add_argument(
        "--only", action="append", choices=sorted(TARGETS), metavar="TARGET", help="repeatable"
    )
    arguments = parser.parse_args()
    if arguments.count < 1 or arguments.jobs < 1 or arguments.first < 0:
        parser.error("--count and --jobs are at least 1, --first at least 0")
    return arguments


def plan(targets: Iterable[Target], count: int, seed: int, first: int, jobs: int) -> list[Job]:
    """Divide the inputs among targets by weight, and the cases of each among processes."""
    targets = list(targets)
    weights = sum(target.weight for target in targets)
    planned = []
    for target in targets:
        inputs = count * target.weight / weights
        cases = max(1, round(inputs / target.inputs))
        share = -(-cases // jobs)
        for start in range(0, cases, share):
            planned.append(Job(target.name, seed, first + start, min(share, cases - start)))
    return planned


def work(job: Job, report: Callable[[str, int], None]) -> FailedCase | None:
    """Do one job."""
    target = TARGETS[job.target]
    unsaid = 0

    def progress(cases: int) -> None:
        nonlocal unsaid
        unsaid += cases * target.inputs
        if unsaid >= REPORT_EVERY:
            report(target.name, unsaid)
            unsaid = 0

    failed = run(target, job.seed, job.first, job.cases, progress)
    report(target.name, unsaid)
    return failed


def _work_through(jobs: list[Job], results: "ProcessQueue[Any]") -> None:
    for job in jobs:
        failed = work(job, lambda name, inputs: results.put((name, inputs)))
        if failed is not None:
            results.put(failed)
            break
    results.put(None)


def run_all(
    jobs: list[Job], processes: int, report: Callable[[str, int], None]
) -> list[FailedCase]:
    """Do all jobs, each process its share; what a process does ends with its first failure."""
    if processes == 1:
        return [failed for job in jobs if (failed := work(job, report))]
    context = multiprocessing.get_context("spawn")
    results: ProcessQueue[Any] = context.Queue()
    workers = [
        context.Process(target=_work_through, args=(jobs[index::processes], results))
        for index in range(processes)
    ]
    for worker in workers:
        worker.start()
    failures = _gather(workers, results, report)
    for worker in workers:
        worker.join()
    return failures


def _gather(
    workers: list[Any], results: "ProcessQueue[Any]", report: Callable[[str, int], None]
) -> list[FailedCase]:
    failures: list[FailedCase] = []
    running = len(workers)
    while running:
        try:
            result = results.get(timeout=1)
        except queue.Empty:
            if any(worker.exitcode for worker in workers):
                raise SystemExit("a process has ended early: see above what it was at") from None
            continue
        match result:
            case None:
                running -= 1
            case FailedCase() as failed:
                failures.append(failed)
            case (name, inputs):
                report(name, inputs)
    return failures


def main() -> int:
    """Run the fuzzer; the exit code says whether something failed."""
    arguments = parse_arguments()
    targets = [TARGETS[name] for name in arguments.only or TARGETS]
    jobs = plan(targets, arguments.count, arguments.seed, arguments.first, arguments.jobs)
    total = sum(job.cases * TARGETS[job.target].inputs for job in jobs)
    done: dict[str, int] = {}
    progress = Progress(total, lambda line: print(line, file=sys.stderr, flush=True))

    def report(name: str, inputs: int) -> None:
        done[name] = done.get(name, 0) + inputs
        progress.add(name, inputs)

    began = time.monotonic()
    failures = run_all(jobs, arguments.jobs, report)
    for name, inputs in done.items():
        print(f"{name:16} {inputs:>12,}")
    print(f"{'in all':16} {sum(done.values()):>12,} inputs in {time.monotonic() - began:.0f} s")
    for failed in failures:
        what = failed.what[-MAX_TEXT:]
        print(f"\nFAILED {failed.target}, case {failed.case}: {what}\n{failed.reproduction}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
