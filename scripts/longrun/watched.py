"""Our server as it is, with a watch on its event loop: for measuring only.

What the watch sees is in `/metrics` beside all else. It looks at the clock twice for each step of
each task, which costs some percent.
"""

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from actors.clock import SystemClock
from s2lite.backend.metrics import register_process_metrics
from s2lite.server import Environment, run_until_signalled
from s2lite.settings import LocalStorage, Settings

NOTED_SECONDS = 0.001


@attrs.define(eq=False)
class LoopWatch(trio.abc.Instrument, Collector):
    """The longest steps of tasks since the last look at `/metrics`, by the task's function.

    A step is what holds the event loop. Of each both the time is noted and how much of it the
    processor worked on it: the rest was waiting, for the disk or for other processes.
    """

    held: dict[str, float] = attrs.field(factory=dict)
    busy: dict[str, float] = attrs.field(factory=dict)
    _began: float = 0.0
    _began_busy: float = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note the time."""
        self._began, self._began_busy = time.perf_counter(), time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note how long it was, if that is the longest."""
        held = time.perf_counter() - self._began
        if held > NOTED_SECONDS:
            name = getattr(task.coro, "__qualname__", task.name)
            self.held[name] = max(self.held.get(name, 0.0), held)
            busy = time.thread_time() - self._began_busy
            self.busy[name] = max(self.busy.get(name, 0.0), busy)

    def collect(self) -> Iterator[Metric]:
        """What there was since the last time."""
        for kind, values in (("held", self.held), ("busy", self.busy)):
            family = GaugeMetricFamily(f"longrun_{kind}_seconds", "Longest step", labels=["task"])
            for name, seconds in values.items():
                family.add_metric([name], seconds)
            values.clear()
            yield family


def main() -> None:
    """Serve from a directory until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--local-root", type=Path, required=True)
    arguments = parser.parse_args()
    settings = Settings(
        storage=LocalStorage(arguments.local_root), host="127.0.0.1", port=arguments.port
    )
    registry, watch = CollectorRegistry(), LoopWatch()
    register_process_metrics(registry)
    registry.register(watch)
    environment = Environment(SystemClock(), random.SystemRandom())
    trio.run(run_until_signalled, settings, environment, registry, instruments=[watch])


if __name__ == "__main__":
    main()
