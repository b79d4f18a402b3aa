"""`bench edge`: how fast does a Python handler serve clients on this machine?"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from zmqgame.cli.context import EXIT_CODES, print_csv, print_json

if TYPE_CHECKING:
    from zmqgame_native import PacketBatch, WriteBatch

MODES: Final = ("raw", "packets", "answers", "websocket")
WIRES: Final = {"answers": "packets"}
PEERS: Final = ("asyncio", "uvloop")
SHARES: Final = ("p50", "p90", "p99", "p99.9", "max")
WARM_UP_S: Final = 0.3
_TICKS_S: Final = os.sysconf("SC_CLK_TCK")

EPILOG = f"""\b
Examples:
  zmqgame-cli bench edge                                  each mode for 3 s
  zmqgame-cli bench edge --mode websocket --depth 1
  zmqgame-cli bench edge --mode raw --peer uvloop         the same with uvloop's Protocol
  zmqgame-cli bench edge --json > today.json              or --csv

Modes:
  raw         bytes without frames; the handler returns the batch it gets
  packets     client packets; the handler returns the batch it gets
  answers     client packets; the handler looks at each and answers each
  websocket   client packets as WebSocket messages; the handler answers each

A server process echoes, a native load generator in this one sends: each has a core of its own where there are
two. Each connection has --depth messages under way; a latency is that of a round, from sending them to the
last echo. Processor time is the server's. Nothing that runs is touched.

{EXIT_CODES}"""


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    connections: int
    depth: int
    size: int
    seconds: float


@click.command(epilog=EPILOG)
@click.option("--mode", "modes", type=click.Choice(MODES), multiple=True, help="Repeatable; default: all.")
@click.option(
    "--peer", "peers", type=click.Choice(PEERS), multiple=True, help="Measure it beside ours; for mode raw."
)
@click.option("--connections", type=click.IntRange(1, 50_000), default=1_000, show_default=True)
@click.option(
    "--depth",
    type=click.IntRange(1, 1_024),
    default=16,
    show_default=True,
    help="Messages under way.",
)
@click.option(
    "--size",
    type=click.IntRange(12, 125),
    default=64,
    show_default=True,
    help="Bytes of a message.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 600),
    default=3.0,
    show_default=True,
    metavar="S",
    help="A mode's time.",
)
@click.option("--json", "style", flag_value="json", help="Print JSON.")
@click.option("--csv", "style", flag_value="csv", help="Print CSV.")
def edge(
    modes: tuple[str, ...],
    peers: tuple[str, ...],
    connections: int,
    depth: int,
    size: int,
    seconds: float,
    style: str | None,
) -> None:
    """Echoes of many clients through the edge and a handler in Python."""
    plan = Plan(connections, depth, size, seconds)
    chosen = [("edge", mode) for mode in modes or MODES] + [(peer, "raw") for peer in peers]
    rows = [_measure(server, mode, plan) for server, mode in chosen]
    if style == "json":
        print_json(rows)
    elif style == "csv":
        print_csv(rows)
    else:
        _print(rows)


def _measure(kind: str, mode: str, plan: Plan) -> dict[str, Any]:
    from zmqgame_native import echo_load

    cores = sorted(os.sched_getaffinity(0))

    def load(address: str) -> dict[str, Any]:
        # Of this thread alone: it ends with the measurement.
        os.sched_setaffinity(threading.get_native_id(), cores[-1:])
        return echo_load(
            address,
            wire=WIRES.get(mode, mode),
            connections=plan.connections,
            depth=plan.depth,
            message_bytes=plan.size,
            warm_up_s=WARM_UP_S,
            duration_s=plan.seconds,
        )

    with _server(kind, mode, cores[0]) as (process, address), ThreadPoolExecutor(1) as pool:
        before = _cpu_s(process.pid)
        result = pool.submit(load, address)
        with _progress(f"{mode}" if kind == "edge" else kind, plan) as tick:
            while not result.done():
                tick()
                time.sleep(0.05)
        found = result.result()
        cpu_s = _cpu_s(process.pid) - before
    return {
        "server": kind,
        "mode": mode,
        "connections": plan.connections,
        "depth": plan.depth,
        "size_bytes": plan.size,
        "messages": found["messages"],
        "seconds": round(found["seconds"], 3),
        "per_s": round(found["messages"] / found["seconds"], 1),
        "server_cpu_us": round(cpu_s * 1e6 / max(found["messages_in_all"], 1), 3),
        **{f"{name}_ms": found[f"{name}_us"] / 1_000 for name in SHARES},
    }


@contextmanager
def _progress(name: str, plan: Plan) -> Iterator[Callable[[], None]]:
    """A bar of time, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(f"{name:<10}"), BarColumn(), TimeRemainingColumn())
    began = time.perf_counter()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=plan.seconds + WARM_UP_S)
        yield lambda: bar.update(task, completed=time.perf_counter() - began)


@contextmanager
def _server(kind: str, mode: str, core: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "zmqgame.cli.bench_edge", kind, mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                raise click.ClickException(f"the {kind} server did not start; is {kind} installed?")
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), [core])
            yield process, address
        finally:
            process.kill()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_S


def _print(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        latency = "   ".join(f"{name} {row[f'{name}_ms']:.3f}" for name in SHARES)
        name = row["mode"] if row["server"] == "edge" else f"{row['mode']} ({row['server']})"
        print(
            f"{name:<14} {row['per_s']:>12,.0f} messages/s   {latency} ms   "
            f"{row['server_cpu_us']:.2f} us of processor a message"
        )


# The servers, each a process of its own: `python -m zmqgame.cli.bench_edge KIND MODE`.


class RawEcho(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """One read."""
        self.transport.write(data)


def serve_edge(mode: str) -> None:
    """Our edge."""
    from zmqgame_native import Edge

    def echo(batch: PacketBatch) -> PacketBatch:
        return batch

    def answer(batch: PacketBatch) -> WriteBatch:
        rows = zip(batch.kind, batch.payloads(), strict=True)
        return batch.reply([payload if kind < 0xF0 else None for kind, payload in rows])

    server = Edge(idle_ms=0, handshake_ms=0, max_connections=65_536)
    print(server.listen_tcp("127.0.0.1:0", framing="raw" if mode == "raw" else "packets"), flush=True)
    server.serve(answer if mode in ("answers", "websocket") else echo)


async def serve_protocol() -> None:
    """The same bytes through a Protocol."""
    server = await asyncio.get_running_loop().create_server(RawEcho, "127.0.0.1", 0, backlog=4_096)
    print("{}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await server.serve_forever()


def main(kind: str, mode: str) -> None:
    """Serve until killed."""
    if kind == "edge":
        serve_edge(mode)
    elif kind == "uvloop":
        import uvloop

        uvloop.run(serve_protocol())
    else:
        asyncio.run(serve_protocol())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
