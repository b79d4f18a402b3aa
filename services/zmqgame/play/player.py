"""A player's session on one game server: numbered frames kept until acked, numbered actions, one connection.

Pure: no socket, no bus. A session lives from a login until its player is elsewhere or gone for the grace
time; connections come and go in it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from zmqgame import limits
from zmqgame.protocol import RawId


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
    token_until_ms: int = 0
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

    @property
    def kept(self) -> int:
        """How many frames wait for the client's ack."""
        return len(self._kept)
