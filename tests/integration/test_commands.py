"""The commands against a running backend, which `zmqgame-cli up` runs: exit codes, receipts, output."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CLI = str(Path(sys.executable).with_name("zmqgame-cli"))


class Backend:
    """`zmqgame-cli up --free-ports --bots 8`, and commands that reach it."""

    def __init__(self, folder):
        self.folder = folder
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ZMQGAME_")},
            "ZMQGAME_CLI_LOCKS": str(folder / "locks"),
            "ZMQGAME_CLI_STATE": str(folder / "state"),
        }
        # One of its processes is stopped for a while: it is not given up, however slow the machine is.
        words = [
            CLI,
            "--set",
            "hub.dead_ms=60000",
            "up",
            "--dir",
            str(folder / "up"),
            "--games",
            "1",
            "--bots",
            "8",
            "--free-ports",
        ]
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environ
        )
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if line.startswith("all up"):
                break
        else:
            raise AssertionError("\n".join(self.lines))
        self.hub = re.search(r"tcp://\S+", self.lines[0])[0]

    def start(self, *words, **kwargs):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [CLI, "--hub", self.hub, *words], text=True, env=self.environ, **pipes, **kwargs
        )

    def run(self, *words, stdin=None, code=0):
        process = self.start(*words)
        out, err = process.communicate(stdin, timeout=120)
        assert process.returncode == code, out + err
        return out if code in (0, 1) else err

    def end(self):
        self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=120)
        return self.process.returncode, out


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    made = Backend(tmp_path_factory.mktemp("backend"))
    yield made
    with contextlib.suppress(ProcessLookupError):
        if made.process.poll() is None:
            made.process.kill()


def test_up_prints_each_address(backend):
    text = "\n".join(backend.lines)
    for name in ("hub", "stats", "manager", "game-1", "bots"):
        assert re.search(rf"^{name} +ready", text, re.M), text
    assert "ws://127.0.0.1:" in text
    assert "udp://127.0.0.1:" in text


def test_send_keeps_for_later_and_takes_policies(backend):
    assert "kept until its time" in backend.run("send", "--player", "bot-0001", "--at", "1h", "later")
    shown = json.loads(backend.run("send", "--player", "bot-0001", "--policy", "droppable", "now", "--json"))
    assert shown["outcome"] == "sent"
    shown = json.loads(backend.run("send", "--player", "bot-0001", "--ttl", "1h", "soon", "--json"))
    assert shown["outcome"] == "delivered"


def test_send_to_an_online_player_is_delivered(backend):
    text = backend.run("send", "--player", "bot-0001", '{"gift": 100}')
    assert re.fullmatch(r"delivered +bot-0001   [\d.]+ ms   id cli-\S+-1/\d+/1\n", text)
    shown = json.loads(backend.run("send", "--player", "bot-0001", "--json", stdin="from stdin\n"))
    assert shown["outcome"] == "delivered"
    assert set(shown) == {"player", "outcome", "detail", "latency_ms", "id"}


def test_a_typo_is_refused_and_exit_1(backend):
    text = backend.run("send", "--player", "bto-0001", "x", code=1)
    assert text.startswith("refused")
    assert "unknown player" in text


def test_what_is_over_a_limit_is_wrong_usage(backend):
    for words in (("--player", "a" * 200, "x"), ("--group", "a\nb", "x"), ("--player", "bot-0001", None)):
        process = backend.start("send", *words[:2], *filter(None, words[2:]))
        _, err = process.communicate(None if words[2] else "x" * 2_000_000, timeout=120)
        assert process.returncode == 2, err
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith("Error: "), err


def test_a_request_without_answer_in_time_is_unknown(backend):
    stats = next(pid for pid, name in children(backend.process.pid) if "zmqgame-stats" in name)
    os.kill(stats, signal.SIGSTOP)
    try:
        assert "may have been carried out" in backend.run("sql", "select 1", "--timeout", "0.5", code=4)
    finally:
        os.kill(stats, signal.SIGCONT)


def test_a_reader_that_goes_away_is_no_error(backend):
    words = f"{CLI} --hub {backend.hub} tail --json --for 20 | head -1"
    done = subprocess.run(words, shell=True, capture_output=True, text=True, env=backend.environ, check=False)
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr, done.stderr


def test_bots_of_ones_own_leave_the_others_alone(backend):
    process = backend.start("bots", "--players", "2", "--prefix", "own-", cwd=backend.folder)
    try:
        deadline = time.monotonic() + 90
        while len(json.loads(backend.run("players", "own-", "--json"))) < 2:
            assert time.monotonic() < deadline
        nodes = {node["name"] for node in json.loads(backend.run("status", "--json"))["nodes"]}
        assert "bots" in nodes
        assert any(name.startswith("bots-") for name in nodes)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert len(json.loads(backend.run("players", "bot-", "--json"))) == 8


def test_everybody_and_groups(backend):
    shown = json.loads(backend.run("send", "--all", "hello", "--json"))
    assert shown["outcome"] == "done"
    assert shown["counts"]["delivered"] >= 8
    text = backend.run("send", "--group", "nobody-is-in-it", "x", code=1)
    assert "refused" in text or "nobody" in text


def test_a_service_answers(backend):
    reply = json.loads(backend.run("send", "--service", "manager", '{"op": "status"}'))
    assert isinstance(reply, dict)
    assert "no" in backend.run("send", "--service", "nobody-serves-it", "{}", code=3)


def test_an_unknown_outcome_is_exit_4_and_its_id_repeats_it(backend):
    """The game server is stopped while the message goes out; then the same id is sent: handled once."""
    game = next(pid for pid, name in children(backend.process.pid) if "zmqgame-game" in name)
    os.kill(game, signal.SIGSTOP)
    try:
        process = backend.start("send", "--player", "bot-0002", "once", "--timeout", "0.5", "--json")
        out, _ = process.communicate("", timeout=120)
    finally:
        os.kill(game, signal.SIGCONT)
    assert process.returncode == 4
    shown = json.loads(out)
    assert shown["outcome"] == "unknown"
    again = json.loads(backend.run("send", "--player", "bot-0002", "once", "--json", "--id", shown["id"]))
    assert again["outcome"] in ("delivered", "stored")
    assert again["id"] == shown["id"]
    number = shown["id"].split("/", 1)[1]
    log = backend.folder / "up/bots/handled/bot-0002.log"
    deadline = time.monotonic() + 60
    while f"/{number} " not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert log.read_text().count(f"/{number} ") == 1


def children(pid):
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                yield int(folder.name), (folder / "cmdline").read_text()


def test_two_operators_at_once_do_not_disturb_each_other(backend):
    processes = [backend.start("send", "--player", "bot-0003", f"message {n}", "--json") for n in range(4)]
    shown = [json.loads(process.communicate("", timeout=120)[0]) for process in processes]
    assert {each["outcome"] for each in shown} == {"delivered"}
    assert len({each["id"] for each in shown}) == 4


def test_status_and_players(backend):
    status = json.loads(backend.run("status", "--json"))
    assert status["hub"]["players"] >= 8
    assert {"manager", "stats", "game-1"} <= {node["name"] for node in status["nodes"]}
    assert "counters.messages_in\t" in backend.run("status")
    players = json.loads(backend.run("players", "bot-", "--json"))
    assert {player["name"] for player in players} == {f"bot-{number:04d}" for number in range(1, 9)}
    assert {player["node"] for player in players} == {"game-1"}
    lines = backend.run("players", "bot-0001").splitlines()
    assert lines[0].split("\t")[0] == "name"
    assert len(lines) == 2
    process = backend.start("players", "zzz")
    assert process.communicate("", timeout=120) == (
        "",
        "the hub knows no player whose name begins with zzz\n",
    )


def test_sql_answers_in_every_form(backend):
    deadline = time.monotonic() + 90
    while "bot-0001" not in (
        text := backend.run("sql", "select distinct player from sessions order by player")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert text.splitlines()[0] == "player"
    assert json.loads(backend.run("sql", "--json", "select 1 as one, 'x' as two")) == [{"one": 1, "two": "x"}]
    assert backend.run("sql", "--format", "CSVWithNames", stdin="select 1 as a") == '"a"\n1\n'
    process = backend.start("sql", "select * from nothing")
    _, err = process.communicate("", timeout=120)
    assert process.returncode == 1
    assert "nothing" in err
    process = backend.start("sql", "drop table sessions")
    assert "only reading is allowed" in process.communicate("", timeout=120)[1]
    assert process.returncode == 1


def test_tail_shows_presence_and_events(backend):
    lines = [json.loads(line) for line in backend.run("tail", "--for", "4", "--json").splitlines()]
    kinds = {line["kind"] for line in lines}
    assert "login" in kinds
    assert {line["name"] for line in lines if line["kind"] == "node_up"} >= {"game-1", "manager", "stats"}


def test_what_dies_comes_back(backend):
    hub = next(pid for pid, name in children(backend.process.pid) if "zmqgame-hub" in name)
    os.kill(hub, signal.SIGKILL)
    assert json.loads(backend.run("send", "--player", "bot-0004", "x", "--json"))["outcome"] in (
        "delivered",
        "stored",
    )
    assert hub not in {pid for pid, _ in children(backend.process.pid)}


def test_z_ctrl_c_ends_everything_in_order(backend):
    pids = [pid for pid, _ in children(backend.process.pid)]
    assert len(pids) == 5
    code, out = backend.end()
    assert code == 0, out
    assert "hub ended signal 9" in out
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()
    assert "no hub at" in backend.run("status", code=3)
