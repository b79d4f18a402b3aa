"""The demo: it holds on good services, and fails with the reason on each broken one.

The broken ones are test-only programs in tests/faults, put in the place of a service; the product has
no such option.
"""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from zmqgame.cli.demo import Options, perform
from zmqgame.cli.view import Board, Screen

pytestmark = pytest.mark.slow

FAULTS = Path(__file__).resolve().parents[1] / "faults"
NAMED = {
    "players",
    "races_finished",
    "unicast_acked",
    "multicast_acked",
    "broadcast_acked",
    "stored_then_delivered",
    "lost",
    "duplicated",
    "events_published",
    "rows_inserted",
    "tick_p99_ms",
}


def demo(tmp_path, **faults):
    commands = {name: [sys.executable, str(FAULTS / program)] for name, program in faults.items()}
    options = Options(players=8, seconds=6, settle_s=3, last_race_s=0, commands=commands)
    return asyncio.run(perform(tmp_path / "demo", options, Screen(Board())))


def test_the_demo_holds_and_says_so(tmp_path):
    program = Path(sys.executable).with_name("zmqgame-cli")
    words = [program, "demo", "--players", "8", "--seconds", "20", "--json", "--keep", tmp_path / "kept"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) >= NAMED
    assert result["players"] == 8
    assert result["lost"] == result["duplicated"] == result["out_of_order"] == 0
    assert result["events_published"] == result["rows_inserted"] > 0
    for key in (
        "races_finished",
        "unicast_acked",
        "multicast_acked",
        "broadcast_acked",
        "stored_then_delivered",
    ):
        assert result[key] > 0, key
    assert "kill -9 game-1" in done.stdout
    assert "kill -9 hub" in done.stdout
    assert "winners (SQL)" in done.stdout
    assert "\x1b" not in done.stdout
    assert (tmp_path / "kept" / "zmqgame.toml").exists()
    assert list((tmp_path / "kept" / "logs").glob("hub.log"))


def test_a_dropped_batch_is_found(tmp_path):
    result, code = demo(tmp_path, stats="stats_that_drops_a_batch.py")
    assert code == 1
    assert any(reason.startswith("events without a row") for reason in result["reasons"]), result
    assert result["rows_inserted"] < result["events_published"]


def test_a_repeated_batch_is_found(tmp_path):
    result, code = demo(tmp_path, stats="stats_that_repeats_a_batch.py")
    assert code == 1
    assert any(reason.startswith("rows inserted twice") for reason in result["reasons"]), result


def test_a_lost_message_is_found(tmp_path):
    result, code = demo(tmp_path, hub="hub_that_loses_a_message.py")
    assert code == 1
    assert result["lost"] >= 1
    assert any(reason.startswith("lost: ") for reason in result["reasons"]), result


def test_a_demo_that_can_not_start_says_so_as_json_and_keeps_what_it_has(tmp_path):
    program = Path(sys.executable).with_name("zmqgame-cli")
    words = [program, "--set", "game.rules=no.such:Game", "demo", "--players", "4", "--json"]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 1
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["ok"] is False
    assert 'game.rules = "no.such:Game" can\'t be loaded' in result["reasons"][0]
    (kept,) = tmp_path.glob("zmqgame-demo-*")
    assert f"kept in {kept}" in done.stderr
    assert (kept / "logs" / "game-1.log").exists()
