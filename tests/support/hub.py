"""A native hub with a SQLite mailbox, as the hub's process runs it, and raw bus frames to talk to it."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zmqgame_bus.hub import StoreKeeper
from zmqgame_bus.mailbox import open_mailbox
from zmqgame_native import Hub, node_key

WELCOME, ERROR, PONG = 0x41, 0x4D, 0x10


@contextmanager
def running_hub(folder: Path, *, hub_epoch: int = 1, **options: Any) -> Iterator[Hub]:
    """A hub on a free port of loopback; its mailbox is in `folder` and outlives it."""
    mailbox = open_mailbox(f"sqlite:{folder}/mailbox.db")
    try:
        hub = Hub(options.pop("listen", ["tcp://127.0.0.1:0"]), hub_epoch=hub_epoch, **options)
        keeper = StoreKeeper(hub, mailbox, logging.getLogger("tests.hub"))
        keeper.start()
        try:
            yield hub
        finally:
            hub.stop(1_000)
            assert hub.wait(10_000) is not None
            keeper.join()
            assert keeper.error is None
    finally:
        mailbox.close()


def text(value: str) -> bytes:
    """A name or text on the wire."""
    data = value.encode()
    return struct.pack("<I", len(data)) + data


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    """One message: header and fields."""
    return struct.pack("<IBBH", len(body) + 8, kind, flags, 0) + body


def hello(name: str, *, epoch: int = 1, connection: int = 1, versions: tuple[int, int] = (1, 1)) -> bytes:
    """The first message of a node."""
    fixed = struct.pack("<HHQQQIQQ", *versions, node_key(name), epoch, connection, 0, 1, 0)
    return message(0x01, fixed + text(name) + struct.pack("<I", 0))


def ping(nonce: int) -> bytes:
    """A node's ping."""
    return message(0x0F, struct.pack("<QQ", nonce, 1))


def messages(frame: bytes) -> list[tuple[int, bytes]]:
    """Kinds and fields of a frame."""
    found = []
    while frame:
        length, kind = struct.unpack_from("<IB", frame)
        found.append((kind, frame[8:length]))
        frame = frame[length:]
    return found
