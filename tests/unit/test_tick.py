"""The tick: due times, lateness, percentiles."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from zmqgame import limits
from zmqgame.play.tick import TickClock, percentile, run_ticks

MS = 1_000_000


def test_a_tick_is_due_each_period():
    clock = TickClock(50, 0)
    assert clock.due(19 * MS) == 0
    assert clock.wait_s(15 * MS) == 0.005
    assert clock.due(20 * MS) == 1
    clock.done(20 * MS, 21 * MS)
    assert clock.due(39 * MS) == 0
    assert clock.due(61 * MS) == 2


def test_late_ones_are_counted():
    clock = TickClock(50, 0)
    clock.done(20 * MS, 21 * MS)
    clock.done(51 * MS, 53 * MS)
    report = clock.report()
    assert (report.count, report.late, report.p50_us, report.max_us) == (2, 1, 1000, 2000)
    assert clock.report().late == 0


def test_after_a_stall_a_few_are_caught_up_and_the_rest_skipped():
    clock = TickClock(50, 0)
    assert clock.due(2_000 * MS) == limits.MAX_CATCH_UP_TICKS
    assert clock.skipped == 100 - limits.MAX_CATCH_UP_TICKS


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=400), st.floats(0, 1))
def test_percentile_is_a_value_with_that_share_below(values, share):
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in values
    assert sum(value <= found for value in values) >= int(share * 1000) / 1000 * len(values)


async def test_the_loop_ticks_until_it_is_stopped():
    stop = asyncio.Event()
    ticks = []

    def tick():
        ticks.append(1)
        if len(ticks) == 5:
            stop.set()

    loop_start = asyncio.get_running_loop().time()
    await run_ticks(TickClock(500, int(loop_start * 1e9)), tick, stop)
    assert len(ticks) >= 5
