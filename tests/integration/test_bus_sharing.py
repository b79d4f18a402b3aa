"""Fair sharing between nodes: how much of one that floods the hub may be read before the others' turn."""

import asyncio
import json
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bus_tools import HubProcess, until
from tests.integration.foreign_client import SEND, Foreign, message, text

QUERY, ANSWER, NODES = 0x12, 0x4B, 2
FRAME_BYTES = 1 << 20
FRAMES = 32
# What one turn reads of a link at most: READS_A_TURN, READ_BYTES in rust/reactor/src/bus/limits.rs.
TURN_BYTES = 4 * (256 << 10)
SLACK_BYTES = 65_536
LOOPBACK = "0100007F"
ROUNDS, TELLING_ROUNDS = 30, 3
POLITE = 4

may_skip = pytest.mark.may_skip("how much the kernel holds of a flood is its own choice")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path, "hub.dead_ms=30000").start()  # it stands still for a while
    yield hub
    hub.close()


class Flooder(Foreign):
    """Writes batches of 1 MiB, each of a thousand sends."""

    def __init__(self, address: str, name: str = "flooder") -> None:
        super().__init__(address, name)
        self.socket.linger = 0
        self.socket.sndhwm = self.socket.rcvhwm = 0
        self.size = 0

    def batch(self) -> bytes:
        """To nobody: each has its receipt at once, and the window never closes."""
        batch = bytearray()
        while len(batch) + self.size <= FRAME_BYTES:
            seq, self.seq = self.seq, self.seq + 1
            body = struct.pack("<QQQB", seq, seq, 0, 0) + text("nobody") + text("") + text("x" * 1_000)
            one = message(SEND, body)
            self.size = len(one)
            batch += one
        return bytes(batch)


def look(polite: Foreign, call: int) -> None:
    polite.write(message(QUERY, struct.pack("<QB", call, NODES) + text("")))


def read_of(polite: Foreign) -> dict[str, int]:
    """How many messages of each node the hub had read when it answered."""
    _, fields = polite.next(ANSWER)
    fields.take("QB")
    return {node["name"]: node["messages_in"] for node in json.loads(fields.bytes())}


def flooded(polite: Foreign) -> int:
    """How many of the flooder."""
    return read_of(polite)["flooder"]


def unread(port: int) -> list[int]:
    """Bytes that the kernel holds for the hub, of each of its connections; the largest first."""
    held = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues, *_ = line.split()
        if state == "01" and local == f"{LOOPBACK}:{port:04X}":  # others may have the number elsewhere
            held.append(int(queues.split(":")[1], 16))
    return sorted(held, reverse=True)


@may_skip
async def test_a_flood_delays_others_by_a_bounded_number_of_its_messages(hub: HubProcess) -> None:
    flooder = Flooder(hub.address)
    polite = [Foreign(hub.address, f"polite-{index}") for index in range(POLITE)]
    port = int(hub.address.rsplit(":", 1)[1])
    for each in (flooder, *polite):
        await asyncio.to_thread(each.hello)
    await asyncio.to_thread(grow, polite[0], [flooder])
    telling = 0
    for round_ in range(ROUNDS):
        if telling == TELLING_ROUNDS:
            break
        # While the hub stands still, all write: the flood first, and more of it than the kernel takes.
        look(polite[0], round_)
        before = await asyncio.to_thread(flooded, polite[0])
        batches = [flooder.batch() for _ in range(FRAMES)]
        hub.signal(signal.SIGSTOP)
        for batch in batches:
            flooder.write(batch)
        for each in polite:
            look(each, round_)
            each.write(
                message(SEND, struct.pack("<QQQB", each.seq, each.seq, 0, 0) + text("nobody") + text("") * 2)
            )
        try:
            await until(lambda: sum(held > 0 for held in unread(port)) == POLITE + 1)
            telling += await more_than_a_turn(port, 1)
        finally:
            hub.signal(signal.SIGCONT)
        for each in polite:
            read = await asyncio.to_thread(flooded, each) - before
            assert read * flooder.size <= TURN_BYTES + SLACK_BYTES, f"{read} of the flooder came first"
            assert await asyncio.to_thread(each.receipt, each.seq) == ("refused", "unknown player")
            each.seq += 1
        await asyncio.to_thread(all_read, polite[0], [flooder])
    told(telling)
    for each in (flooder, *polite):
        each.socket.close(0)


@may_skip
async def test_those_who_flood_take_turns(hub: HubProcess) -> None:
    flooders = [Flooder(hub.address, f"flooder-{index}") for index in range(3)]
    polite = Foreign(hub.address, "polite")
    port = int(hub.address.rsplit(":", 1)[1])
    for each in (*flooders, polite):
        await asyncio.to_thread(each.hello)
    await asyncio.to_thread(grow, polite, flooders)
    telling = 0
    for round_ in range(ROUNDS):
        if telling == TELLING_ROUNDS:
            break
        look(polite, round_)
        before = await asyncio.to_thread(read_of, polite)
        batches = [(each, each.batch()) for _ in range(4) for each in flooders]
        hub.signal(signal.SIGSTOP)
        for each, batch in batches:
            each.write(batch)
        look(polite, round_)
        try:
            await until(lambda: sum(held > 0 for held in unread(port)) == len(flooders) + 1)
            telling += await more_than_a_turn(port, len(flooders))
        finally:
            hub.signal(signal.SIGCONT)
        now = await asyncio.to_thread(read_of, polite)
        read = [(now[each.name] - before[each.name]) * each.size for each in flooders]
        assert max(read) <= TURN_BYTES + SLACK_BYTES, read
        await asyncio.to_thread(all_read, polite, flooders)
    told(telling)
    for each in (*flooders, polite):
        each.socket.close(0)


async def more_than_a_turn(port: int, flooders: int) -> bool:
    """Whether more of each flood waits than one turn takes: only then could a hub read more of it at once.

    How much the kernel holds is its own choice: it grows with what was read before.
    """
    for _ in range(40):
        if unread(port)[flooders - 1] > TURN_BYTES + SLACK_BYTES:
            return True
        await asyncio.sleep(0.02)
    return False


def grow(polite: Foreign, flooders: list[Flooder]) -> None:
    """Make the kernel's buffers grow: it gives room by what was read before."""
    for each in flooders:
        for _ in range(FRAMES // 2):
            each.write(each.batch())
    all_read(polite, flooders)


def told(rounds: int) -> None:
    """A test in which no round could have failed has shown nothing."""
    if not rounds:
        pytest.skip("the kernel never held more than one turn of a flood")


def all_read(polite: Foreign, flooders: list[Flooder]) -> None:
    """Wait until the hub has read all floods: nobody is shut out either."""
    call = 1_000
    while True:
        look(polite, call)
        read = read_of(polite)
        if all(read[each.name] >= each.seq - 1 for each in flooders):
            return
