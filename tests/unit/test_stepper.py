"""zmqgame.testing plays the game that the documents show."""

from zmqgame import Action, Input, Match
from zmqgame.play.match import State
from zmqgame.testing import ScriptedPlayer, play


class Jump(Action):
    pass


class Walk(Input):
    speed: float


class Run(Match, players=(1, 4), inputs=Walk):
    """Ten metres; a jump is worth one."""

    def start(self):
        self.way = dict.fromkeys(self.players, 0.0)

    def on_jump(self, player, action: Jump):
        self.way[player] += 1

    def step(self, frame, inputs):
        for player, held in inputs.items():
            self.way[player] += held.speed / self.tick_hz
            if self.way[player] >= 10:
                self.finish_player(player, frame=frame)

    def snapshot(self):
        return self.way


class Walker(ScriptedPlayer):
    def __init__(self, speed, loss=0.0):
        self.speed, self.loss = speed, loss
        self.seen = []

    def drive(self, frame):
        return Walk(self.speed)

    def act(self, frame):
        return [Jump()] if frame == 5 else []

    def snapshot(self, snapshot):
        self.seen.append(snapshot["frame"])


def test_a_whole_match():
    slow, fast = Walker(1.0), Walker(3.0, loss=0.3)
    played = play(Run, {"slow": slow, "fast": fast})
    assert played.state is State.FINISHED
    assert [(result.player, result.place) for result in played.results] == [("fast", 1), ("slow", 2)]
    assert slow.seen == sorted(slow.seen)
    assert played.events_of("state")[-1]["state"] == "finished"
    played.check_replay()


def test_loss_is_made_up_for():
    without = play(Run, {"ann": Walker(2.0)}).results[0].values["frame"]
    assert play(Run, {"ann": Walker(2.0, loss=0.5)}).results[0].values["frame"] - without <= 3


def test_who_leaves_did_not_finish():
    leaver = Walker(2.0)
    leaver.leaves_at_frame = 50
    played = play(Run, {"ann": Walker(2.0), "bob": leaver})
    assert [(result.player, result.outcome) for result in played.results] == [
        ("ann", "finished"),
        ("bob", "did_not_finish"),
    ]
    played.check_replay()
