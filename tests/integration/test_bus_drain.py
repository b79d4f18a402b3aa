"""SIGTERM for a hub under load: what it took has its receipt, nodes hear error 10, the next hub goes on."""

import asyncio
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from zmqgame_bus.messages import Receipt
from zmqgame_bus.node import Node

from tests.bus_tools import DEADLINE_S, Client, Host, HubProcess, transport, until  # noqa: F401
from tests.integration.foreign_client import ERROR, PING, RECEIPT, SEND, TEXT, Foreign, message, text

HUB_STOPS = 10
STORED = 2
STOPS = 3


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    # The default quota of a player is 1,000: a fast machine stores more than that before the hub has stopped.
    hub = HubProcess(tmp_path, "hub.node_grace_ms=300", "mailbox.player_messages=1000000").start()
    yield hub
    hub.close()


async def started(hub: HubProcess, name: str) -> Node:
    made = Node(name, hub.address)
    await made.start(DEADLINE_S)
    return made


@pytest.mark.usefixtures("transport")
async def test_a_hub_stopped_under_load_loses_doubles_and_reorders_nothing(hub: HubProcess) -> None:
    game, ops, other = [await started(hub, name) for name in ("game-1", "ops", "ops-2")]
    host, online, offline = Host(game), Client(), Client()
    await host.attach("on", online)
    await host.attach("off", Client())
    await game.leave_player("off")
    receipts: list[Receipt] = []

    enough = asyncio.Event()

    async def send(sender: Node, player: str) -> int:
        number = 0
        while not enough.is_set():
            receipts.append(await sender.unicast(player, f"{sender.name} {number}"))
            number += 1
        return number

    sending = [asyncio.create_task(send(*pair)) for pair in ((ops, "on"), (other, "on"), (ops, "off"))]
    for _ in range(STOPS):
        count = len(receipts)
        await until(lambda count=count: len(receipts) > count + 60)
        assert await asyncio.to_thread(hub.terminate) == 0
        await asyncio.to_thread(hub.start)
    enough.set()
    by_ops, by_other, kept = await asyncio.wait_for(asyncio.gather(*sending), DEADLINE_S * 2)
    assert {receipt.outcome for receipt in receipts} <= {"delivered", "stored"}
    await host.attach("off", offline)
    await until(lambda: len(offline.handled) >= kept)
    await until(lambda: len(online.handled) >= by_ops + by_other)
    for client, sender, count in ((online, ops, by_ops), (online, other, by_other), (offline, ops, kept)):
        mine = [payload for id_, payload in client.handled if id_.node_key == sender.key]
        assert mine == [f"{sender.name} {number}".encode() for number in range(count)]
    for node in (game, ops, other):
        await node.close(0.2)


class Plain(Foreign):
    """A client that keeps all that it is sent until the hub closes, and never sends again."""

    def post(self, player: str, payload: str) -> bytes:
        seq, self.seq = self.seq, self.seq + 1
        body = struct.pack("<QQQB", seq, 1, 0, 0) + text(player) + text("") + text(payload)
        return message(SEND, body, TEXT)

    def until_the_end(self) -> tuple[set[int], int]:
        """The seqs with a receipt `stored`, and the code of the error that came last."""
        stored: set[int] = set()
        while self.socket.poll(int(DEADLINE_S * 1_000)):
            frame = self.socket.recv()
            while frame:
                length, kind = struct.unpack_from("<IB", frame)
                body, frame = frame[8:length], frame[length:]
                if kind == RECEIPT:
                    stored |= seqs(body)
                elif kind == ERROR:
                    assert not frame, "nothing comes behind an error"
                    return stored, int.from_bytes(body[:2], "little")
                else:
                    assert kind == PING
        raise AssertionError("the hub said nothing")


def seqs(body: bytes) -> set[int]:
    (count,) = struct.unpack_from("<I", body)
    found, at = set(), 4
    for _ in range(count):
        seq, outcome, detail = struct.unpack_from("<QBI", body, at)
        assert outcome == STORED
        found.add(seq)
        at += 13 + detail
    return found


async def test_what_a_stopping_hub_took_has_its_receipt_before_it_says_so(hub: HubProcess) -> None:
    game = await started(hub, "game-1")
    host, alice = Host(game), Client()
    await host.attach("alice", alice)
    await game.leave_player("alice")
    client = Plain(hub.address, "plain")
    await asyncio.to_thread(client.hello)
    for number in range(200):
        client.write(b"".join(client.post("alice", f"{number} {part}") for part in range(4)))
        if number == 100:
            hub.signal(signal.SIGTERM)
    stored, code = await asyncio.to_thread(client.until_the_end)
    assert code == HUB_STOPS
    client.socket.close(0)
    assert hub.process is not None
    assert await asyncio.to_thread(hub.process.wait, DEADLINE_S) == 0  # a second SIGTERM would cut it short
    await asyncio.to_thread(hub.start)
    await host.attach("alice", alice)
    await until(lambda: len(alice.handled) >= len(stored))
    assert (await asyncio.wait_for(game.unicast("alice", "last"), DEADLINE_S)).outcome == "delivered"
    mine = [id_.seq for id_, _ in alice.handled if id_.node_key != game.key]
    assert mine == sorted(stored) == list(range(1, len(stored) + 1))
    await game.close(0.2)
