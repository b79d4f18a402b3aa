"""The key of stats is rotated while publishers send: real CURVE, real files, the CLI; nothing is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from zmqgame.cli import main
from zmqgame.stats.clickhouse import Warehouse
from zmqgame.stats.config import StatsConfig
from zmqgame.stats.journal import Journal
from zmqgame.stats.serverkeys import ServerKeys
from zmqgame.stats.service import StatsService
from zmqgame_bus import keys
from zmqgame_bus.config import load
from zmqgame_bus.errors import NoSuchService
from zmqgame_bus.events import Emitter
from zmqgame_bus.keys import Keyring, NodeKeys

from tests.waiting import until


def cli(*words: str, folder: Path) -> None:
    assert main(["keys", *words, "--dir", str(folder)]) == 0


def keyring(folder: Path, name: str) -> Keyring:
    file = folder / f"{name}.toml"
    file.write_text(f'[security]\ncurve = true\nkey_file = "{name}.key"\n')
    return Keyring(load(file, environ={}), {})


@dataclass
class Answer:
    payload: bytes


class Spools:
    """The way from stats to its sources, without a bus."""

    def __init__(self) -> None:
        self.emitters: dict[str, Emitter] = {}

    async def request(self, service: str, payload: Any, *, timeout_s: float = 5.0) -> Answer:
        source = self.emitters.get(service.removeprefix("spool:"))
        if source is None:
            raise NoSuchService(service)
        reply = await asyncio.to_thread(source.answer, payload)
        return Answer(reply if isinstance(reply, bytes) else orjson.dumps(reply))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cli("new", "stats", folder=tmp_path)
    cli("new", "hub", folder=tmp_path)
    for name in ("game-1", "game-2", "game-3"):
        cli("new", name, "--allow", name, folder=tmp_path)
    return tmp_path


async def test_the_key_of_stats_is_rotated_step_by_step_while_events_flow(folder: Path) -> None:
    spools, log = Spools(), logging.getLogger("test")
    warehouse = await asyncio.to_thread(Warehouse, "chdb", folder / "stats")
    config = StatsConfig(listen="tcp://127.0.0.1:*", flush_ms=50)
    service = StatsService(config, warehouse, Journal(folder / "stats" / "journal"), spools)
    server = ServerKeys(service, keyring(folder, "stats"), log)
    endpoint = server.bind()
    stop = asyncio.Event()
    running = [asyncio.create_task(service.run(stop)), asyncio.create_task(server.run())]

    def start(name: str, node_keys: NodeKeys | None) -> Emitter:
        made = Emitter(name, spool_dir=folder / "spools", publish=endpoint, keys=node_keys, announce_s=0.1)
        spools.emitters[name] = made
        return made

    def confirmed(emitter: Emitter, count: int) -> Callable[[], bool]:
        return lambda: emitter.counters["accepted"] >= count and emitter.unconfirmed() == 0

    async def flows(emitter: Emitter, what: str) -> None:
        """Frames of it arrive: not only what stats asks for."""
        before = emitter.counters["accepted"] + 50
        for number in range(50):
            emitter.emit("messages", id=f"{what}/{number}", sender=emitter.source, kind="unicast")
            await asyncio.sleep(0.001)
        await until(confirmed(emitter, before), what)

    admitted = lambda: service._admission.counters["admitted"]  # noqa: E731
    running_one = start("game-1", keyring(folder, "game-1").publisher())
    await flows(running_one, "before")
    old = keys.read_public(folder / "stats.pub")
    third = keys.read_pair(folder / "game-3.key")

    cli("rotate", "stats", folder=folder)
    new = keys.read_public(folder / "stats.pub")
    assert new != old
    # Who starts now has both keys; who has a copy with the old one only is not cut off either.
    second = start("game-2", keyring(folder, "game-2").publisher())
    before = admitted()
    copy = start("game-3", NodeKeys(third.public, third.secret, old))
    await until(lambda: admitted() > before, "a copy of the old key gets in")
    for emitter in (running_one, second, copy):
        await flows(emitter, "between")
    copy.close()

    before = admitted()
    cli("rotate", "stats", "--finish", folder=folder)
    flowing = [asyncio.create_task(flows(emitter, "after")) for emitter in (running_one, second)]
    await until(lambda: admitted() >= before + 2, "both come back by the new key")
    await asyncio.gather(*flowing)
    # The old key opens nothing any more, the new one does.
    copy = start("game-3", NodeKeys(third.public, third.secret, old))
    copy.emit("messages", id="late", sender="game-3", kind="unicast")
    await asyncio.sleep(1.0)
    assert copy.unconfirmed() == 1
    copy.close()
    copy = start("game-3", NodeKeys(third.public, third.secret, new))
    await flows(copy, "last")

    emitted = sum(emitter.counters["accepted"] for emitter in (running_one, second)) + 101
    await until(lambda: all(not each.unconfirmed() for each in spools.emitters.values()), "all confirmed")
    counted = "select count(), uniqExact(source, epoch, seq) from messages"
    rows = await asyncio.to_thread(warehouse.rows, counted)
    stop.set()
    await running[0]
    running[1].cancel()
    await asyncio.gather(running[1], return_exceptions=True)
    for emitter in spools.emitters.values():
        emitter.close()
    await asyncio.to_thread(warehouse.close)
    assert [tuple(map(int, row)) for row in rows] == [(emitted, emitted)]
