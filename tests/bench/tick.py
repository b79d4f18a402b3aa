"""What one tick costs: many drag races of four, inputs and snapshots included, beside the bare physics.

Ours: inputs of every player through the input buffer, lifecycle, rules, record, snapshots as JSON every fifth
frame, routed to each player. The peer steps the same cars with the same inputs and makes the same JSON, with
nothing around it. Sockets are not in either.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import orjson
from zmqgame.play.drag import DragRace, Drive
from zmqgame.play.match import State
from zmqgame.play.matches import Matches
from zmqgame.play.rules import Phases
from zmqgame.play.tick import percentile
from zmqgame_native import Race

PLAYERS = 4
CARS = ("hornet", "pebble", "stallion", "lynx")
GOAL = 8.0
"""Times the bare physics. What counts in the end is that a tick of 250 races takes less than its 20 ms."""


class Sink:
    """Where the output goes: counted, so that it is made."""

    def __init__(self) -> None:
        self.bytes = 0

    def event(self, player: str, payload: bytes) -> None:
        self.bytes += len(payload)

    def snapshot(self, player: str, frame: int, payload: bytes) -> None:
        self.bytes += len(payload)


def started(count: int) -> Matches:
    """So many races, at their first frame."""
    phases = Phases(cutscene_ms=0, countdown_ms=0, running_ms=3_600_000)
    matches = Matches(DragRace, phases, most=count, records=None)
    matches.output = Sink()
    for number in range(count):
        players = [{"player": f"p{number}-{seat}", "car": CARS[seat]} for seat in range(PLAYERS)]
        run = matches.create({"match": f"m{number}", "players": players, "seed": number}, {}, 0)
        for player in run.seats:
            run.handle_attached(0, player, fresh=True)
            run.handle_action(player, {"type": "ready"})
    for now_ms in range(0, 200, 20):
        matches.tick(now_ms)
    assert all(run.state is State.RUNNING for run in matches.by_id.values())
    return matches


def ours(count: int, ticks: int) -> list[int]:
    """The time of each tick in ns, all inputs taken in it."""
    matches, packed = started(count), [Drive(0.9, gear).pack() for gear in range(6)]
    players = list(matches.by_player)
    costs = []
    for tick in range(ticks):
        payload = bytes([2]) + packed[1 + tick // 100 % 5] + packed[1 + tick // 100 % 5]
        frame = next(iter(matches.by_id.values())).frame
        begun = time.perf_counter_ns()
        for player in players:
            matches.inputs(player, frame + 1, payload)
        matches.tick(200 + tick)
        costs.append(time.perf_counter_ns() - begun)
    return sorted(costs)


def peer(count: int, ticks: int) -> list[int]:
    """The same physics and JSON."""
    races = [Race(list(CARS)) for _ in range(count)]
    costs, size = [], 0
    for tick in range(ticks):
        pedals = bytes([1 + tick // 100 % 5, 230] * PLAYERS)
        begun = time.perf_counter_ns()
        for race in races:
            race.step(pedals)
            if tick % 5 == 0:
                size += len(orjson.dumps(race.state()))
        costs.append(time.perf_counter_ns() - begun)
    assert size > 0
    return sorted(costs)


def measure(*, quick: bool) -> list[dict[str, Any]]:
    """Rows: p50 and p99 of a tick at 64 and 250 races, in ms; alternating rounds, medians."""
    rows = []
    ticks, rounds = (150, 3) if quick else (500, 5)
    for count in (64, 250):
        mine, other = [], []
        for _ in range(rounds):
            mine.append(ours(count, ticks))
            other.append(peer(count, ticks))
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            here = median(percentile(costs, share) for costs in mine) / 1e6
            there = median(percentile(costs, share) for costs in other) / 1e6
            rows.append(
                {
                    "name": f"tick {name}, {count} races of {PLAYERS}",
                    "ours": round(here, 3),
                    "peer": round(there, 3),
                    "peer_name": "bare physics and JSON",
                    "unit": "ms",
                    "ratio": round(here / there, 2),
                    "goal": GOAL,
                    "better": "lower",
                }
            )
    return rows


if __name__ == "__main__":
    print(orjson.dumps(measure(quick=True)).decode())
