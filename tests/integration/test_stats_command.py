"""`zmqgame-stats` as people start it: ready line, signals, keys, and what it says when it can't start."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from zmqgame.stats.audit import ROWS_SQL, compare
from zmqgame.stats.clickhouse import Warehouse
from zmqgame_bus.events import Emitter
from zmqgame_bus.keys import Allowed, NodeKeys, allow, new_pair, read_pair
from zmqgame_bus.spool import scan

NO_HUB = "--set=bus.hub=tcp://127.0.0.1:1"
DEADLINE_S = 90.0


class Stats:
    """One process; its log is what it printed."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.state = folder / "stats"
        self.log = folder / "stats.log"
        self._read, write = os.pipe()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "zmqgame.stats.stats",
                    f"--state-dir={self.state}",
                    "--set=stats.listen=tcp://127.0.0.1:0",
                    "--set=stats.flush_ms=50",
                    f"--ready-fd={write}",
                    NO_HUB,
                    *flags,
                ],
                pass_fds=[write],
                stdout=log,
                stderr=log,
            )
        os.close(write)

    def ready(self) -> str:
        readable, _, _ = select.select([self._read], [], [], DEADLINE_S)
        assert readable, self.log.read_text()
        line = os.read(self._read, 65_536)
        assert line, self.log.read_text()
        addresses = orjson.loads(line)["ready"]
        self.metrics = addresses["metrics"]
        return addresses["stats"]

    def inserted(self) -> int:
        """How many rows it says that it has inserted."""
        with urllib.request.urlopen(self.metrics, timeout=DEADLINE_S) as answer:
            found = re.search(
                r'^zmqgame_stats_events_total{event="rows"} ([\d.]+)', answer.read().decode(), re.M
            )
        return int(float(found[1])) if found else 0

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=DEADLINE_S)

    def rows(self) -> list[tuple]:
        """The rows, once nobody else has them open."""
        warehouse = Warehouse("chdb", self.state)
        try:
            return list(warehouse.rows(ROWS_SQL))
        finally:
            warehouse.close()


@pytest.fixture
def start(tmp_path):
    started = []

    def start(*flags: str) -> Stats:
        started.append(Stats(tmp_path, *flags))
        return started[-1]

    yield start
    for stats in started:
        if stats.process.poll() is None:
            stats.process.kill()
            stats.process.wait()


def emit_until(condition: Callable[[], bool], *emitters: Emitter) -> int:
    """Without a hub nothing can be asked for, so what PUB drops before it is connected stays in the spool."""
    count, deadline = 0, time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        for emitter in emitters:
            emitter.emit("sessions", event="login", player="ada", server="game-1")
        count += 1
        time.sleep(0.03)
    return count


def test_it_takes_events_without_a_hub_and_sigterm_inserts_what_is_here(start, tmp_path):
    stats = start()
    endpoint = stats.ready()
    assert endpoint.startswith("tcp://127.0.0.1:")
    with Emitter("game-1", spool_dir=tmp_path / "spools", publish=endpoint) as emitter:
        count = emit_until(lambda: stats.inserted() > 10, emitter)
    assert stats.end() == 0
    audit = compare(scan(tmp_path / "spools"), stats.rows())
    assert audit.repeated == 0
    assert 10 < audit.rows <= audit.published == count


def test_with_keys_each_publisher_speaks_for_its_own_names(start, tmp_path):
    keys = tmp_path / "keys"
    for name in ("stats", "game-1", "stranger"):
        new_pair(keys, name)
    game = read_pair(keys / "game-1.key")
    allow(keys / "allowed.keys", Allowed(game.public, "game-*", ("*",)))
    (keys / "hub.pub").write_bytes((keys / "stats.pub").read_bytes())
    stats = start(
        "--set=security.curve=true",
        f"--set=security.key_file={keys / 'stats.key'}",
        f"--set=security.hub_public_key_file={keys / 'hub.pub'}",
        f"--set=security.allowed_file={keys / 'allowed.keys'}",
    )
    endpoint = stats.ready()
    server = read_pair(keys / "stats.key").public
    stranger = read_pair(keys / "stranger.key")
    spools = tmp_path / "spools"
    mine = NodeKeys(game.public, game.secret, server)
    emitters = [
        Emitter("game-1", spool_dir=spools, publish=endpoint, keys=mine),
        Emitter("hub", spool_dir=spools, publish=endpoint, keys=mine),
        Emitter(
            "game-2",
            spool_dir=spools,
            publish=endpoint,
            keys=NodeKeys(stranger.public, stranger.secret, server),
        ),
        Emitter("game-3", spool_dir=spools, publish=endpoint),
    ]
    texts = ("not allowed for the name hub", "refused the CURVE key")
    emit_until(
        lambda: stats.inserted() > 0 and all(text in stats.log.read_text() for text in texts), *emitters
    )
    for emitter in emitters:
        emitter.close()
    assert stats.end() == 0
    assert {row[0] for row in stats.rows()} == {"game-1"}


def test_a_second_one_on_the_same_data_says_who_has_it(start):
    first = start()
    first.ready()
    second = start()
    assert second.process.wait(timeout=DEADLINE_S) == 3
    said = second.log.read_text()
    assert f"pid {first.process.pid}" in said
    assert str(first.state / "clickhouse") in said
    assert "one process only" in said


def test_it_does_not_listen_in_clear_beyond_this_machine(start):
    stats = start("--set=stats.listen=tcp://0.0.0.0:0")
    assert stats.process.wait(timeout=DEADLINE_S) == 3
    assert "not on loopback" in stats.log.read_text()


def test_a_port_in_use_is_named(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        stats = start(f"--set=stats.listen=tcp://127.0.0.1:{port}")
        assert stats.process.wait(timeout=DEADLINE_S) == 3
    said = stats.log.read_text()
    assert f"port {port}" in said
    assert "stats.listen" in said


def test_a_server_that_is_not_there_is_named(start):
    stats = start("--set=stats.clickhouse=http://user:secret@127.0.0.1:1")
    assert stats.process.wait(timeout=DEADLINE_S) == 3
    said = stats.log.read_text()
    assert "error: ClickHouse at 127.0.0.1:1 can't be used: " in said
    assert "Traceback" not in said
    assert "secret" not in said
