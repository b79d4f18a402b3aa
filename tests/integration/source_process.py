"""A source for test_stats_bus.py: a node with an emitter. Answers `source:NAME` {"op": "emit", "count"}."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from zmqgame_bus.events import Emitter
from zmqgame_bus.node import Node


async def main(folder: Path, name: str, hub: str, publish: str) -> None:
    emitter = Emitter(name, spool_dir=folder / "spools", publish=publish, announce_s=0.2)
    node = Node(name, hub, state_dir=folder / name)

    async def serve(request):
        for number in range(request.json()["count"]):
            emitter.emit("sessions", event="login", player=f"p{number}", server=name)
        return {"unconfirmed": emitter.unconfirmed()}

    emitter.attach(node)
    node.serve(f"source:{name}", serve)
    async with node:
        await asyncio.Event().wait()


if __name__ == "__main__":
    folder, name, hub, publish = sys.argv[1:]
    (Path(folder) / name).mkdir(exist_ok=True)
    asyncio.run(main(Path(folder), name, hub, publish))
