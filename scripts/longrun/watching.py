"""Looks at a server while it works: memory, size of the store, and what it says in `/metrics`."""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs

from scripts.benchmark.targets import Server
from scripts.longrun.loads import Load

MIB = 1024 * 1024
GIB = 1024 * MIB

_METRIC = re.compile(r"^([a-z0-9_]+)(?:\{task=\"([^\"]*)\"\})? ([-+.0-9e]+)$", re.MULTILINE)


@attrs.frozen
class Sample:
    """What there was to see at one moment; metrics that the server does not have are missing."""

    seconds: float
    records: int
    rss_bytes: int
    metrics: Mapping[str, float]
    held: Mapping[str, float]
    busy: Mapping[str, float]
    """The longest steps since the sample before, see `scripts.longrun.watched`."""


@attrs.define(eq=False)
class Watch:
    """Samples of one run."""

    server: Server
    directory: Path
    load: Load
    samples: list[Sample] = attrs.field(factory=list)
    _started: float = attrs.field(factory=time.perf_counter)

    def run(self, every_seconds: float) -> None:
        """Run the load to its end, and say every so often how it goes."""
        self.take()
        while self.load.records < self.load.goal:
            self.load.run(every_seconds)
            self.take()
            print(self.line(), flush=True)
        self.load.close()

    def take(self) -> None:
        """Take a sample."""
        metrics: dict[str, float] = {}
        steps: dict[str, dict[str, float]] = {"held": {}, "busy": {}}
        text = self.server.call("GET", "/metrics").decode()
        for name, task, value in _METRIC.findall(text):
            if task:
                steps[name.split("_")[1]][task] = float(value)
            else:
                metrics[name] = float(value)
        seconds = time.perf_counter() - self._started
        rss = rss_bytes(self.server.pid)
        self.samples.append(Sample(seconds, self.load.records, rss, metrics, **steps))

    def line(self) -> str:
        """What the last two samples say."""
        before, now = self.samples[-2:]
        rate = (now.records - before.records) / (now.seconds - before.seconds)
        return (
            f"{now.seconds:7.0f} s  {now.records / self.load.goal:6.1%}"
            f"  {rate:11,.0f} records/s  {rate * self.load.record_bytes / MIB:7.1f} MiB/s"
            f"  RSS {now.rss_bytes / MIB:6.0f} MiB"
            f"  store {directory_bytes(self.directory) / MIB:9,.0f} MiB"
            f"  longest step {max(now.held.values(), default=0) * 1000:4.0f} ms"
            f" ({max(now.busy.values(), default=0) * 1000:.0f} ms busy)"
        )

    # --- what it came to ------------------------------------------------------------------------

    def rate(self, start: float, end: float) -> float:
        """Records per second between two shares of all records."""
        goal = self.load.goal
        seconds = self._reached(end * goal) - self._reached(start * goal)
        return (end - start) * goal / seconds

    def grown(self, metric: str) -> float | None:
        """How much a counter has grown over the run, None if the server does not have it."""
        first, last = (each.metrics.get(metric) for each in (self.samples[0], self.samples[-1]))
        return None if first is None or last is None else last - first

    def longest(self, kind: Literal["held", "busy"]) -> list[tuple[str, float]]:
        """The longest steps of the run, by task; those before the first sample are the start's."""
        longest: dict[str, float] = {}
        for sample in self.samples[1:]:
            steps: Mapping[str, float] = getattr(sample, kind)
            for task, seconds in steps.items():
                longest[task] = max(longest.get(task, 0.0), seconds)
        return sorted(longest.items(), key=lambda item: -item[1])

    def _reached(self, records: float) -> float:
        """When that many records were done, on a straight line between samples."""
        before = self.samples[0]
        for after in self.samples:
            if after.records >= records:
                span = after.records - before.records
                share = (records - before.records) / span if span else 1.0
                return before.seconds + share * (after.seconds - before.seconds)
            before = after
        return self.samples[-1].seconds


def rss_bytes(pid: int | None) -> int:
    """The memory that a process has in use; 0 where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0


def directory_bytes(directory: Path) -> int:
    """The size of all files; those that go away meanwhile do not count."""
    size = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                size += os.stat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return size
