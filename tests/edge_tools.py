"""What the tests of the edge share: the client packet written out by hand, and a consumer with deadlines."""

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zmqgame_native import Edge

from tests.waiting import DEADLINE_S, wait_until

OPEN, CLOSE = 0xF0, 0xF1
until = wait_until
Row = tuple[int, int, int, bytes]


def body(kind: int, sequence: int, payload: bytes = b"") -> bytes:
    """A packet as on WebSocket and UDP, written from CLIENT.md and not with our own code."""
    return struct.pack("<BBHQ", kind, 0, 0, sequence) + payload


def packet(kind: int, sequence: int, payload: bytes = b"") -> bytes:
    """A packet as on TCP."""
    return struct.pack("<I", 12 + len(payload)) + body(kind, sequence, payload)


def parse(data: bytes) -> list[tuple[int, int, bytes]]:
    """The packets of a whole TCP stream."""
    rows = []
    while data:
        length, kind, flags, reserved, sequence = struct.unpack_from("<IBBHQ", data)
        assert (flags, reserved) == (0, 0)
        rows.append((kind, sequence, data[16 : 4 + length]))
        data = data[4 + length :]
    return rows


class Consumer:
    """Takes rows until a condition holds, or fails at the deadline."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.rows: list[Row] = []

    def until(self, enough: Callable[[list[Row]], bool]) -> list[Row]:
        end = time.monotonic() + DEADLINE_S
        while not enough(self.rows):
            assert time.monotonic() < end, f"not seen in {DEADLINE_S} s; there is {self.rows[-5:]}"
            if self.edge.wait(100):
                self.rows.extend(self.edge.receive())
        return self.rows

    def count(self, number: int) -> list[Row]:
        return self.until(lambda rows: len(rows) >= number)

    def opened(self, number: int = 1) -> list[int]:
        self.until(lambda rows: sum(kind == OPEN for _, kind, _, _ in rows) >= number)
        return [connection for connection, kind, _, _ in self.rows if kind == OPEN]

    def close_reason(self, connection: int) -> str:
        self.until(lambda rows: any(row[:2] == (connection, CLOSE) for row in rows))
        return next(row[3].decode() for row in self.rows if row[:2] == (connection, CLOSE))

    def packets(self, connection: int) -> list[tuple[int, int, bytes]]:
        return [row[1:] for row in self.rows if row[0] == connection and row[1] < OPEN]

    def opening(self, connection: int) -> dict[str, str]:
        return next(json.loads(row[3]) for row in self.rows if row[:2] == (connection, OPEN))


@contextmanager
def running(**settings: int) -> Iterator[tuple[Edge, Consumer]]:
    edge = Edge(**settings)
    try:
        yield edge, Consumer(edge)
    finally:
        edge.stop(0)


def dial(address: str, receive_buffer: int = 0) -> socket.socket:
    host, port = address.rsplit(":", 1)
    client = socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET)
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(DEADLINE_S)
    client.connect((host.strip("[]"), int(port)))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def read_all(client: socket.socket) -> bytes:
    """Everything until the end; a reset counts as the end."""
    data = b""
    try:
        while piece := client.recv(65_536):
            data += piece
    except ConnectionResetError:
        pass
    return data
