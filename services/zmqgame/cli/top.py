"""`top`: nodes, rates, queues and slow consumers, refreshed each second."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click
from zmqgame_bus.errors import RequestError

from zmqgame.cli.context import EXIT_CODES, Context, json_option, print_json, run

if TYPE_CHECKING:
    from rich.console import RenderableType
    from zmqgame_bus.node import Node

ORDERS: Final = ("queued", "rate", "players", "name")
WIDE: Final = 100
"""Columns of a terminal from which addresses and roles fit."""

EPILOG = f"""\b
Examples:
  zmqgame-cli top                   until Ctrl-C
  zmqgame-cli top --order rate      the busiest nodes first
  zmqgame-cli top --once            one look, also into a file
  zmqgame-cli top --json            a line of JSON a second

{EXIT_CODES}"""


@dataclass(frozen=True)
class Sample:
    """What the hub said at a time."""

    at_s: float
    rtt_ms: float
    counters: dict[str, Any]
    nodes: list[dict[str, Any]]


@click.command(epilog=EPILOG)
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(0.2, 60),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds between two looks.",
)
@click.option("--order", type=click.Choice(ORDERS), default="queued", show_default=True)
@click.option("--once", is_flag=True, help="One look (two, a moment apart, for the rates), then end.")
@json_option
@click.pass_obj
def top(context: Context, every_s: float, order: str, once: bool, as_json: bool) -> None:
    """Nodes, rates, queues, slow consumers, hub latency."""
    with contextlib.suppress(KeyboardInterrupt):
        run(_top(context, every_s, order, once, as_json))


async def _top(context: Context, every_s: float, order: str, once: bool, as_json: bool) -> None:
    live = sys.stdout.isatty() and not once and not as_json
    async with context.node() as node:
        before = await _sample(node)
        await asyncio.sleep(min(every_s, 1.0))
        if live:
            await _draw(node, before, every_s, order)
            return
        while True:
            now = await _sample(node)
            view = summarize(before, now, order)
            if as_json:
                print_json(view)
            else:
                _console().print(render(view, _console().width))
            if once:
                return
            before = now
            await asyncio.sleep(every_s)


async def _draw(node: Node, before: Sample, every_s: float, order: str) -> None:
    from rich.live import Live
    from rich.text import Text

    console = _console()
    with Live(Text("looking ..."), console=console, screen=True, auto_refresh=False) as screen:
        while True:
            try:
                now = await _sample(node)
            except RequestError as error:
                screen.update(Text(f"the hub does not answer: {error}", style="bold red"), refresh=True)
            else:
                screen.update(render(summarize(before, now, order), console.width), refresh=True)
                before = now
            await asyncio.sleep(every_s)


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)


async def _sample(node: Node) -> Sample:
    began = time.perf_counter()
    counters = await node.query("counters")
    rtt_ms = (time.perf_counter() - began) * 1_000
    return Sample(time.monotonic(), rtt_ms, counters, await node.query("nodes"))


# --- from two samples to what is shown


def summarize(before: Sample, now: Sample, order: str) -> dict[str, Any]:
    """Rates between two looks, and the state at the second one."""
    seconds = max(now.at_s - before.at_s, 1e-3)
    same = before.counters["status"]["hub_epoch"] == now.counters["status"]["hub_epoch"]
    status, process = now.counters["status"], now.counters["status"].get("process", {})

    def rate(*path: str) -> float:
        return max(0.0, _at(now.counters, path) - (_at(before.counters, path) if same else 0)) / seconds

    kinds_in = sum(rate("messages", "in", kind, "messages") for kind in now.counters["messages"]["in"])
    kinds_out = sum(rate("messages", "out", kind, "messages") for kind in now.counters["messages"]["out"])
    return {
        "hub": status["name"],
        "epoch": status["hub_epoch"],
        "uptime_s": status["uptime_ms"] / 1_000,
        "rtt_ms": round(now.rtt_ms, 3),
        "hold": status["hold"],
        "nodes": status["nodes_linked"],
        "players": status["players_online"],
        "groups": status["groups"],
        "messages_in_s": round(kinds_in, 1),
        "messages_out_s": round(kinds_out, 1),
        "bytes_in_s": round(rate("status", "counters", "bytes_in"), 1),
        "bytes_out_s": round(rate("status", "counters", "bytes_out"), 1),
        "outcomes_s": {
            name: round(rate("outcomes", name), 1) for name in now.counters["outcomes"] if name != "report"
        },
        "latency_ms": {name: latency(before, now, name, same) for name in ("delivered", "stored")},
        "store": {**status["store"], "trouble": process.get("store_trouble", "")},
        "refused_5m": process.get("refused_5m", 0),
        "slow_nodes": now.counters["queues"]["slow_nodes"],
        "by_node": _nodes(before, now, seconds, order, same),
    }


def _at(tree: Any, path: tuple[str, ...]) -> float:
    for name in path:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return float(tree) if isinstance(tree, int | float) else 0.0


def latency(before: Sample, now: Sample, outcome: str, same: bool) -> dict[str, float] | None:
    """p50 and p99 of the receipts between two looks, as upper bounds of their buckets; None without any."""
    counts = list(now.counters["latency"].get(outcome, {}).get("counts", []))
    old = before.counters["latency"].get(outcome, {}).get("counts", []) if same else []
    new = [count - (old[at] if at < len(old) else 0) for at, count in enumerate(counts)]
    bounds = [bound / 1e3 for bound in now.counters["bounds_us"]]
    total = sum(new)
    if total <= 0:
        return None
    found = {}
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        left, at = share * total, 0
        while at < len(new) - 1 and left > new[at]:
            left -= new[at]
            at += 1
        found[name] = bounds[min(at, len(bounds) - 1)]
    return found


def _nodes(before: Sample, now: Sample, seconds: float, order: str, same: bool) -> list[dict[str, Any]]:
    old = {node["name"]: node for node in before.nodes} if same else {}
    rows = []
    for node in now.nodes:
        was = old.get(node["name"], {})
        again = not was or was["messages_in"] > node["messages_in"]  # a link of its own each time

        def per_s(name: str, node: Any = node, was: Any = was, again: bool = again) -> float:
            return round(float(node[name] - (0 if again else was[name])) / seconds, 1)

        rows.append(
            {
                "name": node["name"],
                "linked": node["linked"],
                "slow": node["waiting_players"] > 0,
                "players": node["players"],
                "in_s": per_s("messages_in"),
                "out_s": per_s("messages_out"),
                "bytes_in_s": per_s("bytes_in"),
                "bytes_out_s": per_s("bytes_out"),
                "queued_bytes": node["queued_bytes"],
                "waiting_players": node["waiting_players"],
                "address": node["address"],
                "roles": node["roles"],
            }
        )
    keys: dict[str, Any] = {
        "queued": lambda row: (-row["waiting_players"], -row["queued_bytes"], not row["linked"], row["name"]),
        "rate": lambda row: (-row["in_s"] - row["out_s"], row["name"]),
        "players": lambda row: (-row["players"], row["name"]),
        "name": lambda row: row["name"],
    }
    return sorted(rows, key=keys[order])


# --- drawing


def render(view: dict[str, Any], width: int) -> RenderableType:
    """The whole screen."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text()
    head.append(f"{view['hub']} ", style="bold")
    head.append(f"epoch {view['epoch']}, up {_time(view['uptime_s'])}, answers in {view['rtt_ms']:.1f} ms")
    lines = [head, _traffic(view), _delivery(view)]
    lines += [Text(text, style="bold red") for text in _trouble(view)]
    wide = width >= WIDE
    names = ["node", "players", "in/s", "out/s", "queued", "waiting"]
    table = Table(box=None, header_style="bold", pad_edge=False, expand=False)
    for name in names + (["kB in/s", "kB out/s", "address", "roles"] if wide else []):
        left = name in ("node", "address", "roles")
        table.add_column(name, justify="left" if left else "right", no_wrap=True, overflow="ellipsis")
    for row in view["by_node"]:
        cells = [row["name"], f"{row['players']:,}", _rate(row["in_s"]), _rate(row["out_s"])]
        cells += [_size(row["queued_bytes"]), str(row["waiting_players"])]
        if wide:
            cells += [f"{row['bytes_in_s'] / 1e3:.1f}", f"{row['bytes_out_s'] / 1e3:.1f}"]
            cells += [row["address"], ",".join(row["roles"][:3])]
        style = "dim" if not row["linked"] else "bold yellow" if row["slow"] else ""
        table.add_row(*cells, style=style)
    return Group(*lines, Text(""), table)


def _traffic(view: dict[str, Any]) -> Any:
    from rich.text import Text

    return Text(
        f"{view['nodes']} nodes, {view['players']:,} players, {view['groups']:,} groups   "
        f"in {_rate(view['messages_in_s'])}/s {_size(view['bytes_in_s'])}/s   "
        f"out {_rate(view['messages_out_s'])}/s {_size(view['bytes_out_s'])}/s"
    )


def _delivery(view: dict[str, Any]) -> Any:
    from rich.text import Text

    parts = [f"{name} {_rate(count)}/s" for name, count in view["outcomes_s"].items() if count]
    for name, found in view["latency_ms"].items():
        if found:
            parts.append(f"{name} p50 <= {found['p50']:g} ms, p99 <= {found['p99']:g} ms")
    return Text("   ".join(parts) or "nothing is being sent")


def _trouble(view: dict[str, Any]) -> list[str]:
    found = []
    if view["hold"]:
        found.append("the hub waits for nodes after its start")
    if view["store"]["trouble"] or view["store"]["failure"]:
        found.append(f"the mailbox refuses: {view['store']['trouble'] or view['store']['failure']}")
    if view["slow_nodes"]:
        found.append(f"{view['slow_nodes']} nodes do not read as fast as they are written to")
    if view["refused_5m"]:
        found.append(f"{view['refused_5m']} connections refused in the last five minutes")
    return found


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1_000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1_000
    return ""


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
