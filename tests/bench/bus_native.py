"""Rows of the bus with native clients: the core's node on epoll beside nats.go and redis-benchmark."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from zmqgame_native import curve_keypair

from tests.bench.bus_peers import (
    Load,
    cpu_s,
    go_first,
    hub_process,
    native_load,
    nats_load,
    nats_server,
    redis_appends,
    redis_server,
    resident_bytes,
    wait_idle,
)
from tests.bench.bus_rows import process, row
from tests.bench.report import Row

PLAYERS = 1_000


class Bench:
    """Where things are, how long to measure."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.folder = folder
        self.quick = quick
        self.rounds = 3 if quick else 7

    @property
    def load(self) -> str:
        """The load generator of native clients."""
        return native_load()

    @contextmanager
    def hub(self, name: str, **options: Any) -> Iterator[tuple[str, int]]:
        """A hub with a mailbox of its own; its address and process."""
        with process(hub_process, str(self.folder / name), options) as (address, pid):
            yield address, pid

    def alternate(
        self, ours: Callable[[], float], peer: Callable[[], float]
    ) -> tuple[list[float], list[float]]:
        """Rounds of both in turns; one of each before, that does not count."""
        ours()
        peer()
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(self.rounds):
            found[0].append(ours())
            found[1].append(peer())
        return found


Start = Callable[..., Load]


@contextmanager
def beside_nats(bench: Bench) -> Iterator[tuple[Start, Start]]:
    """What starts a load at a hub, and one at NATS."""
    go = nats_load(bench.folder)
    with ExitStack() as stack:
        address, _ = stack.enter_context(bench.hub("native"))
        nats = stack.enter_context(nats_server(bench.folder / "nats"))

        def ours(what: str, **options: object) -> Load:
            return stack.enter_context(Load(bench.load, what, address, **options))

        def theirs(what: str, **options: object) -> Load:
            return stack.enter_context(Load(go, what, nats, **options))

        yield ours, theirs


def rtt(bench: Bench) -> Iterator[Row]:
    """Round trips of native clients."""
    trips = 2_000 if bench.quick else 10_000
    with beside_nats(bench) as (ours, theirs):
        ours("host", players=PLAYERS, service="echo")
        theirs("host")
        near, peer = ours("rtt"), theirs("rtt")
        rounds = bench.alternate(
            lambda: near.round(count=trips)["p50_us"], lambda: peer.round(count=trips)["p50_us"]
        )
    yield row("RTT p50, native, 64 B", rounds, "NATS, nats.go", "us", 0.7, "lower")


def messages(bench: Bench, players: int) -> Iterator[Row]:
    """Messages a second of one node to one that hosts the players."""
    count = 200_000 if bench.quick else 1_000_000
    with beside_nats(bench) as (ours, theirs):
        ours("host", players=PLAYERS)
        theirs("host")
        # More than the hub delivers to one player ahead of its acks would be stored.
        window = {"window": 192} if players == 1 else {}
        near, peer = ours("send", name="sender", players=players, **window), theirs("send")
        rounds = bench.alternate(
            lambda: near.round(count=count)["per_s"],
            lambda: peer.round(count=count, players=players)["per_s"],
        )
    who = "one pair" if players == 1 else f"{players} players"
    yield row(f"messages/s, {who}, native, 64 B", rounds, "NATS, no acks", "1/s", 1.5, "higher")


def group(bench: Bench) -> Iterator[Row]:
    """Deliveries a second to a group of players on two nodes."""
    sends = 500 if bench.quick else 2_000
    with beside_nats(bench) as (ours, theirs):
        ours("host", name="members", prefix="g", players=PLAYERS, nodes=2, group="all")
        theirs("host", nodes=2, subscriptions=PLAYERS)
        near, peer = ours("send", name="sender"), theirs("send")
        rounds = bench.alternate(
            lambda: near.round(count=sends, group="all", window=64)["recipients_per_s"],
            lambda: peer.round(count=sends, group=1, copies=PLAYERS)["recipients_per_s"],
        )
    yield row("deliveries/s, group of 1000 on 2 nodes", rounds, "NATS, no acks", "1/s", 2.0, "higher")


def stored(bench: Bench, clients: int, pipeline: int, goal: float) -> Iterator[Row]:
    """Stored messages a second that survive power loss, beside Redis that syncs each."""
    players, seconds = (5_000, 2) if bench.quick else (20_000, 4)
    with (
        bench.hub("stored") as (address, _),
        redis_server(bench.folder / "redis", always=True) as port,
        Load(bench.load, "send", address, prefix="s", players=players, known=1, nodes=clients) as load,
    ):
        peer_per_s = 200.0

        def ours() -> float:
            figures = load.round(seconds=seconds, window=pipeline, bytes=200)
            if figures["stored"] != figures["sent"]:
                raise RuntimeError(f"not all were stored: {figures}")
            return figures["per_s"]

        def peer() -> float:
            nonlocal peer_per_s
            count = max(200, int(peer_per_s * seconds))
            peer_per_s = redis_appends(
                port, clients=clients, pipeline=pipeline, count=count, keys=players, size=200
            )
            return peer_per_s

        rounds = bench.alternate(ours, peer)
    what = f"stored acks/s, {clients} clients x {pipeline}, 200 B"
    yield row(what, rounds, "Redis, fsync always", "1/s", goal, "higher")


def others(bench: Bench, name: str) -> Iterator[Row]:
    """Round trips of others while one node is stopped, or reads 1 kB/s, and messages go to it."""
    seconds = 3 if bench.quick else 6
    with bench.hub("others") as (address, _), ExitStack() as stack:
        echo = stack.enter_context(Load(bench.load, "host", address, service="echo"))
        probe = stack.enter_context(Load(bench.load, "rtt", address))
        # The flood is on their core: what the scheduler does to them there says nothing of the hub.
        # Its threads keep their priority.
        go_first(echo.process.pid)
        go_first(probe.process.pid)
        turn = 0

        def p99(disturb: bool) -> float:
            nonlocal turn
            turn += 1
            kind = "slow" if disturb and name == "slow" else "host"
            options = {"name": f"v{turn}", "prefix": f"v{turn}-", "players": 100}
            flood = {"name": f"f{turn}", "prefix": f"v{turn}-", "players": 100}
            with (
                Load(bench.load, kind, address, **options) as victim,
                Load(bench.load, "send", address, **flood) as sender,
            ):
                sender.begin(seconds=seconds, per_second=5_000, bytes=256)
                if disturb and name == "stopped":
                    os.kill(victim.process.pid, signal.SIGSTOP)
                return probe.round(seconds=seconds, pause_us=300)["p99_us"]

        rounds = bench.alternate(lambda: p99(True), lambda: p99(False))
    label = "is stopped" if name == "stopped" else "reads 1 kB/s"
    yield row(f"RTT p99 of others while one node {label}", rounds, "calm", "us", 1.2, "lower")


def memory(bench: Bench) -> Iterator[Row]:
    """Bytes of the hub for each player that is online and idle."""
    players = 1_000_000
    with bench.hub("memory") as (address, pid), Load(bench.load, "host", address, nodes=20) as nodes:
        wait_idle(pid)
        before = resident_bytes(pid)
        nodes.round(players=players)
        wait_idle(pid)
        each = (resident_bytes(pid) - before) / players
    yield row(f"hub memory a player, {players} online", ([each], [200.0]), "the limit", "B", 1.0, "lower")


def many_nodes(bench: Bench) -> Iterator[Row]:
    """Processor time of the hub for a message: many nodes and few, each with the same traffic."""
    found: dict[int, list[float]] = {10: [], 1_000: []}
    with ExitStack() as stack:
        loads = {}
        for nodes in found:
            address, pid = stack.enter_context(bench.hub(f"nodes-{nodes}"))
            load = Load(bench.load, "send", address, nodes=nodes, players=nodes, players_here=1, window=16)
            loads[nodes] = (stack.enter_context(load), pid)
        for turn in range(bench.rounds + 1):
            for nodes, (load, pid) in loads.items():
                before, count = cpu_s(pid), 100_000 if bench.quick else 400_000
                load.round(count=count)
                if turn:
                    found[nodes].append((cpu_s(pid) - before) / count * 1e6)
    yield row("CPU a message, 1000 nodes", (found[1_000], found[10]), "10 nodes", "us", 1.3, "lower")


def curve(bench: Bench) -> Iterator[Row]:
    """Messages a second under CURVE beside NULL."""
    count = 200_000 if bench.quick else 1_000_000
    public, secret = curve_keypair()
    with ExitStack() as stack:
        sends = []
        for name, hub, client in (
            ("curve", {"curve_secret_key": secret}, {"curve": public.hex()}),
            ("null", {}, {}),
        ):
            address, _ = stack.enter_context(bench.hub(f"secured-{name}", **hub))
            stack.enter_context(Load(bench.load, "host", address, players=PLAYERS, **client))
            sends.append(stack.enter_context(Load(bench.load, "send", address, players=PLAYERS, **client)))
        rounds = bench.alternate(*((lambda load=load: load.round(count=count)["per_s"]) for load in sends))
    yield row(f"messages/s, {PLAYERS} players, CURVE", rounds, "NULL", "1/s", 0.6, "higher")


Part = Callable[[Bench], Iterator[Row]]
BESIDE_NATS: dict[str, Part] = {
    "rtt": rtt,
    "messages": lambda bench: messages(bench, PLAYERS),
    "pair": lambda bench: messages(bench, 1),
    "group": group,
}
REST: dict[str, Part] = {
    "stored-1": lambda bench: stored(bench, 1, 1, 1.0),
    "stored-50": lambda bench: stored(bench, 50, 1, 1.0),
    "stored-50x16": lambda bench: stored(bench, 50, 16, 0.5),
    "others-stopped": lambda bench: others(bench, "stopped"),
    "others-slow": lambda bench: others(bench, "slow"),
    "memory": memory,
    "cpu": many_nodes,
    "curve": curve,
}
