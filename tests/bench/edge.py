"""The edge beside its peers: TCP and WebSocket echo, native and in Python, and what idle connections cost.

The server gets one core and the load generator (rust/reactor/examples/edge_load.rs) another, where there are
two. Ours and the peers run in turns, each round with a fresh server. Framed: a length of 4 bytes and 64 more.
UDP and netcode are in `edge_udp`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from zmqgame.cli.bench_edge_more import idle_bytes, transports

from tests.bench.edge_load import (
    Samples,
    c_program,
    gnet_program,
    python_server,
    run_load,
    rust_example,
)
from tests.bench.report import Row

ROUNDS = 3
LIMITS_KB = {"tcp": ("TCP", 2), "websocket": ("WebSocket", 6), "tls": ("TLS", 40)}


@dataclass(frozen=True)
class Case:
    """One table row a peer: `ours` beside each of `peers` with its goal."""

    name: str
    work: str
    depth: int
    ours: list[str]
    peers: dict[str, tuple[list[str] | str, float]]


def cases() -> list[Case]:
    """Everything that is measured in messages a second."""
    native, plain, gnet = rust_example("edge_echo"), c_program("edge_echo"), gnet_program()
    gnet_command = gnet if isinstance(gnet, str) else [str(gnet)]
    found = [
        Case(
            f"TCP echo, native handler, 1000 x 64 B, depth {depth}",
            "raw",
            depth,
            [str(native), "raw"],
            {"plain C epoll": ([str(plain)], 0.95), "gnet 2": (gnet_command, 1.05)},
        )
        for depth in (1, 16)
    ]
    for work, depth, title, goals in (
        ("raw", 1, "TCP echo, Python handler, raw 64 B", {"uvloop": 1.0, "asyncio": 1.3}),
        ("raw", 16, "TCP echo, Python handler, raw 64 B", {"uvloop": 1.0, "asyncio": 1.3}),
        ("seen", 16, "TCP framed 64 B, each seen in Python", {"uvloop": 3.0}),
        ("answered", 16, "TCP framed 64 B, each answered in Python", {"uvloop": 3.0}),
        ("websocket", 1, "WebSocket echo, Python handler, 64 B", {"picows": 1.5, "websockets": 5.0}),
        ("websocket", 16, "WebSocket echo, Python handler, 64 B", {"picows": 1.5, "websockets": 5.0}),
    ):
        peers = {
            f"{kind} Protocol" if kind in ("uvloop", "asyncio") else kind: (python_server(kind, work), goal)
            for kind, goal in goals.items()
        }
        # At depth 1 a thousand connections make large batches, and the hand-over to a thread costs little.
        ours = python_server("edge" if depth == 1 else "inline", work)
        found.append(Case(f"{title}, depth {depth}", work, depth, ours, peers))
    return found


def run_case(case: Case, *, quick: bool, rounds: int = ROUNDS) -> list[Row]:
    """Ours and its peers in turns."""
    load = rust_example("edge_load")
    commands = {name: command for name, (command, _) in case.peers.items() if not isinstance(command, str)}
    figures = {name: Samples() for name in ["", *commands]}
    for _ in range(rounds):
        for name, samples in figures.items():
            run_load(commands.get(name, case.ours), load, case.work, case.depth, samples, quick=quick)
    rows: list[Row] = []
    for name, (command, goal) in case.peers.items():
        if isinstance(command, str):
            rows.append({"name": f"{case.name}, {name}", "reason": command})
            continue
        ours, peer = figures[""], figures[name]
        row: Row = {
            "name": case.name,
            "ours": round(ours.rate),
            "peer": round(peer.rate),
            "peer_name": name,
            "unit": "messages/s",
            "ratio": round(ours.ratio(peer), 2),
            "goal": goal,
            "better": "higher",
            "cpu_us": [round(ours.cpu, 3), round(peer.cpu, 3)],
            "cpu_ratio": round(peer.cpu / ours.cpu, 2),
        }
        rows.append(row)
    return rows


def memory() -> list[Row]:
    """What an idle connection costs in user memory, in KB."""
    rows: list[Row] = []
    for transport, missing in transports().items():
        name, limit_kb = LIMITS_KB[transport]
        title = f"user memory of an idle connection, {name}"
        if missing:
            rows.append({"name": title, "reason": missing})
            continue
        _, cost = idle_bytes(transport)
        row: Row = {
            "name": title,
            "ours": round(cost / 1024, 2),
            "peer": limit_kb,
            "peer_name": "the limit",
            "unit": "KB",
            "ratio": round(cost / 1024 / limit_kb, 2),
            "goal": 1.0,
            "better": "lower",
        }
        rows.append(row)
    return rows


def measure(*, quick: bool, only: Sequence[str] = ()) -> list[Row]:
    """All rows, those of `edge_udp` last."""
    rows = []
    for case in cases():
        if not only or case.name.startswith(tuple(only)):
            rows += run_case(case, quick=quick)
    if not only or any(name.startswith("user memory") for name in only):
        rows += memory()
    if not only and importlib.util.find_spec("tests.bench.edge_udp") is not None:
        rows += importlib.import_module("tests.bench.edge_udp").measure(quick=quick)
    return rows
