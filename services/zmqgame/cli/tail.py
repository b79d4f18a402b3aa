"""`tail`: who comes and goes, and what is written to ClickHouse, as it happens."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from typing import Any

import click
import orjson
from zmqgame_bus.errors import RequestError

from zmqgame.cli.context import EXIT_CODES, Context, json_option, print_json, run

_TABLES = ("sessions", "matches", "finishes")
_ORIGIN = ("source", "epoch", "seq", "time")
"""Columns that --json shows and people need not read."""

_EVERY_S = 1.0
_WINDOW_S = 15.0
_ROWS = 1_000


@click.command(epilog=EXIT_CODES)
@click.option("--presence/--no-presence", default=True, help="Logins, logouts, nodes that come and go.")
@click.option("--events/--no-events", default=True, help="New rows in ClickHouse, once a second.")
@click.option("--for", "seconds", type=click.FloatRange(0), metavar="S", help="End after so many seconds.")
@json_option
@click.pass_obj
def tail(context: Context, presence: bool, events: bool, seconds: float | None, as_json: bool) -> None:
    """Presence and events, as they happen, until Ctrl-C. `before` stands for what was so already."""
    with contextlib.suppress(TimeoutError, KeyboardInterrupt):
        run(_tail(context, presence, events, seconds, as_json))


async def _tail(context: Context, presence: bool, events: bool, seconds: float | None, as_json: bool) -> None:
    async with context.node() as node, asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
        if presence:
            tasks.create_task(_presence(node, as_json))
        if events:
            tasks.create_task(_events(node, as_json))


async def _presence(node: Any, as_json: bool) -> None:
    async for event in node.presence():
        fields = {"name": event.name, "node": event.node}
        if as_json:
            print_json({"kind": event.kind, **fields, "snapshot": event.snapshot})
        else:
            _show("before" if event.snapshot else time.strftime("%H:%M:%S"), event.kind, fields)


async def _events(node: Any, as_json: bool) -> None:
    """New rows of the last seconds; a row is known by the number that no other has: (source, epoch, seq)."""
    seen: set[tuple[str, int, int]] = set()
    began = int(time.time() * 1e6)
    while True:
        window: set[tuple[str, int, int]] = set()
        since = max(began, int((time.time() - _WINDOW_S) * 1e6))
        for table in _TABLES:
            for row in await _rows(node, table, since):
                key = (row["source"], int(row["epoch"]), int(row["seq"]))
                window.add(key)
                if key not in seen and as_json:
                    print_json({"kind": table, **row})
                elif key not in seen:
                    fields = {name: value for name, value in row.items() if name not in _ORIGIN}
                    _show(_local(str(row["time"])), table, fields)
        seen = window
        await asyncio.sleep(_EVERY_S)


async def _rows(node: Any, table: str, since_us: int) -> list[dict[str, Any]]:
    """Rows of one table since a time; none while stats is away (they will still be there when it is back)."""
    query = (
        f"select * from {table} where time > fromUnixTimestamp64Micro({since_us}) order by time limit {_ROWS}"
    )
    with contextlib.suppress(RequestError):
        reply = await node.request("stats", {"op": "sql", "query": query, "format": "JSON"}, timeout_s=10)
        rows: list[dict[str, Any]] = orjson.loads(reply.payload)["data"]
        return rows
    return []


def _show(when: str, kind: str, fields: dict[str, Any]) -> None:
    text = "  ".join(f"{name}={value}" for name, value in fields.items() if value not in ("", None))
    print(f"{when:<8}  {kind:<9} {text}", flush=True)


def _local(utc: str) -> str:
    """The time of day here, of a time as ClickHouse writes it."""
    return datetime.fromisoformat(utc).replace(tzinfo=UTC).astimezone().strftime("%H:%M:%S")
