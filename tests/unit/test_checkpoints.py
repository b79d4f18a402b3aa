"""Matches that go on at another server: what is kept of them, what is refused, what is fenced off."""

import zlib
from types import SimpleNamespace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqgame import limits
from zmqgame.manage.checkpoints import Checkpoints
from zmqgame.play.checkpoint import Part, Progress, next_part, restore
from zmqgame.play.handover import Keeper
from zmqgame.play.match import MatchRun, NotYet, Snapshot, State, ToPlayer
from zmqgame.play.matches import Matches
from zmqgame.play.player import Session
from zmqgame.play.rules import Action, Input, Match, Phases, Refused
from zmqgame.protocol import RawId

PHASES = Phases(cutscene_ms=0, countdown_ms=0, disconnect_ms=60_000)


class Push(Input):
    force: float


class Add(Action):
    much: int


class Sum(Match, players=(2, 4), inputs=Push, snapshot_every=10, phases=PHASES):
    def start(self):
        self.sums = dict.fromkeys(self.players, 0.0)

    def on_add(self, player, action: Add):
        self.sums[player] += action.much + self.random.random()

    def step(self, frame, inputs):
        for player, held in inputs.items():
            self.sums[player] += held.force
            if self.sums[player] >= 1_000:
                self.finish_player(player)

    def snapshot(self):
        return self.sums


class Bomb(Sum, players=(2, 4), inputs=Push, phases=PHASES):
    def step(self, frame, inputs):
        raise RuntimeError("boom")


def running():
    run = MatchRun(Sum, "m1", ["ann", "bob"], seed=3, config={"a": 1}, now_ms=0)
    for player in ("ann", "bob"):
        run.handle_attached(0, player, fresh=True)
        run.handle_action(player, {"type": "ready"}, session=5, number=1)
    for now_ms in range(0, 100, 20):
        run.advance(now_ms)
    assert run.state is State.RUNNING
    return run


def play(run, now_ms, steps):
    for kind, number in steps:
        player = ("ann", "bob")[number % 2]
        if kind == "input":
            run.handle_input(player, run.frame, bytes([1]) + Push(number / 7).pack())
        elif kind == "add":
            seat = run.seats[player]
            run.handle_action(player, {"type": "add", "much": 1}, session=5, number=seat.last_action + 1)
        now_ms += 20
        run.advance(now_ms)
    return now_ms


def again(head, bodies, rules=Sum, epoch=2, budget=1_000_000):
    run = restore(rules, "m1", epoch, head, bodies, now_ms=0, phases=PHASES, planned=False)
    while run.catching_up:
        assert run.catch_up(0, budget) <= budget
    return run


STEPS = st.lists(st.tuples(st.sampled_from(["input", "add", "wait"]), st.integers(0, 9)), max_size=60)


@given(STEPS, STEPS, STEPS, st.integers(1, 9))
def test_a_restored_match_is_the_same_and_goes_on_the_same(first, second, third, budget):
    run, progress, kept = running(), Progress(), Checkpoints()
    now_ms = 100
    for steps in (first, second):
        now_ms = play(run, now_ms, steps)
        assert kept.put(next_part(run, progress, now_ms))
    request = kept.request("m1")
    part = [Part.from_json({"match": "m1", "epoch": 1, "part": 0, "head": request["head"], "body": body})
            for body in request["bodies"]]  # fmt: skip
    other = again(part[-1].head, [each.body for each in part], budget=budget)
    assert (other.frame, other.state, other.epoch) == (run.frame, run.state, 2)
    assert other.rules.state_hash() == run.rules.state_hash()
    assert [seat.last_action for seat in other.seats.values()] == [s.last_action for s in run.seats.values()]
    for player in other.seats:
        other.handle_attached(now_ms, player, fresh=True)
    other.advance(now_ms)
    run.advance(now_ms)
    now_ms = max(play(run, now_ms, third), play(other, now_ms, third))
    assert other.rules.state_hash() == run.rules.state_hash()
    assert other.record.entries == run.record.entries


def kept_parts():
    run, progress = running(), Progress()
    play(run, 100, [("input", 3), ("add", 1)] * 40)
    return run, next_part(run, progress, 2_000)


def test_players_are_told_from_which_frame_and_the_match_waits_for_them():
    run, part = kept_parts()
    other = restore(Sum, "m1", 2, part.head, [part.body], now_ms=0, phases=PHASES, planned=False)
    other.handle_attached(0, "ann", fresh=True)
    with pytest.raises(NotYet):
        other.handle_action("ann", {"type": "add", "much": 1}, session=5, number=42)
    other.catch_up(0, 1_000)
    told, snapshot = other.poll_out()
    assert isinstance(told, ToPlayer)
    assert (told.player, told.event["type"], told.event["frame"]) == ("ann", "restored", run.frame)
    assert told.event["last_action"] == run.seats["ann"].last_action
    assert isinstance(snapshot, Snapshot)
    for now_ms in range(0, 1_000, 20):
        other.advance(now_ms)
    assert other.frame == run.frame
    other.handle_attached(1_000, "bob", fresh=True)
    other.advance(1_000)
    assert other.frame == run.frame + 1
    assert [out.event["type"] for out in other.poll_out() if isinstance(out, ToPlayer)] == [
        "restored",
        "state",
    ]


def test_it_waits_only_so_long():
    run, part = kept_parts()
    other = again(part.head, [part.body])
    other.advance(limits.RESTORE_WAIT_MS - 1)
    assert other.frame == run.frame
    other.advance(limits.RESTORE_WAIT_MS)
    assert other.frame == run.frame + 1


def test_other_rules_end_the_match_with_the_reason():
    _, part = kept_parts()
    other = again(part.head, [part.body], rules=Bomb)
    other.advance(0)
    assert other.state is State.ABORTED
    assert other.reason.startswith("not restored: RuntimeError")


def test_a_record_that_comes_to_another_state_ends_the_match():
    _, part = kept_parts()
    body = orjson.loads(zlib.decompress(part.body))
    body["base"]["seed"] += 1
    other = again(part.head, [zlib.compress(orjson.dumps(body))])
    other.advance(0)
    assert other.state is State.ABORTED
    assert "the state differs after frame" in other.reason


@given(st.binary(max_size=200), st.binary(max_size=200), st.booleans())
def test_any_bytes_are_no_checkpoint(head, body, squeezed):
    with pytest.raises(Refused):
        restore(
            Sum, "m1", 2, head, [zlib.compress(body) if squeezed else body],
            now_ms=0, phases=PHASES, planned=False,
        )  # fmt: skip


def test_a_bomb_of_zeros_is_refused_before_it_is_parsed():
    _, part = kept_parts()
    bomb = zlib.compress(bytes(limits.CHECKPOINT_BYTES * 41))
    with pytest.raises(Refused) as error:
        restore(Sum, "m1", 2, part.head, [bomb], now_ms=0, phases=PHASES, planned=False)
    assert error.value.kind == "limit"


# --- what the manager keeps


def part(number, body=b"x" * 10, match="m", epoch=1):
    return Part(match, epoch, number, b"head", body)


def test_parts_come_in_order_or_all_of_them_again():
    kept = Checkpoints()
    assert not kept.put(part(1))
    assert kept.put(part(0))
    assert not kept.put(part(2))
    assert not kept.put(part(1, epoch=2))
    assert kept.put(part(1))
    assert len(kept.request("m")["bodies"]) == 2
    assert kept.put(part(0))
    assert len(kept.request("m")["bodies"]) == 1


def test_what_is_too_much_is_not_kept_and_not_asked_for_again():
    kept = Checkpoints()
    assert kept.put(part(0, bytes(limits.CHECKPOINT_BYTES - 4)))
    assert kept.put(part(1))
    assert kept.request("m") is None
    assert kept.bytes == 0
    few = Checkpoints(most_bytes=100)
    assert few.put(part(0, bytes(60), match="a"))
    assert few.put(part(0, bytes(60), match="b"))
    assert few.request("a") is not None
    assert few.request("b") is None
    few.drop("a")
    assert few.bytes == 0


def test_a_match_whose_record_is_too_long_says_so(monkeypatch):
    monkeypatch.setattr(limits, "CHECKPOINT_BYTES", 1_000)
    run, progress = running(), Progress()
    for round_ in range(30):
        play(run, 100 + round_ * 1_000, [("input", number) for number in range(9)])
        next_part(run, progress, 0)
    assert progress.full


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-1, 4), st.integers(0, 90), st.integers(1, 2))))
def test_the_bytes_that_are_kept_are_counted(parts):
    kept = Checkpoints(most_bytes=300)
    for match, number, size, epoch in parts:
        kept.put(part(number, bytes(size), match, epoch))
        assert 0 <= kept.bytes <= 300
    for match in "abc":
        kept.drop(match)
    assert kept.bytes == 0


def test_matches_that_can_not_go_on_elsewhere_are_counted():
    kept = Checkpoints(most_bytes=300)
    assert kept.put(part(0, bytes(100), "a", 1))
    assert kept.put(part(0, bytes(250), "b", 1))  # taken and not kept: all together are too much
    assert (len(kept), kept.refused) == (1, 1)
    assert kept.put(part(-1, b"", "a", 1))  # its server says that it is too long
    assert (len(kept), kept.refused, kept.bytes) == (0, 2, 0)
    assert kept.request("a") is kept.request("b") is None


# --- sessions that are handed over


def session(frames):
    made = Session("ann", 7, 9, 0, last_action=3)
    for number in range(frames):
        if number % 2:
            made.push(0x42, b"m", RawId(1, 1, number))
        else:
            made.push(0x43, b"{}")
    return made


@given(st.integers(0, 30), st.integers(0, 30))
def test_a_session_goes_on_elsewhere_as_it_was(frames, acked):
    before = session(frames)
    before.ack(acked)
    after = Session.adopt(orjson.loads(orjson.dumps(before.export())), 5)
    assert after.after(0) == before.after(0)
    assert (after.last_frame, after.last_action, after.gone_at_ms) == (frames, 3, 5)
    assert after.push(0x43, b"").number == frames + 1


def test_a_session_that_is_too_much_for_one_message_is_not_moved():
    made = session(0)
    for _ in range(limits.HANDOVER_BYTES * 3 // 4 // 60_000 + 1):
        made.push(0x43, bytes(60_000))
    with pytest.raises(Refused) as error:
        made.export()
    assert error.value.kind == "limit"


WRONG = [
    {"next_frame": 9},
    {"next_frame": 0},
    {"frames": [[2, 0x43, "", None]]},
    {"frames": [[1, 0x44, "", None]]},
    {"session": "x"},
    {"frames": 3},
]


@pytest.mark.parametrize("change", WRONG)
def test_a_session_with_a_gap_or_without_sense_is_refused(change):
    with pytest.raises(Refused):
        Session.adopt({**session(3).export(), **change}, 0)


# --- the server's side of it


class Manager:
    """Answers what it is told to, and notes which parts came."""

    def __init__(self):
        self.parts, self.answer = [], {}

    async def request(self, service, payload, *, timeout_s):
        self.parts += [(part["match"], part["part"]) for part in payload["parts"]]
        if isinstance(self.answer, Exception):
            raise self.answer
        return SimpleNamespace(json=lambda: {"ok": True, **self.answer})


class Nobody:
    def event(self, player, payload):
        pass

    def snapshot(self, player, frame, payload):
        pass


async def test_a_server_sends_what_is_new_and_obeys_the_answer():
    matches = Matches(Sum, PHASES, most=9, records=None)
    matches.output = Nobody()
    for name in ("m1", "m2", "m3"):
        players = [{"player": f"{name}-a"}, {"player": f"{name}-b"}]
        matches.create({"match": name, "players": players}, {}, 0)
    manager = Manager()
    keeper = Keeper("game-1", 1, manager, matches)
    await keeper.keep(0)
    assert manager.parts == [("m1", 0), ("m2", 0), ("m3", 0)]
    manager.answer, manager.parts = {"again": ["m1"], "abandon": ["m2"], "unknown": ["m3"]}, []
    await keeper.keep(0)
    assert manager.parts == [("m1", 1), ("m2", 1), ("m3", 1)]
    assert list(matches.by_id) == ["m1", "m3"]
    assert (matches.by_id["m3"].state, matches.by_id["m3"].reason) == (State.ABORTED, "ended by the manager")
    manager.answer, manager.parts = TimeoutError(), []
    await keeper.keep(0)
    await keeper.keep(0)
    assert manager.parts == [("m1", 0), ("m1", 0)]
