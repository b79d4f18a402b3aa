"""The command line without a hub: help that teaches, exit codes, names, keys, configuration."""

import json
import multiprocessing
import os
import socket
import stat
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner
from zmqgame.cli import _COMMANDS, cli, main
from zmqgame.cli.context import Context, exit_code, print_records
from zmqgame.cli.demo import Demo, Options
from zmqgame.cli.names import borrowed_name, kept_name
from zmqgame.cli.stage import Addresses, Stage
from zmqgame.cli.times import Duration, Moment
from zmqgame.cli.up import usual_addresses
from zmqgame.cli.view import Board, Screen
from zmqgame_bus.config import load
from zmqgame_bus.errors import (
    CannotReachHub,
    ConfigError,
    DeadlineExceeded,
    NoSuchService,
    Refused,
    RequestUnknown,
    StartError,
)


@pytest.fixture(autouse=True)
def _folders(tmp_path, monkeypatch):
    monkeypatch.setenv("ZMQGAME_CLI_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv("ZMQGAME_CLI_STATE", str(tmp_path / "state"))


def run(*words, **kwargs):
    return CliRunner().invoke(cli, words, standalone_mode=False, **kwargs)


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_explains_itself(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage: " in text
    assert command == "completion" or "Exit codes:" in text


def test_a_typo_gets_a_suggestion_and_exit_2(capsys):
    assert main(["sned"]) == 2
    assert "did you mean send?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["send", "x"], "exactly one of --player"),
        (["send", "--player", "a", "--all", "x"], "exactly one of --player"),
        (["send", "--service", "manager", "--id", "a/1/1", "{}"], "--id is for messages"),
        (["send", "--player", "a", "--id", "nonsense", "x"], "is no message id"),
        (["send", "--player", "a", "--ttl", "soon", "x"], "a number and s, m, h or d"),
        (["send", "--player", "a", "--at", "tomorrow", "x"], "a date and time: "),
        (["send", "--group", "a", "--at", "1h", "x"], "--at is for --player"),
        (["send", "--service", "a", "--ttl", "1h", "x"], "a request has --timeout"),
        (["send", "--player", "a", "--key", "k", "x"], "--key goes with --policy latest"),
        (["--set", "hub", "status"], "write TABLE.KEY=VALUE"),
        (["--set", "hub.lisen=x", "config", "check"], "unknown key hub.lisen"),
        (["keys", "new", "../x"], "NAME is a file name"),
        (["keys", "show", "--dir", "/nonexistent"], "does not exist"),
        (["bots", "--players", "10001"], "not in the range 1<=x<=10000"),
        (["--hub", "tcp://127.0.0.1:1", "demo"], "--hub: the demo settles this itself"),
        (["--set", "mailbox.url=sqlite:/x", "demo"], "--set mailbox.url: the demo settles this itself"),
        (["--set", "manager.patience_ms=soon", "demo"], "is not a whole number"),
        (["--config", "/nonexistent.toml", "demo"], "/nonexistent.toml: can't be read"),
        (["--config", "/nonexistent.toml", "up"], "/nonexistent.toml: can't be read"),
        (["--set", "game.listen=127.0.0.1:1", "up"], "--set game.listen: `up` settles who listens where"),
        (["--hub", "tcp://127.0.0.1:1", "up", "--free-ports"], "--hub: --free-ports chooses"),
        (["send", "--frobnicate"], "No such option"),
    ],
)
def test_wrong_usage_is_exit_2(words, text, capsys):
    assert main(words) == 2
    assert text in capsys.readouterr().err


def test_no_hub_is_exit_3_and_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr("zmqgame.cli.context.REACH_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert main(["--hub", f"tcp://127.0.0.1:{port}", "send", "--player", "alice", "x"]) == 3
    error = capsys.readouterr().err
    assert f"no hub at tcp://127.0.0.1:{port}" in error
    assert "zmqgame-cli up" in error


def test_config_check_names_file_line_and_limit(tmp_path, capsys):
    file = tmp_path / "game.toml"
    file.write_text("[bus]\nhubb = 1\n")
    assert main(["config", "check", str(file)]) == 2
    assert f"error: {file}:2: unknown key bus.hubb; did you mean bus.hub?" in capsys.readouterr().err
    file.write_text('[bus]\nhub = "tcp://10.0.0.1:7600"\n')
    assert main(["config", "check", str(file)]) == 0
    assert capsys.readouterr().out.startswith(f"{file}: ok, 1 of ")
    assert main(["--config", str(file), "config", "show", "--changed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "bus.hub": {"value": "tcp://10.0.0.1:7600", "source": f"{file}:2"}
    }


def test_config_docs_are_the_reference(capsys):
    assert main(["config", "docs"]) == 0
    text = capsys.readouterr().out
    assert "## [bus]" in text
    assert "- `hub` (text, endpoint, default" in text


def test_output_for_programs_is_plain(capsys):
    assert main(["config", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "key\tvalue\tunit\tsource"
    assert "\x1b" not in "".join(lines)


def test_keys_are_made_private_and_shown_without_secrets(tmp_path, capsys):
    folder = tmp_path / "keys"
    assert main(["keys", "new", "game-1", "--dir", str(folder), "--allow", "game-*", "--roles", "game"]) == 0
    assert main(["keys", "new", "token.secret", "--kind", "secret", "--dir", str(folder)]) == 0
    assert main(["keys", "new", "netcode.key", "--kind", "secret", "--dir", str(folder)]) == 0
    assert stat.S_IMODE((folder / "game-1.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "token.secret").stat().st_mode) == 0o600
    capsys.readouterr()
    assert main(["keys", "show", "--dir", str(folder), "--json"]) == 0
    text = capsys.readouterr().out
    shown = json.loads(text)
    assert [each["file"] for each in shown["keys"]] == ["game-1.key", "game-1.pub"]
    assert shown["allowed"] == [{"public": shown["keys"][0]["public"], "name": "game-*", "roles": ["game"]}]
    secret = (folder / "game-1.key").read_text().split('secret = "')[1].split('"')[0]
    assert secret not in text
    assert main(["keys", "new", "game-1", "--dir", str(folder)]) == 2
    assert "is never overwritten" in capsys.readouterr().err


def test_a_table_without_rows_is_no_line_and_truth_is_in_lower_case(capsys):
    print_records([])
    assert capsys.readouterr().out == ""
    print_records([{"linked": True, "stalled": False, "why": None}])
    assert capsys.readouterr().out == "linked\tstalled\twhy\ntrue\tfalse\t\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError([]), 2),
        (CannotReachHub("x"), 3),
        (NoSuchService("x"), 3),
        (RequestUnknown("x"), 4),
        (DeadlineExceeded("x"), 4),
        (Refused("x"), 1),
    ],
)
def test_exit_codes_of_errors(error, code):
    assert exit_code(error) == code


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    assert "_ZMQGAME_CLI_COMPLETE" in run("completion", shell).output


def test_completion_completes():
    environ = {
        **os.environ,
        "_ZMQGAME_CLI_COMPLETE": "bash_complete",
        "COMP_WORDS": "zmqgame-cli se",
        "COMP_CWORD": "1",
    }
    command = [sys.executable, "-c", "from zmqgame.cli import cli; cli(prog_name='zmqgame-cli')"]
    out = subprocess.run(command, env=environ, capture_output=True, text=True, check=False).stdout
    assert out.split() == ["plain,send"]


def _hold(pipe):
    with borrowed_name() as (name, _):
        pipe.send(name)
        pipe.recv()


def test_two_commands_at_once_have_two_names_and_a_killed_one_gives_its_back():
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with borrowed_name() as (first, state):
        assert first.startswith("cli-")
        assert first.endswith("-1")
        assert state.name == first
        process = context.Process(target=_hold, args=(theirs,))
        process.start()
        second = ours.recv()
        assert second == first[:-1] + "2"
        process.kill()
        process.join()
        with borrowed_name() as (again, _):
            assert again == second


def test_a_kept_name_is_held_by_the_program_that_follows():
    code = (
        "import os, sys; from zmqgame.cli.names import kept_name; name = kept_name('bots');"
        "os.execv(sys.executable, [sys.executable, '-c', f'print({name!r}, flush=True); input()'])"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    name = first.stdout.readline().strip()
    assert name.startswith("bots-")
    assert name.endswith("-1")
    assert kept_name("bots").endswith("-2")
    first.communicate("\n")


def test_a_wanted_name_is_waited_for(monkeypatch):
    monkeypatch.setattr("zmqgame.cli.names.WAIT_S", 0.1)
    with borrowed_name() as (name, _):
        began = time.monotonic()
        with pytest.raises(StartError, match="in use"), borrowed_name(name):
            pass
        assert time.monotonic() - began >= 0.1
    with borrowed_name(name) as (again, _):
        assert again == name
    with pytest.raises(StartError, match="not a name of a command on this host"), borrowed_name("game-1"):
        pass


def test_up_names_who_holds_a_port(capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = main(["--hub", f"tcp://127.0.0.1:{port}", "up", "--dir", str(tmp_path / "up")])
    assert code == 1
    error = capsys.readouterr().err
    assert f"error: port {port} on 127.0.0.1 is in use by another process (pid {os.getpid()}, " in error
    assert "stop it, or take other ports: zmqgame-cli up --free-ports" in error


def test_a_folder_has_one_backend(capsys, tmp_path):
    first = Stage(tmp_path, Addresses())
    first.prepare()
    written = first.config.read_text()
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, zmqgame.cli; sys.exit(zmqgame.cli.main())",
            "up",
            "--dir",
            tmp_path,
            "--free-ports",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 1
    assert f"{tmp_path} is in use by another zmqgame-cli (pid {os.getpid()})" in child.stderr
    assert first.config.read_text() == written


def test_settled_addresses_go_over_the_environment(tmp_path):
    stage = Stage(tmp_path, Addresses(hub="tcp://127.0.0.1:7777"))
    for spec in (stage.hub(), stage.stats(), stage.manager(), *stage.games(), stage.bots(1, "x")):
        assert "--set=bus.hub=tcp://127.0.0.1:7777" in spec.command, spec.name


def test_what_a_user_chose_reaches_the_services(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[manager]\npatience_ms = 1500\n[bus]\nhub = 'tcp://127.0.0.1:1'\n")
    chosen = Context(file, None, ["game.max_players=7"]).chosen()
    assert chosen["manager"] == {"patience_ms": 1500}
    assert chosen["game"] == {"max_players": 7}
    stage = Stage(tmp_path / "up", Addresses(), settings=chosen)
    stage.prepare()
    made = load(stage.config, environ={}).settings
    assert made["manager.patience_ms"].value == 1500
    assert made["bus.hub"].value == Addresses().hub


def test_key_files_beside_a_users_file_are_found_by_services_elsewhere(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[security]\nkey_file = 'my.key'\n")
    (tmp_path / "my.key").write_text("")
    assert Context(file, None, []).chosen() == {"security": {"key_file": str(tmp_path / "my.key")}}


def test_a_demo_stays_out_of_a_warehouse_that_it_was_not_given(tmp_path):
    made = Demo(tmp_path, Options(settings={"stats": {"clickhouse": "http://production"}}), Screen(Board()))
    assert "--set=stats.clickhouse=chdb" in made.stage.stats().command
    given = Demo(tmp_path, Options(warehouse="http://mine:8123"), Screen(Board()))
    assert "--set=stats.clickhouse=http://mine:8123" in given.stage.stats().command


def test_sixteen_games_have_addresses():
    games = usual_addresses([f"game-{n}" for n in range(1, 17)], "tcp://127.0.0.1:7600").games
    assert games["game-1"] == ("127.0.0.1:7611", "127.0.0.1:7612")
    assert games["game-16"] == ("127.0.0.1:7761", "127.0.0.1:7762")


def test_demo_keeps_only_in_an_empty_folder(capsys, tmp_path):
    (tmp_path / "x").write_text("")
    assert main(["demo", "--keep", str(tmp_path)]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_times_are_lengths_or_dates():
    assert Duration().convert("90s", None, None) == 90
    assert Duration().convert("1.5h", None, None) == 5_400
    when = Moment(lambda: 1_000.0)
    assert when.convert("10m", None, None) == 1_600
    assert when.convert("2027-01-01T20:00+00:00", None, None) == 1_798_833_600
    for wrong in ("soon", "0s", "9999d", "-1h"):
        with pytest.raises(click.BadParameter):
            Duration().convert(wrong, None, None)
