from __future__ import annotations

import pytest
import trio

from actors import ActorSpec, ActorStopped, StopReason, Supervisor
from actors.testing import Probe, run_seeded, seeded_scheduler


async def order_of_tasks() -> list[int]:
    order: list[int] = []

    async def join(number: int) -> None:
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(join, number)
    return order


def test_a_seed_fixes_the_order_in_which_tasks_run() -> None:
    orders = [run_seeded(seed, order_of_tasks) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_the_scheduler_is_left_as_it_was() -> None:
    module = trio._core._run
    before = (module._r.getstate(), module._ALLOW_DETERMINISTIC_SCHEDULING)
    with seeded_scheduler(1):
        pass
    assert (module._r.getstate(), module._ALLOW_DETERMINISTIC_SCHEDULING) == before


@pytest.mark.parametrize("missing", ["_r", "_ALLOW_DETERMINISTIC_SCHEDULING"])
def test_a_trio_without_its_private_names_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    with monkeypatch.context() as patch:
        patch.delattr(f"trio._core._run.{missing}")
        with pytest.raises(RuntimeError, match="no scheduler that can be seeded"):
            seeded_scheduler(1).__enter__()


def test_run_seeded_returns_the_result_and_leaps_over_time() -> None:
    async def sleep_long(hours: int) -> float:
        started_at = trio.current_time()
        await trio.sleep(hours * 3600)
        return trio.current_time() - started_at

    assert run_seeded(0, sleep_long, 5) == 5 * 3600


async def test_a_probe_notes_what_happens_to_it_and_handles_messages_as_told(
    supervisor: Supervisor,
) -> None:
    doubled = []

    async def double(message: int) -> None:
        doubled.append(2 * message)

    probe = Probe(double)
    ref = await supervisor.start(ActorSpec("probe", lambda: probe))
    await ref.tell(21)
    await trio.testing.wait_all_tasks_blocked()
    ref.wake()
    await trio.testing.wait_all_tasks_blocked()
    await supervisor.stop(ref)
    assert (probe.messages, doubled) == ([21], [42])
    assert probe.events == ["started", "receive", "drained", "woken", "stopping"]
    assert probe.stop_reason is StopReason.REQUESTED
    with pytest.raises(ActorStopped):
        await ref.tell(1)
