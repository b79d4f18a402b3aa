"""Scenarios of BUS.md section 12 that real processes show best: each is named as there."""

import asyncio
import os
import resource
import signal
import sys
from pathlib import Path

import pytest
from zmqgame_bus.node import Node

from tests.bus_tools import DEADLINE_S, Client, Host, HubProcess, until
from tests.support.proxy import DOWN, Route


@pytest.fixture
def hub(tmp_path):
    # Long enough for nodes to come back to a new hub on a slow machine.
    started = HubProcess(tmp_path, "hub.node_grace_ms=300", "hub.hub_grace_ms=3000").start()
    yield started
    started.close()


async def node(name, address):
    made = Node(name, address)
    await made.start(DEADLINE_S)
    return made


async def close(*nodes):
    for each in nodes:
        await each.close(0.2)


def port_of(hub):
    return int(hub.address.rsplit(":", 1)[1])


def texts(client):
    return [payload.decode() for _, payload in client.handled]


async def test_resend_after_hub_kill_is_handled_once(hub):
    """[26] m1 is handled and acked, the hub killed before its receipt is through; the resend is acked."""
    route = await Route("sender", ("127.0.0.1", port_of(hub))).start()
    game, sender = await node("game", hub.address), await node("sender", route.endpoint)
    alice = Client()
    await Host(game).attach("alice", alice)
    route.stall(DOWN)
    sending = asyncio.ensure_future(sender.unicast("alice", "m1"))
    await until(lambda: len(alice.handled) == 1, "m1 is handled")
    await asyncio.sleep(0.05)  # its ack reaches the hub, mostly; the receipt stays on the way
    assert not sending.done()
    hub.kill()
    route.cut()
    route.mend()
    await asyncio.to_thread(hub.start)
    receipt = await asyncio.wait_for(sending, DEADLINE_S)
    assert receipt.outcome == "delivered"
    assert (await sender.unicast("alice", "m2")).outcome == "delivered"
    assert texts(alice) == ["m1", "m2"]
    await close(sender, game)
    await route.close()


async def test_slow_store_holds_no_live_player(hub):
    """[38] The store is away: live players go on, others wait without a receipt; then all, in order."""
    game, ops = await node("game", hub.address), await node("ops", hub.address)
    host, alice, bob = Host(game), Client(), Client()
    await host.attach("alice", alice)
    await host.attach("bob", bob)
    await game.leave_player("bob")
    unlimited = resource.prlimit(hub.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(hub.process.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
    held = [asyncio.ensure_future(ops.unicast("bob", str(number))) for number in range(600)]
    live = [await asyncio.wait_for(ops.unicast("alice", "x"), DEADLINE_S) for _ in range(50)]
    assert {receipt.outcome for receipt in live} == {"delivered"}
    assert not any(task.done() for task in held)
    resource.prlimit(hub.process.pid, resource.RLIMIT_FSIZE, unlimited)
    receipts = await asyncio.wait_for(asyncio.gather(*held), DEADLINE_S)
    assert {receipt.outcome for receipt in receipts} == {"stored"}
    await host.attach("bob", bob)
    await until(lambda: len(bob.handled) == 600, "all that was stored")
    assert texts(bob) == [str(number) for number in range(600)]
    await close(ops, game)


async def test_two_operators_send_at_once(hub, tmp_path):
    """[4a] Short-lived senders of one machine don't replace each other."""
    game = await node("game", hub.address)
    alice = Client()
    await Host(game).attach("alice", alice)
    command = [
        Path(sys.executable).with_name("zmqgame-cli"),
        "--hub",
        hub.address,
        "send",
        "--player",
        "alice",
    ]
    home = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    operators = [
        await asyncio.create_subprocess_exec(
            *command, f"operator {number}", env=home, stdout=-1, stderr=-2, cwd=tmp_path
        )
        for number in range(4)
    ]
    said = await asyncio.wait_for(asyncio.gather(*(each.communicate() for each in operators)), 120)
    assert [each.returncode for each in operators] == [0] * 4, said
    assert sorted(texts(alice)) == [f"operator {number}" for number in range(4)]
    await close(game)


async def test_one_node_never_comes_back(hub):
    """[4b] The hold after a hub's start ends, and what is for the lost node's players is stored."""
    lost, game, ops = [await node(name, hub.address) for name in ("lost", "game", "ops")]
    alice, bob = Client(), Client()
    await Host(lost).attach("alice", alice)
    await Host(game).attach("bob", bob)
    # A player is known once its first login was committed [4c]: it was, when what came behind it was.
    await lost.join("team", "alice", durable=True)
    hub.kill()
    await lost.close(0)
    await asyncio.to_thread(hub.start)
    assert (await asyncio.wait_for(ops.unicast("bob", "x"), DEADLINE_S)).outcome == "delivered"
    assert (await asyncio.wait_for(ops.unicast("alice", "y"), DEADLINE_S)).outcome == "stored"
    host = Host(game)
    host.clients["bob"] = bob
    await host.attach("alice", alice)
    await until(lambda: texts(alice) == ["y"], "what was stored")
    await close(ops, game)


async def test_stopped_hub_keeps_the_lock(hub, tmp_path: Path):
    """[23] A stopped hub keeps the mailbox: the next one waits, says who holds it, and starts then."""
    game, ops = await node("game", hub.address), await node("ops", hub.address)
    host, alice = Host(game), Client()
    await host.attach("alice", alice)
    await game.leave_player("alice")
    sending = [asyncio.ensure_future(ops.unicast("alice", str(number))) for number in range(400)]
    await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
    hub.signal(signal.SIGSTOP)  # in the middle of its commits
    old = hub.process.pid
    second = HubProcess(tmp_path, *hub.settings)
    second.address, second.log = hub.address, tmp_path / "second.log"
    starting = asyncio.ensure_future(asyncio.to_thread(second.start))
    try:
        await until(lambda: second.log.exists() and "is held by" in second.log.read_text(), "it says who")
        assert f"is held by pid {old} " in second.log.read_text()
        assert not starting.done()
        hub.kill()
        await asyncio.wait_for(starting, DEADLINE_S)
        receipts = await asyncio.wait_for(asyncio.gather(*sending), DEADLINE_S)
        assert {receipt.outcome for receipt in receipts} == {"stored"}
        await host.attach("alice", alice)
        await until(lambda: len(alice.handled) == 400, "all of them")
        assert texts(alice) == [str(number) for number in range(400)]
        await close(ops, game)
    finally:
        hub.close()
        await asyncio.wait([starting], timeout=DEADLINE_S)
        second.close()
