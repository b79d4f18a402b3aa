"""The installed tree: wheels, programs, units and folders below a temporary root, made once a run."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The root of a tree that `make wheels` and deploy/install made. Workers share it; the first makes it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    root, done = folder / "installed", folder / "installed.done"
    with (folder / "installed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            install(root)
            done.touch()
    return root


def install(root):
    environ = {**os.environ, "PYTHON": sys.executable}
    made = subprocess.run(
        ["make", "wheels"], cwd=ROOT, check=False, env=environ, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout + made.stderr
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    assert len(wheels) == 3
    command = [ROOT / "deploy" / "install", "--root", root, *wheels]
    subprocess.run(command, check=True, env=environ, capture_output=True)
