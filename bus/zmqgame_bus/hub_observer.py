"""What watches a running hub: its metrics, and the events that say where messages are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

import orjson
from zmqgame_native import Hub

from zmqgame_bus.hops import HubEvents
from zmqgame_bus.hub_metrics import hub_metrics
from zmqgame_bus.keys import Keyring, NodeKeys
from zmqgame_bus.metrics import Metric, emitter_metrics, serve_metrics
from zmqgame_bus.process import Process
from zmqgame_bus.tables import HubConfig

if TYPE_CHECKING:
    from zmqgame_bus.hub import StoreKeeper

__all__ = ["observe"]


async def observe(process: Process, keyring: Keyring, hub: Hub, keeper: StoreKeeper) -> None:
    """Until cancelled; StartError if the address of the metrics is taken."""
    events = None
    if process.config.table(HubConfig).trace:
        events = HubEvents(process, hub, _own_keys(keyring) if keyring.curve else None)
        events.start()
    try:
        async with serve_metrics(process, lambda: _metrics(hub, keeper, events)) as keeper.metrics:
            process.log.info("metrics: %s", keeper.metrics or "off", extra={"metrics": keeper.metrics})
            await asyncio.Event().wait()
    finally:
        if events is not None:
            await events.close()


def _own_keys(keyring: Keyring) -> NodeKeys:
    """The hub's own node has the hub's keys, also after they were changed."""
    pair = keyring.pair()
    return NodeKeys(pair.public, pair.secret, pair.public, source=lambda: _own_keys(keyring))


def _metrics(hub: Hub, keeper: StoreKeeper, events: HubEvents | None) -> Iterable[Metric]:
    yield from hub_metrics(
        orjson.loads(hub.metrics()), hub.counters(), keeper.latency, keeper.trouble, keeper.sizes
    )
    if events is not None and events.emitter is not None:
        yield from emitter_metrics(events.emitter)
