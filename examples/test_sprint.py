from sprint import Legs, Sprint
from zmqgame.testing import ScriptedPlayer, play


class Runner(ScriptedPlayer):
    def __init__(self, pace):
        self.pace = pace

    def drive(self, frame):
        return Legs(self.pace)


def test_the_faster_one_wins():
    played = play(Sprint, {"ann": Runner(1.0), "bob": Runner(0.9)})
    assert [result.player for result in played.results if result.place == 1] == ["ann"]
    played.check_replay()
