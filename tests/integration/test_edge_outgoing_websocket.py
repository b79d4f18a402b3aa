"""WebSockets that the edge connects to, ws and wss: Python's websockets as servers, and our own."""

import queue
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from tests.certificates import certificate
from tests.edge_tools import CLOSE, OPEN, Consumer, body, running

SIZES = [0, 1, 113, 114, 65_000, 5]


@contextmanager
def server(talk: Callable[[ServerConnection], None], tls: tuple[str, str] | None = None) -> Iterator[str]:
    """A server that is not ours; gives its URL."""
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
    with serve(talk, "localhost", 0, ssl=context, max_size=None) as running_server:
        thread = threading.Thread(target=running_server.serve_forever)
        thread.start()
        port = running_server.socket.getsockname()[1]
        try:
            yield f"{'wss' if tls else 'ws'}://localhost:{port}/play?room=1"
        finally:
            running_server.shutdown()
            thread.join()


def echo(connection: ServerConnection) -> None:
    """Sends everything back, each message in three fragments, with a ping between."""
    for message in connection:
        assert isinstance(message, bytes)
        connection.ping()
        connection.send([message[:5], b"", message[5:]])


@pytest.fixture(params=["ws", "wss"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str] | None:
    return certificate(tmp_path) if request.param == "wss" else None


def exchange(consumer: Consumer, connection: int) -> None:
    for number, size in enumerate(SIZES):
        consumer.edge.send([(connection, 3, number, bytes([number]) * size)])
        consumer.until(lambda rows, number=number: (connection, 3, number) in [row[:3] for row in rows])
    expected = [(3, number, bytes([number]) * size) for number, size in enumerate(SIZES)]
    assert consumer.packets(connection) == expected


def test_a_foreign_server_gets_and_sends_packets(tls: tuple[str, str] | None) -> None:
    seen: queue.SimpleQueue[object] = queue.SimpleQueue()

    def talk(connection: ServerConnection) -> None:
        assert connection.request
        seen.put(connection.request.path)
        echo(connection)
        seen.put((connection.close_code, connection.close_reason))

    with server(talk, tls) as url, running() as (edge, consumer):
        connection = edge.connect_websocket(url, tls=tls and tls[0])
        assert consumer.opened() == [connection]
        opening = consumer.opening(connection)
        assert opening["transport"] == "websocket"
        assert opening.get("tls") == ("1.3" if tls else None)
        exchange(consumer, connection)
        edge.close(connection, "enough")
        assert consumer.close_reason(connection) == "closed by the server: enough"
        assert seen.get(timeout=60) == "/play?room=1"
        assert seen.get(timeout=60) == (1000, "closed by the server: enough")


def test_a_foreign_server_says_goodbye() -> None:
    def talk(connection: ServerConnection) -> None:
        connection.send(body(1, 1, b"hello"))
        connection.close(1001, "going away")

    with server(talk) as url, running() as (edge, consumer):
        connection = edge.connect_websocket(url)
        assert consumer.close_reason(connection) == "closed by the client"
        assert consumer.packets(connection) == [(1, 1, b"hello")]
        assert [row[1] for row in consumer.rows] == [OPEN, 1, CLOSE]


def test_a_foreign_server_that_sends_text_is_told() -> None:
    codes: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def talk(connection: ServerConnection) -> None:
        connection.send("text")
        with suppress(ConnectionClosed):
            connection.recv()
        codes.put(connection.close_code)

    with server(talk) as url, running() as (edge, consumer):
        connection = edge.connect_websocket(url)
        assert "text" in consumer.close_reason(connection)
        assert codes.get(timeout=60) == 1003


def test_a_server_that_refuses_or_is_not_trusted_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    pair, other = certificate(tmp_path), certificate(tmp_path / "other")
    with running() as (edge, consumer):
        with server(echo, pair) as url:
            stranger = edge.connect_websocket(url, tls=other[0])
            assert consumer.close_reason(stranger).startswith("bad TLS: ")
        plain = edge.listen_tcp("127.0.0.1:0", framing="lines")
        silent = edge.connect_websocket(f"ws://{plain}/")
        consumer.until(lambda rows: any(row[3] == b"Upgrade: websocket" for row in rows))
        peer = next(row[0] for row in consumer.rows if row[3] == b"Upgrade: websocket")
        edge.send([(peer, 0, 0, b"HTTP/1.1 426 Upgrade Required\r"), (peer, 0, 0, b"\r")])
        reason = "connect: bad WebSocket answer: status 426 Upgrade Required"
        assert consumer.close_reason(silent) == reason
        for url, trusted in [("http://a/", None), ("wss://a/", None), ("ws://a/", pair[0]), ("ws://", None)]:
            with pytest.raises(ValueError, match=r'"|wss'):
                edge.connect_websocket(url, tls=trusted)


def test_our_own_edge_is_a_server_like_others(tls: tuple[str, str] | None) -> None:
    with running() as (far, other), running() as (edge, consumer):
        address = far.listen_tcp("127.0.0.1:0", tls=tls)
        scheme = "wss" if tls else "ws"
        connection = edge.connect_websocket(f"{scheme}://{address}", tls=tls and tls[0])
        (peer,) = other.opened()
        assert consumer.opened() == [connection]
        edge.send([(connection, 7, 9, b"there")])
        other.until(lambda rows: bool(other.packets(peer)))
        far.send([(peer, 8, 10, b"and back")])
        consumer.until(lambda rows: bool(consumer.packets(connection)))
        assert other.packets(peer) == [(7, 9, b"there")]
        assert consumer.packets(connection) == [(8, 10, b"and back")]
        far.close(peer, "enough")
        assert consumer.close_reason(connection) == "closed by the client"
