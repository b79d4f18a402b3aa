"""Receipts, pongs and presence never wait behind payload: the order in which a slow reader gets them."""

import asyncio
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from zmqgame_bus.messages import Request
from zmqgame_bus.node import Node

from tests.bus_tools import DEADLINE_S, Client, Host, HubProcess, until
from tests.integration.foreign_client import (
    DELIVER,
    PING,
    PONG,
    RECEIPT,
    Foreign,
    message,
    text,
)

REQUEST, SUBSCRIBE, PRESENCE, ANSWER = 0x05, 0x0E, 0x49, 0x4B
LARGE = 900_000
LAST_NONCE = 777_777
ANSWERS = 8
CONTROL_BYTES = 65_536
"""More than all that is no payload and waits with it."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path, "hub.dead_ms=60000").start()  # silence is not what is tested
    yield hub
    hub.close()


class SlowReader(Foreign):
    """A node of which little is read ahead: what it does not read waits in the hub."""

    def __init__(self, address: str, name: str) -> None:
        super().__init__(address, name)
        self.socket.close()
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvhwm, self.socket.rcvbuf = 1, 65_536
        self.socket.connect(address)

    def ping(self, nonce: int) -> None:
        self.write(message(PING, struct.pack("<QQ", nonce, self.seq)))

    def ask(self, call: int, service: str) -> None:
        self.write(message(REQUEST, struct.pack("<QI", call, 60_000) + text(service) + text("")))

    def kinds(self) -> Iterator[tuple[int, bytes]]:
        """The messages of the next frame, whole; none if there is none yet."""
        if not self.socket.poll(0):
            return
        frame = self.socket.recv()
        while frame:
            (length, kind) = struct.unpack_from("<IB", frame)
            yield kind, frame[:length]
            frame = frame[length:]


async def waiting(asking: Node, name: str) -> dict[str, int]:
    nodes = await asking.query("nodes")
    return next(entry for entry in nodes if entry["name"] == name)


async def started(hub: HubProcess, name: str) -> Node:
    made = Node(name, hub.address)
    await made.start(DEADLINE_S)
    return made


async def test_receipts_pongs_and_presence_overtake_deliveries_and_answers(hub: HubProcess) -> None:
    async def blob(_request: Request) -> object:
        return bytes(LARGE)

    source = Node("source", hub.address)
    source.serve("blob", blob)
    await source.start(DEADLINE_S)
    other, watch = await started(hub, "other"), await started(hub, "watch")
    amy = Client()
    await Host(watch).attach("amy", amy)
    reader = SlowReader(hub.address, "reader")
    await asyncio.to_thread(reader.hello)
    await asyncio.to_thread(reader.login, "zoe", 1)
    reader.write(message(SUBSCRIBE, b"\x01"))

    flood = [asyncio.create_task(sender.unicast("zoe", bytes(LARGE))) for sender in (source, other) * 15]
    # Kernel and link are full: the hub holds payload back.
    await held_back(watch, reader, 3_000_000)
    for call in range(ANSWERS):
        reader.ask(call, "blob")
    await held_back(watch, reader, ANSWERS * LARGE)
    seq = reader.send("amy", "x")
    reader.ping(LAST_NONCE)
    late = await started(hub, "late")
    await until(lambda: amy.handled)
    # The ack went to the hub ahead of this question: what is waited for below is in the hub's queue.
    queued = (await waiting(watch, "reader"))["queued_bytes"]
    assert queued > ANSWERS * LARGE

    wanted, ahead, behind, answers = {"receipt", "pong", "presence"}, 0, 0, 0
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while (wanted or answers < ANSWERS) and asyncio.get_running_loop().time() < end:
        for kind, whole in reader.kinds():
            if (found := control(kind, whole, seq)) in wanted:
                wanted.discard(found)
                ahead, behind = ahead + behind, 0
            behind += len(whole) if kind in (DELIVER, ANSWER) else 0
            answers += kind == ANSWER
        reader.ping(0)
        await asyncio.sleep(0)
    assert not wanted
    assert answers == ANSWERS
    # All payload that was in the queue with them came behind them: the answers are the last of it.
    assert behind >= queued - CONTROL_BYTES, f"{ahead} bytes of payload came first"
    for task in flood:
        task.cancel()
    reader.socket.close()
    for node in (source, other, watch, late):
        await node.close(0)


def control(kind: int, whole: bytes, seq: int) -> str:
    """Which of the three that the test waits for it is."""
    if kind == RECEIPT and struct.unpack_from("<Q", whole, 12) == (seq,):
        return "receipt"
    if kind == PONG and struct.unpack_from("<Q", whole, 8) == (LAST_NONCE,):
        return "pong"
    return "presence" if kind == PRESENCE and text("late") in whole else ""


async def held_back(watch: Node, reader: SlowReader, most: int) -> None:
    """Wait until more than so much waits for the reader in the hub; meanwhile it shows that it is alive."""
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while (await waiting(watch, "reader"))["queued_bytes"] <= most:
        assert asyncio.get_running_loop().time() < end
        reader.ping(0)
        await asyncio.sleep(0.02)
