"""Short slices of `python -m tests.load`: nothing is left behind. Speed is not tested here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.load", *arguments]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2_000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_held_connections_leave_nothing_behind(transport: str) -> None:
    found = load("hold", "--connections", "400", "--transport", transport)
    assert found["connections"] == 400
    assert found["connections_left"] == 0
    assert found["buffer_bytes_left"] == 0
    assert found["descriptors_left"] == 0


def test_opening_and_closing_leaves_nothing_behind() -> None:
    found = load("churn", "--rate", "150", "--seconds", "4")
    assert found["opened"] == found["closed"] == 600
    assert found["connections_left"] == found["buffer_bytes_left"] == found["descriptors_left"] == 0


@pytest.mark.parametrize("attack", ["slowloris", "handshakes", "deaf"])
def test_clients_that_behave_are_served_beside_those_that_do_not(attack: str) -> None:
    found = load(attack, "--rounds", "1", "--seconds", "2")
    assert found["p99_attacked_us"] > 0
    if attack == "slowloris":
        assert found["closed_handshake"] > 0
