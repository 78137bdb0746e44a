"""Stores that ignore the condition of a put are found out."""

from random import Random

import pytest

from s2lite.storage.objects.conditions import StoreIgnoresConditions, check_conditions
from s2lite.storage.objects.object_store import StoreUnavailable
from s2lite.storage.objects.remote_store import open_remote_store
from tests.fakes.object_store import FakeObjectStore, Fault, Op
from tests.fakes.s3_server import S3Server


class ForgetfulStore(FakeObjectStore):
    """Puts whatever it is told to, whether there is an object or not."""

    async def put_new(self, key: str, data: bytes | bytearray) -> None:
        await self.delete(key)
        await super().put_new(key, data)


async def test_a_store_that_refuses_the_second_put_will_do() -> None:
    store = FakeObjectStore(Random(1))
    await store.put_new("manifest/1", b"data")

    await check_conditions(store, "manifest/1", b"data")

    assert await store.get("manifest/1") == b"data"


async def test_a_store_that_replaces_objects_is_found_out_without_harm() -> None:
    store = ForgetfulStore(Random(1))
    await store.put_new("manifest/1", b"data")

    with pytest.raises(StoreIgnoresConditions, match="If-None-Match"):
        await check_conditions(store, "manifest/1", b"data")

    assert await store.get("manifest/1") == b"data"


async def test_a_store_that_does_not_answer_is_not_found_guilty() -> None:
    store = FakeObjectStore(Random(1))
    await store.put_new("manifest/1", b"data")
    store.fail_next(Op.PUT_NEW, "manifest/", Fault.ERROR_BEFORE)

    with pytest.raises(StoreUnavailable):
        await check_conditions(store, "manifest/1", b"data")


async def test_s3_has_conditions(s3_server: S3Server) -> None:
    async with open_remote_store(s3_server.make_store("conditions")) as store:
        await store.put_new("manifest/1", b"data")
        await check_conditions(store, "manifest/1", b"data")
