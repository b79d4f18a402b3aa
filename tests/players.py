"""Players, bots and the questions that integration tests of the game service ask."""

import asyncio
import contextlib

from zmqgame import protocol
from zmqgame.client import Client, Ticket
from zmqgame.play.bots import Bots
from zmqgame.play.config import BotsConfig
from zmqgame_bus.errors import BusError
from zmqgame_bus.messages import MessageId
from zmqgame_bus.node import Node

QUICK = {
    "game.cutscene_ms": 100,
    "game.countdown_ms": 200,
    "game.ready_ms": 5_000,
    "game.disconnect_ms": 5_000,
    "manager.match_size": 4,
    "manager.match_config": '{"distance_m": 201.168}',  # an eighth of a mile: six to ten seconds
    "manager.patience_ms": 3_000,
    "manager.down_ms": 300,
    "manager.stale_ms": 2_000,
}


class Player:
    """A client that writes down what it is told."""

    def __init__(self, node, name, **options):
        self.node, self.name = node, name
        self.welcomes, self.messages, self.events, self.snapshots = [], [], [], []
        self.client = Client(self.ticket, self, **options)

    async def ticket(self, loss):
        while True:
            request = {"op": "token", "player": self.name, "session": str(loss.session), "avoid": loss.avoid}
            reply = (await self.node.request("manager", request, timeout_s=60)).json()
            if reply["ok"]:
                return Ticket.from_reply(reply)
            await asyncio.sleep(0.1)

    def welcome(self, welcome):
        self.welcomes.append(welcome)

    def message(self, message_id, content, payload):
        self.messages.append((message_id, protocol.decode_payload(content, payload)))

    def event(self, event):
        self.events.append(event)

    def snapshot(self, snapshot):
        self.snapshots.append(snapshot)


@contextlib.asynccontextmanager
async def node(running, name="studio"):
    async with Node(name, running.hub_endpoint, state_dir=running.folder / name) as made:
        yield made


async def manager(asking, op, **values):
    return (await asking.request("manager", {"op": op, **values}, timeout_s=60)).json()


@contextlib.asynccontextmanager
async def bots(asking, folder, count, **options):
    made = Bots(BotsConfig(count=count, spread_ms=200, log_dir=str(folder / "bots"), **options), asking)
    play = asyncio.ensure_future(made.play())
    await made.start()
    try:
        await asyncio.wait_for(made.online(), 90)
        yield made.bots
    finally:
        play.cancel()
        await made.close()


def handled_ids(folder, player):
    lines = (folder / "bots" / f"{player}.log").read_text().splitlines()
    return [MessageId.parse(line.split()[0]) for line in lines]


async def finished(asking, count):
    status = await manager(asking, "status")
    return status if status["log"]["GameFinished"] >= count else None


async def end_of(asking, match):
    with contextlib.suppress(BusError):
        entries = (await manager(asking, "matches", match=match))["entries"]
        ends = ("MatchAborted", "GameFinished")
        return next((entry for entry in entries if entry["event"] in ends), None)


async def running_on(asking, racers, server):
    playing = {bot.match for bot in racers if bot.state == "running"}
    for match in (await manager(asking, "matches"))["open"]:
        if match["server"] == server and match["match"] in playing:
            return match["match"]
    return None
