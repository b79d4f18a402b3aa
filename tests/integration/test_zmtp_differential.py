"""libzmq against our codec on the same bytes: any split, any size, and what either of them refuses.

Who follows the specification less closely than the other is named in STRICTER with the reason.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import zmq
from zmqgame_native import ZmtpPeer, ZmtpRefused

from tests.integration.test_zmtp_oracle import context, dealer_line, keys, router_line, zmq_dealer, zmq_router
from tests.support.zmtp import listen

__all__ = ["context", "keys"]

SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
LIMIT = 2 << 20
DEADLINE_S, QUIET_S = 60.0, 0.2


def greeting(
    major: int = 3, minor: int = 1, mechanism: bytes = b"NULL", server: int = 0, filler: bytes = bytes(31)
) -> bytes:
    return SIGNATURE + bytes([major, minor]) + mechanism.ljust(20, b"\0") + bytes([server]) + filler


def prop(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def command(name: bytes, data: bytes = b"") -> bytes:
    body = bytes([len(name)]) + name + data
    if len(body) > 255:
        return b"\x06" + struct.pack(">Q", len(body)) + body
    return bytes([4, len(body)]) + body


G = greeting()
TYPE = prop(b"Socket-Type", b"DEALER")
READY = command(b"READY", TYPE + prop(b"Identity", b""))
AFTER = b"\x00\x05after"

CASES = {
    "plain": G + READY,
    "no identity": G + command(b"READY", TYPE),
    "lower-case property name": G + command(b"READY", prop(b"socket-type", b"DEALER")),
    "unknown property": G + command(b"READY", TYPE + prop(b"X-Some", b"thing")),
    "minor 0": greeting(minor=0) + READY,
    "minor 2": greeting(minor=2) + READY,
    "minor 9": greeting(minor=9) + READY,
    "major 4": greeting(major=4) + READY,
    "filler not zero": greeting(filler=b"x" * 31) + READY,
    "as-server under NULL": greeting(server=1) + READY,
    "padding of signature": b"\xff" + b"abcdefgh" + b"\x7f" + G[10:] + READY,
    "bad signature": b"\xfe" + G[1:] + READY,
    "signature end": G[:9] + b"\x7e" + G[10:] + READY,
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(64),
    "mechanism unknown": greeting(mechanism=b"PLAIN") + READY,
    "mechanism garbage": greeting(mechanism=b"NULLX") + READY,
    "no socket type": G + command(b"READY", prop(b"Identity", b"")),
    "empty READY": G + command(b"READY"),
    "socket type PUB": G + command(b"READY", prop(b"Socket-Type", b"PUB")),
    "socket type nonsense": G + command(b"READY", prop(b"Socket-Type", b"NONSENSE")),
    "socket type ROUTER": G + command(b"READY", prop(b"Socket-Type", b"ROUTER")),
    "socket type REQ": G + command(b"READY", prop(b"Socket-Type", b"REQ")),
    "metadata cut": G + command(b"READY", TYPE[:-2]),
    "metadata value length over": G
    + command(b"READY", b"\x0bSocket-Type" + struct.pack(">I", 1 << 31) + b"DEALER"),
    "metadata name length 0": G + command(b"READY", TYPE + b"\0" + struct.pack(">I", 0)),
    "identity 256": G + command(b"READY", TYPE + prop(b"Identity", b"i" * 256)),
    "READY twice": G + READY + READY,
    "READY as message": G + b"\x00" + READY[1:],
    "other command first": G + command(b"HELLO", bytes(194)),
    "PING first": G + command(b"PING", b"\0\0"),
    "message first": G + b"\x00\x01x" + READY,
    "ERROR first": G + command(b"ERROR", b"\x03400") + READY,
    "ERROR malformed first": G + command(b"ERROR", b"\xff400") + READY,
    "command name length over": G + b"\x04\x06\x09READY",
    "command empty": G + b"\x04\x00" + READY,
    "READY long form": G + b"\x06" + struct.pack(">Q", len(READY) - 2) + READY[2:],
    "READY with MORE": G + b"\x05" + READY[1:],
    "reserved flag 0x08": G + READY + b"\x08\x01x",
    "reserved flag 0x80": G + READY + b"\x80\x01x",
    "long form of a short one": G + READY + b"\x02" + struct.pack(">Q", 1) + b"x",
    "length 2^63": G + READY + b"\x02" + struct.pack(">Q", 1 << 63),
    "length 2^64-1": G + READY + b"\x02" + b"\xff" * 8,
    "length over the limit": G + READY + b"\x02" + struct.pack(">Q", 3 << 20) + bytes(64),
    "PING": G + READY + command(b"PING", b"\x00\x0a"),
    "PING with context": G + READY + command(b"PING", b"\x00\x0aabcdefgh"),
    "PING context 17": G + READY + command(b"PING", b"\x00\x0a" + b"c" * 17),
    "PING without TTL": G + READY + command(b"PING"),
    "PONG": G + READY + command(b"PONG", b""),
    "PONG context 17": G + READY + command(b"PONG", b"c" * 17),
    "unknown command": G + READY + command(b"WHATEVER", b"x"),
    "SUBSCRIBE": G + READY + command(b"SUBSCRIBE", b"x"),
    "ERROR later": G + READY + command(b"ERROR", b"\x03bad"),
    "empty command later": G + READY + b"\x04\x00",
    "command with MORE later": G + READY + b"\x05" + command(b"PING", b"\0\0")[1:],
    "two parts": G + READY + b"\x01\x01a\x00\x01b",
    "empty message": G + READY + b"\x00\x00",
}

STRICTER = {
    "bad signature": "libzmq takes it for ZMTP 1.0 and waits",
    "no socket type": "RFC 37 wants one; libzmq connects",
    "empty READY": "the same",
    "socket type ROUTER": "legal, but the bus speaks to DEALER only",
    "socket type REQ": "the same: it would send an empty frame first",
    "metadata name length 0": "RFC 37: 1 to 255",
    "identity 256": "RFC 37: 0 to 255",
    "READY as message": "commands have the command bit; libzmq does not look at it before READY",
    "READY with MORE": "a command is one frame",
    "reserved flag 0x08": "RFC 37: reserved bits are zero",
    "reserved flag 0x80": "the same",
    "PING context 17": "RFC 37: 0 to 16 bytes; libzmq cuts it",
    "PING without TTL": "libzmq reads a TTL that is not there",
    "ERROR later": "the peer says that it is over",
    "empty command later": "a command has a name",
    "command with MORE later": "a command is one frame",
    "two parts": "a batch of the bus is one frame",
}
"""What we refuse and libzmq goes on with. Nothing is the other way round."""


def steps(data: bytes) -> Iterator[bytes]:
    """Greeting, one frame, the rest: libzmq takes no message before it has sent its own READY."""
    yield data[:64]
    rest = data[64:]
    if rest:
        head, length = (9, int.from_bytes(rest[1:9], "big")) if rest[0] & 2 else (2, rest[1])
        yield rest[: head + length]
        yield rest[head + length :]


class Asked:
    """A socket of libzmq and a plain connection to it."""

    def __init__(self, context: zmq.Context) -> None:
        self.router = context.socket(zmq.ROUTER)
        self.router.maxmsgsize = LIMIT
        port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.line = socket.create_connection(("127.0.0.1", port))
        self.line.settimeout(0.01)
        self.said, self.closed, self.took_after = b"", False, False

    def wait(self, condition: Callable[[], bool], patience_s: float) -> None:
        """Until this holds, or it closes, or nothing of both comes."""
        end = time.monotonic() + patience_s
        while not (condition() or self.closed) and time.monotonic() < end:
            try:
                piece = self.line.recv(4_096)
            except TimeoutError:
                continue
            self.said += piece
            self.closed = not piece

    def has_taken_after(self) -> bool:
        while self.router.poll(0):
            self.took_after |= self.router.recv_multipart()[-1] == b"after"
        return self.took_after

    def close(self) -> None:
        self.line.close()
        self.router.close(0)


def ask_libzmq(data: bytes, context: zmq.Context, *, greets: bool, decides: bool) -> str:
    """What it does with these bytes: where it is to say or do something, it may take its time."""
    asked = Asked(context)
    greeting, first, *rest = [*steps(data), AFTER]
    try:
        asked.line.sendall(greeting)
        asked.wait(lambda: len(asked.said) >= 64, DEADLINE_S if greets else QUIET_S)
        asked.line.sendall(first)
        asked.wait(lambda: len(asked.said) > 64, DEADLINE_S if greets else QUIET_S)
        asked.line.sendall(b"".join(rest))
        asked.wait(asked.has_taken_after, DEADLINE_S if decides else QUIET_S)
    except ConnectionError:
        return "refused"
    finally:
        asked.close()
    return "refused" if asked.closed else "goes on" if asked.took_after else "waits"


def ask_ours(data: bytes) -> str:
    peer = ZmtpPeer("router")
    try:
        return "goes on" if b"after" in peer.receive(data + AFTER) else "waits"
    except ZmtpRefused:
        return "refused"


@pytest.mark.parametrize("name", CASES)
def test_what_libzmq_refuses_we_refuse(name: str, context: zmq.Context) -> None:
    ours = ask_ours(CASES[name])
    decides = ours != "waits" and name not in STRICTER
    theirs = ask_libzmq(CASES[name], context, greets=ours == "goes on", decides=decides)
    if name in STRICTER:
        assert ours == "refused"
        assert theirs != "refused", "no difference any more: take it out of the list"
    else:
        assert ours == theirs


class Chopper:
    """A proxy that hands on bytes in pieces of its own: single ones first, then any size."""

    def __init__(self, port: int, seed: int) -> None:
        self._target, self._random = port, random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:
            return
        far = socket.create_connection(("127.0.0.1", self._target))
        self._sockets += [near, far]
        for one, other in ((near, far), (far, near)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        singles = 400
        try:
            while data := source.recv(65_536):
                while data:
                    size = 1 if singles > 0 else self._random.choice([1, 7, 100, 5_000, 65_536])
                    singles -= 1
                    sink.sendall(data[:size])
                    data = data[size:]
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        for each in self._sockets:
            each.close()


def payloads(seed: int) -> list[bytes]:
    chosen = random.Random(seed)
    sizes = [chosen.choice([0, 1, 2, 200, 254, 255, 256, 257, 4_000, 65_535, 70_000]) for _ in range(120)]
    return [chosen.randbytes(max(0, size + chosen.randint(-1, 1))) for size in sizes]


@pytest.mark.parametrize("seed", [1, 2])
def test_our_router_behind_a_line_that_cuts(context: zmq.Context, keys: dict[str, bytes], seed: int) -> None:
    listener, endpoint = listen()
    proxy = Chopper(int(endpoint.rpartition(":")[2]), seed)
    dealer = zmq_dealer(context, keys, heartbeat_ivl=20, heartbeat_timeout=60_000)
    dealer.connect(f"tcp://127.0.0.1:{proxy.port}")
    line = router_line(listener, keys)
    for payload in payloads(seed):
        dealer.send(payload)
    line.until(lambda: len(line.messages) == 120)
    assert line.messages == payloads(seed)
    for payload in payloads(seed + 10):
        line.send(payload)
        line.peer.ping()
        assert dealer.recv() == payload
    proxy.close()


@pytest.mark.parametrize("seed", [3, 4])
def test_our_dealer_behind_a_line_that_cuts(context: zmq.Context, keys: dict[str, bytes], seed: int) -> None:
    router, endpoint = zmq_router(context, keys)
    router.heartbeat_ivl = 20
    proxy = Chopper(int(endpoint.rpartition(":")[2]), seed)
    line = dealer_line(f"tcp://127.0.0.1:{proxy.port}", keys, b"our-id")
    line.until(lambda: line.peer.ready)
    for payload in payloads(seed):
        line.send(payload)
        line.peer.ping()
        assert router.recv_multipart() == [b"our-id", payload]
    for payload in payloads(seed + 10):
        router.send_multipart([b"our-id", payload])
    line.until(lambda: len(line.messages) == 120)
    assert line.messages == payloads(seed + 10)
    proxy.close()
