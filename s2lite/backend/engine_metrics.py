"""What the log engine says of itself in `/metrics`: read when somebody asks, and free otherwise."""

from collections.abc import Callable, Iterator

import attrs
import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from s2lite.backend.budget import ByteBudget
from s2lite.backend.storage_actor import StorageStatus
from s2lite.storage.block_cache import BlockCache
from s2lite.storage.current_manifest import CurrentManifest
from s2lite.storage.damage import Damage
from s2lite.storage.memtable import Memtable
from s2lite.storage.objects.metered_store import StoreCounts


@attrs.frozen(eq=False)
class Reading(Collector):
    """One number under one name, read off its owner. `read` must be quick and must not wait."""

    name: str
    text: str
    read: Callable[[], float]
    counts_up: bool = False

    def collect(self) -> Iterator[Metric]:
        """The present value."""
        kind = CounterMetricFamily if self.counts_up else GaugeMetricFamily
        yield kind(self.name, self.text, value=self.read())


@attrs.define(eq=False)
class Tally:
    """A number that is kept by its changes."""

    value: int = 0

    def add(self, change: int) -> None:
        """Change it."""
        self.value += change


def register_memory_metrics(
    registry: CollectorRegistry, memtable: Memtable, cache: BlockCache
) -> None:
    """Register what the engine's memory budgets are, and how much of them is used."""
    for name, text, read in (
        ("memtable_bytes", "Memory of batches not flushed yet", lambda: memtable.size_bytes),
        (
            "memtable_limit_bytes",
            "Memory beyond which appends wait for a flush",
            lambda: 2 * memtable.layout.memtable_bytes,
        ),
        ("read_cache_bytes", "Memory of blocks that were read", lambda: cache.used_bytes),
        ("read_cache_limit_bytes", "Budget of the read cache", lambda: cache.budget_bytes),
    ):
        registry.register(Reading(f"s2lite_{name}", text, read))
    for name, text, read in (
        ("read_cache_hits", "Blocks found in the read cache", lambda: cache.hits),
        ("read_cache_misses", "Blocks that had to be read", lambda: cache.misses),
    ):
        registry.register(Reading(f"s2lite_{name}", text, read, counts_up=True))


def register_traffic_metrics(
    registry: CollectorRegistry, inflight: ByteBudget, backlog: Tally
) -> None:
    """Register what appends in flight and followers hold; the latter are bounded one by one."""
    for name, text, read in (
        ("append_inflight_bytes", "Appends not durable yet", lambda: inflight.used_bytes),
        (
            "append_inflight_limit_bytes",
            "Budget of appends that are not durable yet",
            lambda: inflight.total_bytes,
        ),
        (
            "follower_backlog_bytes",
            "Batches that followers have yet to take",
            lambda: backlog.value,
        ),
    ):
        registry.register(Reading(f"s2lite_{name}", text, read))


def register_request_metrics(registry: CollectorRegistry, buffered: Tally) -> None:
    """Register what request bodies hold; they are bounded one by one and for each connection."""
    registry.register(
        Reading(
            "s2lite_request_buffer_bytes",
            "Request bodies that arrived and were not looked at yet",
            lambda: buffered.value,
        )
    )


def register_store_metrics(registry: CollectorRegistry, counts: StoreCounts) -> None:
    """Register the requests made to the object store."""
    for name, text, read in (
        ("puts", "Objects put", lambda: counts.puts),
        ("put_bytes", "Bytes put", lambda: counts.put_bytes),
        ("gets", "Objects, or ranges of them, got", lambda: counts.gets),
        ("get_bytes", "Bytes got", lambda: counts.get_bytes),
        ("lists", "Listings", lambda: counts.lists),
        ("deletes", "Objects deleted", lambda: counts.deletes),
    ):
        registry.register(Reading(f"s2lite_store_{name}", text, read, counts_up=True))


def register_log_metrics(
    registry: CollectorRegistry, manifest: CurrentManifest, status: StorageStatus, damage: Damage
) -> None:
    """Register what the log consists of, and whether it is well."""

    def stalled_seconds() -> float:
        since = status.stalled_since
        return status.stalled_seconds + (0.0 if since is None else trio.current_time() - since)

    for name, text, read in (
        ("runs", "Live runs of segments", lambda: len(manifest.value.runs)),
        ("segments", "Live segments", lambda: len(manifest.value.segments)),
        ("catalog_objects", "Live catalog objects", lambda: len(manifest.value.catalog)),
        (
            "segment_bytes",
            "Size of the live segments",
            lambda: sum(run.size_bytes for run in manifest.value.runs),
        ),
        ("damaged_objects", "Objects found damaged since the start", lambda: damage.count),
    ):
        registry.register(Reading(f"s2lite_{name}", text, read))
    registry.register(
        Reading(
            "s2lite_write_stall_seconds",
            "Time for which writes waited for a flush",
            stalled_seconds,
            counts_up=True,
        )
    )
