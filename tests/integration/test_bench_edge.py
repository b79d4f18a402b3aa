"""`bench edge`: real servers and a real load, for a moment."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest
from zmqgame_native import Edge, echo_load, echo_natively, udp_flood


def run(*arguments: str) -> str:
    program = Path(sys.executable).with_name("zmqgame-cli")
    command = [str(program), "bench", "edge", "--seconds", "0.5", "--connections", "20"]
    done = subprocess.run([*command, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


ECHOES = ("native", "raw", "seen", "answered", "websocket", "udp")
PEERS = {"raw": ("asyncio", "uvloop"), "seen": ("asyncio", "uvloop"), "answered": ("asyncio", "uvloop")}
PEERS["websocket"] = ("picows", "websockets")


def test_every_mode_and_a_peer_are_measured() -> None:
    peers = [f"--peer={peer}" for peer in ("asyncio", "uvloop", "picows", "websockets")]
    rows = json.loads(run(*peers, "--depth", "4", "--json"))
    echoes = [row for row in rows if row["p50_ms"] is not None]
    assert [(row["server"], row["mode"]) for row in echoes] == [
        (server, mode) for mode in ECHOES for server in ("edge", *PEERS.get(mode, ()))
    ]
    for row in echoes:
        assert row["messages"] > 0
        assert row["per_s"] == pytest.approx(row["messages"] / row["seconds"], rel=0.01)
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["p99.9_ms"] <= row["max_ms"]
    netcode, decoder, *memory = (row for row in rows if row["p50_ms"] is None)
    for row in (netcode, decoder):
        assert row["messages"] > 0
        assert row["per_s"] > 0
        assert row["beside_per_s"] > 0
    transports = ["tcp", "websocket", *(["tls"] if which("openssl") else [])]
    assert [row["beside"] for row in memory] == transports
    assert all(isinstance(row["memory_bytes"], int) for row in memory)


def test_csv_and_text() -> None:
    (row,) = csv.DictReader(io.StringIO(run("--mode", "seen", "--csv")))
    assert (row["mode"], row["depth"], row["size_bytes"]) == ("seen", "16", "64")
    assert "messages/s" in run("--mode", "websocket", "--depth", "1", "--inline")


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
    for few in ({"connections": 0}, {"depth": 0}, {"message_bytes": 0}):
        with pytest.raises(OSError, match="must be"):
            echo_load("127.0.0.1:9", wire="udp", **few)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="must be"):
        udp_flood("127.0.0.1:9", packet_bytes=5)


def test_a_native_echo_takes_over_and_datagrams_come_back() -> None:
    edge = Edge(loops=2)
    stream, datagrams = edge.listen_tcp("127.0.0.1:0"), edge.listen_udp_plain("127.0.0.1:0")
    echo_natively(edge)
    for address, wire in ((stream, "packets"), (datagrams, "udp")):
        found = echo_load(address, wire=wire, connections=4, depth=2, warm_up_s=0.0, duration_s=0.2)
        assert found["messages"] > 0
    assert len(edge.receive()) == 0
    edge.stop()
