"""The edge over TCP and Unix sockets: packets in any split, order, bounds, time-outs, drain."""

import asyncio
import contextlib
import random
import socket
import threading
from pathlib import Path

import pytest
from zmqgame_native import Edge

from tests.edge_tools import DEADLINE_S, OPEN, Consumer, dial, packet, parse, read_all, running, until


def test_a_stream_byte_by_byte_gives_the_same_packets() -> None:
    with running() as (edge, consumer):
        client = dial(edge.listen_tcp("127.0.0.1:0"))
        for byte in packet(1, 7, b"hello") + packet(2, 2**64 - 1) + packet(3, 0, bytes(300)):
            client.send(bytes([byte]))
        consumer.count(4)
        (connection,) = consumer.opened()
        assert consumer.packets(connection) == [(1, 7, b"hello"), (2, 2**64 - 1, b""), (3, 0, bytes(300))]
        name = "{}:{}".format(*client.getsockname())
        assert consumer.opening(connection) == {"transport": "tcp", "peer": name}
        assert edge.peer(connection) == name


@pytest.mark.parametrize("loops", [1, 3])
def test_random_sizes_and_splits_echo_byte_exact(loops: int) -> None:
    """Sixteen clients at once, packets up to the limit, cut anywhere; every byte comes back in order."""
    rng = random.Random(loops)
    with running(loops=loops, max_outbound_bytes=1 << 24) as (edge, _):
        address = edge.listen_tcp("127.0.0.1:0")
        done = threading.Event()

        def echo() -> None:
            while not done.is_set():
                if edge.wait(50):
                    rows = [row for row in edge.receive() if row[1] < OPEN]
                    assert edge.send(rows) == 0

        def client(stream: bytes, sizes: list[int], got: list[bytes]) -> None:
            sock = dial(address)

            def write() -> None:
                at = 0
                for size in sizes:
                    sock.sendall(stream[at : at + size])
                    at += size
                sock.sendall(stream[at:])

            writer = threading.Thread(target=write)
            writer.start()
            data = bytearray()
            while len(data) < len(stream):
                piece = sock.recv(65_536)
                assert piece
                data += piece
            writer.join()
            got.append(bytes(data))

        def one_stream() -> bytes:
            sizes = [rng.choice([0, 5, 64, 1_000, 65_524, rng.randrange(65_524)]) for _ in range(20)]
            return b"".join(
                packet(rng.randrange(OPEN), n, rng.randbytes(size)) for n, size in enumerate(sizes)
            )

        streams = [one_stream() for _ in range(16)]
        results: list[list[bytes]] = [[] for _ in streams]
        threads = [threading.Thread(target=echo)]
        for stream, got in zip(streams, results, strict=True):
            cuts = [rng.choice([1, 3, 16, 700, 9_000, 40_000]) for _ in range(60)]
            threads.append(threading.Thread(target=client, args=(stream, cuts, got)))
        for thread in threads:
            thread.start()
        for thread in threads[1:]:
            thread.join(120)
        done.set()
        threads[0].join()
        until(lambda: edge.counters()["outbound_bytes_now"] == 0, "no bytes stay charged")
        assert results == [[stream] for stream in streams]


def test_raw_framing_passes_bytes_as_they_come_and_lets_the_server_speak_first() -> None:
    with running() as (edge, consumer):
        client = dial(edge.listen_tcp("127.0.0.1:0", framing="raw"))
        (connection,) = consumer.opened()
        edge.send([(connection, 0, 0, b"220 hello\r\n")])
        assert client.recv(100) == b"220 hello\r\n"
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        consumer.count(2)
        assert consumer.packets(connection) == [(0, 0, b"GET / HTTP/1.1\r\n\r\n")]


def test_a_unix_socket_and_ipv6_serve_too(tmp_path: Path) -> None:
    with running() as (edge, consumer):
        path = tmp_path / "edge"
        assert edge.listen_unix(path) == str(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(packet(1, 1, b"unix"))
            consumer.count(2)
        client = dial(edge.listen_tcp("[::1]:0"))
        client.sendall(packet(1, 2, b"six"))
        first, second = consumer.opened(2)
        consumer.until(lambda rows: bool(consumer.packets(second)))
        assert consumer.opening(first)["transport"] == "unix"
        assert consumer.packets(second) == [(1, 2, b"six")]


def test_a_proxy_names_its_clients_on_tcp_and_on_a_unix_socket(tmp_path: Path) -> None:
    source = socket.inet_aton("192.0.2.7") + socket.inet_aton("192.0.2.9") + bytes((15, 160, 0, 80))
    header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c" + source
    with running() as (edge, consumer):
        path = edge.listen_unix(tmp_path / "proxy", proxy_protocol=True)
        listed = edge.listen_tcp("127.0.0.1:0", proxy_protocol=["192.0.2.0/24", "127.0.0.0/8"])
        refusing = edge.listen_tcp("127.0.0.1:0", proxy_protocol=["192.0.2.0/24"])
        with socket.socket(socket.AF_UNIX) as local:
            local.connect(path)
            proxy = dial(listed)
            for stream in (local, proxy):
                stream.sendall(header + packet(1, 1))
            for connection in consumer.opened(2):
                assert edge.peer(connection) == "192.0.2.7:4000"
        # A reset, when what was sent is thrown away.
        with contextlib.suppress(ConnectionError):
            assert dial(refusing).recv(1) == b""
        assert edge.counters()["refused_proxy"] == 1
        for wrong in ([], ["10.0.0.1/8"], ["somewhere"]):
            with pytest.raises(ValueError, match="proxy_protocol: "):
                edge.listen_tcp("127.0.0.1:0", proxy_protocol=wrong)


@pytest.mark.parametrize(
    ("garbage", "counter", "reason"),
    [
        (b"\xff" * 64, "packet_too_long", "limit 65536"),
        (b"\x00" * 64, "packet_too_short", "shorter than its header"),
        (packet(0xF0, 1, b"{}"), "packet_own_kind", "the edge's own"),
        (b"\x0c\x00\x00\x00\x01\x01" + bytes(10), "packet_reserved", "must be 0"),
        (packet(1, 1, bytes(65_525)), "packet_too_long", "65537 bytes: limit 65536"),
    ],
)
def test_garbage_is_refused_and_counted_and_others_go_on(garbage: bytes, counter: str, reason: str) -> None:
    with running() as (edge, consumer):
        address = edge.listen_tcp("127.0.0.1:0")
        good, bad = dial(address), dial(address)
        good.sendall(packet(1, 1))
        (fine,) = consumer.opened()
        bad.sendall(packet(5, 5, b"before it") + garbage)
        _, broken = consumer.opened(2)
        assert reason in consumer.close_reason(broken)
        assert consumer.packets(broken) == [(5, 5, b"before it")]
        assert read_all(bad) == b""
        assert edge.counters()[counter] == edge.counters()["bad_bytes"] == 1
        good.sendall(packet(2, 2))
        consumer.until(lambda rows: len(consumer.packets(fine)) == 2)
        assert edge.send([(broken, 1, 1, b"x"), (fine, 9, 9, b"still here")]) == 1
        assert parse(good.recv(100)) == [(9, 9, b"still here")]


def test_a_slow_reader_is_closed_at_its_bound_and_others_are_not() -> None:
    with running(max_outbound_bytes=200_000) as (edge, consumer):
        address = edge.listen_tcp("127.0.0.1:0")
        slow, fast = dial(address, receive_buffer=4_096), dial(address)
        slow.sendall(packet(1, 1))
        (slow_id,) = consumer.opened()
        fast.sendall(packet(1, 1))
        _, fast_id = consumer.opened(2)
        received = bytearray()
        sent = refused = 0
        while not refused:
            assert sent < 20_000, "a client that never reads was never refused"
            refused = edge.send([(slow_id, 9, sent, bytes(10_000))])
            assert edge.send([(fast_id, 9, sent, bytes(100))]) == 0
            sent += 1
            while len(received) < sent * 116:
                received += fast.recv(65_536)
        assert consumer.close_reason(slow_id).startswith("full: more than 200000 bytes")
        assert edge.send([(slow_id, 9, 0, b"")]) == 1
        counters = edge.counters()
        assert counters["closed_full"] == counters["refused_full"] == 1
        until(lambda: edge.counters()["outbound_bytes_now"] == 0, "no bytes stay charged")
        assert [sequence for _, sequence, _ in parse(bytes(received))] == list(range(sent))


def test_idle_and_silent_connections_are_closed_and_a_slow_first_packet_too() -> None:
    with running(idle_ms=3_000, handshake_ms=2_000) as (edge, consumer):
        address = edge.listen_tcp("127.0.0.1:0")
        silent, drip, idle = dial(address), dial(address), dial(address)
        drip.sendall(packet(1, 1, b"never whole")[:9])
        idle.sendall(packet(1, 1))
        consumer.opened(2)
        reasons = sorted(consumer.close_reason(connection) for connection in consumer.opened(2))
        assert reasons == ["handshake: no first packet in 2000 ms", "idle: no packet in 3000 ms"]
        assert [read_all(client) for client in (silent, drip, idle)] == [b"", b"", b""]
        assert edge.counters()["closed_handshake"] == 2
        assert edge.counters()["closed_idle"] == 1


def test_the_cap_of_connections_closes_the_next_and_frees_with_the_last() -> None:
    with running(max_connections=3) as (edge, consumer):
        address = edge.listen_tcp("127.0.0.1:0")
        clients = [dial(address) for _ in range(3)]
        for client in clients:
            client.sendall(packet(1, 1))
        consumer.opened(3)
        assert read_all(dial(address)) == b""
        assert edge.counters()["refused_connections"] == 1
        clients[0].close()
        until(lambda: edge.connections == 2, "the closed connection is let go")
        again = dial(address)
        again.sendall(packet(1, 1))
        assert len(set(consumer.opened(4))) == 4


def test_close_lets_the_client_read_what_was_sent_before() -> None:
    with running() as (edge, consumer):
        client = dial(edge.listen_tcp("127.0.0.1:0"))
        client.sendall(packet(1, 1))
        (connection,) = consumer.opened()
        client.sendall(packet(2, 2, bytes(30_000)))
        edge.send([(connection, 9, n, bytes(5_000)) for n in range(100)])
        edge.close(connection, "kicked")
        assert [sequence for _, sequence, _ in parse(read_all(client))] == list(range(100))
        assert consumer.close_reason(connection) == "closed by the server: kicked"
        client.close()
        until(lambda: edge.connections == 0, "the closed connection is let go")
        assert edge.counters()["outbound_bytes_now"] == 0


def test_stop_drains_what_is_queued() -> None:
    with running(max_outbound_bytes=1 << 25) as (edge, consumer):
        address = edge.listen_tcp("127.0.0.1:0")
        client = dial(address)
        client.sendall(packet(1, 1))
        (connection,) = consumer.opened()
        edge.send([(connection, 9, n, bytes(60_000)) for n in range(200)])
        stopper = threading.Thread(target=edge.stop, args=(60_000,))
        stopper.start()
        assert [sequence for _, sequence, _ in parse(read_all(client))] == list(range(200))
        client.close()
        stopper.join(DEADLINE_S)
        assert not stopper.is_alive()
        assert consumer.close_reason(connection) == "the server stops"
        with pytest.raises(ConnectionRefusedError):
            dial(address)
        with pytest.raises(OSError, match="stopped"):
            edge.listen_tcp("127.0.0.1:0")
        assert edge.send([(connection, 9, 1, b"late")]) == 1


def test_stop_gives_up_at_its_deadline() -> None:
    with running(max_outbound_bytes=1 << 25) as (edge, consumer):
        client = dial(edge.listen_tcp("127.0.0.1:0"), receive_buffer=4_096)
        client.sendall(packet(1, 1))
        (connection,) = consumer.opened()
        edge.send([(connection, 9, n, bytes(60_000)) for n in range(200)])
        edge.stop(200)
        assert edge.connections == 0


def test_resets_and_half_closes_are_told_as_what_they_are() -> None:
    with running() as (edge, consumer):
        address = edge.listen_tcp("127.0.0.1:0")
        half, reset = dial(address), dial(address)
        half.sendall(packet(1, 1, b"last words"))
        half.shutdown(socket.SHUT_WR)
        (first,) = consumer.opened()
        assert consumer.close_reason(first) == "closed by the client"
        assert consumer.packets(first) == [(1, 1, b"last words")]
        reset.sendall(packet(1, 1))
        _, second = consumer.opened(2)
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        reset.close()
        assert "connection reset" in consumer.close_reason(second)


def test_a_consumer_that_is_behind_stops_the_reading_and_loses_nothing() -> None:
    total = 3_000
    with running(max_inbound_bytes=65_536) as (edge, consumer):
        client = dial(edge.listen_tcp("127.0.0.1:0"))

        def flood() -> None:
            client.sendall(b"".join(packet(1, n, bytes(1_000)) for n in range(total)))

        writer = threading.Thread(target=flood)
        writer.start()
        until(lambda: edge.counters()["inbound_pauses"] > 0, "the inbox is full")
        consumer.count(total + 1)
        writer.join(DEADLINE_S)
        (connection,) = consumer.opened()
        assert [sequence for _, sequence, _ in consumer.packets(connection)] == list(range(total))


async def test_asyncio_wakes_by_the_descriptor() -> None:
    edge = Edge()
    loop = asyncio.get_running_loop()
    host, port = edge.listen_tcp("127.0.0.1:0").split(":")

    def ready() -> None:
        edge.send([row for row in edge.receive() if row[1] < OPEN])

    loop.add_reader(edge.fileno(), ready)
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
        for number in range(50):
            writer.write(packet(1, number, b"ping"))
            assert parse(await asyncio.wait_for(reader.readexactly(20), DEADLINE_S)) == [(1, number, b"ping")]
        writer.close()
    finally:
        loop.remove_reader(edge.fileno())
        edge.stop(0)


def test_an_address_in_use_and_bad_settings_are_errors() -> None:
    with running() as (edge, _):
        address = edge.listen_tcp("127.0.0.1:0")
        with pytest.raises(OSError, match="in use"):
            edge.listen_tcp(address)
        with pytest.raises(ValueError, match="framing"):
            edge.listen_tcp("127.0.0.1:0", framing="pages")
    with pytest.raises(ValueError, match="loops is 0: must be 1 to 64"):
        Edge(loops=0)


def test_ids_that_nobody_has_are_refused() -> None:
    with running() as (edge, _):
        assert edge.send([(connection, 1, 1, b"") for connection in (0, 1, 2**63, 2**64 - 1, 1 << 40)]) == 5
        edge.close(12345)
        assert edge.peer(12345) is None
        assert isinstance(Consumer(edge).edge.receive().packets(), list)
