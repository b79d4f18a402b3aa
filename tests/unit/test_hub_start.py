"""What a hub's start must not wait for: each of these takes as long to import as the hub itself."""

import subprocess
import sys

import pytest

LATER = (
    "zmq",
    "importlib.metadata",
    "prometheus_client",
    "pymongo",
    "zmqgame_bus.events",
    "zmqgame_bus.node",
    "tomllib",
)
SHOW = """
import sys
import zmqgame_bus.hub
from zmqgame_bus.config import load
load(flags={"hub.listen": "tcp://127.0.0.1:0"}, environ={}, others=False)
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def imported():
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("module", LATER)
def test_a_hub_starts_without(imported, module):
    assert "zmqgame_bus.mailbox" in imported
    assert module not in imported
