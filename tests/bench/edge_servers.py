"""The Python servers of the edge's benchmark: `python -m tests.bench.edge_servers KIND WORK` prints where.

Kind `inline` is our edge with the handler on its loop's thread, `edge` with the handler on one of its own.

Work: `raw` echoes bytes; `seen` looks at each framed message and echoes them all; `answered` answers each
framed message by itself; `websocket` echoes messages.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from typing import Any

from zmqgame.cli.bench_edge_servers import RawEcho, answer, echo

HEAD = struct.Struct("<IBBHQ")
OPEN = 0xF0


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
        at, end, unpack = 0, len(data), HEAD.unpack_from
        while at + 16 <= end:
            length, kind, _, _, sequence = unpack(data, at)
            if at + 4 + length > end:
                break
            payload = data[at + 16 : at + 4 + length]
            if payload and kind < OPEN and sequence:
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
        unpack, pack = HEAD.unpack_from, HEAD.pack
        while at + 16 <= end:
            length, kind, _, _, sequence = unpack(data, at)
            if at + 4 + length > end:
                break
            payload = data[at + 16 : at + 4 + length]
            out.append(pack(12 + len(payload), kind, 0, 0, sequence) + payload)
            at += 4 + length
        self.rest = data[at:]
        self.transport.write(b"".join(out))


def serve_edge(work: str, *, inline: bool = False) -> None:
    """Our edge; the same works with batches."""
    from zmqgame_native import Edge, PacketBatch

    edge, seen = Edge(idle_ms=0, handshake_ms=0), 0

    def see(batch: PacketBatch) -> PacketBatch:
        nonlocal seen
        for kind, sequence, payload in zip(batch.kind, batch.sequence, batch.payloads(), strict=True):
            if payload and kind < OPEN and sequence:
                seen += 1
        return batch

    handler = {"raw": echo, "seen": see, "answered": answer, "websocket": answer}[work]
    print(edge.listen_tcp("127.0.0.1:0", framing="raw" if work == "raw" else "packets"), flush=True)
    edge.serve(handler, inline=inline)


async def serve_protocol(work: str) -> None:
    """The same with a Protocol."""
    factory = {"raw": RawEcho, "seen": Seen, "answered": Answered}[work]
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, backlog=4096)
    print("{}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await server.serve_forever()


async def serve_picows() -> None:
    """A WebSocket echo with picows, as its documentation writes it."""
    from picows import WSListener, WSMsgType, ws_create_server

    class Listener(WSListener):  # type: ignore[misc]
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


def main(kind: str, work: str) -> None:
    """Serve until killed."""
    if kind in ("edge", "inline"):
        serve_edge(work, inline=kind == "inline")
        return
    if kind == "picows":
        main = serve_picows()
    elif kind == "websockets":
        main = serve_websockets()
    else:
        main = serve_protocol(work)
    if kind == "asyncio":
        asyncio.run(main)
    else:
        import uvloop

        uvloop.run(main)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
