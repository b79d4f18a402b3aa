"""All of the SQLite store in one stream, for `mailbox export`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["export"]

Entry = dict[str, Any]

_BIAS: Final = 1 << 63
_BIASED: Final = ("node_key", "epoch", "seq", "deadline_ms", "deliver_at_ms")
"""Columns that hold u64 less 2**63."""

_MARK = "select player, node_key, epoch, seq from"
_MESSAGE = "node_key, epoch, seq, deadline_ms, content, payload"


def export(database: sqlite3.Connection) -> Iterator[Entry]:
    """All that the store holds, in an order in which it can be taken in again."""
    meta = dict(database.execute("select name, value from meta").fetchall())
    yield {"hub_epoch": meta["hub_epoch"], "last_due": meta["last_due"]}
    yield from _entries(database.execute("select player from players order by 1"), "player")
    yield from _entries(database.execute("select * from members order by 1, 2"), "group", "member")
    nodes = database.execute("select name, node_key, epoch, linked from roster order by 1")
    for node in _entries(nodes, "node", "node_key", "epoch", "linked"):
        yield {**node, "linked": bool(node["linked"])}
    message = ("node_key", "epoch", "seq", "deadline_ms", "content", "payload")
    rows = database.execute(f"select player, {_MESSAGE} from rows order by player, row")
    yield from _entries(rows, "row", *message)
    # While a row of its sender is left, that says as much as the mark.
    marks = database.execute(
        f"{_MARK} accepted a where not exists (select 1 from rows r where r.player = a.player"
        " and r.node_key = a.node_key) order by 1, 2"
    )
    yield from _entries(marks, "mark", *message[:3])
    # Before their marks, which would make them repeats.
    later = database.execute(f"select player, deliver_at_ms, {_MESSAGE} from deferred order by list")
    yield from _entries(later, "deferred", "deliver_at_ms", *message)
    marks = database.execute(f"{_MARK} deferred_marks order by 1, 2")
    yield from _entries(marks, "deferred_mark", *message[:3])


def _entries(found: sqlite3.Cursor, *names: str) -> Iterator[Entry]:
    """Rows as dictionaries, numbers as they are, payloads as hexadecimal."""
    for row in found:
        yield {name: _value(name, value) for name, value in zip(names, row, strict=True)}


def _value(name: str, value: Any) -> Any:
    if name in _BIASED:
        return value + _BIAS
    return value.hex() if isinstance(value, bytes) else value
