"""ClickHouse, as a library in this process (chDB) or as a server: one interface, `Warehouse`.

Traps of chDB 26.5, each with a test: a path is open in one process only and a second one gets an empty
message, so we hold a lock file that names the holder; after a query that failed, the same connection gives
the next one leftovers of the failed one's output, so such a connection is replaced; INTO OUTFILE is not
stopped by readonly, so its word is refused. Deduplication by token needs
non_replicated_deduplication_window, which the schema sets.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.exceptions import ClickHouseError
from zmqgame_bus.errors import AlreadyRunning, StartError, ZmqgameError

from zmqgame.limits import STATS_QUERY_BYTES, STATS_RESULT_BYTES
from zmqgame.stats.schema import event_tables, migrate, migrations

log = logging.getLogger(__name__)

DATABASE = "zmqgame"
EMBEDDED = "chdb"
FORMATS = (
    "JSONCompact",
    "JSON",
    "JSONEachRow",
    "CSVWithNames",
    "TSVWithNames",
    "PrettyCompactMonoBlock",
    "Markdown",
)

_READING = ("select", "with", "show", "describe", "desc", "explain", "exists")
_COMMENTS = re.compile(r"^(?:\s+|--[^\n]*(?:\n|$)|#[^\n]*(?:\n|$)|/\*.*?\*/|\()*", re.DOTALL)


_QUOTED_OR_END = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`|\$(\w*)\$.*?\$\1\$"""
    r"""|--[^\n]*|\#[ !][^\n]*|/\*.*?\*/|;""",
    re.DOTALL,
)


class SqlRefused(ZmqgameError):
    """A query was not run, or failed, or its result is over a limit; `kind` is one of query, limit, failed,
    busy."""

    def __init__(self, kind: str, text: str, *, hint: str = "") -> None:
        super().__init__(text, hint=hint)
        self.kind = kind


class Warehouse:
    """Where the rows are. `insert` and `sql` may be called from two threads; each of them from one at a
    time."""

    def __init__(
        self, target: str, folder: Path, *, sql_rows: int = 100_000, sql_seconds: float = 20.0
    ) -> None:
        self.target = target
        self._path = folder / "clickhouse"
        self._limits = {
            "max_result_rows": str(sql_rows),
            "max_result_bytes": str(16 * STATS_RESULT_BYTES),
            "result_overflow_mode": "throw",
            "max_execution_time": str(sql_seconds),
            "max_memory_usage": "2000000000",
        }
        if target == EMBEDDED:
            # ClickHouse 26.5 refused `ORDER BY time_ms, player LIMIT 8` once while rows came in:
            # "Cannot convert string to type Float64: while executing FUNCTION __topKFilter(time_ms)".
            # Here only: a server may not know the setting.
            self._limits["use_top_k_dynamic_filtering"] = "0"
        self._lock_fd = _take_lock(self._path) if target == EMBEDDED else -1
        self._reading = threading.Lock()
        self._reader: Any = None
        try:
            self._writer: Any = self._connect(None)
            self._writer.command(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
            self._writer.close()
            self._writer = self._connect(DATABASE)
            for name in migrate(self._execute, self.rows, migrations()):
                log.info("applied %s", name)
            self.schemas = event_tables(self.rows)
            self.installation = str(self.rows("SELECT id FROM installation ORDER BY id LIMIT 1")[0][0])
        except ClickHouseError as error:
            self._unlock()
            raise self._not_open(error) from error
        except BaseException:
            self._unlock()
            raise

    def _not_open(self, error: ClickHouseError) -> StartError:
        if self.embedded:
            return StartError(f"ClickHouse can't open {self._path}: {_plain(error)}")
        server = _server(self.target)
        return StartError(
            f"ClickHouse at {server['host']}:{server['port']} can't be used: {_plain(error)}",
            hint="is it running, and may this user log in? Without a server: --set stats.clickhouse=chdb",
        )

    @property
    def embedded(self) -> bool:
        """Whether ClickHouse runs in this process."""
        return self.target == EMBEDDED

    @property
    def name(self) -> str:
        """Where the rows are, without a password."""
        return str(self._path) if self.embedded else _server(self.target)["host"]

    def insert(self, table: str, rows: pa.Table, token: str) -> None:
        """Insert one batch; a batch whose token was seen before changes nothing."""
        settings = {"insert_deduplication_token": token, "insert_deduplicate": 1}
        try:
            if self._writer is None:
                self._writer = self._connect(DATABASE)
            self._writer.insert_arrow(table, rows, settings=settings)
        except ClickHouseError:
            self._drop_writer()
            raise

    def rows(self, query: str) -> Sequence[tuple[Any, ...]]:
        """Rows of a query of our own."""
        found: Sequence[tuple[Any, ...]] = self._writer.query(query).result_rows
        return found

    def sql(self, query: str, format_name: str = "JSONCompact") -> bytes:
        """Run a query of somebody else: reading only, bounded in rows, bytes and time."""
        check_query(query, format_name)
        with self._reading:
            try:
                if self._reader is None:
                    self._reader = self._connect(DATABASE, reading=True)
                found: bytes = self._reader.raw_query(query.strip().rstrip(";"), fmt=format_name)
            except ClickHouseError as error:
                self._drop_reader()
                raise SqlRefused("failed", _plain(error)) from error
        if len(found) > STATS_RESULT_BYTES:
            raise SqlRefused(
                "limit",
                f"the result has {len(found)} bytes, limit STATS_RESULT_BYTES = {STATS_RESULT_BYTES}",
                hint="add a LIMIT, or aggregate",
            )
        return found

    def close(self) -> None:
        """Close it; then another process may open the path."""
        with self._reading:
            self._drop_reader()
        self._drop_writer()
        self._unlock()

    def _execute(self, statement: str) -> None:
        self._writer.command(statement)

    def _connect(self, database: str | None, *, reading: bool = False) -> Any:
        if self.target != EMBEDDED:
            settings = self._limits | {"readonly": "1"} if reading else {}
            return clickhouse_connect.get_client(**_server(self.target), database=database, settings=settings)
        client = clickhouse_connect.get_client(interface="chdb", path=str(self._path), database=database)
        if reading:
            for name, value in (
                self._limits | {"readonly": "1"}
            ).items():  # readonly last: nothing can be set after it
                client.command(f"SET {name} = '{value}'")
        return client

    def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with contextlib.suppress(ClickHouseError):
                reader.close()

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(ClickHouseError):
                writer.close()

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def check_query(query: str, format_name: str) -> None:
    """Refuse what is not a bounded reading query; the engine's readonly mode refuses the rest."""
    if len(query.encode()) > STATS_QUERY_BYTES:
        raise SqlRefused("limit", f"the query is over STATS_QUERY_BYTES = {STATS_QUERY_BYTES}")
    if format_name not in FORMATS:
        raise SqlRefused("query", f"format {format_name!r} is not one of {', '.join(FORMATS)}")
    prefix = _COMMENTS.match(query)
    words = query[prefix.end() if prefix else 0 :].split(None, 1)
    first = re.split(r"\W", words[0].lower(), maxsplit=1)[0] if words else ""
    if first not in _READING:
        raise SqlRefused(
            "query",
            f"only reading is allowed ({', '.join(_READING).upper()}), not {first.upper() or 'nothing'}",
        )
    if _more_than_one(query):
        raise SqlRefused("query", "only one statement at a time")
    if "outfile" in query.lower():
        raise SqlRefused("query", "OUTFILE is not allowed: results go back to the caller only")


def _more_than_one(query: str) -> bool:
    """Whether something follows a semicolon that is in no text, name or comment."""
    ends = (match for match in _QUOTED_OR_END.finditer(query) if match[0] == ";")
    first = next(ends, None)
    return first is not None and _COMMENTS.sub("", query[first.end() :], count=1).strip("; \n\t") != ""


def _take_lock(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise AlreadyRunning(
            f"{path} is open in another process (pid {holder}): chDB opens a path in one process only",
            hint="ask it over the bus (zmqgame-cli sql), stop it, or use another --state-dir",
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _server(url: str) -> dict[str, Any]:
    """The URL as the arguments that clickhouse-connect takes."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ZmqgameError(f"{url} is neither {EMBEDDED!r} nor http://HOST:PORT or https://HOST:PORT")
    secure = parts.scheme == "https"
    return {
        "host": parts.hostname,
        "port": parts.port or (8443 if secure else 8123),
        "secure": secure,
        "username": unquote(parts.username or "default"),
        "password": unquote(parts.password or ""),
    }


def _plain(error: Exception) -> str:
    """ClickHouse's message without the parts that say nothing to the asker."""
    text = str(error).split(" (version ")[0]
    return re.sub(r"^(?:Code: \d+\. DB::Exception: )+", "", text).strip()


def insert_tables(warehouse: Warehouse, tables: Mapping[str, pa.Table], digest: str) -> None:
    """Insert the tables of one plan; the token of each is the plan's digest and the table."""
    for name, rows in tables.items():
        warehouse.insert(name, rows, f"{digest}:{name}")
