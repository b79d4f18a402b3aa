from zmqgame import Event, Input, Match


class Legs(Input):
    pace: float  # 0 to 1, held for one frame


class Home(Event):
    player: str
    time_ms: int


class Sprint(Match, tick_hz=50, players=(2, 8), inputs=Legs):
    def start(self):
        self.metres = dict.fromkeys(self.players, 0.0)

    def step(self, frame, inputs):
        for player, legs in inputs.items():
            self.metres[player] += min(1.0, max(0.0, legs.pace)) * self.random.uniform(0.1, 0.2)
            if self.metres[player] >= 100 and player not in self.results:
                self.finish_player(player, time_ms=frame * 20)
                self.emit(Home(player, frame * 20))

    def snapshot(self):
        return self.metres
