"""The life of one match, as a table of states. Pure: the time is an argument, messages go out by `poll_out`.

    waiting ──all here──> ready ──all ready──> cutscene ──> countdown ──> running ──rules over──> finished
       └──────────────────────┴────────────────────┴──too few players, rules failed, stopped──> aborted

Each state has a time-out. Who is not there at the end of waiting, not ready at the end of ready, or without
a result at the end of running did not finish; the others go on as long as they are enough.

A match whose server ended goes on at another one: it plays its record again (`catch_up`), then stands still
until its players are back, then runs from the frame at which it was kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import orjson

from zmqgame import limits
from zmqgame.play.inputs import InputBuffer
from zmqgame.play.record import Record, Replay, apply_action
from zmqgame.play.rules import Match, Phases, Refused, Result

if TYPE_CHECKING:
    from zmqgame.play.checkpoint import Resumption

log = logging.getLogger(__name__)


class NotYet(Exception):
    """The match still catches up: nothing was done, the client will send the action again."""


class State(StrEnum):
    """Where a match is."""

    WAITING = "waiting"
    READY = "ready"
    CUTSCENE = "cutscene"
    COUNTDOWN = "countdown"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTED = "aborted"


@dataclass(frozen=True)
class Row:
    """One line of the table: its time-out, what ends it early, whom the time-out drops, what follows."""

    timeout: str  # a field of Phases
    next: State | None
    goes_on: Callable[[MatchRun], bool] | None = None
    drops: Callable[[Seat], bool] | None = None
    why: str = ""


@dataclass
class Seat:
    """A player's place in a match."""

    player: str
    here: bool = False
    ready: bool = False
    gone_at_ms: int | None = None
    out: bool = False  # has a result: finished or did not
    inputs: InputBuffer | None = None
    recorded: bytes = b""
    held: Any = None  # what `recorded` means: unpacked only when it changes
    session: int = 0  # of the client whose actions these are
    last_action: int = 0  # the number of its last one that is in the record, or was refused
    untold_frame: int | None = None  # the match was restored there, and the client does not know yet


@dataclass(frozen=True)
class ToPlayer:
    """An event for one player, or for all who are here (player None)."""

    player: str | None
    event: Mapping[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """The state at a frame, for all or for one player."""

    player: str | None
    frame: int
    payload: bytes


MatchOut = ToPlayer | Snapshot

TABLE: Mapping[State, Row] = {
    State.WAITING: Row(
        "waiting_ms",
        State.READY,
        goes_on=lambda run: all(seat.here for seat in run.active()),
        drops=lambda seat: not seat.here,
        why="never came",
    ),
    State.READY: Row(
        "ready_ms",
        State.CUTSCENE,
        goes_on=lambda run: all(seat.ready for seat in run.active()),
        drops=lambda seat: not seat.ready,
        why="never ready",
    ),
    State.CUTSCENE: Row("cutscene_ms", State.COUNTDOWN),
    State.COUNTDOWN: Row("countdown_ms", State.RUNNING),
    State.RUNNING: Row(
        "running_ms",
        State.FINISHED,
        goes_on=lambda run: run.rules.over,
        drops=lambda seat: not seat.out,
        why="out of time",
    ),
    State.FINISHED: Row("linger_ms", None),
    State.ABORTED: Row("linger_ms", None),
}
BEFORE_START = (State.WAITING, State.READY, State.CUTSCENE, State.COUNTDOWN)
ENDED = (State.FINISHED, State.ABORTED)
HASH_EVERY = 50  # frames between the state hashes in a record: a second of 50 Hz


class MatchRun:
    """A match from its making to its end: drives the rules, keeps the record."""

    def __init__(
        self,
        rules_class: type[Match],
        match_id: str,
        players: Sequence[str],
        *,
        seed: int,
        config: Mapping[str, Any],
        now_ms: int,
        phases: Phases | None = None,
    ) -> None:
        if not rules_class.players_min <= len(players) <= rules_class.players_max or len(set(players)) != len(
            players
        ):
            raise Refused(
                "players", f"{rules_class.players_min} to {rules_class.players_max} different players"
            )
        self.id = match_id
        self.epoch = 1  # grows each time another server takes it over: the manager's fence
        self.state = State.WAITING
        self.phases = phases or rules_class.phases
        self.rules: Match = rules_class(match_id, tuple(players), seed, config)
        self.record = Record(match_id, rules_class.__name__, list(players), seed, dict(config))
        self.reason = ""
        self.frame = 0
        self.started_at_ms: int | None = None
        self.ended_at_ms: int | None = None
        self.gone = False  # ended and lingered: nobody needs it any more
        self._entered_at_ms = now_ms
        self._out: list[MatchOut] = []
        self._catching: tuple[Replay, Resumption] | None = None
        self._held_until_ms: int | None = None
        self._waited_ms = 0  # in this state before it was held
        self.seats = {player: self._seat(player) for player in players}
        self._guard(self.rules.start)

    def _seat(self, player: str) -> Seat:
        input_type = self.rules.input_type
        if input_type is None:
            return Seat(player)
        neutral = input_type.neutral().pack()
        inputs = InputBuffer(len(neutral), neutral, self.rules.missing)
        return Seat(player, inputs=inputs, recorded=neutral, held=input_type.neutral())

    # --- what comes in

    def handle_attached(self, now_ms: int, player: str, *, fresh: bool) -> None:
        """The player's client is here; a fresh one has seen nothing yet and is told where the match is."""
        seat = self.seats[player]
        seat.here, seat.gone_at_ms = True, None
        if not fresh:
            seat.untold_frame = None  # its session goes on: it has missed nothing
        elif self._catching is not None:
            return  # it is told when there is something to tell
        elif seat.untold_frame is not None:
            self._tell_restored(now_ms, seat)
        else:
            self._out.append(ToPlayer(player, self._state_event(now_ms)))
            if self.state is State.RUNNING:
                self._out.append(self._snapshot(player))

    def handle_detached(self, now_ms: int, player: str) -> None:
        """The player's client is gone, perhaps to come back."""
        seat = self.seats[player]
        seat.here, seat.gone_at_ms = False, now_ms

    def handle_left(self, player: str, why: str = "left") -> None:
        """The player will not come back."""
        if self.state not in ENDED:
            self.seats[player].here = False
            self._drop(self.seats[player], why)

    def handle_action(
        self, player: str, payload: Mapping[str, Any], *, session: int = 0, number: int = 0
    ) -> None:
        """An action of a player; raises `Refused` when it can't be done, `NotYet` when not now."""
        seat = self.seats[player]
        if self._catching is not None:
            raise NotYet
        seat.session, seat.last_action = session, number
        if payload.get("match", self.id) != self.id:
            raise Refused("other_match", f"the match here is {self.id}")
        if self.state in ENDED or seat.out:
            raise Refused("over", "no more actions in this match")
        is_ready = payload.get("type") == "ready"
        if is_ready and self.state not in (State.WAITING, State.READY):
            raise Refused("wrong_state", f"ready, in {self.state}")
        if not is_ready or "ready" in self.rules.handlers:
            self._guard(lambda: apply_action(self.rules, player, payload))
            self.record.add(self.frame, "action", player, dict(payload))
            self._take_outbox()
        seat.ready = seat.ready or is_ready

    def handle_input(self, player: str, frame: int, payload: bytes) -> None:
        """Inputs of a player for some frames; raises `Refused` when the bytes are wrong."""
        buffer = self.seats[player].inputs
        if buffer is None:
            raise Refused("no_inputs", "this game takes none")
        if self.state is State.RUNNING or self.state is State.COUNTDOWN:
            buffer.add(frame, payload)

    def abort(self, now_ms: int, reason: str) -> None:
        """End it now, with a result that says why."""
        if self.state in ENDED:
            return
        self._catching = self._held_until_ms = None
        for seat in self.active():
            self.rules.drop_player(seat.player, reason)
            seat.out = True
        self.reason = reason
        self._enter(now_ms, State.ABORTED)

    def advance(self, now_ms: int) -> None:
        """One tick."""
        if self._catching is not None:
            return
        if self.reason and self.state not in ENDED:  # users' code has failed: it is not called again
            self.abort(now_ms, self.reason)
        if self._stands_still(now_ms):
            return
        row = TABLE[self.state]
        waited_ms = now_ms - self._entered_at_ms
        if row.next is None:
            self.gone = waited_ms >= self.phases.linger_ms
            return
        self._drop_disconnected(now_ms)
        timed_out = waited_ms >= getattr(self.phases, row.timeout)
        if timed_out and row.drops is not None:
            for seat in filter(row.drops, self.active()):
                self._drop(seat, row.why)
        elif self.state is State.RUNNING:
            self._step()
        if not self.reason and self.state in BEFORE_START and len(self.active()) < self.rules.players_min:
            self.reason = "too few players"
        if self.reason:
            self.abort(now_ms, self.reason)
        elif timed_out or (row.goes_on is not None and row.goes_on(self)):
            self._enter(now_ms, row.next)

    # --- going on at another server

    @property
    def catching_up(self) -> bool:
        """Whether its record is being played again."""
        return self._catching is not None

    def waited_ms(self, now_ms: int) -> int:
        """How long it has been in its state."""
        held = self._catching is not None or self._held_until_ms is not None
        return self._waited_ms if held else now_ms - self._entered_at_ms

    def begin_catch_up(self, to: Resumption, now_ms: int) -> None:
        """Go on from there, after the steps of `catch_up`."""
        self.state, self.record, self._waited_ms = to.state, to.record, to.waited_ms
        self.started_at_ms = now_ms if to.started else None
        for player, held in to.seats.items():
            seat = self.seats[player]
            seat.ready, seat.out, seat.session, seat.last_action = (
                held.ready,
                held.out,
                held.session,
                held.action,
            )
            seat.untold_frame = to.frame

        def begin() -> None:
            self._catching = Replay(to.record, type(self.rules)), to

        self._guard(begin)

    def catch_up(self, now_ms: int, budget: int) -> int:
        """Play at most so many frames of the record again; returns how many. A difference ends the match."""
        assert self._catching is not None
        replay, to = self._catching
        used = 0
        try:
            while replay.frame < to.frame and used < budget:
                replay.step()
                used += 1
                expected = to.record.hashes.get(replay.frame - 1)
                if expected is not None and replay.rules.state_hash() != expected:
                    raise ValueError(f"the state differs after frame {replay.frame - 1}")
            if replay.frame < to.frame:
                return used
            replay.apply()
        except Exception as error:  # users' code, or other rules: this match ends, with the reason
            log.exception("match %s: can't be restored", self.id)
            self.reason = f"not restored: {type(error).__name__}: {error}"[:200]
            self._catching = None
            return used
        self._go_on(now_ms, replay, to)
        return used

    def _go_on(self, now_ms: int, replay: Replay, to: Resumption) -> None:
        self._catching = None
        self.rules, self.frame = replay.rules, replay.frame
        self._held_until_ms = now_ms + limits.RESTORE_WAIT_MS
        for seat in self.seats.values():
            if seat.inputs is not None:
                seat.recorded = replay.held_bytes.get(seat.player, seat.inputs.neutral)
                seat.held = replay.held[seat.player]
                seat.inputs.start_at(self.frame, seat.recorded, to.seats[seat.player].heard_frame)
            if not seat.here:
                seat.gone_at_ms = now_ms
            elif seat.untold_frame is not None:
                self._tell_restored(now_ms, seat)

    def _tell_restored(self, now_ms: int, seat: Seat) -> None:
        """Never a silent gap: from which frame the match goes on, and up to which action it remembers."""
        event = {
            **self._state_event(now_ms),
            "type": "restored",
            "frame": seat.untold_frame,
            "last_action": seat.last_action,
        }
        seat.untold_frame = None
        self._out.append(ToPlayer(seat.player, event))
        if self.state not in (State.FINISHED, State.ABORTED):
            self._out.append(self._snapshot(seat.player))

    def _stands_still(self, now_ms: int) -> bool:
        """Whether a restored match still waits for its players; when it goes on, all are told."""
        if self._held_until_ms is None:
            return False
        if now_ms < self._held_until_ms and not all(seat.here for seat in self.active()):
            return True
        self._held_until_ms = None
        self._entered_at_ms = now_ms - self._waited_ms
        self._out.append(ToPlayer(None, self._state_event(now_ms)))
        self._out.append(self._snapshot(None))
        return False

    # --- what goes out

    def poll_out(self) -> list[MatchOut]:
        """What is to be sent, in order."""
        out, self._out = self._out, []
        return out

    def active(self) -> list[Seat]:
        """The seats without a result."""
        return [seat for seat in self.seats.values() if not seat.out]

    def results(self) -> list[Result]:
        """One for each player: by place, then those who did not finish."""
        found = [self.rules.results[player] for player in self.seats if player in self.rules.results]
        return sorted(found, key=lambda result: (result.place is None, result.place or 0, result.player))

    # --- inside

    def _enter(self, now_ms: int, state: State) -> None:
        self.state = state
        self._entered_at_ms = now_ms
        if state is State.RUNNING:
            self.started_at_ms = now_ms
        if state in ENDED:
            self.ended_at_ms = now_ms
            self.record.frames = self.frame
        self._out.append(ToPlayer(None, self._state_event(now_ms)))

    def _state_event(self, now_ms: int) -> dict[str, Any]:
        left_ms = getattr(self.phases, TABLE[self.state].timeout) - self.waited_ms(now_ms)
        event: dict[str, Any] = {
            "type": "state",
            "state": self.state,
            "match": self.id,
            "players": list(self.seats),
            "frame": self.frame,
            "tick_hz": self.rules.tick_hz,
            "left_ms": max(0, left_ms),
        }
        if self.state in ENDED:
            event["results"] = [result.to_json() for result in self.results()]
            event["reason"] = self.reason
        return event

    def _step(self) -> None:
        self._guard(self._step_rules)
        self._take_outbox()
        for player in self.rules.results:
            self.seats[player].out = True
        self.frame += 1
        if self.frame % self.rules.snapshot_every == 0 and not self.reason:
            self._out.append(self._snapshot(None))
        if (self.frame % HASH_EVERY == 0 or self.rules.over) and not self.reason:
            self.record.hashes[self.frame - 1] = self.rules.state_hash()

    def _step_rules(self) -> None:
        inputs: dict[str, Any] = {}
        input_type = self.rules.input_type
        for seat in self.seats.values() if input_type else ():
            assert seat.inputs is not None
            assert input_type is not None
            data = seat.inputs.take(self.frame)
            if data != seat.recorded:
                seat.recorded = data
                seat.held = input_type.unpack(data)
                self.record.add(self.frame, "input", seat.player, data.hex())
            inputs[seat.player] = seat.held
        self.rules.frame = self.frame
        self.rules.step(self.frame, inputs)

    def _snapshot(self, player: str | None) -> Snapshot:
        actions = {seat.player: seat.last_action for seat in self.seats.values() if seat.last_action}
        payload = orjson.dumps(
            {"match": self.id, "frame": self.frame, "state": self.rules.snapshot(), "actions": actions}
        )
        if len(payload) > limits.MAX_EVENT_BYTES:
            self.reason = f"rules error: a snapshot of {len(payload)} bytes is over {limits.MAX_EVENT_BYTES}"
            payload = b"{}"
        return Snapshot(player, self.frame, payload)

    def _drop(self, seat: Seat, why: str) -> None:
        if seat.out:
            return
        self.record.add(self.frame, "left", seat.player, why)
        self._guard(lambda: self.rules.left(seat.player))
        self.rules.drop_player(seat.player, why)
        seat.out = True
        self._take_outbox()
        self._out.append(
            ToPlayer(None, {"type": "player_out", "match": self.id, "player": seat.player, "why": why})
        )

    def _drop_disconnected(self, now_ms: int) -> None:
        for seat in self.active():
            if seat.gone_at_ms is not None and now_ms - seat.gone_at_ms >= self.phases.disconnect_ms:
                self._drop(seat, "disconnected")

    def _take_outbox(self) -> None:
        self._out += [ToPlayer(player, event) for player, event in self.rules.outbox]
        self.rules.outbox.clear()

    def _guard(self, call: Callable[[], None]) -> None:
        """Users' code may fail: its match ends, with the reason; the others know nothing of it."""
        try:
            call()
        except Refused:
            raise
        except Exception as error:
            log.exception("match %s: the rules failed", self.id)
            self.reason = f"rules error: {type(error).__name__}: {error}"[:200]
