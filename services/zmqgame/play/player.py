"""A player's session on one game server: numbered frames kept until acked, numbered actions, one connection.

Pure: no socket, no bus. A session lives from a login until its player is elsewhere or gone for the grace
time; connections come and go in it.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from zmqgame import limits, protocol
from zmqgame.play.rules import Refused
from zmqgame.protocol import RawId, ToClient


@dataclass(frozen=True)
class Frame:
    """What a client gets under a frame number, until it acks it."""

    number: int
    kind: int
    payload: bytes
    message_id: RawId | None = None


class Overfull(Exception):
    """The client acks too slowly: a limit of its session is reached."""

    def __init__(self, player: str, limit: str, value: int) -> None:
        super().__init__(f"{player}: {value} {limit}")
        self.limit = limit


class Turn(Enum):
    """What to do with an action that has this number."""

    HANDLE = "handle"
    AGAIN = "again"  # handled before: only its ack was lost
    GAP = "gap"  # one before it is missing: the client sends both again
    OVER_RATE = "over_rate"


class TokenBucket:
    """So many a second, with a burst."""

    def __init__(self, rate: float, burst: float, now_ms: int) -> None:
        self.rate = rate
        self.burst = burst
        self._left = burst
        self._at_ms = now_ms

    def take(self, now_ms: int, amount: int = 1) -> bool:
        """So many more, if there is room."""
        self._left = min(self.burst, self._left + (now_ms - self._at_ms) * self.rate / 1_000)
        self._at_ms = now_ms
        if self._left < amount:
            return False
        self._left -= amount
        return True


@dataclass
class Session:
    """One player at this server."""

    player: str
    session: int
    login: int
    now_ms: int
    connection: int | None = None
    udp: int | None = None
    gone_at_ms: int | None = None
    queued_car: str | None = None
    last_action: int = 0
    auth_ms: int = 0  # when the manager let the player in, by the wall clock
    token_until_ms: int = 0
    leaving: bool = False  # the bus is asked to log the player out
    _next_frame: int = 1
    _kept: deque[Frame] = field(default_factory=deque)
    _kept_bytes: int = 0
    _bucket: TokenBucket = field(init=False)
    input_bucket: TokenBucket = field(init=False)
    loose_bucket: TokenBucket = field(init=False)

    def __post_init__(self) -> None:
        self._bucket = TokenBucket(limits.ACTIONS_PER_SECOND, limits.ACTION_BURST, self.now_ms)
        self.input_bucket = TokenBucket(limits.INPUT_PACKETS_PER_SECOND, limits.INPUT_BURST, self.now_ms)
        self.loose_bucket = TokenBucket(limits.LOOSE_BYTES_PER_SECOND, limits.LOOSE_BYTES_BURST, self.now_ms)

    def push(self, kind: int, payload: bytes, message_id: RawId | None = None) -> Frame:
        """Number and keep a frame; raises `Overfull`. Bus messages are bounded by the hub already."""
        frame = Frame(self._next_frame, kind, payload, message_id)
        if message_id is None:
            if len(self._kept) >= limits.KEPT_FRAMES:
                raise Overfull(self.player, "kept frames", len(self._kept))
            if self._kept_bytes + len(payload) > limits.KEPT_BYTES:
                raise Overfull(self.player, "kept bytes", self._kept_bytes)
            self._kept_bytes += len(payload)
        self._next_frame += 1
        self._kept.append(frame)
        return frame

    def ack(self, number: int) -> list[RawId]:
        """The client has handled all frames up to `number`; returns the bus messages among them, in order."""
        handled = []
        while self._kept and self._kept[0].number <= number:
            frame = self._kept.popleft()
            if frame.message_id is None:
                self._kept_bytes -= len(frame.payload)
            else:
                handled.append(frame.message_id)
        return handled

    def after(self, number: int) -> list[Frame]:
        """The kept frames that a client which has seen `number` lacks."""
        return [frame for frame in self._kept if frame.number > number]

    @property
    def last_frame(self) -> int:
        """The newest frame number that was given."""
        return self._next_frame - 1

    def oldest_message(self) -> RawId | None:
        """The first bus message that waits for the client's ack."""
        return next((frame.message_id for frame in self._kept if frame.message_id is not None), None)

    def holds(self, message_id: RawId) -> bool:
        """Whether this bus message is in a kept frame already."""
        return any(frame.message_id == message_id for frame in self._kept)

    def turn(self, number: int, now_ms: int) -> Turn:
        """What to do with the action of this number."""
        if number <= self.last_action:
            return Turn.AGAIN
        if number > self.last_action + 1:
            return Turn.GAP
        return Turn.HANDLE if self._bucket.take(now_ms) else Turn.OVER_RATE

    # --- to another server

    def export(self) -> dict[str, Any]:
        """All of it, for another server; raises `Refused` when it is too much for one message."""
        size = sum(len(frame.payload) for frame in self._kept) * 4 // 3 + 64 * len(self._kept)
        if size > limits.HANDOVER_BYTES:
            text = f"{self.player}: {size} bytes of kept frames, {limits.HANDOVER_BYTES} can move"
            raise Refused("limit", text)
        return {
            "player": self.player,
            "session": str(self.session),
            "login": str(self.login),
            "auth_ms": self.auth_ms,
            "last_action": self.last_action,
            "queued_car": self.queued_car,
            "next_frame": self._next_frame,
            "frames": [
                [frame.number, frame.kind, b64encode(frame.payload).decode(), _id_text(frame.message_id)]
                for frame in self._kept
            ],
        }

    @classmethod
    def adopt(cls, values: Mapping[str, Any], now_ms: int) -> Session:
        """What `export` made at another server; raises `Refused` for anything else."""
        try:
            made = cls(
                str(values["player"]),
                protocol.u64(values["session"]),
                protocol.u64(values["login"]),
                now_ms,
                gone_at_ms=now_ms,
                queued_car=values["queued_car"],
                last_action=protocol.u64(values["last_action"]),
                auth_ms=protocol.u64(values["auth_ms"]),
            )
            for number, kind, payload, message_id in values["frames"]:
                if kind != (ToClient.MESSAGE if message_id else ToClient.EVENT):
                    raise Refused("malformed", f"a frame of kind {kind}")
                made._next_frame = protocol.u64(number)
                raw_id = RawId(*map(protocol.u64, message_id)) if message_id else None
                made.push(kind, b64decode(payload), raw_id)
            made._next_frame = protocol.u64(values["next_frame"])
        except (KeyError, ValueError, TypeError, Overfull) as error:
            raise Refused("malformed", f"session: {type(error).__name__} {error}"[:200]) from error
        numbers = [frame.number for frame in made._kept] + [made._next_frame]
        first = made._next_frame - made.kept
        if first < 1 or numbers != list(range(first, made._next_frame + 1)):
            raise Refused("malformed", "session: a gap in its frames")
        return made

    @property
    def kept(self) -> int:
        """How many frames wait for the client's ack."""
        return len(self._kept)


def _id_text(message_id: RawId | None) -> list[str] | None:
    return None if message_id is None else [str(number) for number in message_id]
