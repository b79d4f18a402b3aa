"""Players who play by themselves: N of them in one process, over real sockets.

The process is a node on the bus, as a studio's login service would be: it asks the manager for tokens.
Each bot logs in, queues, races, queues again. Before it acks a bus message it writes the message's id to its
log, `LOG_DIR/PLAYER.log`, one line `0xKEY/EPOCH/SEQ MS` each (the sender's node key in hex; unix ms).
Service `bots`: {"op": "status"}; {"op": "leave", "players"} logs them out, they stay away until
{"op": "login", "players"}; {"op": "quiet"}: nobody queues again after the race under way.

    python -m zmqgame.play.bots --name bots --set bots.count=64 --set bots.log_dir=var/bots
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from zmqgame_bus.errors import BusError
from zmqgame_bus.keys import Keyring
from zmqgame_bus.messages import Request
from zmqgame_bus.node import Node
from zmqgame_bus.process import Process, run
from zmqgame_bus.tables import BusConfig

from zmqgame import limits, protocol
from zmqgame.client import ActionRefused, Client, Loss, Ticket
from zmqgame.play.config import BotsConfig
from zmqgame.play.drag import Driver, car_names, shift_points
from zmqgame.play.rules import Refused
from zmqgame.protocol import RawId

log = logging.getLogger(__name__)

LEAVE_S = 2.0  # for logging out at the end: a server that is away must not hold up the process
SEND_EVERY_S = 0.04  # inputs of two frames at 50 Hz in each packet, and the two before them again
REDUNDANT_FRAMES = 4
LEAD_FRAMES = 4
QUEUE_AGAIN_S = 30.0  # a bot that waits so long asks again: its place in the queue may be lost


class Bot:
    """One player."""

    def __init__(
        self, player: str, folder: Path | None, config: BotsConfig, tickets: Callable[..., Any], seed: int
    ) -> None:
        self.player = player
        self.counters: Counter[str] = Counter()
        self._past: Counter[str] = Counter()
        self.match = ""
        self.state = ""
        self.playing = True  # False: no more matches
        self.away = False  # logged out, until told to log in
        self._tickets = tickets
        self.results: list[dict[str, Any]] = []
        self._random = random.Random(seed)
        self._config = config
        self._car = ""
        self._ready_for = ""
        self._driver: Driver | None = None
        self._driven = ""  # the match of the driver
        self._running_since = 0.0
        self._tick_hz = 50
        self._sent_frame = -1
        self._inputs: dict[int, bytes] = {}
        self._queued_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._log: TextIO | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._log = (folder / f"{player}.log").open("a", buffering=1)
        self.client = self._new_client()

    def _new_client(self) -> Client:
        return Client(
            lambda loss: self._tickets(self.player, loss),
            self,
            transport="tcp" if self._config.transport == "tcp" else "ws",
            ca_file=self._config.ca_file or None,
            seed=self._random.randrange(1 << 30),
        )

    async def leave(self) -> None:
        """Log out; returns when the bus has confirmed it."""
        if not self.away:
            self.away = True
            await self.client.leave()
            self.match, self.state, self._driver = "", "", None

    async def login(self) -> None:
        """Log in again, as a new client that remembers nothing."""
        if self.away:
            self.away = False
            self._past += self.client.counters
            self.client = self._new_client()
            self.client.start()
        await self.client.online.wait()

    def all_counters(self) -> Counter[str]:
        """Its own and those of its clients."""
        return self.counters + self.client.counters + self._past

    # --- Handler

    def welcome(self, welcome: dict[str, Any]) -> None:
        """Logged in: a session that is new here is in no match, until an event says otherwise."""
        if not welcome["resumed"]:
            self.match, self.state = "", ""
            self._start(self._queue(0.0))

    def message(self, message_id: RawId, content: int, payload: bytes) -> None:
        """Written down before it is acked."""
        if self._log is not None and message_id.must_deliver:
            self._log.write(f"{message_id} {time.time_ns() // 1_000_000}\n")
            self._log.flush()
        self.counters["messages"] += 1

    def event(self, event: dict[str, Any]) -> None:
        """Follow the match."""
        if event["type"] == "queue_refused":
            self._start(self._queue(1.0))
        elif event["type"] == "state":
            self._state(event)
        elif event["type"] == "restored":
            self.counters["restored"] += 1
            self.match, self.state = event["match"], "restored"
            if event["state"] in ("waiting", "ready"):
                self._state({**event, "type": "state"})

    def snapshot(self, snapshot: dict[str, Any]) -> None:
        """Keep the clock."""
        if self._driver is None or snapshot["match"] != self.match:
            return
        elapsed = time.monotonic() - self._running_since
        ahead_s = snapshot["frame"] / self._tick_hz - elapsed
        # Late snapshots say nothing new, early ones correct at once: the smallest delay counts.
        self._running_since -= ahead_s if ahead_s > 0 else ahead_s * 0.02

    # --- playing

    def _state(self, event: dict[str, Any]) -> None:
        self.match, self.state = event["match"], event["state"]
        if self.state in ("waiting", "ready"):
            if self._ready_for != self.match:
                self._ready_for = self.match
                self._start(self._ready(self.match))
        elif self.state == "running":
            self._tick_hz = event["tick_hz"]
            self._running_since = time.monotonic() - event["frame"] / self._tick_hz
            self._sent_frame = event["frame"] - 1
            self._inputs.clear()
            if self._driver is None or self._driven != self.match:  # else the race was restored: drive on
                self._driver, self._driven = Driver(self._car, self._random), self.match
        elif self.state in ("finished", "aborted"):
            self._driver = None
            self.counters[self.state] += 1
            self.results = event["results"]
            self._start(self._queue(self._random.uniform(0.0, 0.5)))

    def drive(self, now: float) -> None:
        """Send the inputs up to now, and a few ahead."""
        if self._driver is None or self.state != "running" or not self.client.online.is_set():
            return
        frame = int((now - self._running_since) * self._tick_hz) + LEAD_FRAMES
        if frame <= self._sent_frame:
            return
        first = max(self._sent_frame + 1, frame - limits.MAX_INPUTS_PER_PACKET + 1)
        for each in range(first, frame + 1):
            self._inputs[each] = self._driver.drive().pack()
        self._sent_frame = frame
        oldest = min(first, frame - REDUNDANT_FRAMES + 1)
        for old in [old for old in self._inputs if old < oldest]:
            del self._inputs[old]
        self.client.send_inputs(frame, [held for _, held in sorted(self._inputs.items(), reverse=True)])

    def look(self, now: float) -> None:
        """Once a second: a bot that has waited long asks again."""
        waits = not self.match or self.state in ("finished", "aborted")
        if (
            self.playing
            and not self.away
            and waits
            and self._queued_at
            and now - self._queued_at > QUEUE_AGAIN_S
        ):
            self._start(self._queue(0.0))

    async def _queue(self, wait_s: float) -> None:
        self._queued_at = time.monotonic()
        await asyncio.sleep(wait_s)
        if self.playing and not self.away:
            self._car = self._random.choice(car_names())
            await self._act("queue", car=self._car)

    async def _ready(self, match: str) -> None:
        await self._act("ready", match=match)

    async def _act(self, kind: str, **fields: Any) -> None:
        try:
            await self.client.action(kind, **fields)
        except ActionRefused as error:
            self.counters[f"refused_{error.kind}"] += 1

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cut the connection and stop."""
        for task in list(self._tasks):
            task.cancel()
        await self.client.close()
        if self._log is not None:
            self._log.close()


class Bots:
    """All bots of a process."""

    def __init__(self, config: BotsConfig, node: Node) -> None:
        self._node = node
        folder = Path(config.log_dir) if config.log_dir else None
        names = [f"{config.prefix}{number:04d}" for number in range(1, config.count + 1)]
        self.bots = [
            Bot(name, folder, config, self.ticket, config.seed * 1_000_003 + number)
            for number, name in enumerate(names)
        ]
        self._spread_s = config.spread_ms / 1_000

    async def ticket(self, player: str, loss: Loss) -> Ticket:
        """Ask the manager, until it answers."""
        request = {"op": "token", "player": player, "session": str(loss.session), "avoid": loss.avoid}
        while True:
            try:
                reply = (await self._node.request("manager", request, timeout_s=3.0)).json()
                if reply.get("ok"):
                    return Ticket.from_reply(reply)
                log.info("no token for %s: %s", player, reply)
            except (BusError, TimeoutError) as error:
                log.debug("no token for %s: %s", player, error)
            await asyncio.sleep(random.uniform(0.1, 0.4))

    async def start(self) -> None:
        """All log in, over some time."""
        for bot in self.bots:
            bot.client.start()
            await asyncio.sleep(self._spread_s / len(self.bots))

    async def online(self) -> None:
        """Until every bot is logged in."""
        for bot in self.bots:
            await bot.client.online.wait()

    async def play(self) -> None:
        """Send inputs, for ever."""
        look_at = time.monotonic()
        while True:
            now = time.monotonic()
            for bot in self.bots:
                bot.drive(now)
            if now >= look_at:
                look_at += 1.0
                for bot in self.bots:
                    bot.look(now)
            await asyncio.sleep(max(0.0, SEND_EVERY_S - (time.monotonic() - now)))

    def counters(self) -> Counter[str]:
        """Of all bots and their clients."""
        return sum((bot.all_counters() for bot in self.bots), Counter())

    async def serve(self, request: Request) -> dict[str, Any]:
        """The service `bots`."""
        values = protocol.read_object(request.payload, 1 << 20)
        op, names = values.get("op"), values.get("players", [])
        chosen = [bot for bot in self.bots if bot.player in set(names)]
        if op == "leave":
            await asyncio.gather(*(bot.leave() for bot in chosen))
            return {"left": [bot.player for bot in chosen]}
        if op == "login":
            await asyncio.gather(*(bot.login() for bot in chosen))
            return {"online": [bot.player for bot in chosen]}
        if op == "quiet":
            for bot in self.bots:
                bot.playing = False
        elif op != "status":
            raise Refused("malformed", f"bots know status, leave, login and quiet, not {op!r}")
        return {
            "players": len(self.bots),
            "online": sum(bot.client.online.is_set() for bot in self.bots),
            "racing": sum(bot.state == "running" for bot in self.bots),
            "finished": sum(bot.counters["finished"] for bot in self.bots),
        }

    async def close(self) -> None:
        """All log out, so that no receipt waits for the end of their grace time, and stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await asyncio.gather(*(bot.leave() for bot in self.bots), return_exceptions=True)
        await asyncio.gather(*(bot.close() for bot in self.bots))


async def serve(process: Process) -> None:
    """The process, from its start to its end."""
    config = process.config.table(BotsConfig)
    bus = process.config.table(BusConfig)
    node = Node(
        process.name,
        bus.hub,
        roles=("bots",),
        state_dir=process.state_dir,
        keys=Keyring(process.config).node(),
        transport=bus.transport_of("bots"),
    )
    await asyncio.to_thread(lambda: [shift_points(car) for car in car_names()])
    bots = Bots(config, node)
    node.serve("bots", bots.serve)
    async with node:
        play, lost = asyncio.ensure_future(bots.play()), asyncio.ensure_future(node.ended())
        stopped = asyncio.ensure_future(process.stop.wait())
        await bots.start()
        online = asyncio.ensure_future(bots.online())
        await asyncio.wait([stopped, online, play, lost], return_when=asyncio.FIRST_COMPLETED)
        if not (process.stop.is_set() or lost.done()):
            await process.ready(f"{len(bots.bots)} bots", {"players": str(len(bots.bots))})
        await asyncio.wait([stopped, play, lost], return_when=asyncio.FIRST_COMPLETED)
        for task in (play, lost):
            if task.done():
                task.result()
            task.cancel()
        online.cancel()
        log.info("bots: %s", dict(bots.counters()))
        await bots.close()


def main() -> int:
    """The bots as a process."""
    return run("bots", serve)


if __name__ == "__main__":
    sys.exit(main())
