"""What a client holds over all connections, and what follows from each packet. Pure: no socket, no clock.

A shell around it (`zmqgame.client`, or your own) does this for each connection:

    shell.send(resume.login(token))             # the first packet
    for done in resume.receive(packet):         # for each packet that comes
        ... do it: show, store, move on ...     # the mark moves after this, and only then the frame is acked
    for packet in resume.take():                # after each of the two, and after `act`
        shell.send(packet)

`receive` yields what is to be handled, in order and once. Who breaks off in the middle of handling (an
exception) has not handled: it comes again after the next login.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from zmqgame import limits, protocol
from zmqgame.play.rules import Refused
from zmqgame.protocol import Cursor, RawId, ToClient, ToServer

__all__ = [
    "ActionDone",
    "Broken",
    "Bye",
    "Event",
    "Message",
    "Received",
    "Repeated",
    "Resume",
    "Snapshot",
    "Welcome",
]


class Broken(ConnectionError):
    """What came can't be right: cut this connection, log in again, and nothing is missing."""


@dataclass(frozen=True)
class Welcome:
    """Logged in."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class Message:
    """A bus message, once. `id.must_deliver` False: one of `latest` or `droppable`, without an ack."""

    id: RawId
    content: int
    payload: bytes


@dataclass(frozen=True)
class Event:
    """An event of the server or the match, once and in order."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """The state of the match; the newest counts."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class ActionDone:
    """An action was done, or refused for good: then `error` is its kind."""

    number: int
    error: str = ""
    text: str = ""


@dataclass(frozen=True)
class Repeated:
    """Something that was handled before: `what` is frame or message."""

    what: str


@dataclass(frozen=True)
class Bye:
    """The server ends the connection; `again` says what to do, `server` where to go on (again: moved)."""

    reason: str
    again: str
    text: str = ""
    server: Mapping[str, str] | None = None


Received = Welcome | Message | Event | Snapshot | ActionDone | Repeated | Bye


class Resume:
    """One player's client: session, cursor, last frame, actions without an ack."""

    def __init__(self) -> None:
        self.session = 0
        self.login_number = 0
        self.server = ""
        self.token = ""
        self.last_frame = 0
        self.cursor = Cursor()
        self.online = False
        self.leaving = False
        self._actions: dict[int, bytes] = {}
        self._next_action = 1
        self._out: list[bytes] = []

    # --- what the shell asks for

    def login(self, token: str) -> bytes:
        """The first packet of a connection; what was not sent before it counts as lost."""
        self._out.clear()
        self.online = False
        values = protocol.Login(
            self.token or token,
            self.session,
            self.login_number,
            self.last_frame,
            self.cursor.marks(),
            min(self._actions, default=self._next_action) - 1,
        )
        return protocol.packet(ToServer.LOGIN, 0, values.dump())

    def lost(self) -> None:
        """The connection is gone."""
        self.online = False
        self._out.clear()

    def act(self, payload: bytes) -> int:
        """An action, kept until its ack; returns its number. Raises `Refused` when too many wait."""
        if len(self._actions) >= limits.MAX_UNACKED_ACTIONS:
            raise Refused("limit", f"{limits.MAX_UNACKED_ACTIONS} actions wait for their ack")
        if len(payload) > limits.MAX_ACTION_BYTES:
            raise Refused("limit", f"an action of {len(payload)} bytes is over {limits.MAX_ACTION_BYTES}")
        number, self._next_action = self._next_action, self._next_action + 1
        self._actions[number] = payload
        self._send(ToServer.ACTION, number, payload)
        return number

    def leave(self) -> None:
        """Log out: from now on nothing is handled, so that the next session gets it."""
        self.leaving = True
        self._send(ToServer.LEAVE, 0)

    def resend(self) -> None:
        """Send all actions without an ack again: after a second without one."""
        for number, payload in self._actions.items():
            self._send(ToServer.ACTION, number, payload)

    def send(self, kind: int, sequence: int, payload: bytes = b"") -> None:
        """A packet that needs no memory: inputs on the stream, a ping."""
        self._send(kind, sequence, payload)

    def take(self) -> list[bytes]:
        """What is to be sent."""
        out, self._out = self._out, []
        return out

    @property
    def waiting(self) -> int:
        """Actions without an ack."""
        return len(self._actions)

    @property
    def oldest_action(self) -> int:
        """The number of the first action without an ack; 0 if there is none."""
        return next(iter(self._actions), 0)

    def _send(self, kind: int, sequence: int, payload: bytes = b"") -> None:
        if self.online:
            self._out.append(protocol.packet(kind, sequence, payload))

    # --- what comes

    def receive(self, kind: int, sequence: int, payload: bytes) -> Iterator[Received]:
        """What follows from a packet; raises `Broken` when it can't be right."""
        try:
            yield from self._receive(kind, sequence, payload)
        except (Refused, KeyError, ValueError, TypeError, AttributeError) as error:
            raise Broken(f"packet {kind:#x}: {type(error).__name__} {error}"[:200]) from error

    def _receive(self, kind: int, sequence: int, payload: bytes) -> Iterator[Received]:
        if kind == ToClient.BYE:
            yield self._bye(payload)
        elif kind == ToClient.WELCOME:
            yield from self._welcome(payload)
        elif not self.online:
            raise Broken(f"kind {kind:#x} before welcome")
        elif kind in (ToClient.MESSAGE, ToClient.EVENT):
            yield from self._frame(kind, sequence, payload)
        elif kind == ToClient.SNAPSHOT:
            yield Snapshot(_object(payload))
        elif kind == ToClient.ACTION_ACK:
            yield from self._acked(sequence, payload)
        elif kind == ToClient.FORGET:
            self.cursor.forget(protocol.read_id(payload))

    def _bye(self, payload: bytes) -> Bye:
        bye = _object(payload)
        self.lost()
        return Bye(str(bye["reason"]), str(bye["again"]), str(bye.get("text", "")), bye.get("server"))

    def _welcome(self, payload: bytes) -> Iterator[Received]:
        welcome = _object(payload)
        session, login = protocol.u64(welcome["session"]), protocol.u64(welcome["login"])
        last_action, resumed = protocol.u64(welcome["last_action"]), welcome["resumed"]
        if not isinstance(resumed, bool) or not isinstance(welcome["token"], str):
            raise Broken("welcome without resumed and token")
        if last_action >> 63:
            raise Broken(f"last_action {last_action}: nobody has done so many actions")
        self.session, self.login_number, self.token = session, login, welcome["token"]
        self.server = str(welcome["server"])
        if not resumed:
            self.last_frame = 0
        self._next_action = max(self._next_action, last_action + 1)
        done = [number for number in self._actions if number <= last_action]
        for number in done:
            del self._actions[number]
        self.online = True
        self.resend()
        if self.leaving:
            self._send(ToServer.LEAVE, 0)
        yield Welcome(welcome)
        for number in done:
            yield ActionDone(number)

    def _frame(self, kind: int, number: int, payload: bytes) -> Iterator[Received]:
        if self.leaving:
            return  # the server may have our cursor already: what is handled now, the next session gets again
        if number == 0 and kind == ToClient.MESSAGE:
            yield Message(*protocol.read_message(payload))
            return
        if number <= self.last_frame:
            yield Repeated("frame")
        elif number != self.last_frame + 1:
            raise Broken(f"frame {number} after {self.last_frame}")  # come back and get what lacks
        elif kind == ToClient.MESSAGE:
            yield from self._message(payload)
            self.last_frame = number
        else:
            yield from self._event(payload)
            self.last_frame = number
        self._send(ToServer.ACK, self.last_frame)

    def _message(self, payload: bytes) -> Iterator[Received]:
        message = Message(*protocol.read_message(payload))
        if self.cursor.seen(message.id):
            yield Repeated("message")
            return
        yield message
        self.cursor.handle(message.id)

    def _event(self, payload: bytes) -> Iterator[Received]:
        event = _object(payload)
        if event.get("type") == "token":
            if not isinstance(event["token"], str):
                raise Broken("event token without a token")
            self.token = event["token"]
        else:
            yield Event(event)

    def _acked(self, number: int, payload: bytes) -> Iterator[Received]:
        if self._actions.pop(number, None) is None:
            return
        if not payload:
            yield ActionDone(number)
            return
        answer = _object(payload)
        yield ActionDone(number, str(answer["error"]), str(answer.get("text", "")))


def _object(payload: bytes) -> Mapping[str, Any]:
    values = orjson.loads(payload)
    if not isinstance(values, dict):
        raise Broken("not a JSON object")
    return values
