"""The drag race through the border: steps, snapshots, golden hashes, the search for the best run."""

from pathlib import Path

import pytest
from zmqgame_native import Race

GOLDEN = Path(__file__).parents[1] / "vectors" / "race.txt"


def rule(frame, number):
    """The same rule as in rust/core/tests/race_golden.rs."""
    gear = 0 if frame < 20 else 1 + (frame + 7 * number) % 400 // 70
    throttle = 0 if (frame + number) % 37 == 0 else 255 - frame * number % 90
    return bytes((gear, throttle))


def test_the_release_build_gives_the_golden_hashes():
    lines = [line.split() for line in GOLDEN.read_text().splitlines() if not line.startswith("#")]
    golden = {int(frame): int(value, 16) for frame, value in lines}
    assert len(golden) == 6
    race = Race([car["name"] for car in Race.built_in()])
    for frame in range(1001):
        if frame in golden:
            assert race.hash() == golden[frame], f"frame {frame}: {race.hash():016x}"
        race.step(b"".join(rule(frame, number) for number in range(8)))
    assert race.frame == 1001


def test_a_race_is_run_and_restored():
    race, other = Race(["volt", "pebble"]), Race(["volt", "pebble"])
    finishers = []
    while not finishers:
        finishers += race.step(bytes((1, 255, 1, 255)))
    assert finishers == [0]
    first, second = race.state()
    assert first["finished"]
    assert 7_500_000 < first["time_us"] < 9_500_000
    assert 230 < first["trap_kmh"] < 280
    assert not second["finished"]
    assert (second["time_us"], second["gear"]) == (0, 1)
    other.restore(race.snapshot())
    assert (other.hash(), other.frame, other.finished) == (race.hash(), race.frame, False)


@pytest.mark.parametrize(
    ("cars", "message"),
    [
        ([], "number of cars is 0"),
        (["tricycle"], r"no car \"tricycle\"; there are meteor, volt"),
        ([{"base": "pebble", "mass_kg": 1}], "mass_kg is 1, not within 50 to 20000"),
        ([{"base": "pebble", "wings": 2}], r"no field \"wings\""),
        ([{"base": "pebble", "driven": "no"}], "front, rear or all"),
        ([{"name": "bare", "mass_kg": 900}], "the car has no torque"),
    ],
)
def test_bad_cars_are_named(cars, message):
    with pytest.raises(ValueError, match=message):
        Race(cars)


def test_wrong_inputs_and_snapshots_change_nothing():
    race = Race(["pebble"])
    before = race.hash()
    with pytest.raises(ValueError, match="2 bytes are needed, not 3"):
        race.step(b"abc")
    with pytest.raises(ValueError, match="another race"):
        race.restore(Race(["lynx"]).snapshot())
    assert (race.hash(), race.frame) == (before, 0)


def test_a_car_can_vary_a_built_in_one():
    light = {"base": "pebble", "name": "feather", "mass_kg": 800}
    race = Race([light, "pebble"])
    assert [car["name"] for car in race.cars()] == ["feather", "pebble"]
    for _ in range(100):
        race.step(bytes((1, 200, 1, 200)))
    first, second = race.state()
    assert first["position_m"] > second["position_m"]
    assert Race(race.cars()).hash() == Race([light, "pebble"]).hash()


def test_the_best_run_can_be_driven():
    best = Race.best_shifts("corsair")
    assert best is not None
    assert Race.class_of(best["time_us"]) == "super"
    assert [shift["gear"] for shift in best["shifts"]] == [2, 3, 4]
    assert len(best["shift_rpm"]) == 5
    assert best["curve"][0] == (0.0, 0.0, 0.0, 900.0, 1)
    assert len(best["curve"]) == pytest.approx(best["time_us"] / 20_000, abs=1)
    assert Race.best_shifts({"base": "pebble", "torque": [(1000, 0)]}) is None
