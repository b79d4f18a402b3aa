"""Records a conversation of the native peer with libzmq: `python -m tests.vectors.zmtp.record FOLDER`.

Once recorded, a file is never made again to make a test pass. Keys and entropy are fixed, so the
native side's bytes are the same for ever; libzmq's are what it happened to send.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import zmq
from zmq.utils import z85
from zmqgame_native import ZmtpPeer, curve_public

from tests.support.zmtp import Line, listen

SERVER_SECRET = bytes([0x11] * 32)
CLIENT_SECRET = bytes([0x22] * 32)
ENTROPY = bytes(range(96))
MESSAGES = [b"", b"hello", b"x" * 300]


def line_text(name: str, value: bytes) -> str:
    """One line of a vector file, wrapped."""
    text = value.hex()
    parts = [text[i : i + 96] for i in range(0, len(text), 96)] or [""]
    return f"{name} " + "\n  ".join(parts) + "\n"


def record_router(curve: bool) -> str:
    """The native side is the ROUTER, libzmq a DEALER."""
    text = line_text("entropy", ENTROPY) + (line_text("secret", SERVER_SECRET) if curve else "")
    listener, endpoint = listen()
    dealer = zmq.Context.instance().socket(zmq.DEALER)
    if curve:
        dealer.curve_serverkey = z85.encode(curve_public(SERVER_SECRET))
        dealer.curve_publickey = z85.encode(curve_public(CLIENT_SECRET))
        dealer.curve_secretkey = z85.encode(CLIENT_SECRET)
    dealer.connect(endpoint)
    peer = ZmtpPeer("router", secret_key=SERVER_SECRET if curve else None, entropy=ENTROPY)
    line = Line(peer, listener.accept()[0])
    line.until(lambda: line.peer.ready)
    text += steps(line)
    for message in MESSAGES:
        dealer.send(message)
        count = len(line.messages)
        line.until(lambda count=count: len(line.messages) > count)
        text += steps(line) + line_text("message", message)
        line.send(message)
        text += line_text("send", message) + steps(line)
        assert dealer.recv() == message
    return text


def record_dealer(curve: bool) -> str:
    """The native side is the DEALER, libzmq a ROUTER."""
    server_key = curve_public(SERVER_SECRET)
    text = line_text("entropy", ENTROPY)
    if curve:
        text += line_text("secret", CLIENT_SECRET) + line_text("server_key", server_key)
    router = zmq.Context.instance().socket(zmq.ROUTER)
    if curve:
        router.curve_server = True
        router.curve_secretkey = z85.encode(SERVER_SECRET)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    peer = ZmtpPeer(
        "dealer",
        secret_key=CLIENT_SECRET if curve else None,
        server_key=server_key if curve else None,
        entropy=ENTROPY,
    )
    line = Line(peer, socket.create_connection(("127.0.0.1", port)))
    line.until(lambda: line.peer.ready)
    text += steps(line)
    for message in MESSAGES:
        line.send(message)
        text += line_text("send", message) + steps(line)
        identity, got = router.recv_multipart()
        assert got == message
        router.send_multipart([identity, message])
        count = len(line.messages)
        line.until(lambda count=count: len(line.messages) > count)
        text += steps(line) + line_text("message", message)
    return text


def steps(line: Line) -> str:
    """Bytes that passed since the last call."""
    text = "".join(line_text(way, data) for way, data in line.steps)
    line.steps.clear()
    return text


def main(folder: Path) -> None:
    """Write the four files that are not there yet."""
    head = f"# recorded with libzmq {zmq.zmq_version()}; `in` is libzmq, `out` is ours\n"
    for name, record in (("router", record_router), ("dealer", record_dealer)):
        for curve in (False, True):
            path = folder / f"{'curve' if curve else 'null'}-{name}.txt"
            if not path.exists():
                path.write_text(head + record(curve))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
