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
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import orjson

from zmqgame import limits, protocol, resume
from zmqgame.links import Datagrams, Direct, Link, Network
from zmqgame.play.rules import Refused
from zmqgame.protocol import RawId, ToServer
from zmqgame.resume import Resume

log = logging.getLogger(__name__)

RETRY_FIRST_S, RETRY_MOST_S = 0.05, 2.0
LOGIN_TIMEOUT_S = 20.0  # longer than the server's own time for it, so that its answer comes first
RESEND_S = 1.0
SILENT_PINGS = 1.5  # so many times the time between pings without a packet: the server is dead
MOVES = ("match_ready", "match_restored")  # messages of the manager that name a server to go to
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


class Client:
    """One player. Runs by itself between `start` and `close`."""

    def __init__(
        self,
        tickets: Tickets,
        handler: Handler,
        *,
        transport: Literal["ws", "tcp"] = "ws",
        udp: bool = True,
        network: Network | None = None,
        ca_file: str | None = None,
        seed: int | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.online = asyncio.Event()
        self.server = ""
        self._tickets = tickets
        self._handler = handler
        self._transport = transport
        self._use_udp = udp
        self._network = network or Direct(ca_file)
        self._random = random.Random(seed)
        self._resume = Resume()
        self._ping_s = 10.0
        self._heard_at = 0.0
        self._ticket: Ticket | None = None
        self._link: Link | None = None
        self._datagrams: Datagrams | None = None
        self._actions: dict[int, asyncio.Future[None]] = {}
        self._room = asyncio.Semaphore(limits.MAX_UNACKED_ACTIONS)
        self._task: asyncio.Task[None] | None = None

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
        self._resume.leave()
        self._flush()
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
            try:
                number = self._resume.act(payload)
            except Refused as error:
                raise ActionRefused(error.kind, error.text) from error
            done = self._actions[number] = asyncio.get_running_loop().create_future()
            self._flush()
            await done

    def send_inputs(self, frame: int, newest_first: Sequence[bytes]) -> None:
        """Inputs for `frame`, `frame` - 1 and so on: by UDP when it is up, else on the stream."""
        payload = bytes([len(newest_first)]) + b"".join(newest_first)
        if self._datagrams is not None and self._datagrams.connected:
            self._datagrams.send(protocol.packet(ToServer.INPUT, frame, payload))
            self.counters["inputs_udp"] += 1
        else:
            self._resume.send(ToServer.INPUT, frame, payload)
            self._flush()
            self.counters["inputs_stream"] += 1

    @property
    def cursor(self) -> list[tuple[int, int, int]]:
        """The last handled message id of each sender."""
        return self._resume.cursor.marks()

    @property
    def last_frame(self) -> int:
        """The number of the last frame that was handled, of this session at this server."""
        return self._resume.last_frame

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
                        self._ticket = await self._tickets(Loss(self._resume.session, avoid))
                    await self._serve_one(self._ticket)
                except Ended:
                    raise
                except _Move as move:
                    self._ticket, failures, avoid = move.ticket, 0, move.avoid
                except Exception as error:  # whatever goes wrong on the way, the next try is the answer
                    self._note(error)
                    failures = 1 if self.online.is_set() else failures + 1
                    if isinstance(error, ConnectionRefusedError):
                        failures = max(failures, PLACE_TRIES + 1)  # nobody listens there: ask at once
                finally:
                    await self._cut()
                wait_s = min(RETRY_MOST_S, RETRY_FIRST_S * 2 ** min(failures, 10))
                if failures > PLACE_TRIES and self._ticket is not None:
                    avoid, self._ticket, wait_s = self._ticket.name, None, RETRY_FIRST_S
                if failures or self._ticket is None:
                    await asyncio.sleep(wait_s * self._random.uniform(0.5, 1.5))
        finally:
            for done in self._actions.values():
                done.cancel()

    def _note(self, error: Exception) -> None:
        level = logging.DEBUG if isinstance(error, OSError | TimeoutError) else logging.WARNING
        log.log(level, "connection lost: %s: %s", type(error).__name__, error)
        self.counters["losses"] += 1

    async def _serve_one(self, ticket: Ticket) -> None:
        """One connection, from its login to its end."""
        link = await self._network.open_link(self._transport, ticket.tcp, ticket.ws)
        self._link = link
        link.send(self._resume.login(ticket.token))
        async with asyncio.timeout(LOGIN_TIMEOUT_S):
            while not self._resume.online:
                self._packet(*await link.receive())
        pings = asyncio.ensure_future(self._keep_alive())
        try:
            while True:
                self._packet(*await link.receive())
        finally:
            pings.cancel()

    async def _cut(self) -> None:
        self.online.clear()
        self._resume.lost()
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None
        if self._link is not None:
            link, self._link = self._link, None
            await link.close()

    async def _keep_alive(self) -> None:
        """Pings, and actions again when nothing was acked for a second."""
        ping_at = time.monotonic() + self._ping_s
        waiting = 0
        while True:
            await asyncio.sleep(RESEND_S)
            first = self._resume.oldest_action
            if first and first == waiting:
                self.counters["resends"] += 1
                self._resume.resend()
            waiting = first
            if time.monotonic() - self._heard_at > self._ping_s * SILENT_PINGS:
                self.counters["silent"] += 1
                self.break_connection()  # a half-open connection never says that it is one
                return
            if time.monotonic() >= ping_at:
                ping_at += self._ping_s
                self._resume.send(ToServer.PING, 0)
            self._flush()

    def _flush(self) -> None:
        """Send what the state has for the server."""
        if self._link is not None:
            for packet in self._resume.take():
                self._link.send(packet)

    # --- packets

    def _packet(self, kind: int, sequence: int, payload: bytes) -> None:
        move, self._heard_at = None, time.monotonic()
        for received in self._resume.receive(kind, sequence, payload):
            move = self._handle(received) or move
        self._flush()
        if move is not None:
            raise move

    def _handle(self, received: resume.Received) -> _Move | None:
        """One thing that came; what is raised here has not been handled."""
        match received:
            case resume.Message(id=message_id):
                self._handler.message(message_id, received.content, received.payload)
                self.counters["messages" if message_id.must_deliver else "loose_messages"] += 1
                return self._move(received)
            case resume.Event(values=values):
                self._handler.event(dict(values))
                self.counters["events"] += 1
            case resume.Snapshot(values=values):
                self._handler.snapshot(dict(values))
            case resume.ActionDone():
                self._action_done(received)
            case resume.Welcome(values=values):
                self._welcome(dict(values))
            case resume.Repeated(what=what):
                self.counters[f"repeated_{what}s"] += 1
            case resume.Bye():
                self._bye(received)
        return None

    def _welcome(self, welcome: dict[str, Any]) -> None:
        self.server = self._resume.server
        self._ping_s = float(welcome["ping_ms"]) / 1_000
        self.online.set()
        self._flush()
        if self._use_udp and welcome["connect_token"]:
            self._datagrams = self._network.datagrams(b64decode(welcome["connect_token"]), welcome["udp"])
            self._datagrams.start()
        self.counters["resumes" if welcome["resumed"] else "logins"] += 1
        self._handler.welcome(welcome)

    def _move(self, message: resume.Message) -> _Move | None:
        """A match waits for the player at another server: go there, once this message is acked."""
        if message.content != protocol.CONTENT_JSON or not message.id.must_deliver:
            return None
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            values = orjson.loads(message.payload)
            if values["type"] in MOVES and values["server"]["name"] != self._resume.server:
                server = values["server"]
                if (
                    not self._resume.token
                ):  # older than a session may get: the manager knows where the match is
                    return _Move(None)
                return _Move(Ticket(self._resume.token, server["name"], server["tcp"], server["ws"]))
        return None

    def _action_done(self, done: resume.ActionDone) -> None:
        future = self._actions.pop(done.number, None)
        if future is None or future.done():
            return
        if done.error:
            future.set_exception(ActionRefused(done.error, done.text))
        else:
            future.set_result(None)

    def _bye(self, bye: resume.Bye) -> None:
        self.counters[f"bye_{bye.reason}"] += 1
        if bye.again == "no":
            raise Ended(bye.reason)
        if bye.again == "token":
            self._resume.token = ""
            raise _Move(None)
        if bye.again == "moved" and bye.server is not None:
            server = bye.server
            raise _Move(Ticket(self._resume.token, server["name"], server["tcp"], server["ws"]))
        if bye.again in ("other", "moved"):
            raise _Move(None, self._resume.server)
        raise resume.Broken(bye.reason)


class _Move(Exception):
    """Log in with this ticket, or with a new one."""

    def __init__(self, ticket: Ticket | None, avoid: str = "") -> None:
        super().__init__(ticket)
        self.ticket = ticket
        self.avoid = avoid


__all__ = ["ActionRefused", "Client", "Ended", "Handler", "Loss", "Refused", "Ticket", "Tickets"]
