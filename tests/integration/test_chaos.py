"""A slice of `make chaos`: some cycles on real processes, and that the checker bites."""

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SEED = os.environ.get("CHAOS_SEED") or "1"
"""CHAOS_SEED gives another; `make chaos` tries many."""

pytestmark = pytest.mark.slow


def chaos(folder, *flags):
    """Run it; the exit code and the last line."""
    command = [sys.executable, "-m", "tests.chaos", "--folder", str(folder), "--seed", SEED, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    print(done.stdout)
    assert done.stdout, done.stderr
    return done.returncode, orjson.loads(done.stdout.splitlines()[-1])


def test_a_few_cycles_lose_double_and_reorder_nothing(tmp_path):
    code, result = chaos(tmp_path, "--cycles", "8", "--rest-s", "90")
    assert code == 0
    assert result["acked"] > 50
    assert [result[name] for name in ("cycles", "lost", "duplicated", "out_of_order")] == [8, 0, 0, 0]
    code, result = chaos(tmp_path, "--cycles", "9", "--rest-s", "90", "--resume", str(tmp_path))
    assert (code, result["cycles"]) == (0, 9)


def test_a_hub_that_loses_one_message_is_caught(tmp_path):
    hub = str(ROOT / "tests/faults/hub_that_loses_a_message.py")
    code, result = chaos(tmp_path, "--cycles", "5", "--hub", hub, "--only", "players_leave", "--rest-s", "8")
    assert code == 1
    assert result["lost"] == 1
