"""The balance simulator: how fast each car can be, where it changes gear, which class it is in.

`simulate()` searches the best run of each car on the physics that the server and the replay use, so what it
prints can be driven. `Simulation.table()` is what the command line shows, `draw()` a run as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zmqgame_native import Race

QUARTER_MILE_M = 402.336
CLASSES = ("pro", "super", "sport", "street")
CarChoice = str | Mapping[str, Any]


@dataclass(frozen=True)
class Shift:
    """One change up of a run."""

    gear: int
    rpm: float
    speed_kmh: float
    position_m: float
    time_ms: float


@dataclass(frozen=True)
class Sample:
    """One tick of a run."""

    time_ms: float
    position_m: float
    speed_kmh: float
    rpm: float
    gear: int


@dataclass(frozen=True)
class CarRun:
    """A car's best run."""

    car: str
    class_name: str
    time_ms: float
    trap_kmh: float
    shifts: tuple[Shift, ...]
    curve: tuple[Sample, ...]

    def shift_text(self) -> str:
        """The shift points in one line: 2 at 7,283 rpm, 3 at 7,273 rpm."""
        return ", ".join(f"{shift.gear} at {shift.rpm:,.0f} rpm" for shift in self.shifts) or "none"


@dataclass(frozen=True)
class Simulation:
    """The best runs of some cars, the fastest first; and those that never arrive."""

    distance_m: float
    tick_hz: int
    runs: tuple[CarRun, ...]
    not_arrived: tuple[str, ...]

    def classes(self) -> dict[str, list[CarRun]]:
        """The runs by class, the fastest class first; all classes, also empty ones."""
        return {name: [run for run in self.runs if run.class_name == name] for name in CLASSES}

    def table(self) -> list[dict[str, str]]:
        """Rows of text for people: class, car, time, trap speed, shift points."""
        rows = [
            {
                "class": run.class_name,
                "car": run.car,
                "time s": f"{run.time_ms / 1000:.3f}",
                "trap km/h": f"{run.trap_kmh:.1f}",
                "shifts into": run.shift_text(),
            }
            for runs in self.classes().values()
            for run in runs
        ]
        never = {"class": "-", "time s": "does not arrive", "trap km/h": "-", "shifts into": "-"}
        return rows + [{**never, "car": car} for car in self.not_arrived]

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return asdict(self)


def simulate(
    cars: Sequence[CarChoice] | None = None, distance_m: float = QUARTER_MILE_M, tick_hz: int = 50
) -> Simulation:
    """Search the best run of each car (all built-in ones by default). ValueError names what a car lacks."""
    runs, not_arrived = [], []
    for car in Race.built_in() if cars is None else cars:
        run = _best_run(car, distance_m, tick_hz)
        if run is None:
            not_arrived.append(_name(car))
        else:
            runs.append(run)
    runs.sort(key=lambda run: (run.time_ms, run.car))
    return Simulation(distance_m, tick_hz, tuple(runs), tuple(not_arrived))


def _name(car: CarChoice) -> str:
    return car if isinstance(car, str) else str(car.get("name") or car["base"])


def _best_run(car: CarChoice, distance_m: float, tick_hz: int) -> CarRun | None:
    best = Race.best_shifts(car, distance_m, tick_hz)
    if best is None:
        return None
    # Classes are defined over a quarter mile, whatever the track is.
    usual = best if distance_m == QUARTER_MILE_M else Race.best_shifts(car, QUARTER_MILE_M, tick_hz)
    return CarRun(
        car=_name(car),
        class_name=Race.class_of(usual["time_us"]) if usual is not None else CLASSES[-1],
        time_ms=best["time_us"] / 1000,
        trap_kmh=best["trap_kmh"],
        shifts=tuple(Shift(**shift) for shift in best["shifts"]),
        curve=tuple(Sample(*sample) for sample in best["curve"]),
    )


def draw(run: CarRun, width: int = 72, height: int = 16) -> str:
    """Speed over the way as text; the digit of each point is the gear."""
    end_m = max(sample.position_m for sample in run.curve)
    top_kmh = max(sample.speed_kmh for sample in run.curve)
    rows = [[" "] * width for _ in range(height)]
    for sample in run.curve:
        column = round(sample.position_m / end_m * (width - 1))
        row = round((1 - sample.speed_kmh / top_kmh) * (height - 1))
        rows[row][column] = f"{sample.gear % 10}"
    label = [f"{top_kmh:4.0f} km/h |", *["          |"] * (height - 2), "   0      |"]
    lines = [side + "".join(row).rstrip() for side, row in zip(label, rows, strict=True)]
    axis = " " * 10 + "+" + "-" * width
    way = " " * 11 + "0 m" + f"{end_m:>{width - 5}.0f} m"
    return "\n".join([f"{run.car}: {run.time_ms / 1000:.3f} s", *lines, axis, way])
