"""What the edge's benchmark runs: programs it builds, servers with a core of their own, the load, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
CORES = sorted(os.sched_getaffinity(0))
BUILT = ROOT / "target" / "bench"
TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass
class Samples:
    """What the rounds of one server gave."""

    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Messages a second."""
        return median(self.rates)

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
    """The command of a server of `edge_servers`."""
    return [sys.executable, "-m", "tests.bench.edge_servers", kind, work]


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


def cpu_s(process: subprocess.Popen[str]) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def run_load(
    command: list[str], program: Path, work: str, depth: int, samples: Samples, *, quick: bool
) -> None:
    """One round: a fresh server under load."""
    connections, seconds = ("200", "0.7") if quick else ("1000", "2")
    framing = {"seen": "framed", "answered": "framed"}.get(work, work)
    load = [str(program)]
    if len(CORES) > 1:
        load = ["taskset", "-c", str(CORES[1]), *load]
    with server(command) as (process, address):
        before = cpu_s(process)
        done = subprocess.run(
            [*load, address, connections, str(depth), framing, seconds],
            check=True,
            capture_output=True,
            text=True,
        )
        found = json.loads(done.stdout)
        samples.rates.append(float(found["messages_s"]))
        samples.cpu_us.append((cpu_s(process) - before) * 1e6 / found["messages"])


def idle_bytes(command: list[str], program: Path, framing: str, connections: int) -> float:
    """User memory that an idle connection costs a server: what it has more with so many of them."""
    with server(command) as (process, address):
        load = [str(program), address]
        # The first ones pay for what is made once.
        with held([*load, "100", "1", framing, "0"]):
            before = anonymous_bytes(process.pid)
            with held([*load, str(connections), "1", framing, "0"]):
                return (anonymous_bytes(process.pid) - before) / connections


def tls_files(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    key_type = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
    command = f"openssl req -x509 {key_type} -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return certificate, key


def idle_tls_bytes(connections: int) -> float:
    """User memory that an idle TLS connection costs the edge; its clients are an edge too."""
    from zmqgame_native import Edge

    with tempfile.TemporaryDirectory() as folder:
        certificate, _ = tls_files(Path(folder))
        with server(python_server("edge", f"tls:{folder}")) as (process, address):
            clients = Edge(idle_ms=0, handshake_ms=0)

            def connect(count: int) -> None:
                for _ in range(count):
                    clients.connect_tcp(address, tls=certificate, server_name="localhost")
                opened = 0
                while opened < count and clients.wait(10_000):
                    kinds = [kind for _, kind, _, _ in clients.receive()]
                    if 0xF1 in kinds:
                        raise RuntimeError("a TLS connection has ended")
                    opened += len(kinds)

            connect(100)
            before = anonymous_bytes(process.pid)
            connect(connections)
            cost = (anonymous_bytes(process.pid) - before) / connections
            clients.stop(0)
            return cost


@contextmanager
def held(command: list[str]) -> Iterator[None]:
    """Connections that are held open and silent."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        if process.stdout.readline().strip() != "connected":
            raise RuntimeError("the connections could not be opened")
        yield
    finally:
        process.communicate("")


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that is its own, not a file's."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
