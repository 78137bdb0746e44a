"""Facts about the machine, and who used its processors while something was measured."""

import os
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import attrs

from s2lite import __version__

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
_FSYNCS = 200


@attrs.frozen
class CpuTimes:
    """Processor seconds used so far: by this process, by the server, and by the whole machine."""

    client: float
    server: float | None
    machine: float | None

    @classmethod
    def read(cls, server_pid: int | None) -> "CpuTimes":
        """Read them now; None for what this system does not tell."""
        times = os.times()
        server = None if server_pid is None else _process_seconds(server_pid)
        return cls(times.user + times.system, server, _machine_seconds())

    def since(self, earlier: "CpuTimes", elapsed_seconds: float) -> "CpuTimes":
        """Give the use per second since then: 1.0 is one processor, all of the time."""

        def rate(now: float | None, then: float | None) -> float | None:
            return None if now is None or then is None else (now - then) / elapsed_seconds

        return CpuTimes(
            (self.client - earlier.client) / elapsed_seconds,
            rate(self.server, earlier.server),
            rate(self.machine, earlier.machine),
        )

    @property
    def others(self) -> float | None:
        """What neither the client nor the server used."""
        if self.machine is None or self.server is None:
            return None
        return max(0.0, self.machine - self.client - self.server)


def facts(directory: Path) -> dict[str, str]:
    """Describe the machine, the versions in use, and the disk that holds `directory`."""
    fsync_ms = sorted(_fsync_milliseconds(directory))
    return {
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()) + " (1, 5, 15 min)",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": f"s2lite {__version__}, "
        + ", ".join(
            f"{name} {_version(name)}"
            for name in ("trio", "hypercorn", "h2", "h11", "protobuf", "obstore")
        ),
        "fsync": f"write and fsync of 4 KiB: fastest {fsync_ms[0]:.2f} ms, "
        f"median {statistics.median(fsync_ms):.2f} ms, "
        f"p99 {fsync_ms[int(len(fsync_ms) * 0.99)]:.2f} ms ({directory})",
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def _fsync_milliseconds(directory: Path) -> list[float]:
    taken = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(_FSYNCS):
            started = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            taken.append((time.perf_counter() - started) * 1000)
    return taken


def _process_seconds(pid: int) -> float | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_SECONDS


def _machine_seconds() -> float | None:
    if not sys.platform.startswith("linux"):
        return None
    user, nice, system, _idle, _wait, irq, soft_irq, steal = (
        int(field) for field in Path("/proc/stat").read_text().split()[1:9]
    )
    return (user + nice + system + irq + soft_irq + steal) * _TICK_SECONDS
