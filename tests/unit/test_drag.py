"""The drag race: a whole match between scripted drivers, in virtual time."""

import random

import pytest
from zmqgame.play.drag import DragRace, Drive, Driver, car_names
from zmqgame.play.match import State
from zmqgame.testing import ScriptedPlayer, play
from zmqgame_native import Race


class Pilot(ScriptedPlayer):
    def __init__(self, car, seed=1, loss=0.0):
        self.driver = Driver(car, random.Random(seed))
        self.loss = loss

    def drive(self, frame):
        return self.driver.drive()


class Parked(ScriptedPlayer):
    def drive(self, frame):
        return Drive(1.0, 0)


class FirstGearOnly(ScriptedPlayer):
    def drive(self, frame):
        return Drive(1.0, 1)


def race(players, cars, **options):
    entries = {player: {"player": player, "car": car} for player, car in zip(players, cars, strict=True)}
    return play(DragRace, players, config={"entries": entries}, **options)


def test_a_whole_race():
    fast, slow = car_names()[0], car_names()[-1]
    played = race({"ann": Pilot(slow), "bob": Pilot(fast)}, [slow, fast])
    assert played.state is State.FINISHED
    assert [(result.player, result.place) for result in played.results] == [("bob", 1), ("ann", 2)]
    assert played.results[0].values["car"] == fast
    crossed = played.events_of("crossed")
    assert [event["player"] for event in crossed] == ["bob", "ann"]
    assert all(event["trap_kmh"] > 100 for event in crossed)
    played.check_replay()


def test_the_same_seed_gives_the_same_race():
    def hashes(seed):
        car = car_names()[0]
        return race({"ann": Pilot(car, seed), "bob": Pilot(car, seed + 1)}, [car, car]).run.record.hashes

    assert hashes(5) == hashes(5)
    assert hashes(5) != hashes(6)


@pytest.mark.parametrize("car", car_names())
def test_a_driver_is_sensible(car):
    """Within a fifth of the best run that there is, also with half of the packets lost."""
    best = Race.best_shifts(car)
    for loss in (0.0, 0.5):
        played = race({"ann": Pilot(car, loss=loss), "bob": Pilot(car, 2)}, [car, car])
        time_ms = next(result for result in played.results if result.player == "ann").values["time_ms"]
        assert best["time_us"] / 1_000 <= time_ms <= best["time_us"] / 1_000 * 1.2 + 500


def test_who_does_not_get_there_did_not_finish():
    played = race({"ann": Pilot("pebble"), "bob": Parked()}, ["pebble", "pebble"])
    assert played.state is State.FINISHED
    assert [(result.player, result.outcome) for result in played.results] == [
        ("ann", "finished"),
        ("bob", "did_not_finish"),
    ]
    assert played.results[1].reason == "out of time"
    played.check_replay()


def test_shifting_pays():
    played = race({"ann": Pilot("pebble"), "bob": FirstGearOnly()}, ["pebble", "pebble"])
    assert played.results[0].player == "ann"


def test_an_unknown_car_is_the_default_one():
    played = race({"ann": Pilot("x"), "bob": Pilot("")}, ["x", ""])
    assert {result.values["car"] for result in played.results} == {"pebble"}


def test_wild_inputs_do_no_harm():
    class Wild(ScriptedPlayer):
        def drive(self, frame):
            chance = random.Random(frame)
            wild = [float("inf"), -1e30, 7.5]
            return Drive(chance.choice(wild), chance.choice([-(2**31), 2**31 - 1, 3]))

    played = race({"ann": Wild(), "bob": Pilot("pebble")}, ["pebble", "pebble"])
    assert played.state is State.FINISHED
    played.check_replay()
