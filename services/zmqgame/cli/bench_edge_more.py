"""What `bench edge` measures beside echoes: netcode, the decoder, memory; shared with `make bench`."""

from __future__ import annotations

import os
import resource
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import which
from statistics import median
from typing import Any, Final

from zmqgame.cli.bench_edge_servers import NETCODE_KEY, NETCODE_PROTOCOL, server
from zmqgame.cli.measured import anonymous_bytes, cpu_s

SESSIONS: Final = 100
HEAD: Final = struct.Struct("<IBBHQ")
STREAM_BYTES: Final = 1 << 20
CONNECTION: Final = 7
_UPGRADE: Final = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_IDLE: Final = {"tcp": 8_000, "websocket": 8_000, "tls": 4_000}
"""Idle connections: with much fewer the allocator's large pages would be the figure."""
_FIRST: Final = 100
"""Connections that pay for what is made once."""


# Datagrams.


def flooded(kind: str, packet_bytes: int, seconds: float) -> tuple[int, float]:
    """Packets of `netcode` or `plain` that Python was handed, and the processor seconds that it took."""
    from zmqgame_native import udp_flood

    key = NETCODE_KEY if kind == "netcode" else None
    cores = sorted(os.sched_getaffinity(0))
    with server("edge", kind, cores[0]) as (process, address):
        before = cpu_s(process.pid)
        with on_core(cores[-1]):
            udp_flood(
                address,
                sessions=SESSIONS,
                packet_bytes=packet_bytes,
                duration_s=seconds,
                protocol_id=NETCODE_PROTOCOL,
                private_key=key,
            )
        # The kernel's clock of it has ticks of 10 ms.
        used = max(cpu_s(process.pid) - before, 0.01)
        return int(process.communicate()[0]), used


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """This thread on one core, for a while."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [core])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# The decoder.


def stream(packet_bytes: int) -> tuple[bytes, int]:
    """Packets of `packet_bytes` each without their prefix, as a whole buffer, and how many."""
    count = STREAM_BYTES // (packet_bytes + 4)
    payload = b"x" * (packet_bytes - 12)
    return b"".join(HEAD.pack(packet_bytes, 1, 0, 0, number) + payload for number in range(count)), count


def struct_loop(data: bytes) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """What a Python programmer writes: the same columns, checks included."""
    connections: list[int] = []
    kinds: list[int] = []
    sequences: list[int] = []
    offsets: list[int] = []
    lengths: list[int] = []
    at, end, unpack = 0, len(data), HEAD.unpack_from
    while at + 16 <= end:
        length, kind, flags, reserved, sequence = unpack(data, at)
        if length < 12 or length > 65_536 or flags or reserved or kind >= 0xF0:
            raise ValueError("no packet")
        if at + 4 + length > end:
            break
        connections.append(CONNECTION)
        kinds.append(kind)
        sequences.append(sequence)
        offsets.append(at + 16)
        lengths.append(length - 12)
        at += 4 + length
    return connections, kinds, sequences, offsets, lengths


def alternate(
    ours: Callable[[], object], peer: Callable[[], object], rounds: int, slice_s: float
) -> tuple[float, float]:
    """Seconds of one call of both: medians, measured in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        times[0].append(_seconds_for(ours, slice_s))
        times[1].append(_seconds_for(peer, slice_s))
    return median(times[0]), median(times[1])


def _seconds_for(work: Callable[[], object], at_least_s: float) -> float:
    """Seconds of one call, over as many calls as fill the time."""
    calls, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < at_least_s or not calls:
        work()
        calls += 1
    return passed / calls


def decoded(packet_bytes: int, rounds: int, slice_s: float) -> tuple[int, float, float]:
    """How many packets, and how long the decoder and the struct loop take for them."""
    from zmqgame_native import PacketBatch

    data, count = stream(packet_bytes)
    return count, *alternate(
        lambda: PacketBatch.decode(data, CONNECTION), lambda: struct_loop(data), rounds, slice_s
    )


# Memory.


def idle_bytes(transport: str) -> tuple[int, float]:
    """How many connections by `tcp`, `websocket` or `tls` were added, and what user memory each has cost."""
    connections = _allowed_descriptors(_IDLE[transport] + 3 * _FIRST) - 3 * _FIRST
    core = min(os.sched_getaffinity(0))
    with ExitStack() as stack:
        mode, folder = "native" if transport == "tcp" else "packets", ""
        if transport == "tls":
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            self_signed(Path(folder))
            mode = f"tls:{folder}"
        process, address = stack.enter_context(server("edge", mode, core))
        hold = _hold_tls(stack, Path(folder)) if transport == "tls" else _hold(stack, transport)
        hold(address, _FIRST)
        before = anonymous_bytes(process.pid)
        hold(address, connections)
        return connections, (anonymous_bytes(process.pid) - before) / connections


def transports() -> dict[str, str]:
    """Which can be measured here; why not, for the others."""
    return {
        "tcp": "",
        "websocket": "",
        "tls": "" if which("openssl") else "openssl, which makes the certificate, is not installed",
    }


def _allowed_descriptors(wanted: int) -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(soft, wanted)


def _hold(stack: ExitStack, transport: str) -> Callable[[str, int], None]:
    def hold(address: str, count: int) -> None:
        host, port = address.rsplit(":", 1)
        for _ in range(count):
            client = stack.enter_context(socket.create_connection((host, int(port)), 60))
            if transport == "websocket":
                client.sendall(_UPGRADE)
                answer = b""
                while not answer.endswith(b"\r\n\r\n"):
                    answer += client.recv(1_024)

    return hold


def _hold_tls(stack: ExitStack, folder: Path) -> Callable[[str, int], None]:
    from zmqgame_native import Edge

    clients = Edge(idle_ms=0, handshake_ms=0, connect_ms=60_000, max_connections=65_536)
    stack.callback(clients.stop, 0)

    def hold(address: str, count: int) -> None:
        trusted = folder / "certificate.pem"
        for _ in range(count):
            clients.connect_tcp(address, tls=trusted, server_name="localhost")
        opened = 0
        while opened < count and clients.wait(60_000):
            rows = clients.receive().packets()
            if any(kind == 0xF1 for _, kind, _, _ in rows):
                raise RuntimeError("a TLS connection has ended")
            opened += len(rows)

    return hold


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    key_type = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
    command = f"openssl req -x509 {key_type} -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return certificate, key


def row(mode: str, **found: Any) -> dict[str, Any]:
    """A row of `bench edge`: all have the same columns."""
    return {"server": "edge", "mode": mode, **dict.fromkeys(COLUMNS), **found}


COLUMNS: Final = (
    "connections",
    "depth",
    "size_bytes",
    "messages",
    "seconds",
    "per_s",
    "server_cpu_us",
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "p99.9_ms",
    "max_ms",
    "beside",
    "beside_per_s",
    "memory_bytes",
)
