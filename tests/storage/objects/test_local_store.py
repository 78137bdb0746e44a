"""A directory as an object store: its lock, what a crash leaves behind, and disks that fail."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

import s2lite.storage.objects.local_store
from s2lite.storage.objects.local_store import LocalObjectStore, StoreLocked
from s2lite.storage.objects.object_store import (
    ObjectExists,
    ObjectNotFound,
    StoreRefused,
    StoreUnavailable,
)
from tests.fakes.disks import Died, FailingDisk, RecordedDisk, SlowDisk, VolatileDisk


async def keys(store: LocalObjectStore) -> list[str]:
    return [info.key for info in await store.list("")]


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


# --- opening and the lock ---------------------------------------------------------------------


async def test_objects_are_there_when_the_store_is_opened_again(tmp_path: Path) -> None:
    async with LocalObjectStore.open(tmp_path) as store:
        await store.put_new("wal/1", b"data")
    async with LocalObjectStore.open(tmp_path) as store:
        assert await store.get("wal/1") == b"data"
        with pytest.raises(ObjectExists):
            await store.put_new("wal/1", b"other")


@pytest.mark.parametrize("name", ["new", "several/new/ones", "with blank", "100%25 #1", "é"])
async def test_a_missing_directory_of_any_name_is_created(tmp_path: Path, name: str) -> None:
    async with LocalObjectStore.open(tmp_path / name) as store:
        await store.put_new("wal/1", b"data")

        assert await store.get("wal/1") == b"data"
        assert await keys(store) == ["wal/1"]
    assert (tmp_path / name / "wal" / "1").read_bytes() == b"data"


async def test_a_relative_directory_stays_the_same_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with LocalObjectStore.open(Path("store")) as store:
        monkeypatch.chdir("/")
        await store.put_new("wal/1", b"data")
        assert await store.get("wal/1") == b"data"


async def test_a_directory_that_is_open_is_refused(tmp_path: Path) -> None:
    async with LocalObjectStore.open(tmp_path) as store:
        with pytest.raises(StoreLocked, match="stop that one first") as caught:
            async with LocalObjectStore.open(tmp_path):
                pass
        await store.put_new("a", b"")

    assert caught.value.path == tmp_path
    async with LocalObjectStore.open(tmp_path) as store:
        assert await keys(store) == ["a"]


OTHER_PROCESS = """
import sys, trio
from pathlib import Path
from s2lite.storage.objects.local_store import LocalObjectStore, StoreLocked

async def main() -> None:
    try:
        async with LocalObjectStore.open(Path(sys.argv[1])) as store:
            await store.put_new("wal/1", b"of the other process")
            print("open", flush=True)
            await trio.sleep_forever()
    except StoreLocked as error:
        print("locked", error.path, flush=True)

trio.run(main)
"""


def start_other_process(root: Path) -> subprocess.Popen[str]:
    project = Path(s2lite.storage.objects.local_store.__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(root)],
        cwd=project,
        stdout=subprocess.PIPE,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.slow
async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    async with LocalObjectStore.open(tmp_path) as store:
        with start_other_process(tmp_path) as process:
            said = await trio.to_thread.run_sync(first_line, process)

        assert said == f"locked {tmp_path}"
        assert await keys(store) == []


@pytest.mark.slow
async def test_the_lock_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    with start_other_process(tmp_path) as process:
        assert await trio.to_thread.run_sync(first_line, process) == "open"
        with pytest.raises(StoreLocked):
            async with LocalObjectStore.open(tmp_path):
                pass
        process.send_signal(signal.SIGKILL)

    async with LocalObjectStore.open(tmp_path) as store:
        assert await store.get("wal/1") == b"of the other process"


async def test_the_lock_and_files_of_others_are_not_objects(tmp_path: Path) -> None:
    (tmp_path / "wal").mkdir()
    (tmp_path / "lost+found").mkdir()
    for name in ("README", "wal/Notes", "wal/.hidden", "wal/a b", "lost+found/1", ".dot"):
        (tmp_path / name).write_bytes(b"not ours")
    async with LocalObjectStore.open(tmp_path) as store:
        await store.put_new("wal/1", b"")

        assert await keys(store) == ["wal/1"]
    assert (tmp_path / "README").read_bytes() == b"not ours"


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    async with LocalObjectStore.open(tmp_path) as store:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await store.put_new("a", b"")
    with pytest.raises(trio.ClosedResourceError):
        await store.list("")


async def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreRefused):
        async with LocalObjectStore.open(tmp_path / "file"):
            pass


# --- the order of the system calls ------------------------------------------------------------


PUT = ["create temporary", "write temporary", "fsync temporary"]


async def test_a_put_fsyncs_the_data_before_the_link_and_the_name_after_it(tmp_path: Path) -> None:
    disk = RecordedDisk(tmp_path)
    async with LocalObjectStore.open(tmp_path, disk) as store:
        disk.calls.clear()
        await store.put_new("a/b/1", b"data")
        first = disk.calls.copy()
        disk.calls.clear()
        await store.put_new("a/b/2", b"data")

    directories = ["mkdir a", "fsync .", "mkdir a/b", "fsync a"]
    assert first == [*directories, *PUT, "link a/b/1", "unlink temporary", "fsync a/b"]
    assert disk.calls == [*PUT, "link a/b/2", "unlink temporary", "fsync a/b"]


async def test_a_put_of_a_taken_key_fsyncs_the_name_that_it_met(tmp_path: Path) -> None:
    disk = RecordedDisk(tmp_path)
    async with LocalObjectStore.open(tmp_path, disk) as store:
        await store.put_new("a/1", b"data")
        disk.calls.clear()
        with pytest.raises(ObjectExists):
            await store.put_new("a/1", b"data")

    assert disk.calls[-1] == "fsync a"


async def test_opening_fsyncs_every_directory_of_objects(tmp_path: Path) -> None:
    (tmp_path / "store" / "a" / "b").mkdir(parents=True)
    disk = RecordedDisk(tmp_path / "store")
    async with LocalObjectStore.open(tmp_path / "store", disk):
        pass

    assert [call for call in disk.calls if call.startswith("fsync")] == [
        "fsync ..",
        "fsync .",
        "fsync a",
        "fsync a/b",
    ]


# --- crashes ------------------------------------------------------------------------------------


async def contents(root: Path) -> dict[str, bytes]:
    async with LocalObjectStore.open(root) as store:
        return {info.key: await store.get(info.key) for info in await store.list("")}


DATA = b"all or nothing"


async def put_and_die(root: Path, disk: VolatileDisk, calls: int) -> bool:
    """Die in the second of two puts, after so many system calls of it; whether it returned."""
    returned = False
    try:
        async with LocalObjectStore.open(root, disk) as store:
            await store.put_new("wal/1", DATA)
            disk.calls_left = calls
            await store.put_new("segment/2", DATA)
            returned = True
    except Died:
        pass
    return returned


@pytest.mark.parametrize("power_lost", [False, True])
async def test_a_crash_at_any_call_leaves_whole_objects_and_all_that_were_put(
    tmp_path: Path, power_lost: bool
) -> None:
    outcomes = set()
    for calls in range(20):
        disk = VolatileDisk(tmp_path / f"attic-{calls}")
        root = tmp_path / str(calls)
        returned = await put_and_die(root, disk, calls)
        if power_lost:
            disk.lose_power()

        found = await contents(root)
        assert found in ({"wal/1": DATA}, {"wal/1": DATA, "segment/2": DATA})
        assert not returned or len(found) == 2
        assert os.listdir(root / ".staging") == []
        outcomes.add((returned, len(found)))

    assert {(False, 1), (True, 2)} <= outcomes
    assert power_lost or (False, 2) in outcomes


async def test_the_power_loss_would_show_a_missing_fsync(tmp_path: Path) -> None:
    disk = VolatileDisk(tmp_path / "attic", forgetful=True)
    assert await put_and_die(tmp_path / "store", disk, 100)
    disk.lose_power()

    assert not (tmp_path / "store").exists() or await contents(tmp_path / "store") == {}


async def test_what_a_killed_process_left_visible_outlasts_the_next_power_loss(
    tmp_path: Path,
) -> None:
    seen_after_kill = 0
    for calls in range(20):
        disk = VolatileDisk(tmp_path / f"attic-{calls}")
        root = tmp_path / str(calls)
        await put_and_die(root, disk, calls)
        disk.calls_left = 1_000_000
        async with LocalObjectStore.open(root, disk) as store:
            seen = await keys(store)
        disk.lose_power()

        assert sorted(await contents(root)) == seen
        seen_after_kill += len(seen) == 2

    assert seen_after_kill > 1


async def test_a_deletion_outlasts_a_power_loss(tmp_path: Path) -> None:
    disk = VolatileDisk(tmp_path / "attic")
    root = tmp_path / "store"
    async with LocalObjectStore.open(root, disk) as store:
        await store.put_new("wal/1", b"")
        await store.put_new("wal/2", b"")
        await store.delete("wal/1")
    disk.lose_power()

    assert await contents(root) == {"wal/2": b""}


async def test_temporary_files_of_a_crash_are_removed_by_the_holder_of_the_lock_only(
    tmp_path: Path,
) -> None:
    async with LocalObjectStore.open(tmp_path):
        (tmp_path / ".staging" / "5").write_bytes(b"half an obj")
        with pytest.raises(StoreLocked):
            async with LocalObjectStore.open(tmp_path):
                pass
        assert files_below(tmp_path) == [".staging/5", "lock"]
    async with LocalObjectStore.open(tmp_path) as store:
        assert files_below(tmp_path) == ["lock"]
        assert await keys(store) == []


# --- concurrency --------------------------------------------------------------------------------


async def open_directory_fsyncs(root: Path) -> int:
    """Count the fsyncs of opening a store that has the directory `wal`."""
    async with LocalObjectStore.open(root) as store:
        await store.put_new("wal/0", b"")
    disk = SlowDisk(-1)
    async with LocalObjectStore.open(root, disk):
        return disk.fsyncs


async def test_a_reader_who_meets_an_object_in_the_middle_of_its_put_makes_it_durable(
    tmp_path: Path,
) -> None:
    disk = SlowDisk(await open_directory_fsyncs(tmp_path) + 2)
    async with LocalObjectStore.open(tmp_path, disk) as store, trio.open_nursery() as nursery:
        nursery.start_soon(store.put_new, "wal/1", b"data")
        async with disk.standing_still():
            before = disk.fsyncs
            assert await store.get("wal/1") == b"data"
            assert disk.fsyncs == before + 1
            assert await store.get_range("wal/1", 0, 4) == b"data"
            assert disk.fsyncs == before + 2
            assert await keys(store) == ["wal/0", "wal/1"]
            assert disk.fsyncs == before + 3
            with pytest.raises(ObjectExists):
                await store.put_new("wal/1", b"other")

    assert disk.fsyncs == before + 5


async def test_a_reader_of_an_object_that_rests_needs_no_fsync(tmp_path: Path) -> None:
    disk = SlowDisk(-1)
    async with LocalObjectStore.open(tmp_path, disk) as store:
        await store.put_new("wal/1", b"data")
        before = disk.fsyncs
        await store.get("wal/1")
        await store.list("wal/")

    assert disk.fsyncs == before


async def test_a_put_that_is_cancelled_on_its_way_runs_to_its_end(tmp_path: Path) -> None:
    disk = SlowDisk(await open_directory_fsyncs(tmp_path) + 1)
    async with LocalObjectStore.open(tmp_path, disk) as store, trio.open_nursery() as nursery:
        returned = False

        async def put(scope: trio.CancelScope) -> None:
            nonlocal returned
            with scope:
                await store.put_new("wal/1", b"data")
                returned = True

        scope = trio.CancelScope()
        nursery.start_soon(put, scope)
        async with disk.standing_still():
            scope.cancel()

    assert returned
    assert await contents(tmp_path) == {"wal/0": b"", "wal/1": b"data"}


# --- disks that fail ----------------------------------------------------------------------------


FAILURES = [
    ("create", errno.ENOSPC, StoreRefused, "no space left"),
    ("create", errno.EROFS, StoreRefused, "the file system is mounted read-only"),
    ("create", errno.EACCES, StoreRefused, "this process has no right"),
    ("create", errno.EMFILE, StoreUnavailable, "Too many open files"),
    ("write", errno.ENOSPC, StoreRefused, "no space left"),
    ("write", errno.EDQUOT, StoreRefused, "the disk quota"),
    ("write", errno.EIO, StoreRefused, "Input/output error"),
    ("fsync file", errno.ENOSPC, StoreRefused, "no space left"),
    ("fsync directory", errno.ENOSPC, StoreRefused, "no space left"),
    ("link", errno.ENOSPC, StoreRefused, "no space left"),
    ("link", errno.EPERM, StoreRefused, "this process has no right"),
    ("make_directory", errno.ENOSPC, StoreRefused, "no space left"),
    ("open_directory", errno.EMFILE, StoreUnavailable, "Too many open files"),
]


@pytest.mark.parametrize(("call", "code", "kind", "text"), FAILURES)
async def test_a_put_that_fails_leaves_nothing_and_works_once_the_cause_is_gone(
    tmp_path: Path, call: str, code: int, kind: type[StoreRefused | StoreUnavailable], text: str
) -> None:
    disk = FailingDisk(call)
    async with LocalObjectStore.open(tmp_path, disk) as store:
        disk.code = code
        with pytest.raises(kind, match=f"`wal/1`: {text}"):
            await store.put_new("wal/1", b"some data")
        assert files_below(tmp_path) == ["lock"]
        with pytest.raises(ObjectNotFound):
            await store.get("wal/1")

        disk.code = None
        await store.put_new("wal/1", b"some data")
        assert await store.get("wal/1") == b"some data"


@pytest.mark.parametrize("call", ["fsync file", "fsync directory"])
async def test_after_a_failed_fsync_nothing_is_written_until_the_store_is_opened_again(
    tmp_path: Path, call: str
) -> None:
    disk = FailingDisk(call)
    async with LocalObjectStore.open(tmp_path, disk) as store:
        await store.put_new("wal/1", b"data")
        disk.code = errno.EIO
        with pytest.raises(StoreRefused, match=r"fsync failed .*may be lost"):
            await store.put_new("wal/2", b"data")
        disk.code = None

        writes: list[Callable[[], Awaitable[None]]] = [
            lambda: store.put_new("wal/2", b"data"),
            lambda: store.put_new("wal/3", b"data"),
            lambda: store.delete("wal/1"),
        ]
        for write in writes:
            with pytest.raises(StoreRefused, match="fsync failed"):
                await write()
        assert files_below(tmp_path) == ["lock", "wal/1"]
        assert await store.get("wal/1") == b"data"

    async with LocalObjectStore.open(tmp_path) as store:
        await store.put_new("wal/2", b"data")
        assert await keys(store) == ["wal/1", "wal/2"]


async def test_a_failed_fsync_of_a_taken_key_does_not_remove_the_object(tmp_path: Path) -> None:
    disk = FailingDisk("fsync directory")
    async with LocalObjectStore.open(tmp_path, disk) as store:
        await store.put_new("wal/1", b"data")
        disk.code = errno.EIO
        with pytest.raises(StoreRefused, match="fsync failed"):
            await store.put_new("wal/1", b"other")

        assert await store.get("wal/1") == b"data"


async def test_a_deletion_that_is_not_permitted_is_refused(tmp_path: Path) -> None:
    disk = FailingDisk("unlink")
    async with LocalObjectStore.open(tmp_path, disk) as store:
        await store.put_new("wal/1", b"data")
        disk.code = errno.EROFS
        with pytest.raises(StoreRefused, match="read-only"):
            await store.delete("wal/1")

        assert await store.get("wal/1") == b"data"


async def test_a_temporary_name_that_cannot_be_removed_does_not_fail_the_put(
    tmp_path: Path,
) -> None:
    disk = FailingDisk("unlink")
    async with LocalObjectStore.open(tmp_path, disk) as store:
        disk.code = errno.EIO
        await store.put_new("wal/1", b"data")

        assert await keys(store) == ["wal/1"]
    async with LocalObjectStore.open(tmp_path) as store:
        assert files_below(tmp_path) == ["lock", "wal/1"]


@pytest.mark.parametrize("call", ["make_directory", "fsync directory"])
async def test_a_directory_that_cannot_be_opened_is_refused_and_not_left_locked(
    tmp_path: Path, call: str
) -> None:
    disk = FailingDisk(call, errno.EROFS)
    with pytest.raises(StoreRefused, match=r"mounted read-only|fsync failed"):
        async with LocalObjectStore.open(tmp_path / "store", disk):
            pass
    (tmp_path / "store").mkdir(exist_ok=True)
    with pytest.raises(StoreRefused):
        async with LocalObjectStore.open(tmp_path / "store", disk):
            pass

    async with LocalObjectStore.open(tmp_path / "store") as store:
        assert await keys(store) == []
