"""Kills at random moments of hub and game servers, and what every receipt has promised holds at the end."""

import asyncio
import random
from collections import defaultdict
from pathlib import Path

import pytest
from zmqgame_bus.messages import Receipt
from zmqgame_bus.node import Node

from tests.bus_tools import DEADLINE_S, Client, Host, HubProcess, until

PLAYERS = [f"p{number}" for number in range(6)]
PER_SENDER = 150


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_receipt_holds_over_kills_and_moves(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    hub = HubProcess(tmp_path, "mailbox.durability=process-crash", "hub.node_grace_ms=200").start()
    clients = {player: Client() for player in PLAYERS}
    receipts: dict[str, list[Receipt]] = defaultdict(list)
    senders = [Node(f"ops-{number}", hub.address) for number in range(2)]
    games = [Node(f"game-{number}", hub.address) for number in range(2)]
    for node in (*senders, *games):
        await node.start(DEADLINE_S)
    hosts = [Host(game) for game in games]
    for player in PLAYERS:
        await hosts[0].attach(player, clients[player])

    async def send(sender: Node, player: str) -> None:
        for number in range(PER_SENDER // len(PLAYERS)):
            receipts[player].append(await sender.unicast(player, f"{sender.name}/{number}"))
            await asyncio.sleep(chance.random() * 0.02)

    sending = [asyncio.ensure_future(send(sender, player)) for sender in senders for player in PLAYERS]
    for turn in range(14):
        await asyncio.sleep(chance.random() * 0.15)
        player = chance.choice(PLAYERS)
        if turn % 4 == 0:
            hub.kill()
            hub.start()
        elif chance.random() < 0.3:
            await asyncio.wait_for(
                asyncio.gather(*(host.node.leave_player(player) for host in hosts)), timeout=DEADLINE_S
            )
        else:
            await asyncio.wait_for(chance.choice(hosts).attach(player, clients[player]), DEADLINE_S)
    await asyncio.wait_for(asyncio.gather(*sending), DEADLINE_S * 2)
    for player in PLAYERS:
        await asyncio.wait_for(hosts[1].attach(player, clients[player]), DEADLINE_S)
    expected = PER_SENDER // len(PLAYERS) * len(senders)
    await until(lambda: all(len(client.handled) >= expected for client in clients.values()), "all handled")
    for player, client in clients.items():
        handled = [id for id, _ in client.handled]
        assert len(set(handled)) == len(handled) == expected
        assert {receipt.outcome for receipt in receipts[player]} <= {"delivered", "stored"}
        assert {receipt.id for receipt in receipts[player]} == set(handled)
        for sender in senders:
            mine = [id.seq for id in handled if id.node_key == sender.key]
            assert mine == sorted(mine)
    for node in (*senders, *games):
        await node.close(0.5)
    assert await asyncio.to_thread(hub.terminate) == 0
