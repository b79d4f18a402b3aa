"""A slow link is no dead one: what comes of a large frame is a sign of life, a trickle is none."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from zmqgame_bus.node import Node
from zmqgame_native import ZmtpPeer

from tests.bus_tools import DEADLINE_S, Client, Host, HubProcess
from tests.support.hub import ERROR, WELCOME, hello, messages
from tests.support.proxy import Route
from tests.support.zmtp import Line

DEAD_MS = 5_000
RATE = 4_000
PAYLOAD = bytes(range(240)) * 200
"""Twelve seconds at that rate: more than twice as long as a silent link lives."""
ROUNDS = 5


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path, f"hub.dead_ms={DEAD_MS}").start()
    yield hub
    hub.close()


@pytest.mark.parametrize("transport", ["native", "native-thread"])
async def test_a_large_message_keeps_a_slow_link_alive(hub: HubProcess, transport: str) -> None:
    route = await Route("slow", ("127.0.0.1", int(hub.address.rsplit(":", 1)[1]))).start()
    slow = Node("slow", route.endpoint, transport=transport)
    quick = Node("quick", hub.address, transport=transport)
    zoe, bob = Client(), Client()
    for node in (slow, quick):
        await node.start(DEADLINE_S)
    await Host(slow).attach("zoe", zoe)
    await Host(quick).attach("bob", bob)
    for round_ in range(1, ROUNDS + 1):
        before = route.connections
        route.rate(RATE)
        sends = [slow.unicast("bob", PAYLOAD), quick.unicast("zoe", PAYLOAD)]
        began = time.monotonic()
        receipts = await asyncio.gather(*sends)
        assert [receipt.outcome for receipt in receipts] == ["delivered"] * 2
        took_s = time.monotonic() - began
        route.rate(0)
        for client in (zoe, bob):
            assert [payload for _, payload in client.handled] == [PAYLOAD] * round_
        if route.longest_gap_s < DEAD_MS / 2_000:  # else the machine stood still, and silence was silence
            assert route.connections == before
            assert took_s > 2 * DEAD_MS / 1_000
            break
    for node in (slow, quick):
        await node.close(1)
    await route.close()


def test_a_trickle_of_a_frame_that_never_ends_is_silence(hub: HubProcess) -> None:
    address = hub.address.removeprefix("tcp://").rsplit(":", 1)
    line = Line(ZmtpPeer("dealer"), socket.create_connection((address[0], int(address[1]))))
    line.until(lambda: line.peer.ready)
    line.send(hello("trickler"))
    line.until(lambda: any(kind == WELCOME for frame in line.messages for kind, _ in messages(frame)))
    line.messages.clear()
    line.socket.sendall(b"\x02" + struct.pack(">Q", 100_000))
    end = time.monotonic() + DEADLINE_S
    while not line.closed and time.monotonic() < end:
        with contextlib.suppress(OSError):  # the hub has closed it: its last words are still to be read
            line.socket.sendall(b"x")
        line.turn()  # waits a moment: 50 bytes a second at most
    told = [found for frame in line.messages for found in messages(frame)]
    codes = [struct.unpack_from("<H", fields)[0] for kind, fields in told if kind == ERROR]
    assert codes == [9]
