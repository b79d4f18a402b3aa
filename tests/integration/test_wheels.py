"""The three wheels in a virtual environment with nothing else of ours."""

import os
import signal
import subprocess

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(root, *words, cwd, **environ):
    program = root / "opt" / "zmqgame" / "bin" / words[0]
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    return subprocess.run(
        [program, *words[1:]],
        cwd=cwd,
        env={**clean, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_they_install_and_show_their_version(installed, tmp_path):
    done = run(installed, "zmqgame-cli", "--version", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("zmqgame-cli, version 0.")


def test_nothing_comes_from_the_source_tree(installed, tmp_path):
    modules = "zmqgame, zmqgame_bus, zmqgame_native"
    code = f"import {modules}; print(*(module.__file__ for module in ({modules})))"
    done = run(installed, "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(str(installed) in path for path in done.stdout.split())


def test_typing_information_is_installed(installed):
    site = next((installed / "opt/zmqgame/lib").glob("python*/site-packages"))
    for package in ("zmqgame", "zmqgame_bus", "zmqgame_native"):
        assert (site / package / "py.typed").exists(), package
    assert list(site.glob("zmqgame_native/*.pyi"))


def test_every_table_is_known(installed, tmp_path):
    done = run(installed, "zmqgame-cli", "config", "docs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for table in ("bus", "hub", "game", "manager", "stats", "events", "security"):
        assert f"## [{table}]" in done.stdout


def test_up_runs_from_wheels(installed, tmp_path):
    """Every service starts, is ready and ends in order."""
    words = ["zmqgame-cli", "up", "--dir", tmp_path / "up", "--games", "1", "--free-ports"]
    program = installed / "opt" / "zmqgame" / "bin" / words[0]
    process = subprocess.Popen([program, *words[1:]], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("all up"):
            process.send_signal(signal.SIGINT)
    assert process.wait(120) == 0, lines
    assert [line.split()[0] for line in lines[:4]] == ["hub", "stats", "manager", "game-1"]
