"""`zmqgame-cli mailbox` on stores that no hub has."""

import io
import json
import os
import stat

import pytest
from zmqgame.cli import main
from zmqgame_bus.mailbox import open_mailbox


@pytest.fixture(params=["sqlite", "mongodb"])
def url(request, tmp_path):
    """A store with messages for ada, and no hub."""
    mongo = request.param == "mongodb"
    url = request.getfixturevalue("mongod").url() if mongo else f"sqlite:{tmp_path}/mailbox.db"
    store = open_mailbox(url)
    store.run([("open", 7, 0), ("know", "ada"), ("know", "bob")])
    rows = [("append", "ada", 9, 1, seq, 0, 0, b"hello %d" % seq, True) for seq in (1, 2, 3)]
    store.run([*rows, ("defer", "ada", 9, 1, 4, 1 << 50, 0, 0, b"\xff\0", True)])
    store.close()
    return url


@pytest.fixture
def run(capsys):
    """Run a command; its exit code, output and errors."""

    def run(*argv):
        code = main(["mailbox", *argv])
        done = capsys.readouterr()
        return code, done.out, done.err

    return run


def rows(run, url):
    code, out, _ = run("show", "ada", "--url", url, "--json", "--payload")
    assert code == 0
    return json.loads(out)


def test_list_and_show_say_what_waits(run, url):
    code, out, _ = run("list", "--url", url)
    assert code == 0
    assert out.splitlines()[0].split("\t") == ["player", "messages", "bytes", "deferred", "first_row"]
    assert out.splitlines()[1].split("\t")[:4] == ["ada", "3", "23", "1"]
    assert [row["payload"] for row in rows(run, url)] == ["hello 1", "hello 2", "hello 3"]
    code, out, err = run("show", "bob", "--url", url)
    assert (code, out, err) == (0, "", "no messages wait for bob\n")


def test_to_look_needs_no_claim(run, url):
    before = open_mailbox(url)
    epoch = before.highest_epoch()
    before.close()
    rows(run, url)
    after = open_mailbox(url)
    assert after.highest_epoch() == epoch
    after.close()


def test_purge_asks_first(run, url, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, err = run("purge", "ada", "--url", url)
    assert code == 130
    assert "They are lost" in err
    second = rows(run, url)[1]["row"]
    code, out, _ = run("purge", "ada", "--url", url, "--up-to", str(second), "--yes")
    assert (code, out) == (0, "purged 2 messages of ada\n")
    assert [row["payload"] for row in rows(run, url)] == ["hello 3"]
    code, out, _ = run("purge", "ada", "--url", url, "--deferred", "--yes", "--json")
    assert json.loads(out) == {"purged": 1, "deferred": 1}
    assert rows(run, url) == []


@pytest.mark.parametrize("target", ["sqlite", "mongodb"])
def test_export_and_import_move_a_mailbox(run, url, target, mongod, tmp_path):
    file = tmp_path / "all.jsonl"
    code, out, err = run("export", "--url", url, str(file))
    assert (code, out) == (0, "")
    assert err.startswith("exported ")
    other = mongod.url() if target == "mongodb" else f"sqlite:{tmp_path}/other.db"
    for _ in range(2):
        code, _, err = run("import", "--url", other, str(file))
        assert code == 0
        assert err.startswith("imported ")
        assert [row["payload"] for row in rows(run, other)] == ["hello 1", "hello 2", "hello 3"]
        store = open_mailbox(other)
        assert store.highest_epoch() > 7  # a hub that comes after has numbers above any before
        store.close()
    file.write_bytes(file.read_bytes()[:-20])
    code, _, err = run("import", "--url", other, str(file))
    assert code == 1
    assert "cut off" in err or "JSON" in err


def test_export_to_stdout_is_lines_of_json(run, url):
    code, out, _ = run("export", "--url", url, "-")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[0]["zmqgame_mailbox"] == 1
    assert lines[-1] == {"end": len(lines) - 1}


def test_a_store_that_a_hub_has_is_left_alone(run, url):
    hub = open_mailbox(url)
    hub.run([("open", 9, 0)])
    code, _, err = run("purge", "ada", "--url", url, "--yes")
    assert code == 1
    assert "is held by" in err
    assert len(hub.run([("read", "ada", 0, 10)])[0][1]) == 3  # and the hub goes on
    hub.close()


def test_wrong_use_is_told(run, tmp_path):
    assert run("export", str(tmp_path / "x"))[0] == 2
    code, _, err = run("list", "--url", f"sqlite:{tmp_path}/none.db")
    assert code == 1
    assert "there is no mailbox" in err
    assert not (tmp_path / "none.db").exists()
    code, _, err = run("list", "--url", "mongodb://me:pa%ss@127.0.0.1:1x/db")
    assert code == 1
    assert "pa%ss" not in err


def test_no_password_of_the_url_is_shown(capsys, monkeypatch):
    monkeypatch.setenv("ZMQGAME_MAILBOX_URL", "mongodb://me:geheim@db1:27017/game?replicaSet=rs0")
    assert main(["config", "show"]) == 0
    shown = capsys.readouterr().out
    assert "mongodb://db1:27017/game" in shown
    assert "geheim" not in shown
    monkeypatch.setenv(
        "ZMQGAME_MAILBOX_URL", "mongodb://me:geheim@127.0.0.1:1/game?serverSelectionTimeoutMS=50"
    )
    url = os.environ["ZMQGAME_MAILBOX_URL"]
    assert main(["mailbox", "list", "--url", url]) == 1
    assert "geheim" not in capsys.readouterr().err


def test_the_password_comes_from_a_file(tmp_path):
    from zmqgame_bus.errors import KeyFileError
    from zmqgame_bus.keys import read_text_secret

    file = tmp_path / "password"
    file.write_text("ge heim\n")
    file.chmod(0o644)
    with pytest.raises(KeyFileError, match="read by others"):
        read_text_secret(file)
    file.chmod(stat.S_IRUSR)
    assert read_text_secret(file) == "ge heim"
