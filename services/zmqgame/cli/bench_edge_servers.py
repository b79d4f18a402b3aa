"""The servers of `bench edge`, each a process of its own: `... -m zmqgame.cli.bench_edge_servers KIND MODE`.

Each prints its address. KIND is `edge`, `inline` (the handler on the loop's thread), `asyncio` or `uvloop`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from zmqgame_native import PacketBatch, WriteBatch

NETCODE_KEY: Final = bytes([5] * 32)
NETCODE_PROTOCOL: Final = 1
_FIRST_OWN_KIND: Final = 0xF0


class RawEcho(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """One read."""
        self.transport.write(data)


def echo(batch: PacketBatch) -> PacketBatch:
    """Send all back as it is."""
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
    print(address, flush=True)
    server.serve(answer if mode in ("answers", "websocket") else echo, inline=inline)


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


async def serve_protocol() -> None:
    """The same bytes through a Protocol."""
    server = await asyncio.get_running_loop().create_server(RawEcho, "127.0.0.1", 0, backlog=4_096)
    print("{}:{}".format(*server.sockets[0].getsockname()), flush=True)
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
                raise click.ClickException(f"the {kind} server did not start; is {kind} installed?")
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
    elif kind == "uvloop":
        import uvloop

        uvloop.run(serve_protocol())
    else:
        asyncio.run(serve_protocol())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
