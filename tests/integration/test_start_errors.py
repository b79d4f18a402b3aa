"""A machine that is not ready: each service says what is in its way, what to do, ends with exit code 3."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from zmqgame_bus.keys import new_secret

PROGRAMS = Path(sys.executable).parent


def start(program, tmp_path, *words):
    command = [PROGRAMS / program, "--state-dir", tmp_path / "state", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)


@pytest.fixture
def taken():
    """A port that this process holds, TCP and UDP."""
    for _ in range(20):
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            port = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:  # somebody else has this number for UDP
                continue
            yield port
            return
    raise AssertionError("no number is free for both")


@pytest.mark.parametrize(
    ("program", "key", "form"),
    [
        ("zmqgame-hub", "hub.listen", "tcp://127.0.0.1:{}"),
        ("zmqgame-stats", "stats.listen", "tcp://127.0.0.1:{}"),
        ("zmqgame-game", "game.listen", "127.0.0.1:{}"),
        ("zmqgame-game", "game.udp", "127.0.0.1:{}"),
    ],
)
def test_a_port_in_use(program, key, form, taken, tmp_path):
    for secret in ("token.secret", "netcode.key"):
        new_secret(tmp_path / secret)
    words = [f"--set={key}={form.format(taken)}"]
    if program == "zmqgame-game" and key != "game.listen":
        words.append("--set=game.listen=127.0.0.1:0")
    done = start(program, tmp_path, *words)
    assert done.returncode == 3, done.stderr
    assert f"port {taken} on 127.0.0.1 is in use by another process (pid {os.getpid()}, " in done.stderr
    assert f"--set {key}=" in done.stderr


@pytest.mark.parametrize("program", ["zmqgame-hub", "zmqgame-stats", "zmqgame-game", "zmqgame-manager"])
def test_a_folder_that_is_none(program, tmp_path):
    (tmp_path / "state").write_text("")
    done = start(program, tmp_path)
    assert done.returncode == 3
    assert "is not a folder" in done.stderr
    assert "--state-dir" in done.stderr


@pytest.mark.may_skip("mounting is a right that containers seldom have")
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting is not permitted")
    try:
        done = start("zmqgame-hub", tmp_path, "--state-dir", disk / "state")
    finally:
        subprocess.run(["umount", disk], check=True)
    assert done.returncode == 3
    assert "no space left to write" in done.stderr
