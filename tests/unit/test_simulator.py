"""The balance simulator: tables, classes, and that what it says can be driven."""

import pytest
from zmqgame.play.simulator import CLASSES, CarRun, Simulation, draw, simulate
from zmqgame_native import Race


@pytest.fixture(scope="module")
def all_cars() -> Simulation:
    return simulate()


def test_every_class_has_two_built_in_cars_sorted_by_time(all_cars):
    assert {name: len(runs) for name, runs in all_cars.classes().items()} == dict.fromkeys(CLASSES, 2)
    times = [run.time_ms for run in all_cars.runs]
    assert times == sorted(times)
    assert {car["name"]: car["class"] for car in Race.built_in()} == {
        run.car: run.class_name for run in all_cars.runs
    }


def test_the_table_names_time_speed_and_shift_points(all_cars):
    rows = {row["car"]: row for row in all_cars.table()}
    assert list(rows["stallion"]) == ["class", "car", "time s", "trap km/h", "shifts into"]
    assert rows["volt"]["shifts into"] == "none"
    assert rows["stallion"]["shifts into"].startswith("2 at 7,")
    assert 11 < float(rows["stallion"]["time s"]) < 13


def drive(run: CarRun) -> int:
    """The run again by its shift times, at the throttle that a careful driver finds by the wheels' spin."""
    race, throttle, gear = Race([run.car]), 255, 1
    while not race.finished:
        now_ms = race.frame * 20
        gear = max([1, *(shift.gear for shift in run.shifts if shift.time_ms <= now_ms)])
        throttle = max(60, throttle - 8) if race.state()[0]["spinning"] else min(255, throttle + 2)
        race.step(bytes((gear, throttle)))
    return race.state()[0]["time_us"]


def test_what_it_says_can_nearly_be_driven_and_not_beaten(all_cars):
    for run in all_cars.runs:
        assert 0.999 < drive(run) / 1000 / run.time_ms < 1.08, run.car


def test_own_cars_and_tracks():
    feather = {"base": "pebble", "name": "feather", "mass_kg": 700}
    stuck = {"base": "pebble", "name": "stuck", "torque": [(1000, 0)]}
    result = simulate([feather, "pebble", stuck], distance_m=201.168)
    assert [run.car for run in result.runs] == ["feather", "pebble"]
    assert result.not_arrived == ("stuck",)
    assert result.table()[-1] == {
        "class": "-", "car": "stuck", "time s": "does not arrive", "trap km/h": "-", "shifts into": "-",
    }  # fmt: skip
    assert result.as_json()["runs"][1]["class_name"] == "street"
    with pytest.raises(ValueError, match="no car"):
        simulate(["tricycle"])


def test_a_run_is_drawn(all_cars):
    text = draw(all_cars.runs[0], width=40, height=8)
    lines = text.splitlines()
    assert len(lines) == 11
    assert max(map(len, lines)) <= 51
    assert lines[0].startswith(all_cars.runs[0].car)
    assert "1" in lines[8]
    assert "4" in lines[1]
