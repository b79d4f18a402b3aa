"""A sender node: unicasts and group sends of unique values, written down before they are sent; some are for
later, some may be dropped.

`python -m tests.chaos.sender NAME START HUB RECORD STATE SEED PLAYER... -- GROUP...`; orders come on stdin:
`go RATE` and `pause`. The end of stdin ends it.
"""

import asyncio
import random
import sys
import time
from pathlib import Path
from typing import Any

from zmqgame_bus.messages import Receipt
from zmqgame_bus.node import Node

from tests.chaos.orders import log_with_times, orders
from tests.chaos.record import Record
from tests.chaos.values import Value

BURST = 6
GROUP_SHARE = 0.15
LATER_SHARE, LATER_S = 0.1, 0.6
LOOSE_SHARE = 0.1
LARGE_SHARE = 0.05
PADDING, LARGE_PADDING = 200, 6_000
"""Some messages are longer than a page of SQLite, so that one append is more than one write."""


class Sender:
    """What one process sends."""

    def __init__(self, node: Node, start: int, record: Record, chance: random.Random) -> None:
        self.node, self.start, self.record, self.chance = node, start, record, chance
        self.rate = 0.0
        self._number = 0
        self._going = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()

    def order(self, words: list[str]) -> None:
        if words[0] == "go":
            self.rate = float(words[1])
            self._going.set()
        else:
            self._going.clear()
            self.record.write("paused", self._number)

    async def run(self, players: list[str], groups: list[str]) -> None:
        while True:
            await self._going.wait()
            burst = self.chance.randint(1, BURST)
            for _ in range(burst):
                task = asyncio.ensure_future(self._one(players, groups))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
            await asyncio.sleep(burst / self.rate)

    async def _one(self, players: list[str], groups: list[str]) -> None:
        self._number += 1
        most = LARGE_PADDING if self.chance.random() < LARGE_SHARE else PADDING
        value = Value(self.node.name, self.start, self._number, self.chance.randint(0, most))
        kind = self.chance.random()
        if kind < GROUP_SHARE:
            await self._to_group(value, self.chance.choice(groups))
        elif kind < GROUP_SHARE + LATER_SHARE:
            at = time.time() + self.chance.uniform(0.0, LATER_S)
            await self._to_player("later", value, self.chance.choice(players), deliver_at=at)
        elif kind < GROUP_SHARE + LATER_SHARE + LOOSE_SHARE:
            policy, player = self.chance.choice(["latest", "droppable"]), self.chance.choice(players)
            key = self.chance.choice(["a", "b"]) if policy == "latest" else ""
            await self._to_player("loose", value, player, policy=policy, key=key)
        else:
            await self._to_player("to", value, self.chance.choice(players))

    async def _to_player(self, kind: str, value: Value, player: str, **options: Any) -> None:
        self.record.write(kind, value, player)
        receipt = await self.node.unicast(player, value.payload(), **options)
        assert isinstance(receipt, Receipt)
        self.record.write("receipt", value, player, receipt.outcome, receipt.detail.replace(" ", "_"))

    async def _to_group(self, value: Value, group: str) -> None:
        self.record.write("group", value, group)
        report = await self.node.multicast(group, value.payload())
        entries = [f"{player}={outcome}" for player, (outcome, _) in report.recipients.items()]
        self.record.write("report", value, group, report.outcome, *entries)


async def main() -> None:
    name, start, hub, record_path, state, seed, *names = sys.argv[1:]
    bar = names.index("--")
    record = Record(Path(record_path))
    node = Node(name, hub, state_dir=Path(state))
    sender = Sender(node, int(start), record, random.Random(f"{seed}/{name}/{start}"))
    await node.start()
    record.write("ready", node.epoch)
    work = asyncio.ensure_future(sender.run(names[:bar], names[bar + 1 :]))
    await orders(sender.order, work, node)


if __name__ == "__main__":
    log_with_times()
    asyncio.run(main())
