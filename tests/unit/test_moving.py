"""Moving a mailbox from one kind of store to another and back."""

import io
import itertools

import pytest
from zmqgame_bus.mailbox import DEFERRED_KEY, open_mailbox
from zmqgame_bus.moving import BrokenExport, read_lines, take_in, write_lines

KEY = (1 << 64) - 3


@pytest.fixture
def url(mongod, tmp_path):
    """Makes the URL of an empty store."""
    numbers = itertools.count()

    def make(kind):
        return mongod.url() if kind == "mongodb" else f"sqlite:{tmp_path}/mailbox-{next(numbers)}.db"

    return make


def append(player, seq, key=KEY, payload=b"x", deadline_ms=0):
    return ("append", player, key, 5, seq, deadline_ms, 1, payload, True)


def fill(store, epoch):
    store.run([("open", epoch, 0), *(("know", name) for name in ("ada", "zoë", "quiet"))])
    store.run(
        [append("ada", 1), append("ada", 2, payload=b"\0\xff" * 50, deadline_ms=1 << 40), append("zoë", 7)]
    )
    store.run([append("ada", 1, key=9), append("ada", 3)])
    store.run([("settle", "zoë", 1 << 62), ("logout", "quiet", [(KEY, 4, 4)])])
    later = [("defer", "ada", KEY, 5, seq, at, 0, 0, b"later", True) for seq, at in ((10, 50), (11, 900))]
    store.run([*later, ("due", 100, 9), ("join", "team", "ada"), ("roster", 9, "game-1", 12, True)])


def contents(store):
    """What a hub would see, without the store's own numbers."""
    players = ("ada", "zoë", "quiet")
    done = store.run([("read", name, 0, 100) for name in players] + [("accepted", name) for name in players])
    rows = [[row[1:] for row in found] for _, found, _ in done[:3]]
    return rows, [[mark for mark in marks if mark[0] != DEFERRED_KEY] for _, marks in done[3:]]


def export(store):
    out = io.BytesIO()
    write_lines(store.export(), out, lambda _: None)
    out.seek(0)
    return out


@pytest.mark.parametrize("source", ["sqlite", "mongodb"])
@pytest.mark.parametrize("target", ["sqlite", "mongodb"])
def test_a_mailbox_moves_with_ids_order_and_marks(url, source, target):
    first = open_mailbox(url(source))
    fill(first, 40)
    before = contents(first)
    assert [row[2] for row in before[0][0]] == [1, 2, 1, 3, before[0][0][4][2]]
    lines = export(first)
    first.close()
    second = open_mailbox(url(target))
    taken = take_in(second, read_lines(lines), lambda _: None)
    assert taken == lines.getvalue().count(b"\n") - 1
    assert contents(second) == before
    lines.seek(0)
    take_in(second, read_lines(lines), lambda _: None)  # a repeat changes nothing
    assert contents(second) == before
    [opened] = second.run([("open", second.highest_epoch(), 0)])
    assert opened[1] > 40
    assert opened[2:] == ([(9, "game-1", 12, True)], [("team", "ada")], 900)
    # Repeats of what was sent before the move are known, and the deferred list counts on.
    again = [append("zoë", 7), append("ada", 3), ("defer", "ada", KEY, 5, 10, 50, 0, 0, b"later", True)]
    assert second.run(again)[0][0] in ("appended", "passed")
    assert contents(second) == before
    [(_, [moved], _)] = second.run([("due", 1_000, 9)])
    assert moved[0] == "ada"
    promoted = [row for row in contents(second)[0][0] if row[0] == DEFERRED_KEY]
    assert [row[5] for row in promoted] == [b"later", b"later"]
    assert promoted[0][1:3] < promoted[1][1:3]
    second.close()


def test_a_broken_export_is_told_before_it_is_half_taken(url):
    store = open_mailbox(url("sqlite"))
    fill(store, 1)
    whole = export(store).getvalue()
    store.close()
    for bad, why in (
        (whole[: len(whole) // 2], "line|cut off"),
        (whole.rpartition(b"\n")[0].rpartition(b"\n")[0] + b"\n", "last line is missing"),
        (whole.replace(b'{"player":"quiet"}\n', b""), "the last line says"),
        (b"hello\n", "not JSON"),
        (b"{}\n", "no export"),
        (b"", "cut off"),
    ):
        with pytest.raises(BrokenExport, match=why):
            list(read_lines(io.BytesIO(bad)))


@pytest.mark.parametrize("kind", ["sqlite", "mongodb"])
def test_operators_list_show_and_purge(url, kind):
    import orjson

    store = open_mailbox(url(kind))
    fill(store, 1)

    def ask(**question):
        [(name, text)] = store.run([("admin", orjson.dumps(question).decode())])
        assert name == "text"
        return orjson.loads(text)

    [ada] = ask(op="list")
    first = ada.pop("first_row")
    assert ada == {"player": "ada", "messages": 5, "bytes": 3 + 100 + 5 + 5, "deferred": 1}
    assert ask(op="list", **{"from": "b"}) == []
    shown = ask(op="show", player="ada", limit=2, payload=True)
    assert [row["seq"] for row in shown] == [1, 2]
    assert shown[0]["row"] == first
    assert shown[1]["payload"] == "00FF" * 50
    assert shown[1]["deadline_ms"] == 1 << 40
    assert [row["seq"] for row in ask(op="show", player="ada", after=shown[1]["row"])][:2] == [1, 3]
    assert ask(op="purge", player="ada", up_to=shown[1]["row"]) == {"purged": 2, "deferred": 0}
    assert ask(op="purge", player="ada", deferred=True) == {"purged": 3, "deferred": 1}
    assert ask(op="list") == []
    assert store.run([("due", 10_000, 9)]) == [("due", [], 0)]
    assert ask(op="eat")["error"]
    store.close()
