"""A hosting node: what a game server is to the bus, for client processes on a Unix socket.

`python -m tests.chaos.hosting NAME HUB RECORD SOCKET STATE`. Client and host exchange JSON lines; each attach
carries a number, and so does all that belongs to it, so that what a host says late is known as late.

client: `["attach", number, player, login, cursor]`, `["handled", number, player, id]`,
`["leave", number, player]`
host: `["attached" | "bound", number, player, login]`, `["deliver", number, player, id, payload]`,
`["left", number, player, committed]`, `["dropped", number, player, why]`, `["forget", number, player, id]`
"""

import asyncio
import contextlib
import sys
from pathlib import Path

import orjson
from zmqgame_bus.errors import BusError
from zmqgame_bus.messages import Delivery, MessageId
from zmqgame_bus.node import Node

from tests.chaos.orders import log_with_times, orders
from tests.chaos.record import Record

ROOM = "room"
"""A group whose members end at their logout, so nodes register it again."""
LINE_BYTES = 1 << 20


class Place:
    """Where a player's client is: its connection, and the number of its attach."""

    def __init__(self, writer: asyncio.StreamWriter, number: int) -> None:
        self.writer, self.number = writer, number

    def say(self, kind: str, player: str, *rest: object) -> None:
        if not self.writer.is_closing():
            self.writer.write(orjson.dumps([kind, self.number, player, *rest]) + b"\n")


class Host:
    """The player handler."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._places: dict[str, Place] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        node.set_player_handler(self)

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client process until its connection ends."""
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                kind, number, player, *rest = orjson.loads(line)
                if kind == "attach":
                    self._do(self._attach(Place(writer, number), player, *rest))
                elif player in self._places and self._places[player].number == number:
                    if kind == "handled":
                        self.node.handled(player, MessageId(*rest[0]))
                    else:
                        self._do(self._leave(self._places[player], player))
        for player in [player for player, place in self._places.items() if place.writer is writer]:
            del self._places[player]
            self.node.detach(player)
        writer.close()

    def _do(self, work) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attach(self, place: Place, player: str, login: int, cursor: list[list[int]]) -> None:
        self._places[player] = place
        try:
            attached = await self.node.attach(
                player, login=login, cursor=[MessageId(*numbers) for numbers in cursor]
            )
        except BusError as error:
            if self._places.get(player) is place:
                del self._places[player]
            place.say("dropped", player, str(error))
            return
        if self._places.get(player) is place:
            place.say("attached", player, attached.login)
            self.delivered(attached.pending)
        with contextlib.suppress(BusError):
            await self.node.join(ROOM, player)

    async def _leave(self, place: Place, player: str) -> None:
        committed = False
        with contextlib.suppress(BusError):
            committed = await self.node.leave_player(player)
        if self._places.get(player) is place:
            del self._places[player]
        place.say("left", player, committed)

    def bound(self, player: str, login: int) -> None:
        if player in self._places:
            self._places[player].say("bound", player, login)

    def delivered(self, deliveries: list[Delivery]) -> None:
        for each in deliveries:
            if each.player in self._places:
                self._places[each.player].say("deliver", each.player, each.id.numbers(), each.text)

    def dropped(self, player: str, why: str) -> None:
        place = self._places.pop(player, None)
        if place is not None:
            place.say("dropped", player, why)

    def forget(self, player: str, up_to: MessageId) -> None:
        if player in self._places:
            self._places[player].say("forget", player, up_to.numbers())


async def main() -> None:
    name, hub, record_path, socket_path, state = sys.argv[1:]
    node = Node(name, hub, state_dir=Path(state))
    host = Host(node)
    await node.start()
    server = await asyncio.start_unix_server(host.client, socket_path, limit=LINE_BYTES)
    Record(Path(record_path)).write("ready", node.epoch)
    async with server:
        await orders(lambda words: None, node)


if __name__ == "__main__":
    log_with_times()
    asyncio.run(main())
