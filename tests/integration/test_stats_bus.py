"""Stats, sources and hub as real processes: gaps and confirmations through the hub, SQL for others."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
from zmqgame.stats.audit import ROWS_SQL, compare, rows_of
from zmqgame_bus.errors import RequestError, RequestFailed
from zmqgame_bus.node import Node
from zmqgame_bus.spool import Published, scan

from tests.support.ports import free_endpoint

SOURCE = Path(__file__).with_name("source_process.py")


class World:
    """Hub, stats and one source; `node` asks them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hub = free_endpoint()
        self.publish = free_endpoint()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.node: Node | None = None

    def start_hub(self) -> None:
        self._service("hub", "zmqgame_bus.hub", f"--set=hub.listen={self.hub}")

    def start_stats(self) -> None:
        flags = (f"--set=bus.hub={self.hub}", f"--set=stats.listen={self.publish}", "--set=stats.flush_ms=50")
        self._service("stats", "zmqgame.stats.stats", *flags)

    def _service(self, name: str, module: str, *flags: str) -> None:
        read, write = os.pipe()
        state = f"--state-dir={self.folder / name}"
        command = [sys.executable, "-m", module, state, f"--ready-fd={write}", *flags]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, pass_fds=[write], stdout=log, stderr=log)
        os.close(write)
        readable, _, _ = select.select([read], [], [], 90)
        line = os.read(read, 65_536) if readable else b""
        os.close(read)
        assert line, (self.folder / f"{name}.log").read_text()

    def start_source(self, name: str) -> None:
        command = [sys.executable, SOURCE, self.folder, name, self.hub, self.publish]
        self.processes[name] = subprocess.Popen(command)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    async def ask(self, service: str, request: dict, deadline_s: float = 90.0):
        """The answer, once the service is there again."""
        assert self.node is not None
        deadline = time.monotonic() + deadline_s
        while True:
            try:
                return await self.node.request(service, request, timeout_s=30.0)
            except RequestFailed:
                raise
            except RequestError:
                assert time.monotonic() < deadline, service
                await asyncio.sleep(0.1)

    async def emit(self, name: str, count: int) -> None:
        await self.ask(f"source:{name}", {"op": "emit", "count": count})

    async def prove(self, latest: int, *, at_least: int, source: str = "game-1") -> int:
        """Wait until everything is confirmed, the newest epoch with `latest` events; then compare."""
        deadline = time.monotonic() + 120
        while True:
            published = scan(self.folder / "spools")
            left = (await self.ask(f"source:{source}", {"op": "emit", "count": 0})).json()["unconfirmed"]
            if left == 0 and _newest(published) == latest:
                break
            assert time.monotonic() < deadline, (published, left)
            await asyncio.sleep(0.1)
        reply = await self.ask("stats", {"op": "sql", "query": ROWS_SQL, "format": "JSONCompact"})
        audit = compare(scan(self.folder / "spools"), rows_of(reply.payload))
        assert audit.reasons() == []
        assert audit.published == audit.rows >= at_least
        return audit.rows


def _newest(published: dict[tuple[str, int], Published]) -> int:
    return published[max(published)].last if published else 0


@pytest.fixture
async def world(tmp_path):
    made = World(tmp_path)
    made.start_hub()
    made.start_stats()
    made.start_source("game-1")
    made.node = Node("test", made.hub, state_dir=tmp_path)
    await made.node.start(timeout_s=60)
    yield made
    await made.node.close(drain_s=0)
    for name in list(made.processes):
        made.kill(name)


async def test_events_arrive_once_over_kills_of_everybody(world):
    await world.emit("game-1", 500)
    assert await world.prove(500, at_least=500) == 500
    world.kill("stats")
    await world.emit("game-1", 500)
    world.kill("game-1")  # what it had not written yet was never published
    world.start_source("game-1")
    world.kill("hub")
    world.start_stats()
    world.start_hub()
    await world.emit("game-1", 100)
    await world.prove(100, at_least=600)


async def test_others_ask_in_sql_and_for_the_status(world):
    await world.emit("game-1", 20)
    await world.prove(20, at_least=20)
    reply = await world.ask(
        "stats", {"op": "sql", "query": "SELECT count() AS n FROM sessions", "format": "JSON"}
    )
    assert int(orjson.loads(reply.payload)["data"][0]["n"]) == 20
    status = (await world.ask("stats", {"op": "status"})).json()
    assert status["sources"][0] | {"epoch": 0, "repeated": 0} == {
        "source": "game-1",
        "epoch": 0,
        "published": 20,
        "inserted": 20,
        "lost": 0,
        "waiting": 0,
        "missing": 0,
        "repeated": 0,
    }
    for query in ("DROP TABLE sessions", "SELECT nope", "SELECT repeat('x', 3000) FROM numbers(400)"):
        with pytest.raises(RequestFailed):
            await world.ask("stats", {"op": "sql", "query": query})
    with pytest.raises(RequestFailed, match="knows sql and status"):
        await world.ask("stats", {"op": "dance"})
