"""The servers of `bench edge`, each a process of its own: `... -m zmqgame.cli.bench_edge_servers KIND MODE`.

Each prints its address. KIND is `edge`, `inline` (the handler on the loop's thread), or one of the peers;
`bench edge --help` tells the modes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from zmqgame_native import PacketBatch, WriteBatch

    Handler = Callable[[PacketBatch], PacketBatch | WriteBatch]

NETCODE_KEY: Final = bytes([5] * 32)
NETCODE_PROTOCOL: Final = 1
PEERS: Final = {
    "asyncio": ("raw", "seen", "answered"),
    "uvloop": ("raw", "seen", "answered"),
    "picows": ("websocket",),
    "websockets": ("websocket",),
}
"""Other servers, and the modes that they have."""
_FIRST_OWN_KIND: Final = 0xF0
_HEAD: Final = struct.Struct("<IBBHQ")


class RawEcho(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """One read."""
        self.transport.write(data)


class Seen(RawEcho):
    """Cuts packets with a struct loop, looks at each, sends the whole ones back as they stand."""

    def connection_made(self, transport: Any) -> None:
        """Begin a stream."""
        super().connection_made(transport)
        self.rest = b""
        self.seen = 0

    def data_received(self, data: bytes) -> None:
        """One read: the packets that are whole now."""
        data = self.rest + data if self.rest else data
        at, end, unpack = 0, len(data), _HEAD.unpack_from
        while at + 16 <= end:
            length, kind, _, _, sequence = unpack(data, at)
            if at + 4 + length > end:
                break
            payload = data[at + 16 : at + 4 + length]
            if payload and kind < _FIRST_OWN_KIND and sequence:
                self.seen += 1
            at += 4 + length
        self.rest = data[at:]
        self.transport.write(data[:at])


class Answered(Seen):
    """Cuts packets with a struct loop and answers each."""

    def data_received(self, data: bytes) -> None:
        """One read: the packets that are whole now."""
        data = self.rest + data if self.rest else data
        at, end, out = 0, len(data), []
        unpack, pack = _HEAD.unpack_from, _HEAD.pack
        while at + 16 <= end:
            length, kind, _, _, sequence = unpack(data, at)
            if at + 4 + length > end:
                break
            payload = data[at + 16 : at + 4 + length]
            out.append(pack(12 + len(payload), kind, 0, 0, sequence) + payload)
            at += 4 + length
        self.rest = data[at:]
        self.transport.write(b"".join(out))


PROTOCOLS: Final = {"raw": RawEcho, "seen": Seen, "answered": Answered}


def echo(batch: PacketBatch) -> PacketBatch:
    """Send all back as it is."""
    return batch


class See:
    """Looks at kind, sequence and payload of each packet, sends all back as it is."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, batch: PacketBatch) -> PacketBatch:
        """Handle a batch."""
        for kind, sequence, payload in zip(batch.kind, batch.sequence, batch.payloads(), strict=True):
            if payload and kind < _FIRST_OWN_KIND and sequence:
                self.seen += 1
        return batch


def answer(batch: PacketBatch) -> WriteBatch:
    """Look at each packet and answer each."""
    rows = zip(batch.kind, batch.payloads(), strict=True)
    return batch.reply([payload if kind < _FIRST_OWN_KIND else None for kind, payload in rows])


def serve_edge(mode: str, *, inline: bool) -> None:
    """Our edge, for all modes of streams, and for UDP."""
    from zmqgame_native import Edge, echo_natively

    server = Edge(idle_ms=0, handshake_ms=0, max_connections=65_536)
    if mode == "udp":
        address = server.listen_udp_plain("127.0.0.1:0")
    elif mode.startswith("tls:"):
        folder = Path(mode.removeprefix("tls:"))
        address = server.listen_tcp("127.0.0.1:0", tls=(folder / "certificate.pem", folder / "key.pem"))
    else:
        framing = "raw" if mode in ("raw", "native") else "packets"
        address = server.listen_tcp("127.0.0.1:0", framing=framing)
    if mode in ("udp", "native") or mode.startswith("tls:"):
        echo_natively(server)
        print(address, flush=True)
        threading.Event().wait()
    handlers: dict[str, Handler] = {"seen": See(), "answered": answer, "websocket": answer}
    print(address, flush=True)
    server.serve(handlers.get(mode, echo), inline=inline)


def count_datagrams(mode: str) -> None:
    """Take batches until stdin is closed; then tell how many packets there were."""
    from zmqgame_native import Edge

    server, total, over = Edge(), 0, threading.Event()
    if mode == "netcode":
        address = server.listen_udp("127.0.0.1:0", protocol_id=NETCODE_PROTOCOL, private_key=NETCODE_KEY)
    else:
        address = server.listen_udp_plain("127.0.0.1:0")

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    print(address, flush=True)
    while not over.is_set():
        if server.wait(50):
            total += len(server.receive())
    print(total, flush=True)


async def serve_protocol(mode: str) -> None:
    """The same bytes through a Protocol."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each write to a client that has gone
    loop, protocol = asyncio.get_running_loop(), PROTOCOLS[mode]
    server = await loop.create_server(protocol, "127.0.0.1", 0, backlog=4_096)
    print("{}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await server.serve_forever()


async def serve_picows() -> None:
    """A WebSocket echo with picows, as its documentation writes it."""
    from picows import WSListener, WSMsgType, ws_create_server

    class Listener(WSListener):
        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == WSMsgType.BINARY:
                transport.send(WSMsgType.BINARY, frame.get_payload_as_bytes())

    server = await ws_create_server(lambda _: Listener(), "127.0.0.1", 0, backlog=4096)
    print("{}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await server.serve_forever()


async def serve_websockets() -> None:
    """A WebSocket echo with websockets, as its documentation writes it; without compression, as all here."""
    from websockets.asyncio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, compression=None, backlog=4096, ping_interval=None) as server:
        print("{}:{}".format(*next(iter(server.sockets)).getsockname()), flush=True)
        await server.serve_forever()


@contextmanager
def server(kind: str, mode: str, core: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server's process on that core, and its address."""
    command = [sys.executable, "-m", "zmqgame.cli.bench_edge_servers", kind, mode]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                raise click.ClickException(
                    f"the {kind} server did not start; are {kind} and uvloop installed?"
                )
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), [core])
            yield process, address
        finally:
            process.kill()


def main(kind: str, mode: str) -> None:
    """Serve until killed."""
    if mode in ("netcode", "plain"):
        count_datagrams(mode)
    elif kind in ("edge", "inline"):
        serve_edge(mode, inline=kind == "inline")
    elif kind == "asyncio":
        asyncio.run(serve_protocol(mode))
    else:
        import uvloop

        peers = {"picows": serve_picows, "websockets": serve_websockets}
        uvloop.run(peers[kind]() if kind in peers else serve_protocol(mode))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
