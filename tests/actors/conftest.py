"""What most tests of the actor library start from: a supervisor, and what crashed under it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from actors import CrashReport, Supervisor, open_supervisor


@pytest.fixture
def crashes() -> list[CrashReport]:
    return []


@pytest.fixture
async def supervisor(crashes: list[CrashReport]) -> AsyncIterator[Supervisor]:
    async with open_supervisor("root", on_crash=crashes.append) as supervisor:
        yield supervisor
