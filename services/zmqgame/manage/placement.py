"""Which game server: the least loaded one that is alive and has room. Pure: the time is an argument.

Between two reports of a server, what was placed there counts as well, so a rush does not go to one server.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from zmqgame import limits
from zmqgame.play.rules import Refused


@dataclass
class Server:
    """A game server as its last report shows it."""

    name: str
    instance: int  # a number of its process: another one is another process
    addresses: dict[str, str]  # tcp, ws, udp
    players: int
    matches: int
    capacity: int  # players
    match_capacity: int
    seen_ms: int
    up: bool = True
    placed: int = 0  # players sent there since the last report
    placed_matches: int = 0
    draining: bool = False

    def load(self) -> float:
        """Between 0 and 1, more when overfull."""
        return (self.players + self.placed) / max(1, self.capacity)

    def to_json(self) -> dict[str, Any]:
        """Name and addresses, as clients get them."""
        return {"name": self.name, **self.addresses}


@dataclass
class Servers:
    """All servers, by name."""

    stale_ms: int = 5_000
    by_name: dict[str, Server] = field(default_factory=dict)

    def report(self, server: Server) -> Server | None:
        """A server's load. Returns what was known of it before, None if it is new."""
        before = self.by_name.get(server.name)
        if before is None and len(self.by_name) >= limits.MAX_SERVERS:
            raise Refused("limit", f"servers: {limits.MAX_SERVERS} are known already")
        self.by_name[server.name] = server
        return before

    def alive(self, now_ms: int) -> list[Server]:
        """Servers that are up and have reported lately."""
        return [
            s for s in self.by_name.values() if s.up and not s.draining and now_ms - s.seen_ms < self.stale_ms
        ]

    def for_player(self, now_ms: int, avoid: str = "") -> Server:
        """Where a player logs in; another than `avoid` if there is one."""
        free = [server for server in self.alive(now_ms) if server.players + server.placed < server.capacity]
        server = _least([s for s in free if s.name != avoid] or free)
        server.placed += 1
        return server

    def for_match(self, now_ms: int, at: list[str], avoid: str = "") -> Server:
        """Where a match of players who are now at these servers runs; on a tie, where most of them are."""
        free = [
            server
            for server in self.alive(now_ms)
            if server.name != avoid
            and server.matches + server.placed_matches < server.match_capacity
            and server.players + server.placed + len(at) - at.count(server.name) <= server.capacity
        ]
        if not free:
            raise Refused("no_server", "no game server has room")
        server = min(free, key=lambda s: (s.matches + s.placed_matches, -at.count(s.name), s.load(), s.name))
        server.placed_matches += 1
        server.placed += len(at) - at.count(server.name)
        return server


def _least(servers: list[Server]) -> Server:
    if not servers:
        raise Refused("no_server", "no game server has room")
    return min(servers, key=lambda server: (server.load(), server.name))
