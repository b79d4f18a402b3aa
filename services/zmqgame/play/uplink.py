"""What a game server tells the manager: its load each second, who queues, how matches ended.

The manager may be away; nothing here waits for it longer than a task of its own. Queue requests are repeated
(they are idempotent), results are must-deliver messages to the manager's address.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from zmqgame_bus.errors import BusError
from zmqgame_bus.node import Node

log = logging.getLogger(__name__)

LOAD_EVERY_S = 1.0
RETRY_S = 0.5
QUEUE_TRIES = 40  # 20 s of a manager that is away; the client is told then
RESULT_TRIES = 120


class Uplink:
    """This server's line to the manager."""

    def __init__(self, name: str, node: Node, load: Callable[[], dict[str, Any]]) -> None:
        self._name = name
        self._node = node
        self._load = load
        self._manager = ""  # the instance that answered last: another one has an empty queue
        self._tasks: set[asyncio.Task[None]] = set()
        self.instance = time.time_ns() // 1_000  # of this process
        self.on_new_manager: Callable[[], None] = lambda: None

    async def report_loads(self, stop: asyncio.Event) -> None:
        """Report the load each second, for ever."""
        while not stop.is_set():
            try:
                await self.report_load()
            except (BusError, TimeoutError) as error:
                log.debug("no load report: %s", error)
            await asyncio.sleep(LOAD_EVERY_S)

    async def report_load(self) -> None:
        """One report."""
        load = {"op": "load", "server": self._name, "instance": str(self.instance), **self._load()}
        reply = await self._node.request("manager", load, timeout_s=3.0)
        manager = str(reply.json().get("manager", ""))
        if manager != self._manager:
            self._manager = manager
            self.on_new_manager()

    def queue(self, player: str, car: str, wanted: Callable[[], bool], done: Callable[[str], None]) -> None:
        """Queue a player for a match while `wanted`; `done` is told "" or why not."""
        self._start(self._queue(player, car, wanted, done))

    async def _queue(
        self, player: str, car: str, wanted: Callable[[], bool], done: Callable[[str], None]
    ) -> None:
        request = {"op": "queue", "player": player, "server": self._name, "car": car}
        for _ in range(QUEUE_TRIES):
            if not wanted():
                return
            try:
                reply = (await self._node.request("manager", request, timeout_s=3.0)).json()
            except (BusError, TimeoutError) as error:
                log.debug("queue for %s: %s", player, error)
                await asyncio.sleep(RETRY_S)
                continue
            if wanted():
                done(str(reply.get("error", "")))
            return
        if wanted():
            done("no_manager")

    def leave(self, player: str) -> None:
        """The player waits no more."""
        self._start(self._leave(player))

    async def _leave(self, player: str) -> None:
        request = {"op": "leave", "player": player, "server": self._name}
        for _ in range(QUEUE_TRIES):
            try:
                await self._node.request("manager", request, timeout_s=3.0)
                return
            except (BusError, TimeoutError):
                await asyncio.sleep(RETRY_S)

    def result(self, result: dict[str, Any]) -> None:
        """A match ended: must reach the manager."""
        self._start(self._result(result))

    async def _result(self, result: dict[str, Any]) -> None:
        for _ in range(RESULT_TRIES):
            receipt = await self._node.unicast("manager", result, timeout_s=30.0)
            if receipt.acked or receipt.outcome == "unknown":
                return  # unknown: the node keeps it and sends it again until it has a receipt
            log.warning("result of %s: %s %s", result.get("match"), receipt.outcome, receipt.detail)
            await asyncio.sleep(RETRY_S)

    async def drain(self, timeout_s: float) -> None:
        """Let results under way arrive, then end what is left."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
