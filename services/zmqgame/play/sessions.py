"""The players at this server: logins, packets in, frames out, what the bus delivers for them.

One object between three parties: the edge (connections and packets), the bus node (who hosts whom, messages)
and a listener (the matches). Everything runs on one event loop; only a login waits for the bus.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import orjson
from zmqgame_bus import errors as bus_errors
from zmqgame_bus.hops import HostTrace, hop_id
from zmqgame_bus.messages import Delivery, MessageId
from zmqgame_bus.node import Node
from zmqgame_native import Edge

from zmqgame import limits, protocol, tokens
from zmqgame.play.match import NotYet
from zmqgame.play.player import Frame, Overfull, Session, TokenBucket, Turn
from zmqgame.play.rules import Refused
from zmqgame.protocol import EDGE_CLOSE, EDGE_OPEN, RawId, ToClient, ToServer

log = logging.getLogger(__name__)

AGAIN = {
    "token_expired": "token",
    "bad_token": "no",
    "taken_over": "no",
    "left": "no",
    "full": "other",
    "stopping": "other",
    "moved": "moved",
}
PING_MS = 10_000


class SessionListener(Protocol):
    """Who wants to know about players: the matches, the queue."""

    def attached(self, session: Session, *, fresh: bool) -> None:
        """A client is here; a fresh one has seen nothing yet."""

    def detached(self, session: Session) -> None:
        """The client's connection is gone, perhaps to come back."""

    def gone(self, session: Session, why: str) -> None:
        """The player is elsewhere, or gone for good."""

    def action(self, session: Session, payload: Mapping[str, Any]) -> None:
        """An action, once and in order; raises `Refused`, or `NotYet` when it is to come again."""

    def last_action(self, player: str, session: int) -> int:
        """The number of the session's last action that a match here remembers; 0 for none."""

    def inputs(self, session: Session, frame: int, payload: bytes) -> None:
        """Inputs of some frames; raises `Refused`."""


EDGE_REFUSALS = ("bad_bytes", "bad_request", "bad_websocket", "closed_handshake", "datagrams_refused")
"""Counters of the edge for bytes that are none of ours."""


class EdgeDied(Exception):
    """A thread that held clients' connections has died: a server without it serves nobody."""


@dataclass(frozen=True)
class Door:
    """What a server says of itself to clients, and what it checks them with."""

    name: str
    udp: str  # "" without UDP
    token_secret: bytes
    netcode_key: bytes
    max_players: int
    grace_ms: int
    token_s: int = 300
    ping_ms: int = PING_MS
    session_max_s: int = 86_400


class Sessions:
    """All sessions of this server, by player and by connection."""

    def __init__(self, door: Door, edge: Edge, node: Node, listener: SessionListener) -> None:
        self.counters: Counter[str] = Counter()
        self.trace: HostTrace | None = None
        self.by_player: dict[str, Session] = {}
        self._door = door
        self._edge = edge
        self._node = node
        self._listener = listener
        self._by_connection: dict[int, Session] = {}
        self._rows: Iterator[tuple[int, int, int, bytes]] | None = None  # what is left for the next turns
        self._told: set[int] = set()  # connections that were told bye: what they still send is not looked at
        self._new: dict[int, int] = {}  # connections that have not logged in: until when they may
        self._edge_refused: Counter[str] = Counter()
        self._refusal_lines = TokenBucket(limits.REFUSAL_LINES_PER_SECOND, limits.REFUSAL_LINES_BURST, 0)
        self._newest = tokens.Newest()
        self._logging_in: dict[str, int] = {}  # player -> the newest connection that logs in
        self._early: dict[str, list[Delivery]] = {}  # came while a login was under way
        self._by_udp: dict[int, Session] = {}
        self._writes: list[tuple[int, int, int, bytes]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._now_ms = 0
        self.frozen = False  # sessions go to other servers: nothing may get a frame number here any more
        self._moved: set[str] = set()  # players whose sessions another server has, until the bus says so too
        self._all_moved = asyncio.Event()

    # --- packets

    def receive(self, now_ms: int) -> bool:
        """Answer what the edge has, at most a turn's share of it; True: there is more.

        Ticks come between turns: whatever clients send, it does not keep a match waiting for long. Raises
        `EdgeDied`.
        """
        self._now_ms = now_ms
        if self._rows is None:
            try:
                self._rows = iter(self._edge.receive())
            except OSError as error:
                raise EdgeDied(str(error)) from error
        taken = 0
        for connection, kind, sequence, payload in islice(self._rows, limits.TURN_PACKETS):
            taken += 1
            try:
                self._packet(connection, kind, sequence, payload)
            except Refused as error:
                self._refuse(connection, error)
            except Overfull as error:
                self._too_slow(error)
        self.flush()
        if taken < limits.TURN_PACKETS:
            self._rows = None
            return False
        self.counters["turns_full"] += 1
        return True

    def _packet(self, connection: int, kind: int, sequence: int, payload: bytes) -> None:
        if connection in self._told and kind != EDGE_CLOSE:
            self.counters["after_bye"] += 1
            return
        session = self._by_connection.get(connection)
        if kind == ToServer.INPUT:
            session = session or self._by_udp.get(connection)
            if session is not None:
                self._input(session, sequence, payload)
                return
        if kind == EDGE_OPEN:
            self._opened(connection, payload)
        elif kind == EDGE_CLOSE:
            self._closed(connection)
        elif connection in self._by_udp:
            self.counters["ignored_udp"] += 1
        elif session is None:
            self._first(connection, kind, payload)
        elif kind == ToServer.ACK:
            for message_id in session.ack(sequence):
                self._node.handled(session.player, MessageId(*message_id))
        elif kind == ToServer.ACTION:
            self._action(session, sequence, payload)
        elif kind == ToServer.PING:
            self._write(connection, ToClient.PONG, sequence, b"")
        elif kind == ToServer.LEAVE:
            if not session.leaving:
                session.leaving = True
                self._start(self._leave(session))
        else:
            raise Refused("malformed", f"kind {kind} is not possible here")

    def _opened(self, connection: int, payload: bytes) -> None:
        opened = orjson.loads(payload)
        if opened["transport"] != "udp":
            if len(self._new) >= limits.MAX_PENDING_LOGINS:
                raise Refused("full", "too many connections log in")
            self._new[connection] = self._now_ms + limits.LOGIN_TIMEOUT_MS
            return
        player, number = tokens.read_user_data(bytes.fromhex(opened["user_data"]))
        session = self.by_player.get(player)
        if session is None or session.session != number:
            raise Refused("no_session", "log in on the stream first")
        self._end_udp(session, "a newer connect token was used")
        session.udp = connection
        self._by_udp[connection] = session

    def _closed(self, connection: int) -> None:
        self._new.pop(connection, None)
        self._told.discard(connection)
        udp = self._by_udp.pop(connection, None)
        if udp is not None and udp.udp == connection:
            udp.udp = None
        for player in [player for player, other in self._logging_in.items() if other == connection]:
            del self._logging_in[player]
        session = self._by_connection.pop(connection, None)
        if session is not None and session.connection == connection:
            session.connection, session.gone_at_ms = None, self._now_ms
            self._detach(session.player)
            self._listener.detached(session)

    def _first(self, connection: int, kind: int, payload: bytes) -> None:
        if kind != ToServer.LOGIN or connection not in self._new:
            raise Refused("malformed", "the first packet is a login, and there is one")
        del self._new[connection]
        login = protocol.read_login(payload)
        claims = tokens.verify(self._door.token_secret, login.token)
        if login.session not in (0, claims.session):
            raise Refused("bad_token", "the token is for another session")
        if tokens.wall_ms() - claims.auth_ms > self._door.session_max_s * 1_000:
            raise Refused("token_expired", f"game.session_max_s {self._door.session_max_s} are over")
        self._newest.check(claims)
        if claims.player not in self.by_player and self._full():
            raise Refused("full", f"max_players {self._door.max_players}")
        older = self._logging_in.get(claims.player)
        if older is not None:
            self._bye(older, "taken_over")
        self._newest.note(claims.player, claims.session, claims.auth_ms)
        self._logging_in[claims.player] = connection
        self._start(self._login(connection, claims, login))

    def _action(self, session: Session, number: int, payload: bytes) -> None:
        turn = session.turn(number, self._now_ms)
        answer = b""
        if turn is Turn.GAP:
            self.counters["action_gaps"] += 1
            return
        if turn is not Turn.AGAIN:
            session.last_action = number
            try:
                if turn is Turn.OVER_RATE:
                    raise Refused("limit", f"{limits.ACTIONS_PER_SECOND} actions a second")
                self._listener.action(session, protocol.read_object(payload, limits.MAX_ACTION_BYTES))
            except NotYet:
                session.last_action = number - 1
                self.counters["action_not_yet"] += 1
                return
            except Refused as error:
                self.counters[f"action_{error.kind}"] += 1
                answer = orjson.dumps({"error": error.kind, "text": error.text})
        if session.connection is not None:
            self._write(session.connection, ToClient.ACTION_ACK, number, answer)

    def _input(self, session: Session, frame: int, payload: bytes) -> None:
        if not session.input_bucket.take(self._now_ms):
            self.counters["input_over_rate"] += 1
            return
        try:
            self._listener.inputs(session, frame, payload)
        except Refused as error:
            self.counters[f"input_{error.kind}"] += 1

    # --- logins

    async def _login(self, connection: int, claims: tokens.Claims, login: protocol.Login) -> None:
        player = claims.player
        known = self.by_player.get(player)
        same = (
            known is not None
            and known.session == claims.session
            and known.login == login.login
            and login.last_frame <= known.last_frame
        )
        try:
            async with asyncio.timeout(limits.ATTACH_TIMEOUT_MS / 1_000):
                attached = await self._node.attach(
                    player,
                    login=login.login if same else 0,
                    cursor=[MessageId(*mark) for mark in login.cursor],
                )
        except TimeoutError:
            self._login_failed(connection, player, Refused("away", "the bus does not answer"))
            return
        except bus_errors.BusError as error:  # a newer login here or elsewhere, or the node is closed
            self._login_failed(connection, player, Refused("away", str(error)))
            return
        early = self._early.pop(player, [])
        if self._logging_in.get(player) != connection:  # closed meanwhile, or a newer login is under way
            self._keep_early(player, early)
            self._detach(player)
            return
        del self._logging_in[player]
        known = self.by_player.get(player)
        resumed = (attached.resumed or same) and known is not None and known.session == claims.session
        if known is not None and resumed:
            session = self._take_over(known, connection)
            seen = login.last_frame
        else:
            if known is not None:
                self._end(known, "taken_over", elsewhere=False)
            session = Session(player, claims.session, attached.login, self._now_ms, connection)
            session.last_action = max(login.action, self._listener.last_action(player, claims.session))
            self.by_player[player] = session
            seen = 0
        session.login = attached.login
        session.auth_ms = max(session.auth_ms, claims.auth_ms)
        self._by_connection[connection] = session
        self._write(connection, ToClient.WELCOME, 0, self._welcome(session, resumed))
        for message_id in session.ack(seen):
            self._node.handled(player, MessageId(*message_id))
        for frame in session.after(seen):
            self._write_frame(session, frame)
        try:
            self._listener.attached(session, fresh=not resumed)
            self._push_deliveries(session, [*attached.pending, *early])
        except Overfull as error:
            self._too_slow(error)
        self.flush()

    def _take_over(self, session: Session, connection: int) -> Session:
        """The session goes on with another connection."""
        old = session.connection
        session.connection, session.gone_at_ms = connection, None
        if old is not None:
            self._by_connection.pop(old, None)
            self._bye(old, "taken_over")
        return session

    def _login_failed(self, connection: int, player: str, error: Refused) -> None:
        if self._logging_in.get(player) == connection:
            del self._logging_in[player]
            self._refuse(connection, error)
            self._keep_early(player, self._early.pop(player, []))
            self.flush()
        self._detach(player)

    def _keep_early(self, player: str, early: list[Delivery]) -> None:
        """What came during a login that failed is for the session that is here, or for the next login."""
        session = self.by_player.get(player)
        if player in self._logging_in:
            self._early[player] = early + self._early.get(player, [])
        elif session is not None:
            try:
                self._push_deliveries(session, early)
            except Overfull as error:
                self._too_slow(error)

    def _detach(self, player: str) -> None:
        """Tell the bus that the client is gone, unless one is here or on its way."""
        session = self.by_player.get(player)
        if player not in self._logging_in and (session is None or session.connection is None):
            self._node.detach(player)

    def _welcome(self, session: Session, resumed: bool) -> bytes:
        door = self._door
        connect_token = b""
        if door.udp:
            connect_token = tokens.connect_token(
                door.netcode_key, session.player, session.session, door.udp, door.token_s
            )
        return orjson.dumps(
            {
                "player": session.player,
                "session": str(session.session),
                "login": str(session.login),
                "resumed": resumed,
                "server": door.name,
                "last_action": session.last_action,
                "token": self._token(session),
                "connect_token": b64encode(connect_token).decode(),
                "udp": door.udp,
                "ping_ms": door.ping_ms,
            }
        )

    def _token(self, session: Session) -> str:
        """A fresh token, so that the client can always come back; renewed when half of its time is over.

        "" when the session has lasted as long as one may without the manager.
        """
        door = self._door
        left_s = session.auth_ms // 1_000 + door.session_max_s - tokens.wall_ms() // 1_000
        valid_s = min(door.token_s, left_s)
        session.token_until_ms = self._now_ms + max(1, valid_s) * 500
        if valid_s <= 0:
            return ""
        return tokens.sign(door.token_secret, session.player, session.session, valid_s, session.auth_ms)

    async def _leave(self, session: Session) -> None:
        committed = await self._node.leave_player(session.player)
        session.leaving = False
        if committed and self.by_player.get(session.player) is session:
            self._newest.note(session.player, session.session, session.auth_ms, left=True)
            self._end(session, "left", elsewhere=True)
        self.flush()

    # --- what the bus brings

    def delivered(self, deliveries: Iterable[Delivery]) -> None:
        """Messages for players here, in order."""
        if self.frozen:
            return  # not acked: the bus gives them to the next host
        for delivery in deliveries:
            session = self.by_player.get(delivery.player)
            if not delivery.must_deliver:
                self._pass_on(session, delivery)
                continue
            try:
                if delivery.player in self._logging_in or session is None:
                    self._early.setdefault(delivery.player, []).append(delivery)
                else:
                    self._push_deliveries(session, [delivery])
            except Overfull as error:
                self._too_slow(error)
        for player in [player for player in self._early if player not in self._logging_in]:
            del self._early[player]  # not hosted any more: the bus gives them to the next host
        self.flush()

    def dropped(self, player: str, why: str) -> None:
        """The bus says that the player is not ours any more: a newer login elsewhere."""
        session = self.by_player.get(player)
        if player in self._moved:
            self._moved.discard(player)
            if not self._moved:
                self._all_moved.set()
        if session is not None:
            log.info("%s is dropped: %s", player, why)
            self._end(session, "taken_over", elsewhere=True)
            self.flush()

    def bound(self, player: str, login: int) -> None:
        """The bus has bound the player: at a login, and again after its restart."""
        session = self.by_player.get(player)
        if session is not None and player not in self._logging_in:
            session.login = login

    def forget(self, player: str, up_to: MessageId) -> None:
        """The client need not keep the mark of this sender."""
        session = self.by_player.get(player)
        if session is not None and session.connection is not None:
            payload = protocol.ID.pack(*up_to.numbers())
            self._write(session.connection, ToClient.FORGET, 0, payload)
            self.flush()

    def _pass_on(self, session: Session | None, delivery: Delivery) -> None:
        """A message of `latest` or `droppable`: written at once under number 0, or never; nothing is kept."""
        if session is None or session.connection is None:
            self.counters["loose_nobody"] += 1
        elif not session.loose_bucket.take(self._now_ms, len(delivery.payload)):
            self.counters["loose_over_rate"] += 1
        else:
            head = protocol.MESSAGE_HEAD.pack(*delivery.id.numbers(), delivery.content)
            self._write(session.connection, ToClient.MESSAGE, 0, head + delivery.payload)
            if self.trace is not None:
                self.trace.handed(delivery.player, (delivery,))

    def _push_deliveries(self, session: Session, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            message_id = RawId(*delivery.id.numbers())
            if not session.holds(message_id):
                head = protocol.MESSAGE_HEAD.pack(*message_id, delivery.content)
                self._push(session, ToClient.MESSAGE, head + delivery.payload, message_id)
                if self.trace is not None:
                    self.trace.handed(delivery.player, (delivery,))

    # --- frames out

    def event(self, player: str, payload: bytes) -> None:
        """An event for a player who has a session here: kept until it is acked."""
        session = self.by_player.get(player)
        if session is not None and not self.frozen:
            try:
                self._push(session, ToClient.EVENT, payload)
            except Overfull as error:
                self._too_slow(error)

    def snapshot(self, player: str, frame: int, payload: bytes) -> None:
        """A snapshot for a player who is connected: the next one replaces it."""
        session = self.by_player.get(player)
        if session is not None and session.connection is not None:
            self._write(session.connection, ToClient.SNAPSHOT, frame, payload)

    def flush(self) -> None:
        """Hand all writes to the edge, as one batch."""
        if self._writes:
            writes, self._writes = self._writes, []
            self.counters["writes_refused"] += self._edge.send(writes)

    def _push(self, session: Session, kind: int, payload: bytes, message_id: RawId | None = None) -> None:
        self._write_frame(session, session.push(kind, payload, message_id))

    def _write_frame(self, session: Session, frame: Frame) -> None:
        if session.connection is not None:
            self._write(session.connection, frame.kind, frame.number, frame.payload)

    def _write(self, connection: int, kind: int, sequence: int, payload: bytes) -> None:
        self._writes.append((connection, int(kind), sequence, payload))

    # --- ends

    def edge_counters(self) -> dict[str, int]:
        """What the sockets counted: connections, packets, datagrams, and refusals by kind."""
        return self._edge.counters()

    def log_refusals(self) -> None:
        """Tell what the sockets refused since the last time: a line a look, however many there were."""
        now = Counter({kind: count for kind, count in self._edge.counters().items() if kind in EDGE_REFUSALS})
        if new := now - self._edge_refused:
            told = ", ".join(f"{kind} {count}" for kind, count in sorted(new.items()))
            log.warning("refused at the sockets: %s", told, extra={"refused": dict(new)})
        self._edge_refused = now

    def housekeep(self, now_ms: int) -> None:
        """Once a second: who never logged in, who is gone for the grace time, whose token gets old."""
        self._now_ms = now_ms
        for connection in [connection for connection, until in self._new.items() if until <= now_ms]:
            del self._new[connection]
            self._refuse(connection, Refused("limit", f"no login within {limits.LOGIN_TIMEOUT_MS} ms"))
        for session in list(self.by_player.values()):
            if session.gone_at_ms is not None and now_ms - session.gone_at_ms >= self._door.grace_ms:
                self._end(session, "left", elsewhere=True)
                self._start(self._logout(session.player))
            elif (
                session.connection is not None
                and session.token_until_ms <= now_ms
                and (token := self._token(session))
            ):
                self.event(session.player, orjson.dumps({"type": "token", "token": token}))
        self.flush()

    async def _logout(self, player: str) -> None:
        if player not in self.by_player and player not in self._logging_in:
            await self._node.leave_player(player)

    # --- to and from other servers

    def freeze(self) -> None:
        """From now on the sessions here don't change: they can be handed over."""
        self.frozen = True
        logging_in, self._logging_in = self._logging_in, {}
        for connection in [*logging_in.values(), *self._new]:
            self._bye(connection, "stopping")
        self._new.clear()

    def adopt(self, values: Mapping[str, Any], now_ms: int) -> None:
        """Go on with a session of another server, when its client comes; raises `Refused`."""
        session = Session.adopt(values, now_ms)
        if not tokens.valid_name(session.player):
            raise Refused("malformed", "session: its player is not possible")
        if session.player in self.by_player or session.player in self._logging_in:
            raise Refused("taken_over", f"{session.player} is here already")
        if self._full():
            raise Refused("full", f"max_players {self._door.max_players}")
        self.by_player[session.player] = session
        self.counters["adopted"] += 1

    def moved(self, session: Session, server: Mapping[str, str]) -> None:
        """Another server has it: its client is told to go on there."""
        if session.connection is not None:
            self._moved.add(session.player)
            self._all_moved.clear()
        self._end(session, "moved", elsewhere=False, more={"server": server})

    async def all_moved(self, timeout_s: float) -> None:
        """Wait until the clients that were moved have logged in elsewhere.

        A host that leaves the bus before that makes the bus store what they have not acked, for nothing.
        """
        with contextlib.suppress(TimeoutError):
            if self._moved:
                await asyncio.wait_for(self._all_moved.wait(), timeout_s)

    def stop(self) -> None:
        """The server ends in order: clients are told to go to another one."""
        for session in list(self.by_player.values()):
            self._end(session, "stopping", elsewhere=True)
        self.flush()

    async def close(self) -> None:
        """After `stop`: nothing of ours runs on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _full(self) -> bool:
        """Whether nobody more fits; they are counted only when it may be so: a thousand log in at once."""
        most = self._door.max_players
        return len(self.by_player) + len(self._logging_in) >= most and self.count() >= most

    def count(self) -> int:
        """Players here, those who are logging in included."""
        return len(self.by_player) + sum(player not in self.by_player for player in self._logging_in)

    def _too_slow(self, error: Overfull) -> None:
        session = self.by_player.get(str(error).partition(":")[0])
        waiting = session.oldest_message() if session is not None else None
        log.warning("session ends: %s", error, extra={"id": hop_id(*waiting)} if waiting else {})
        self.counters["too_slow"] += 1
        if session is not None:
            self._end(session, "too_slow", elsewhere=True)
            self._start(self._logout(session.player))

    def _end(
        self, session: Session, why: str, *, elsewhere: bool, more: Mapping[str, Any] | None = None
    ) -> None:
        """The session is over; `elsewhere` False: another of the same player follows here at once."""
        if self.by_player.get(session.player) is session:
            del self.by_player[session.player]
        self._end_udp(session, why)
        if session.connection is not None:
            connection, session.connection = session.connection, None
            self._by_connection.pop(connection, None)
            self._bye(connection, why, more=more)
        if elsewhere:
            self._listener.gone(session, why)

    def _end_udp(self, session: Session, why: str) -> None:
        """The session's inputs don't come by this UDP connection any more."""
        if session.udp is not None:
            udp, session.udp = session.udp, None
            self._by_udp.pop(udp, None)
            self._edge.close(udp, why)
            self._told.add(udp)

    def _refuse(self, connection: int, error: Refused) -> None:
        self.counters[f"refused_{error.kind}"] += 1
        if self._refusal_lines.take(self._now_ms):
            session = self._by_connection.get(connection)
            player = session.player if session is not None else ""
            peer = self._edge.peer(connection) or "gone"
            told = {"connection": connection, "peer": peer, "player": player, "kind": error.kind}
            log.info("refused: %s (%s)", error, f"{player} at {peer}" if player else peer, extra=told)
        else:
            self.counters["refusals_not_logged"] += 1
        self._bye(connection, error.kind, error.text)

    def _bye(
        self, connection: int, reason: str, text: str = "", more: Mapping[str, Any] | None = None
    ) -> None:
        bye = {"reason": reason, "text": text, "again": AGAIN.get(reason, "yes"), **(more or {})}
        self._write(connection, ToClient.BYE, 0, orjson.dumps(bye))
        self.flush()
        self._edge.close(connection, reason)
        session = self._by_connection.get(connection)
        if session is not None:
            self._closed(connection)
        self._told.add(connection)

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
