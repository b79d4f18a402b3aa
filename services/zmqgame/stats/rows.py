"""From the events of a plan to one Arrow table for each table of ClickHouse. Pure, and the same for the
same plan.

An event that fits no table is not lost and not fatal: it goes to `rejected` with the reason, under its own
number, so that published = inserted still holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
from zmqgame_bus.records import LOST, Frame, Record

from zmqgame.stats.schema import ID_COLUMNS

_TIME_MIN_US = 0
_TIME_MAX_US = 4_102_444_800_000_000
"""The years 1970 to 2100: what a DateTime64(6) holds, less what no honest clock shows."""


class Row(NamedTuple):
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
    source, epoch, tables = frame.source, frame.epoch, found.tables
    for (seq, body), event in zip(frame.records, _parse(frame.records), strict=True):
        try:
            table, time, fields = event
            rows = tables[table]
            if type(time) is int and _TIME_MIN_US <= time <= _TIME_MAX_US and type(fields) is dict:
                rows.append(Row(source, epoch, seq, time, fields, body))
                continue
        except (TypeError, ValueError, KeyError):
            pass  # not an event, or the first one of its table: the slow way knows
        _sort_one(Row(source, epoch, seq, 0, {}, body), event, schemas, found)


def _parse(records: list[Record]) -> list[Any]:
    """The JSON of every record, all at once if that works; None for one that is not JSON."""
    try:
        together: list[Any] = orjson.loads(b"[" + b",".join([body for _, body in records]) + b"]")
        if len(together) == len(records):
            return together
    except orjson.JSONDecodeError:
        pass
    return [_parse_one(body) for _, body in records]


def _parse_one(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _sort_one(row: Row, event: object, schemas: Mapping[str, pa.Schema], found: Sorted) -> None:
    if not isinstance(event, list) or len(event) != 3:
        found.reject(row, "", "not an event: not JSON of [text, whole number, object]")
        return
    table, time, fields = event
    if not isinstance(table, str) or not isinstance(fields, dict) or type(time) is not int:
        found.reject(row, "", "not an event: not JSON of [text, whole number, object]")
    elif not _TIME_MIN_US <= time <= _TIME_MAX_US:
        found.reject(row, table, f"its time, {time} us, is not in the years 1970 to 2100")
    elif table not in schemas or table in ("rejected", "lost"):
        found.reject(row._replace(time=time), table, "no such table of events")
    else:
        found.tables.setdefault(table, []).append(row._replace(time=time, fields=fields))


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
    names = set(schema.names)
    plain = names - {"extra"}
    every = [row.fields for row in rows]
    columns = []
    for column in schema:
        name = column.name
        values: list[Any]
        if name in ID_COLUMNS:
            place = ID_COLUMNS.index(name)
            values = [row[place] for row in rows]
        elif name == "extra":
            values = ["" if fields.keys() <= plain else _extra(fields, names) for fields in every]
        else:
            values = [fields.get(name) for fields in every]
        made = pa.array(values, column.type)
        if made.null_count:
            made = made.fill_null(pa.scalar(_EMPTY.get(column.type, 0), column.type))
        columns.append(made)
    return pa.Table.from_arrays(columns, schema=schema)


def _extra(fields: dict[str, Any], names: set[str]) -> str:
    return orjson.dumps(
        {key: value for key, value in fields.items() if key not in names or key == "extra"}
    ).decode()


_EMPTY: dict[pa.DataType, Any] = {pa.string(): "", pa.bool_(): False}
