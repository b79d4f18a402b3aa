"""How a match and its players outlive their server.

`Keeper` gives the manager what is new in each match, again and again: after a kill -9 another server goes on
from there. `Handover` is the way of a server that stops in order: matches and sessions go to other servers
whole, then each client is told where to go on; nothing is lost and nothing comes twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping

from zmqgame_bus.errors import BusError
from zmqgame_bus.node import Node

from zmqgame import limits
from zmqgame.play.checkpoint import Part, Progress, next_part
from zmqgame.play.match import MatchRun
from zmqgame.play.matches import Matches
from zmqgame.play.player import Session
from zmqgame.play.rules import Refused
from zmqgame.play.sessions import Sessions

log = logging.getLogger(__name__)

ASK_S = 3.0


class Keeper:
    """This server's matches, kept at the manager."""

    def __init__(self, name: str, instance: int, node: Node, matches: Matches) -> None:
        self._name = name
        self._instance = instance
        self._node = node
        self._matches = matches
        self._progress: dict[str, Progress] = {}
        self.counters: Counter[str] = Counter()

    def begin_anew(self) -> None:
        """A manager that has just started has kept nothing."""
        self._progress.clear()

    async def keep(self, now_ms: int) -> None:
        """Everything that is new since the last time, in as many requests as it takes."""
        batch: list[Part] = []
        size = 0
        for part in self._parts(now_ms):
            part_bytes = (len(part.head) + len(part.body)) * 4 // 3 + 256
            if batch and size + part_bytes > limits.CHECKPOINT_BATCH_BYTES:
                await self._send(batch, now_ms)
                batch, size = [], 0
            batch.append(part)
            size += part_bytes
        if batch:
            await self._send(batch, now_ms)

    def _parts(self, now_ms: int) -> list[Part]:
        open_matches = {run.id: run for run in self._matches.open() if not run.catching_up}
        self._progress = {match: self._progress.get(match, Progress()) for match in open_matches}
        return [self.part(run, now_ms) for run in open_matches.values() if not self._progress[run.id].full]

    def part(self, run: MatchRun, now_ms: int) -> Part:
        """What is new in one match; without its body once it is over the limit: it can't be restored then."""
        progress = self._progress.setdefault(run.id, Progress())
        part = next_part(run, progress, now_ms)
        if progress.full:
            self.counters["too_long"] += 1
            told = {"match": run.id, "limit": limits.CHECKPOINT_BYTES, "bytes": progress.bytes}
            log.warning("match %s: its record is too long to be kept", run.id, extra=told)
            return Part(run.id, run.epoch, -1, b"", b"")
        return part

    async def _send(self, parts: list[Part], now_ms: int) -> None:
        request = {
            "op": "checkpoint",
            "server": self._name,
            "instance": str(self._instance),
            "parts": [part.to_json() for part in parts],
        }
        try:
            reply = (await self._node.request("manager", request, timeout_s=ASK_S)).json()
        except (BusError, TimeoutError) as error:
            log.debug("checkpoints: %s", error)
            reply = {"again": [part.match for part in parts]}  # not known what it has: all of it anew
        self.counters["parts"] += len(parts)
        for match in reply.get("again", ()):
            self.counters["again"] += 1
            self._progress.pop(match, None)
        for match in reply.get("abandon", ()):
            self.counters["abandoned"] += 1
            log.warning("match %s goes on at another server", match)
            self._matches.abandon(match)
        for match in reply.get("unknown", ()):
            log.warning("match %s has ended at the manager", match)
            self._matches.abort(match, now_ms, "ended by the manager")


class Handover:
    """One server's end in order."""

    def __init__(self, name: str, keeper: Keeper, node: Node, matches: Matches, sessions: Sessions) -> None:
        self._name = name
        self._keeper = keeper
        self._node = node
        self._matches = matches
        self._sessions = sessions
        self._room = asyncio.Semaphore(limits.HANDOVERS_AT_ONCE)

    async def run(self, instance: int, now_ms: int) -> None:
        """Move what can be moved within the time for it; what is left is the caller's."""
        until = time.monotonic() + limits.HANDOVER_S
        self._matches.frozen = True
        self._sessions.freeze()
        if not self._sessions.by_player and not self._matches.open():
            return
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
                await self._keeper.keep(now_ms)
                places = await self._places(instance)
                await asyncio.gather(
                    *(
                        self._move(session, places[session.player])
                        for session in list(self._sessions.by_player.values())
                        if session.player in places
                    )
                )
        except (TimeoutError, BusError) as error:
            log.warning("not everything could be handed over: %s %s", type(error).__name__, error)
        self._sessions.flush()
        await self._sessions.all_moved(limits.HANDOVER_LINGER_S)

    async def _places(self, instance: int) -> Mapping[str, Mapping[str, str]]:
        """Where each player goes; the manager has moved the matches when it answers."""
        request = {
            "op": "hand_over",
            "server": self._name,
            "instance": str(instance),
            "matches": [run.id for run in self._matches.open()],
            "players": list(self._sessions.by_player),
        }
        reply = (await self._node.request("manager", request, timeout_s=limits.HANDOVER_S)).json()
        if not reply.get("ok"):
            log.warning("nothing is handed over: %s", reply)
            return {}
        for match in reply["moved"]:
            self._matches.abandon(match)
        servers = reply["servers"]
        return {player: servers[name] for player, name in reply["players"].items()}

    async def _move(self, session: Session, server: Mapping[str, str]) -> None:
        async with self._room:
            try:
                request = {"op": "adopt_session", "session": session.export()}
                reply = (await self._node.request(f"game:{server['name']}", request, timeout_s=ASK_S)).json()
            except Refused as error:
                reply = {"ok": False, "error": error.kind, "text": error.text}
            except BusError as error:
                reply = {"ok": False, "error": str(error)}
            if reply.get("ok") and self._sessions.by_player.get(session.player) is session:
                self._sessions.moved(session, server)
            elif not reply.get("ok"):
                self._sessions.counters["not_handed_over"] += 1
                log.warning("session of %s was not handed over: %s", session.player, reply)
