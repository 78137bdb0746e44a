"""Opens a bucket of a cloud provider, with what the environment says about access to it."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

import trio
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store
from obstore.store import ObjectStore as AnyObstore

from s2lite.storage.objects.aws import find_access, find_endpoint
from s2lite.storage.objects.object_store import StoreRefused, summary
from s2lite.storage.objects.remote_store import RemoteObjectStore, open_remote_store


class Provider(StrEnum):
    """The protocols that buckets are spoken to in; the values are the schemes of their URLs."""

    S3 = "s3"
    GCS = "gs"
    AZURE = "az"


_NO_RETRIES: Final[Any] = {"max_retries": 0, "retry_timeout": timedelta(seconds=60)}
"""Callers retry: they know their deadline, and what an attempt that failed may have left behind."""

_PREFIXES: Final = {Provider.S3: "aws", Provider.GCS: "google", Provider.AZURE: "azure"}

_CLIENT_OPTIONS: Final = {
    "connect_timeout": "5s",
    # Callers give up on a request long before; this is for what nobody waits for any more.
    "timeout": "300s",
    # More than are ever under way at once, so that none waits for a handshake; for less long than
    # servers and load balancers keep an idle connection.
    "pool_max_idle_per_host": "64",
    "pool_idle_timeout": "50s",
}
"""How to use connections, where the environment does not say (`AWS_TIMEOUT` and so on)."""


@asynccontextmanager
async def open_bucket(
    provider: Provider, bucket: str, path: str = ""
) -> AsyncIterator[RemoteObjectStore]:
    """Serve calls to what is below `path` in the bucket for as long as the block runs.

    Finds the credentials first; the bucket itself is not asked anything. Raises `StoreRefused` if
    the environment does not say enough, or something that makes no sense.
    """
    objects = await trio.to_thread.run_sync(
        make_store, provider, bucket, path, os.environ, abandon_on_cancel=True
    )
    async with open_remote_store(objects) as store:
        yield store


def make_store(
    provider: Provider, bucket: str, path: str, environ: Mapping[str, str]
) -> AnyObstore:
    """Make one of obstore's stores. May ask servers for credentials, in the calling thread.

    `environ` is this process's environment: obstore and botocore read it, too, and what is here
    decides between them. Raises `StoreRefused`.
    """
    options: Any = {
        f"{_PREFIXES[provider]}_{name}": value
        for name, value in _CLIENT_OPTIONS.items()
        if not environ.get(f"{_PREFIXES[provider]}_{name}".upper())
    }
    shared: Any = {"prefix": path or None, "retry_config": _NO_RETRIES}
    try:
        match provider:
            case Provider.S3:
                return _make_s3(bucket, options, shared, environ)
            case Provider.GCS:
                return GCSStore(bucket, config=options, **shared)
            case Provider.AZURE:
                return AzureStore(bucket, config=options, **shared)
    except (BaseError, OSError, ValueError) as error:
        hint = _HINTS[provider]
        raise StoreRefused(f"{provider}://{bucket}", f"{summary(error)}; {hint}") from error


_HINTS: Final = {
    Provider.S3: "check the environment variables that begin with AWS_",
    Provider.GCS: "check the environment variables that begin with GOOGLE_",
    Provider.AZURE: "set AZURE_STORAGE_ACCOUNT_NAME, and check what else begins with AZURE_",
}


def _make_s3(
    bucket: str, options: dict[str, str], shared: dict[str, Any], environ: Mapping[str, str]
) -> S3Store:
    access = find_access(environ)
    options |= {"aws_region": access.region, **find_endpoint(environ, access.region)}
    # Deleting many at a time is a request of its own that not every store has.
    if not environ.get("AWS_DISABLE_BULK_DELETE"):
        options["aws_disable_bulk_delete"] = "true"
    config: Any = options
    return S3Store(bucket, config=config, credential_provider=access.credentials, **shared)
