"""WebSocket on the edge's TCP port, with a client that is not ours (`websockets`)."""

import socket
import struct

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode, Frame, Opcode
from websockets.sync.client import ClientConnection, connect

from tests.edge_tools import DEADLINE_S, body, dial, packet, read_all, running, until


class BytewiseSocket(socket.socket):
    """A socket that sends every byte by itself."""

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        for byte in bytes(data):
            super().sendall(bytes([byte]), flags)


def ws(address: str, **options: object) -> ClientConnection:
    return connect(f"ws://{address}", proxy=None, compression=None, **options)


def test_packets_cross_both_ways_beside_tcp_on_one_port() -> None:
    with running() as (edge, consumer):
        address = edge.listen_tcp("127.0.0.1:0")
        with ws(address) as client:
            client.send(body(1, 7, b"hello"))
            (connection,) = consumer.opened()
            consumer.until(lambda rows: bool(consumer.packets(connection)))
            assert consumer.packets(connection) == [(1, 7, b"hello")]
            assert consumer.opening(connection)["transport"] == "websocket"
            for size in (0, 100, 125 - 12, 126 - 12, 65_535 - 12, 65_536 - 12, 200_000):
                assert edge.send([(connection, 9, size, b"x" * size)]) == 0
                assert client.recv(timeout=DEADLINE_S) == body(9, size, b"x" * size)
            tcp = dial(address)
            tcp.sendall(packet(2, 2))
            assert len(consumer.opened(2)) == 2
            client.ping().wait(DEADLINE_S)
        assert consumer.close_reason(connection) == "closed by the client"
        until(lambda: edge.connections == 1, "the WebSocket is let go")


def test_fragmented_messages_are_one_packet() -> None:
    with running() as (edge, consumer), ws(edge.listen_tcp("127.0.0.1:0")) as client:
        whole = body(3, 4, bytes(range(256)) * 10)
        client.send([whole[at : at + 7] for at in range(0, len(whole), 7)])
        (connection,) = consumer.opened()
        consumer.until(lambda rows: bool(consumer.packets(connection)))
        assert consumer.packets(connection) == [(3, 4, bytes(range(256)) * 10)]


def test_byte_by_byte_from_the_handshake_on() -> None:
    with running() as (edge, consumer):
        host, port = edge.listen_tcp("127.0.0.1:0").split(":")
        sock = BytewiseSocket(socket.AF_INET, socket.SOCK_STREAM)
        sock.connect((host, int(port)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with ws(f"{host}:{port}", sock=sock) as client:
            client.send(body(1, 1, b"slowly"))
            client.send(body(1, 2, bytes(200)))
            (connection,) = consumer.opened()
            consumer.until(lambda rows: len(consumer.packets(connection)) == 2)
            assert consumer.packets(connection) == [(1, 1, b"slowly"), (1, 2, bytes(200))]


@pytest.mark.parametrize(
    ("message", "code", "counter"),
    [
        (bytes(65_537), CloseCode.MESSAGE_TOO_BIG, "packet_too_long"),
        ([bytes(40_000), bytes(40_000)], CloseCode.MESSAGE_TOO_BIG, "packet_too_long"),
        (b"short", CloseCode.INVALID_DATA, "packet_too_short"),
        (body(0xF1, 1, b"bye"), CloseCode.INVALID_DATA, "packet_own_kind"),
        ("text", CloseCode.UNSUPPORTED_DATA, "bad_websocket"),
    ],
)
def test_bad_messages_close_with_a_code_and_others_go_on(message: object, code: int, counter: str) -> None:
    with running() as (edge, consumer):
        address = edge.listen_tcp("127.0.0.1:0")
        with ws(address) as good, ws(address) as bad:
            good.send(body(1, 1))

            def exchange() -> None:
                # Whichever of the two comes after the refusal finds the connection closed.
                bad.send(message)  # type: ignore[arg-type]
                bad.recv(timeout=DEADLINE_S)

            with pytest.raises(ConnectionClosed) as closed:
                exchange()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == code
            assert edge.counters()[counter] == edge.counters()["bad_bytes"] == 1
            good.send(body(1, 2))
            first = consumer.until(lambda rows: any(row[1:3] == (1, 2) for row in rows))[0][0]
            assert edge.send([(first, 1, 1, b"")]) in (0, 1)


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / nonsense\r\n\r\n",
        b"GET /" + b"a" * 9_000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"H%d: x\r\n" % n for n in range(200)) + b"\r\n",
    ],
)
def test_a_bad_request_is_answered_400_and_counted(request_head: bytes) -> None:
    with running() as (edge, consumer):
        client = dial(edge.listen_tcp("127.0.0.1:0"))
        client.sendall(request_head)
        answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"bad WebSocket request" in answer
        assert edge.counters()["bad_request"] == 1
        assert edge.counters()["opened"] == 0
        client.close()
        until(lambda: edge.connections == 0, "the connection is let go")
        assert consumer.rows == []


def test_garbage_after_the_handshake_is_refused() -> None:
    unmasked = Frame(Opcode.BINARY, body(1, 1)).serialize(mask=False)
    reserved = struct.pack(">BB", 0xF2, 0x80) + bytes(4)
    for bad in (unmasked, reserved, b"\xff" * 64):
        with running() as (edge, consumer), ws(edge.listen_tcp("127.0.0.1:0")) as client:
            (connection,) = consumer.opened()
            client.socket.sendall(bad)
            assert consumer.close_reason(connection).startswith("bad WebSocket bytes")
            assert edge.counters()["bad_websocket"] == 1


def test_close_and_stop_tell_the_client_why() -> None:
    with running() as (edge, consumer):
        address = edge.listen_tcp("127.0.0.1:0")
        with ws(address) as first, ws(address) as second:
            by_name = {"{}:{}".format(*client.local_address[:2]): client for client in (first, second)}
            kicked, other = consumer.opened(2)
            clients = [by_name[consumer.opening(connection)["peer"]] for connection in (kicked, other)]
            edge.close(kicked, "second login")
            with pytest.raises(ConnectionClosed, match="second login"):
                clients[0].recv(timeout=DEADLINE_S)
            edge.stop(5_000)
            with pytest.raises(ConnectionClosed, match="the server stops"):
                clients[1].recv(timeout=DEADLINE_S)


def test_a_client_that_pings_and_never_reads_is_closed_at_the_bound() -> None:
    with running(max_outbound_bytes=4_096) as (edge, consumer):
        client = dial(edge.listen_tcp("127.0.0.1:0"), receive_buffer=2_304)
        client.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        (connection,) = consumer.opened()
        ping = Frame(Opcode.PING, bytes(125)).serialize(mask=True)

        def flood() -> None:
            for _ in range(200_000):
                client.sendall(ping * 50)

        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            flood()
        assert consumer.close_reason(connection).startswith("full")
