"""The edge under load: echoes everything, tells counters, descriptors and memory when asked on stdin."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def raise_descriptors() -> int:
    """As many as the system lets us have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def state(edge: Any) -> dict[str, int]:
    """Counters, open descriptors, and memory that is the process's own."""
    lines = Path("/proc/self/status").read_text().splitlines()
    own = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    counters: dict[str, int] = edge.counters()
    return {**counters, "descriptors": len(os.listdir("/proc/self/fd")), "own_bytes": own}


def serve(settings: dict[str, Any], tls: tuple[str, str] | None) -> None:
    """Listen, tell where, echo until stdin ends."""
    from zmqgame_native import Edge

    raise_descriptors()
    edge = Edge(**settings)
    addresses = {"tcp": edge.listen_tcp("127.0.0.1:0")}
    if tls:
        addresses["tls"] = edge.listen_tcp("127.0.0.1:0", tls=tls)
    print(json.dumps(addresses), flush=True)
    over = threading.Event()

    def answer() -> None:
        for _ in sys.stdin:
            print(json.dumps(state(edge)), flush=True)
        over.set()

    threading.Thread(target=answer, daemon=True).start()
    while not over.is_set():
        if edge.wait(100):
            edge.send(edge.receive())


@dataclass
class Server:
    """One that runs."""

    process: subprocess.Popen[str]
    addresses: dict[str, str]

    def state(self) -> dict[str, int]:
        """What it tells of itself."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("state\n")
        self.process.stdin.flush()
        told: dict[str, int] = json.loads(self.process.stdout.readline())
        return told


@contextmanager
def running(tls: tuple[str, str] | None = None, **settings: Any) -> Iterator[Server]:
    """A server in a process of its own."""
    command = [sys.executable, "-m", "tests.load._server", json.dumps(settings), json.dumps(tls)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield Server(process, json.loads(process.stdout.readline()))
    finally:
        process.communicate()


if __name__ == "__main__":
    paths = json.loads(sys.argv[2])
    serve(json.loads(sys.argv[1]), tuple(paths) if paths else None)
