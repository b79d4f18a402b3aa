"""A torn end of SQLite's log, as chaos makes it, takes nothing away that was committed and adds nothing."""

import random
import shutil
import sqlite3

import pytest
import zmqgame_native
from zmqgame_bus.errors import StoreDamaged
from zmqgame_bus.sqlite import SqliteMailbox

from tests.chaos import wal

ROWS = 12


@pytest.fixture
def crashed(tmp_path):
    """The files of a database whose process was killed after its last commit."""
    path = tmp_path / "live.db"
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("pragma journal_mode = wal")
    database.execute("pragma wal_autocheckpoint = 0")
    database.execute("create table t (n integer primary key, text)")
    for number in range(ROWS):
        text = "x" * random.Random(number).randint(0, 9_000)
        database.execute("insert into t values (?, ?)", (number, text))
    folder = tmp_path / "crashed"
    folder.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", folder / f"one.db{suffix}")
    database.close()
    return folder


def numbers(path):
    with sqlite3.connect(path) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        if not database.execute("select 1 from sqlite_master where name = 't'").fetchall():
            return []
        return [number for (number,) in database.execute("select n from t order by n")]


def test_the_log_is_read_to_its_last_commit(crashed):
    data = (crashed / "one.db-wal").read_bytes()
    log = wal.read(data)
    assert log.end == len(data)
    assert wal.read(data + b"x" * 5_000).end == len(data)
    assert wal.read(data[:-1]).end < len(data)
    assert wal.read(b"") is None


@pytest.mark.parametrize("seed", range(12))
def test_a_torn_end_takes_and_adds_nothing(crashed, seed):
    before = (crashed / "one.db-wal").stat().st_size
    assert wal.tear(crashed / "one.db-wal", random.Random(seed))
    assert (crashed / "one.db-wal").stat().st_size >= before
    assert numbers(crashed / "one.db") == list(range(ROWS))


@pytest.mark.parametrize("seed", range(24))
def test_a_turned_bit_in_what_was_synced_is_refused(crashed, seed):
    path = crashed / "one.db-wal"
    end = path.stat().st_size
    assert zmqgame_native.sqlite_log_end(path.read_bytes()) == (end, 0)
    assert wal.turn(path, random.Random(seed))
    with pytest.raises(StoreDamaged, match="damaged at byte") as caught:
        SqliteMailbox(crashed / "one.db")
    assert "truncate -s" in caught.value.hint
    assert path.stat().st_size == end, "the evidence stays"
    readable, behind = zmqgame_native.sqlite_log_end(path.read_bytes())
    assert behind >= 2
    with path.open("r+b") as file:  # the way out that the hint shows
        file.truncate(readable)
    assert numbers(crashed / "one.db") == list(range(len(numbers(crashed / "one.db"))))


@pytest.mark.parametrize("seed", range(12))
def test_a_torn_end_is_no_damage(crashed, seed):
    path = crashed / "one.db-wal"
    end = path.stat().st_size
    for crash in range(4):  # one behind the other, each over what the last has left
        wal.tear(path, random.Random(f"{seed}/{crash}"))
    readable, behind = zmqgame_native.sqlite_log_end(path.read_bytes())
    assert (readable, behind <= 1) == (end, True)
    assert wal.read(path.read_bytes()).end == readable


def test_frames_made_here_are_frames_to_sqlite(crashed):
    """The oracle: with its commit the same transaction would have counted."""
    path = crashed / "one.db-wal"
    data = path.read_bytes()
    log = wal.read(data)
    size = wal.FRAME_HEADER_BYTES + log.page_bytes
    page, commit = (int.from_bytes(data[-size + at : -size + at + 4]) for at in (0, 4))
    one, _ = wal.frame(log, log.sums, page, commit, data[-log.page_bytes :])
    path.write_bytes(data + one)
    assert wal.read(path.read_bytes()).end == len(data) + size
    assert numbers(crashed / "one.db") == list(range(ROWS))
