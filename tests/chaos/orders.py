"""Orders from the controller: lines on stdin, as long as it lives."""

import asyncio
import logging
import sys
from collections.abc import Callable

from zmqgame_bus.node import Node


def log_with_times() -> None:
    """What the node says goes to the child's log with the wall clock, as in the hub's."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


async def orders(take: Callable[[list[str]], None], *watched: "asyncio.Future[None] | Node") -> None:
    """Give each line to `take`; ends with stdin, or with the first of what is watched."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def listen() -> None:
        while line := await reader.readline():
            take(line.decode().split())

    listening = asyncio.ensure_future(listen())
    others = [asyncio.ensure_future(each.ended() if isinstance(each, Node) else each) for each in watched]
    done, _ = await asyncio.wait([listening, *others], return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
