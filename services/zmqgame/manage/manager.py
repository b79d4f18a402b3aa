"""`zmqgame-manager`: the queue, matches on game servers, tokens, and the log of what happened."""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from zmqgame_bus.errors import BusError, ConfigError, Problem
from zmqgame_bus.events import Emitter, open_emitter
from zmqgame_bus.hops import HostTrace
from zmqgame_bus.keys import Keyring
from zmqgame_bus.messages import Request
from zmqgame_bus.metrics import serve_metrics
from zmqgame_bus.node import Node
from zmqgame_bus.process import Process, run
from zmqgame_bus.tables import BusConfig

from zmqgame import limits, protocol, tokens
from zmqgame.manage.checkpoints import Checkpoints
from zmqgame.manage.config import ManagerConfig
from zmqgame.manage.eventlog import EventLog
from zmqgame.manage.matchmaking import Queue, Ticket
from zmqgame.manage.placement import Server, Servers
from zmqgame.metrics import manager_metrics
from zmqgame.play.checkpoint import Part
from zmqgame.play.game import emit_sent, now_ms
from zmqgame.play.rules import Refused

log = logging.getLogger(__name__)

STEP_S = 0.2
PROBE_S = 1.0  # how long a game server that a client could not reach may take to answer
HUB_AWAY_MS = 10_000  # a hub that restarts: until its nodes have noticed and are back
SEND_TIMEOUT_S = 30.0
MOVE_S = 2.0  # for a server to take a match over: it answers before the match has caught up


@dataclass
class Open:
    """A match without a result."""

    match: str
    server: str
    instance: int  # of the game server's process; 0 if not known (made by an earlier manager)
    players: list[str]
    since_ms: int
    epoch: int = 1  # grows each time another server takes it over: who has a lower one is fenced off
    moving: bool = False  # another server is asked to take it over


class Manager:
    """Decides; the bus brings what it decides by."""

    def __init__(
        self,
        config: ManagerConfig,
        node: Node,
        eventlog: EventLog,
        emitter: Emitter,
        secret: bytes,
        netcode_key: bytes,
    ) -> None:
        self.instance = time.time_ns() // 1_000
        self.config = config
        self.match_config = read_match_config(config.match_config)
        self.queue = Queue(config.match_size, config.match_fewest, config.patience_ms)
        self.servers = Servers(config.stale_ms)
        self.open: dict[str, Open] = {}
        self.playing: dict[str, str] = {}  # player -> match
        self.checkpoints = Checkpoints()
        self._node = node
        self._log = eventlog
        self.emitter = emitter
        self._secret = secret
        self._netcode_key = netcode_key
        self._probed: set[str] = set()
        self._up_since_ms = now_ms()
        self._down: dict[str, int] = {}  # servers that left the bus: until when they may come back
        self._tasks: set[asyncio.Task[None]] = set()
        for match, (server, body) in eventlog.open_matches().items():
            instance, epoch = int(body.get("instance", 0)), int(body.get("epoch", 1))
            self._opened(Open(match, server, instance, body["players"], now_ms(), epoch))

    # --- the service `manager`

    async def serve(self, request: Request) -> dict[str, Any]:
        """Answer a request; what can't be done is answered with its kind."""
        try:
            values = protocol.read_object(request.payload, 1 << 20)
            answer = self.answers.get(str(values.get("op")))
            if answer is None:
                raise Refused("malformed", f"op is one of {', '.join(self.answers)}")
            found = answer(self, values)
            reply: dict[str, Any] = await found if inspect.isawaitable(found) else found
            return reply
        except Refused as error:
            return {"ok": False, "error": error.kind, "text": error.text}

    def _token(self, values: Mapping[str, Any]) -> dict[str, Any]:
        player = _name(values, "player")
        avoid = str(values.get("avoid", ""))
        self._suspect(avoid)
        session = protocol.u64(values.get("session", 0)) or tokens.new_session()
        server = self._server_of_match(player)
        if server is None or server.name == avoid:
            server = self.servers.for_player(now_ms(), avoid)
        return {
            "ok": True,
            "player": player,
            "session": str(session),
            "server": server.to_json(),
            "expires_s": self.config.token_s,
            **self._keys(player, session, server),
        }

    def _keys(self, player: str, session: int, server: Server) -> dict[str, str]:
        valid_s, udp = self.config.token_s, server.addresses["udp"]
        connect = tokens.connect_token(self._netcode_key, player, session, udp, valid_s) if udp else b""
        return {
            "token": tokens.sign(self._secret, player, session, valid_s),
            "connect_token": b64encode(connect).decode(),
        }

    def _suspect(self, name: str) -> None:
        """A client could not reach this server: ask it, which is quicker than the bus's own patience."""
        server = self.servers.by_name.get(name)
        if server is not None and server.up and name not in self._down and name not in self._probed:
            self._probed.add(name)
            self._start(self._probe(server))

    async def _probe(self, server: Server) -> None:
        try:
            await self._node.request(f"game:{server.name}", {"op": "status"}, timeout_s=PROBE_S)
        except (BusError, TimeoutError) as error:
            log.warning("game server %s does not answer: %s", server.name, error)
            self._gone(server)
            self._take_over([m for m in self.open.values() if m.server == server.name], "game server died")
        finally:
            self._probed.discard(server.name)

    def _gone(self, server: Server) -> None:
        """Nobody is sent there; its matches abort unless it reports again soon."""
        server.up = False
        self._down.setdefault(server.name, now_ms() + self.config.down_ms)

    def _server_of_match(self, player: str) -> Server | None:
        match = self.open.get(self.playing.get(player, ""))
        server = self.servers.by_name.get(match.server) if match else None
        return server if server is not None and server in self.servers.alive(now_ms()) else None

    def _load(self, values: Mapping[str, Any]) -> dict[str, Any]:
        name = _name(values, "server")
        instance = protocol.u64(values.get("instance"))
        players, matches, capacity, match_capacity = (
            protocol.u64(values.get(key)) for key in ("players", "matches", "capacity", "match_capacity")
        )
        addresses = {key: str(values.get(key, ""))[:256] for key in ("tcp", "ws", "udp")}
        server = Server(
            name,
            instance,
            addresses,
            players,
            matches,
            capacity,
            match_capacity,
            now_ms(),
            draining=bool(values.get("draining")),
        )
        before = self.servers.report(server)
        self._down.pop(name, None)
        if before is None or before.instance != instance:
            self._log.add(
                "GameServerIsReady", {"instance": instance, **addresses, "capacity": capacity}, server=name
            )
            others = [m for m in self.open.values() if m.server == name and m.instance != instance]
            self._take_over(others, "game server died")
        return {"ok": True, "manager": str(self.instance)}

    # --- matches that outlive their server

    def _checkpoint(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What is new in a server's matches; the answer names those to be sent whole, or given up."""
        name, instance = _name(values, "server"), protocol.u64(values.get("instance"))
        again, abandon, unknown = [], [], []
        for part in [Part.from_json(part) for part in _list(values, "parts")]:
            match = self.open.get(part.match)
            if match is None:
                unknown.append(part.match)  # it has an end here already: given up, or never known to be made
            elif match.moving:
                continue
            elif match.epoch != part.epoch or match.server != name or match.instance not in (0, instance):
                abandon.append(part.match)
            elif not self.checkpoints.put(part):
                again.append(part.match)
        return {"ok": True, "again": again, "abandon": abandon, "unknown": unknown}

    async def _hand_over(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A server stops: its matches go to others, and each of its players has a place then."""
        name, instance = _name(values, "server"), protocol.u64(values.get("instance"))
        server = self.servers.by_name.get(name)
        if server is None or server.instance != instance:
            raise Refused("unknown_server", f"{name} has reported nothing")
        server.draining = True
        asked = [self.open.get(str(match)) for match in _list(values, "matches")]
        found = [match for match in asked if match and match.server == name and match.instance == instance]
        moved = await asyncio.gather(*(self._move(match, planned=True) for match in found))
        players: dict[str, str] = {}
        servers: dict[str, dict[str, Any]] = {}
        for player in _list(values, "players"):
            place = self._server_of_match(str(player))
            try:
                place = place or self.servers.for_player(now_ms(), name)
            except Refused:
                continue
            if place.name != name and not place.draining:
                players[str(player)] = place.name
                servers[place.name] = place.to_json()
        done = [match.match for match, ok in zip(found, moved, strict=True) if ok]
        return {"ok": True, "moved": done, "players": players, "servers": servers}

    def _take_over(self, matches: Iterable[Open], reason: str) -> None:
        """Let other servers go on with these matches; those that can't be restored abort."""
        for match in list(matches):
            if not match.moving:
                self._start(self._restore(match, reason))

    async def _restore(self, match: Open, reason: str) -> None:
        if not await self._move(match, planned=False):
            self._abort([match] if match.match in self.open else [], reason)

    async def _move(self, match: Open, *, planned: bool) -> bool:
        """Another server goes on with a match, under the next epoch; False: nobody does."""
        request = self.checkpoints.request(match.match)
        if request is None or match.moving:
            return False
        match.moving = True
        try:
            server = self.servers.for_match(now_ms(), [], avoid=match.server if planned else "")
            epoch = match.epoch + 1
            body = {"players": match.players, "instance": server.instance, "epoch": epoch, "planned": planned}
            self._log.add("MatchMoved", body, match=match.match, server=server.name)
            match.server, match.instance, match.epoch = server.name, server.instance, epoch
            request |= {"epoch": epoch, "planned": planned}
            reply = (await self._node.request(f"game:{server.name}", request, timeout_s=MOVE_S)).json()
        except (BusError, TimeoutError, Refused) as error:
            reply = {"ok": False, "error": str(error)}
        finally:
            match.moving = False
        self.checkpoints.drop(match.match)  # the next ones come from the new server, under the new epoch
        if not reply.get("ok") or match.match not in self.open:
            log.warning("match %s can't go on elsewhere: %s", match.match, reply)
            return False
        self._emit(match.match, server.name, "moved", len(match.players), "")
        if not planned:
            for player in match.players:
                self._start(self._ready(match.match, server, player, "match_restored"))
        return True

    def _queue(self, values: Mapping[str, Any]) -> dict[str, Any]:
        player, server = _name(values, "player"), _name(values, "server")
        car = str(values.get("car", ""))[: limits.MAX_NAME_BYTES]
        new = self.queue.put(Ticket(player, server, car, now_ms()))
        return {"ok": True, "new": new, "waiting": len(self.queue)}

    def _leave(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"ok": True, "left": self.queue.remove(_name(values, "player"), str(values.get("server", "")))}

    def _status(self, values: Mapping[str, Any]) -> dict[str, Any]:
        servers = [
            {**server.to_json(), "players": server.players, "matches": server.matches, "up": server in alive}
            for alive in [self.servers.alive(now_ms())]
            for server in self.servers.by_name.values()
        ]
        ends = {event: self._log.count(event) for event in ("MatchCreated", "GameFinished", "MatchAborted")}
        return {
            "ok": True,
            "waiting": len(self.queue),
            "matches": len(self.open),
            "servers": servers,
            "log": ends,
        }

    def _matches(self, values: Mapping[str, Any]) -> dict[str, Any]:
        running = [{"match": m.match, "server": m.server, "players": m.players} for m in self.open.values()]
        limit = min(1_000, protocol.u64(values.get("limit", 50)))
        entries = self._log.entries(match=str(values.get("match", "")), limit=limit)
        return {"ok": True, "open": running[:limit], "entries": entries}

    answers: ClassVar[dict[str, Callable[[Manager, Mapping[str, Any]], Any]]] = {
        "token": _token,
        "load": _load,
        "checkpoint": _checkpoint,
        "hand_over": _hand_over,
        "queue": _queue,
        "leave": _leave,
        "status": _status,
        "matches": _matches,
    }

    # --- what happens by itself

    async def steps(self) -> None:
        """Make matches, give up servers that are gone and matches that never end."""
        while True:
            now = now_ms()
            for name in [name for name, until in self._down.items() if until <= now]:
                del self._down[name]
                self._take_over([m for m in self.open.values() if m.server == name], "game server died")
            silent = self._silent(now)
            self._take_over([m for m in self.open.values() if m.server in silent], "game server is silent")
            limit_ms = self.config.match_limit_s * 1_000
            old = (m for m in self.open.values() if now - m.since_ms >= limit_ms)
            self._abort(old, "no result in time")
            if len(self.open) < limits.MAX_OPEN_MATCHES:
                for tickets in self.queue.take(now, lambda player: player not in self.playing):
                    self._make(tickets)
            await asyncio.sleep(STEP_S)

    def _silent(self, now: int) -> set[str]:
        """Servers that report nothing although the bus is there: whatever presence says, they are gone."""
        if not self._node.up:
            self._up_since_ms = now
        patience_ms = self.config.stale_ms + self.config.down_ms + HUB_AWAY_MS
        if now - self._up_since_ms < patience_ms:
            return set()
        servers = {match.server for match in self.open.values()}
        known = self.servers.by_name
        return {name for name in servers if name not in known or now - known[name].seen_ms >= patience_ms}

    async def watch(self) -> None:
        """Game servers that leave the bus."""
        async for event in self._node.presence():
            if event.snapshot:  # the hub is back: everybody's silence begins to count now
                self._up_since_ms = now_ms()
            if event.name not in self.servers.by_name:
                continue
            server = self.servers.by_name[event.name]
            if event.kind == "node_down":
                self._gone(server)
                log.warning("game server %s left the bus", event.name)
            elif event.kind == "node_up":
                server.up = True

    async def read(self) -> None:
        """Results that game servers send to the address `manager`."""
        async for message in self._node:
            try:
                values = protocol.read_object(message.payload, 1 << 20)
                if values.get("type") not in ("game_finished", "game_aborted"):
                    raise Refused("malformed", f"type {values.get('type')!r}")
                self._finished(_name(values, "match"), values)
            except Refused as error:
                self._log.add("OtherMessage", {"id": str(message.id), "why": str(error)[:200]})
                told = {"id": str(message.id)}
                log.info("message %s is not one for the manager: %s", message.id, error, extra=told)

    # --- matches

    def _make(self, tickets: list[Ticket]) -> None:
        try:
            server = self.servers.for_match(now_ms(), [ticket.server for ticket in tickets])
        except Refused:
            self.queue.put_back(tickets)
            return
        match = f"{time.time_ns() // 1_000_000:x}-{secrets.token_hex(4)}"
        players = [{"player": ticket.player, "car": ticket.car} for ticket in tickets]
        names = [ticket.player for ticket in tickets]
        body = {"players": names, "entries": players, "instance": server.instance}
        self._log.add("MatchCreated", body, match=match, server=server.name)
        self._emit(match, server.name, "created", len(names), "")
        self._opened(Open(match, server.name, server.instance, names, now_ms()))
        request = {
            "op": "create_match",
            "match": match,
            "players": players,
            "seed": secrets.randbits(53),
            "config": self.match_config,
        }
        self._start(self._create(match, server, tickets, request))

    async def _create(
        self, match: str, server: Server, tickets: list[Ticket], request: dict[str, Any]
    ) -> None:
        try:
            reply = (await self._node.request(f"game:{server.name}", request, timeout_s=5.0)).json()
        except (BusError, TimeoutError) as error:
            reply = {"ok": False, "error": type(error).__name__}
        if reply.get("ok"):
            for ticket in tickets:
                self._start(self._ready(match, server, ticket.player))
            return
        # Also when the answer is unknown: if the match was made, nobody comes, and it aborts by itself.
        log.warning("match %s on %s came to nothing: %s", match, server.name, reply)
        if self._end(match, "MatchAborted", {"reason": f"not made: {reply.get('error')}", "results": []}):
            busy = (
                str(reply.get("text", "")).split(": ")[-1].split(",") if reply.get("error") == "busy" else []
            )
            self.queue.put_back([ticket for ticket in tickets if ticket.player not in busy])

    async def _ready(self, match: str, server: Server, player: str, kind: str = "match_ready") -> None:
        await self._send(player, {"type": kind, "match": match, "server": server.to_json()})

    def _finished(self, match: str, values: Mapping[str, Any]) -> None:
        body = {"results": values.get("results", []), "reason": str(values.get("reason", ""))}
        known = self.open.get(match)
        if known is not None and protocol.u64(values.get("epoch", 1)) < known.epoch:
            log.warning("match %s: a result of %s, which has lost it", match, values.get("server"))
            return
        finished = values["type"] == "game_finished"
        if self._end(match, "GameFinished" if finished else "MatchAborted", body) and not finished:
            log.info("match %s aborted: %s", match, body["reason"])

    def _abort(self, matches: Iterable[Open], reason: str) -> None:
        for found in list(matches):
            results = [
                {"player": player, "outcome": "did_not_finish", "reason": reason} for player in found.players
            ]
            if self._end(found.match, "MatchAborted", {"reason": reason, "results": results}):
                log.warning("match %s on %s aborted: %s", found.match, found.server, reason)
                self._emit(found.match, found.server, "aborted", len(found.players), reason)
                for player in found.players:
                    message = {"type": "match_aborted", "match": found.match, "reason": reason}
                    self._start(self._send(player, message))

    async def _send(self, player: str, message: dict[str, Any]) -> None:
        receipt = await self._node.unicast(player, message, timeout_s=SEND_TIMEOUT_S)
        if receipt.outcome in ("refused", "expired"):
            log.warning("%s for %s: %s %s", message["type"], player, receipt.outcome, receipt.detail)

    def _opened(self, match: Open) -> None:
        self.open[match.match] = match
        for player in match.players:
            self.playing[player] = match.match

    def _end(self, match: str, event: str, body: dict[str, Any]) -> bool:
        """Log the end of a match; False if it had ended already."""
        found = self.open.pop(match, None)
        self.checkpoints.drop(match)
        for player in found.players if found else ():
            if self.playing.get(player) == match:
                del self.playing[player]
        return self._log.add(event, body, match=match, server=found.server if found else "")

    def _emit(self, match: str, server: str, event: str, players: int, reason: str) -> None:
        self.emitter.emit("matches", match=match, server=server, event=event, players=players, reason=reason)

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task failed", exc_info=task.exception())


def read_match_config(text: str) -> Mapping[str, Any]:
    """The configuration's JSON object; anything else is an error that names the key."""
    try:
        return protocol.read_object(text.encode(), limits.MAX_MATCH_CONFIG_BYTES)
    except Refused as error:
        raise ConfigError([Problem("manager.match_config", "manager.match_config", str(error))]) from error


def _name(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if not (isinstance(value, str) and tokens.valid_name(value)):
        raise Refused("malformed", f"{key} is a name")
    return value


def _list(values: Mapping[str, Any], key: str) -> list[Any]:
    value = values.get(key)
    if not isinstance(value, list):
        raise Refused("malformed", f"{key} is a list")
    return value


async def serve(process: Process) -> None:
    """The process, from its start to its drain."""
    keyring = Keyring(process.config)
    emitter = open_emitter(process)
    bus = process.config.table(BusConfig)
    node = Node(
        process.name,
        bus.hub,
        roles=("manager",),
        state_dir=process.state_dir,
        keys=keyring.node(),
        on_receipt=lambda record: emit_sent(emitter, process.name, record),
        transport=bus.transport_of("manager"),
    )
    eventlog = EventLog(process.state_dir / "manager.sqlite")
    config = process.config.table(ManagerConfig)
    manager = Manager(config, node, eventlog, emitter, keyring.token_secret(), keyring.netcode_key())
    node.serve("manager", manager.serve)
    emitter.attach(node)
    trace = HostTrace(emitter, process.name)
    node.watch_handled(trace.handled)
    async with node, serve_metrics(process, lambda: manager_metrics(manager, node)) as metrics:
        await node.host("manager")
        work = [
            asyncio.ensure_future(each)
            for each in (manager.steps(), manager.watch(), manager.read(), node.ended(), trace.run())
        ]
        await process.ready(f"{len(manager.open)} open matches", {"metrics": metrics})
        stopped = asyncio.ensure_future(process.stop.wait())
        await asyncio.wait([stopped, *work], return_when=asyncio.FIRST_COMPLETED)
        for task in work:
            if task.done():
                task.result()
            task.cancel()
    trace.flush()
    emitter.close()
    eventlog.close()


def main() -> int:
    """The command `zmqgame-manager`."""
    return run("manager", serve)


if __name__ == "__main__":
    sys.exit(main())
