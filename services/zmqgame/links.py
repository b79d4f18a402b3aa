"""A client's connections: TCP and WebSocket streams of packets, and netcode datagrams for inputs."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from typing import Any, Literal, Protocol

import websockets
from zmqgame_native import NetcodeClient

from zmqgame import protocol

MAX_PACKET_BYTES = (1 << 20) + 65_536  # a bus message of 1 MiB and its head
CONNECT_TIMEOUT_S = 5.0
OUT_PACKETS = 2_048  # 20 s of a player's inputs; over it the connection is cut
POLL_S = 0.1  # netcode wants to send by itself: requests ten times a second, keep-alives


class LinkClosed(ConnectionError):
    """The connection is gone."""


class Link(Protocol):
    """A stream of packets."""

    def send(self, packet: bytes) -> None:
        """Send one packet; what a closed link is given is lost."""

    async def receive(self) -> tuple[int, int, bytes]:
        """The next packet: kind, sequence, payload; raises `LinkClosed`."""

    async def close(self) -> None:
        """Close in order."""

    def abort(self) -> None:
        """Cut."""


async def open_link(
    transport: Literal["ws", "tcp"], tcp: str, ws: str, tls: ssl.SSLContext | None = None
) -> Link:
    """Connect to a game server; by TLS when its `ws` says wss, trusting whom `tls` or the system trusts."""
    context = (tls or ssl.create_default_context()) if ws.startswith("wss://") else None
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        if transport == "ws":
            return await WebSocketLink.open(ws, context)
        return await TcpLink.open(tcp, context)


class Network(Protocol):
    """How a client reaches servers: directly, or in tests through `faults.BadNetwork`."""

    async def open_link(self, transport: Literal["ws", "tcp"], tcp: str, ws: str) -> Link:
        """Connect a stream."""

    def datagrams(self, connect_token: bytes, address: str) -> Datagrams:
        """A netcode client, not started yet."""


class Direct:
    """The network as it is; `ca_file` has the certificates that are trusted in the place of the system's."""

    def __init__(self, ca_file: str | None = None) -> None:
        self._tls = ssl.create_default_context(cafile=ca_file) if ca_file else None

    async def open_link(self, transport: Literal["ws", "tcp"], tcp: str, ws: str) -> Link:
        """Connect a stream."""
        return await open_link(transport, tcp, ws, self._tls)

    def datagrams(self, connect_token: bytes, address: str) -> Datagrams:
        """A netcode client, not started yet."""
        return Datagrams(connect_token, address)


class TcpLink:
    """Packets with their length before them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: str, tls: ssl.SSLContext | None = None) -> TcpLink:
        """Connect to host:port."""
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host.strip("[]"), int(port), ssl=tls))

    def send(self, packet: bytes) -> None:
        """Send one packet."""
        if not self._writer.is_closing():
            self._writer.write(protocol.LENGTH.pack(len(packet)) + packet)

    async def receive(self) -> tuple[int, int, bytes]:
        """The next packet."""
        try:
            (length,) = protocol.LENGTH.unpack(await self._reader.readexactly(protocol.LENGTH.size))
            if length > MAX_PACKET_BYTES:
                raise LinkClosed(f"a packet of {length} bytes is over {MAX_PACKET_BYTES}")
            return protocol.read_packet(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise LinkClosed(str(error)) from error

    async def close(self) -> None:
        """Close in order."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Cut."""
        self._writer.transport.abort()


class WebSocketLink:
    """One binary message is one packet."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._out: asyncio.Queue[bytes | None] = asyncio.Queue(OUT_PACKETS)
        self._writer = asyncio.ensure_future(self._write())

    @classmethod
    async def open(cls, address: str, tls: ssl.SSLContext | None = None) -> WebSocketLink:
        """Connect to a ws:// address, or with `tls` to a wss:// one."""
        return cls(
            await websockets.connect(
                address, ssl=tls, max_size=MAX_PACKET_BYTES, compression=None, ping_interval=None, proxy=None
            )
        )

    def send(self, packet: bytes) -> None:
        """Send one packet; a connection that takes none for long is cut."""
        try:
            self._out.put_nowait(packet)
        except asyncio.QueueFull:
            self.abort()

    async def _write(self) -> None:
        with contextlib.suppress(websockets.ConnectionClosed, OSError):
            while (packet := await self._out.get()) is not None:
                await self._socket.send(packet)

    async def receive(self) -> tuple[int, int, bytes]:
        """The next packet."""
        try:
            data = await self._socket.recv(decode=False)
        except (websockets.ConnectionClosed, OSError) as error:
            raise LinkClosed(str(error)) from error
        return protocol.read_packet(data)

    async def close(self) -> None:
        """Send what waits, then close in order."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._out.put(None), 0.5)
            await asyncio.wait_for(self._writer, 0.5)
        self._writer.cancel()
        with contextlib.suppress(TimeoutError, OSError, websockets.ConnectionClosed):
            await asyncio.wait_for(self._socket.close(), 0.5)

    def abort(self) -> None:
        """Cut."""
        self._socket.transport.abort()


class Datagrams(asyncio.DatagramProtocol):
    """A netcode client on a UDP socket."""

    def __init__(self, connect_token: bytes, address: str) -> None:
        self._netcode = NetcodeClient(connect_token, int(time.time()))
        host, _, port = address.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._transport: asyncio.DatagramTransport | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether payloads go through."""
        return self._netcode.connected

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            await loop.create_datagram_endpoint(lambda: self, remote_addr=self._address)
            while True:
                self._flush()
                await asyncio.sleep(POLL_S)

    def connection_made(self, transport: Any) -> None:
        """The socket is there."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """A datagram: what follows from it is sent at once."""
        self._netcode.handle_datagram(_now_ms(), data)
        self._flush()

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there (any more): inputs go on the stream."""

    def send(self, packet: bytes) -> None:
        """One payload; may get lost."""
        with contextlib.suppress(ConnectionError):
            self._netcode.send(packet)
        self._flush()

    def _flush(self) -> None:
        for datagram in self._netcode.poll(_now_ms()):
            self._put(datagram)

    def _put(self, datagram: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(datagram)

    def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.close()


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
