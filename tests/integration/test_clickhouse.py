"""chDB as we use it, and its traps: each is here, so that a version that differs is noticed."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

import orjson
import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError
from zmqgame.stats.clickhouse import SqlRefused, Warehouse, insert_tables
from zmqgame.stats.rows import to_tables
from zmqgame_bus.records import RECORDS, Frame

COUNT = "SELECT count() AS n FROM finishes"


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    opened = Warehouse("chdb", tmp_path_factory.mktemp("stats"), sql_rows=1_000, sql_seconds=2.5)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def empty(warehouse):
    warehouse._execute("TRUNCATE TABLE finishes")


def finishes(warehouse, first: int, last: int) -> pa.Table:
    body = orjson.dumps(["finishes", 1_700_000_000_000_000, {"player": "ada", "time_ms": 13.5}])
    frame = Frame(RECORDS, "game-1", 1, [(number, body) for number in range(first, last + 1)])
    return to_tables([frame], warehouse.schemas)["finishes"]


def count(warehouse) -> int:
    return int(warehouse.rows(COUNT)[0][0])


def test_a_token_that_was_seen_before_inserts_nothing(warehouse):
    for _ in range(2):
        warehouse.insert("finishes", finishes(warehouse, 1, 10), "a")
        assert count(warehouse) == 10
    warehouse.insert("finishes", finishes(warehouse, 1, 10), "b")
    assert count(warehouse) == 20  # by token, not by content


def test_a_token_is_remembered_by_the_next_process_after_kill_9(tmp_path):
    code = f"""
import os, sys
sys.path.insert(0, {str(__file__.rsplit("/", 1)[0])!r})
from test_clickhouse import *
from pathlib import Path
opened = Warehouse("chdb", Path({str(tmp_path)!r}))
opened.insert("finishes", finishes(opened, 1, 10), "a")
print(count(opened), flush=True)
os.kill(os.getpid(), 9)
"""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == -9, done.stderr
        assert done.stdout == "10\n"


def test_what_is_inserted_is_synced(warehouse):
    settings = dict(
        warehouse.rows("SELECT name, create_table_query FROM system.tables WHERE database = 'zmqgame'")
    )
    for table in warehouse.schemas:
        assert "non_replicated_deduplication_window = 1000" in settings[table]
        assert "fsync_after_insert = 1, fsync_part_directory = 1" in settings[table]


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("DROP TABLE finishes", "query"),
        ("  /* a */ -- b\n insert into finishes (seq) values (1)", "query"),
        ("SET readonly = 0", "query"),
        ("SYSTEM SHUTDOWN", "query"),
        ("KILL QUERY WHERE 1", "query"),
        ("USE system", "query"),
        ("", "query"),
        ("SELECT 1 INTO OUTFILE '/tmp/x'", "query"),
        ("SELECT 1 into/**/outfile '/tmp/x'", "query"),
        ("SELECT 1; DROP TABLE finishes", "query"),
        ("SELECT 'a;b', `x;y`; /* ; */ SELECT 2", "query"),
        ("WITH x AS (SELECT 1) INSERT INTO finishes (seq) SELECT * FROM x", "failed"),
        ("SELECT * FROM file('/etc/passwd', 'LineAsString', 'x String')", "failed"),
        ("SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'x String')", "failed"),
        ("SELECT 1 SETTINGS readonly = 0", "failed"),
        ("SELECT 1 SETTINGS max_result_rows = 0", "failed"),
        ("SELECT nope", "failed"),
        ("SELECT number FROM numbers(1001)", "failed"),
        ("SELECT sleep(3)", "failed"),
        ("SELECT '" + "x" * 70_000 + "'", "limit"),
        ("SELECT repeat('x', 3000) FROM numbers(400)", "limit"),
    ],
)
def test_sql_of_others_only_reads_and_is_bounded(warehouse, query, kind):
    warehouse.insert("finishes", finishes(warehouse, 1, 3), f"sql {query} {kind}")
    with pytest.raises(SqlRefused) as caught:
        warehouse.sql(query)
    assert caught.value.kind == kind, caught.value
    assert "Code:" not in str(caught.value)
    assert orjson.loads(warehouse.sql(COUNT))["data"] in ([[3]], [["3"]])


def test_a_failed_query_leaves_nothing_in_the_next_answer(warehouse):
    with pytest.raises(SqlRefused):
        warehouse.sql("SELECT sleep(3)", "JSONCompact")
    assert orjson.loads(warehouse.sql("SELECT 1 AS one"))["data"] == [[1]]


@pytest.mark.parametrize(
    "query", ["show tables", "DESCRIBE finishes", "EXPLAIN SELECT 1", "(SELECT 1)", "SELECT 1;"]
)
def test_reading_is_allowed(warehouse, query):
    assert warehouse.sql(query, "TSVWithNames")


def test_reads_are_without_the_filter_that_fails_now_and_then(warehouse):
    found = warehouse.sql("SELECT toUInt8(getSetting('use_top_k_dynamic_filtering')) AS on")
    assert orjson.loads(found)["data"] == [[0]]


def test_after_an_insert_that_failed_the_next_one_works(warehouse):
    with pytest.raises(ClickHouseError):
        warehouse.insert("no_such_table", finishes(warehouse, 1, 3), "failed")
    warehouse.insert("finishes", finishes(warehouse, 1, 3), "after the failed one")
    assert count(warehouse) == 3


def test_an_unknown_format_is_refused(warehouse):
    with pytest.raises(SqlRefused, match="format 'Native'"):
        warehouse.sql("SELECT 1", "Native")


def test_it_can_be_closed_and_opened_again(warehouse, tmp_path):
    code = f"""
from pathlib import Path
from zmqgame.stats.clickhouse import Warehouse
names = set()
for _ in range(2):
    opened = Warehouse("chdb", Path({str(tmp_path)!r}))
    names.add(opened.installation)
    opened.close()
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr


def test_every_report_answers(warehouse):
    reports = sorted(files("zmqgame").joinpath("clickhouse", "reports").iterdir(), key=lambda item: item.name)
    assert len(reports) >= 3
    ada = {"match": "m1", "player": "ada", "car": "coupe", "place": 1, "time_ms": 12_801, "trap_kmh": 181.0}
    match = {"server": "game-1", "players": 2}
    bodies = [
        ["finishes", 1, ada],
        ["finishes", 2, {"match": "m1", "player": "bob", "car": "van", "place": 0}],
        ["matches", 3, match | {"match": "m1", "event": "finished"}],
        ["matches", 4, match | {"match": "m2", "event": "aborted", "reason": "server died"}],
        ["sessions", 5, {"event": "login", "player": "ada", "server": "game-1"}],
        ["messages", 6, {"kind": "unicast", "outcome": "delivered", "latency_ms": 0.4}],
        ["ticks", 7, {"server": "game-1", "count": 500, "p99_us": 400, "late": 1}],
    ]
    frame = Frame(RECORDS, "game-1", 2, list(enumerate(map(orjson.dumps, bodies), 1)))
    insert_tables(warehouse, to_tables([frame], warehouse.schemas), "reports")
    answers = {item.name: orjson.loads(warehouse.sql(item.read_text(), "JSON"))["data"] for item in reports}
    best = answers["cars.sql"][0]
    assert (best["car"], int(best["wins"]), best["best_s"]) == ("coupe", 1, 12.801)
    server = next(row for row in answers["servers.sql"] if row["server"] == "game-1")
    assert (int(server["finished"]), int(server["aborted"])) == (1, 1)
    assert server["commonest_reason"] == "server died"
    assert (int(server["players"]), int(server["ticks"]), server["tick_p99_ms"]) == (1, 500, 0.4)
    assert answers["messages.sql"][0]["p50_ms"] == 0.4
