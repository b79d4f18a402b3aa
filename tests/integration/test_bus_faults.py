"""The bus when something is wrong: keys, disks, sizes, slow or silent peers. Real processes and sockets."""

import asyncio
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq.utils.z85
from zmqgame_bus import keys
from zmqgame_bus.errors import CannotReachHub, Refused
from zmqgame_bus.keys import KeyPair, NodeKeys
from zmqgame_bus.node import Node

from tests.bus_tools import DEADLINE_S, Client, Host, HubProcess, transport, until  # noqa: F401

pytestmark = pytest.mark.usefixtures("transport")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path, "hub.node_grace_ms=300").start()
    yield hub
    hub.close()


def pair() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(zmq.utils.z85.decode(public), zmq.utils.z85.decode(secret))


async def started(hub: HubProcess, name: str, **options: object) -> Node:
    made = Node(name, hub.address, **options)
    await made.start(DEADLINE_S)
    return made


async def test_curve_admits_known_keys_under_their_names_and_roles(tmp_path: Path) -> None:
    server, game, stranger = pair(), pair(), pair()
    config = tmp_path / "keys"
    config.mkdir()
    (config / "node.key").write_text(
        f'public = "{keys.encode(server.public)}"\nsecret = "{keys.encode(server.secret)}"\n'
    )
    (config / "node.key").chmod(0o600)
    (config / "allowed.keys").write_text(f"{keys.encode(game.public)}  game-*  play,stats\n")
    settings = ["security.curve=true", f"security.key_file={config / 'node.key'}"]
    settings.append(f"security.allowed_file={config / 'allowed.keys'}")
    hub = HubProcess(tmp_path, *settings).start()
    try:
        own = NodeKeys(game.public, game.secret, server.public)
        node = await started(hub, "game-1", keys=own, roles=["play"])
        assert (await node.unicast("nobody", "x")).outcome == "refused"
        await node.close()
        with pytest.raises(Refused):
            await started(hub, "manager", keys=own)
        with pytest.raises(Refused):
            await started(hub, "game-1", keys=own, roles=["manager"])
        for wrong in (
            NodeKeys(stranger.public, stranger.secret, server.public),
            NodeKeys(game.public, game.secret, stranger.public),
            None,
        ):
            lost = Node("game-2", hub.address, keys=wrong)
            with pytest.raises((CannotReachHub, Refused)):
                await lost.start(1.0)
            await lost.close(0)
    finally:
        hub.close()


async def test_a_full_disk_confirms_nothing_and_goes_on_when_there_is_room(hub: HubProcess) -> None:
    game, ops = await started(hub, "game-1"), await started(hub, "ops")
    host, alice = Host(game), Client()
    await host.attach("alice", alice)
    await game.leave_player("alice")
    assert hub.process is not None
    unlimited = resource.prlimit(hub.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(hub.process.pid, resource.RLIMIT_FSIZE, (4_096, unlimited[1]))
    sending = [asyncio.create_task(ops.unicast("alice", bytes(200_000))) for _ in range(5)]
    await until(lambda: "nothing is confirmed as stored" in hub.log.read_text())
    assert not any(task.done() for task in sending)
    assert (await ops.unicast("nobody", "x", timeout_s=0.3)).outcome == "unknown"
    resource.prlimit(hub.process.pid, resource.RLIMIT_FSIZE, unlimited)
    receipts = await asyncio.wait_for(asyncio.gather(*sending), DEADLINE_S)
    assert {receipt.outcome for receipt in receipts} == {"stored"}
    await host.attach("alice", alice)
    await until(lambda: len(alice.handled) == 5)
    await game.close(0.2)
    await ops.close(0.2)


async def test_live_players_go_on_while_the_disk_is_full(hub: HubProcess) -> None:
    game, ops = await started(hub, "game-1"), await started(hub, "ops")
    host, alice = Host(game), Client()
    await host.attach("alice", alice)
    assert (await ops.unicast("alice", "a")).outcome == "delivered"
    assert hub.process is not None
    resource.prlimit(hub.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    receipts = [await asyncio.wait_for(ops.unicast("alice", "b"), DEADLINE_S) for _ in range(20)]
    assert {receipt.outcome for receipt in receipts} == {"delivered"}
    await game.close(0.2)
    await ops.close(0.2)


async def test_the_largest_payload_passes_and_a_larger_one_is_refused_here(hub: HubProcess) -> None:
    game, ops = await started(hub, "game-1"), await started(hub, "ops")
    host, alice = Host(game), Client()
    await host.attach("alice", alice)
    largest = (1 << 20) - (64 << 10)
    receipts = await asyncio.gather(*(ops.unicast("alice", bytes([n]) * largest) for n in range(40)))
    assert {receipt.outcome for receipt in receipts} <= {"delivered", "stored"}
    await until(lambda: len(alice.handled) == 40)
    assert [payload[0] for _, payload in alice.handled] == list(range(40))
    with pytest.raises(ValueError, match=f"{largest + 1} is over the limit of {largest}"):
        await ops.unicast("alice", bytes(largest + 1))
    with pytest.raises(ValueError, match="name"):
        await ops.unicast("bad\nname", b"")
    await game.close(0.2)
    await ops.close(0.2)


async def test_many_messages_at_once_keep_their_order_through_a_full_window(hub: HubProcess) -> None:
    game, ops = await started(hub, "game-1"), await started(hub, "ops")
    host, alice = Host(game), Client()
    await host.attach("alice", alice)
    count = 3_000
    receipts = await asyncio.gather(*(ops.unicast("alice", b"%d " % n + bytes(10_000)) for n in range(count)))
    assert {receipt.outcome for receipt in receipts} <= {"delivered", "stored"}
    await until(lambda: len(alice.handled) == count)
    assert [int(payload.split()[0]) for _, payload in alice.handled if b" " in payload] == list(range(count))
    await game.close(0.2)
    await ops.close(0.2)


async def test_a_silent_hub_is_noticed_and_work_goes_on_when_it_speaks_again(hub: HubProcess) -> None:
    ops = await started(hub, "ops")
    hub.signal(signal.SIGSTOP)
    await until(lambda: not ops.up)
    sending = asyncio.create_task(ops.unicast("nobody", "x"))
    await asyncio.sleep(0.1)
    assert not sending.done()
    hub.signal(signal.SIGCONT)
    assert (await asyncio.wait_for(sending, DEADLINE_S)).outcome == "refused"
    await ops.close(0.2)


async def test_a_node_that_does_not_read_harms_no_other(hub: HubProcess) -> None:
    slow, fast, ops = [await started(hub, name) for name in ("slow", "fast", "ops")]
    stuck, live = Host(slow, ack=False), Host(fast)
    alice, bob = Client(), Client()
    await stuck.attach("alice", alice)
    await live.attach("bob", bob)
    flood = [asyncio.create_task(ops.unicast("alice", bytes(20_000))) for _ in range(600)]
    receipts = [await asyncio.wait_for(ops.unicast("bob", "quick"), DEADLINE_S) for _ in range(50)]
    assert {receipt.outcome for receipt in receipts} == {"delivered"}
    for task in flood:
        task.cancel()
    for node in (slow, fast, ops):
        await node.close(0)
