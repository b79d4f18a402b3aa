"""`zmqgame-cli mailbox` through a running hub, with both stores."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from zmqgame_bus.node import Node

from tests.bus_tools import DEADLINE_S, Client, Host, HubProcess, until

CLI = str(Path(sys.executable).with_name("zmqgame-cli"))


@pytest.fixture(params=["sqlite", "mongodb"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HubProcess]:
    mongo = request.param == "mongodb"
    url = request.getfixturevalue("mongod").url() if mongo else "sqlite:mailbox.db"
    hub = HubProcess(tmp_path, f"mailbox.url={url}", "hub.node_grace_ms=300").start()
    hub.url = url if mongo else f"sqlite:{tmp_path}/mailbox.db"  # type: ignore[attr-defined]
    yield hub
    hub.close()


async def cli(hub: HubProcess, *words: str) -> tuple[int, str, str]:
    environ = {**os.environ, "ZMQGAME_CLI_LOCKS": str(hub.folder / "locks")}
    environ["ZMQGAME_CLI_STATE"] = str(hub.folder / "state")
    process = await asyncio.create_subprocess_exec(
        *(CLI, "--hub", hub.address, "mailbox", *words), stdout=-1, stderr=-1, stdin=-3, env=environ
    )
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_an_operator_sees_and_clears_what_waits(hub: HubProcess) -> None:
    game, ops = Node("game-1", hub.address), Node("ops", hub.address)
    for node in (game, ops):
        await node.start(DEADLINE_S)
    host, alice = Host(game), Client()
    await host.attach("alice", alice)
    await game.leave_player("alice")
    for text in ("one", "two", "three"):
        assert (await ops.unicast("alice", text)).outcome == "stored"
    code, out, err = await cli(hub, "list", "--json")
    assert code == 0, err
    [entry] = json.loads(out)
    assert (entry["player"], entry["messages"], entry["bytes"]) == ("alice", 3, 11)
    code, out, err = await cli(hub, "show", "alice", "--payload", "--json")
    assert [row["payload"] for row in json.loads(out)] == ["one", "two", "three"]
    second = json.loads(out)[1]["row"]
    code, _, err = await cli(hub, "purge", "alice")
    assert code == 130  # nobody there to say yes
    code, out, err = await cli(hub, "purge", "alice", "--up-to", str(second), "--yes")
    assert (code, out) == (0, "purged 2 messages of alice\n"), err
    await until(lambda: "mailbox purged by an operator" in hub.log.read_text())
    # The store belongs to the hub: nobody else may open it to change it.
    code, out, err = await cli(hub, "purge", "alice", "--yes", "--url", hub.url)  # type: ignore[attr-defined]
    assert code == 1
    assert "held by" in err
    await host.attach("alice", alice)
    await until(lambda: len(alice.handled) == 1)
    assert alice.handled[0][1] == b"three"
    await game.close(0.2)
    await ops.close(0.2)
