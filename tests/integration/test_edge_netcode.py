"""A session from token to goodbye: the client of netcode.rs on a real UDP socket, the edge as its server."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from zmqgame_native import Edge, NetcodeClient, netcode_connect_token

from tests.edge_tools import CLOSE, OPEN, Consumer, body

KEY = bytes(range(32))
DEADLINE_S = 60.0


class Player:
    """A client with its socket."""

    def __init__(self, address: str, client_id: int, **changes: object) -> None:
        fields = {"protocol_id": 7, "expire_s": 200, "timeout_s": 60, "private_key": KEY, "user_data": b"ann"}
        token = netcode_connect_token(client_id=client_id, addresses=[address], **{**fields, **changes})
        self.client = NetcodeClient(token, int(time.time()))
        host, port = self.client.server.rsplit(":", 1)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect((host, int(port)))
        self.socket.settimeout(0.01)
        self.received: list[bytes] = []

    def turn(self) -> None:
        now_ms = time.monotonic_ns() // 1_000_000
        for datagram in self.client.poll(now_ms):
            self.socket.send(datagram)
        try:
            while True:
                self.received += self.client.handle_datagram(now_ms, self.socket.recv(2048))
        except (TimeoutError, ConnectionRefusedError):
            return

    def until(self, done) -> None:
        end = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < end, f"the client is {self.client.state}"
            self.turn()


@contextmanager
def server() -> Iterator[tuple[Edge, str]]:
    edge = Edge(loops=1)
    try:
        yield edge, edge.listen_udp("127.0.0.1:0", protocol_id=7, private_key=KEY)
    finally:
        edge.stop(1000)


def test_a_session_from_token_to_goodbye() -> None:
    with server() as (edge, address):
        player, consumer = Player(address, 1), Consumer(edge)
        player.until(lambda: player.client.connected)
        (connection,) = consumer.opened()
        opened = json.loads(next(payload for _, kind, _, payload in consumer.rows if kind == OPEN))
        assert opened["transport"] == "udp"
        assert bytes.fromhex(opened["user_data"]).rstrip(b"\0") == b"ann"

        for frame in range(50):
            player.client.send(body(3, frame, bytes([frame]) * 20))
            player.turn()
        rows = consumer.count(51)
        inputs = [(kind, sequence, payload) for _, kind, sequence, payload in rows[1:]]
        assert inputs == [(3, frame, bytes([frame]) * 20) for frame in range(50)]

        assert edge.send([(connection, 0x44, 9, b"snapshot")]) == 0
        player.until(lambda: player.received)
        assert player.received == [body(0x44, 9, b"snapshot")]

        player.client.disconnect()
        player.turn()
        consumer.until(lambda rows: any(kind == CLOSE for _, kind, _, _ in rows))


def test_garbage_and_thieves_do_not_disturb_a_session() -> None:
    with server() as (edge, address):
        player, consumer = Player(address, 2), Consumer(edge)
        (request,) = player.client.poll(time.monotonic_ns() // 1_000_000)
        player.socket.send(request)
        player.until(lambda: player.client.connected)
        host, port = address.rsplit(":", 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
            for noise in (request, b"\x85" * 18, b"", b"\xff" * 1400, bytes(1078), request[:-1]):
                thief.sendto(noise, (host, int(port)))
        player.client.send(body(3, 1, b"still here"))
        player.turn()
        rows = consumer.until(lambda rows: any(kind == 3 for _, kind, _, _ in rows))
        assert rows[-1][3] == b"still here"
        assert edge.counters()["netcode_token_used"] == 1


@pytest.mark.parametrize(
    ("changes", "counter", "state"),
    [
        ({"private_key": bytes(32)}, "netcode_seal", "request timed out"),
        ({"protocol_id": 8}, "netcode_protocol", "request timed out"),
        ({"expire_s": 1}, "netcode_expired", "token expired"),
    ],
)
def test_a_wrong_or_late_token_gets_no_session(changes: dict[str, object], counter: str, state: str) -> None:
    with server() as (edge, address):
        player = Player(address, 3, **{"timeout_s": 2, **changes})
        if state == "token expired":
            time.sleep(1.1)
        player.until(lambda: player.client.state == state)
        assert edge.counters()[counter] > 0
        assert edge.counters()["opened"] == 0
        assert len(edge.receive()) == 0
