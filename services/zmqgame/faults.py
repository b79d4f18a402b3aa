"""A bad network between a client and its game server, for tests: latency, jitter, loss, reorder, disconnect.

    network = BadNetwork(Faults(latency_ms=60, jitter_ms=20, loss=0.02, disconnect=0.001), seed=7)
    async with Client(tickets, handler, network=network) as client:
        ...
        network.cut()                        # all connections, now
        network.faults = Faults(loss=0.3)    # from now on
        network.down = True                  # all connections break, nobody connects, until it is False

It stands inside the client's process, beside real sockets to a real server, so a game's tests need no rights
and no other program. The same seed makes the same decisions for the n-th packet of the n-th connection; when
packets come is up to the processes. `Wire` is the decisions alone, pure, for simulations in virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, Literal

from zmqgame import limits
from zmqgame.links import Datagrams, Link, LinkClosed, open_link

__all__ = ["BadNetwork", "Faults", "Wire"]


@dataclass(frozen=True)
class Faults:
    """How bad it is: each way for itself, shares between 0 and 1."""

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    """Up to so much more, evenly."""
    loss: float = 0.0
    """Datagrams: share that is lost. Streams lose nothing: share that comes late, by `retransmit_ms`."""
    retransmit_ms: float = 200.0
    reorder: float = 0.0
    """Datagrams: share that is held back by `reorder_ms`, so that later ones overtake it."""
    reorder_ms: float = 30.0
    repeat: float = 0.0
    """Datagrams: share that comes twice."""
    disconnect: float = 0.0
    """Streams: share of the packets at which the connection breaks; what was under way is lost."""

    def __post_init__(self) -> None:
        for name in ("loss", "reorder", "repeat", "disconnect"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a share, 0 to 1")
        for name in ("latency_ms", "jitter_ms", "retransmit_ms", "reorder_ms"):
            if not 0.0 <= getattr(self, name) <= 60_000.0:
                raise ValueError(f"{name} is 0 to 60,000 ms")


class Wire:
    """One direction of one connection: when what is sent now arrives. Pure: the time is an argument."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._last_ms = 0.0

    def _delay_ms(self, faults: Faults) -> float:
        return faults.latency_ms + self._random.random() * faults.jitter_ms

    def stream(self, faults: Faults, now_ms: float) -> float | None:
        """When a packet of a stream arrives, never before the one ahead; None: the connection breaks."""
        breaks, late = self._random.random() < faults.disconnect, self._random.random() < faults.loss
        at_ms = now_ms + self._delay_ms(faults) + (faults.retransmit_ms if late else 0.0)
        self._last_ms = max(self._last_ms, at_ms)
        return None if breaks else self._last_ms

    def datagram(self, faults: Faults, now_ms: float) -> list[float]:
        """When a datagram arrives: never, once or twice."""
        lost, held, twice = (
            self._random.random() < share for share in (faults.loss, faults.reorder, faults.repeat)
        )
        first_ms, second_ms = (now_ms + self._delay_ms(faults) for _ in range(2))
        if lost:
            return []
        first_ms += faults.reorder_ms if held else 0.0
        return [first_ms, second_ms] if twice else [first_ms]


class BadNetwork:
    """What a `Client` connects through. `counters` say what was done to it."""

    def __init__(self, faults: Faults | None = None, *, seed: int = 0) -> None:
        self.faults = faults or Faults()
        self.seed = seed
        self._down = False
        self.counters: Counter[str] = Counter()
        self._connections = 0
        self._open: set[_BadLink] = set()

    @property
    def down(self) -> bool:
        """Whether nothing goes through."""
        return self._down

    @down.setter
    def down(self, down: bool) -> None:
        self._down = down
        if down:
            self.cut()

    def cut(self) -> None:
        """Break all connections; what was under way is lost."""
        for link in list(self._open):
            link.abort()

    def _wires(self) -> tuple[Wire, Wire]:
        self._connections += 1
        name = f"{self.seed}/{self._connections}"
        return Wire(f"{name}/out"), Wire(f"{name}/in")

    async def open_link(self, transport: Literal["ws", "tcp"], tcp: str, ws: str) -> Link:
        """As `links.open_link`."""
        out, back = self._wires()
        if self.down:
            self.counters["not_connected"] += 1
            raise TimeoutError("the network is down")
        await asyncio.sleep(2 * out._delay_ms(self.faults) / 1_000)
        link = _BadLink(self, await open_link(transport, tcp, ws), out, back)
        self._open.add(link)
        self.counters["connections"] += 1
        return link

    def datagrams(self, connect_token: bytes, address: str) -> Datagrams:
        """As `links.Datagrams`."""
        return _BadDatagrams(self, connect_token, address)


class _BadLink:
    """A stream whose packets take their time, and which breaks."""

    def __init__(self, network: BadNetwork, inner: Link, out: Wire, back: Wire) -> None:
        self._network = network
        self._inner = inner
        self._wires = out, back
        self._sent: deque[bytes] = deque()
        self._came: asyncio.Queue[tuple[float, tuple[int, int, bytes] | None]] = asyncio.Queue(
            limits.FAULT_PACKETS
        )
        self._broken = False
        self._last_s = 0.0  # when the last packet under way arrives
        self._reader = asyncio.ensure_future(self._read())

    def send(self, packet: bytes) -> None:
        loop = asyncio.get_running_loop()
        at_ms = self._wires[0].stream(self._network.faults, loop.time() * 1_000)
        if at_ms is None or len(self._sent) >= limits.FAULT_PACKETS:
            self._break()
        elif not self._broken:
            self._sent.append(packet)
            self._last_s = at_ms / 1_000
            loop.call_at(at_ms / 1_000, self._arrive)

    def _arrive(self) -> None:
        """The first under way is there: times never decrease, so it is the one that is due."""
        if self._sent:
            self._inner.send(self._sent.popleft())

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                packet = await self._inner.receive()
                at_ms = self._wires[1].stream(self._network.faults, loop.time() * 1_000)
                if at_ms is None:
                    break
                await self._came.put((at_ms / 1_000, packet))
        except (LinkClosed, OSError):
            await self._came.put((0.0, None))
            return
        self._break()

    async def receive(self) -> tuple[int, int, bytes]:
        """The next packet."""
        at_s, packet = await self._came.get()
        await asyncio.sleep(at_s - asyncio.get_running_loop().time())
        if packet is None or self._broken:
            raise LinkClosed("broken by the network" if self._broken else "closed")
        return packet

    def _break(self) -> None:
        if not self._broken:
            self._network.counters["broken"] += 1
            self.abort()

    def abort(self) -> None:
        """Cut."""
        self._broken = True
        self._sent.clear()
        self._inner.abort()
        self._reader.cancel()
        with contextlib.suppress(asyncio.QueueFull):
            self._came.put_nowait((0.0, None))
        self._network._open.discard(self)

    async def close(self) -> None:
        """Close in order: what is under way arrives."""
        self._reader.cancel()
        if self._sent:
            await asyncio.sleep(self._last_s - asyncio.get_running_loop().time())
        self._network._open.discard(self)
        await self._inner.close()


class _BadDatagrams(Datagrams):
    """Datagrams of which some come late, twice or never."""

    def __init__(self, network: BadNetwork, connect_token: bytes, address: str) -> None:
        super().__init__(connect_token, address)
        self._network = network
        self._out, self._back = network._wires()
        self._under_way = 0

    def _put(self, datagram: bytes) -> None:
        self._carry(self._out, super()._put, datagram)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """A datagram, before the network has done what it does to it."""
        self._carry(self._back, lambda late: super(_BadDatagrams, self).datagram_received(late, addr), data)

    def _carry(self, wire: Wire, arrive: Any, datagram: bytes) -> None:
        loop = asyncio.get_running_loop()
        times = wire.datagram(self._network.faults, loop.time() * 1_000)
        if not times:
            self._network.counters["datagrams_lost"] += 1
        for at_ms in times:
            if self._under_way < limits.FAULT_PACKETS:
                self._under_way += 1
                loop.call_at(at_ms / 1_000, self._land, arrive, datagram)

    def _land(self, arrive: Any, datagram: bytes) -> None:
        self._under_way -= 1
        if not self._network.down:
            arrive(datagram)
