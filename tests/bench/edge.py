"""TCP echo with the handler in Python: our edge beside uvloop's and asyncio's Protocol, one load generator.

The server gets one core and the generator (rust/reactor/examples/edge_load.rs) another, where there are two.
Framed: a length of 4 bytes and 64 more, each packet seen by the handler; peers cut with a struct loop.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.report import Row

ROOT = Path(__file__).resolve().parents[2]
CORES = sorted(os.sched_getaffinity(0))


class RawEcho(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """One read."""
        self.transport.write(data)


class FramedEcho(RawEcho):
    """Cuts packets with a struct loop, sees each, sends it back."""

    def connection_made(self, transport: Any) -> None:
        """Begin a stream."""
        super().connection_made(transport)
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        """One read: the packets that are whole now."""
        data = self.rest + data if self.rest else data
        at, end, out = 0, len(data), []
        while at + 16 <= end:
            length, kind, _, _, sequence = struct.unpack_from("<IBBHQ", data, at)
            if at + 4 + length > end:
                break
            payload = data[at + 16 : at + 4 + length]
            out.append(struct.pack("<IBBHQ", length, kind, 0, 0, sequence) + payload)
            at += 4 + length
        self.rest = data[at:]
        self.transport.write(b"".join(out))


def serve_edge(framing: str) -> None:
    """Our edge; the handler is the list of rows."""
    from zmqgame_native import Edge

    edge = Edge(idle_ms=0, handshake_ms=0)
    print(edge.listen_tcp("127.0.0.1:0", framing="packets" if framing == "framed" else "raw"), flush=True)
    while True:
        if edge.wait(1_000):
            edge.send([row for row in edge.receive() if row[1] < 0xF0])


def serve_protocol(framing: str, loop_name: str) -> None:
    """The same with asyncio or uvloop."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        factory = FramedEcho if framing == "framed" else RawEcho
        server = await loop.create_server(factory, "127.0.0.1", 0)
        print("{}:{}".format(*server.sockets[0].getsockname()), flush=True)
        await server.serve_forever()

    if loop_name == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())


@contextmanager
def server(kind: str, framing: str) -> Iterator[str]:
    """A server process on its own core; gives its address."""
    command = [sys.executable, "-m", "tests.bench.edge", kind, framing]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(process.pid, CORES[:1])
    try:
        assert process.stdout
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def load_generator() -> Path:
    """Build it, in release mode."""
    command = ["cargo", "build", "--quiet", "--release", "--locked", "-p", "zmqgame-reactor"]
    subprocess.run([*command, "--example", "edge_load"], cwd=ROOT, check=True)
    return ROOT / "target" / "release" / "examples" / "edge_load"


def run_load(program: Path, address: str, depth: int, framing: str, *, quick: bool) -> float:
    """Messages a second through a server."""
    connections, seconds = (200, "0.7") if quick else (1_000, "2")
    command = [str(program), address, str(connections), str(depth), framing, seconds]
    if len(CORES) > 1:
        command = ["taskset", "-c", str(CORES[1]), *command]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["messages_s"])


CASES = (
    ("raw", 1, {"uvloop": 1.0, "asyncio": 1.3}),
    ("raw", 16, {"uvloop": 1.0, "asyncio": 1.3}),
    ("framed", 16, {"uvloop": 3.0}),
)


def measure(*, quick: bool) -> list[Row]:
    """One row a case and peer; ours and the peers in turns."""
    program, rows = load_generator(), []
    for framing, depth, goals in CASES:
        figures: dict[str, list[float]] = {"edge": [], **{peer: [] for peer in goals}}
        for _ in range(3):
            for kind, results in figures.items():
                with server(kind, framing) as address:
                    results.append(run_load(program, address, depth, framing, quick=quick))
        for peer_name, goal in goals.items():
            ours, peer = median(figures["edge"]), median(figures[peer_name])
            row: Row = {
                "name": f"TCP echo, Python handler, {framing} 64 B, depth {depth}",
                "ours": round(ours),
                "peer": round(peer),
                "peer_name": f"{peer_name} Protocol",
                "unit": "messages/s",
                "ratio": round(ours / peer, 2),
                "goal": goal,
                "better": "higher",
            }
            rows.append(row)
    return rows


if __name__ == "__main__":
    if sys.argv[1] == "edge":
        serve_edge(sys.argv[2])
    else:
        serve_protocol(sys.argv[2], sys.argv[1])
