"""Where messages are, as events: tables `hops` and `hop_sums` in ClickHouse.

Two kinds of processes write them. The hub gives hops and sums of what it answered (`HubTrace`); a node that
hosts players gives hops of what was traced, and sums of all that its clients have handled (`HostTrace`).
Both sums are counts and wrapping sums of the same hash of ids, so the two sides can be compared:
`zmqgame-cli audit delivery`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from typing import Any, Final

import orjson
from zmqgame_native import Delivery, HandledSums, Hub, node_key

from zmqgame_bus.errors import BusError, ZmqgameError
from zmqgame_bus.events import Emitter, open_emitter
from zmqgame_bus.keys import NodeKeys
from zmqgame_bus.limits import HOP_SUM_PAIRS, HOPS_A_SECOND, HUB_SPOOL_BYTES
from zmqgame_bus.messages import Request
from zmqgame_bus.node import Node
from zmqgame_bus.process import Process

__all__ = ["HostTrace", "HubEvents", "HubTrace", "hop_id"]

_TAKE_S: Final = 0.5
_SUMS_FULL: Final = 4_096
"""So many sums come at once at most: then more wait."""
_BAD: Final = frozenset({"refused", "expired", "dropped"})
_BAD_LINES: Final = 10
"""Lines of the log for them each time: 20 a second."""
_LOG = logging.getLogger(__name__)


def hop_id(key: int, epoch: int, seq: int) -> str:
    """An id as the tables have it: without the sender's name, which not everybody knows."""
    return f"0x{key:016x}/{epoch}/{seq}"


class HubTrace:
    """Takes what the hub has recorded, and emits it."""

    def __init__(self, hub: Hub, emitter: Emitter, name: str) -> None:
        self._hub, self._emitter, self._name = hub, emitter, name

    async def run(self) -> None:
        """For as long as the hub runs."""
        while True:
            await asyncio.sleep(_TAKE_S)
            await asyncio.to_thread(self.take)

    def take(self, *, all: bool = False) -> None:
        """Emit what there is, in bounds; with ``all`` also the second under way."""
        while True:
            hops, sums = self._hub.take_trace(int(HOPS_A_SECOND * _TAKE_S), all=all)
            self._log_bad(hops)
            for at_us, hop, id, player, node, row, detail in hops:
                self._emitter.emit(
                    "hops",
                    at_us=at_us,
                    id=hop_id(*id),
                    hop=hop,
                    place=self._name,
                    player=player,
                    node=node,
                    row=row,
                    detail=detail,
                )
            for second, outcome, sender, host, messages, id_sum in sums:
                self._emitter.emit(
                    "hop_sums",
                    second=second,
                    kind=outcome,
                    sender=f"0x{node_key(sender):016x}",
                    name=sender,
                    host=host,
                    messages=messages,
                    id_sum=id_sum,
                )
            if len(sums) < _SUMS_FULL:
                return

    def _log_bad(self, hops: Iterable[tuple[Any, ...]]) -> None:
        """What was not delivered, by its id; a flood is summed up."""
        bad = [hop for hop in hops if hop[1] in _BAD]
        for _, hop, id, player, _, _, detail in bad[:_BAD_LINES]:
            extra = {"id": hop_id(*id), "player": player, "outcome": hop}
            _LOG.info("message %s: %s", hop, detail or player, extra=extra)
        if len(bad) > _BAD_LINES:
            _LOG.info("%d more messages were not delivered", len(bad) - _BAD_LINES)


class HostTrace:
    """What a node that hosts players notes of their messages. Belongs to the node's event loop."""

    def __init__(self, emitter: Emitter, name: str) -> None:
        self._emitter, self._name = emitter, name
        self._sums = HandledSums()
        self._traced: dict[tuple[int, int, int], None] = {}
        self._left = float(HOPS_A_SECOND)

    def handed(self, player: str, deliveries: Iterable[Delivery]) -> None:
        """These went to the player's client."""
        for delivery in deliveries:
            if delivery.traced:
                numbers = delivery.id.numbers()
                self._traced[numbers] = None
                if len(self._traced) > HOP_SUM_PAIRS:
                    del self._traced[next(iter(self._traced))]
                self._hop("handed", player, numbers)

    def handled(self, player: str, numbers: tuple[int, int, int]) -> None:
        """The player's client has handled this one."""
        if self._sums.add(numbers) or (self._traced and numbers in self._traced):
            self._hop("client acked", player, numbers)

    async def run(self) -> None:
        """Emit the sums every second, also when nothing more is handled."""
        while True:
            await asyncio.sleep(1.0)
            self.flush()

    def flush(self) -> None:
        """Emit the sums; also at the end."""
        self._left = float(HOPS_A_SECOND)
        for second, key, messages, id_sum in self._sums.take():
            self._emitter.emit(
                "hop_sums",
                second=second,
                kind="handled",
                sender=f"0x{key:016x}",
                name="",
                host=self._name,
                messages=messages,
                id_sum=id_sum,
            )

    def _hop(self, hop: str, player: str, numbers: tuple[int, int, int]) -> None:
        self._left -= 1
        if self._left >= 0:
            self._emitter.emit(
                "hops",
                at_us=time.time_ns() // 1_000,
                id=hop_id(*numbers),
                hop=hop,
                place=self._name,
                player=player,
                node=self._name,
                row=0,
                detail="",
            )


class HubEvents:
    """The hub's own place among the sources of events: an emitter, and a node that stats can ask.

    The node comes first and at once, since a restarted hub waits for the nodes that it knew, this one too;
    the spool takes as long as it takes. None of it may end the hub, or hold it up.
    """

    def __init__(self, process: Process, hub: Hub, keys: NodeKeys | None) -> None:
        self.emitter: Emitter | None = None
        self._process, self._hub = process, hub
        own = process.state_dir / "node"  # beside hub.epoch: a node keeps its epoch under the same name
        with contextlib.suppress(OSError):  # then the node does not start, and says why
            own.mkdir(mode=0o700, exist_ok=True)
        self._node = Node(process.name, _reachable(hub.endpoints[0]), state_dir=own, keys=keys)
        self._node.serve(f"spool:{process.name}", self._serve)
        self._work: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; nothing is waited for."""
        self._work = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._node.start()
            self.emitter = await asyncio.to_thread(self._open)
            await HubTrace(self._hub, self.emitter, self._process.name).run()
        except (ZmqgameError, OSError) as error:
            self._process.log.warning("messages are not traced: %s", error)

    def _open(self) -> Emitter:
        return open_emitter(self._process, spool_bytes=HUB_SPOOL_BYTES)

    async def _serve(self, request: Request) -> bytes | dict[str, Any]:
        if self.emitter is None:
            raise BusError("the spool is being opened")
        return await asyncio.to_thread(self.emitter.answer, orjson.loads(request.payload))

    async def close(self) -> None:
        """Emit what is left, while the hub is still there."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        emitter = self.emitter
        if emitter is not None:
            await asyncio.to_thread(HubTrace(self._hub, emitter, self._process.name).take, all=True)
            await asyncio.to_thread(emitter.close)
        await self._node.close(0.2)


def _reachable(endpoint: str) -> str:
    """How this process itself reaches an address that stands for all of the machine's."""
    return endpoint.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
