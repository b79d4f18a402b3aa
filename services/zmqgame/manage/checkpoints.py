"""What the manager keeps of each running match, so that another server can go on with it. Pure, in memory.

It reads nothing of it. A match's parts come in order; a part that does not follow is asked for anew, from
number 0. What is over a limit is not kept: such a match aborts when its server dies.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any

from zmqgame import limits
from zmqgame.play.checkpoint import Part


@dataclass
class Kept:
    """One match."""

    epoch: int
    head: bytes = b""
    bodies: list[bytes] = field(default_factory=list)
    bytes: int = 0


class Checkpoints:
    """By match."""

    def __init__(self, most_bytes: int = limits.CHECKPOINTS_BYTES) -> None:
        self.bytes = 0
        self.refused = 0  # matches that can't go on elsewhere, for they or all together were over a limit
        self._most_bytes = most_bytes
        self._kept: dict[str, Kept] = {}

    def put(self, part: Part) -> bool:
        """Keep a part; False: it is not the next one, the match has to begin again."""
        kept = self._kept.get(part.match)
        if part.number < 0:
            self.drop(part.match)  # too long to be kept
            self.refused += 1
            return True
        if part.number == 0:
            self.drop(part.match)
            kept = self._kept[part.match] = Kept(part.epoch)
        if kept is None or kept.epoch != part.epoch or part.number != len(kept.bodies):
            return False
        grown = len(part.body) + len(part.head) - len(kept.head)
        if (
            kept.bytes + grown > limits.CHECKPOINT_BYTES
            or self.bytes + grown > self._most_bytes
            or part.number >= limits.CHECKPOINT_PARTS
        ):
            self.drop(part.match)
            self.refused += 1
            return True
        kept.head = part.head
        kept.bodies.append(part.body)
        kept.bytes += grown
        self.bytes += grown
        return True

    def request(self, match: str) -> dict[str, Any] | None:
        """What a game server needs for going on with a match; None if it can't be."""
        kept = self._kept.get(match)
        if kept is None:
            return None
        return {
            "op": "restore_match",
            "match": match,
            "head": b64encode(kept.head).decode(),
            "bodies": [b64encode(body).decode() for body in kept.bodies],
        }

    def drop(self, match: str) -> None:
        """The match has ended, or its parts don't count any more."""
        kept = self._kept.pop(match, None)
        if kept is not None:
            self.bytes -= kept.bytes

    def __len__(self) -> int:
        return len(self._kept)
