"""The values of the bus as Python sees them: ids, payloads, what is sent, received and reported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import orjson
from zmqgame_native import Delivery, MessageId

__all__ = [
    "OUTCOMES",
    "Attached",
    "Cursor",
    "Delivery",
    "Message",
    "MessageId",
    "Payload",
    "PlayerHandler",
    "PresenceEvent",
    "Receipt",
    "Reply",
    "Report",
    "Request",
    "SentRecord",
    "decode",
    "encode",
]

Payload: TypeAlias = bytes | str | dict[str, Any] | list[Any]

BYTES, TEXT, JSON = range(3)

OUTCOMES = ("unknown", "delivered", "stored", "expired", "refused", "busy", "sent", "dropped", "passed")
"""By their number on the wire; 0 is the sender's own: no receipt in time."""

PRESENCE = ("", "node_up", "node_down", "login", "logout")


def encode(payload: Payload) -> tuple[int, bytes]:
    """A payload's content flag and bytes."""
    if isinstance(payload, bytes):
        return BYTES, payload
    if isinstance(payload, str):
        return TEXT, payload.encode()
    return JSON, orjson.dumps(payload)


def decode(content: int, payload: bytes) -> Any:
    """What was sent: bytes, str, or what JSON holds."""
    if content == TEXT:
        return payload.decode()
    return orjson.loads(payload) if content == JSON else payload


Cursor: TypeAlias = Iterable[MessageId]


@dataclass(frozen=True, slots=True)
class _Content:
    """A payload with its content flag."""

    content: int
    payload: bytes

    def json(self) -> Any:
        """Parse the payload as JSON, whatever its flag says."""
        return orjson.loads(self.payload)

    @property
    def text(self) -> str:
        """The payload as UTF-8."""
        return self.payload.decode()

    @property
    def value(self) -> Any:
        """What was sent: bytes, str, or what JSON holds."""
        return decode(self.content, self.payload)


@dataclass(frozen=True, slots=True)
class Message(_Content):
    """A message for an address of this node, from `async for message in node`."""

    address: str
    id: MessageId


@dataclass(frozen=True, slots=True)
class Request(_Content):
    """A request to a service of this node."""

    service: str
    sender: str
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class Reply(_Content):
    """The answer to a request."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a unicast. `unknown`: no receipt in time, it may still arrive and be delivered."""

    outcome: str
    detail: str
    id: MessageId
    latency_ms: float

    @property
    def acked(self) -> bool:
        """Whether it is safe: handled, or in the mailbox."""
        return self.outcome in ("delivered", "stored")


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a group send or broadcast, recipient by recipient."""

    outcome: str
    """`done`; `refused` as a whole, `detail` says why; `unknown`: no whole report in time."""
    detail: str
    id: MessageId
    latency_ms: float
    counts: Mapping[str, int] = field(default_factory=dict)
    recipients: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """By name: outcome and detail. A broadcast names only those that are neither delivered nor stored."""
    omitted: int = 0

    @property
    def delivered(self) -> int:
        """How many have handled it."""
        return self.counts.get("delivered", 0)

    @property
    def stored(self) -> int:
        """How many have it in their mailbox."""
        return self.counts.get("stored", 0)

    @property
    def refused(self) -> int:
        """How many will not get it."""
        return self.counts.get("refused", 0)


@dataclass(frozen=True, slots=True)
class SentRecord:
    """A final receipt, for the sender's log."""

    id: MessageId
    kind: str
    recipient: str
    outcome: str
    latency_ms: float
    report: Report | None = None


@dataclass(frozen=True, slots=True)
class PresenceEvent:
    """`node_up`, `node_down`, `login`, `logout`; `snapshot`: it is so already, it did not happen now."""

    kind: str
    name: str
    node: str
    snapshot: bool


@dataclass(frozen=True, slots=True)
class Attached:
    """A client's place on this node."""

    login: int
    resumed: bool
    pending: list[Delivery]
    """Of a resumed session: delivered earlier and not acked."""


class PlayerHandler(Protocol):
    """What a node that hosts players for clients is told; called in the event loop, never awaited."""

    def bound(self, player: str, login: int) -> None:
        """The player is hosted here now; deliveries may follow at once."""

    def delivered(self, deliveries: list[Delivery]) -> None:
        """Messages for players, in order; `Node.handled` acks one when its client has handled it,
        `Node.handled_many` all."""

    def dropped(self, player: str, why: str) -> None:
        """The player is hosted elsewhere now: close its client."""

    def forget(self, player: str, up_to: MessageId) -> None:
        """The client may drop its mark of this sender up to here."""
