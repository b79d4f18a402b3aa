"""The life of a match: the table, its time-outs, who did not finish, and what users' code may do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqgame.play.match import ENDED, TABLE, MatchRun, Snapshot, State, ToPlayer
from zmqgame.play.matches import load_rules
from zmqgame.play.record import Record, replay
from zmqgame.play.rules import Action, Event, Input, Match, Phases, Refused, RulesError
from zmqgame_bus.errors import ConfigError

PHASES = Phases(
    waiting_ms=1_000,
    ready_ms=1_000,
    cutscene_ms=100,
    countdown_ms=200,
    running_ms=5_000,
    disconnect_ms=500,
    linger_ms=100,
)


class Ready(Action):
    pass


class Shout(Action):
    word: str
    loud: bool = False


class Heard(Event):
    who: str
    word: str


class Push(Input):
    force: float


class Sum(Match, players=(2, 4), inputs=Push, snapshot_every=10, phases=PHASES):
    """Who has pushed 10 in all is done."""

    def start(self):
        self.sums = dict.fromkeys(self.players, 0.0)

    def on_ready(self, player, action: Ready):
        self.sums[player] += 0.5

    def on_shout(self, player, action: Shout):
        if action.word == "boom":
            raise RuntimeError("boom")
        self.sums[player] += self.random.random()
        self.emit(Heard(player, action.word))

    def step(self, frame, inputs):
        for player, held in inputs.items():
            self.sums[player] += held.force
            if self.sums[player] >= 10:
                self.finish_player(player, sum=self.sums[player])

    def snapshot(self):
        return self.sums


def make(players=("ann", "bob"), now_ms=0):
    return MatchRun(Sum, "m1", players, seed=1, config={}, now_ms=now_ms)


def states(run):
    return [
        out.event["state"]
        for out in run.poll_out()
        if isinstance(out, ToPlayer) and out.player is None and out.event["type"] == "state"
    ]


def begun(players=("ann", "bob")):
    """A match that runs, at 400 ms."""
    run = make(players)
    for player in players:
        run.handle_attached(0, player, fresh=True)
        run.handle_action(player, {"type": "ready"})
    for now_ms in range(0, 400, 20):
        run.advance(now_ms)
    assert run.state is State.RUNNING
    return run


def test_a_whole_match():
    run = begun()
    assert states(run) == ["ready", "cutscene", "countdown", "running"]
    for frame in range(run.frame, run.frame + 30):
        run.handle_input("ann", frame, b"\1" + Push(1.0).pack())
        run.handle_input("bob", frame, b"\1" + Push(0.5).pack())
        run.advance(400 + 20 * frame)
    assert run.state is State.FINISHED
    assert [(result.player, result.place) for result in run.results()] == [("ann", 1), ("bob", 2)]
    last = [out for out in run.poll_out() if isinstance(out, ToPlayer)][-1].event
    assert last["state"] == "finished"
    assert last["results"][0]["values"]["sum"] >= 10
    run.advance(run.ended_at_ms + 100)
    assert run.gone


def test_who_never_comes_did_not_finish_and_the_others_go_on():
    run = make(("ann", "bob", "cat"))
    for player in ("ann", "bob"):
        run.handle_attached(0, player, fresh=True)
        run.handle_action(player, {"type": "ready"})
    run.advance(999)
    assert run.state is State.WAITING
    run.advance(1_000)
    assert run.state is State.READY
    assert run.rules.results["cat"].reason == "never came"


def test_who_is_never_ready_did_not_finish_and_too_few_abort():
    run = make()
    for player in ("ann", "bob"):
        run.handle_attached(0, player, fresh=True)
    run.handle_action("ann", {"type": "ready"})
    run.advance(20)
    run.advance(1_020)
    assert run.state is State.ABORTED
    assert {(r.player, r.outcome, r.reason) for r in run.results()} == {
        ("bob", "did_not_finish", "never ready"),
        ("ann", "did_not_finish", "too few players"),
    }


def test_a_disconnected_player_may_come_back_in_time():
    run = begun()
    run.handle_detached(400, "bob")
    run.advance(880)
    run.handle_attached(890, "bob", fresh=False)
    run.advance(2_000)
    assert not run.rules.results
    run.handle_detached(2_000, "bob")
    run.advance(2_500)
    assert run.rules.results["bob"].reason == "disconnected"
    assert run.state is State.RUNNING


def test_out_of_time():
    run = begun()
    run.advance(400 + 5_000)
    assert run.state is State.FINISHED
    assert {result.reason for result in run.results()} == {"out of time"}


def test_a_fresh_client_is_told_where_the_match_is():
    run = begun()
    run.poll_out()
    run.handle_attached(400, "ann", fresh=True)
    event, snapshot = run.poll_out()
    assert (event.player, event.event["state"]) == ("ann", "running")
    assert isinstance(snapshot, Snapshot)


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({"type": "dance"}, "unknown_action"),
        ({}, "unknown_action"),
        ({"type": "shout"}, "malformed"),
        ({"type": "shout", "word": 5}, "malformed"),
        ({"type": "shout", "word": "a", "loud": 1}, "malformed"),
        ({"type": "shout", "word": "a", "extra": 1}, "malformed"),
        ({"type": "shout", "word": "a", "match": "other"}, "other_match"),
        ({"type": "ready"}, "wrong_state"),
    ],
)
def test_wrong_actions_are_refused_and_change_nothing(payload, kind):
    run = begun()
    before = run.rules.state_hash()
    with pytest.raises(Refused) as error:
        run.handle_action("ann", payload)
    assert error.value.kind == kind
    assert run.rules.state_hash() == before


def test_rules_that_fail_end_their_match_only():
    run = begun()
    run.handle_action("ann", {"type": "shout", "word": "boom"})
    run.advance(420)
    assert run.state is State.ABORTED
    assert "boom" in run.reason


def test_events_go_to_all():
    run = begun()
    run.poll_out()
    run.handle_action("bob", {"type": "shout", "word": "hi", "match": "m1"})
    assert run.poll_out() == [ToPlayer(None, {"type": "heard", "who": "bob", "word": "hi"})]


def test_the_table_is_whole():
    assert set(TABLE) == set(State)
    assert all(hasattr(PHASES, row.timeout) for row in TABLE.values())
    assert all((row.next is None) == (state in ENDED) for state, row in TABLE.items())


def test_rules_that_can_not_be_used_say_so():
    with pytest.raises(RulesError):
        type("Bad", (Input,), {"__annotations__": {"name": str}}).layout()
    with pytest.raises(RulesError):

        class Worse(Match):
            def on_thing(self, player, action): ...


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["attach", "detach", "leave", "ready", "shout", "input", "advance", "far"]),
        st.sampled_from(["ann", "bob", "cat"]),
        st.integers(0, 400),
    ),
    max_size=200,
)


@given(STEPS)
def test_any_order_of_things_ends_with_one_result_each_and_replays(steps):
    run = make(("ann", "bob", "cat"))
    now_ms = 0
    order = list(State)
    reached = [run.state]
    for what, player, number in steps:
        try:
            if what == "attach":
                run.handle_attached(now_ms, player, fresh=number % 2 == 0)
            elif what == "detach":
                run.handle_detached(now_ms, player)
            elif what == "leave":
                run.handle_left(player)
            elif what == "ready":
                run.handle_action(player, {"type": "ready"})
            elif what == "shout":
                run.handle_action(player, {"type": "shout", "word": "x"})
            elif what == "input":
                run.handle_input(player, run.frame + number % 5, b"\1" + Push(number / 400).pack())
            else:
                now_ms += 20 if what == "advance" else number * 5
                run.advance(now_ms)
        except Refused:
            pass
        if run.state is not reached[-1]:
            reached.append(run.state)
    assert [order.index(state) for state in reached] == sorted(order.index(state) for state in reached)
    for _ in range(12):
        now_ms += 5_000
        run.advance(now_ms)
    assert run.gone
    assert {result.player for result in run.results()} == {"ann", "bob", "cat"}
    check_replay(run)


def check_replay(run):
    record = Record.load(run.record.dump())
    hashes = {
        frame: rules.state_hash()
        for frame, rules in replay(record, type(run.rules))
        if frame in record.hashes
    }
    assert hashes == record.hashes


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no.such.module:Game", r"can't be loaded: No module named 'no' \(its folder"),
        ("zmqgame.play.drag:Nothing", "can't be loaded: AttributeError"),
        ("zmqgame.play.drag:DEFAULT_CAR", "is not module:class of a subclass"),
        ("broken_rules:Game", r"can't be loaded: ZeroDivisionError: .*broken_rules.py:3\)"),
    ],
)
def test_rules_that_can_not_be_loaded_are_a_configuration_error(tmp_path, monkeypatch, name, why):
    (tmp_path / "broken_rules.py").write_text("# rules\n\n1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=why) as caught:
        load_rules(name, "zmqgame.toml:3")
    assert str(caught.value).startswith(f'zmqgame.toml:3: game.rules = "{name}" ')
    assert load_rules("zmqgame.play.drag:DragRace").__name__ == "DragRace"
