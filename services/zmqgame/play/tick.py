"""The fixed tick: when the next one is due, how late they were, what they cost.

`TickClock` decides and measures and knows no clock; `run_ticks` drives it in an event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from zmqgame import limits


@dataclass(frozen=True)
class TickReport:
    """One window of ticks, times in microseconds."""

    count: int
    p50_us: float
    p99_us: float
    max_us: float
    late: int
    skipped: int


def percentile(ordered: list[int], share: float) -> int:
    """The value below which `share` of a sorted, non-empty list lies (nearest rank)."""
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1_000) * len(ordered) // 1_000) - 1))]


class TickClock:
    """A tick each 1 / hz seconds from a start. After a stall a few are caught up, the rest is skipped."""

    def __init__(self, hz: int, start_ns: int) -> None:
        self.period_ns = 1_000_000_000 // hz
        self.ticks = 0  # done in all
        self.late = 0  # begun more than half a period after they were due
        self.skipped = 0
        self._due_ns = start_ns + self.period_ns
        self._costs_ns: list[int] = []
        self._reported = (0, 0)  # late, skipped at the last report

    def due(self, now_ns: int) -> int:
        """How many ticks are to be done now; what is beyond the catch-up limit is skipped and counted."""
        behind = (now_ns - self._due_ns) // self.period_ns + 1
        if behind > limits.MAX_CATCH_UP_TICKS:
            skip = behind - limits.MAX_CATCH_UP_TICKS
            self.skipped += skip
            self._due_ns += skip * self.period_ns
            behind = limits.MAX_CATCH_UP_TICKS
        return max(0, behind)

    def done(self, begun_ns: int, ended_ns: int) -> None:
        """A tick was done."""
        self.ticks += 1
        if begun_ns - self._due_ns > self.period_ns // 2:
            self.late += 1
        self._due_ns += self.period_ns
        if len(self._costs_ns) < limits.TICK_WINDOW:
            self._costs_ns.append(ended_ns - begun_ns)

    def wait_s(self, now_ns: int) -> float:
        """Until the next tick is due."""
        return max(0, self._due_ns - now_ns) / 1e9

    def report(self) -> TickReport:
        """The window since the last report."""
        ordered = sorted(self._costs_ns) or [0]
        late, skipped = self.late - self._reported[0], self.skipped - self._reported[1]
        self._reported = (self.late, self.skipped)
        report = TickReport(
            len(self._costs_ns),
            percentile(ordered, 0.50) / 1e3,
            percentile(ordered, 0.99) / 1e3,
            ordered[-1] / 1e3,
            late,
            skipped,
        )
        self._costs_ns.clear()
        return report


async def run_ticks(clock: TickClock, tick: Callable[[], None], stop: asyncio.Event) -> None:
    """Call `tick` at each tick of `clock` until `stop` is set."""
    while not stop.is_set():
        now_ns = time.monotonic_ns()
        for _ in range(clock.due(now_ns)):
            begun_ns = time.monotonic_ns()
            tick()
            clock.done(begun_ns, time.monotonic_ns())
        # Sockets get their turn also when ticks take all of the time.
        await asyncio.sleep(clock.wait_s(time.monotonic_ns()))
