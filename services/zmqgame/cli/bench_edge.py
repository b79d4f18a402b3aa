"""`bench edge`: how fast does the edge serve clients on this machine, natively and with a Python handler?"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import click

from zmqgame.cli import bench_edge_more as more
from zmqgame.cli.bench_edge_servers import PEERS, server
from zmqgame.cli.context import EXIT_CODES
from zmqgame.cli.measured import (
    SHARES,
    cpu_s,
    latency,
    mode_option,
    progress,
    seconds_option,
    show,
    style_options,
)

ECHOES: Final = {
    "native": "raw",
    "raw": "raw",
    "seen": "packets",
    "answered": "packets",
    "websocket": "websocket",
    "udp": "udp",
}
"""Modes of echoes, and what is on their wire."""
MODES: Final = (*ECHOES, "netcode", "decoder", "memory")
WARM_UP_S: Final = 0.3
_ROUNDS: Final = 3

EPILOG = f"""\b
Examples:
  zmqgame-cli bench edge                                  each mode for 3 s
  zmqgame-cli bench edge --mode websocket --depth 1
  zmqgame-cli bench edge --mode seen --inline --peer uvloop
  zmqgame-cli bench edge --json > today.json              or --csv

\b
Modes:
  native      bytes without frames; a native handler echoes them: what Python adds is the rest
  raw         bytes without frames; the handler returns the batch it gets
  seen        client packets; the handler looks at each and returns the batch
  answered    client packets; the handler answers each by itself
  websocket   client packets as WebSocket messages; the handler answers each
  udp         datagrams; a native handler echoes them
  netcode     a flood of sealed datagrams, decrypted and handed to Python, and plain ones beside them: how
              many for each second of the server's processor
  decoder     packets in one buffer, all columns; beside it a loop with struct
  memory      of an idle connection by TCP, WebSocket and TLS

A server process echoes, a native load generator in this one sends: each has a core of its own where there are
two. Peers are measured in the modes that they have: asyncio and uvloop (a Protocol each) in raw, seen and
answered, picows and websockets in websocket. Each connection has --depth messages under way; a latency is
that of a round, from sending them to the last echo. Processor time is the server's. Nothing that runs is
touched.

{EXIT_CODES}"""


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    connections: int
    depth: int
    size: int
    seconds: float


@click.command(epilog=EPILOG)
@mode_option(MODES)
@click.option(
    "--peer", "peers", type=click.Choice(tuple(PEERS)), multiple=True, help="Measure it beside ours."
)
@click.option("--inline", is_flag=True, help="Call the Python handler on the loop's own thread.")
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
@seconds_option(3.0, "A mode's time.")
@style_options
def edge(
    modes: tuple[str, ...],
    peers: tuple[str, ...],
    inline: bool,
    connections: int,
    depth: int,
    size: int,
    seconds: float,
    style: str | None,
) -> None:
    """Echoes of many clients through the edge; datagrams, the decoder, memory."""
    plan = Plan(connections, depth, size, seconds)
    rows: list[dict[str, Any]] = []
    for mode in modes or MODES:
        if mode in ECHOES:
            rows.append(_echoes("inline" if inline else "edge", mode, plan))
            rows += [_echoes(peer, mode, plan) for peer in peers if mode in PEERS[peer]]
        else:
            rows += _OTHERS[mode](plan)
    show(style, rows, _line)


def _echoes(kind: str, mode: str, plan: Plan) -> dict[str, Any]:
    from zmqgame_native import echo_load

    cores = sorted(os.sched_getaffinity(0))

    def load(address: str) -> dict[str, Any]:
        with more.on_core(cores[-1]):
            return echo_load(
                address,
                wire=ECHOES[mode],
                connections=plan.connections,
                depth=plan.depth,
                message_bytes=plan.size,
                warm_up_s=WARM_UP_S,
                duration_s=plan.seconds,
            )

    with server(kind, mode, cores[0]) as (process, address), ThreadPoolExecutor(1) as pool:
        before = cpu_s(process.pid)
        result = pool.submit(load, address)
        with progress(mode if kind == "edge" else kind, plan.seconds + WARM_UP_S) as tick:
            while not result.done():
                tick(0)
                time.sleep(0.05)
        found = result.result()
        used_s = cpu_s(process.pid) - before
    return more.row(
        mode,
        server=kind,
        connections=plan.connections,
        depth=plan.depth,
        size_bytes=plan.size,
        messages=found["messages"],
        seconds=round(found["seconds"], 3),
        per_s=round(found["messages"] / found["seconds"], 1),
        server_cpu_us=round(used_s * 1e6 / max(found["messages_in_all"], 1), 3),
        **{f"{name}_ms": found[f"{name}_us"] / 1_000 for name in SHARES},
    )


def _netcode(plan: Plan) -> list[dict[str, Any]]:
    """Packets for each second of the server's processor: a flood has no other measure."""
    with progress("netcode", 2 * plan.seconds):
        count, used_s = more.flooded("netcode", plan.size, plan.seconds)
        plain, plain_s = more.flooded("plain", plan.size, plan.seconds)
    found = more.row(
        "netcode",
        connections=more.SESSIONS,
        size_bytes=plan.size,
        messages=count,
        seconds=round(used_s, 3),
        per_s=round(count / used_s, 1),
        server_cpu_us=round(used_s * 1e6 / max(count, 1), 3),
        beside="plain datagrams",
        beside_per_s=round(plain / plain_s, 1),
    )
    return [found]


def _decoder(plan: Plan) -> list[dict[str, Any]]:
    with progress("decoder", plan.seconds):
        count, ours_s, loop_s = more.decoded(plan.size, _ROUNDS, plan.seconds / _ROUNDS / 2)
    found = more.row(
        "decoder",
        size_bytes=plan.size,
        messages=count,
        seconds=ours_s,
        per_s=round(count / ours_s, 1),
        beside="struct loop",
        beside_per_s=round(count / loop_s, 1),
    )
    return [found]


def _memory(plan: Plan) -> list[dict[str, Any]]:
    rows = []
    for transport, missing in more.transports().items():
        if missing:
            click.echo(f"memory of {transport}: {missing}", err=True)
            continue
        with progress(f"memory {transport}", plan.seconds):
            connections, cost = more.idle_bytes(transport)
        found = more.row("memory", beside=transport, connections=connections, memory_bytes=round(cost))
        rows.append(found)
    return rows


_OTHERS: Final = {"netcode": _netcode, "decoder": _decoder, "memory": _memory}


def _line(row: Mapping[str, Any]) -> str:
    name = row["mode"] if row["server"] in ("edge", "inline") else f"{row['mode']} ({row['server']})"
    if row["mode"] == "memory":
        return f"{name:<14} {row['memory_bytes']:>12,} bytes of an idle connection by {row['beside']}"
    line = f"{name:<14} {row['per_s']:>12,.0f} messages/s   "
    if row["p50_ms"] is not None:
        line += f"{latency(row)}   "
    if row["beside"]:
        line += f"({row['beside']}: {row['beside_per_s']:,.0f})   "
    if row["server_cpu_us"] is not None:
        line += f"{row['server_cpu_us']:.2f} us of processor a message"
    return line.rstrip()
