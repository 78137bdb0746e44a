"""Disks that record, forget, stall and fail, for tests of the store in a local directory."""

import itertools
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from s2lite.storage.objects.local_store import FileSystem


@attrs.define(eq=False)
class RecordedDisk(FileSystem):
    """Writes down the calls, with paths relative to the root."""

    root: Path
    calls: list[str] = attrs.field(factory=list)
    paths: dict[int, str] = attrs.field(factory=dict)

    def note(self, call: str, path: str) -> None:
        name = os.path.relpath(path, self.root)
        self.calls.append(f"{call} {'temporary' if name.startswith('.staging/') else name}")

    def create(self, path: str) -> int:
        descriptor = super().create(path)
        self.note("create", path)
        self.paths[descriptor] = path
        return descriptor

    def open_directory(self, path: str) -> int:
        descriptor = super().open_directory(path)
        self.paths[descriptor] = path
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        self.note("write", self.paths[descriptor])
        return super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self.note("fsync", self.paths[descriptor])
        super().fsync(descriptor)

    def link(self, source: str, target: str) -> None:
        self.note("link", target)
        super().link(source, target)

    def unlink(self, path: str) -> None:
        self.note("unlink", path)
        super().unlink(path)

    def make_directory(self, path: str) -> None:
        self.note("mkdir", path)
        super().make_directory(path)


class Died(BaseException):
    """The process is dead: it makes no system calls any more."""


@attrs.define(eq=False)
class VolatileDisk(FileSystem):
    """A disk that keeps nothing it was not told to fsync, in a process that dies after some calls.

    `lose_power` takes back the data, the names and the removals that no fsync has covered. Removed
    files are kept in the `attic` meanwhile. A forgetful disk ignores every fsync.
    """

    attic: Path
    calls_left: int = 1_000_000
    forgetful: bool = False
    serials: Iterator[int] = attrs.field(factory=itertools.count)
    paths: dict[int, str] = attrs.field(factory=dict)
    unsynced_data: set[str] = attrs.field(factory=set)
    unsynced_names: list[str] = attrs.field(factory=list)
    unsynced_removals: list[tuple[str, str]] = attrs.field(factory=list)

    def step(self) -> None:
        if self.calls_left == 0:
            raise Died
        self.calls_left -= 1

    def create(self, path: str) -> int:
        self.step()
        descriptor = super().create(path)
        self.paths[descriptor] = path
        self.unsynced_names.append(path)
        self.unsynced_data.add(path)
        return descriptor

    def open_directory(self, path: str) -> int:
        self.step()
        descriptor = super().open_directory(path)
        self.paths[descriptor] = path
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        self.step()
        return super().write(descriptor, data[: max(1, len(data) // 2)])

    def fsync(self, descriptor: int) -> None:
        self.step()
        if self.forgetful:
            return
        path = self.paths[descriptor]
        self.unsynced_data.discard(path)
        self.unsynced_names = [
            each for each in self.unsynced_names if os.path.dirname(each) != path
        ]
        self.unsynced_removals = [
            each for each in self.unsynced_removals if os.path.dirname(each[0]) != path
        ]

    def link(self, source: str, target: str) -> None:
        self.step()
        super().link(source, target)
        self.unsynced_names.append(target)
        if source in self.unsynced_data:
            self.unsynced_data.add(target)

    def unlink(self, path: str) -> None:
        self.step()
        self.attic.mkdir(exist_ok=True)
        kept = str(self.attic / str(next(self.serials)))
        super().link(path, kept)
        super().unlink(path)
        self.unsynced_removals.append((path, kept))

    def make_directory(self, path: str) -> None:
        self.step()
        super().make_directory(path)
        self.unsynced_names.append(path)

    def lose_power(self) -> None:
        for path, kept in self.unsynced_removals:
            os.link(kept, path)
        for path in self.unsynced_data:
            if os.path.exists(path):
                os.truncate(path, 0)
        for path in reversed(self.unsynced_names):
            if os.path.isdir(path):
                shutil.rmtree(path)
            elif os.path.exists(path):
                os.unlink(path)
        self.unsynced_removals.clear()
        self.unsynced_data.clear()
        self.unsynced_names.clear()


@attrs.define(eq=False)
class SlowDisk(FileSystem):
    """A disk whose fsync number `slow_fsync` (from 1) takes until `go_on` is set."""

    slow_fsync: int
    fsyncs: int = 0
    reached: threading.Event = attrs.field(factory=threading.Event)
    go_on: threading.Event = attrs.field(factory=threading.Event)

    def fsync(self, descriptor: int) -> None:
        self.fsyncs += 1
        if self.fsyncs == self.slow_fsync:
            self.reached.set()
            self.go_on.wait()
        super().fsync(descriptor)

    @asynccontextmanager
    async def standing_still(self) -> AsyncIterator[None]:
        """Run the block while the slow fsync waits. It goes on afterwards, lest a failure hangs."""
        try:
            await trio.to_thread.run_sync(self.reached.wait)
            yield
        finally:
            self.go_on.set()


@attrs.define(eq=False)
class FailingDisk(FileSystem):
    """A disk on which one kind of call fails with an errno, for as long as `code` is set.

    `call` is the name of a method, with "fsync file" and "fsync directory" told apart.
    """

    call: str
    code: int | None = None
    directories: set[int] = attrs.field(factory=set)

    def fail(self, call: str) -> None:
        if self.code is not None and call == self.call:
            raise OSError(self.code, os.strerror(self.code))

    def create(self, path: str) -> int:
        self.fail("create")
        descriptor = super().create(path)
        self.directories.discard(descriptor)
        return descriptor

    def open_directory(self, path: str) -> int:
        self.fail("open_directory")
        descriptor = super().open_directory(path)
        self.directories.add(descriptor)
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        if len(data) > 2:
            return super().write(descriptor, data[:2])
        self.fail("write")
        return super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self.fail("fsync directory" if descriptor in self.directories else "fsync file")
        super().fsync(descriptor)

    def link(self, source: str, target: str) -> None:
        self.fail("link")
        super().link(source, target)

    def unlink(self, path: str) -> None:
        self.fail("unlink")
        super().unlink(path)

    def make_directory(self, path: str) -> None:
        self.fail("make_directory")
        super().make_directory(path)
