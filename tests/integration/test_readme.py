"""The README's programs and sessions, run as they stand there."""

import asyncio
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from zmqgame_bus.node import Node

from tests.cluster import cluster, until
from tests.documents import ROOT, examples, sessions
from tests.players import QUICK, Player, node

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent


async def test_the_game_runs_behind_real_sockets(tmp_path, monkeypatch):
    (tmp_path / "game").mkdir()
    (tmp_path / "game" / "sprint.py").write_text(examples()["examples/sprint.py"])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "game"))
    monkeypatch.syspath_prepend(str(tmp_path / "game"))
    from sprint import Legs

    settings = {**QUICK, "game.rules": "sprint:Sprint", "manager.match_size": 2, "manager.match_config": "{}"}
    async with cluster(tmp_path, "game-1", **settings) as running, node(running) as studio:
        ann, bob = Player(studio, "ann"), Player(studio, "bob")
        async with ann.client, bob.client:
            runs = [
                asyncio.create_task(run(ann, Legs(1.0).pack())),
                asyncio.create_task(run(bob, Legs(0.9).pack())),
            ]
            results = await asyncio.wait_for(runs[0], 180)
            await asyncio.wait_for(runs[1], 180)
        assert [result["player"] for result in results if result["place"] == 1] == ["ann"]
        assert [event["player"] for event in ann.events if event["type"] == "home"] == ["ann", "bob"]


async def run(player, held):
    """Play one match, holding the same all the way; returns its results."""
    await asyncio.wait_for(player.client.online.wait(), 60)
    await player.client.action("queue")
    await until(lambda: state(player, "ready"), "the match waits for the players to be ready")
    await player.client.action("ready")
    await until(lambda: state(player, "running"), "the match runs")
    frame = 0
    while not state(player, "finished"):
        newest = player.snapshots[-1]["frame"] if player.snapshots else 0
        frame = max(frame, newest + 10)
        player.client.send_inputs(frame, [held] * 16)
        await asyncio.sleep(0.05)
    return state(player, "finished")["results"]


def state(player, name):
    return next((e for e in player.events if e["type"] == "state" and e["state"] == name), None)


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    """The README's backend, at free ports: 16 bots online, more players who were, and teams of both."""
    folder = tmp_path_factory.mktemp("backend")
    # Nobody is given up for silence because the machine stands still.
    words = [BIN / "zmqgame-cli", "--set", "hub.dead_ms=60000"]
    words += ["up", "--dir", folder / "up", "--bots", "16", "--free-ports"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("all up"):
            break
    else:
        raise AssertionError("".join(lines))
    hub = re.search(r"tcp://\S+", lines[0])[0]
    asyncio.run(teams(hub))
    yield hub
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)


async def teams(hub):
    async with Node("studio", hub) as studio:
        offline = [f"bot-{number:04d}" for number in (*range(25, 33), 40)]
        for player in offline:
            await studio.host(player)
        for number in range(8):
            await studio.join("team-2", f"bot-{9 + number:04d}", durable=True)
            await studio.join("team-4", offline[number], durable=True)


def command(hub, line, folder):
    environ = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "ZMQGAME_BUS_HUB": hub,
        "ZMQGAME_CLI_STATE": str(folder / "state"),
        "ZMQGAME_CLI_LOCKS": str(folder / "locks"),
    }
    return subprocess.run(
        line, shell=True, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False
    )


def shape(text):
    """What stays the same from run to run: words, not figures, places or spaces."""
    text = re.sub(r"cli-[a-z0-9-]+/\d+/\d+", "ID", text)
    text = re.sub(r"game-\d", "GAME", text)
    return re.sub(r"\s+", " ", re.sub(r"\b\d[\d.,]*", "N", text)).strip()


@pytest.mark.parametrize(("line", "shown"), sessions(), ids=lambda value: value[:40])
def test_the_commands_print_what_the_readme_shows(line, shown, backend, tmp_path):
    done = command(backend, line, tmp_path)
    if "reports/" in line:  # other rows each time, of which there may be none yet
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[0].split() == shown.splitlines()[0].split()
    else:
        assert shape(done.stdout) == shape(shown), done.stderr
        assert done.returncode == (1 if "bto-" in line else 0)


def test_the_bus_client_gets_what_is_sent_to_it(backend, tmp_path):
    """The receipt is `delivered` while it runs; afterwards `stored`, and it gets the message later."""
    text = examples()["examples/billing.py"]
    assert "tcp://127.0.0.1:7600" in text
    program = tmp_path / "billing.py"
    program.write_text(text.replace("tcp://127.0.0.1:7600", backend))
    say = f"zmqgame-cli send --player billing-desk {shlex.quote('hello')}"

    def first_lines(count):
        with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as running:
            try:
                lines = [running.stdout.readline().strip()]
                yield lines
                lines += [running.stdout.readline().strip() for _ in range(count)]
                yield lines
            finally:
                running.kill()

    first = first_lines(1)
    assert next(first)[0].startswith("delivered")
    wait_known(backend, say, tmp_path, "delivered")
    assert next(first)[1] == "hello"
    first.close()
    wait_known(backend, say, tmp_path, "stored")
    second = first_lines(1)
    next(second)
    assert next(second)[1] == "hello"
    second.close()


def wait_known(hub, say, folder, outcome):
    """Send until it is this: the address is hosted a moment after the program's first line."""
    deadline = time.monotonic() + 90
    while not (done := command(hub, say, folder)).stdout.startswith(outcome):
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(0.2)
