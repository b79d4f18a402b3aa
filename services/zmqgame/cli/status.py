"""`status` and `players`: what the hub knows."""

from __future__ import annotations

import sys
from typing import Any

import click

from zmqgame.cli.context import (
    EXIT_CODES,
    Context,
    json_option,
    print_json,
    print_records,
    run,
)

_NODE_COLUMNS = ("name", "linked", "address", "players", "queued_bytes", "waiting_players", "roles")
"""What fits a terminal; --json has the rest."""


async def _query(context: Context, what: str, argument: str = "") -> Any:
    async with context.node() as node:
        return await node.query(what, argument)


@click.command(epilog=EXIT_CODES)
@json_option
@click.pass_obj
def status(context: Context, as_json: bool) -> None:
    """What the hub knows: its epoch, nodes, players, queues and counters."""
    data = run(_query(context, "status"))
    nodes = run(_query(context, "nodes"))
    if as_json:
        print_json({"hub": data, "nodes": nodes})
        return
    rows = [{"what": name, "value": value} for name, value in _flat(data)]
    print_records(rows)
    if isinstance(nodes, list) and nodes:
        print()
        print_records([{name: node.get(name) for name in _NODE_COLUMNS} for node in nodes])


@click.command(epilog=EXIT_CODES)
@click.argument("prefix", default="")
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True)
@json_option
@click.pass_obj
def players(context: Context, prefix: str, limit: int, as_json: bool) -> None:
    """Players whose name begins with PREFIX, and the node that hosts each."""
    data = run(_query(context, "players", f"{limit} {prefix}".rstrip()))
    if as_json:
        print_json(data)
        return
    rows = data if isinstance(data, list) else data.get("players", [])
    if not rows:
        whose = f" whose name begins with {prefix}" if prefix else ""
        print(f"the hub knows no player{whose}", file=sys.stderr)
    print_records(rows)


def _flat(data: Any, prefix: str = "") -> list[tuple[str, object]]:
    """Nested counters as `a.b` lines."""
    if not isinstance(data, dict):
        return [(prefix, data)]
    return [
        pair for name, value in data.items() for pair in _flat(value, f"{prefix}.{name}" if prefix else name)
    ]
