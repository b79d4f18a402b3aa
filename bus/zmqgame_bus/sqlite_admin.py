"""What operators ask of the SQLite store: list, show, purge; and all of it in one stream."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Final

import orjson

from .sums import sums

__all__ = ["admin", "export"]

Entry = dict[str, Any]

_BIAS: Final = 1 << 63
_BIASED: Final = ("node_key", "epoch", "seq", "deadline_ms", "deliver_at_ms")
"""Columns that hold u64 less 2**63."""

_LIST = """
select player, sum(later = 0), sum(bytes), sum(later), min(row) from (
    select player, length(payload) as bytes, 0 as later, row from rows where player >= :first
    union all select player, length(payload), 1, null from deferred where player >= :first)
group by player order by player limit :limit"""

_SHOW = """
select row, node_key, epoch, seq, deadline_ms, content, length(payload),
       case when :payload then hex(payload) end
from rows where player = :player and row > :after order by row limit :limit"""

_TAKE_IN = """
insert into deferred_marks values (?, ?, ?, ?) on conflict (player, node_key) do update
set epoch = excluded.epoch, seq = excluded.seq
where (excluded.epoch, excluded.seq) > (deferred_marks.epoch, deferred_marks.seq)"""

_MARK = "select player, node_key, epoch, seq from"
_MESSAGE = "node_key, epoch, seq, deadline_ms, content, payload"


def admin(
    database: sqlite3.Connection, purge: Callable[[str, int, bool], tuple[int, int]], question: str
) -> str:
    """Answer a question in JSON; see zmqgame_bus.mailbox. `purge` deletes and counts."""
    asked = orjson.loads(question)
    op, player = asked.get("op"), asked.get("player", "")
    limit = int(asked.get("limit", 100))
    answer: object
    if op == "list":
        found = database.execute(_LIST, {"first": asked.get("from", ""), "limit": limit})
        answer = list(_entries(found, "player", "messages", "bytes", "deferred", "first_row"))
    elif op == "show":
        what = {"player": player, "after": asked.get("after", 0), "limit": limit}
        found = database.execute(_SHOW, {**what, "payload": bool(asked.get("payload"))})
        names = ("row", "node_key", "epoch", "seq", "deadline_ms", "content", "bytes", "payload")
        answer = list(_entries(found, *names))
    elif op == "purge":
        gone, later = purge(player, int(asked.get("up_to", _BIAS - 1)), bool(asked.get("deferred")))
        answer = {"purged": gone, "deferred": later}
    elif op == "sizes":
        messages, size = database.execute("select count(*), sum(length(payload)) from rows").fetchone()
        (later,) = database.execute("select count(*) from deferred").fetchone()
        answer = {"messages": messages, "bytes": size or 0, "deferred": later}
    elif op == "sums":
        ids = database.execute("select node_key, epoch, seq from rows order by node_key")
        answer = sums((key + _BIAS, epoch + _BIAS, seq + _BIAS) for key, epoch, seq in ids)
    elif op == "take_in":
        mark = [asked[name] - _BIAS for name in ("node_key", "epoch", "seq")]
        database.execute(_TAKE_IN, (player, *mark))
        answer = {}
    elif op == "take_in_due":
        last = min(int(asked["last_due"]), _BIAS - 1)
        database.execute("update meta set value = max(value, ?) where name = 'last_due'", (last,))
        answer = {}
    else:
        answer = {"error": f"a mailbox has no operation {op!r}"}
    return orjson.dumps(answer).decode()


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
