"""`bench edge`: real servers and a real load, for a moment."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from zmqgame_native import Edge, echo_load


def run(*arguments: str) -> str:
    program = Path(sys.executable).with_name("zmqgame-cli")
    command = [str(program), "bench", "edge", "--seconds", "0.5", "--connections", "20"]
    return subprocess.run([*command, *arguments], check=True, capture_output=True, text=True).stdout


def test_every_mode_and_a_peer_are_measured() -> None:
    rows = json.loads(run("--peer", "asyncio", "--peer", "uvloop", "--depth", "4", "--json"))
    assert [(row["server"], row["mode"]) for row in rows] == [
        ("edge", "raw"),
        ("edge", "packets"),
        ("edge", "answers"),
        ("edge", "websocket"),
        ("asyncio", "raw"),
        ("uvloop", "raw"),
    ]
    for row in rows:
        assert row["messages"] > 0
        assert row["per_s"] == pytest.approx(row["messages"] / row["seconds"], rel=0.01)
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["p99.9_ms"] <= row["max_ms"]


def test_csv_and_text() -> None:
    (row,) = csv.DictReader(io.StringIO(run("--mode", "packets", "--csv")))
    assert (row["mode"], row["depth"], row["size_bytes"]) == ("packets", "16", "64")
    assert "messages/s" in run("--mode", "websocket", "--depth", "1")


def test_the_load_says_what_is_wrong() -> None:
    edge = Edge()
    address = edge.listen_tcp("127.0.0.1:0")
    for wrong in (
        {"wire": "x"},
        {"depth": 0},
        {"connections": 0},
        {"message_bytes": 5},
        {"warm_up_s": -1.0},
    ):
        with pytest.raises((ValueError, OSError), match="must be"):
            echo_load(address, **wrong)  # type: ignore[arg-type]
    edge.stop()
    with pytest.raises(OSError, match="refused"):
        echo_load(address, connections=1)
