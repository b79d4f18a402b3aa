"""What the edge's benchmark runs: programs it builds, servers with a core of their own, the load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from statistics import median

from zmqgame.cli.measured import cpu_s

ROOT = Path(__file__).resolve().parents[2]
CORES = sorted(os.sched_getaffinity(0))
BUILT = ROOT / "target" / "bench"


@dataclass
class Samples:
    """What the rounds of one server gave."""

    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Messages a second."""
        return median(self.rates)

    def ratio(self, peer: Samples) -> float:
        """Our rate to the peer's, round by round: when a machine changes its speed, it does for both."""
        return median(ours / theirs for ours, theirs in zip(self.rates, peer.rates, strict=True))

    @property
    def cpu(self) -> float:
        """Processor time of the server a message, in us: says more while the machine is not idle."""
        return median(self.cpu_us)


def rust_example(name: str) -> Path:
    """A program of rust/reactor/examples, built in release mode."""
    command = ["cargo", "build", "--quiet", "--release", "--locked", "-p", "zmqgame-reactor"]
    subprocess.run([*command, "--example", name], cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "examples" / name


def c_program(name: str) -> Path:
    """A C program of this folder."""
    BUILT.mkdir(parents=True, exist_ok=True)
    built = BUILT / name
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", str(built), str(source)], check=True)
    return built


def gnet_program() -> Path | str:
    """The gnet echo, or why there is none."""
    if not which("go"):
        return "go is not installed"
    BUILT.mkdir(parents=True, exist_ok=True)
    built = BUILT / "gnet_echo"
    command = ["go", "build", "-trimpath", "-o", str(built), "."]
    where = Path(__file__).with_name("gnet")
    done = subprocess.run(command, cwd=where, check=False, capture_output=True, text=True)
    return built if done.returncode == 0 else f"gnet could not be built: {done.stderr.strip()[-200:]}"


def python_server(kind: str, work: str) -> list[str]:
    """The command of a server of `bench edge`."""
    return [sys.executable, "-m", "zmqgame.cli.bench_edge_servers", kind, work]


@contextmanager
def server(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process on its own core, and its address."""
    pinned = ["taskset", "-c", str(CORES[0]), *command]
    # gnet would log on stdout: 2 is errors only.
    environment = {**os.environ, "GOMAXPROCS": "1", "GNET_LOGGING_LEVEL": "2"}
    process = subprocess.Popen(pinned, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"{command[0]} did not start")
        yield process, address
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def run_load(
    command: list[str], program: Path, work: str, depth: int, samples: Samples, *, quick: bool
) -> None:
    """One round: a fresh server under load."""
    connections, seconds = "1000", "0.7" if quick else "2"
    framing = {"seen": "framed", "answered": "framed"}.get(work, work)
    load = [str(program)]
    if len(CORES) > 1:
        load = ["taskset", "-c", str(CORES[1]), *load]
    with server(command) as (process, address):
        before = cpu_s(process.pid)
        done = subprocess.run(
            [*load, address, connections, str(depth), framing, seconds],
            check=True,
            capture_output=True,
            text=True,
        )
        found = json.loads(done.stdout)
        samples.rates.append(float(found["messages_s"]))
        samples.cpu_us.append((cpu_s(process.pid) - before) * 1e6 / found["messages"])
