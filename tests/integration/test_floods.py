"""Strangers before hello: floods of connections and handshakes, silence, large first frames.

A real hub, whose node goes on working; progress is what is asserted, not speed.
"""

import asyncio
import json
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from zmqgame_bus import keys
from zmqgame_bus.keys import Allowed, NodeKeys
from zmqgame_bus.node import Node
from zmqgame_native import ZmtpPeer

from tests.bus_tools import HubProcess, until
from tests.versions.client_v1 import HELLO, LOGIN, SEND, message, node_key, text

FLOOD = 2_000
HELD = 300
"""Connections of the flood that stay open: more than the hub lets be without a hello."""


class Site:
    """A hub under CURVE or NULL, and keys for a node."""

    def __init__(self, folder: Path, curve: bool) -> None:
        hub, self.own = keys.new_pair(folder, "hub"), keys.new_pair(folder, "node")
        keys.allow(folder / "allowed.keys", Allowed(self.own.public, "*", ("*",)))
        self.server, self.curve = hub.public, curve
        files = [
            f"security.key_file={folder / 'hub.key'}",
            f"security.allowed_file={folder / 'allowed.keys'}",
        ]
        # Whoever is silent because the machine stands still is not given up: its link is what is looked at.
        files.append("hub.dead_ms=60000")
        self.hub = HubProcess(folder, *(["security.curve=true", *files] if curve else files[2:]))
        self.hub.start()
        self.place = "127.0.0.1", int(self.hub.address.rpartition(":")[2])

    def node(self, name: str) -> Node:
        found = NodeKeys(self.own.public, self.own.secret, self.server) if self.curve else None
        return Node(name, self.hub.address, keys=found)

    def connect(self) -> socket.socket:
        line = socket.create_connection(self.place, timeout=60)
        line.settimeout(60)
        return line

    def ready(self) -> tuple[socket.socket, ZmtpPeer]:
        """A peer that has finished its handshake and says nothing."""
        line, peer = self.connect(), None
        if self.curve:
            peer = ZmtpPeer("dealer", secret_key=self.own.secret, server_key=self.server)
        else:
            peer = ZmtpPeer("dealer")
        while not peer.ready:
            line.sendall(peer.output())
            data = line.recv(65_536)
            assert data, "closed in the handshake"
            peer.receive(data)
        return line, peer


@pytest.fixture(params=["null", "curve"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path, request.param == "curve")
    yield site
    site.hub.close()


async def counters(node: Node) -> dict[str, int]:
    return (await node.query("status"))["counters"]


def ended(line: socket.socket) -> bool:
    """Whether the hub closes the connection; it may say why before."""
    try:
        while line.recv(65_536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


async def test_a_flood_of_handshakes_leaves_a_node_working(site: Site) -> None:
    if site.curve:
        # Up to the part that costs the hub something: a HELLO that opens.
        peer = ZmtpPeer("dealer", secret_key=site.own.secret, server_key=site.server)
        start = peer.output()
        peer.receive(
            ZmtpPeer("router", secret_key=keys.read_pair(site.hub.folder / "hub.key").secret).output()
        )
        start += peer.output()
    else:
        start = ZmtpPeer("dealer").output()
    async with site.node("echo-1") as echo, site.node("caller") as caller:
        done = 0

        async def ask() -> None:
            nonlocal done
            while True:
                await caller.query("status")
                done += 1

        asking = asyncio.create_task(ask())
        with ExitStack() as held:
            lines: deque[socket.socket] = deque()
            for number in range(FLOOD):
                lines.append(held.enter_context(site.connect()))
                with suppress(OSError):  # refused: the hub has closed it
                    lines[-1].sendall(start)
                if len(lines) > HELD:
                    lines.popleft().close()
                if number % 100 == 99:
                    # The loop of this process goes on only here: each look is at least one answer more.
                    before = done
                    await until(
                        lambda before=before: done > before or asking.done(), "an answer in the flood"
                    )
            # Whoever comes now gets in as soon as tokens are there: the flood's sockets are still open.
            late = site.node("late")
            await late.start(timeout_s=60)
            await late.close()
        asking.cancel()
        status = (await counters(caller), echo.up, caller.up)
        assert status[1:] == (True, True)
    assert "too_many_handshakes" in site.hub.log.read_text()


async def test_who_does_not_say_hello_is_closed(site: Site) -> None:
    async with site.node("watch") as watch:
        lines = {
            "nothing": site.connect(),
            "half a greeting": site.connect(),
            "greeting only": site.connect(),
        }
        greeting = ZmtpPeer("dealer").output()[:64] if not site.curve else None
        if greeting is None:
            greeting = ZmtpPeer("dealer", secret_key=site.own.secret, server_key=site.server).output()[:64]
        lines["half a greeting"].sendall(greeting[:40])
        lines["greeting only"].sendall(greeting)
        silent, _ = site.ready()
        busy, peer = site.ready()
        empty, empty_peer = site.ready()
        assert empty_peer.send(b"")
        empty.sendall(empty_peer.output())
        assert await asyncio.to_thread(ended, empty), "an empty batch is no hello"
        # One pings all the time: life of ZMTP is not a hello.
        pinging = True

        async def ping() -> None:
            while pinging:
                peer.ping()
                try:
                    busy.sendall(peer.output())
                except OSError:
                    return
                await asyncio.sleep(0.05)

        task = asyncio.create_task(ping())
        for name, line in {**lines, "ready and silent": silent, "ready and pinging": busy}.items():
            assert await asyncio.to_thread(ended, line), name
        pinging = False
        await task
        assert watch.up


async def test_the_first_frame_is_bounded_before_it_is_held(site: Site) -> None:
    async with site.node("watch") as watch:
        line, peer = site.ready()
        assert peer.send(bytes(100_000))
        with suppress(OSError):
            line.sendall(peer.output())
        assert await asyncio.to_thread(ended, line)
        await until(
            lambda: "frame_too_large" in site.hub.log.read_text() or "65536" in site.hub.log.read_text()
        )
        # After a hello it may be as long as the protocol says.
        receipt = await watch.unicast("nobody", bytes(900_000))
        assert receipt.outcome == "refused"


async def test_nothing_before_hello_is_routed(site: Site) -> None:
    async with site.node("host") as host:
        before = await counters(host)
        login = message(LOGIN, struct.pack("<IQQ", 1, 0, 1) + text("victim"))
        send = message(SEND, struct.pack("<QQQB", 1, 1, 0, 0) + text("victim") + text("") + text("boo"), 1)
        for batch in (login, send, login + send):
            line, peer = site.ready()
            assert peer.send(batch)
            line.sendall(peer.output())
            assert await asyncio.to_thread(ended, line)
        # Before the handshake is done, a message is the end of it.
        for batch in (login, send):
            line = site.connect()
            line.sendall(ZmtpPeer("dealer").output()[:64] + bytes([0, len(batch)]) + batch)
            assert await asyncio.to_thread(ended, line)
        if site.curve:
            # A proven key, and a name that no list gives it to a stranger: NULL is refused whole.
            line = site.connect()
            hello = struct.pack("<HHQQQIQQ", 1, 2, node_key("x"), 1, 1, 0, 1, 0) + text("x") + bytes(4)
            peer = ZmtpPeer("dealer")
            line.sendall(peer.output() + message(HELLO, hello))
            assert await asyncio.to_thread(ended, line)
        after = await counters(host)
        assert after["hellos"] == before["hellos"]
        assert (await host.query("status"))["players"] == 0
        players = await host.query("players", "10 ")
        assert "victim" not in json.dumps(players)
