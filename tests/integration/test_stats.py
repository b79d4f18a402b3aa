"""Exactly once from `emit` to the row, with real processes, kill -9, lost frames and a stats that is away."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
import pytest
import zmq
from zmqgame.stats.audit import ROWS_SQL, compare, rows_of
from zmqgame_bus.spool import scan

from tests.support.ports import free_endpoint

SCRIPT = Path(__file__).with_name("stats_process.py")
STEPS = ("before_plan", "after_plan", "half_inserted", "after_insert", "after_progress", "before_confirm")


class World:
    """A folder, its processes, and questions to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoint = self.publish = free_endpoint()
        self.context = zmq.Context()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start_stats(self, *, step: str = "", flush_ms: int = 50) -> None:
        self.start("stats", self.endpoint, step, str(flush_ms))

    def start_source(self, name: str, *, spool_bytes: int = 1 << 24) -> None:
        self.processes[name] = subprocess.Popen(
            [sys.executable, SCRIPT, "source", self.folder, self.publish, name, str(spool_bytes)]
        )

    def start(self, kind: str, *arguments: str) -> None:
        self.processes[kind] = subprocess.Popen([sys.executable, SCRIPT, kind, self.folder, *arguments])

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def ask(self, name: str, request: dict, timeout_s: float = 90.0):
        asking = self.context.socket(zmq.REQ)
        try:
            asking.connect(f"ipc://{self.folder}/{name}.sock")
            asking.send(orjson.dumps(request))
            assert asking.poll(int(timeout_s * 1000)), f"{name} did not answer {request}"
            return orjson.loads(asking.recv())
        finally:
            asking.close(linger=0)

    def emit(self, name: str, count: int) -> int:
        return self.ask(name, {"op": "emit", "count": count})["epoch"]

    def audit(self):
        rows = self.ask("stats", {"op": "sql", "query": ROWS_SQL, "format": "JSONCompact"})
        return compare(scan(self.folder / "spools"), rows_of(orjson.dumps(rows)))

    def wait_until(self, condition, timeout_s: float = 120.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError((self.audit(), self.ask("stats", {"op": "status"})))
            time.sleep(0.05)

    def confirmed(self, expected: int) -> bool:
        published = scan(self.folder / "spools").values()
        return sum(epoch.last for epoch in published) == expected and self.unconfirmed() == 0

    def wait_for_spool(self, expected: int) -> None:
        deadline = time.monotonic() + 60
        while sum(epoch.last for epoch in scan(self.folder / "spools").values()) < expected:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def unconfirmed(self) -> int:
        names = [name for name in self.processes if name != "stats"]
        return sum(self.ask(name, {"op": "counters"})["unconfirmed"] for name in names)

    def prove(self, expected: int) -> None:
        self.wait_until(lambda: self.confirmed(expected))
        audit = self.audit()
        assert audit.reasons() == []
        assert audit.holds
        assert (audit.published, audit.rows) == (expected, expected)

    def close(self) -> None:
        for name in list(self.processes):
            self.kill(name)
        self.context.destroy(linger=0)


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


def events(count: int) -> int:
    """How many events a source emits for `count`: every third time two."""
    return count + (count + 2) // 3


def test_a_late_and_slow_joiner_misses_nothing(world):
    world.start_source("game-1")
    world.emit("game-1", 300)  # nobody listens yet: PUB drops them all
    world.start_stats()
    world.emit("game-1", 30)
    world.prove(events(300) + events(30))


@pytest.mark.slow
def test_stats_killed_after_each_step(world):
    world.start_source("game-1")
    total = 0
    for step in STEPS:
        world.start_stats(step=step)
        world.emit("game-1", 100)
        total += events(100)
        assert world.processes["stats"].wait(timeout=120) == -9, step
        del world.processes["stats"]
    world.start_stats()
    world.prove(total)


@pytest.mark.slow
def test_stats_killed_at_any_time(world):
    chance = random.Random(7)
    world.start_source("game-1")
    world.start_source("game-2")
    total = 0
    for _ in range(5):
        world.start_stats(flush_ms=20)
        deadline = time.monotonic() + 0.8 + chance.random()
        while time.monotonic() < deadline:
            for name in ("game-1", "game-2"):
                world.emit(name, 20)
                total += events(20)
            time.sleep(0.01)
        world.kill("stats")
    world.start_stats()
    world.prove(total)


def test_a_source_that_was_killed_and_is_back_gives_what_it_wrote(world):
    world.start_source("game-1")
    first = world.emit("game-1", 120)
    world.wait_for_spool(events(120))
    world.kill("game-1")  # stats never ran: everything is in the spool only
    world.start_source("game-1")
    second = world.emit("game-1", 10)
    assert second > first
    world.start_stats()
    world.prove(events(120) + events(10))
    assert len({epoch.epoch for epoch in world.audit().epochs}) == 2


def test_a_source_killed_while_it_emits_has_in_rows_what_it_has_in_its_spool(world):
    world.start_stats()
    world.start_source("game-1")
    for _ in range(3):
        asking = world.context.socket(zmq.REQ)
        asking.connect(f"ipc://{world.folder}/game-1.sock")
        asking.send(orjson.dumps({"op": "emit", "count": 200_000}))
        time.sleep(0.5)
        world.kill("game-1")
        asking.close(linger=0)
        world.start_source("game-1")
    world.emit("game-1", 1)
    world.wait_until(lambda: world.unconfirmed() == 0 and world.audit().holds)
    audit = world.audit()
    assert audit.published == audit.rows > 0


@pytest.mark.parametrize(
    ("fault", "reason"), [("drop", "published but not inserted"), ("repeat", "inserted more than once")]
)
def test_the_audit_finds_a_batch_that_stats_dropped_or_repeated(world, fault, reason):
    world.start_stats(step=fault)
    world.start_source("game-1")
    total = 0
    for _ in range(5):
        world.emit("game-1", 30)
        total += events(30)
        world.wait_until(lambda expected=total: world.confirmed(expected))  # stats itself notices nothing
    audit = world.audit()
    assert not audit.holds
    assert len(audit.reasons()) == 1
    assert reason in audit.reasons()[0]
    assert (audit.lost, audit.repeated) != (0, 0)
    assert audit.published == total


class LossyProxy(threading.Thread):
    """Stands between PUB and SUB and loses frames."""

    def __init__(self, world: World, loss: float) -> None:
        super().__init__(daemon=True)
        self.lost = self.passed = 0
        self._chance, self._loss, self._over = random.Random(3), loss, threading.Event()
        self._inward, self._outward = world.context.socket(zmq.SUB), world.context.socket(zmq.PUB)
        self._inward.subscribe(b"")
        port = self._inward.bind_to_random_port("tcp://127.0.0.1")
        self._outward.connect(world.endpoint)
        world.publish = f"tcp://127.0.0.1:{port}"

    def run(self) -> None:
        while not self._over.is_set():
            if not self._inward.poll(20):
                continue
            frame = self._inward.recv()
            if self._chance.random() < self._loss:
                self.lost += 1
            else:
                self.passed += 1
                self._outward.send(frame)
        self._inward.close(linger=0)
        self._outward.close(linger=0)

    def stop(self) -> None:
        self._over.set()
        self.join()


def test_frames_that_pub_lost_are_asked_for(world):
    proxy = LossyProxy(world, 0.5)
    world.start_stats()
    world.start_source("game-1")
    proxy.start()
    try:
        total = 0
        for _ in range(2_000):  # how much goes into a frame depends on the machine
            world.emit("game-1", 10)
            total += events(10)
            time.sleep(0.01)
            if proxy.lost > 10:
                break
        world.prove(total)
        assert proxy.lost > 10
    finally:
        proxy.stop()


def test_while_stats_is_away_events_wait_in_the_spool_up_to_its_bound(world):
    world.start_source("game-1", spool_bytes=65_536)
    world.emit("game-1", 5_000)
    deadline = time.monotonic() + 60
    counters = world.ask("game-1", {"op": "counters"})
    while counters["published"] < counters["accepted"] and time.monotonic() < deadline:
        time.sleep(0.02)
        counters = world.ask("game-1", {"op": "counters"})
    assert counters["refused"] > 1_000
    assert counters["accepted"] + counters["refused"] == events(5_000)
    assert counters["spool_bytes"] <= 65_536
    world.start_stats()
    world.prove(counters["accepted"])  # what was accepted arrives, what was refused was never published
    world.emit("game-1", 10)  # and the spool has room again
    world.prove(counters["accepted"] + events(10))
    world.kill("game-1")
    world.start_source("game-1")


def test_a_lost_spool_is_on_record_and_holds_up_nothing(world):
    world.start_source("game-1", spool_bytes=1 << 18)  # segments of 32 KiB
    for round in range(1, 7):
        world.emit("game-1", 150)
        world.wait_for_spool(round * events(150))
    world.kill("game-1")
    segment, *later = sorted((world.folder / "spools" / "game-1.spool").glob("*.seg"))
    assert later
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    world.start_source("game-1")
    world.start_stats()
    world.emit("game-1", 5)
    world.wait_until(lambda: world.unconfirmed() == 0)
    rows = world.ask("stats", {"op": "sql", "query": "SELECT sum(last - first + 1), any(reason) FROM lost"})
    lost, reason = rows["data"][0]
    audit = world.audit()
    assert not audit.holds
    assert audit.lost == int(lost) > 0
    assert reason == "unreadable in the spool"


GARBAGE = (
    b"",
    b"ZGE1",
    b"ZGE1\x01" + b"\xff" * 40,
    b"ZGE1\x02\0\1\0" + bytes(8) + b'a[["x"]]',
    b"x" * 800_000,
)


def test_garbage_on_the_socket_is_counted_and_harms_nobody(world):
    world.start_stats()
    world.start_source("game-1")
    garbage = world.context.socket(zmq.PUB)
    garbage.connect(world.endpoint)
    host, port = world.endpoint.removeprefix("tcp://").split(":")
    raw = socket.create_connection((host, int(port)), timeout=60) if _up(world) else None
    assert raw is not None
    raw.sendall(b"\xff" * 10_000)
    for _ in range(30):
        for frame in GARBAGE:
            garbage.send(frame)
        time.sleep(0.01)
    world.emit("game-1", 10)
    world.prove(events(10))
    assert world.ask("stats", {"op": "status"})["counters"]["frames_malformed"] > 0
    raw.close()
    garbage.close(linger=0)


def _up(world: World) -> bool:
    return world.ask("stats", {"op": "status"})["error"] == ""


def test_stats_says_where_another_one_has_its_data_open(world):
    from zmqgame.stats.clickhouse import Warehouse
    from zmqgame_bus.errors import AlreadyRunning

    world.start_stats()
    assert _up(world)
    with pytest.raises(AlreadyRunning) as caught:
        Warehouse("chdb", world.folder / "stats")
    assert str(world.folder / "stats" / "clickhouse") in str(caught.value)
    assert str(world.processes["stats"].pid) in str(caught.value)
    assert caught.value.hint
