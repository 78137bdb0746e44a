"""Finds out whether a store heeds conditions, without which it cannot tell two writers apart."""

import attrs

from s2lite.model.errors import StorageError
from s2lite.storage.objects.object_store import ObjectExists, ObjectStore


@attrs.define
class StoreIgnoresConditions(StorageError):
    """The store put an object that existed already, though it was told not to."""

    key: str

    def __str__(self) -> str:
        return (
            f"the object store replaced `{self.key}`, although it was asked to create it only if "
            "it did not exist: it ignores the header `If-None-Match` of a put, and two servers on "
            "it would destroy each other's data. Use a store with conditional writes: Amazon S3, "
            "Cloudflare R2, MinIO or Ceph in a current version, Google Cloud Storage through "
            "`gs://`, or Azure Blob Storage through `az://`."
        )


async def check_conditions(store: ObjectStore, key: str, data: bytes) -> None:
    """Put the bytes of an existing object once more, which the store has to refuse.

    `data` must be the very bytes of the object, so that a store that does not refuse them does no
    harm either. Raises `StoreIgnoresConditions` if it does not, and as `ObjectStore.put_new` does.
    """
    try:
        await store.put_new(key, data)
    except ObjectExists:
        return
    raise StoreIgnoresConditions(key)
