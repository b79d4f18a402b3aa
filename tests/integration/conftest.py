"""The installed tree: wheels, programs, units and folders below a temporary root, made once a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The root of a tree that `make wheels` and deploy/install made."""
    root = tmp_path_factory.mktemp("root")
    environ = {**os.environ, "PYTHON": sys.executable}
    made = subprocess.run(
        ["make", "wheels"], cwd=ROOT, check=False, env=environ, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout + made.stderr
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    assert len(wheels) == 3
    install = [ROOT / "deploy" / "install", "--root", root, *wheels]
    subprocess.run(install, check=True, env=environ, capture_output=True)
    return root
