"""Blocking clients with as little Python as possible: the bus over a DEALER, NATS over a socket."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from multiprocessing.connection import Connection

import zmq
from zmqgame_native import node_key

from tests.support.hub import message, messages, text

BODY = b"x" * 64


def until_closed(pipe: Connection) -> None:
    """Wait for the parent to close its end."""
    with contextlib.suppress(EOFError):
        pipe.recv()


class RawDealer:
    """A blocking DEALER that packs the bus's messages by hand."""

    def __init__(self, endpoint: str, name: str, roles: list[str]) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger, self.socket.rcvtimeo = 0, 20_000
        self.socket.connect(endpoint)
        fixed = struct.pack("<HHQQQIQQ", 1, 1, node_key(name), time.time_ns(), 1, 0, 1, 0)
        listed = struct.pack("<I", len(roles)) + b"".join(map(text, roles))
        self.socket.send(message(0x01, fixed + text(name) + listed))
        while 0x41 not in dict(messages(self.socket.recv())):
            pass
        # Registration of no player, complete.
        self.socket.send(message(0x09, struct.pack("<I", 0), flags=4))
        self.call = 0

    def request(self) -> None:
        """One request and its answer; a ping of the hub is answered on the way."""
        self.call += 1
        body = struct.pack("<QI", self.call, 5_000) + text("raw") + struct.pack("<I", len(BODY)) + BODY
        self.socket.send(message(0x05, body))
        while True:
            for kind, fields in messages(self.socket.recv()):
                if kind == 0x4B:
                    assert struct.unpack_from("<QB", fields) == (self.call, 0), fields
                    return
                self.answer(kind, fields)

    def answer(self, kind: int, fields: bytes) -> None:
        """A call with what is always the answer, a ping of the hub."""
        if kind == 0x4A:
            self.socket.send(message(0x06, fields[:8] + b"\1" + struct.pack("<I", len(BODY)) + BODY))
        elif kind == 0x0F:
            self.socket.send(message(0x10, fields[:8] + struct.pack("<Q", 1)))


def run_raw_dealer(pipe: Connection, endpoint: str) -> None:
    """Answers requests for `raw`."""
    dealer = RawDealer(endpoint, "raw-far", ["raw"])
    dealer.socket.rcvtimeo = 200
    pipe.send("ready")
    while not pipe.poll():
        with contextlib.suppress(zmq.Again):
            for kind, fields in messages(dealer.socket.recv()):
                dealer.answer(kind, fields)
    dealer.socket.close()


class RawNats:
    """A blocking socket that speaks as much NATS as it needs."""

    def __init__(self, address: str, subject: str) -> None:
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(20)
        self.buffer = b""
        self.subject = subject.encode()
        self.socket.sendall(b'CONNECT {"verbose":false}\r\nSUB %b 1\r\nPING\r\n' % self.subject)
        while b"PONG\r\n" not in self.buffer:
            self.buffer += self.socket.recv(65_536)
        self.buffer = self.buffer.partition(b"PONG\r\n")[2]

    def request(self) -> None:
        """One request and its answer."""
        self.send(b"raw", self.subject)
        self.receive()

    def receive(self) -> bytes:
        """The reply subject of the next message, whose body is skipped."""
        while True:
            line, found, rest = self.buffer.partition(b"\r\n")
            if found and line == b"PING":
                self.socket.sendall(b"PONG\r\n")
                self.buffer = rest
            elif found and len(rest) >= len(BODY) + 2:
                self.buffer = rest[len(BODY) + 2 :]
                return line.split()[3]
            else:
                part = self.socket.recv(65_536)
                if not part:
                    raise ConnectionResetError("nats-server closed the connection")
                self.buffer += part

    def send(self, subject: bytes, reply: bytes) -> None:
        """One message."""
        self.socket.sendall(b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(BODY), BODY))


def run_raw_nats(pipe: Connection, address: str) -> None:
    """Answers what comes to `raw`."""
    peer = RawNats(address, "raw")
    peer.socket.settimeout(0.2)
    pipe.send("ready")
    while not pipe.poll():
        with contextlib.suppress(TimeoutError):
            peer.send(peer.receive(), b"none")
