"""The edge's UDP beside its peers: native echo, and netcode handed to Python beside plain datagrams.

Echo: 64 sockets with 16 datagrams under way, where those of one sender follow each other and go joined, and
256 sockets with one, where none do.
"""

from __future__ import annotations

import json
import subprocess
from statistics import median

from zmqgame.cli.bench_edge_more import flooded
from zmqgame.cli.measured import cpu_s

from tests.bench.edge_load import CORES, Samples, c_program, gnet_program, rust_example, server
from tests.bench.report import Row

ROUNDS = 3
SHAPES = ((256, 1), (64, 16))
SIZES = (64, 1_000)
GOALS = {"C with recvmmsg and sendmmsg": 0.9, "gnet 2": 1.7}


def on_core(core: int, command: list[str]) -> list[str]:
    """The command on that core, where there is one."""
    return ["taskset", "-c", str(CORES[core]), *command] if len(CORES) > core else command


def echo_round(command: list[str], shape: tuple[int, int], size: int, samples: Samples, seconds: str) -> None:
    """One round: a fresh server under load."""
    load = [str(rust_example("udp_load"))]
    with server(command) as (process, address):
        before = cpu_s(process.pid)
        arguments = [address, str(shape[0]), str(shape[1]), str(size), seconds]
        done = subprocess.run(on_core(1, [*load, *arguments]), check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        samples.rates.append(float(found["messages_s"]))
        samples.cpu_us.append((cpu_s(process.pid) - before) * 1e6 / max(found["messages"], 1))


def echo_rows(*, quick: bool) -> list[Row]:
    """Native echo beside its peers, in turns."""
    gnet = gnet_program()
    commands = {
        "": [str(rust_example("udp_echo"))],
        "C with recvmmsg and sendmmsg": [str(c_program("udp_echo"))],
    }
    if not isinstance(gnet, str):
        commands["gnet 2"] = [str(gnet), "udp"]
    rows: list[Row] = []
    for sockets, depth in SHAPES:
        for size in SIZES:
            figures = {name: Samples() for name in commands}
            for _ in range(ROUNDS):
                for name, samples in figures.items():
                    shape = (sockets, depth)
                    echo_round(commands[name], shape, size, samples, "0.5" if quick else "2")
            name = f"UDP echo, native handler, {size} B, {sockets} sockets, depth {depth}"
            rows += [_row(name, figures[""], figures[peer], peer) for peer in GOALS if peer in figures]
            if isinstance(gnet, str):
                rows.append({"name": f"{name}, gnet 2", "reason": gnet})
    return rows


def _row(name: str, ours: Samples, peer: Samples, peer_name: str) -> Row:
    return {
        "name": name,
        "ours": round(ours.rate),
        "peer": round(peer.rate),
        "peer_name": peer_name,
        "unit": "messages/s",
        "ratio": round(ours.ratio(peer), 2),
        "goal": GOALS[peer_name],
        "better": "higher",
        "cpu_us": [round(ours.cpu, 3), round(peer.cpu, 3)],
        "cpu_ratio": round(peer.cpu / ours.cpu, 2),
    }


def netcode_row(*, quick: bool) -> Row:
    """Packets for each second of the server's processor: what neither floods nor other work can blur."""
    rates: dict[str, list[float]] = {"netcode": [], "plain": []}
    for _ in range(ROUNDS):
        for kind, found in rates.items():
            packets, used = flooded(kind, 76, 0.5 if quick else 2)
            found.append(packets / used)
    ours, peer = median(rates["netcode"]), median(rates["plain"])
    return {
        "name": "netcode, 76 B, handed to Python",
        "ours": round(ours),
        "peer": round(peer),
        "peer_name": "our plain UDP",
        "unit": "packets/s of processor",
        "ratio": round(ours / peer, 2),
        "goal": 0.5,
        "better": "higher",
    }


def measure(*, quick: bool) -> list[Row]:
    """All rows."""
    return [*echo_rows(quick=quick), netcode_row(quick=quick)]
