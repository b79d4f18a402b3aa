"""The queue: tickets in order of arrival, matches by size. Pure: the time is an argument.

A match is made when `size` players wait, or with fewer (at least `fewest`) once the oldest has waited long
enough. A player has one ticket; one who still plays keeps the place and is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from zmqgame import limits
from zmqgame.play.rules import Refused


@dataclass(frozen=True)
class Ticket:
    """A player who waits for a match."""

    player: str
    server: str
    car: str
    since_ms: int
    extra: dict[str, Any] = field(default_factory=dict)


class Queue:
    """Tickets by player, oldest first."""

    def __init__(self, size: int, fewest: int, patience_ms: int, most: int = limits.MAX_QUEUE) -> None:
        if not 1 <= fewest <= size <= limits.MAX_MATCH_PLAYERS:
            raise ValueError(
                f"a match of {fewest} to {size} players; 1 to {limits.MAX_MATCH_PLAYERS} are possible"
            )
        self.size = size
        self.fewest = fewest
        self.patience_ms = patience_ms
        self.most = most
        self._tickets: dict[str, Ticket] = {}

    def put(self, ticket: Ticket) -> bool:
        """Queue a player; one who is queued keeps the place, with the new server and car. True if new."""
        old = self._tickets.get(ticket.player)
        if old is None and len(self._tickets) >= self.most:
            raise Refused("limit", f"queue: {self.most} players wait already")
        since_ms = ticket.since_ms if old is None else old.since_ms
        self._tickets[ticket.player] = Ticket(
            ticket.player, ticket.server, ticket.car, since_ms, ticket.extra
        )
        return old is None

    def put_back(self, tickets: list[Ticket]) -> None:
        """Tickets of a match that came to nothing: to the front again."""
        self._tickets = {ticket.player: ticket for ticket in tickets} | self._tickets

    def remove(self, player: str, server: str = "") -> bool:
        """The player waits no more (when a server is named: if its ticket is from there). True if it did."""
        ticket = self._tickets.get(player)
        if ticket is None or server not in ("", ticket.server):
            return False
        del self._tickets[player]
        return True

    def take(self, now_ms: int, free: Callable[[str], bool] = lambda player: True) -> Iterator[list[Ticket]]:
        """Matches that can be made now, oldest tickets first; `free` says who does not play."""
        waiting = [ticket for ticket in self._tickets.values() if free(ticket.player)]
        while len(waiting) >= self.size:
            yield self._pop(waiting[: self.size])
            waiting = waiting[self.size :]
        if len(waiting) >= self.fewest and now_ms - waiting[0].since_ms >= self.patience_ms:
            yield self._pop(waiting)

    def _pop(self, tickets: list[Ticket]) -> list[Ticket]:
        for ticket in tickets:
            del self._tickets[ticket.player]
        return tickets

    def __contains__(self, player: str) -> bool:
        return player in self._tickets

    def __len__(self) -> int:
        return len(self._tickets)
