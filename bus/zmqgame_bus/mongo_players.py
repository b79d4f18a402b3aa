"""What the document store remembers of players: their rows by number, their marks, whether they are known.

One hub writes the store, so what it has read once and changed itself stays true; a seal keeps others from
relying on it. After an operation of unknown outcome everything here is forgotten and read again. Bounded:
players that were not named for long are forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .limits import MONGO_CACHED_ROWS, MONGO_PLAYERS
from .mailbox import DEFERRED_KEY

__all__ = ["CachedRow", "Mark", "PlayerState", "Players"]

Mark = tuple[int, int]
"""Epoch and seq of one sender's message, in lexicographic order."""

_NONE: Mark = (-1, -1)


class CachedRow(NamedTuple):
    """A row without its payload."""

    row: int
    sender: int
    epoch: int
    seq: int
    bytes: int

    @property
    def mark(self) -> Mark:
        """What is compared with a mark of its sender."""
        return (self.epoch, self.seq)


@dataclass(slots=True)
class PlayerState:
    """One player's mailbox, as the store has it once the batch under way is committed."""

    known: bool = False
    rows: list[CachedRow] = field(default_factory=list)
    """Oldest first."""
    bytes: int = 0
    """Payload of the rows."""
    last: dict[int, Mark] = field(default_factory=dict)
    """By sender: the last row."""
    marks: dict[int, Mark] = field(default_factory=dict)
    """By sender: all up to it was handled."""
    deferred: dict[Any, tuple[int, Mark, int]] = field(default_factory=dict)
    """Messages for later, by document: sender, id, payload bytes."""
    deferred_bytes: int = 0
    deferred_last: dict[int, Mark] = field(default_factory=dict)
    """By sender: the last of them that waits."""
    deferred_marks: dict[int, Mark] = field(default_factory=dict)
    """By sender: the last of them that became a row."""
    mark_ids: list[Any] = field(default_factory=list)
    """The documents that hold the marks; more than one after a crash."""
    trimmed: dict[int, Mark] = field(default_factory=dict)
    """By sender: up to it nothing is sent again [24], so a row that is settled needs no mark."""

    def accepted(self) -> dict[int, Mark]:
        """By sender: the last id that was handled or has a row, unless its sender is done with it."""
        accepted = dict(self.marks)
        for sender, mark in self.last.items():
            # Nobody repeats what the deferred list sent.
            if sender != DEFERRED_KEY and mark > self.trimmed.get(sender, _NONE):
                accepted[sender] = max(accepted.get(sender, _NONE), mark)
        return accepted

    def has(self, sender: int, mark: Mark) -> bool:
        """Whether the message was appended or handled before [20]."""
        return max(self.marks.get(sender, _NONE), self.last.get(sender, _NONE)) >= mark

    def has_row(self, sender: int, mark: Mark) -> bool:
        """Whether the message itself waits here."""
        return any(row.sender == sender and row.mark == mark for row in reversed(self.rows))

    def put(self, row: CachedRow) -> None:
        """Add a row behind all others."""
        self.rows.append(row)
        self.bytes += row.bytes
        self.last[row.sender] = max(self.last.get(row.sender, _NONE), row.mark)

    def take(self, rows: Iterable[CachedRow]) -> list[CachedRow]:
        """Remove these rows; returns them."""
        gone = list(rows)
        if not gone:
            return gone
        numbers = {row.row for row in gone}
        kept = [row for row in self.rows if row.row not in numbers]
        self.rows, self.bytes, self.last = [], 0, {}
        for row in kept:
            self.put(row)
        self.trimmed = {sender: mark for sender, mark in self.trimmed.items() if sender in self.last}
        return gone

    def is_handled(self, sender: int, mark: Mark) -> bool:
        """Whether a mark covers it."""
        return self.marks.get(sender, _NONE) >= mark

    def is_trimmed(self, sender: int, mark: Mark) -> bool:
        """Whether its sender said that it never repeats it."""
        return self.trimmed.get(sender, _NONE) >= mark

    def used(self) -> tuple[int, int]:
        """Messages and their payload bytes, as the quota counts them."""
        return len(self.rows) + len(self.deferred), self.bytes + self.deferred_bytes

    def has_deferred(self, sender: int, mark: Mark) -> bool:
        """Whether the message was deferred before."""
        return max(self.deferred_marks.get(sender, _NONE), self.deferred_last.get(sender, _NONE)) >= mark

    def defer(self, document: Any, sender: int, mark: Mark, size: int) -> None:
        """Add a message for later."""
        self.deferred[document] = (sender, mark, size)
        self.deferred_bytes += size
        self.deferred_last[sender] = max(self.deferred_last.get(sender, _NONE), mark)

    def undefer(self, document: Any) -> tuple[int, Mark] | None:
        """Remove one; returns sender and id if it was there."""
        found = self.deferred.pop(document, None)
        if found is None:
            return None
        self.deferred_bytes -= found[2]
        self.deferred_last = {}
        for sender, mark, _ in self.deferred.values():
            self.deferred_last[sender] = max(self.deferred_last.get(sender, _NONE), mark)
        return found[:2]

    def promote(self, document: Any) -> None:
        """It became a row: a mark takes its place."""
        found = self.undefer(document)
        if found is not None:
            self.note_deferred(*found)

    def note_deferred(self, sender: int, mark: Mark) -> None:
        """A message for later became a row."""
        self.deferred_marks[sender] = max(self.deferred_marks.get(sender, _NONE), mark)

    def trim(self, sender: int, mark: Mark) -> bool:
        """The sender repeats nothing up to this; returns whether a mark went."""
        went = False
        for marks in (self.marks, self.deferred_marks):
            if marks.get(sender, (1 << 65, 0)) <= mark:
                del marks[sender]
                went = True
        if sender in self.last:
            self.trimmed[sender] = max(self.trimmed.get(sender, _NONE), mark)
        return went

    def handled(self, sender: int, mark: Mark) -> bool:
        """Raise a mark; returns whether it was lower."""
        if self.marks.get(sender, _NONE) >= mark:
            return False
        self.marks[sender] = mark
        return True


class Players:
    """The states, those named last at the end."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, PlayerState] = OrderedDict()

    def __getitem__(self, player: str) -> PlayerState:
        return self._states[player]

    def __contains__(self, player: str) -> bool:
        return player in self._states

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def add(self, player: str, state: PlayerState) -> None:
        """Remember a player."""
        self._states[player] = state

    def touch(self, player: str) -> None:
        """The player was named."""
        self._states.move_to_end(player)

    def clear(self) -> None:
        """Forget all: nobody knows what the store has."""
        self._states.clear()

    def shrink(self) -> None:
        """Forget what is over the bound, the longest unnamed first."""
        rows = sum(len(state.rows) for state in self._states.values())
        while self._states and (len(self._states) > MONGO_PLAYERS or rows > MONGO_CACHED_ROWS):
            _, state = self._states.popitem(last=False)
            rows -= len(state.rows)
