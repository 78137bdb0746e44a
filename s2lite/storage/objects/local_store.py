"""An object store in a local directory: made durable by fsync, made exclusive by a lock.

A put writes a temporary file, fsyncs it, links it to its key (which fails if the key is taken, so
that nobody is ever replaced), removes the temporary name and fsyncs the directory. So an object
appears with all of its bytes on disk, and the put returns when its name is on disk, too. All of
this is one call of one worker thread. Reads and listings go through obstore.

Visible is durable, in this process and in the next:

- A name is visible from the link on, but may be lost until the fsync of its directory. Whoever
  meets an object in between (a reader, a second put of the same key) fsyncs the directory first.
- A process that was killed in between has left names that are visible and not durable. Opening the
  store fsyncs every directory before anything is read.
- A directory is created, and its parent fsynced, before the first object is linked into it.

A failed fsync is final. The kernel may drop the pages it could not write and report success next
time, so a second attempt proves nothing: the put is refused, its object is removed (after a crash
of the machine it may be back), and the store takes no more writes until it is opened again. A full
disk is the exception: it says so, harms only the new file, and clears when there is room.

The lock is `flock` on the file `lock`. It belongs to the open file and so to the process: it is
gone when the process is, however that ends. Never delete the file while a server runs.
"""

import builtins
import errno
import fcntl
import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import attrs
import trio
from obstore.store import LocalStore

from s2lite.model.errors import StorageError
from s2lite.storage.objects.object_store import (
    LOCK_NAME,
    ObjectExists,
    ObjectInfo,
    StoreRefused,
    StoreUnavailable,
    check_key,
    check_prefix,
    check_range,
    is_key,
    list_objects,
    read_object,
    read_range,
)

T = TypeVar("T")

MAX_THREADS: Final = 16
"""Calls of one store that run at once; more wait. Disks and SSDs gain little beyond it."""

# No key begins with a dot, so nothing in there can be taken for an object.
_STAGING_NAME: Final = ".staging"

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_WORTH_A_RETRY: Final = frozenset(
    {errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT}
)
_REASONS: Final = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is mounted read-only",
    errno.EACCES: "this process has no right to write there",
    errno.EPERM: "this process has no right to write there",
    errno.ENOLCK: "the file system has no locks",
    errno.EOPNOTSUPP: "the file system cannot do what a store needs: locks, hard links, fsync",
}

# On macOS, fsync does not empty the drive's own cache; this does.
_FULL_FSYNC: Final[int | None] = getattr(fcntl, "F_FULLFSYNC", None)


@attrs.define
class StoreLocked(StorageError):
    """Another process, or another store in this one, has the directory open."""

    path: Path

    def __str__(self) -> str:
        return (
            f"`{self.path}` is in use by another server: stop that one first, or choose another "
            f"directory. (Its lock ends with its process; do not delete `{self.path / LOCK_NAME}`.)"
        )


class FileSystem:
    """The system calls that change the disk, as a seam for tests to record them and to fail them.

    Called from worker threads. Each method is one call of `os` and raises `OSError` like it.
    """

    def create(self, path: str) -> int:
        """Create a file that does not exist yet and open it for writing."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of the data and return how much that was."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Wait until a file's data, or a directory's entries, are on disk."""
        if _FULL_FSYNC is not None:
            fcntl.fcntl(descriptor, _FULL_FSYNC)
        else:
            os.fsync(descriptor)

    def link(self, source: str, target: str) -> None:
        """Give a file a second name, which must be free."""
        os.link(source, target)

    def unlink(self, path: str) -> None:
        """Remove a name."""
        os.unlink(path)

    def make_directory(self, path: str) -> None:
        """Create a directory whose parent exists."""
        os.mkdir(path)

    def open_directory(self, path: str) -> int:
        """Open a directory so that it can be fsynced."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


@attrs.define(eq=False)
class LocalObjectStore:
    """An `ObjectStore` in a directory of a local file system. Open it with `LocalObjectStore.open`.

    What a call does happens in a worker thread, which cannot be interrupted: cancelling a call that
    waits for a thread leaves nothing behind, and one that has its thread runs to its end and then
    returns or raises as if it had not been cancelled. So no put is ever ambiguous for that reason.
    After `open` has ended its block, calls raise `trio.ClosedResourceError`.
    """

    root: Path
    _lock: int = attrs.field(alias="lock")
    _files: FileSystem = attrs.field(alias="files")
    _objects: LocalStore = attrs.field(init=False)
    _threads: trio.CapacityLimiter = attrs.field(init=False)
    # Puts under way, by key. Touched only in trio's thread.
    _puts: Counter[str] = attrs.field(factory=Counter, init=False)
    # Directories that exist durably. Worker threads add to it; twice does no harm.
    _directories: set[str] = attrs.field(factory=set, init=False)
    _serials: Iterator[int] = attrs.field(factory=itertools.count, init=False)
    _broken: str | None = attrs.field(default=None, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    @_objects.default
    def _make_objects(self) -> LocalStore:
        return LocalStore(self.root)

    @_threads.default
    def _make_threads(self) -> trio.CapacityLimiter:
        return trio.CapacityLimiter(MAX_THREADS)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, root: Path, files: FileSystem | None = None
    ) -> AsyncIterator["LocalObjectStore"]:
        """Create the directory if need be, lock it, tidy up after a crash; unlock at the end.

        Raises `StoreLocked` if another server has it open, and `StoreRefused`. The block must
        outlive every call of the store: nest the nurseries that make calls inside of it.
        """
        files = FileSystem() if files is None else files
        store = await trio.to_thread.run_sync(_open_locked, cls, root, files)
        try:
            yield store
        finally:
            store._closed = True
            os.close(store._lock)

    async def put_new(self, key: str, data: bytes | bytearray) -> None:
        """Create the object if there is none of that key. See `ObjectStore.put_new`."""
        check_key(key)
        self._puts[key] += 1
        try:
            await self._in_thread(self._put, key, data)
        finally:
            self._puts[key] -= 1
            if not self._puts[key]:
                del self._puts[key]

    async def get(self, key: str) -> bytes:
        """Read a whole object. See `ObjectStore.get`."""
        check_key(key)
        data = await self._in_thread(read_object, self._objects, key)
        await self._settle(key)
        return data

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read exactly `length` bytes from offset `start`. See `ObjectStore.get_range`."""
        check_range(key, start, length)
        data = await self._in_thread(read_range, self._objects, key, start, length)
        await self._settle(key)
        return data

    async def list(self, prefix: str, start_after: str = "") -> builtins.list[ObjectInfo]:
        """List the objects below `prefix`, ascending. See `ObjectStore.list`."""
        check_prefix(prefix)
        found = await self._in_thread(list_objects, self._objects, prefix, start_after)
        for key in [info.key for info in found if info.key in self._puts]:
            await self._settle(key)
        return found

    async def delete(self, key: str) -> None:
        """Delete the object; an absent one is fine. See `ObjectStore.delete`.

        The directory is fsynced here as well. A deleted object that is back after a crash would do
        the log no harm, but then what a store may contain after one would depend on the store.
        """
        check_key(key)
        await self._in_thread(self._delete, key)

    async def _in_thread(self, call: Callable[..., T], *args: object) -> T:
        if self._closed:
            raise trio.ClosedResourceError(f"the store at {self.root} has been closed")
        return await trio.to_thread.run_sync(call, *args, limiter=self._threads)

    async def _settle(self, key: str) -> None:
        """Make an object that was seen durable, if the put that made it is still under way."""
        if key in self._puts:
            await self._in_thread(self._make_durable, key)

    # --- in a worker thread -----------------------------------------------------------------

    def _put(self, key: str, data: bytes | bytearray) -> None:
        target = self._path(key)
        directory = os.path.dirname(target)
        with self._writing(key):
            self._make_directory(directory)
            # Opened before the link, so that nothing but the fsync itself can fail after it.
            with _opened_directory(directory, self._files) as descriptor:
                taken = self._link(self._write_temporary(data), target)
                try:
                    self._fsync(descriptor)
                except OSError:
                    if not taken:
                        with suppress(OSError):  # the failure to report is that of the fsync
                            self._files.unlink(target)
                    raise
        if taken:
            raise ObjectExists(key)

    def _write_temporary(self, data: bytes | bytearray) -> str:
        """Write the data to a new file under a name that is no object's, and fsync it."""
        path = f"{self.root}/{_STAGING_NAME}/{next(self._serials)}"
        descriptor = self._files.create(path)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._files.write(descriptor, rest) :]
            self._fsync(descriptor)
        except BaseException:
            self._remove_temporary(path)
            raise
        finally:
            os.close(descriptor)
        return path

    def _link(self, temporary: str, target: str) -> bool:
        """Move a file from its temporary name to its final one; whether that was taken already."""
        try:
            self._files.link(temporary, target)
        except FileExistsError:
            return True
        finally:
            self._remove_temporary(temporary)
        return False

    def _remove_temporary(self, path: str) -> None:
        with suppress(OSError):  # it is in nobody's way, and goes when the store is next opened
            self._files.unlink(path)

    def _delete(self, key: str) -> None:
        target = self._path(key)
        with self._writing(key):
            try:
                with suppress(FileNotFoundError):
                    self._files.unlink(target)
                self._fsync_directory(os.path.dirname(target))
            except (FileNotFoundError, NotADirectoryError):
                return  # not even the directory exists

    def _make_durable(self, key: str) -> None:
        with self._writing(key):
            self._fsync_directory(os.path.dirname(self._path(key)))

    def _make_directory(self, path: str) -> None:
        """Create a directory and those above it, durably. The root is there already."""
        if path in self._directories:
            return
        parent = os.path.dirname(path)
        self._make_directory(parent)
        with suppress(FileExistsError):
            self._files.make_directory(path)
        self._fsync_directory(parent)
        self._directories.add(path)

    def _fsync_directory(self, path: str) -> None:
        with _opened_directory(path, self._files) as descriptor:
            self._fsync(descriptor)

    def _fsync(self, descriptor: int) -> None:
        try:
            self._files.fsync(descriptor)
        except OSError as error:
            if error.errno not in _DISK_FULL:
                self._broken = (
                    f"fsync failed ({error.strerror}), the data may be lost; "
                    "check the disk, then restart the server"
                )
            raise

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}"

    @contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        """Refuse the block after a failed fsync; turn its `OSError` into one of the port's."""
        if self._broken is not None:
            raise StoreRefused(key, self._broken)
        try:
            yield
        except OSError as error:
            if self._broken is not None:
                raise StoreRefused(key, self._broken) from error
            raise _translated(key, error) from error

    def _tidy_up(self) -> None:
        """Remove what a crash left behind and make durable what it left visible."""
        staging = f"{self.root}/{_STAGING_NAME}"
        with suppress(FileExistsError):
            self._files.make_directory(staging)
        for name in os.listdir(staging):
            self._files.unlink(f"{staging}/{name}")
        for directory in _object_directories(str(self.root)):
            self._fsync_directory(directory)
            self._directories.add(directory)


def _open_locked(kind: type[LocalObjectStore], root: Path, files: FileSystem) -> LocalObjectStore:
    root = root.absolute()
    try:
        _make_root(root, files)
        lock = _lock(root)
    except OSError as error:
        raise _translated(str(root), error) from error
    try:
        store = kind(root, lock, files)
        with store._writing(str(root)):
            store._tidy_up()
    except BaseException:
        os.close(lock)
        raise
    return store


def _make_root(root: Path, files: FileSystem) -> None:
    """Create the directory and those above it, each one durably."""
    existed = root.is_dir()
    if not existed:
        _make_root(root.parent, files)
        with suppress(FileExistsError):
            files.make_directory(str(root))
    try:
        with _opened_directory(str(root.parent), files) as descriptor:
            files.fsync(descriptor)
    except OSError:
        # A directory that we were given is its maker's to make durable (the fsync is for an earlier
        # process of ours, killed too soon), and what is above a mount point is often out of reach.
        if not existed:
            raise


@contextmanager
def _opened_directory(path: str, files: FileSystem) -> Iterator[int]:
    descriptor = files.open_directory(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(root: Path) -> int:
    """Take the directory's lock and return the file that holds it for as long as it is open."""
    descriptor = os.open(root / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreLocked(root) from error
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _object_directories(root: str) -> Iterator[str]:
    """Walk the directories that can hold objects, and no others (a `lost+found` is not ours)."""

    def fail(error: OSError) -> None:
        raise error

    for path, names, _ in os.walk(root, onerror=fail):
        yield path
        names[:] = [name for name in names if is_key(os.path.relpath(f"{path}/{name}", root))]


def _translated(key: str, error: OSError) -> StorageError:
    """Return the port's error for a system call that failed; nothing of ours is visible then."""
    code = error.errno or 0
    reason = _REASONS.get(code, error.strerror or str(error))
    text = f"{reason} ({error.filename})" if error.filename else reason
    return (StoreUnavailable if code in _WORTH_A_RETRY else StoreRefused)(key, text)
