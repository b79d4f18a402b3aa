"""A TCP proxy in user space that cuts, delays, stalls and swallows what passes: many kernels have no netem.

One `Route` a node: it listens on a port of its own and forwards to one target. What a route may do to its
connections are real things that happen between machines:

- `cut`: both sides see a reset; new connections are refused until `mend`.
- `stall`: bytes wait, in the given directions, and come later: a link that is silent for a while.
- `rate`: so many bytes a second at most, a tenth of them at a time: a slow link.
- `delay`: each piece is late by this much, order kept.
- `swallow`: bytes are taken and never forwarded; `mend` then cuts the connection. TCP confirmed them to their
  sender, the other side never saw them: the lost tail of a half-open link.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

PIECE_BYTES = 65_536
WAITING_PIECES = 64
"""Pieces between reading and writing of one direction: a full queue stops reading, as a full window does."""

UP, DOWN = "up", "down"
"""From the node towards the hub; from the hub towards the node."""
BOTH = (UP, DOWN)


class Route:
    """One listening port and where it leads."""

    def __init__(self, name: str, target: tuple[str, int]) -> None:
        self.name = name
        self.target = target
        self.port = 0
        self.connections = 0
        self._host = "127.0.0.1"
        self.longest_gap_s = 0.0
        """With a rate: the longest time between two pieces: beyond 0.1 s the machine stood still."""
        self._rate = 0
        self._delay_s = 0.0
        self._stalled: set[str] = set()
        self._swallowing: set[str] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._refusing = False
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str = "127.0.0.1") -> Route:
        self._host = host
        self._server = await asyncio.start_server(self._accepted, host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def endpoint(self) -> str:
        return f"tcp://{self._host}:{self.port}"

    def cut(self, *, refuse: bool = False) -> None:
        """Reset all connections; with `refuse`, new ones too until `mend`."""
        self._refusing = refuse
        for pair in list(self._pairs):
            for writer in pair:
                _reset(writer)

    def rate(self, bytes_per_s: int) -> None:
        self._rate, self.longest_gap_s = bytes_per_s, 0.0

    def delay(self, delay_s: float) -> None:
        self._delay_s = delay_s

    def stall(self, *ways: str) -> None:
        self._stalled |= set(ways or BOTH)
        self._open.clear()

    def swallow(self, *ways: str) -> None:
        self._swallowing |= set(ways or BOTH)

    def mend(self) -> None:
        """Let everything pass again; what was swallowed shows by a cut."""
        swallowed = bool(self._swallowing)
        self._rate, self._delay_s, self._refusing = 0, 0.0, False
        self._stalled.clear()
        self._swallowing.clear()
        self._open.set()
        if swallowed:
            self.cut()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        self._open.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._connection(reader, writer)
        finally:
            self._tasks.discard(task)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _reset(writer)
            return
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            _reset(writer)
            return
        pair = (writer, far_writer)
        self._pairs.add(pair)
        ways = [
            asyncio.ensure_future(self._forward(UP, reader, far_writer)),
            asyncio.ensure_future(self._forward(DOWN, far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._pairs.discard(pair)
            for each in pair:
                each.close()

    async def _forward(self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read and write apart, so that a delay is a delay and no limit of the rate."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING_PIECES)
        writing = asyncio.ensure_future(self._write(way, queue, writer))
        loop = asyncio.get_running_loop()
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(PIECE_BYTES):
                    if way not in self._swallowing:
                        await queue.put((loop.time() + self._delay_s, data))
            await queue.put((0.0, b""))
            await writing
        finally:
            writing.cancel()

    async def _write(
        self, way: str, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while True:
                due, data = await queue.get()
                late = due - loop.time()
                if late > 0:
                    await asyncio.sleep(late)
                while way in self._stalled:
                    await self._open.wait()
                if not data:
                    return
                while self._rate and len(data) > self._rate // 10:
                    writer.write(data[: self._rate // 10])
                    await writer.drain()
                    data = data[self._rate // 10 :]
                    before = loop.time()
                    await asyncio.sleep(0.1)
                    self.longest_gap_s = max(self.longest_gap_s, loop.time() - before)
                writer.write(data)
                await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset, what waits is thrown away."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
