"""How long a new hub needs: `python -m tests.chaos.restart` prints JSON for 10,000 players on 20 nodes.

Real processes: a hub, FARMS processes with several nodes each, a sender whose messages go to all players. The
hub is killed with -9 under load and a new one started; each time below counts from that start:

- ready: the hub says that it listens
- welcomed: the last node has its welcome
- first_delivered: the first receipt `delivered`, to a player whose node has registered again
- all_bound: the hub says that all players are online
- settled: every message that was sent has its receipt

`--away N`: N nodes are killed with the hub and never come back. `--together`: all nodes try in the same
moment, as after a cut of the network. What no figure shows is checked: nothing acked is lost, nothing comes
twice, each farm is still the process it was.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from zmqgame_bus.errors import BusError
from zmqgame_bus.messages import Delivery, MessageId, Receipt
from zmqgame_bus.node import Node

from tests.chaos.orders import orders
from tests.chaos.record import Record, Tail
from tests.support.ports import free_port

FARMS = 4
RATE = 500.0
WAIT_S = 120.0
LOOK_S = 0.005


@dataclass
class Shape:
    """How large, and what happens to the nodes."""

    nodes: int = 20
    players: int = 10_000
    away: int = 0
    together: bool = False
    rate: float = RATE
    settings: dict[str, object] = field(default_factory=dict)


# --- a farm: one process with some nodes ---------------------------------------------------------


class Crowd:
    """The players of one node: each handles at once what it gets."""

    def __init__(self, node: Node, players: list[str], record: Record) -> None:
        self.node, self.players, self.record = node, players, record
        self._marks: dict[tuple[str, int], MessageId] = {}
        node.set_player_handler(self)

    async def attach(self) -> None:
        await asyncio.gather(*(self.node.attach(player) for player in self.players))

    def bound(self, player: str, login: int) -> None:
        """Of a login; a registration after a restart is not told, the game need not know."""

    def delivered(self, deliveries: list[Delivery]) -> None:
        for each in deliveries:
            mark = self._marks.get((each.player, each.id.node_key))
            if mark is None or each.id > mark:
                self._marks[each.player, each.id.node_key] = each.id
                self.record.write("handled", each.player, each.text)
            self.node.handled(each.player, each.id)

    def dropped(self, player: str, why: str) -> None:
        self.record.write("dropped", player, why.replace(" ", "_"))

    def forget(self, player: str, up_to: MessageId) -> None:
        """Marks are kept: a farm lives for one measurement."""

    async def watch(self) -> None:
        """Write down each welcome."""
        was = True
        while True:
            if self.node.up and not was:
                self.record.write("welcomed", self.node.name)
            was = self.node.up
            await asyncio.sleep(LOOK_S)


async def farm(hub: str, record_path: str, *shares: str) -> None:
    """Run nodes, each given as NAME:FIRST:COUNT."""
    record = Record(Path(record_path))
    crowds = []
    for share in shares:
        name, first, count = share.split(":")
        players = [f"p{number}" for number in range(int(first), int(first) + int(count))]
        crowds.append(Crowd(Node(name, hub), players, record))
    await asyncio.gather(*(crowd.node.start() for crowd in crowds))
    await asyncio.gather(*(crowd.attach() for crowd in crowds))
    watching = [asyncio.ensure_future(crowd.watch()) for crowd in crowds]
    record.write("ready", os.getpid())
    await orders(lambda words: None, *watching, *(crowd.node for crowd in crowds))


# --- the measurement -----------------------------------------------------------------------------


class HubAway(Exception):
    """The hub did not start."""


class Scene:
    """Hub, farms and sender of one measurement."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.folder, self.shape = folder, shape
        self.port = free_port()
        self.hub: asyncio.subprocess.Process | None = None
        self.farms: list[asyncio.subprocess.Process] = []
        self.tails: list[Tail] = []
        self.sender = Node("sender", self.endpoint)
        self.sent: dict[str, str] = {}
        self.receipts: dict[str, tuple[str, int]] = {}
        self.handled: dict[str, int] = defaultdict(int)
        self.events: list[tuple[int, str, list[str]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    async def start_hub(self) -> tuple[int, int]:
        """Start it; when it was started and when it was ready, in ns."""
        settings = {"hub.listen": self.endpoint, **self.shape.settings}
        flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        read_fd, write_fd = os.pipe()
        argv = [sys.executable, "-m", "zmqgame_bus.hub", "--state-dir", str(self.folder / "hub")]
        began = time.monotonic_ns()
        with (self.folder / "hub.log").open("ab") as log:
            self.hub = await asyncio.create_subprocess_exec(
                *argv, "--ready-fd", str(write_fd), *flags, pass_fds=[write_fd], stdout=log, stderr=log
            )
        os.close(write_fd)
        line, ready = await asyncio.to_thread(_first_line, read_fd)
        if not line:
            raise HubAway((self.folder / "hub.log").read_text()[-2_000:])
        return began, ready

    async def kill_hub(self) -> None:
        assert self.hub is not None
        self.hub.kill()
        await self.hub.wait()

    async def start_farms(self) -> None:
        shares = self._shares("game", self.shape.nodes)
        leaving, staying = shares[: self.shape.away], shares[self.shape.away :]
        for part in [staying[number::FARMS] for number in range(FARMS)] + [leaving]:
            if part:
                await self._start_farm(part)
        await self.until(lambda: len(self.times("ready")) == len(self.farms), "players attached")

    def _shares(self, name: str, nodes: int) -> list[str]:
        each = self.shape.players // self.shape.nodes
        return [f"{name}-{number}:{number * each}:{each}" for number in range(nodes)]

    async def _start_farm(self, shares: list[str]) -> None:
        record = self.folder / f"farm-{len(self.tails)}.record"
        self.tails.append(Tail(record))
        argv = [sys.executable, "-m", "tests.chaos.restart", "--farm", self.endpoint, str(record), *shares]
        self.farms.append(await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.PIPE))

    async def replace_lost(self) -> None:
        """The players of the nodes that never came back come to others, for what was stored."""
        if self.shape.away:
            ready = len(self.times("ready"))
            await self._start_farm(self._shares("spare", self.shape.away))
            await self.until(lambda: len(self.times("ready")) > ready, "players elsewhere")
        await self.until(lambda: not self.missing(), "all that was acked is handled")

    def missing(self) -> list[str]:
        """Acked and not handled."""
        acked = [text for text, (outcome, _) in self.receipts.items() if outcome in ("delivered", "stored")]
        return [text for text in acked if not self.handled[text]]

    def look(self) -> None:
        for tail in self.tails:
            for at_ns, kind, *fields in tail.lines():
                if kind == "handled":
                    self.handled[fields[1]] += 1
                else:
                    self.events.append((int(at_ns), kind, fields))

    def times(self, kind: str, after: int = 0) -> list[int]:
        return [at for at, found, _ in self.events if found == kind and at > after]

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + WAIT_S
        while True:
            self.look()
            if condition():
                return
            if time.monotonic() > end:
                raise TimeoutError(f"not within {WAIT_S:g} s: {what}")
            await asyncio.sleep(LOOK_S)

    async def send(self) -> None:
        """Unicasts to all players in turn, at the rate; ends by cancelling."""
        number = 0
        step = 7  # so that neighbours in time are on different nodes
        began = time.monotonic()
        while True:
            while number < (time.monotonic() - began) * self.shape.rate:
                player = f"p{number * step * 101 % self.shape.players}"
                task = asyncio.ensure_future(self._one(f"m{number}", player))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
                number += 1
            await asyncio.sleep(0.005)

    async def _one(self, text: str, player: str) -> None:
        self.sent[text] = player
        receipt = await self.sender.unicast(player, text)
        assert isinstance(receipt, Receipt)
        self.receipts[text] = (receipt.outcome, time.monotonic_ns())

    def first_receipt(self, outcome: str, after: int) -> int:
        return min((at for each, at in self.receipts.values() if each == outcome and at > after), default=0)

    async def all_online(self, players: int) -> int:
        """When the hub said so, in ns."""
        while True:
            with contextlib.suppress(BusError):
                status = await self.sender.query("status", timeout_s=1.0)
                if status["players_online"] >= players:
                    return time.monotonic_ns()
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        await self.sender.close(0)
        for process in (*self.farms, self.hub):
            if process is not None and process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


def _first_line(fd: int) -> tuple[bytes, int]:
    with os.fdopen(fd, "rb") as ready:
        line = ready.readline()
    return line, time.monotonic_ns()


async def measure(folder: Path, shape: Shape) -> dict[str, object]:
    """One restart under load; times in ms since the new hub's start, and what was wrong."""
    scene = Scene(folder, shape)
    try:
        await scene.start_hub()
        await scene.start_farms()
        await scene.sender.start(WAIT_S)
        sending = asyncio.ensure_future(scene.send())
        await asyncio.sleep(0.5)
        await scene.until(lambda: len(scene.receipts) > shape.rate / 4, "traffic")
        killed, began, ready = await _restart(scene)
        all_bound = await scene.all_online(shape.players // shape.nodes * (shape.nodes - shape.away))
        await scene.until(lambda: scene.first_receipt("delivered", began) > 0, "the first receipt")
        await asyncio.sleep(0.3)
        sending.cancel()
        await scene.until(lambda: len(scene.receipts) == len(scene.sent), "all receipts")
        settled = max(at for _, at in scene.receipts.values())
        with contextlib.suppress(TimeoutError):
            await scene.replace_lost()
        times = {"ready": ready, "all_bound": all_bound, "settled": settled}
        return _result(scene, killed, began, times)
    finally:
        await scene.close()


async def _restart(scene: Scene) -> tuple[int, int, int]:
    killed = time.monotonic_ns()
    await scene.kill_hub()
    if scene.shape.away:
        scene.farms[-1].kill()
        await scene.farms.pop().wait()
    if scene.shape.together:  # stopped while the hub starts: then all find it at once
        for process in scene.farms:
            process.send_signal(signal.SIGSTOP)
    began, ready = await scene.start_hub()
    for process in scene.farms:
        process.send_signal(signal.SIGCONT)
    return killed, began, ready


def _result(scene: Scene, killed: int, began: int, times: dict[str, int]) -> dict[str, object]:
    # The clients of killed nodes went with them: only they may see again what nobody knows that they handled.
    away = {f"p{n}" for n in range(scene.shape.players // scene.shape.nodes * scene.shape.away)}
    doubled = [text for text, count in scene.handled.items() if count > 1 and scene.sent[text] not in away]
    outcomes = [outcome for outcome, _ in scene.receipts.values()]
    times["welcomed"] = max(scene.times("welcomed", killed), default=began)
    times["first_delivered"] = scene.first_receipt("delivered", began)
    return {
        "players": scene.shape.players,
        "nodes": scene.shape.nodes,
        "away": scene.shape.away,
        **{
            f"{name}_ms": round((at - began) / 1e6, 1)
            for name, at in sorted(times.items(), key=lambda each: each[1])
        },
        **{outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
        "lost": len(scene.missing()),
        "doubled": len(doubled),
        "dropped": len(scene.times("dropped")),
        "farms_restarted": sum(process.returncode is not None for process in scene.farms),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.restart", description=__doc__)
    parser.add_argument("--farm", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--players", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--away", type=int, default=0)
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--rounds", type=int, default=3, help="the median of each time is shown too")
    options = parser.parse_args()
    if options.farm:
        with contextlib.suppress(BusError, KeyboardInterrupt):
            asyncio.run(farm(*options.farm))
        return
    shape = Shape(options.nodes, options.players, options.away, options.together)
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="zmqgame-restart-") as folder:
            run: Awaitable[dict[str, object]] = measure(Path(folder), shape)
            print(json.dumps(asyncio.run(run)), flush=True)


if __name__ == "__main__":
    main()
