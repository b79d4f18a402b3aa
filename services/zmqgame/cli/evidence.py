"""Evidence for the proof, from where it was first written down:
logs, spools, mailbox file, ClickHouse rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
from zmqgame_bus.messages import MessageId
from zmqgame_bus.spool import scan

from zmqgame.cli.proof import Events, Handled, Id

__all__ = ["handled", "handled_by_manager", "inserted_query", "inserted_rows", "mailbox", "published"]

TABLES = ("sessions", "matches", "finishes", "messages", "ticks", "hops", "hop_sums")
_SIGN = 1 << 63
"""The mailbox keeps u64 numbers less 2**63, so that SQLite's signed integers keep their order."""


def handled(logs: Path) -> Iterator[Handled]:
    """The lines `0xKEY/EPOCH/SEQ MS` of each bot's log, written before each ack.

    A line that a kill cut off is the last one of its file, and was not acked.
    """
    for log in sorted(logs.glob("*.log")):
        for line in log.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                key, epoch, seq = line.split()[0].split("/")
                yield Handled(log.stem, (int(key, 16), int(epoch), int(seq)))


def handled_by_manager(log: Path) -> Iterator[Handled]:
    """What is sent to everybody reaches the manager's address too, which notes it in its event log."""
    if log.exists():
        with sqlite3.connect(f"file:{log}?mode=ro", uri=True) as connection:
            rows = connection.execute("select body from entries where event = 'OtherMessage'").fetchall()
        connection.close()
        for (body,) in rows:
            yield Handled("manager", MessageId.parse(orjson.loads(body)["id"]).numbers())


def published(spools: Path) -> dict[tuple[str, int], int]:
    """How many events each (source, epoch) has numbered, from the spools' files alone."""
    return {source: each.events for source, each in scan(spools).items()}


def inserted_query() -> str:
    """The rows of each (source, epoch), over all tables."""
    union = " UNION ALL ".join(f"SELECT source, epoch, seq FROM {table}" for table in TABLES)
    return (
        "SELECT source, toString(epoch) AS epoch, count() AS rows, "
        "uniqExact(seq) AS distinct, max(seq) AS highest "
        f"FROM ({union}) GROUP BY source, epoch"
    )


def inserted_rows(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], Events]:
    """The answer to ``inserted_query``."""
    return {
        (str(row["source"]), int(row["epoch"])): Events(
            int(row["rows"]), int(row["distinct"]), int(row["highest"])
        )
        for row in rows
    }


def mailbox(file: Path) -> frozenset[tuple[str, Id]]:
    """Who has which message waiting, read from the hub's own file."""
    if not file.exists():
        return frozenset()
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
        rows = connection.execute("select player, node_key, epoch, seq from rows").fetchall()
    connection.close()
    return frozenset((player, (key + _SIGN, epoch + _SIGN, seq + _SIGN)) for player, key, epoch, seq in rows)
