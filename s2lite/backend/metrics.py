"""What is measured, under the names that dashboards for S2 servers know."""

import os
from pathlib import Path

import attrs
from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector

_TASKS = Path("/proc/self/task")

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_RECORDS = (1, 10, 50, 100, 250, 500, 1000)
_BYTES = (512, 1024, 4096, 16384, 65536, 262144, 524288, 1048576)


@attrs.frozen(eq=False)
class AppendMetrics:
    """Histograms of the append path, one observation a batch."""

    permit_seconds: Histogram
    ack_seconds: Histogram
    batch_records: Histogram
    batch_bytes: Histogram

    @classmethod
    def register(cls, registry: CollectorRegistry) -> "AppendMetrics":
        """Make them and register them."""

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, buckets=buckets, registry=registry)

        return cls(
            histogram(
                "s2_append_permit_latency_seconds",
                "Wait for room in the budget of appends in flight",
                _SECONDS,
            ),
            histogram(
                "s2_append_ack_latency_seconds",
                "From submission of a batch to its durable ack",
                _SECONDS,
            ),
            histogram("s2_append_batch_records", "Records in an appended batch", _RECORDS),
            histogram("s2_append_batch_bytes", "Metered bytes in an appended batch", _BYTES),
        )


def register_process_metrics(registry: CollectorRegistry) -> None:
    """Register what the kernel says of this process; only Linux says it."""
    ProcessCollector(registry=registry)
    if _TASKS.is_dir():
        threads = Gauge("process_threads", "Number of OS threads", registry=registry)
        threads.set_function(lambda: len(os.listdir(_TASKS)))
