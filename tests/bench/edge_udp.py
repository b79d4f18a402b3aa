"""The edge's UDP beside its peers: native echo, and netcode handed to Python beside plain datagrams.

Echo: 64 sockets with 16 datagrams under way, where those of one sender follow each other and go joined, and
256 sockets with one, where none do. `python -m tests.bench.edge_udp plain|netcode` serves the last row.
"""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median

from tests.bench.edge_load import (
    CORES,
    ROOT,
    Samples,
    c_program,
    cpu_s,
    gnet_program,
    rust_example,
    server,
)
from tests.bench.report import Row

ROUNDS = 3
SHAPES = ((256, 1), (64, 16))
SIZES = (64, 1_000)
GOALS = {"C with recvmmsg and sendmmsg": 0.9, "gnet 2": 1.7}
KEY, PROTOCOL = bytes([5] * 32), 1
SESSIONS = 100


def serve(kind: str) -> None:
    """Take batches until stdin is closed; then tell how many packets there were."""
    import threading

    from zmqgame_native import Edge

    edge, total, over = Edge(), 0, threading.Event()
    if kind == "netcode":
        address = edge.listen_udp("127.0.0.1:0", protocol_id=PROTOCOL, private_key=KEY)
    else:
        address = edge.listen_udp_plain("127.0.0.1:0")

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    print(address, flush=True)
    while not over.is_set():
        if edge.wait(50):
            total += len(edge.receive())
    print(total, flush=True)


def on_core(core: int, command: list[str]) -> list[str]:
    """The command on that core, where there is one."""
    return ["taskset", "-c", str(CORES[core]), *command] if len(CORES) > core else command


def echo_round(command: list[str], shape: tuple[int, int], size: int, samples: Samples, seconds: str) -> None:
    """One round: a fresh server under load."""
    load = [str(rust_example("udp_load"))]
    with server(command) as (process, address):
        before = cpu_s(process)
        arguments = [address, str(shape[0]), str(shape[1]), str(size), seconds]
        done = subprocess.run(on_core(1, [*load, *arguments]), check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        samples.rates.append(float(found["messages_s"]))
        samples.cpu_us.append((cpu_s(process) - before) * 1e6 / max(found["messages"], 1))


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
        "ratio": round(ours.rate / peer.rate, 2),
        "goal": GOALS[peer_name],
        "better": "higher",
        "cpu_us": [round(ours.cpu, 3), round(peer.cpu, 3)],
        "cpu_ratio": round(peer.cpu / ours.cpu, 2),
    }


def flood(kind: str, seconds: str) -> tuple[int, float]:
    """Packets that Python was handed, and the server's processor time for them in seconds."""
    command = on_core(0, [sys.executable, "-m", "tests.bench.edge_udp", kind])
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            address = process.stdout.readline().strip()
            before = cpu_s(process)
            load = [str(rust_example("udp_flood")), address, str(SESSIONS), kind, "76", seconds]
            subprocess.run(on_core(1, load), check=True, capture_output=True)
            used = cpu_s(process) - before
            process.stdin.close()
            return int(process.stdout.readline()), used
        finally:
            process.kill()


def netcode_row(*, quick: bool) -> Row:
    """Packets for each second of the server's processor: what neither floods nor other work can blur."""
    rates: dict[str, list[float]] = {"netcode": [], "plain": []}
    for _ in range(ROUNDS):
        for kind, found in rates.items():
            packets, used = flood(kind, "0.5" if quick else "2")
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


if __name__ == "__main__":
    serve(sys.argv[1])
