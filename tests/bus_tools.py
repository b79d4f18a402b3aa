"""Hub and nodes as real processes for tests of the bus: loopback, ephemeral ports, kill -9, deadlines."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from zmqgame_bus.carrier import TRANSPORTS
from zmqgame_bus.messages import Delivery, MessageId
from zmqgame_bus.node import Node

from tests.waiting import DEADLINE_S
from tests.waiting import until as until


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test of nodes over each transport, whatever nodes it makes."""
    defaults = Node.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "transport", request.param)
    return str(request.param)


def _stands_still(pid: int) -> bool:
    states = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return all(state.rpartition(")")[2].split()[0] == "T" for state in states)


class HubProcess:
    """`zmqgame-hub`, that can be killed and started again at the same address."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder = folder
        self.settings = settings
        self.address = "tcp://127.0.0.1:0"
        self.log = folder / "hub.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "HubProcess":
        read_fd, write_fd = os.pipe()
        argv = [sys.executable, "-m", "zmqgame_bus.hub", "--state-dir", str(self.folder)]
        argv += ["--ready-fd", str(write_fd), "--set", f"hub.listen={self.address}"]
        for setting in self.settings:
            argv += ["--set", setting]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, pass_fds=[write_fd], stdout=log, stderr=log)
        os.close(write_fd)
        with os.fdopen(read_fd) as ready:
            line = ready.readline()
        if not line:
            raise AssertionError(f"the hub did not start:\n{self.log.read_text()}")
        self.address = json.loads(line)["ready"]["hub"]
        return self

    def signal(self, number: int) -> None:
        """Send a signal; SIGSTOP returns when every thread stands still."""
        assert self.process is not None
        self.process.send_signal(number)
        end = time.monotonic() + DEADLINE_S
        while number == signal.SIGSTOP and not _stands_still(self.process.pid):
            assert time.monotonic() < end, "the hub does not stop"
            time.sleep(0.001)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def terminate(self) -> int:
        self.signal(signal.SIGTERM)
        assert self.process is not None
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()
        if self.log.exists():
            print(self.log.read_text()[-4_000:])  # shown with a test that fails


class Client:
    """What a game server's client is to the bus: a cursor, and what it handled, in order."""

    def __init__(self) -> None:
        self.login = 0
        self.cursor: dict[int, MessageId] = {}
        self.handled: list[tuple[MessageId, bytes]] = []
        self.loose: list[tuple[MessageId, bytes]] = []

    def handle(self, delivery: Delivery) -> None:
        """Handle once: what is at or below the cursor was handled. Other policies have no cursor."""
        if not delivery.must_deliver:
            self.loose.append((delivery.id, delivery.payload))
            return
        mark = self.cursor.get(delivery.id.node_key)
        if mark is None or delivery.id > mark:
            self.cursor[delivery.id.node_key] = delivery.id
            self.handled.append((delivery.id, delivery.payload))


class Host:
    """A player handler that gives messages to clients and acks what they handled."""

    def __init__(self, node: object, *, ack: bool = True) -> None:
        self.node = node
        self.ack = ack
        self.clients: dict[str, Client] = {}
        self.waiting: list[Delivery] = []
        self.dropped_players: list[str] = []
        node.set_player_handler(self)

    async def attach(self, player: str, client: Client) -> None:
        self.clients[player] = client
        attached = await self.node.attach(player, login=client.login, cursor=client.cursor.values())
        client.login = attached.login
        self.delivered(attached.pending)

    def bound(self, player: str, login: int) -> None:
        self.clients[player].login = login

    def delivered(self, deliveries: list[Delivery]) -> None:
        if not self.ack:
            self.waiting += deliveries
            return
        for delivery in deliveries:
            self.clients[delivery.player].handle(delivery)
            self.node.handled(delivery.player, delivery.id)

    def dropped(self, player: str, why: str) -> None:
        self.dropped_players.append(player)

    def forget(self, player: str, up_to: MessageId) -> None:
        client = self.clients[player]
        mark = client.cursor.get(up_to.node_key)
        if mark is not None and mark <= up_to:
            del client.cursor[up_to.node_key]


@asynccontextmanager
async def node(hub: HubProcess, name: str, **options: object) -> AsyncIterator[Node]:
    """A started node, closed at the end."""
    made = Node(name, hub.address, **options)
    await made.start(DEADLINE_S)
    try:
        yield made
    finally:
        await made.close(0.5)
