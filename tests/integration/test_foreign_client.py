"""PROTOCOL.md is enough to write a client: foreign_client.py imports nothing of ours."""

import ast
import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from zmqgame_bus.node import Node

from tests.bus_tools import Client, Host, HubProcess, until

SCRIPT = Path(__file__).with_name("foreign_client.py")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path).start()
    yield hub
    hub.close()


def test_the_foreign_client_imports_nothing_of_ours() -> None:
    names = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    assert names == {"json", "struct", "sys", "time", "zmq"}


async def test_a_client_from_the_protocol_alone_logs_in_sends_and_receives(hub: HubProcess) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(SCRIPT), hub.address, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, output
    done = json.loads(output)
    assert done["unknown"][0] == "refused"
    assert done["live"] == ["live", ["delivered", ""]]
    assert done["offline"][0] == "stored"
    assert done["stored"] == "kept"


async def test_our_node_and_the_foreign_client_understand_each_other(hub: HubProcess) -> None:
    async with Node("game-1", hub.address) as game:
        host, zoe = Host(game), Client()
        await host.attach("zoe", zoe)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", str(SCRIPT), hub.address, stdout=asyncio.subprocess.PIPE
        )
        await until(lambda: host.dropped_players == ["zoe"], "the foreign client takes the player")
        assert (await process.wait()) == 0
        receipt = await game.unicast("zoe", "back")
        assert receipt.outcome == "stored"
        await host.attach("zoe", zoe)
        await until(lambda: zoe.handled)
        assert [payload for _, payload in zoe.handled] == [b"back"]
