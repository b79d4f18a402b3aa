"""What chaos makes of the log of batches: a torn end takes and adds nothing, a turned bit is refused."""

import random
import shutil

import pytest
from zmqgame_bus.errors import StoreDamaged
from zmqgame_bus.sqlite import SqliteMailbox

from tests.chaos import batches

ROUNDS = 12


@pytest.fixture
def crashed(tmp_path):
    """The files of a mailbox whose process was killed after its last batch."""
    store = SqliteMailbox(tmp_path / "live.db")
    store.run([("open", 1, 0), ("know", "alice")])
    for number in range(1, ROUNDS + 1):
        payload = bytes(random.Random(number).randint(0, 2_000))
        store.run([("append", "alice", 7, 1, number, 0, 0, payload, True)])
    folder = tmp_path / "crashed"
    folder.mkdir()
    for suffix in ("", "-wal", "-batches"):
        shutil.copy(f"{tmp_path}/live.db{suffix}", f"{folder}/one.db{suffix}")
    store.close()
    return folder / "one.db"


def numbers(path):
    store = SqliteMailbox(path)
    [(_, rows, _)] = store.run([("read", "alice", 0, 100)])
    store.close()
    return [row[3] for row in rows]


def test_the_log_is_read_as_it_was_written(crashed):
    data = crashed.with_name("one.db-batches").read_bytes()
    found = batches.records(data, batches.salt_of(crashed))
    assert len(found) == ROUNDS
    begin, end = found[3]
    # salt, number and body of a real one make the same bytes but for the time
    made = batches.record(batches.salt_of(crashed), 4, data[begin + 40 : end])
    assert len(made) == end - begin
    assert made[:20] == data[begin : begin + 20]


def test_what_was_confirmed_is_there_after_a_kill(crashed):
    assert numbers(crashed) == list(range(1, ROUNDS + 1))
    assert numbers(crashed) == list(range(1, ROUNDS + 1))


@pytest.mark.parametrize("seed", range(12))
def test_a_torn_end_takes_and_adds_nothing(crashed, seed):
    for crash in range(3):
        assert batches.tear(crashed, random.Random(f"{seed}/{crash}"))
    assert numbers(crashed) == list(range(1, ROUNDS + 1))


@pytest.mark.parametrize("seed", range(24))
def test_a_turned_bit_in_what_was_synced_is_refused(crashed, seed):
    log = crashed.with_name("one.db-batches")
    assert batches.turn(crashed, random.Random(seed))
    damaged = log.read_bytes()
    for _ in range(2):
        with pytest.raises(StoreDamaged, match="its log is damaged at byte") as caught:
            SqliteMailbox(crashed)
        assert log.read_bytes() == damaged, "the evidence stays"
    end = int(caught.value.hint.split("truncate -s ")[1].split()[0])
    with log.open("r+b") as file:  # the way out that the hint shows
        file.truncate(end)
    left = numbers(crashed)
    assert left == list(range(1, len(left) + 1))
    assert len(left) < ROUNDS
