"""Processes for test_stats.py: a stats that dies at a chosen step, and a source. Both are driven over ipc
sockets.

Requests go from stats straight to the sources' sockets here: what is tested is stats, spools and
ClickHouse, with the bus tested elsewhere. `test_stats_bus.py` has the same parts joined by a real hub.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import zmq
import zmq.asyncio
from zmqgame.stats.clickhouse import Warehouse
from zmqgame.stats.config import StatsConfig
from zmqgame.stats.journal import Journal
from zmqgame.stats.service import StatsService
from zmqgame_bus.errors import DeadlineExceeded
from zmqgame_bus.events import Emitter

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.faults.stats import FAULTS


@dataclass
class Answer:
    payload: bytes


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Sockets:
    """The way from stats to the sources: one ipc socket a source."""

    def __init__(self, folder: Path, step: str) -> None:
        self.folder, self.step = folder, step
        self.context = zmq.asyncio.Context()

    async def request(self, service: str, payload: Any, *, timeout_s: float = 5.0) -> Answer:
        if payload["op"] == "confirm" and self.step == "before_confirm":
            die()
        socket = self.context.socket(zmq.REQ)
        try:
            socket.connect(f"ipc://{self.folder}/{service.removeprefix('spool:')}.sock")
            async with asyncio.timeout(1.0):
                await socket.send(orjson.dumps(payload))
                return Answer(await socket.recv())
        except TimeoutError:
            raise DeadlineExceeded(service) from None
        finally:
            socket.close(linger=0)


class DyingJournal(Journal):
    step = ""

    def write_plan(self, plan):
        if self.step == "before_plan":
            die()
        super().write_plan(plan)
        if self.step == "after_plan":
            die()

    def write_progress(self, installation, digest, sources):
        if self.step == "after_insert" and digest:
            die()
        super().write_progress(installation, digest, sources)
        if self.step == "after_progress" and digest:
            die()


class DyingWarehouse(Warehouse):
    step = ""

    def insert(self, table, rows, token):
        super().insert(table, rows, token)
        if self.step == "half_inserted":
            die()


async def serve_socket(path: Path, answer) -> None:
    socket = zmq.asyncio.Context.instance().socket(zmq.REP)
    socket.bind(f"ipc://{path}")
    while True:
        request = orjson.loads(await socket.recv())
        try:
            reply = await answer(request)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        await socket.send(reply if isinstance(reply, bytes) else orjson.dumps(reply))


async def stats(folder: Path, listen: str, step: str, flush_ms: str) -> None:
    DyingJournal.step = DyingWarehouse.step = step
    config = StatsConfig(listen=listen, flush_ms=int(flush_ms), batch_rows=200)
    kind = FAULTS.get(step, DyingWarehouse)
    warehouse = kind("chdb", folder / "stats")
    service = StatsService(
        config, warehouse, DyingJournal(folder / "stats" / "journal"), Sockets(folder, step)
    )
    service.bind(None, None)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    answering = asyncio.create_task(serve_socket(folder / "stats.sock", service.answer))
    await service.run(stop)
    answering.cancel()
    warehouse.close()


async def source(folder: Path, publish: str, name: str, spool_bytes: str) -> None:
    emitter = Emitter(
        name, spool_dir=folder / "spools", publish=publish, spool_bytes=int(spool_bytes), announce_s=0.2
    )

    async def answer(request: dict[str, Any]) -> Any:
        if request["op"] == "emit":
            for number in range(request["count"]):
                emitter.emit("messages", id=f"{name}/{number}", sender=name, kind="unicast", latency_ms=1.5)
                if number % 3 == 0:
                    emitter.emit("sessions", event="login", player=f"p{number}", server=name)
            return {"epoch": emitter.epoch}
        if request["op"] == "counters":
            return emitter.counters | {"unconfirmed": emitter.unconfirmed()}
        return await asyncio.to_thread(emitter.answer, request)

    await serve_socket(folder / f"{name}.sock", answer)


if __name__ == "__main__":
    main = {"stats": stats, "source": source}[sys.argv[1]]
    asyncio.run(main(Path(sys.argv[2]), *sys.argv[3:]))
