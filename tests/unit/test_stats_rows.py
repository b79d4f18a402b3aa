"""From events to Arrow tables, the schema's files, and the audit."""

from __future__ import annotations

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqgame.stats.audit import compare
from zmqgame.stats.rows import to_tables
from zmqgame.stats.schema import Migration, SchemaError, event_tables, migrate, migrations
from zmqgame_bus.records import LOST, RECORDS, Frame
from zmqgame_bus.spool import Published

ID = [
    ("source", pa.string()),
    ("epoch", pa.uint64()),
    ("seq", pa.uint64()),
    ("time", pa.timestamp("us", "UTC")),
]
SCHEMAS = {
    "finishes": pa.schema(
        [*ID, ("player", pa.string()), ("place", pa.uint16()), ("ms", pa.float64()), ("extra", pa.string())]
    ),
    "rejected": pa.schema(
        [
            *ID,
            ("table_name", pa.string()),
            ("reason", pa.string()),
            ("body", pa.string()),
            ("extra", pa.string()),
        ]
    ),
    "lost": pa.schema(
        [
            ("source", pa.string()),
            ("epoch", pa.uint64()),
            ("first", pa.uint64()),
            ("last", pa.uint64()),
            ("reason", pa.string()),
        ]
    ),
}


def event(table="finishes", time=1_700_000_000_000_000, **fields) -> bytes:
    return orjson.dumps([table, time, fields])


def tables(*bodies: bytes):
    return to_tables([Frame(RECORDS, "game-1", 7, list(enumerate(bodies, 1)))], SCHEMAS)


def test_a_column_without_a_value_is_empty_and_a_value_without_a_column_is_kept():
    rows = tables(event(player="ada", place=1, ms=13.5), event(player="bob", colour="red", ms=None))[
        "finishes"
    ]
    assert rows.schema == SCHEMAS["finishes"]
    assert rows.column("player").to_pylist() == ["ada", "bob"]
    assert rows.column("place").to_pylist() == [1, 0]
    assert rows.column("ms").to_pylist() == [13.5, 0.0]
    assert rows.column("extra").to_pylist() == ["", '{"colour":"red"}']
    assert rows.column("seq").to_pylist() == [1, 2]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "not an event"),
        (b"[]", "not an event"),
        (b"[1,2,3]", "not an event"),
        (b'["finishes","now",{}]', "not an event"),
        (event("nosuch"), "no such table"),
        (event("lost"), "no such table"),
        (event("rejected"), "no such table"),
        (event(time=-1), "its time"),
        (event(time=10**17), "its time"),
        (event(place="first"), "ArrowInvalid"),
        (event(place=70_000), "ArrowInvalid"),
        (event(place=-1), "OverflowError"),
        (event(player=5), "ArrowTypeError"),
        (b'["finishes",1700000000000000,{"place":99999999999999999999999}]', "Arrow"),
    ],
)
def test_what_fits_no_table_is_rejected_under_its_own_number(body, reason):
    made = tables(event(player="ada"), body, event(player="bob"))
    assert made["finishes"].column("seq").to_pylist() == [1, 3]
    assert made["rejected"].column("seq").to_pylist() == [2]
    assert made["rejected"].column("reason")[0].as_py().startswith(reason)
    assert made["rejected"].column("body")[0].as_py() == body.decode()


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.builds(
                lambda d, t: orjson.dumps([t, 5, d], option=orjson.OPT_NON_STR_KEYS),
                st.dictionaries(
                    st.sampled_from(["player", "place", "ms", "extra", "source", "x"]),
                    st.floats()
                    | st.text(max_size=3)
                    | st.none()
                    | st.booleans()
                    | st.integers(-(2**63), 2**63 - 1),
                    max_size=4,
                ),
                st.sampled_from(["finishes", "lost", "x"]),
            ),
        ),
        max_size=8,
    )
)
def test_every_event_makes_one_row_somewhere(bodies):
    made = tables(*bodies)
    numbers = [seq for table in made.values() for seq in table.column("seq").to_pylist()]
    assert sorted(numbers) == list(range(1, len(bodies) + 1))
    assert tables(*bodies) == made


def test_lost_numbers_are_rows_too():
    made = to_tables([Frame(LOST, "game-1", 7, [], {"first": 1, "last": 4, "reason": "gone"})], SCHEMAS)
    assert made["lost"].to_pylist() == [
        {"source": "game-1", "epoch": 7, "first": 1, "last": 4, "reason": "gone"}
    ]


def test_the_files_are_numbered_from_one_and_hold_statements():
    found = migrations()
    assert [migration.number for migration in found] == list(range(1, len(found) + 1))
    assert all(migration.statements() for migration in found)
    assert "CREATE TABLE IF NOT EXISTS finishes" in found[0].sql


class Database:
    def __init__(self) -> None:
        self.done: list[str] = []
        self.applied: list[tuple[int, str, str]] = []

    def execute(self, statement: str) -> None:
        self.done.append(statement)

    def query(self, _: str):
        return self.applied


def test_each_file_is_applied_once_and_may_not_change():
    database = Database()
    first = Migration(1, "001_a.sql", "-- why; not\nSELECT 1;\nSELECT ';';\n")
    assert first.statements() == ["SELECT 1", "SELECT ';'"]
    assert migrate(database.execute, database.query, [first]) == ["001_a.sql"]
    database.applied.append((1, first.name, first.digest))
    assert migrate(database.execute, database.query, [first]) == []
    with pytest.raises(SchemaError, match="changed after it was applied"):
        migrate(database.execute, database.query, [Migration(1, "001_a.sql", "SELECT 2;")])
    database.applied.append((2, "002_b.sql", ""))
    with pytest.raises(SchemaError, match="use a newer zmqgame"):
        migrate(database.execute, database.query, [first])


def test_a_column_that_events_cannot_fill_is_named():
    rows = [
        ("t", "source", "String"),
        ("t", "epoch", "UInt64"),
        ("t", "seq", "UInt64"),
        ("t", "time", "Array(UInt8)"),
    ]
    with pytest.raises(SchemaError, match=r"t\.time is Array"):
        event_tables(lambda _: rows)


PUBLISHED = {("game-1", 7): Published(1, 10, 0, 0), ("hub", 1): Published(1, 2, 0, 0)}
WHOLE = [("game-1", 7, 1, 10, 10, 0), ("hub", 1, 1, 2, 2, 0)]


def test_the_audit_holds_when_each_number_is_there_once():
    audit = compare(PUBLISHED, WHOLE)
    assert audit.holds
    assert (audit.published, audit.rows, audit.lost, audit.repeated) == (12, 12, 0, 0)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("game-1", 7, 1, 4, 4, 0), ("game-1", 7, 6, 10, 5, 0), WHOLE[1]], "not inserted: 5"),
        ([("game-1", 7, 1, 9, 9, 0), WHOLE[1]], "not inserted: 10"),
        ([("game-1", 7, 2, 10, 9, 0), WHOLE[1]], "not inserted: 1"),
        ([WHOLE[1]], "not inserted: 1-10"),
        ([("game-1", 7, 1, 10, 11, 1), WHOLE[1]], "1 events were inserted more than once"),
        ([("game-1", 7, 1, 11, 11, 0), WHOLE[1]], "never published: 11"),
        ([*WHOLE, ("game-9", 3, 1, 2, 2, 0)], "game-9 epoch 3: inserted but never published: 1-2"),
        # one lost and one twice: the counts agree, the audit doesn't
        ([("game-1", 7, 1, 4, 5, 1), ("game-1", 7, 6, 10, 5, 0), WHOLE[1]], "not inserted: 5"),
    ],
)
def test_the_audit_sees(rows, reason):
    audit = compare(PUBLISHED, rows)
    assert not audit.holds
    assert any(reason in line for line in audit.reasons())
