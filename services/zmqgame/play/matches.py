"""The matches of this server: made on request, stepped at each tick, told about their players, recorded."""

from __future__ import annotations

import importlib
import logging
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import orjson
from zmqgame_bus.errors import ConfigError, Problem

from zmqgame import limits, tokens
from zmqgame.play.checkpoint import restore
from zmqgame.play.config import GameConfig
from zmqgame.play.match import ENDED, MatchRun, Snapshot, State
from zmqgame.play.player import Session
from zmqgame.play.record import RecordFolder
from zmqgame.play.rules import Match, Phases, Refused

log = logging.getLogger(__name__)


class Output(Protocol):
    """Where a match's events and snapshots go."""

    def event(self, player: str, payload: bytes) -> None:
        """Reliable."""

    def snapshot(self, player: str, frame: int, payload: bytes) -> None:
        """The newest replaces older ones."""


def load_rules(name: str, where: str = "game.rules") -> type[Match]:
    """The class that `module:class` names; an error says `where` the name was written.

    The module is somebody else's code: whatever it raises, a restart does not cure it.
    """
    module, colon, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise _no_rules(where, name, f"can't be loaded: {_why_not(error, module)}") from error
    if not (colon and isinstance(found, type) and issubclass(found, Match)):
        raise _no_rules(where, name, "is not module:class of a subclass of zmqgame.Match")
    return found


def _why_not(error: Exception, module: str) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
        return f"{error} (its folder must be installed or in PYTHONPATH)"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"


def _no_rules(where: str, name: str, why: str) -> ConfigError:
    return ConfigError([Problem(where, "game.rules", f'game.rules = "{name}" {why}')])


def phases_of(rules_class: type[Match], config: GameConfig) -> Phases:
    """The rules' time-outs with the configuration's over them."""
    names = ("waiting_ms", "ready_ms", "cutscene_ms", "countdown_ms", "running_ms", "disconnect_ms")
    return replace(
        rules_class.phases, **{name: getattr(config, name) for name in names if getattr(config, name)}
    )


class Matches:
    """By id and by player; a player is in one match that has not ended."""

    def __init__(
        self,
        rules_class: type[Match],
        phases: Phases,
        *,
        most: int,
        records: RecordFolder | None,
    ) -> None:
        self.by_id: dict[str, MatchRun] = {}
        self.by_player: dict[str, MatchRun] = {}
        self.output: Output | None = None
        self.frozen = False  # the server hands its matches over: nothing may happen in them any more
        self.on_state: Callable[[MatchRun], None] = lambda match: None
        self._rules_class = rules_class
        self._phases = phases
        self._most = most
        self._records = records

    def create(self, request: Mapping[str, Any], here: Mapping[str, Session], now_ms: int) -> MatchRun:
        """Make the match of a `create_match` request; raises `Refused`. Asked twice, it is made once."""
        match_id, entries = str(request.get("match", "")), request.get("players")
        if match_id in self.by_id:
            return self.by_id[match_id]
        if not isinstance(entries, list):
            raise Refused("malformed", "create_match needs match and players")
        names = [str(entry["player"]) for entry in entries if isinstance(entry, dict) and "player" in entry]
        self._check_room(match_id, names)
        config = {
            **(request.get("config") or {}),
            "entries": {str(entry["player"]): entry for entry in entries},
        }
        run = MatchRun(
            self._rules_class,
            match_id,
            names,
            seed=int(request.get("seed", 0)),
            config=config,
            now_ms=now_ms,
            phases=self._phases,
        )
        self._seat(run, here, now_ms)
        return run

    def _check_room(self, match_id: str, names: Iterable[str]) -> None:
        if not tokens.valid_name(match_id) or "/" in match_id:
            raise Refused("malformed", "a match needs a name, without a slash")
        if len(self.by_id) >= self._most:
            raise Refused("full", f"max_matches {self._most}")
        busy = [name for name in names if name in self.by_player and self.by_player[name].state not in ENDED]
        if busy:
            raise Refused("busy", ",".join(busy))

    def _seat(self, run: MatchRun, here: Mapping[str, Session], now_ms: int) -> None:
        self.by_id[run.id] = run
        for name in run.seats:
            self.by_player[name] = run
            if name in here and here[name].connection is not None:
                run.handle_attached(now_ms, name, fresh=True)
        self._route(run)

    def restore(
        self,
        match_id: str,
        epoch: int,
        head: bytes,
        bodies: list[bytes],
        here: Mapping[str, Session],
        now_ms: int,
        *,
        planned: bool,
    ) -> MatchRun:
        """Go on with a match of another server; raises `Refused`. Asked twice, it is made once."""
        known = self.by_id.get(match_id)
        if known is not None and known.epoch >= epoch:
            return known
        if known is not None:
            self.abandon(match_id)  # it went elsewhere, and comes back
        run = restore(
            self._rules_class,
            match_id,
            epoch,
            head,
            bodies,
            now_ms=now_ms,
            phases=self._phases,
            planned=planned,
        )
        self._check_room(match_id, run.seats)
        self._seat(run, here, now_ms)
        return run

    def abandon(self, match_id: str) -> None:
        """Another server goes on with this match: nothing more of it happens here."""
        run = self.by_id.get(match_id)
        if run is not None:
            self._forget(run)

    def open(self) -> list[MatchRun]:
        """Matches that have not ended."""
        return [run for run in self.by_id.values() if run.state not in ENDED]

    def tick(self, now_ms: int) -> None:
        """One tick of all matches."""
        if self.frozen:
            return
        budget = limits.REPLAY_STEPS_PER_TICK
        for run in list(self.by_id.values()):
            state = run.state
            if run.catching_up and budget > 0:
                budget -= run.catch_up(now_ms, budget)
            run.advance(now_ms)
            self._route(run)
            if run.state is not state:
                self._changed(run)
            if run.gone:
                self._forget(run)

    def attached(self, session: Session, fresh: bool, now_ms: int) -> None:
        """A player's client is here."""
        run = self.by_player.get(session.player)
        if run is not None:
            run.handle_attached(now_ms, session.player, fresh=fresh)
            self._route(run)

    def detached(self, player: str, now_ms: int) -> None:
        """A player's client is gone, perhaps to come back."""
        run = self.by_player.get(player)
        if run is not None:
            run.handle_detached(now_ms, player)

    def action(self, session: Session, payload: Mapping[str, Any]) -> None:
        """An action of a player for its match; raises `Refused`, or `NotYet`."""
        run = self.by_player.get(session.player)
        if run is None:
            raise Refused("no_match", "not in a match")
        number = session.last_action
        run.handle_action(session.player, payload, session=session.session, number=number)
        self._route(run)

    def inputs(self, player: str, frame: int, payload: bytes) -> None:
        """Inputs of a player; those of someone without a match are nothing."""
        run = self.by_player.get(player)
        if run is not None:
            run.handle_input(player, frame, payload)

    def abort(self, match_id: str, now_ms: int, reason: str) -> None:
        """End a match, with a result that says why."""
        run = self.by_id.get(match_id)
        if run is not None and run.state not in ENDED:
            run.abort(now_ms, reason)
            self._route(run)
            self._changed(run)

    def abort_all(self, now_ms: int, reason: str) -> None:
        """The server stops."""
        for match_id in list(self.by_id):
            self.abort(match_id, now_ms, reason)

    def playing(self) -> int:
        """Matches that have not ended."""
        return sum(run.state not in ENDED for run in self.by_id.values())

    def _changed(self, run: MatchRun) -> None:
        if run.state in ENDED and self._records is not None and run.started_at_ms is not None:
            try:
                self._records.write(run.record)
            except OSError as error:  # a full disk costs the record, not the result
                log.error("record of match %s can't be written: %s", run.id, error)
        if run.state in ENDED or run.state is State.RUNNING:
            self.on_state(run)

    def _forget(self, run: MatchRun) -> None:
        del self.by_id[run.id]
        for player in run.seats:
            if self.by_player.get(player) is run:
                del self.by_player[player]

    def _route(self, run: MatchRun) -> None:
        output = self.output
        assert output is not None
        for out in run.poll_out():
            players = run.seats if out.player is None else (out.player,)
            if isinstance(out, Snapshot):
                for player in players:
                    if self.by_player.get(player) is run:
                        output.snapshot(player, out.frame, out.payload)
                continue
            payload = orjson.dumps(out.event)
            if len(payload) > limits.MAX_EVENT_BYTES:
                run.reason = f"rules error: an event of {len(payload)} bytes is over {limits.MAX_EVENT_BYTES}"
                continue
            for player in players:
                if self.by_player.get(player) is run:
                    output.event(player, payload)
