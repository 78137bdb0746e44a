"""Tests that mostly wait, run beside the others: a minute of all of them costs no minute.

Such a test is a coroutine that gets a server and a fresh basin with the stream `s`. All that were
selected begin with the first test of this directory, in a thread of their own, on a server of their
own; the test itself, which is among the last, only waits for the outcome.
"""

import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import attrs
import httpx
import pytest
import trio

from tests.conformance.server_process import Fleet, ServerProcess

PATIENCE_SECONDS = 100


@attrs.frozen(eq=False)
class Place:
    """Where a scenario takes place: the stream `s` of a basin of its own."""

    server: ServerProcess
    basin: str

    def client(self) -> httpx.AsyncClient:
        """A client over HTTP/1.1."""
        return httpx.AsyncClient(
            base_url=self.server.url, headers={"s2-basin": self.basin}, verify=False, timeout=90
        )


Scenario = Callable[[Place], Awaitable[None]]


@attrs.define(eq=False)
class Waiting:
    """The scenarios of a run. None begins before `start`."""

    scenarios: list[Scenario]
    _outcomes: dict[Scenario, Exception | None] = attrs.field(factory=dict)
    _changed: threading.Condition = attrs.field(factory=threading.Condition)
    _cancel: Callable[[], None] | None = None
    _thread: threading.Thread | None = None

    def start(self, fleet: Fleet) -> None:
        """Begin all of them; with none there is nothing to begin."""
        if not self.scenarios:
            return
        server = fleet.start()
        self._thread = threading.Thread(target=trio.run, args=(self._run, server))
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._cancel is not None)

    def stop(self) -> None:
        """End what has not ended."""
        if self._thread is None or self._cancel is None:
            return
        with suppress(trio.RunFinishedError):
            self._cancel()
        self._thread.join()

    def wait(self, scenario: Scenario) -> None:
        """Wait for a scenario to end; raises what it raised."""
        with self._changed:
            assert self._changed.wait_for(lambda: scenario in self._outcomes, PATIENCE_SECONDS)
        error = self._outcomes[scenario]
        if error is not None:
            raise error

    async def _run(self, server: ServerProcess) -> None:
        token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            with self._changed:
                self._cancel = lambda: token.run_sync_soon(scope.cancel)
                self._changed.notify_all()
            for number, scenario in enumerate(self.scenarios):
                nursery.start_soon(self._run_one, scenario, Place(server, f"waiting-{number}"))

    async def _run_one(self, scenario: Scenario, place: Place) -> None:
        error: Exception | None = None
        try:
            async with place.client() as api:
                created = await api.post("/v1/basins", json={"basin": place.basin})
                assert created.status_code == 201
                assert (await api.post("/v1/streams", json={"stream": "s"})).status_code == 201
            await scenario(place)
        except Exception as caught:
            error = caught
        with self._changed:
            self._outcomes[scenario] = error
            self._changed.notify_all()


def beside_the_others(scenario: Scenario) -> Callable[[Waiting], None]:
    """Make a test of a scenario."""

    @pytest.mark.slow
    def test(waiting: Waiting) -> None:
        waiting.wait(scenario)

    test.__name__ = getattr(scenario, "__name__", "")
    test.scenario = scenario  # type: ignore[attr-defined]  # read by `scenarios_of`
    return test


def scenarios_of(items: Iterable[pytest.Item]) -> list[Scenario]:
    """The scenarios of the tests that are going to run."""
    found = [getattr(getattr(item, "function", None), "scenario", None) for item in items]
    return [scenario for scenario in found if scenario is not None]
