"""Real pyzmq sockets, good and bad ones, against the native hub."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85
from zmqgame_native import Hub, ZmtpPeer, curve_keypair

from tests.support.hub import ERROR, PONG, WELCOME, hello, messages, ping, running_hub
from tests.waiting import wait_until


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    context = zmq.Context()
    context.linger = 0  # What a refused peer has queued must not hold the end of a test.
    yield context
    context.destroy(linger=0)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with running_hub(tmp_path, handshake_ms=60_000) as hub:
        yield hub


class RawNode:
    """A DEALER that speaks the bus by hand."""

    def __init__(self, context: zmq.Context, hub: Hub, name: str, **curve: bytes) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.rcvtimeo = self.socket.sndtimeo = 60_000
        for option, value in curve.items():
            setattr(self.socket, f"curve_{option}", value)
        self.socket.connect(hub.endpoints[0])
        self.socket.send(hello(name))
        self.waiting: list[tuple[int, bytes]] = []
        self.name = name

    def expect(self, kind: int) -> bytes:
        """The next message of that kind; others are skipped."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if not self.waiting:
                self.waiting = messages(self.socket.recv())
            found, body = self.waiting.pop(0)
            if found == kind:
                return body
        raise AssertionError(f"no message of kind {kind:#x}")

    def round_trip(self) -> None:
        nonce = time.monotonic_ns()
        self.socket.send(ping(nonce))
        while struct.unpack_from("<Q", self.expect(PONG))[0] != nonce:
            pass


def wait_closed(hub: Hub, kind: str, count: int = 1) -> None:
    wait_until(lambda: hub.counters().get(f"link_closed_{kind}", 0) >= count, kind)


def raw(hub: Hub) -> socket.socket:
    host, port = hub.endpoints[0].removeprefix("tcp://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(60)
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            data += part
    return data


def greeting(mechanism: bytes = b"NULL", version: int = 3) -> bytes:
    return b"\xff" + bytes(7) + b"\x01\x7f" + bytes([version, 1]) + mechanism.ljust(20, b"\0") + bytes(32)


READY = b"\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"


def test_hello_and_ping(context: zmq.Context, hub: Hub) -> None:
    node = RawNode(context, hub, "a")
    assert struct.unpack_from("<H", node.expect(WELCOME)) == (1,)
    node.round_trip()


def test_curve_only_lets_listed_keys_in(context: zmq.Context, tmp_path: Path) -> None:
    server_public, server_secret = curve_keypair()
    listed, stranger = curve_keypair(), curve_keypair()

    def curve(keys: tuple[bytes, bytes], server: bytes = server_public) -> dict[str, bytes]:
        return {
            "serverkey": z85.encode(server),
            "publickey": z85.encode(keys[0]),
            "secretkey": z85.encode(keys[1]),
        }

    allowed = [(listed[0], "game-*", ["game"])]
    with running_hub(tmp_path, curve_secret_key=server_secret, allowed=allowed) as hub:
        good = RawNode(context, hub, "game-1", **curve(listed))
        good.expect(WELCOME)
        unlisted = RawNode(context, hub, "game-2", **curve(stranger))
        wait_closed(hub, "key_not_allowed")
        mistaken = RawNode(context, hub, "game-3", **curve(listed, server=stranger[0]))
        wait_closed(hub, "authentication")
        unlisted.socket.close()
        mistaken.socket.close()
        not_its_name = RawNode(context, hub, "manager", **curve(listed))
        assert b"may not use this name" in not_its_name.expect(ERROR)
        with raw(hub) as plain:
            plain.sendall(greeting())
            read_to_end(plain)
        wait_closed(hub, "mechanism")
        good.round_trip()
        assert any(stranger[0].hex() in line[3] for line in hub.take_log())


BAD_BYTES = {
    "not_zmtp": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "old_version": b"\xff" + bytes(7) + b"\x01\x7f\x01\x05\x00\x00",
    "mechanism": greeting(b"PLAIN"),
    "bad_flags": greeting() + b"\x18\x01x",
    "frame_too_large": greeting() + READY + b"\x02\0\0\0\x10\0\0\0\0",
    "multipart": greeting() + READY + b"\x01\x01x\x00\x01y",
    "malformed": greeting() + b"\x04\x08\x05READY\x05x",
    "unexpected": greeting() + b"\x00\x01x",
    "socket_type": greeting() + READY.replace(b"DEALER", b"ROUTER"),
}


@pytest.mark.parametrize("kind", BAD_BYTES)
def test_bad_bytes_are_a_counted_refusal(context: zmq.Context, hub: Hub, kind: str) -> None:
    good = RawNode(context, hub, "good")
    good.expect(WELCOME)
    with raw(hub) as bad:
        bad.sendall(BAD_BYTES[kind])
        read_to_end(bad)
    wait_closed(hub, kind)
    good.round_trip()
    assert [line[1] for line in hub.take_log()] == [kind]


def test_an_unfinished_handshake_is_a_counted_refusal(context: zmq.Context, tmp_path: Path) -> None:
    with running_hub(tmp_path, handshake_ms=2_000) as hub:
        good = RawNode(context, hub, "good")
        good.expect(WELCOME)
        with raw(hub) as bad:
            bad.sendall(greeting()[:40])
            read_to_end(bad)
        wait_closed(hub, "handshake_timeout")
        good.round_trip()
        assert [line[1] for line in hub.take_log()] == ["handshake_timeout"]


def test_bus_garbage_in_a_good_frame_closes_only_its_sender(context: zmq.Context, hub: Hub) -> None:
    good, bad = RawNode(context, hub, "good"), RawNode(context, hub, "bad")
    good.expect(WELCOME)
    bad.expect(WELCOME)
    bad.socket.send(b"\xff" * 100)
    assert bad.expect(ERROR)
    wait_closed(hub, "closed_by_hub")
    good.round_trip()
    assert hub.counters()["malformed"] == 1


def test_the_reason_arrives_though_more_was_sent(hub: Hub) -> None:
    body = b"\xff" * 100
    with raw(hub) as loud:
        with contextlib.suppress(OSError):  # The hub may be gone before all of it is sent.
            loud.sendall(greeting() + READY + bytes([0, len(body)]) + body + bytes([0, 0]) * 300_000)
        assert b"has no meaning" in read_to_end(loud)


def test_a_dealer_that_sends_two_parts_is_closed(context: zmq.Context, hub: Hub) -> None:
    good, bad = RawNode(context, hub, "good"), RawNode(context, hub, "bad")
    bad.expect(WELCOME)
    bad.socket.send_multipart([b"", ping(1)])
    wait_closed(hub, "multipart")
    good.expect(WELCOME)
    good.round_trip()


def test_heartbeats_of_libzmq(context: zmq.Context, hub: Hub) -> None:
    beating = context.socket(zmq.DEALER)
    beating.heartbeat_ivl, beating.heartbeat_timeout, beating.heartbeat_ttl = 30, 60_000, 60_000
    beating.rcvtimeo = 60_000
    monitor = beating.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    beating.connect(hub.endpoints[0])
    beating.send(hello("beating"))
    assert messages(beating.recv())[0][0] == WELCOME
    before = hub.counters()["link_out_bytes"]
    wait_until(lambda: hub.counters()["link_out_bytes"] > before + 20 * 7)
    assert monitor.poll(0) == 0


def test_a_peer_that_breaks_its_own_ttl_is_closed(hub: Hub) -> None:
    with raw(hub) as silent:
        peer = ZmtpPeer("dealer")
        silent.sendall(peer.output())
        while not peer.ready:
            peer.receive(silent.recv(65_536))
            silent.sendall(peer.output())
        # PING with a time to live of 0.1 s, then nothing.
        silent.sendall(b"\x04\x07\x04PING\x00\x01")
        read_to_end(silent)
    wait_closed(hub, "silent")


def test_bytes_one_at_a_time(hub: Hub) -> None:
    with raw(hub) as slow:
        slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = hello("slow")
        for byte in greeting() + READY + bytes([0, len(body)]) + body:
            slow.sendall(bytes([byte]))
        data = b""
        while b"ROUTER" not in data or len(data) < 64 + 40 + 10:
            data += slow.recv(65_536)
    assert hub.counters()["hellos"] == 1


def test_a_peer_of_zmtp_3_0(hub: Hub) -> None:
    body = hello("older")
    with raw(hub) as older:
        older.sendall(greeting()[:11] + b"\x00" + greeting()[12:] + READY + bytes([0, len(body)]) + body)
        data = b""
        while b"ROUTER" not in data or len(data) < 64 + 40 + 10:
            data += older.recv(65_536)
    assert hub.counters()["hellos"] == 1


def test_ipv6(context: zmq.Context, tmp_path: Path) -> None:
    with running_hub(tmp_path, listen=["tcp://[::1]:0"]) as hub:
        context.ipv6 = True
        node = RawNode(context, hub, "six")
        node.expect(WELCOME)
        node.round_trip()


def test_many_curve_nodes_while_strangers_shout(context: zmq.Context, tmp_path: Path) -> None:
    server_public, server_secret = curve_keypair()
    with running_hub(tmp_path, curve_secret_key=server_secret) as hub:
        noise = [raw(hub) for _ in range(40)]
        nodes = []
        for number in range(40):
            noise[number].sendall(BAD_BYTES["not_zmtp"] if number % 2 else bytes([0xFF]) + bytes(200))
            public, secret = zmq.curve_keypair()
            keys = {"publickey": public, "secretkey": secret, "serverkey": z85.encode(server_public)}
            nodes.append(RawNode(context, hub, f"node-{number}", **keys))
        for node in nodes:
            node.expect(WELCOME)
            node.round_trip()
        wait_closed(hub, "not_zmtp", 40)
        # The sockets' counters are copied out every 50 ms.
        wait_until(lambda: hub.counters()["link_established"] == 40)
        for connection in noise:
            connection.close()


def test_a_flood_of_silent_connections_leaves_room_for_a_node(context: zmq.Context, hub: Hub) -> None:
    flood = [raw(hub) for _ in range(300)]
    node = RawNode(context, hub, "honest")
    node.expect(WELCOME)
    node.round_trip()
    wait_closed(hub, "too_many_handshakes", 44)
    for connection in flood:
        connection.close()


def test_a_port_in_use_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot listen on tcp://127.0.0.1:\d+: .*in use.*; stop what listens"):
        Hub(hub.endpoints, hub_epoch=2)
    with pytest.raises(ValueError, match="write tcp://HOST:PORT or ipc://PATH"):
        Hub(["udp://127.0.0.1:1"], hub_epoch=2)


def test_ipc(context: zmq.Context, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/hub.sock"
    with running_hub(tmp_path, listen=[endpoint, "tcp://127.0.0.1:0"]) as hub:
        assert hub.endpoints[0] == endpoint
        node = RawNode(context, hub, "local")
        node.expect(WELCOME)
        node.round_trip()


def test_status_stop_and_wait(context: zmq.Context, tmp_path: Path) -> None:
    with running_hub(tmp_path) as hub:
        RawNode(context, hub, "a").expect(WELCOME)
        assert b'"hub_epoch":1' in hub.status()
        assert hub.wait(0) is None
        hub.stop(5_000)
        assert hub.wait(10_000) == "stopped"
        assert hub.next_store_batch(10_000) is None
        with pytest.raises(RuntimeError, match="the hub has ended"):
            hub.status()


def test_store_completions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    hub = Hub(["tcp://127.0.0.1:0"], hub_epoch=1)
    batch = hub.next_store_batch(10_000)
    assert batch is not None
    assert batch.ops[0][:2] == ("open", 1)
    with pytest.raises(ValueError, match="batch 99 is not under way"):
        hub.complete(99, [])
    with pytest.raises(ValueError, match=r"0 results for \d+ operations"):
        hub.complete(batch.number, [])
    with pytest.raises(ValueError, match='no result "maybe"'):
        hub.complete(batch.number, [("maybe",)])
    hub.fail(batch.number, "disk full")
    again = hub.next_store_batch(20_000)
    assert again is not None
    assert again.ops[0][0] == "open"
    assert b"disk full" in hub.status()
    hub.stop(0)
    assert hub.wait(10_000) == "stopped"
