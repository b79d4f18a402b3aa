"""A whole match between scripted players, in virtual time and without sockets: for the tests of a game.

class Pilot(ScriptedPlayer):
    def drive(self, frame):
        return Drive(throttle=1.0, gear=1)

played = play(Race, {"ann": Pilot(), "bob": Pilot()})
assert played.results[0].player == "ann"
played.check_replay()
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from zmqgame.play.match import ENDED, MatchRun, Snapshot, State
from zmqgame.play.record import Record, replay
from zmqgame.play.rules import Action, Event, Input, Match, Phases, Refused, Result

__all__ = ["Played", "ReplayDiffers", "ScriptedPlayer", "play"]


class ReplayDiffers(AssertionError):
    """The record of a match, played again, came to another state."""


class ScriptedPlayer:
    """Someone who plays by a script. Override what matters; by default: comes, is ready, does nothing."""

    comes: bool = True
    ready: bool = True
    leaves_at_frame: int | None = None
    lead_frames: int = 3  # how far ahead inputs are sent
    loss: float = 0.0  # share of the input packets that are lost
    redundant: int = 4  # inputs in each packet

    def event(self, event: dict[str, Any]) -> None:
        """An event of the match."""

    def snapshot(self, snapshot: dict[str, Any]) -> None:
        """The state of the match."""

    def drive(self, frame: int) -> Input | None:
        """What the player holds at this frame."""
        return None

    def act(self, frame: int) -> list[Action]:
        """What the player does at this frame."""
        return []


@dataclass
class Played:
    """What came of a match."""

    run: MatchRun
    results: list[Result]
    virtual_ms: int
    events: list[tuple[str | None, dict[str, Any]]] = field(default_factory=list)
    refused: list[tuple[str, Refused]] = field(default_factory=list)

    @property
    def state(self) -> State:
        """finished or aborted."""
        return self.run.state

    def events_of(self, kind: type[Event] | str) -> list[dict[str, Any]]:
        """The events of one kind, in order."""
        name = kind if isinstance(kind, str) else kind.__name__.lower()
        return [event for _, event in self.events if event["type"] == name]

    def check_replay(self) -> None:
        """Play the record again: each recorded state hash must come again."""
        record = Record.load(self.run.record.dump())
        found = {}
        for frame, rules in replay(record, type(self.run.rules)):
            if frame in record.hashes:
                found[frame] = rules.state_hash()
        for frame, expected in record.hashes.items():
            if found.get(frame) != expected:
                raise ReplayDiffers(f"frame {frame}: {found.get(frame)} instead of {expected}")


def play(
    rules_class: type[Match],
    players: Mapping[str, ScriptedPlayer],
    *,
    seed: int = 1,
    config: Mapping[str, Any] | None = None,
    phases: Phases | None = None,
    most_ms: int = 3_600_000,
) -> Played:
    """Play a match to its end."""
    run = MatchRun(
        rules_class, "test", list(players), seed=seed, config=config or {}, now_ms=0, phases=phases
    )
    played = Played(run, [], 0)
    chance = random.Random(seed)
    sent: dict[str, list[bytes]] = {player: [] for player in players}
    for player, script in players.items():
        if script.comes:
            run.handle_attached(0, player, fresh=True)
    period_ms = 1_000 / rules_class.tick_hz
    tick = 0
    while run.state not in ENDED and tick * period_ms < most_ms:
        tick += 1
        played.virtual_ms = int(tick * period_ms)
        for player, script in players.items():
            _turn(run, played, player, script, sent[player], chance)
        run.advance(played.virtual_ms)
        _hand_out(run, played, players)
    played.results = run.results()
    return played


def _turn(
    run: MatchRun,
    played: Played,
    player: str,
    script: ScriptedPlayer,
    sent: list[bytes],
    chance: random.Random,
) -> None:
    """One player's part of a tick."""
    seat = run.seats[player]
    try:
        if run.state is State.READY and script.ready and not seat.ready and seat.here:
            run.handle_action(player, {"type": "ready"})
        if run.state is not State.RUNNING or seat.out:
            return
        if script.leaves_at_frame is not None and run.frame >= script.leaves_at_frame:
            run.handle_left(player)
            return
        for action in script.act(run.frame):
            run.handle_action(player, action.to_json())
    except Refused as error:
        played.refused.append((player, error))
    while run.rules.input_type is not None and len(sent) <= run.frame + script.lead_frames:
        held = script.drive(len(sent))
        sent.append((held if held is not None else run.rules.input_type.neutral()).pack())
        newest_first = sent[-script.redundant :][::-1]
        if chance.random() >= script.loss:
            run.handle_input(player, len(sent) - 1, bytes([len(newest_first)]) + b"".join(newest_first))


def _hand_out(run: MatchRun, played: Played, players: Mapping[str, ScriptedPlayer]) -> None:
    """What the match says, to those it is for."""
    for out in run.poll_out():
        to = (
            [out.player]
            if out.player is not None
            else [name for name, seat in run.seats.items() if seat.here]
        )
        if isinstance(out, Snapshot):
            for player in to:
                players[player].snapshot(orjson.loads(out.payload))
        else:
            event = orjson.loads(orjson.dumps(out.event))
            played.events.append((out.player, event))
            for player in to:
                players[player].event(event)
