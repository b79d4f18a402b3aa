"""Netcode sessions on the edge's UDP socket, with our own client state machine over Python's sockets."""

import contextlib
import socket
import time
from collections.abc import Callable

import pytest
from zmqgame_native import Edge, NetcodeClient, netcode_connect_token

from tests.edge_tools import DEADLINE_S, OPEN, Consumer, body, dial, packet, running

PROTOCOL = 77
KEY = bytes(range(32))


class Player:
    """A netcode client on a real socket, turned by hand."""

    def __init__(
        self, server: str, client_id: int, *, key: bytes = KEY, protocol: int = PROTOCOL, timeout_s: int = 60
    ) -> None:
        user_data = b"\x03ada" + (2**64 - 1).to_bytes(8, "little")
        token = netcode_connect_token(protocol, 200, timeout_s, client_id, [server], key, user_data)
        self.client = NetcodeClient(token)
        host, port = server.rsplit(":", 1)
        self.to = (host, int(port))
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.01)
        self.got: list[bytes] = []

    def turn(self) -> None:
        now_ms = int(time.monotonic() * 1000)
        for datagram in self.client.poll(now_ms):
            self.socket.sendto(datagram, self.to)
        try:
            while True:
                self.got += self.client.handle_datagram(now_ms, self.socket.recv(2048))
        except TimeoutError:
            pass

    def until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < end, self.client.state
            self.turn()

    def send(self, payload: bytes) -> None:
        self.client.send(payload)
        self.turn()


def serve(edge: Edge) -> str:
    return edge.listen_udp("127.0.0.1:0", protocol_id=PROTOCOL, private_key=KEY)


def test_sessions_carry_packets_both_ways_beside_tcp() -> None:
    with running() as (edge, consumer):
        player = Player(serve(edge), 2**63)
        player.until(lambda: player.client.connected)
        (connection,) = consumer.opened()
        opening = consumer.opening(connection)
        assert opening["transport"] == "udp"
        assert opening["client_id"] == str(2**63)
        assert bytes.fromhex(opening["user_data"]) == (b"\x03ada" + b"\xff" * 8).ljust(256, b"\0")
        for sequence in range(100):
            player.send(body(3, sequence, b"input"))
        consumer.until(lambda rows: len(consumer.packets(connection)) == 100)
        assert sorted(consumer.packets(connection)) == [(3, sequence, b"input") for sequence in range(100)]
        assert edge.send([(connection, 0x44, n, bytes(1188)) for n in range(10)]) == 0
        player.until(lambda: len(player.got) == 10)
        assert sorted(player.got) == [body(0x44, n, bytes(1188)) for n in range(10)]
        tcp = dial(edge.listen_tcp("127.0.0.1:0"))
        tcp.sendall(packet(1, 1))
        assert len(set(consumer.opened(2))) == 2


def test_bad_datagrams_are_counted_and_sessions_go_on() -> None:
    with running() as (edge, consumer):
        address = serve(edge)
        player = Player(address, 1)
        player.until(lambda: player.client.connected)
        noise = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        host, port = address.split(":")
        for length in range(0, 1500, 10):
            noise.sendto(bytes([0x85]) * length, (host, int(port)))
        wrong_key, wrong_protocol = Player(address, 2, key=bytes(32)), Player(address, 3, protocol=78)
        end = time.monotonic() + DEADLINE_S
        counters = edge.counters()
        while not (counters["netcode_seal"] and counters["netcode_protocol"]):
            assert time.monotonic() < end, counters
            wrong_key.turn()
            wrong_protocol.turn()
            counters = edge.counters()
        assert counters["netcode_malformed"] + counters["netcode_unexpected"] == 150
        assert counters["opened"] == 1
        player.send(body(3, 9, b"still"))
        (connection,) = consumer.opened()
        consumer.until(lambda rows: bool(consumer.packets(connection)))
        assert noise.getsockname() != player.socket.getsockname()
        noise.settimeout(0.05)
        with pytest.raises(TimeoutError):
            noise.recv(100)


def test_the_end_of_a_session_is_told_to_both_sides() -> None:
    with running() as (edge, consumer):
        address = serve(edge)
        leaver, kicked, last = (Player(address, number) for number in (1, 2, 3))
        for number, player in enumerate((leaver, kicked, last), 1):
            player.until(lambda player=player: player.client.connected)  # type: ignore[misc]
            consumer.opened(number)
        leaver_id, kicked_id, last_id = consumer.opened(3)
        leaver.client.disconnect()
        leaver.turn()
        assert consumer.close_reason(leaver_id) == "UDP session disconnected by the client"
        edge.close(kicked_id, "second login")
        assert consumer.close_reason(kicked_id) == "closed by the server: second login"
        kicked.until(lambda: not kicked.client.connected)
        assert edge.send([(kicked_id, 1, 1, b""), (last_id, 1, 1, b"yes")]) == 1
        last.until(lambda: bool(last.got))
        edge.stop(1_000)
        assert consumer.close_reason(last_id) == "the server stops"
        last.until(lambda: not last.client.connected)


def test_a_silent_session_times_out() -> None:
    with running() as (edge, consumer):
        address = serve(edge)
        player = Player(address, 1, timeout_s=3)
        player.until(lambda: player.client.connected)
        (connection,) = consumer.opened()
        assert consumer.close_reason(connection) == "UDP session timed out"
        assert edge.connections == 0


def test_a_hundred_clients_at_once_each_get_their_own() -> None:
    with running(loops=2) as (edge, _):
        address = serve(edge)
        players = [Player(address, number + 1) for number in range(100)]
        for player in players:
            player.socket.settimeout(0)

        def turn_all(done: Callable[[Player], bool]) -> None:
            end = time.monotonic() + DEADLINE_S
            while not all(done(player) for player in players):
                assert time.monotonic() < end
                for player in players:
                    with contextlib.suppress(BlockingIOError):
                        player.turn()
                edge.send([row for row in edge.receive() if row[1] < OPEN])

        turn_all(lambda player: player.client.connected)
        for number, player in enumerate(players):
            player.client.send(body(3, number, bytes([number])))
        turn_all(lambda player: bool(player.got))
        assert [player.got[0] for player in players] == [body(3, n, bytes([n])) for n in range(100)]


def test_bad_arguments_are_errors() -> None:
    with running() as (edge, consumer):
        assert isinstance(consumer, Consumer)
        with pytest.raises(OSError, match="public address"):
            edge.listen_udp("0.0.0.0:0", protocol_id=1, private_key=KEY)
        with pytest.raises((ValueError, TypeError)):
            edge.listen_udp("127.0.0.1:0", protocol_id=1, private_key=KEY[:-1])
