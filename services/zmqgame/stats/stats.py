"""The process `zmqgame-stats`: configuration, keys, node and service joined."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from zmqgame_bus.errors import CannotReachHub
from zmqgame_bus.keys import Keyring
from zmqgame_bus.metrics import serve_metrics
from zmqgame_bus.node import Node
from zmqgame_bus.process import Process, run
from zmqgame_bus.tables import BusConfig

from zmqgame.metrics import stats_metrics
from zmqgame.stats.clickhouse import Warehouse
from zmqgame.stats.config import StatsConfig
from zmqgame.stats.journal import Journal
from zmqgame.stats.serverkeys import ServerKeys
from zmqgame.stats.service import StatsService

STATUS_S = 5.0
HUB_WAIT_S = 2.0
"""Events are taken without a hub too: only gaps, confirmations and SQL need it."""


async def serve(process: Process) -> None:
    """Run stats until the process is told to stop."""
    config = process.config.table(StatsConfig)
    warehouse = await asyncio.to_thread(
        Warehouse,
        config.clickhouse,
        process.state_dir,
        sql_rows=config.sql_rows,
        sql_seconds=config.sql_seconds,
    )
    try:
        await _serve(process, config, warehouse)
    finally:
        await asyncio.to_thread(warehouse.close)


async def _serve(process: Process, config: StatsConfig, warehouse: Warehouse) -> None:
    keyring = Keyring(process.config)
    bus = process.config.table(BusConfig)
    node = Node(
        process.name,
        bus.hub,
        state_dir=process.state_dir,
        keys=keyring.node(),
        transport=bus.transport_of("stats"),
    )
    service = StatsService(config, warehouse, Journal(process.state_dir / "journal"), node)
    node.serve("stats", service.serve)
    stack = contextlib.AsyncExitStack()
    try:
        endpoint, watching = _bind(process, service, keyring)
        with contextlib.suppress(CannotReachHub):
            await node.start(timeout_s=HUB_WAIT_S)
        status = f"listening on {endpoint}" if node.up else f"listening on {endpoint}, waiting for the hub"
        serving = serve_metrics(process, lambda: stats_metrics(service, node))
        metrics = await stack.enter_async_context(serving)
        addresses = {"stats": endpoint, "clickhouse": warehouse.name, "metrics": metrics}
        await process.ready(status, addresses)
        telling = asyncio.create_task(_tell(process, service))
        lost = asyncio.create_task(node.ended())
        lost.add_done_callback(lambda _: process.request_stop())  # what is here is inserted first
        try:
            await service.run(process.stop)
            if lost.done():
                lost.result()
        finally:
            telling.cancel()
            lost.cancel()
            if watching is not None:
                watching.cancel()
    finally:
        await stack.aclose()
        service.close()
        await node.close()


def _bind(process: Process, service: StatsService, keyring: Keyring) -> tuple[str, asyncio.Task[None] | None]:
    """Listen; with CURVE, follow the key files."""
    if not keyring.curve:
        return service.bind(None, None), None
    keys = ServerKeys(service, keyring, process.log)
    return keys.bind(), asyncio.create_task(keys.run())


async def _tell(process: Process, service: StatsService) -> None:
    """One line for `systemctl status`, every few seconds."""
    while True:
        await asyncio.sleep(STATUS_S)
        process.status(service.summary())


def main() -> int:
    """Run `zmqgame-stats`."""
    return run("stats", serve)


if __name__ == "__main__":
    sys.exit(main())
