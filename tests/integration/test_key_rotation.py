"""Keys change while traffic runs: the hub's own, a node's, a revoked one. Real hub, pyzmq nodes, the CLI."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from zmqgame.cli import main
from zmqgame_bus import keys
from zmqgame_bus.config import load
from zmqgame_bus.errors import ZmqgameError
from zmqgame_bus.keys import Keyring, NodeKeys
from zmqgame_bus.node import Node

from tests.bus_tools import DEADLINE_S, Client, Host, HubProcess, transport, until  # noqa: F401


def cli(*words: str, folder: Path) -> None:
    assert main(["keys", *words, "--dir", str(folder)]) == 0


def node_keys(folder: Path, name: str) -> NodeKeys:
    """As a process reads them: again at each connection."""
    file = folder / f"{name}.toml"
    file.write_text(f'[security]\ncurve = true\nkey_file = "{name}.key"\n')
    found = Keyring(load(file, environ={}), {}).node()
    assert found is not None
    return found


class Traffic:
    """One operator that never stops sending to alice; what it sent, and the outcomes."""

    def __init__(self, node: Node) -> None:
        self.node, self.sent, self.outcomes = node, 0, []
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        while True:
            self.sent += 1
            receipt = await self.node.unicast("alice", str(self.sent))
            self.outcomes.append(receipt.outcome)

    async def more(self, count: int = 20) -> None:
        """Wait until so many more have their receipt."""
        wanted = len(self.outcomes) + count
        await until(lambda: len(self.outcomes) >= wanted or self.task.done(), f"{count} more receipts")

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[HubProcess]:
    for name, words in (
        ("hub", []),
        ("game", ["--allow", "game-*"]),
        ("op", ["--allow", "op"]),
        ("other", ["--allow", "other"]),
    ):
        cli("new", name, *words, folder=tmp_path)
    files = [
        f"security.key_file={tmp_path / 'hub.key'}",
        f"security.allowed_file={tmp_path / 'allowed.keys'}",
    ]
    hub = HubProcess(tmp_path, "security.curve=true", *files).start()
    yield hub
    hub.close()


def times_read(hub: HubProcess) -> int:
    return hub.log.read_text().count("keys read again")


async def admitted(hub: HubProcess, name: str, node_keys: NodeKeys, within_s: float = DEADLINE_S) -> bool:
    """Whether a node gets in; its keys are not read again."""
    node = Node(name, hub.address, keys=node_keys)
    try:
        await node.start(timeout_s=within_s)
    except ZmqgameError:
        return False
    finally:
        await node.close()
    return True


async def stays_out(hub: HubProcess, name: str, node_keys: NodeKeys) -> bool:
    """The opposite: who is refused may try again and again, so only time tells."""
    return not await admitted(hub, name, node_keys, within_s=2.0)


def fixed(pair: keys.KeyPair, server: bytes) -> NodeKeys:
    return NodeKeys(pair.public, pair.secret, server)


@pytest.mark.usefixtures("transport")
async def test_keys_are_rotated_step_by_step_while_messages_flow(hub: HubProcess) -> None:
    folder, alice = hub.folder, Client()
    other = keys.read_pair(folder / "other.key")
    old_hub = keys.read_public(folder / "hub.pub")
    old_game = keys.read_pair(folder / "game.key")
    async with Node("op", hub.address, keys=node_keys(folder, "op")) as operator:
        game = Node("game-1", hub.address, keys=node_keys(folder, "game"), state_dir=folder / "game-1")
        await game.start(timeout_s=DEADLINE_S)
        await Host(game).attach("alice", alice)
        traffic = Traffic(operator)
        await traffic.more()

        # The hub's key, first step: it is known by both.
        cli("rotate", "hub", folder=folder)
        await until(lambda: times_read(hub) >= 1, "the hub reads its keys")
        new_hub = keys.read_public(folder / "hub.pub")
        assert new_hub != old_hub
        assert await admitted(hub, "other", fixed(other, old_hub))
        assert await admitted(hub, "other", fixed(other, new_hub))
        await traffic.more()

        # A node's key, first step: the running node has the old one, a new process takes the new one.
        cli("rotate", "game", folder=folder)
        await until(lambda: times_read(hub) >= 2, "the hub reads the list")
        await traffic.more()
        await game.close()
        await traffic.more()
        game = Node("game-1", hub.address, keys=node_keys(folder, "game"), state_dir=folder / "game-1")
        await game.start(timeout_s=DEADLINE_S)
        await Host(game).attach("alice", alice)
        await traffic.more()

        # All nodes come back to a hub that was killed: by the new key, that is in hub.pub.
        hub.kill()
        hub.start()
        await traffic.more()

        # Second steps: the old keys are nothing any more, what runs goes on.
        cli("rotate", "hub", "--finish", folder=folder)
        cli("rotate", "game", "--finish", folder=folder)
        await until(lambda: times_read(hub) >= 3, "the hub reads both")
        await traffic.more()
        assert await stays_out(hub, "other", fixed(other, old_hub))
        assert await admitted(hub, "other", fixed(other, new_hub))
        assert await stays_out(hub, "game-2", fixed(old_game, new_hub))
        # A node that trusts two keys tries both.
        assert await admitted(hub, "other", NodeKeys(other.public, other.secret, old_hub, (new_hub,)))
        await traffic.more()
        await traffic.stop()

        count = traffic.sent - 1 if len(traffic.outcomes) < traffic.sent else traffic.sent
        await until(lambda: len(alice.handled) >= count, "everything is handled")
        got = [int(payload) for _, payload in alice.handled]
        assert got == list(range(1, len(got) + 1))
        assert set(traffic.outcomes) <= {"delivered", "stored"}
        await game.close()


@pytest.mark.parametrize("transport", ["pyzmq", "native", "native-thread"])
async def test_a_node_that_runs_takes_the_keys_of_the_hub_as_they_are_by_now(
    hub: HubProcess,
    transport: str,  # noqa: F811
) -> None:
    folder = hub.folder
    async with Node("op", hub.address, keys=node_keys(folder, "op"), transport=transport) as node:
        await node.query("status")
        cli("rotate", "hub", folder=folder)
        cli("rotate", "hub", "--finish", folder=folder)
        hub.kill()
        await until(lambda: not node.up, "the link is lost")
        hub.start()
        await until(lambda: node.up, "it is back, by the new key")
        await node.query("status")
    # One who has both keys, the older one first, tries both.
    op, new_hub = keys.read_pair(folder / "op.key"), keys.read_public(folder / "hub.pub")
    older = keys.fresh_pair().public
    both = NodeKeys(op.public, op.secret, older, (new_hub,))
    async with Node("op", hub.address, keys=both, transport=transport) as node:
        await node.query("status")


@pytest.mark.usefixtures("transport")
async def test_a_revoked_key_is_out_at_once_and_a_broken_list_changes_nothing(hub: HubProcess) -> None:
    folder = hub.folder
    async with (
        Node("op", hub.address, keys=node_keys(folder, "op")) as operator,
        Node("other", hub.address, keys=node_keys(folder, "other")) as other,
    ):
        cli("revoke", "op", folder=folder)
        with pytest.raises(ZmqgameError, match="not allowed"):
            await asyncio.wait_for(operator.ended(), DEADLINE_S)
        assert other.up
        text = (folder / "allowed.keys").read_text()
        (folder / "allowed.keys").write_text(text + "half a line\n")
        await until(lambda: "the keys stay as they were" in hub.log.read_text(), "the error is logged")
        assert await stays_out(hub, "op", node_keys(folder, "op"))
        (folder / "allowed.keys").write_text(text)
        cli("allow", "op", "op", folder=folder)
        hub.signal(signal.SIGHUP)
        await until(lambda: "keys read again" in hub.log.read_text().rpartition("stay as")[2], "read again")
        assert await admitted(hub, "op", node_keys(folder, "op"))
        # The last key is revoked: that lets nobody in, instead of everybody.
        for name in ("op", "game", "other"):
            cli("revoke", name, folder=folder)
        with pytest.raises(ZmqgameError, match="not allowed"):
            await asyncio.wait_for(other.ended(), DEADLINE_S)
        assert await stays_out(hub, "other", node_keys(folder, "other"))


async def test_no_secret_is_shown_anywhere(hub: HubProcess) -> None:
    folder = hub.folder
    cli("rotate", "hub", folder=folder)
    await until(lambda: times_read(hub) >= 1, "the hub reads its keys")
    assert hub.process is not None
    process = Path(f"/proc/{hub.process.pid}")
    async with Node("op", hub.address, keys=node_keys(folder, "op")) as operator:
        status = await operator.query("status")
        assert await stays_out(hub, "nobody", node_keys(folder, "other"))
        shown = [hub.log.read_bytes(), str(status).encode(), repr(operator.__dict__).encode()]
        shown += [(process / name).read_bytes() for name in ("cmdline", "environ")]
    secrets = [
        pair.secret
        for name in ("hub", "game", "op", "other")
        for pair in keys.read_pairs(folder / f"{name}.key")
    ]
    assert len(secrets) == 5
    for secret in secrets:
        for text in (keys.encode(secret).encode(), secret.hex().encode(), secret, repr(secret).encode()):
            assert not any(text in each for each in shown)
