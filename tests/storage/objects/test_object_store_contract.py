"""What every object store promises, checked on each of them."""

import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from random import Random

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s2lite.storage.objects.local_store import LocalObjectStore
from s2lite.storage.objects.metered_store import MeteredObjectStore
from s2lite.storage.objects.object_store import (
    MemoryObjectStore,
    ObjectExists,
    ObjectNotFound,
    ObjectStore,
    ObjectTooShort,
)
from s2lite.storage.objects.remote_store import open_remote_store
from tests.fakes.object_store import FakeObjectStore
from tests.fakes.s3_server import S3Server

Factory = Callable[[Path], AbstractAsyncContextManager[ObjectStore]]


@asynccontextmanager
async def fake_store(root: Path) -> AsyncIterator[ObjectStore]:
    yield FakeObjectStore(Random(1))


@asynccontextmanager
async def memory_store(root: Path) -> AsyncIterator[ObjectStore]:
    yield MemoryObjectStore()


@asynccontextmanager
async def metered_store(root: Path) -> AsyncIterator[ObjectStore]:
    yield MeteredObjectStore(MemoryObjectStore())


@asynccontextmanager
async def local_store(root: Path) -> AsyncIterator[ObjectStore]:
    async with LocalObjectStore.open(root) as store:
        yield store


@attrs.frozen
class S3Stores:
    """Stores on an S3 server, each below a path of its own."""

    server: S3Server

    @asynccontextmanager
    async def open(self, root: Path) -> AsyncIterator[ObjectStore]:
        async with open_remote_store(self.server.make_store(f"contract{root}")) as store:
            yield store


@pytest.fixture(
    params=[fake_store, memory_store, metered_store, local_store, S3Stores],
    ids=["fake", "memory", "metered", "local", "s3"],
)
def open_store(request: pytest.FixtureRequest) -> Factory:
    factory: Factory = request.param
    if request.param is S3Stores:
        return S3Stores(request.getfixturevalue("s3_server")).open
    return factory


@pytest.fixture
async def store(open_store: Factory, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    async with open_store(tmp_path / "store") as store:
        yield store


async def keys(store: ObjectStore, prefix: str = "", start_after: str = "") -> list[str]:
    return [info.key for info in await store.list(prefix, start_after)]


async def content(store: ObjectStore, key: str) -> bytes | None:
    try:
        return await store.get(key)
    except ObjectNotFound:
        return None


# --- put and get --------------------------------------------------------------------------------


async def test_an_object_that_was_put_is_seen_by_every_kind_of_read(store: ObjectStore) -> None:
    await store.put_new("wal/00000000000000000007", b"some data")

    assert await store.get("wal/00000000000000000007") == b"some data"
    assert await store.get_range("wal/00000000000000000007", 5, 4) == b"data"
    [info] = await store.list("wal/")
    assert (info.key, info.size) == ("wal/00000000000000000007", 9)


async def test_what_is_read_is_bytes_and_not_a_view(store: ObjectStore) -> None:
    await store.put_new("a", b"data")

    assert type(await store.get("a")) is bytes
    assert type(await store.get_range("a", 1, 2)) is bytes


@pytest.mark.parametrize("data", [b"", b"\0", bytes(range(256)) * 5])
async def test_any_bytes_come_back_as_they_were(store: ObjectStore, data: bytes) -> None:
    await store.put_new("a", data)

    assert await store.get("a") == data


async def test_a_large_object_comes_back_as_it_was(store: ObjectStore) -> None:
    data = Random(3).randbytes(1 << 20) * 8
    await store.put_new("wal/1", data)

    assert await store.get("wal/1") == data
    assert await store.get_range("wal/1", len(data) - 3, 3) == data[-3:]


async def test_a_key_that_is_taken_is_refused_and_keeps_its_data(store: ObjectStore) -> None:
    await store.put_new("wal/1", b"first")

    with pytest.raises(ObjectExists) as caught:
        await store.put_new("wal/1", b"second")

    assert caught.value.key == "wal/1"
    assert await store.get("wal/1") == b"first"


async def test_a_large_object_does_not_replace_one_either(store: ObjectStore) -> None:
    await store.put_new("wal/1", b"first")

    with pytest.raises(ObjectExists):
        await store.put_new("wal/1", bytes(6 << 20))

    assert await store.get("wal/1") == b"first"


async def test_of_concurrent_puts_of_one_key_exactly_one_wins(store: ObjectStore) -> None:
    winners = []

    async def compete(number: int) -> None:
        try:
            await store.put_new("manifest/1", b"%d" % number)
        except ObjectExists:
            assert await store.get("manifest/1") != b"%d" % number
        else:
            winners.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(compete, number)

    [winner] = winners
    assert await store.get("manifest/1") == b"%d" % winner


async def test_an_object_that_is_not_there_is_reported_by_its_key(store: ObjectStore) -> None:
    await store.put_new("wal/1", b"data")

    for read in (store.get("wal/2"), store.get_range("wal/2", 0, 1), store.get("other/1")):
        with pytest.raises(ObjectNotFound) as caught:
            await read
        assert caught.value.key in ("wal/2", "other/1")


# --- ranges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 10), (0, 1), (9, 1), (3, 4), (0, 0), (5, 0), (10, 0)],
)
async def test_a_range_inside_the_object_is_read_exactly(
    store: ObjectStore, start: int, length: int
) -> None:
    await store.put_new("a", b"0123456789")

    assert await store.get_range("a", start, length) == b"0123456789"[start : start + length]


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 11), (9, 2), (10, 1), (11, 0), (11, 1), (1000, 1000), (5, 1 << 40)],
)
async def test_a_range_past_the_end_is_an_error_and_never_fewer_bytes(
    store: ObjectStore, start: int, length: int
) -> None:
    await store.put_new("a", b"0123456789")

    with pytest.raises(ObjectTooShort) as caught:
        await store.get_range("a", start, length)

    error = caught.value
    assert (error.key, error.start, error.length, error.size) == ("a", start, length, 10)


async def test_an_empty_object_has_only_the_empty_range(store: ObjectStore) -> None:
    await store.put_new("a", b"")

    assert await store.get_range("a", 0, 0) == b""
    with pytest.raises(ObjectTooShort):
        await store.get_range("a", 0, 1)


@pytest.mark.parametrize("length", [0, 1])
async def test_no_range_of_a_missing_object_can_be_read(store: ObjectStore, length: int) -> None:
    with pytest.raises(ObjectNotFound):
        await store.get_range("a", 0, length)


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1)])
async def test_a_negative_range_is_a_mistake(store: ObjectStore, start: int, length: int) -> None:
    await store.put_new("a", b"0123456789")

    with pytest.raises(ValueError, match="range"):
        await store.get_range("a", start, length)


# --- listing --------------------------------------------------------------------------------------


async def test_a_listing_is_in_the_order_of_the_keys(store: ObjectStore) -> None:
    names = ["wal/9", "wal/10", "wal/a-b", "wal/a.b", "wal/a_b", "wal/a/b", "wal/-", "manifest/1"]
    for name in names:
        await store.put_new(name, b"")

    assert await keys(store) == sorted(names)
    assert await keys(store, "wal/") == sorted(names)[1:]


async def test_a_prefix_is_a_directory_and_not_the_beginning_of_a_name(store: ObjectStore) -> None:
    for name in ("wal/1", "wal/deep/er/2", "wal-old/3", "walled", "x/wal/4"):
        await store.put_new(name, b"")

    assert await keys(store, "wal/") == ["wal/1", "wal/deep/er/2"]
    assert await keys(store, "wal/deep/") == ["wal/deep/er/2"]
    assert await keys(store, "nothing/") == []


async def test_a_listing_starts_after_the_cursor(store: ObjectStore) -> None:
    for number in range(5):
        await store.put_new(f"wal/{number}", b"")

    assert await keys(store, "wal/", "wal/2") == ["wal/3", "wal/4"]
    assert await keys(store, "wal/", "wal/2x") == ["wal/3", "wal/4"]
    assert await keys(store, "wal/", "wal/4") == []
    assert await keys(store, "wal/", "a") == [f"wal/{number}" for number in range(5)]
    assert await keys(store, "wal/", "z") == []
    assert await keys(store, "", "wal/3") == ["wal/4"]


async def test_an_empty_store_lists_nothing(store: ObjectStore) -> None:
    assert await store.list("") == []


async def test_a_listing_says_when_an_object_was_made(store: ObjectStore) -> None:
    await store.put_new("wal/1", b"")
    [first] = await store.list("wal/")
    await store.put_new("wal/2", b"")
    [again, second] = await store.list("wal/")

    assert again == first
    assert 0 <= second.last_modified_ms - first.last_modified_ms < 60_000


async def test_a_listing_is_right_about_what_does_not_change_meanwhile(store: ObjectStore) -> None:
    stable = [f"wal/{number}" for number in range(0, 20, 2)]
    for key in stable:
        await store.put_new(key, b"")

    async def come_and_go(key: str) -> None:
        for _ in range(5):
            await store.put_new(key, b"")
            await store.delete(key)

    async def check() -> None:
        for _ in range(10):
            assert [key for key in await keys(store, "wal/") if int(key[4:]) % 2 == 0] == stable

    stable.sort()
    async with trio.open_nursery() as nursery:
        for number in (1, 3, 5):
            nursery.start_soon(come_and_go, f"wal/{number}")
        nursery.start_soon(check)


# --- delete ---------------------------------------------------------------------------------------


async def test_a_deleted_object_is_gone(store: ObjectStore) -> None:
    await store.put_new("wal/1", b"data")
    await store.put_new("wal/2", b"data")
    await store.delete("wal/1")

    assert await content(store, "wal/1") is None
    assert await keys(store) == ["wal/2"]


async def test_an_absent_object_can_be_deleted(store: ObjectStore) -> None:
    await store.delete("wal/1")
    await store.put_new("wal/1", b"")
    await store.delete("wal/1")
    await store.delete("wal/1")
    await store.delete("wal/1/below-what-was-an-object")

    assert await keys(store) == []


async def test_a_deleted_key_can_be_created_again(store: ObjectStore) -> None:
    await store.put_new("wal/1", b"old")
    await store.delete("wal/1")
    await store.put_new("wal/1", b"new")

    assert await store.get("wal/1") == b"new"
    with pytest.raises(ObjectExists):
        await store.put_new("wal/1", b"newer")


# --- keys -----------------------------------------------------------------------------------------

NOT_KEYS = [
    "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "./a", ".hidden", "a/.hidden",
    "a\\b", "a\0", "a b", "A", "é", "a%20b", "a#1", "a\n", "lock", "lock/a",
]  # fmt: skip


@pytest.mark.parametrize("key", NOT_KEYS)
async def test_a_malformed_key_is_a_mistake(store: ObjectStore, key: str) -> None:
    for call in (store.put_new(key, b""), store.get(key), store.delete(key)):
        with pytest.raises(ValueError, match="not an object key"):
            await call
    with pytest.raises(ValueError, match="not an object key"):
        await store.get_range(key, 0, 0)


@pytest.mark.parametrize("prefix", ["wal", "/", "/wal/", "wal//", "../", "lock/", "wal/a b/"])
async def test_a_malformed_prefix_is_a_mistake(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(ValueError, match="not a directory"):
        await store.list(prefix)


# --- cancellation ---------------------------------------------------------------------------------


async def test_every_call_is_a_checkpoint(store: ObjectStore) -> None:
    await store.put_new("a", b"data")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.put_new("b", b""),
        lambda: store.put_new("a", b""),
        lambda: store.get("a"),
        lambda: store.get("missing"),
        lambda: store.get_range("a", 0, 0),
        lambda: store.list(""),
        lambda: store.delete("a"),
    ]
    for call in calls:
        with trio.CancelScope() as scope:
            scope.cancel()
            await call()
        assert scope.cancelled_caught

    assert await keys(store) == ["a"]


@pytest.mark.parametrize("checkpoints", range(6))
async def test_a_cancelled_put_leaves_the_whole_object_or_none(
    store: ObjectStore, checkpoints: int
) -> None:
    data = bytes(1 << 18)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.put_new, "wal/1", data)
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            scope.cancel()

    found = await content(store, "wal/1")
    assert found in (None, data)
    try:
        await store.put_new("wal/1", b"another")
    except ObjectExists:
        # Over a network, the first one may have come about only after it was looked for.
        assert await store.get("wal/1") == data
    else:
        assert found is None
        assert await store.get("wal/1") == b"another"
    assert await keys(store) == ["wal/1"]


# --- against a model ------------------------------------------------------------------------------

KEYS = ["wal/1", "wal/2", "wal/2.5/x", "segment/1"]
STEPS = st.tuples(st.sampled_from(["put", "get", "delete", "list"]), st.sampled_from(KEYS))


@settings(
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(STEPS, max_size=15))
async def test_a_sequence_of_operations_does_what_a_dict_would(
    open_store: Factory, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    model: dict[str, bytes] = {}
    async with open_store(tmp_path_factory.mktemp("store")) as store:
        for number, (verb, key) in enumerate(steps):
            data = b"%d" % number
            match verb:
                case "put" if key in model:
                    with pytest.raises(ObjectExists):
                        await store.put_new(key, data)
                case "put":
                    await store.put_new(key, data)
                    model[key] = data
                case "delete":
                    await store.delete(key)
                    model.pop(key, None)
                case "get":
                    assert await content(store, key) == model.get(key)
                case _:
                    found = [(info.key, info.size) for info in await store.list("")]
                    assert found == sorted((each, len(model[each])) for each in model)


@attrs.frozen
class Call:
    """One operation of a concurrent history, with when it started and ended, and its result."""

    verb: str
    data: bytes | None
    result: bytes | bool | None
    start: int
    end: int

    def follows_from(self, state: bytes | None) -> bool:
        """Whether the call could have had its result with the key in that state."""
        match self.verb:
            case "put":
                return self.result is (state is None)
            case "get":
                return self.result == state
            case _:
                return True

    def after(self, state: bytes | None) -> bytes | None:
        """The state of the key after the call."""
        if self.verb == "delete":
            return None
        return self.data if self.verb == "put" and self.result else state


def is_linearizable(calls: list[Call], state: bytes | None, last: bytes | None) -> bool:
    """Whether some order of the calls, true to real time, explains all results and the end."""
    if not calls:
        return state == last
    first_end = min(call.end for call in calls)
    return any(
        call.start < first_end
        and call.follows_from(state)
        and is_linearizable([each for each in calls if each is not call], call.after(state), last)
        for call in calls
    )


def test_the_linearizability_check_can_fail() -> None:
    put = Call("put", b"a", True, 0, 1)

    assert is_linearizable([put, Call("get", None, b"a", 2, 3)], None, b"a")
    assert is_linearizable([put, Call("get", None, None, 0, 3)], None, b"a")
    assert not is_linearizable([put, Call("get", None, None, 2, 3)], None, b"a")
    assert not is_linearizable([put, Call("put", b"b", True, 2, 3)], None, b"a")
    assert not is_linearizable([put], None, None)


async def run_and_record(
    store: ObjectStore, verb: str, key: str, ticks: "itertools.count[int]"
) -> Call:
    start = next(ticks)
    data = b"%d" % start if verb == "put" else None
    result: bytes | bool | None = None
    match verb:
        case "put":
            assert data is not None
            try:
                await store.put_new(key, data)
                result = True
            except ObjectExists:
                result = False
        case "get":
            result = await content(store, key)
        case _:
            await store.delete(key)
    return Call(verb, data, result, start, next(ticks))


CONCURRENT = st.tuples(st.sampled_from(["put", "get", "delete"]), st.sampled_from(KEYS[:2]))


@settings(
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(tasks=st.lists(st.lists(CONCURRENT, min_size=1, max_size=4), min_size=2, max_size=3))
async def test_concurrent_operations_on_a_key_take_effect_one_after_the_other(
    open_store: Factory,
    tmp_path_factory: pytest.TempPathFactory,
    tasks: list[list[tuple[str, str]]],
) -> None:
    history: dict[str, list[Call]] = defaultdict(list)
    ticks = itertools.count()
    async with open_store(tmp_path_factory.mktemp("store")) as store:

        async def run(steps: list[tuple[str, str]]) -> None:
            for verb, key in steps:
                history[key].append(await run_and_record(store, verb, key, ticks))

        async with trio.open_nursery() as nursery:
            for steps in tasks:
                nursery.start_soon(run, steps)

        for key, calls in history.items():
            assert is_linearizable(calls, None, await content(store, key)), calls
