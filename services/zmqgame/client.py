"""A game client in asyncio: for bots, tests and users. CLIENT.md is what it follows.

    async with Client(tickets, handler) as client:
        await client.action("queue", car="stock")
        ...

`tickets` is the way to the manager (over the studio's login service): it returns a `Ticket`. The client
logs in, comes back by itself after each loss, at the same server or at another one, sends actions until
they are acked, and never hands a bus message to its handler twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import orjson

from zmqgame import limits, protocol
from zmqgame.links import Datagrams, Link, LinkClosed, open_link
from zmqgame.play.rules import Refused
from zmqgame.protocol import Cursor, RawId, ToClient, ToServer

log = logging.getLogger(__name__)

RETRY_FIRST_S, RETRY_MOST_S = 0.05, 2.0
LOGIN_TIMEOUT_S = 20.0  # longer than the server's own time for it, so that its answer comes first
RESEND_S = 1.0
PLACE_TRIES = 2  # at the same server, before the manager is asked for another


@dataclass(frozen=True)
class Ticket:
    """Where to log in, and with what."""

    token: str
    name: str
    tcp: str
    ws: str

    @classmethod
    def from_reply(cls, reply: dict[str, Any]) -> Ticket:
        """From the manager's answer to {"op": "token"}."""
        server = reply["server"]
        return cls(reply["token"], server["name"], server["tcp"], server["ws"])


@dataclass(frozen=True)
class Loss:
    """Why a new ticket is asked for."""

    session: int  # to keep; 0 for a new one
    avoid: str  # a server that did not answer; "" if none


Tickets = Callable[[Loss], Awaitable[Ticket]]


class ActionRefused(Exception):
    """The server won't do this action; kind is for programs."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Ended(Exception):
    """The session is over for good: taken over, left, or the token was refused."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Handler(Protocol):
    """What happens at the client; called on the event loop, must not block."""

    def welcome(self, welcome: dict[str, Any]) -> None:
        """Logged in; `resumed` says whether the session goes on."""

    def message(self, message_id: RawId, content: int, payload: bytes) -> None:
        """A bus message, once; acked when this returns. One of `latest` or `droppable` too, without an ack:
        its id is not `must_deliver`.
        """

    def event(self, event: dict[str, Any]) -> None:
        """An event of the server or the match, once and in order; acked when this returns."""

    def snapshot(self, snapshot: dict[str, Any]) -> None:
        """The state of the match; only the newest counts."""


@dataclass
class _Sent:
    """An action without an ack."""

    payload: bytes
    done: asyncio.Future[None]


@dataclass
class _Session:
    """What the client holds over all connections."""

    session: int = 0
    login: int = 0
    server: str = ""
    last_frame: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    token: str = ""


class Client:
    """One player. Runs by itself between `start` and `close`."""

    def __init__(
        self,
        tickets: Tickets,
        handler: Handler,
        *,
        transport: Literal["ws", "tcp"] = "ws",
        udp: bool = True,
        seed: int | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.online = asyncio.Event()
        self.server = ""
        self._tickets = tickets
        self._handler = handler
        self._transport = transport
        self._use_udp = udp
        self._random = random.Random(seed)
        self._held = _Session()
        self._ticket: Ticket | None = None
        self._link: Link | None = None
        self._datagrams: Datagrams | None = None
        self._actions: dict[int, _Sent] = {}
        self._next_action = 1
        self._room = asyncio.Semaphore(limits.MAX_UNACKED_ACTIONS)
        self._task: asyncio.Task[None] | None = None
        self._leaving = False

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def start(self) -> None:
        """Begin to log in."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Cut the connection; the server keeps the session for its grace time."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Ended):
                await self._task
        await self._cut()

    async def leave(self) -> None:
        """Log out: returns when the bus has confirmed it."""
        self._leaving = True
        if self._link is not None:
            self._send(ToServer.LEAVE, 0)
        await self.ended()

    async def ended(self) -> str:
        """Wait until the session is over for good; returns the reason."""
        assert self._task is not None
        try:
            await asyncio.shield(self._task)
        except Ended as error:
            return error.reason
        return "closed"

    async def action(self, kind: str, **fields: Any) -> None:
        """Do an action; returns when the server has done it, raises `ActionRefused` if it won't."""
        payload = orjson.dumps({"type": kind, **fields})
        async with self._room:
            number, self._next_action = self._next_action, self._next_action + 1
            sent = _Sent(payload, asyncio.get_running_loop().create_future())
            self._actions[number] = sent
            self._send(ToServer.ACTION, number, payload)
            await sent.done

    def send_inputs(self, frame: int, newest_first: Sequence[bytes]) -> None:
        """Inputs for `frame`, `frame` - 1 and so on: by UDP when it is up, else on the stream."""
        payload = bytes([len(newest_first)]) + b"".join(newest_first)
        if self._datagrams is not None and self._datagrams.connected:
            self._datagrams.send(protocol.packet(ToServer.INPUT, frame, payload))
            self.counters["inputs_udp"] += 1
        else:
            self._send(ToServer.INPUT, frame, payload)
            self.counters["inputs_stream"] += 1

    @property
    def cursor(self) -> list[tuple[int, int, int]]:
        """The last handled message id of each sender."""
        return self._held.cursor.marks()

    def break_connection(self) -> None:
        """For tests: as if the network had gone."""
        if self._link is not None:
            self._link.abort()

    # --- connections

    async def _run(self) -> None:
        failures = 0
        avoid = ""
        try:
            while True:
                try:
                    if self._ticket is None:
                        self._ticket = await self._tickets(Loss(self._held.session, avoid))
                    await self._serve_one(self._ticket)
                except Ended:
                    raise
                except _Move as move:
                    self._ticket, failures, avoid = move.ticket, 0, move.avoid
                except Exception as error:  # whatever goes wrong on the way, the next try is the answer
                    ordinary = isinstance(error, OSError | TimeoutError)
                    level = logging.DEBUG if ordinary else logging.WARNING
                    log.log(level, "connection lost: %s: %s", type(error).__name__, error)
                    self.counters["losses"] += 1
                    failures = 1 if self.online.is_set() else failures + 1
                finally:
                    await self._cut()
                if failures > PLACE_TRIES and self._ticket is not None:
                    avoid, self._ticket = self._ticket.name, None
                if failures or self._ticket is None:
                    wait_s = min(RETRY_MOST_S, RETRY_FIRST_S * 2 ** min(failures, 10))
                    await asyncio.sleep(wait_s * self._random.uniform(0.5, 1.5))
        finally:
            for sent in self._actions.values():
                sent.done.cancel()

    async def _serve_one(self, ticket: Ticket) -> None:
        """One connection, from its login to its end."""
        link = await open_link(self._transport, ticket.tcp, ticket.ws)
        self._link = link
        held = self._held
        same = ticket.name == held.server
        login = protocol.Login(
            held.token or ticket.token,
            held.session,
            held.login if same else 0,
            held.last_frame if same else 0,
            held.cursor.marks(),
        )
        link.send(protocol.packet(ToServer.LOGIN, 0, login.dump()))
        kind, _, payload = await asyncio.wait_for(link.receive(), LOGIN_TIMEOUT_S)
        if kind == ToClient.BYE:
            self._bye(payload)
        if kind != ToClient.WELCOME:
            raise LinkClosed(f"kind {kind:#x} instead of welcome")
        pings = asyncio.ensure_future(self._keep_alive(self._welcome(ticket, orjson.loads(payload))))
        try:
            while True:
                kind, sequence, payload = await link.receive()
                self._packet(kind, sequence, payload)
        finally:
            pings.cancel()

    def _welcome(self, ticket: Ticket, welcome: dict[str, Any]) -> float:
        held = self._held
        held.session, held.login = int(welcome["session"]), int(welcome["login"])
        held.server = self.server = ticket.name
        held.token = welcome["token"]
        if not welcome["resumed"]:
            held.last_frame = 0
            self._next_action = 1
            waiting, self._actions = [self._actions[number] for number in sorted(self._actions)], {}
            for sent in waiting:
                self._actions[self._next_action] = sent
                self._next_action += 1
        for number in [number for number in self._actions if number <= welcome["last_action"]]:
            self._acked(number, b"")
        self.online.set()
        self._resend()
        if self._use_udp and welcome["connect_token"]:
            self._datagrams = Datagrams(b64decode(welcome["connect_token"]), welcome["udp"])
            self._datagrams.start()
        self.counters["resumes" if welcome["resumed"] else "logins"] += 1
        if self._leaving:
            self._send(ToServer.LEAVE, 0)
        self._handler.welcome(welcome)
        return float(welcome["ping_ms"]) / 1_000

    async def _cut(self) -> None:
        self.online.clear()
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None
        if self._link is not None:
            link, self._link = self._link, None
            await link.close()

    async def _keep_alive(self, ping_s: float) -> None:
        """Pings, and actions again when nothing was acked for a second."""
        ping_at = time.monotonic() + ping_s
        waiting = 0
        while True:
            await asyncio.sleep(RESEND_S)
            first = min(self._actions, default=0)
            if first and first == waiting:
                self.counters["resends"] += 1
                self._resend()
            waiting = first
            if time.monotonic() >= ping_at:
                ping_at += ping_s
                self._send(ToServer.PING, 0)

    def _resend(self) -> None:
        for number, sent in sorted(self._actions.items()):
            self._send(ToServer.ACTION, number, sent.payload)

    def _send(self, kind: int, sequence: int, payload: bytes = b"") -> None:
        if self._link is not None and self.online.is_set():
            self._link.send(protocol.packet(kind, sequence, payload))

    # --- packets

    def _packet(self, kind: int, sequence: int, payload: bytes) -> None:
        if kind in (ToClient.MESSAGE, ToClient.EVENT):
            self._frame(kind, sequence, payload)
        elif kind == ToClient.SNAPSHOT:
            self._handler.snapshot(orjson.loads(payload))
        elif kind == ToClient.ACTION_ACK:
            self._acked(sequence, payload)
        elif kind == ToClient.FORGET:
            self._held.cursor.forget(RawId(*protocol.ID.unpack_from(payload)))
        elif kind == ToClient.BYE:
            self._bye(payload)

    def _frame(self, kind: int, number: int, payload: bytes) -> None:
        held = self._held
        if self._leaving:
            return  # the server may have our cursor already: what is handled now, the next session gets again
        if number == 0 and kind == ToClient.MESSAGE:
            self._handler.message(*protocol.read_message(payload))
            self.counters["loose_messages"] += 1
            return
        if number <= held.last_frame:
            self.counters["repeated_frames"] += 1
            self._send(ToServer.ACK, held.last_frame)
            return
        if number != held.last_frame + 1:
            raise LinkClosed(f"frame {number} after {held.last_frame}")  # come back and get what lacks
        move = None
        if kind == ToClient.MESSAGE:
            move = self._message(payload)
        else:
            self._event(payload)
        held.last_frame = number
        self._send(ToServer.ACK, number)
        if move is not None:
            raise move

    def _message(self, payload: bytes) -> _Move | None:
        message_id, content, body = protocol.read_message(payload)
        if self._held.cursor.seen(message_id):
            self.counters["repeated_messages"] += 1
            return None
        self._handler.message(message_id, content, body)
        self._held.cursor.handle(message_id)
        self.counters["messages"] += 1
        if content != protocol.CONTENT_JSON:
            return None
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            values = orjson.loads(body)
            if values["type"] == "match_ready" and values["server"]["name"] != self._held.server:
                return _Move(Ticket.from_reply(values))
        return None

    def _event(self, payload: bytes) -> None:
        event = orjson.loads(payload)
        if event.get("type") == "token":
            self._held.token = event["token"]
        else:
            self._handler.event(event)
        self.counters["events"] += 1

    def _acked(self, number: int, payload: bytes) -> None:
        sent = self._actions.pop(number, None)
        if sent is None or sent.done.done():
            return
        if payload:
            answer = orjson.loads(payload)
            sent.done.set_exception(ActionRefused(answer["error"], answer.get("text", "")))
        else:
            sent.done.set_result(None)

    def _bye(self, payload: bytes) -> None:
        bye = orjson.loads(payload)
        self.counters[f"bye_{bye['reason']}"] += 1
        if bye["again"] == "no":
            raise Ended(bye["reason"])
        if bye["again"] == "token":
            self._held.token = ""
            raise _Move(None)
        if bye["again"] == "other":
            raise _Move(None, self._held.server)
        raise LinkClosed(bye["reason"])


class _Move(Exception):
    """Log in with this ticket, or with a new one."""

    def __init__(self, ticket: Ticket | None, avoid: str = "") -> None:
        super().__init__(ticket)
        self.ticket = ticket
        self.avoid = avoid


__all__ = ["ActionRefused", "Client", "Ended", "Handler", "Loss", "Refused", "Ticket", "Tickets"]
