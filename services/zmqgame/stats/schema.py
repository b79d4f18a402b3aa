"""The schema: numbered SQL files, each applied once, in order; and what the event tables look like after
that.

The files stand in deploy/clickhouse and travel in the package as zmqgame/clickhouse. Adding a column or a
table is adding a file: stats reads the columns back from ClickHouse, so there is no second place to change.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pyarrow as pa

Execute = Callable[[str], None]
Query = Callable[[str], Sequence[Sequence[Any]]]

ID_COLUMNS = ("source", "epoch", "seq", "time")
"""With these, a table holds events."""

_NAME = re.compile(r"^(\d{3})_[a-z0-9_]+\.sql$")
_WRAPPED = re.compile(r"^(?:LowCardinality|Nullable)\((.*)\)$")
_TYPES: dict[str, pa.DataType] = {
    "String": pa.string(),
    "Bool": pa.bool_(),
    **{f"UInt{bits}": getattr(pa, f"uint{bits}")() for bits in (8, 16, 32, 64)},
    **{f"Int{bits}": getattr(pa, f"int{bits}")() for bits in (8, 16, 32, 64)},
    **{f"Float{bits}": getattr(pa, f"float{bits}")() for bits in (32, 64)},
    "DateTime64(6, 'UTC')": pa.timestamp("us", "UTC"),
}


class SchemaError(Exception):
    """The SQL files and ClickHouse don't fit together."""


@dataclass(frozen=True)
class Migration:
    """One numbered file."""

    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        """Tells whether an applied file was changed since."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def statements(self) -> list[str]:
        """Its statements; a semicolon at the end of a line ends one."""
        lines = [line for line in self.sql.splitlines() if not line.lstrip().startswith("--")]
        parts = re.split(r";[ \t]*$", "\n".join(lines), flags=re.MULTILINE)
        return [part.strip() for part in parts if part.strip()]


def migrations() -> list[Migration]:
    """The files, in order."""
    found: dict[int, Migration] = {}
    for item in files("zmqgame").joinpath("clickhouse").iterdir():
        match = _NAME.match(item.name)
        if match is None:
            continue
        number = int(match[1])
        if number in found:
            raise SchemaError(f"{item.name} and {found[number].name} have the same number")
        found[number] = Migration(number, item.name, item.read_text())
    return [found[number] for number in sorted(found)]


def migrate(execute: Execute, query: Query, wanted: Sequence[Migration]) -> list[str]:
    """Apply what is not applied yet; returns the names. A file that failed halfway is applied again as a
    whole, so its statements must allow that (IF NOT EXISTS).
    """
    execute(
        "CREATE TABLE IF NOT EXISTS migrations "
        "(number UInt32, name String, digest String, time DateTime DEFAULT now()) "
        "ENGINE = MergeTree ORDER BY number SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
    )
    applied = {
        int(number): (name, digest)
        for number, name, digest in query("SELECT number, name, digest FROM migrations")
    }
    newest = max((migration.number for migration in wanted), default=0)
    if max(applied, default=0) > newest:
        raise SchemaError(
            f"the database has migration {max(applied):03d}, this program knows up to {newest:03d}: "
            "use a newer zmqgame"
        )
    done = []
    for migration in wanted:
        if migration.number in applied:
            if applied[migration.number][1] != migration.digest:
                raise SchemaError(
                    f"{migration.name} was changed after it was applied: add a new file instead"
                )
            continue
        for statement in migration.statements():
            execute(statement)
        execute(
            f"INSERT INTO migrations (number, name, digest) VALUES "
            f"({migration.number}, '{migration.name}', '{migration.digest}')"
        )
        done.append(migration.name)
    return done


def event_tables(query: Query) -> dict[str, pa.Schema]:
    """The tables that hold events, and `lost`, as Arrow schemas."""
    columns: dict[str, list[tuple[str, str]]] = {}
    for table, column, kind in query(
        "SELECT table, name, type FROM system.columns WHERE database = currentDatabase() "
        "AND table IN (SELECT name FROM system.tables "
        "WHERE database = currentDatabase() AND engine LIKE '%MergeTree') "
        "ORDER BY table, position"
    ):
        columns.setdefault(table, []).append((column, kind))
    wanted = {
        table: fields
        for table, fields in columns.items()
        if table == "lost" or set(ID_COLUMNS) <= {name for name, _ in fields}
    }
    return {
        table: pa.schema([pa.field(name, _arrow_type(table, name, kind)) for name, kind in fields])
        for table, fields in wanted.items()
    }


def _arrow_type(table: str, column: str, kind: str) -> pa.DataType:
    plain = kind
    while match := _WRAPPED.match(plain):
        plain = match[1]
    if plain not in _TYPES:
        raise SchemaError(f"{table}.{column} is {kind}, which events can't fill; known: {', '.join(_TYPES)}")
    return _TYPES[plain]
