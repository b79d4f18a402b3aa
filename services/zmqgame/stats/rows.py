"""From the events of a plan to one Arrow table for each table of ClickHouse. Pure, and the same for the
same plan.

An event that fits no table is not lost and not fatal: it goes to `rejected` with the reason, under its own
number, so that published = inserted still holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa
from zmqgame_bus.records import LOST, Frame

from zmqgame.stats.schema import ID_COLUMNS

_TIME_MIN_US = 0
_TIME_MAX_US = 4_102_444_800_000_000
"""The years 1970 to 2100: what a DateTime64(6) holds, less what no honest clock shows."""


@dataclass(slots=True)
class Row:
    """One event on its way into a table."""

    source: str
    epoch: int
    seq: int
    time: int
    fields: dict[str, Any]
    body: bytes = b""


@dataclass(slots=True)
class Sorted:
    """Rows by table, and what fits nowhere."""

    tables: dict[str, list[Row]] = field(default_factory=dict)
    rejected: list[Row] = field(default_factory=list)

    def reject(self, row: Row, table: str, reason: str) -> None:
        """Put a row aside."""
        values = {
            "table_name": table[:256],
            "reason": reason[:1_000],
            "body": row.body.decode(errors="replace"),
        }
        self.rejected.append(Row(row.source, row.epoch, row.seq, row.time, values))


def to_tables(frames: Iterable[Frame], schemas: Mapping[str, pa.Schema]) -> dict[str, pa.Table]:
    """Arrow tables by name, in the order of names."""
    found = Sorted()
    lost = []
    for frame in frames:
        if frame.kind == LOST:
            lost.append({"source": frame.source, "epoch": frame.epoch, **frame.data})
        else:
            _sort(frame, schemas, found)
    made: dict[str, pa.Table] = {}
    for table, rows in found.tables.items():
        good = _fitting(table, rows, schemas[table], found)
        if good is not None:
            made[table] = good
    if found.rejected:
        made["rejected"] = _build(found.rejected, schemas["rejected"])
    if lost:
        made["lost"] = pa.Table.from_pylist(lost, schema=schemas["lost"])
    return dict(sorted(made.items()))


def _sort(frame: Frame, schemas: Mapping[str, pa.Schema], found: Sorted) -> None:
    for seq, body in frame.records:
        row = Row(frame.source, frame.epoch, seq, 0, {}, body)
        try:
            table, time, fields = orjson.loads(body)
        except (ValueError, TypeError) as error:
            found.reject(row, "", f"not an event: {error}")
            continue
        if not isinstance(table, str) or not isinstance(fields, dict) or not isinstance(time, int):
            found.reject(row, "", "not an event: not [text, whole number, object]")
        elif not _TIME_MIN_US <= time <= _TIME_MAX_US:
            found.reject(row, table, f"its time, {time} us, is not in the years 1970 to 2100")
        elif table not in schemas or table in ("rejected", "lost"):
            row.time = time
            found.reject(row, table, "no such table of events")
        else:
            row.time, row.fields = time, fields
            found.tables.setdefault(table, []).append(row)


def _fitting(table: str, rows: list[Row], schema: pa.Schema, found: Sorted) -> pa.Table | None:
    try:
        return _build(rows, schema)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        pass
    good = []
    for row in rows:  # one of them does not fit: find out which, one by one
        try:
            _build([row], schema)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            found.reject(row, table, f"{type(error).__name__}: {error}")
        else:
            good.append(row)
    return _build(good, schema) if good else None


def _build(rows: list[Row], schema: pa.Schema) -> pa.Table:
    columns = []
    names = set(schema.names)
    for column in schema:
        values: list[Any]
        if column.name in ID_COLUMNS:
            values = [getattr(row, column.name) for row in rows]
        elif column.name == "extra":
            values = [_extra(row.fields, names) for row in rows]
        else:
            name, empty = column.name, _EMPTY.get(column.type, 0)
            values = [empty if (value := row.fields.get(name)) is None else value for row in rows]
        columns.append(pa.array(values, column.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _extra(fields: dict[str, Any], names: set[str]) -> str:
    if fields.keys() <= names - {"extra"}:
        return ""
    return orjson.dumps(
        {key: value for key, value in fields.items() if key not in names or key == "extra"}
    ).decode()


_EMPTY: dict[pa.DataType, Any] = {pa.string(): "", pa.bool_(): False}
