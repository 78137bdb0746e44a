from __future__ import annotations

import datetime

import trio
from trio.testing import MockClock

from actors.clock import Clock, SystemClock
from actors.testing import VirtualClock


def test_the_system_clock_tells_the_wall_time_in_milliseconds() -> None:
    clock: Clock = SystemClock()
    before = datetime.datetime.now(datetime.UTC)  # noqa: TID251 - what it is compared with
    now = datetime.datetime.fromtimestamp(clock.now_ms() / 1000, datetime.UTC)
    assert abs((now - before).total_seconds()) < 60


async def test_the_virtual_clock_keeps_pace_with_trio(autojump_clock: MockClock) -> None:
    clock: Clock = VirtualClock(start_ms=5_000)
    readings = [clock.now_ms()]
    for seconds in (0.1, 0.2, 60):
        await trio.sleep(seconds)
        readings.append(clock.now_ms())
    assert readings == [5_000, 5_100, 5_300, 65_300]


async def test_the_virtual_clock_can_be_stepped_both_ways(autojump_clock: MockClock) -> None:
    clock = VirtualClock(start_ms=0)
    await trio.sleep(1)
    clock.step(500)
    ahead = clock.now_ms()
    clock.step(-1_000)
    assert (ahead, clock.now_ms()) == (1_500, 500)


def test_a_virtual_clock_made_outside_of_trio_starts_when_it_is_first_read() -> None:
    clock = VirtualClock(start_ms=7)

    async def read_later() -> tuple[int, int]:
        await trio.sleep(100)
        first = clock.now_ms()
        await trio.sleep(1)
        return first, clock.now_ms()

    assert clock.now_ms() == 7
    assert trio.run(read_later, clock=MockClock(autojump_threshold=0)) == (7, 1_007)
