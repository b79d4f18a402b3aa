"""The reference game: a drag race over a quarter mile, on the native physics.

The player holds the throttle and a gear. `Driver` is a player that plays by itself, for bots and tests: it
runs the same physics ahead of the server, with the inputs it sends, and changes gear where the search for
the car's best run says.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from typing import Any

from zmqgame_native import Race

from zmqgame.play.rules import Event, Input, Match, Phases

QUARTER_MILE_M = 402.336
DEFAULT_CAR = "pebble"


@cache
def car_names() -> tuple[str, ...]:
    """The cars that can be queued with."""
    return tuple(str(car["name"]) for car in Race.built_in())


class Drive(Input):
    """What a driver holds at a frame."""

    throttle: float  # 0 to 1
    gear: int  # 0 is neutral


class Crossed(Event):
    """A car crossed the line."""

    player: str
    time_ms: float
    trap_kmh: float


class DragRace(
    Match,
    tick_hz=50,
    players=(2, 8),
    inputs=Drive,
    phases=Phases(cutscene_ms=1_000, countdown_ms=3_000, running_ms=60_000, disconnect_ms=10_000),
):
    """Who is first over the line wins; who has not crossed it in a minute did not finish."""

    def start(self) -> None:
        """Put the cars on the start line."""
        known = car_names()
        entries = self.config.get("entries", {})
        wanted = [str(entries.get(player, {}).get("car", "")) for player in self.players]
        self.cars = [car if car in known else DEFAULT_CAR for car in wanted]
        distance_m = float(self.config.get("distance_m", QUARTER_MILE_M))
        self.race = Race(self.cars, distance_m, self.tick_hz)

    def step(self, frame: int, inputs: Mapping[str, Drive]) -> None:
        """One tick of all cars."""
        crossed = self.race.step(bytes(part for player in self.players for part in _pedals(inputs[player])))
        if not crossed:
            return
        states = self.race.state()
        for number in sorted(crossed, key=lambda number: (states[number]["time_us"], number)):
            time_ms, trap_kmh = states[number]["time_us"] / 1_000, round(states[number]["trap_kmh"], 2)
            player = self.players[number]
            if player not in self.results:
                self.finish_player(player, time_ms=time_ms, trap_kmh=trap_kmh, car=self.cars[number])
                self.emit(Crossed(player, time_ms, trap_kmh))

    def snapshot(self) -> dict[str, Any]:
        """Each car as clients show it."""
        return {
            player: {
                "car": car,
                "position_m": round(state["position_m"], 2),
                "speed_kmh": round(state["speed_kmh"], 2),
                "rpm": round(state["rpm"]),
                "gear": state["gear"],
                "spinning": state["spinning"],
            }
            for player, car, state in zip(self.players, self.cars, self.race.state(), strict=True)
        }

    def state_hash(self) -> str:
        """All bits of all cars."""
        return f"{self.race.hash():016x}"


def _pedals(held: Drive) -> tuple[int, int]:
    """Gear and throttle as the physics takes them."""
    return min(255, max(0, held.gear)), min(255, max(0, round(held.throttle * 255)))


@cache
def shift_points(car: str) -> tuple[float, ...]:
    """The rpm at which each gear of a car is left in its best run; a search, done once a process."""
    best = Race.best_shifts(car)
    return tuple(best["shift_rpm"]) if best is not None else ()


class Driver:
    """Drives a car sensibly: full throttle, less when the wheels spin, up where it is fastest."""

    def __init__(self, car: str, chance: random.Random) -> None:
        name = car if car in car_names() else DEFAULT_CAR
        self._shift_rpm = [rpm * chance.uniform(0.93, 1.0) for rpm in shift_points(name)]
        self._ahead = Race([name])
        self._throttle = 1.0
        self._gear = 1
        self._reaction_frames = chance.randrange(3, 15)

    def drive(self) -> Drive:
        """What to hold at the next frame."""
        state = self._ahead.state()[0]
        if self._reaction_frames > 0:
            self._reaction_frames -= 1
            held = Drive(0.0, 1)
        else:
            if state["spinning"]:
                self._throttle = max(0.2, self._throttle * 0.93)
            else:
                self._throttle = min(1.0, self._throttle + 0.015)
            last = len(self._shift_rpm) + 1
            if (
                not state["shifting"]
                and self._gear == state["gear"]
                and self._gear < last
                and state["rpm"] >= self._shift_rpm[self._gear - 1]
            ):
                self._gear += 1
            held = Drive(self._throttle, self._gear)
        self._ahead.step(bytes(_pedals(held)))
        return held
