"""The mailbox in SQLite: one file, one writer, one transaction a batch (BUS.md sections 5 and 11).

Two things keep a second hub out: an flock on `PATH.lock` for the life of the process, whose text says
who holds it, and the epoch row, which every transaction checks [23]. What is assumed of SQLite: in WAL
mode with synchronous FULL a commit survives power loss, with NORMAL it survives the process;
AUTOINCREMENT never gives a row number twice [22].

A crash tears the transaction that was being written and no other: so a log with two or more behind a damaged
frame is refused at start, because SQLite would take the damage for the log's end. Not told are damage to the
very last transactions and to pages that were moved from the log into the database.

u64 numbers are kept less 2**63, so that SQLite's signed integers keep their order.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from zmqgame_native import sqlite_log_end

from .errors import AlreadyRunning, Replaced, StoreDamaged, StoreUnavailable
from .limits import ROSTER_DAYS, STORE_READ_BYTES, STORE_READ_ROWS, STORE_USED_PLAYERS
from .mailbox import DEFERRED_KEY, Operation, Result
from .sqlite_admin import admin, export

__all__ = ["DURABILITY", "SqliteMailbox"]

# Named for what a confirmed message survives.
DURABILITY = {"power-loss": "FULL", "process-crash": "NORMAL"}

_BIAS = 1 << 63
_LOCK_RETRY_S = 0.05
# A crash may tear the transaction that was being written. One that continues another behind the tear began
# after the sync of that one.
_DAMAGED_COMMITS = 2
# What a row costs beside its payload, for the byte limit: names, numbers, index entries.
_ROW_BYTES = 128

_SCHEMA = """
create table if not exists meta (name text primary key, value integer not null) without rowid;
create table if not exists rows (
    row integer primary key autoincrement,
    player text not null, node_key integer not null, epoch integer not null, seq integer not null,
    deadline_ms integer not null, content integer not null, payload blob not null);
create index if not exists rows_of_player on rows (player, row);
create table if not exists accepted (
    player text not null, node_key integer not null, epoch integer not null, seq integer not null,
    primary key (player, node_key)) without rowid;
create table if not exists deferred (
    list integer primary key autoincrement, deliver_at_ms integer not null,
    player text not null, node_key integer not null, epoch integer not null, seq integer not null,
    deadline_ms integer not null, content integer not null, payload blob not null);
create index if not exists deferred_by_time on deferred (deliver_at_ms, list);
create index if not exists deferred_of_player on deferred (player);
create table if not exists deferred_marks (
    player text not null, node_key integer not null, epoch integer not null, seq integer not null,
    primary key (player, node_key)) without rowid;
create table if not exists players (player text primary key) without rowid;
create table if not exists members (
    group_name text not null, player text not null, primary key (group_name, player)) without rowid;
create table if not exists roster (
    node_key integer primary key, name text not null, epoch integer not null, linked integer not null,
    seen_ms integer not null);
insert or ignore into meta values ('format', 1), ('hub_epoch', 0), ('bytes', 0), ('last_due', 0);
create view if not exists mailbox_view as
    select row, player, node_key, epoch + 9223372036854775807 + 1 as epoch,
           seq + 9223372036854775807 + 1 as seq, length(payload) as bytes from rows;
"""


def _signed(value: int) -> int:
    return value - _BIAS


def _unsigned(value: int) -> int:
    return value + _BIAS


class SqliteMailbox:
    """A mailbox in one SQLite file. See zmqgame_bus.mailbox.Mailbox."""

    def __init__(
        self,
        path: str | Path,
        *,
        durability: str = "power-loss",
        max_bytes: int = 16 << 30,
        player_messages: int = 0,
        player_bytes: int = 0,
        on_wait: Callable[[str], bool] | None = None,
    ) -> None:
        """Lock and open the file; while another process holds it, ask `on_wait` whether to go on waiting."""
        if durability not in DURABILITY:
            raise StoreUnavailable(f"durability {durability!r} is none of {', '.join(DURABILITY)}")
        self._path = Path(path)
        self._synchronous = DURABILITY[durability]
        self._max_bytes = max_bytes
        self._player_messages = player_messages or sys.maxsize
        self._player_bytes = player_bytes or sys.maxsize
        # Messages and bytes of mailboxes that were looked at: this process alone changes them.
        self._used: dict[str, list[int]] = {}
        self._refused: dict[tuple[str, str, int], Result] = {}
        # How far `expire` has looked, in each table.
        self._expire_from = {"rows": 0, "deferred": 0}
        self._claimed: int | None = None
        self._attempted = 0  # claimed in a transaction whose outcome may be unknown
        self._database: sqlite3.Connection | None = None
        self._bytes = 0
        self._lock = self._take_lock(on_wait or (lambda _reason: False))
        try:
            self._check_log()
            self._connect()
        except StoreDamaged:
            self._lock.close()
            raise
        except (sqlite3.Error, OSError) as error:
            self._lock.close()
            raise StoreUnavailable(f"mailbox {self._path}: {error}") from error

    # --- the file ---------------------------------------------------------------------------------

    def _take_lock(self, on_wait: Callable[[str], bool]) -> IO[str]:
        path = self._path.with_name(self._path.name + ".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (held until close)
        except OSError as error:
            raise StoreUnavailable(f"mailbox {self._path}: {error.strerror}: {path}") from error
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    lock.seek(0)
                    holder = lock.read().strip() or "another process"
                    reason = f"mailbox {self._path} is held by {holder}"
                    if not on_wait(reason):
                        raise AlreadyRunning(
                            reason, hint="stop it, or give this hub its own state folder"
                        ) from None
                    time.sleep(_LOCK_RETRY_S)
            lock.truncate(0)
            lock.write(f"pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S %z')}")
            lock.flush()
        except OSError as error:
            lock.close()
            raise StoreUnavailable(f"mailbox {self._path}: {error.strerror}: {path}") from error
        except BaseException:
            lock.close()
            raise
        return lock

    def _check_log(self) -> None:
        """Refuse a log with confirmed messages that can't be read: SQLite would leave them out in silence."""
        if self._synchronous != "FULL":
            return  # without a sync for each commit, a loss of power may take several: that was the choice
        path = self._path.with_name(self._path.name + "-wal")
        try:
            end, behind = sqlite_log_end(path.read_bytes())
        except FileNotFoundError:
            return
        if behind >= _DAMAGED_COMMITS:
            raise StoreDamaged(
                f"mailbox {self._path}: its log is damaged at byte {end}, and at least {behind} confirmed"
                f" transactions behind that can't be read",
                hint=f"look at the disk, restore a backup; to go on without them: truncate -s {end} {path}",
            )

    def _connect(self) -> None:
        database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=0)
        try:
            database.execute("pragma locking_mode = exclusive")
            if database.execute("pragma journal_mode = wal").fetchone()[0] != "wal":
                raise sqlite3.OperationalError("the file system does not allow a write-ahead log")
            database.execute(f"pragma synchronous = {self._synchronous}")
            database.executescript(_SCHEMA)
            self._bytes = self._meta(database, "bytes")
        except BaseException:
            database.close()
            raise
        self._database = database

    @staticmethod
    def _meta(database: sqlite3.Connection, name: str) -> int:
        row = database.execute("select value from meta where name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        """Close the file and let go of the lock."""
        if self._database is not None:
            self._database.close()
            self._database = None
        self._lock.close()

    def highest_epoch(self) -> int:
        """Return the highest hub epoch that was ever claimed in this file."""
        with self._transaction() as database:
            return self._meta(database, "hub_epoch")

    # --- batches ----------------------------------------------------------------------------------

    def run(self, operations: Sequence[Operation]) -> list[Result]:
        """Run a batch in one transaction."""
        handlers = _HANDLERS
        with self._transaction() as database:
            before = self._bytes
            self._check_epoch(database)
            self._refused.clear()
            results = [handlers[operation[0]](self, database, *operation[1:]) for operation in operations]
            if self._bytes != before:
                database.execute("update meta set value = ? where name = 'bytes'", (self._bytes,))
        return results

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit, or leave nothing and raise. After a failed commit the outcome is unknown: reopen."""
        claimed = self._claimed
        try:
            if self._database is None:
                self._connect()
            database = self._database
            assert database is not None
            database.execute("begin immediate")
            yield database
            database.execute("commit")
        except BaseException as error:
            self._claimed = claimed
            self._abandon()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise StoreUnavailable(f"mailbox {self._path}: {error}") from error
            raise

    def _abandon(self) -> None:
        self._used.clear()
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.execute("rollback")
            with contextlib.suppress(sqlite3.Error):
                database.close()

    def _check_epoch(self, database: sqlite3.Connection) -> None:
        if self._claimed is not None:
            found = self._meta(database, "hub_epoch")
            if found != self._claimed:
                raise Replaced(
                    f"mailbox {self._path} was claimed by hub epoch {found}, this is {self._claimed}"
                )

    # --- operations: each is part of the batch's transaction ---------------------------------------

    def _open(self, database: sqlite3.Connection, hub_epoch: int, unix_ms: int) -> Result:
        if self._claimed is None:
            found = self._meta(database, "hub_epoch")
            if found >= hub_epoch and found != self._attempted:
                raise Replaced(f"mailbox {self._path} was claimed by hub epoch {found}, this is {hub_epoch}")
            database.execute("update meta set value = ? where name = 'hub_epoch'", (hub_epoch,))
            self._claimed = self._attempted = hub_epoch
        roster = [
            (_unsigned(node_key), name, _unsigned(epoch), bool(linked))
            for node_key, name, epoch, linked in database.execute(
                "select node_key, name, epoch, linked from roster where linked or seen_ms > ? order by name",
                (unix_ms - ROSTER_DAYS * 86_400_000,),  # [4a] retired: but its row keeps the epoch
            )
        ]
        groups = database.execute("select group_name, player from members order by 1, 2").fetchall()
        return ("opened", hub_epoch, roster, groups, self._next_due(database))

    def _append(
        self,
        database: sqlite3.Connection,
        player: str,
        node_key: int,
        epoch: int,
        seq: int,
        deadline_ms: int,
        content: int,
        payload: bytes,
        first: bool = False,
    ) -> Result:
        node_key, epoch, seq = _signed(node_key), _signed(epoch), _signed(seq)
        answer = self._take(database, "accepted", player, node_key, epoch, seq, payload, first)
        if answer is not None:
            return answer
        database.execute(
            "insert into rows (player, node_key, epoch, seq, deadline_ms, content, payload)"
            " values (?, ?, ?, ?, ?, ?, ?)",
            (player, node_key, epoch, seq, _signed(deadline_ms), content, payload),
        )
        self._accept(database, "accepted", player, node_key, epoch, seq)
        return ("appended",)

    def _take(
        self,
        database: sqlite3.Connection,
        marks: str,
        player: str,
        node_key: int,
        epoch: int,
        seq: int,
        payload: bytes,
        first: bool,
    ) -> Result | None:
        """Count a message that is new and has room; else the answer."""
        refused = self._refused.get((marks, player, node_key))
        if refused is not None:
            return refused  # else a later one would be in before a refused one
        known = database.execute(
            f"select a.epoch, a.seq from players p"
            f" left join {marks} a on a.player = p.player and a.node_key = ? where p.player = ?",
            (node_key, player),
        ).fetchone()
        if known is not None and known[0] is not None and (epoch, seq) <= (known[0], known[1]):
            return self._repeated(database, marks, player, node_key, epoch, seq)
        used = self._usage(database, player)
        size = len(payload)
        if known is None:
            refused = ("unknown_player",)
        elif first and (used[0] >= self._player_messages or used[1] + size > self._player_bytes):
            refused = ("over_quota", used[0], used[1])  # [35]
        elif first and self._bytes + size + _ROW_BYTES > self._max_bytes:
            refused = ("full",)
        else:
            self._bytes += size + _ROW_BYTES
            used[0] += 1
            used[1] += size
            return None
        self._refused[marks, player, node_key] = refused
        return refused

    @staticmethod
    def _repeated(
        database: sqlite3.Connection, marks: str, player: str, node_key: int, epoch: int, seq: int
    ) -> Result:
        """[20] It has a row, or was handled."""
        row = marks == "accepted" and database.execute(
            "select 1 from rows where player = ? and node_key = ? and epoch = ? and seq = ?",
            (player, node_key, epoch, seq),
        )
        return ("appended",) if not row or row.fetchone() else ("passed",)

    def _usage(self, database: sqlite3.Connection, player: str) -> list[int]:
        used = self._used.get(player)
        if used is None:
            used = [0, 0]
            for table in ("rows", "deferred"):
                count, size = database.execute(
                    f"select count(*), coalesce(sum(length(payload)), 0) from {table} where player = ?",
                    (player,),
                ).fetchone()
                used[0] += count
                used[1] += size
            if len(self._used) >= STORE_USED_PLAYERS:
                self._used.clear()
            self._used[player] = used
        return used

    @staticmethod
    def _accept(
        database: sqlite3.Connection, marks: str, player: str, node_key: int, epoch: int, seq: int
    ) -> None:
        database.execute(
            f"insert into {marks} values (?, ?, ?, ?) on conflict (player, node_key) do update"
            f" set epoch = excluded.epoch, seq = excluded.seq"
            f" where (excluded.epoch, excluded.seq) > ({marks}.epoch, {marks}.seq)",
            (player, node_key, epoch, seq),
        )

    # --- deferred sends and expiry [34, 37] ----------------------------------------------------------

    def _defer(
        self,
        database: sqlite3.Connection,
        player: str,
        node_key: int,
        epoch: int,
        seq: int,
        deliver_at_ms: int,
        deadline_ms: int,
        content: int,
        payload: bytes,
        first: bool,
    ) -> Result:
        node_key, epoch, seq = _signed(node_key), _signed(epoch), _signed(seq)
        answer = self._take(database, "deferred_marks", player, node_key, epoch, seq, payload, first)
        if answer is not None:
            return answer
        database.execute(
            "insert into deferred"
            " (deliver_at_ms, player, node_key, epoch, seq, deadline_ms, content, payload)"
            " values (?, ?, ?, ?, ?, ?, ?, ?)",
            (_signed(deliver_at_ms), player, node_key, epoch, seq, _signed(deadline_ms), content, payload),
        )
        self._accept(database, "deferred_marks", player, node_key, epoch, seq)
        return ("appended",)

    @staticmethod
    def _next_due(database: sqlite3.Connection) -> int:
        (first,) = database.execute("select min(deliver_at_ms) from deferred").fetchone()
        return 0 if first is None else _unsigned(first)

    def _due(self, database: sqlite3.Connection, unix_ms: int, limit: int) -> Result:
        due = database.execute(
            "select list, player from deferred where deliver_at_ms <= ? order by deliver_at_ms, list limit ?",
            (_signed(unix_ms), limit),
        ).fetchall()
        last = self._meta(database, "last_due")
        for number, (place, _player) in enumerate(due, last + 1):
            database.execute(
                "insert into rows (player, node_key, epoch, seq, deadline_ms, content, payload)"
                " select player, ?, ?, ?, deadline_ms, content, payload from deferred where list = ?",
                (_signed(DEFERRED_KEY), _signed(1), _signed(number), place),
            )
            database.execute("delete from deferred where list = ?", (place,))
        if due:
            database.execute("update meta set value = ? where name = 'last_due'", (last + len(due),))
        players = list(dict.fromkeys(player for _place, player in due))
        return ("due", players, self._next_due(database))

    def _expire(self, database: sqlite3.Connection, unix_ms: int, limit: int) -> Result:
        # From where the last call ended, and round again: an index by deadline would cost every append, and
        # what is late is passed over when it is read.
        count = 0
        for table, key in (("rows", "row"), ("deferred", "list")):
            if count == limit:
                break  # the rest in the next call
            found = database.execute(
                f"select {key}, deadline_ms from {table} where {key} > ? order by {key} limit ?",
                (self._expire_from[table], limit - count),
            ).fetchall()
            self._expire_from[table] = found[-1][0] if len(found) == limit - count else 0
            late = [place for place, deadline_ms in found if 0 < _unsigned(deadline_ms) < unix_ms]
            for place in late:
                self._delete(database, f"{key} = ?", (place,), table)
            count += len(late)
        return ("expired", count)

    def _read(self, database: sqlite3.Connection, player: str, after_row: int, limit: int) -> Result:
        limit = max(1, min(limit, STORE_READ_ROWS))
        cursor = database.execute(
            "select row, node_key, epoch, seq, deadline_ms, content, payload from rows"
            " where player = ? and row > ? order by row limit ?",
            (player, min(after_row, _BIAS - 1), limit + 1),
        )
        rows: list[tuple[Any, ...]] = []
        size = 0
        for row, node_key, epoch, seq, deadline_ms, content, payload in cursor:
            size += len(payload)
            if len(rows) == limit or (rows and size > STORE_READ_BYTES):
                return ("rows", rows, False)
            rows.append(
                (row, *map(_unsigned, (node_key, epoch, seq, deadline_ms)), content, payload),
            )
        return ("rows", rows, True)

    def _accepted(self, database: sqlite3.Connection, player: str) -> Result:
        marks = database.execute(
            "select node_key, epoch, seq from accepted where player = ? order by node_key", (player,)
        )
        return ("marks", [tuple(map(_unsigned, mark)) for mark in marks])

    def _settle(self, database: sqlite3.Connection, player: str, up_to: int) -> Result:
        self._delete(database, "player = ? and row <= ?", (player, min(up_to, _BIAS - 1)))
        return ("done",)

    def _logout(
        self, database: sqlite3.Connection, player: str, cursor: Sequence[tuple[int, int, int]]
    ) -> Result:
        for mark in cursor:  # [31] marks and deletes are one transaction
            node_key, epoch, seq = map(_signed, mark)
            self._accept(database, "accepted", player, node_key, epoch, seq)
            self._delete(
                database,
                "player = ? and node_key = ? and (epoch, seq) <= (?, ?)",
                (player, node_key, epoch, seq),
            )
        return ("done",)

    def _delete(
        self, database: sqlite3.Connection, where: str, values: tuple[Any, ...], table: str = "rows"
    ) -> int:
        """Delete messages and count off what they held; how many."""
        freed = database.execute(
            f"delete from {table} where {where} returning player, length(payload)", values
        ).fetchall()
        for player, size in freed:
            self._bytes -= size + _ROW_BYTES
            if (used := self._used.get(player)) is not None:
                used[0] -= 1
                used[1] -= size
        return len(freed)

    def _trim(self, database: sqlite3.Connection, player: str, node_key: int, epoch: int, seq: int) -> Result:
        for marks in ("accepted", "deferred_marks"):
            database.execute(
                f"delete from {marks} where player = ? and node_key = ? and (epoch, seq) <= (?, ?)",
                (player, _signed(node_key), _signed(epoch), _signed(seq)),
            )
        return ("done",)

    def _know(self, database: sqlite3.Connection, player: str) -> Result:
        database.execute("insert or ignore into players values (?)", (player,))
        return ("done",)

    def _join(self, database: sqlite3.Connection, group: str, player: str) -> Result:
        if not database.execute("select 1 from players where player = ?", (player,)).fetchone():
            return ("unknown_player",)
        database.execute("insert or ignore into members values (?, ?)", (group, player))
        return ("done",)

    def _leave(self, database: sqlite3.Connection, group: str, player: str) -> Result:
        database.execute("delete from members where group_name = ? and player = ?", (group, player))
        return ("done",)

    def _roster(
        self, database: sqlite3.Connection, node_key: int, name: str, epoch: int, linked: bool
    ) -> Result:
        # [4b] an epoch never goes back; a late `linked` of an older one changes nothing
        database.execute(
            "insert into roster values (?, ?, ?, ?, ?) on conflict (node_key) do update"
            " set name = excluded.name, epoch = excluded.epoch, linked = excluded.linked,"
            " seen_ms = excluded.seen_ms where excluded.epoch >= roster.epoch",
            (_signed(node_key), name, _signed(epoch), linked, time.time_ns() // 1_000_000),
        )
        return ("done",)

    # --- operators ---------------------------------------------------------------------------------

    def _admin(self, database: sqlite3.Connection, question: str) -> Result:
        return ("text", admin(database, functools.partial(self._purge, database), question))

    def _purge(
        self, database: sqlite3.Connection, player: str, up_to: int, deferred: bool
    ) -> tuple[int, int]:
        """Delete rows, and deferred messages if wanted; how many of each."""
        gone = self._delete(database, "player = ? and row <= ?", (player, min(up_to, _BIAS - 1)))
        return gone, self._delete(database, "player = ?", (player,), "deferred") if deferred else 0

    def holder(self) -> int:
        """Return 0: the lock tells who has the file."""
        return 0

    def ask(self, question: str) -> str:
        """Answer a question of operators."""
        [(_, answer)] = self.run([("admin", question)])
        return str(answer)

    def export(self) -> Iterator[dict[str, Any]]:
        """All that the store holds."""
        with self._transaction() as database:
            yield from export(database)


_HANDLERS: dict[str, Callable[..., Result]] = {
    "open": SqliteMailbox._open,
    "append": SqliteMailbox._append,
    "read": SqliteMailbox._read,
    "accepted": SqliteMailbox._accepted,
    "settle": SqliteMailbox._settle,
    "logout": SqliteMailbox._logout,
    "trim": SqliteMailbox._trim,
    "know": SqliteMailbox._know,
    "join": SqliteMailbox._join,
    "leave": SqliteMailbox._leave,
    "roster": SqliteMailbox._roster,
    "defer": SqliteMailbox._defer,
    "due": SqliteMailbox._due,
    "expire": SqliteMailbox._expire,
    "admin": SqliteMailbox._admin,
}
