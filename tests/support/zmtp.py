"""A native ZMTP peer on a plain socket, so that libzmq can be its other side and every byte is seen."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from zmqgame_native import ZmtpPeer


@dataclass
class Line:
    """One connection of a native peer: moves bytes, keeps what passed in each direction."""

    peer: ZmtpPeer
    socket: socket.socket
    messages: list[bytes] = field(default_factory=list)
    steps: list[tuple[str, bytes]] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self.socket.settimeout(0.02)
        self.flush()

    def flush(self) -> None:
        output = self.peer.output()
        if output:
            self.steps.append(("out", output))
            self.socket.sendall(output)

    def turn(self) -> None:
        try:
            data = self.socket.recv(65_536)
        except TimeoutError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return
        self.steps.append(("in", data))
        try:
            self.messages += self.peer.receive(data)
        finally:
            self.flush()

    def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"timed out: {self.messages!r} {self.steps!r}"
            assert not self.closed, "the other side closed"
            self.turn()

    def send(self, payload: bytes) -> None:
        assert self.peer.send(payload)
        self.flush()

    def received(self) -> bytes:
        return b"".join(data for way, data in self.steps if way == "in")

    def sent(self) -> bytes:
        return b"".join(data for way, data in self.steps if way == "out")


def listen() -> tuple[socket.socket, str]:
    """Listen on a free port; also gives libzmq's name for it."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(60)
    return listener, f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Split what follows a greeting into (flags, body), by the book and apart from our decoder."""
    found = []
    while data:
        if data[0] & 2:
            head, length = 9, int.from_bytes(data[1:9], "big")
        else:
            head, length = 2, data[1]
        found.append((data[0], data[head : head + length]))
        data = data[head + length :]
    return found
