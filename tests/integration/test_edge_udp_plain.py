"""Plain UDP of the edge from Python: a datagram is a packet, an address a connection."""

import random
import socket
import threading

import pytest
from zmqgame_native import Edge

from tests.edge_tools import CLOSE, DEADLINE_S, OPEN, running, until


def dial(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    client = socket.socket(family, socket.SOCK_DGRAM)
    client.connect((host.strip("[]"), int(port)))
    client.settimeout(DEADLINE_S)
    return client


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
@pytest.mark.parametrize("loops", [1, 3])
def test_datagrams_are_packets_both_ways(loops: int, address: str) -> None:
    edge = Edge(loops=loops)
    bound = edge.listen_udp_plain(address)
    over = threading.Event()

    def echo() -> None:
        while not over.is_set():
            if edge.wait(20):
                edge.send([row for row in edge.receive() if row[1] < OPEN])

    thread = threading.Thread(target=echo)
    thread.start()
    try:
        clients = [dial(bound) for _ in range(8)]
        for size in (0, 1, 64, 1_000, 1_472, 9_000, 65_507):
            for number, client in enumerate(clients):
                sent = random.Random(number * size).randbytes(size)
                client.send(sent)
                assert client.recv(70_000) == sent
        assert edge.connections == len(clients)
        counters = edge.counters()
        assert counters["datagrams_in"] == counters["packets_in"] == 7 * len(clients)
    finally:
        over.set()
        thread.join()
        edge.stop(500)


def test_an_address_opens_and_ends_as_a_connection() -> None:
    with running(idle_ms=3_000, max_connections=2) as (edge, consumer):
        address = edge.listen_udp_plain("127.0.0.1:0")
        first, second, third = dial(address), dial(address), dial(address)
        first.send(b"hello")
        (connection,) = consumer.opened()
        host, port = first.getsockname()
        assert consumer.opening(connection) == {"transport": "udp-plain", "peer": f"{host}:{port}"}
        consumer.until(lambda rows: bool(consumer.packets(connection)))
        assert consumer.packets(connection) == [(0, 0, b"hello")]
        assert edge.send([(connection, 7, 7, b"kind and number stay here")]) == 0
        assert first.recv(100) == b"kind and number stay here"

        second.send(b"x")
        third.send(b"over the limit")
        until(lambda: edge.counters()["refused_connections"] == 1, "the third is refused")
        assert consumer.close_reason(connection) == "idle: no packet in 3000 ms"
        until(lambda: edge.connections == 0, "both have ended")
        third.send(b"now there is room")
        consumer.until(lambda rows: any(row[3] == b"now there is room" for row in rows))


def test_a_closed_address_begins_anew() -> None:
    with running() as (edge, consumer):
        client = dial(edge.listen_udp_plain("127.0.0.1:0"))
        client.send(b"one")
        (connection,) = consumer.opened()
        edge.close(connection, "enough")
        assert consumer.close_reason(connection) == "closed by the server: enough"
        client.send(b"two")
        again = consumer.opened(2)[1]
        assert again != connection
        assert edge.send([(connection, 0, 0, b"late")]) == 1
        assert sum(row[1] == CLOSE for row in consumer.rows) == 1


def test_an_address_that_is_taken_is_an_error() -> None:
    with running() as (edge, _):
        address = edge.listen_udp_plain("127.0.0.1:0")
        with pytest.raises(OSError, match="in use"):
            edge.listen_udp_plain(address)
