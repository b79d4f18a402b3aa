"""Short slices of `python -m tests.load`: nothing is left behind. Speed is not tested here."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from tests.load._attacks import judge
from tests.load._many import churned, held

ROOT = Path(__file__).resolve().parents[2]


def load(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.load", *arguments]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2_000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("transport", ["tcp", "websocket", "tls"])
def test_held_connections_leave_nothing_behind(transport: str) -> None:
    found = load("hold", "--connections", "400", "--quiet", "0", "--transport", transport)
    assert found["connections"] == 400
    assert found["connections_left"] == 0
    assert found["buffer_bytes_left"] == 0
    assert found["descriptors_left"] == 0


def test_opening_and_closing_leaves_nothing_behind() -> None:
    found = load("churn", "--rate", "150", "--seconds", "4", "--least", "0")
    assert found["opened"] == found["closed"] == 600
    assert found["connections_left"] == found["buffer_bytes_left"] == found["descriptors_left"] == 0


@pytest.mark.parametrize(
    "attack",
    [("slowloris", "--piled", "50"), ("handshakes", "--piled", "50"), ("deaf",)],
    ids=lambda it: it[0],
)
def test_clients_that_behave_are_served_beside_those_that_do_not(attack: tuple[str, ...]) -> None:
    found = load(*attack, "--rounds", "1", "--seconds", "2", "--most", "1e9")
    assert found["closed"] > 0, "the edge has thrown nobody out"
    assert found["shown"] >= found["shown_least"] > 0, "attackers did not come together"
    assert found["attacks_a_second"] > 0
    assert found["connections_left"] == found["buffer_bytes_left"] == found["descriptors_left"] == 0


@pytest.mark.parametrize("rates", [(), ("--packets_per_s", "0", "--bytes_per_s", "0")], ids=["rates", "none"])
def test_ticks_go_on_in_a_flood(rates: tuple[str, ...]) -> None:
    found = load("flood", "--seconds", "2", "--most", "1", *rates)
    assert found["flooded_ticks"] > 0
    assert found["turns_full"] > 0, "it was no flood"
    assert found["after_bye"] > 0
    assert (found["throttled"] > 0) == (not rates)


def test_a_goal_that_is_not_reached_is_a_failure() -> None:
    command = [
        sys.executable,
        "-m",
        "tests.load",
        "slowloris",
        "--rounds",
        "1",
        "--seconds",
        "1",
        "--piled",
        "50",
        "--most=-1",
    ]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1, done.stderr[-2_000:]
    assert "the goal is -1.0" in done.stderr


def test_what_is_left_or_missing_is_a_failure() -> None:
    options = Namespace(connections=10_000, transport="tcp", rate=5, seconds=2.0, least=0.95, most=1.2)
    clean = {"connections_left": 0, "buffer_bytes_left": 0, "descriptors_left": 0}
    all_held = {"connections": 10_000, "bytes_each": 2_048, **clean}
    assert held(options, all_held) == []
    for name, value in {
        "connections": 9_999,
        "bytes_each": 2_049,
        "connections_left": 1,
        "descriptors_left": 1,
    }.items():
        assert len(held(options, {**all_held, name: value})) == 1, name
    all_done = {"opened": 10, "closed": 10, "a_second": 5, "own_bytes_grown": 0, **clean}
    assert churned(options, all_done) == []
    for name, value in {"opened": 9, "closed": 9, "a_second": 4, "own_bytes_grown": 9 << 20}.items():
        assert len(churned(options, {**all_done, name: value})) == 1, name
    attack = {"attacks_a_second": 9, "accepted": 9, "closed": 1, "shown": 5, "shown_least": 5, "ratio": 1.2}
    assert judge(options, {**attack, **clean}) == []
    for name, value in {
        "attacks_a_second": 0,
        "closed": 0,
        "shown": 4,
        "ratio": 1.21,
        "descriptors_left": 1,
    }.items():
        assert len(judge(options, {**attack, **clean, name: value})) == 1, name
