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

pytestmark = pytest.mark.timeout(60)

QUERY, ANSWER, NODES = 0x12, 0x4B, 2
FRAME_BYTES = 1 << 20
FRAMES = 32
# What one turn reads of a link at most: READS_A_TURN, READ_BYTES in rust/reactor/src/bus/limits.rs.
TURN_BYTES = 4 * (256 << 10)
ROUNDS = 5
POLITE = 4


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path).start()
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
        if state == "01" and int(local.split(":")[1], 16) == port:
            held.append(int(queues.split(":")[1], 16))
    return sorted(held, reverse=True)


async def test_a_flood_delays_others_by_a_bounded_number_of_its_messages(hub: HubProcess) -> None:
    flooder = Flooder(hub.address)
    polite = [Foreign(hub.address, f"polite-{index}") for index in range(POLITE)]
    port = int(hub.address.rsplit(":", 1)[1])
    for each in (flooder, *polite):
        await asyncio.to_thread(each.hello)
    for round_ in range(ROUNDS):
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
            # More than what is allowed is there to be read: a hub that takes no turns would.
            await until(lambda: unread(port)[0] > 2 * TURN_BYTES, "the kernel holds enough of the flood")
        finally:
            hub.signal(signal.SIGCONT)
        for each in polite:
            read = await asyncio.to_thread(flooded, each) - before
            # One turn of the flooder, and what its link had read of a frame in the turn before.
            assert read * flooder.size <= 2 * TURN_BYTES, f"{read} messages of the flooder came first"
            assert await asyncio.to_thread(each.receipt, each.seq) == ("refused", "unknown player")
            each.seq += 1
        await asyncio.to_thread(all_read, polite[0], flooder.seq - 1)
    for each in (flooder, *polite):
        each.socket.close(0)


async def test_those_who_flood_take_turns(hub: HubProcess) -> None:
    names = [f"flooder-{index}" for index in range(3)]
    flooders = [Flooder(hub.address, name) for name in names]
    polite = Foreign(hub.address, "polite")
    port = int(hub.address.rsplit(":", 1)[1])
    for each in (*flooders, polite):
        await asyncio.to_thread(each.hello)
    look(polite, 0)
    before = await asyncio.to_thread(read_of, polite)
    batches = [(each, each.batch()) for _ in range(FRAMES) for each in flooders]
    hub.signal(signal.SIGSTOP)
    for each, batch in batches:
        each.write(batch)
    try:
        await until(lambda: unread(port)[2] > 2 * TURN_BYTES, "the kernel holds enough of each")
        there = unread(port)[2]
    finally:
        hub.signal(signal.SIGCONT)
    compared = 0
    for call in range(1, 10_000):
        look(polite, call)
        now = await asyncio.to_thread(read_of, polite)
        read = [(now[each.name] - before[each.name]) * each.size for each in flooders]
        if max(read) > there:
            break  # From here on it depends on how fast each writes.
        compared += max(read) > 0
        assert max(read) - min(read) <= 2 * TURN_BYTES, read
    assert compared
    for each in (*flooders, polite):
        each.socket.close(0)


def all_read(polite: Foreign, sends: int) -> None:
    """Wait until the hub has read the whole flood: it is not shut out either."""
    call = 1_000
    look(polite, call)
    while flooded(polite) < sends:
        look(polite, call)
