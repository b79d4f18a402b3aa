"""`zmqgame-game`: the process that holds client connections and runs matches. All of its wiring is here."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import orjson
from zmqgame_bus.events import Emitter, open_emitter
from zmqgame_bus.hops import HostTrace
from zmqgame_bus.keys import Keyring
from zmqgame_bus.messages import Request, SentRecord
from zmqgame_bus.metrics import serve_metrics
from zmqgame_bus.node import Node
from zmqgame_bus.process import Process, run
from zmqgame_bus.tables import BusConfig
from zmqgame_native import Edge

from zmqgame import limits, protocol, tokens
from zmqgame.metrics import game_metrics
from zmqgame.play.config import GameConfig
from zmqgame.play.doors import open_doors
from zmqgame.play.handover import Handover, Keeper
from zmqgame.play.match import ENDED, MatchRun, State
from zmqgame.play.matches import Matches, load_rules, phases_of
from zmqgame.play.player import Session
from zmqgame.play.public import check_public
from zmqgame.play.record import RecordFolder
from zmqgame.play.rules import Refused
from zmqgame.play.sessions import Door, EdgeDied, Sessions
from zmqgame.play.tick import TickClock, TickReport, run_ticks
from zmqgame.play.uplink import Uplink

log = logging.getLogger(__name__)

HOUSEKEEP_S = 1.0
REPORT_TICKS_S = 5.0
DRAIN_S = 3.0


def now_ms() -> int:
    """The monotonic clock that all of this process goes by."""
    return time.monotonic_ns() // 1_000_000


class Game:
    """A game server: sessions, matches and the line to the manager, joined."""

    def __init__(self, name: str, config: GameConfig, matches: Matches, node: Node, emitter: Emitter) -> None:
        self.name = name
        self.config = config
        self.matches = matches
        self.emitter = emitter
        self.draining = False
        self.ticks: TickReport | None = None
        self.clock: TickClock | None = None
        self._receiving = False
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.addresses: dict[str, str] = {}
        self.uplink = Uplink(name, node, self.load)
        self.uplink.on_new_manager = self.new_manager
        self.keeper = Keeper(name, self.uplink.instance, node, matches)
        self.sessions: Sessions  # made when the edge listens: it tells clients the UDP address

    # --- what clients send

    def receive(self) -> None:
        """A turn's share of it; what is left has its turn behind whatever else waits, ticks included."""
        if self._receiving or self.broken.done():
            return
        try:
            self._receiving = self.sessions.receive(now_ms())
        except EdgeDied as error:
            self.broken.set_exception(error)
        if self._receiving:
            asyncio.get_running_loop().call_soon(self._receive_on)

    def _receive_on(self) -> None:
        self._receiving = False
        if not self.draining:
            self.receive()

    # --- SessionListener

    def attached(self, session: Session, *, fresh: bool) -> None:
        """A client is here."""
        self.emitter.emit(
            "sessions", event="login" if fresh else "resume", player=session.player, server=self.name
        )
        self.matches.attached(session, fresh, now_ms())
        if session.queued_car is not None:
            self._queue(session, session.queued_car)

    def detached(self, session: Session) -> None:
        """A client's connection is gone."""
        self.matches.detached(session.player, now_ms())
        if session.queued_car is not None:
            self.uplink.leave(session.player)

    def gone(self, session: Session, why: str) -> None:
        """A player is elsewhere or gone."""
        self.emitter.emit("sessions", event="logout", player=session.player, server=self.name)
        self.matches.detached(session.player, now_ms())
        if session.queued_car is not None:
            session.queued_car = None
            self.uplink.leave(session.player)

    def action(self, session: Session, payload: Mapping[str, Any]) -> None:
        """An action: the queue's are ours, the rest is the match's."""
        kind = payload.get("type")
        if kind == "queue":
            car = payload.get("car", "")
            if not (isinstance(car, str) and (car == "" or tokens.valid_name(car))):
                raise Refused("malformed", "queue.car is a name")
            if self.draining:
                raise Refused("stopping", "this server stops")
            self._queue(session, car)
        elif kind == "unqueue":
            session.queued_car = None
            self.uplink.leave(session.player)
        else:
            self.matches.action(session, payload)

    def last_action(self, player: str, session: int) -> int:
        """What a match here remembers of the session's actions."""
        run = self.matches.by_player.get(player)
        seat = run.seats.get(player) if run is not None else None
        return seat.last_action if seat is not None and seat.session == session else 0

    def inputs(self, session: Session, frame: int, payload: bytes) -> None:
        """Inputs of a player."""
        self.matches.inputs(session.player, frame, payload)

    # --- queue

    def _queue(self, session: Session, car: str) -> None:
        session.queued_car = car

        def wanted() -> bool:
            return self.sessions.by_player.get(session.player) is session and session.queued_car == car

        def done(error: str) -> None:
            event = {"type": "queue_refused", "reason": error} if error else {"type": "queued", "car": car}
            if error:
                session.queued_car = None
            self.sessions.event(session.player, orjson.dumps(event))
            self.sessions.flush()

        self.uplink.queue(session.player, car, wanted, done)

    def new_manager(self) -> None:
        """A manager that has just started has an empty queue, and nothing of the matches."""
        self.keeper.begin_anew()
        for session in self.sessions.by_player.values():
            if session.queued_car is not None and session.connection is not None:
                self._queue(session, session.queued_car)

    # --- matches

    def on_state(self, match: MatchRun) -> None:
        """A match began to run, or ended."""
        event = "started" if match.state is State.RUNNING else str(match.state)
        self.emitter.emit(
            "matches",
            match=match.id,
            server=self.name,
            event=event,
            players=len(match.seats),
            reason=match.reason,
        )
        if match.state not in ENDED:
            return
        entries = match.rules.config.get("entries", {})
        results = [result.to_json() for result in match.results()]
        for result in results if match.started_at_ms is not None else ():
            self.emitter.emit(
                "finishes",
                match=match.id,
                player=result["player"],
                car=str(entries.get(result["player"], {}).get("car", "")),
                place=result["place"] or 0,
                time_ms=int(result["values"].get("time_ms", 0)),
                trap_kmh=float(result["values"].get("trap_kmh", 0.0)),
            )
        kind = "game_finished" if match.state is State.FINISHED else "game_aborted"
        self.uplink.result(
            {
                "type": kind,
                "match": match.id,
                "server": self.name,
                "epoch": match.epoch,
                "reason": match.reason,
                "results": results,
            }
        )

    def tick(self) -> None:
        """One tick of all matches, and what follows from it to the clients."""
        self.matches.tick(now_ms())
        self.sessions.flush()

    # --- what the manager asks and hears

    async def serve(self, request: Request) -> dict[str, Any]:
        """The service `game:NAME`."""
        try:
            values = protocol.read_object(request.payload, 1 << 20)
            answer = self.answers.get(str(values.get("op")))
            if answer is None:
                raise Refused("malformed", f"game knows {', '.join(self.answers)}, not {values.get('op')!r}")
            if self.draining and answer is not Game._status_of:
                raise Refused("stopping", "this server stops")
            return answer(self, values)
        except (Refused, ValueError, TypeError, KeyError) as error:
            kind = error.kind if isinstance(error, Refused) else "malformed"
            return {"ok": False, "error": kind, "text": str(error)}

    def _create_match(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return self._made(self.matches.create(values, self.sessions.by_player, now_ms()))

    def _restore_match(self, values: Mapping[str, Any]) -> dict[str, Any]:
        bodies = values["bodies"]
        if not isinstance(bodies, list) or not 0 < len(bodies) <= limits.CHECKPOINT_PARTS:
            raise Refused("limit", f"a checkpoint has 1 to {limits.CHECKPOINT_PARTS} parts")
        match = self.matches.restore(
            str(values["match"]),
            protocol.u64(values["epoch"]),
            b64decode(values["head"]),
            [b64decode(body) for body in bodies],
            self.sessions.by_player,
            now_ms(),
            planned=bool(values.get("planned")),
        )
        return self._made(match)

    def _made(self, match: MatchRun) -> dict[str, Any]:
        for player in match.seats:
            session = self.sessions.by_player.get(player)
            if session is not None:
                session.queued_car = None
        self.sessions.flush()
        return {"ok": True, "match": match.id}

    def _adopt_session(self, values: Mapping[str, Any]) -> dict[str, Any]:
        self.sessions.adopt(values["session"], now_ms())
        return {"ok": True}

    def _status_of(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return self.status()

    answers: ClassVar[dict[str, Callable[[Game, Mapping[str, Any]], dict[str, Any]]]] = {
        "create_match": _create_match,
        "restore_match": _restore_match,
        "adopt_session": _adopt_session,
        "status": _status_of,
    }

    def load(self) -> dict[str, Any]:
        """What the manager places by."""
        return {
            **self.addresses,
            "players": self.sessions.count(),
            "matches": self.matches.playing(),
            "capacity": self.config.max_players,
            "match_capacity": self.config.max_matches,
            "draining": self.draining,
        }

    def status(self) -> dict[str, Any]:
        """For people."""
        matches = {match.id: str(match.state) for match in self.matches.by_id.values()}
        clock = self.clock
        return {
            "ok": True,
            "name": self.name,
            **self.load(),
            "by_id": matches,
            "ticks": clock.ticks if clock else 0,
            "late_ticks": clock.late if clock else 0,
            "skipped_ticks": clock.skipped if clock else 0,
            "counters": self.sessions.counters,
            "edge": {name: count for name, count in self.sessions.edge_counters().items() if count},
        }

    async def keep(self) -> None:
        """Again and again give the manager what another server would need to go on with the matches."""
        while self.config.checkpoint_ms:
            await asyncio.sleep(self.config.checkpoint_ms / 1_000)
            try:
                await self.keeper.keep(now_ms())
            except Exception:  # matches go on without it, and without a restore
                log.exception("matches could not be kept")

    async def housekeep(self, clock: TickClock, process: Process) -> None:
        """Each second what need not be done at each tick."""
        report_at = time.monotonic() + REPORT_TICKS_S
        while True:
            await asyncio.sleep(HOUSEKEEP_S)
            self.sessions.housekeep(now_ms())
            if self.sessions.edge_counters()["threads_died"]:
                raise EdgeDied("a thread of the edge has died")  # nobody need have called `receive` since
            if time.monotonic() >= report_at:
                report_at += REPORT_TICKS_S
                self.sessions.log_refusals()
                report = self.ticks = clock.report()
                self.emitter.emit(
                    "ticks",
                    server=self.name,
                    match="",
                    count=report.count,
                    p50_us=report.p50_us,
                    p99_us=report.p99_us,
                    max_us=report.max_us,
                    late=report.late,
                )
                process.status(
                    f"{self.sessions.count()} players, {self.matches.playing()} matches,"
                    f" tick p99 {report.p99_us / 1e3:.2f} ms, {report.late} late"
                )


def emit_sent(emitter: Emitter, sender: str, record: SentRecord) -> None:
    """A row of messages for each receipt."""
    emitter.emit(
        "messages",
        id=str(record.id),
        sender=sender,
        recipient=record.recipient,
        kind=record.kind,
        outcome=record.outcome,
        latency_ms=record.latency_ms,
    )


def open_node(process: Process, keyring: Keyring, emitter: Emitter) -> Node:
    """This server's node, with a row of messages for each receipt."""
    bus = process.config.table(BusConfig)
    return Node(
        process.name,
        bus.hub,
        roles=("game",),
        state_dir=process.state_dir,
        keys=keyring.node(),
        on_receipt=lambda record: emit_sent(emitter, process.name, record),
        transport=bus.transport_of("game"),
    )


async def serve(process: Process) -> None:
    """The process, from its start to its drain."""
    config = process.config.table(GameConfig)
    keyring = Keyring(process.config)
    check_public(process.config)
    rules_class = load_rules(config.rules, process.config.source("game.rules"))
    emitter = open_emitter(process)
    node = open_node(process, keyring, emitter)
    records = RecordFolder(process.state_dir / "records", config.records_keep)
    matches = Matches(
        rules_class,
        phases_of(rules_class, config),
        most=config.max_matches,
        records=records,
    )
    game = Game(process.name, config, matches, node, emitter)
    matches.on_state = game.on_state
    doors = open_doors(config, keyring)
    edge, game.addresses = doors.edge, doors.addresses
    tcp, udp = doors.addresses["tcp"], doors.addresses["udp"]
    door = Door(
        process.name,
        udp,
        keyring.token_secret(),
        keyring.netcode_key(),
        config.max_players,
        int(config.grace_s * 1_000),
        config.token_s,
        config.ping_ms,
        config.session_max_s,
    )
    game.sessions = Sessions(door, edge, node, game)
    trace = game.sessions.trace = HostTrace(emitter, process.name)
    node.watch_handled(trace.handled)
    matches.output = game.sessions
    node.set_player_handler(game.sessions)
    node.serve(f"game:{process.name}", game.serve)
    emitter.attach(node)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, doors.reload_tls)
    async with node, serve_metrics(process, lambda: game_metrics(game, node)) as metrics:
        loop.add_reader(edge.fileno(), game.receive)
        clock = game.clock = TickClock(rules_class.tick_hz, time.monotonic_ns())
        work: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(run_ticks(clock, game.tick, process.stop)),
            asyncio.ensure_future(game.housekeep(clock, process)),
            asyncio.ensure_future(game.uplink.report_loads(process.stop)),
            asyncio.ensure_future(node.ended()),
            asyncio.ensure_future(trace.run()),
            game.broken,
        ]
        keeping = asyncio.ensure_future(game.keep())
        told = {**game.addresses, "listen": doors.bound, "metrics": metrics}
        await process.ready(f"tcp {tcp} udp {udp}", told)
        stopped = asyncio.ensure_future(process.stop.wait())
        await asyncio.wait([stopped, *work], return_when=asyncio.FIRST_COMPLETED)
        for task in work:
            if task.done() and not process.stop.is_set():
                task.result()  # raises what ended it: a game server without ticks must not live on
        for task in (*work, keeping):
            task.cancel()
        loop.remove_reader(edge.fileno())
        await _drain(game, node, edge)
    trace.flush()
    emitter.close()


async def _drain(game: Game, node: Node, edge: Edge) -> None:
    """Hand over what other servers take; end the rest, tell everyone, let results reach the manager."""
    game.draining = True
    handover = Handover(game.name, game.keeper, node, game.matches, game.sessions)
    await handover.run(game.uplink.instance, now_ms())
    game.matches.frozen = game.sessions.frozen = False
    game.matches.abort_all(now_ms(), "server stops")
    game.sessions.stop()
    await game.uplink.drain(DRAIN_S)
    await game.sessions.close()
    await asyncio.to_thread(edge.stop, 500)  # it waits for its threads: the bus goes on meanwhile


def main() -> int:
    """The command `zmqgame-game`."""
    return run("game", serve)


if __name__ == "__main__":
    sys.exit(main())
