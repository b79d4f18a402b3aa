"""The demo's operators:
they send all the time, hold every receipt, and write it to ClickHouse as an event.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from typing import Final

from zmqgame_bus.events import Emitter
from zmqgame_bus.messages import Report
from zmqgame_bus.node import Node

from zmqgame.cli.proof import Sent

__all__ = ["Operators"]

RECEIPT_S: Final = 30.0
"""Longer than any of the demo's kills:
a message without a receipt by then is unknown, which the demo reports.
"""

WAITING: Final = 512
"""Messages without a receipt: what goes out in some seconds; the operators wait instead of sending more."""

UNICAST_S: Final = 0.02
MULTICAST_S: Final = 0.1
BROADCAST_S: Final = 0.5

TEAM: Final = 8


class Operators:
    """Two operators with a node each: one writes to players and teams, one to everybody."""

    def __init__(self, personal: Node, public: Node, emitter: Emitter, players: Sequence[str]) -> None:
        self._personal = personal
        self._public = public
        self._emitter = emitter
        self._players = list(players)
        self._teams = [self._players[at : at + TEAM] for at in range(0, len(self._players), TEAM)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(WAITING)
        self._random = random.Random(1)
        self.sent: list[Sent] = []
        self.outcomes: Counter[str] = Counter()
        self.problems: list[str] = []

    async def make_teams(self) -> None:
        """Durable teams: members stay members while they are offline."""
        for number, team in enumerate(self._teams, start=1):
            for player in team:
                await self._personal.join(f"team-{number}", player, durable=True)

    async def run(self, stop: asyncio.Event) -> None:
        """Send until told to stop."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(UNICAST_S, stop, self._unicasts()))
            group.create_task(self._every(MULTICAST_S, stop, self._multicasts()))
            group.create_task(self._every(BROADCAST_S, stop, self._broadcasts()))

    def write_to(self, players: Sequence[str]) -> None:
        """One more to each of these players."""
        for player in players:
            self._start(self._unicast(player))

    async def settle(self, timeout_s: float) -> int:
        """Wait for the receipts that are still out; returns how many did not come."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        return len(self._tasks)

    async def _every(self, seconds: float, stop: asyncio.Event, work: Iterator[Awaitable[None]]) -> None:
        next_at = time.monotonic()
        while not stop.is_set():
            await self._room.acquire()
            self._room.release()
            self._start(next(work))
            next_at = max(next_at + seconds, time.monotonic())
            await asyncio.sleep(next_at - time.monotonic())

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(self._bounded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bounded(self, work: Awaitable[None]) -> None:
        async with self._room:
            try:
                await work
            except Exception as error:
                self.problems.append(f"send: {type(error).__name__}: {error}")

    def _unicasts(self) -> Iterator[Awaitable[None]]:
        yield self._unicast("nobody-of-this-name")  # a typo is refused and fills no mailbox
        while True:
            yield self._unicast(self._random.choice(self._players))

    def _multicasts(self) -> Iterator[Awaitable[None]]:
        while True:
            yield self._multicast(self._random.randrange(len(self._teams)) + 1)

    def _broadcasts(self) -> Iterator[Awaitable[None]]:
        while True:
            yield self._broadcast()

    async def _unicast(self, player: str) -> None:
        receipt = await self._personal.unicast(player, {"note": f"hello {player}"}, timeout_s=RECEIPT_S)
        sent = Sent(receipt.id.numbers(), "unicast", {player: receipt.outcome})
        self._note(sent, str(receipt.id), receipt.latency_ms)

    async def _multicast(self, team: int) -> None:
        text = f"team {team}: raid at nine"
        self._note_report(
            await self._personal.multicast(f"team-{team}", text, timeout_s=RECEIPT_S), "multicast"
        )

    async def _broadcast(self) -> None:
        report = await self._public.broadcast("the server says hello", timeout_s=RECEIPT_S)
        self._note_report(report, "broadcast")

    def _note_report(self, report: Report, kind: str) -> None:
        named = {player: outcome for player, (outcome, _) in report.recipients.items()}
        if report.outcome != "done":
            named[f"the whole {kind}"] = report.outcome
        sent = Sent(report.id.numbers(), kind, named, delivered=report.delivered, stored=report.stored)
        self._note(sent, str(report.id), report.latency_ms)

    def _note(self, sent: Sent, name: str, latency_ms: float) -> None:
        self.sent.append(sent)
        named = Counter(sent.outcomes.values())
        if sent.delivered or sent.stored:
            named |= Counter({"delivered": sent.delivered, "stored": sent.stored})
        self.outcomes += named
        self._emitter.emit(
            "messages",
            id=name,
            sender="operators",
            recipient=next(iter(sent.outcomes)) if sent.kind == "unicast" else "",
            kind=sent.kind,
            outcome=",".join(sorted(named)) or "nobody",
            latency_ms=latency_ms,
        )
