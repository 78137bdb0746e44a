"""What depends on the kind of storage, and what a setting may not be."""

from pathlib import Path

import pytest

from s2lite.settings import BucketStorage, LocalStorage, MemoryStorage, Settings
from s2lite.storage.collection import SHARED_MIN_AGE_SECONDS


def test_a_bucket_has_leases_several_writes_in_flight_and_patient_collection() -> None:
    settings = Settings(storage=BucketStorage("b"))
    assert settings.shared
    assert settings.wal_in_flight == 4
    assert settings.flush_interval_seconds == 0.05
    assert settings.gc_min_age_seconds == SHARED_MIN_AGE_SECONDS


def test_storage_that_nobody_else_can_open_waits_for_nothing(tmp_path: Path) -> None:
    for storage in (MemoryStorage(), LocalStorage(tmp_path)):
        settings = Settings(storage=storage)
        assert not settings.shared
        assert settings.flush_interval_seconds == settings.gc_min_age_seconds == 0.0


def test_garbage_in_a_bucket_cannot_be_collected_sooner_than_the_proofs_allow() -> None:
    with pytest.raises(ValueError, match="3600 s at least"):
        Settings(storage=BucketStorage("b"), gc_min_age_seconds=60.0)
