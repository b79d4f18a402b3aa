"""The manager's log in SQLite: servers, matches, results; what was committed is there after a crash.

Entries are appended and never changed. The table of open matches follows from them, so a manager that
comes back knows what it had made.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import orjson

from zmqgame import limits
from zmqgame.play.rules import Refused

SCHEMA = """
create table if not exists entries (
    number integer primary key autoincrement,
    unix_ms integer not null,
    event text not null,
    match text not null default '',
    server text not null default '',
    body blob not null
);
create index if not exists entries_by_match on entries (match) where match != '';
create table if not exists open_matches (match text primary key, server text not null, body blob not null);
"""
ENDS = ("GameFinished", "MatchAborted")


class EventLog:
    """Appends entries; a match's end is written once, whatever comes later."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")
        self._db.executescript(SCHEMA)

    def add(self, event: str, body: dict[str, Any], *, match: str = "", server: str = "") -> bool:
        """Append an entry, committed when this returns. False: this match has ended already."""
        data = orjson.dumps(body)
        if len(data) > limits.MAX_LOG_TEXT_BYTES:
            raise Refused("limit", f"entry of {len(data)} bytes is over {limits.MAX_LOG_TEXT_BYTES}")
        self._db.execute("begin immediate")
        try:
            if event in ENDS:
                closed = self._db.execute("delete from open_matches where match = ?", (match,)).rowcount
                if not closed:
                    self._db.execute("rollback")
                    return False
            elif event == "MatchCreated":
                self._db.execute("insert into open_matches values (?, ?, ?)", (match, server, data))
            elif event == "MatchMoved":
                self._db.execute(
                    "update open_matches set server = ?, body = ? where match = ?", (server, data, match)
                )
            self._db.execute(
                "insert into entries (unix_ms, event, match, server, body) values (?, ?, ?, ?, ?)",
                (int(time.time() * 1_000), event, match, server, data),
            )
            self._db.execute("commit")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("rollback")
            raise
        return True

    def open_matches(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Matches without an end: their server and how they were made."""
        rows = self._db.execute("select match, server, body from open_matches order by rowid")
        return {match: (server, orjson.loads(body)) for match, server, body in rows}

    def entries(self, *, match: str = "", event: str = "", limit: int = 100) -> list[dict[str, Any]]:
        """The newest entries first, of one match or one kind if asked."""
        rows = self._db.execute(
            "select number, unix_ms, event, match, server, body from entries"
            " where (? = '' or match = ?) and (? = '' or event = ?) order by number desc limit ?",
            (match, match, event, event, limit),
        )
        names = ("number", "unix_ms", "event", "match", "server")
        return [dict(zip(names, row[:5], strict=True)) | {"body": orjson.loads(row[5])} for row in rows]

    def count(self, event: str) -> int:
        """How many entries of a kind there are."""
        row = self._db.execute("select count(*) from entries where event = ?", (event,)).fetchone()
        return int(row[0])

    def close(self) -> None:
        """Nothing is lost without it; it only tidies up the file."""
        self._db.close()
