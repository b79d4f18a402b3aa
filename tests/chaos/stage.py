"""The processes of a run, the routes between them, and when all is at rest."""

import asyncio
import contextlib
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
from zmqgame_bus.errors import BusError
from zmqgame_bus.node import Node

from tests import mongod
from tests.chaos.child import Child
from tests.chaos.hosting import ROOM
from tests.chaos.ledger import KINDS, Ledger
from tests.chaos.namespace import Namespace, NotPermitted
from tests.support.ports import free_port
from tests.support.proxy import Route

SENDERS, HOSTS, CLIENTS, PLAYERS_EACH = 2, 3, 2, 4
GUILD = "guild"
HUB_SETTINGS = {
    "hub.heartbeat_ms": 100,
    "hub.dead_ms": 300,
    "hub.node_grace_ms": 500,
    "hub.hub_grace_ms": 300,
    "hub.drain_ms": 500,
    "mailbox.wait_s": 30,
}
"""The product's times divided by ten."""
LOOK_S = 0.02
SLOW_S = 1.0
"""A rest that takes longer says what it waits for, again after as long."""
START_S = 60.0
DISK_BYTES = 48 << 20
"""The small disk of the hub: mailbox, 8 MiB of batches, what SQLite logs of them; a fault fills the rest."""


class Stuck(Exception):
    """The run did not come to rest; the message says what waits for what."""


@dataclass(slots=True)
class Player:
    """What the records say of a player and its client."""

    client: str
    session: str = ""
    login: int = 0
    served: bool = False
    cursor: dict[int, tuple[int, int, int]] = None

    def memory(self) -> dict:
        return {"session": self.session, "login": self.login, "cursor": list(self.cursor.values())}


class Stage:
    """All of one run."""

    def __init__(
        self, folder: Path, seed: str, store: str, starts: dict[str, int], hub_command: list[str]
    ) -> None:
        self.folder, self.seed, self.store, self.starts = folder, seed, store, starts
        self.hub_folder = folder / "hub"
        self.skipped: dict[str, str] = {}
        """Faults that this machine can't have, and why."""
        self.disk: Path | None = None
        self.namespace: Namespace | None = None
        self.port = free_port()
        self.routes: dict[str, Route] = {}
        """Between a node and the hub, by the node's name."""
        self.store_route: Route | None = None
        self.children: dict[str, Child] = {}
        self.players: dict[str, Player] = {}
        self.paused: set[str] = set()
        self.director: Node | None = None
        self.store_was_away = False
        """A hub that starts meanwhile may end and be started again."""
        self.notes: list[str] = []
        """What went wrong beside the messages: a process that ended, a rival hub that started."""
        self._hub_command = hub_command
        self._keep_memory: dict[str, bool] = defaultdict(lambda: True)
        for number in range(CLIENTS * PLAYERS_EACH):
            self.players[f"p{number}"] = Player(f"c{number % CLIENTS}", cursor={})
        self.guild = {f"p{number}" for number in range(0, CLIENTS * PLAYERS_EACH, 2)}
        self.ledger = Ledger({GUILD: self.guild})

    # --- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._small_disk()
        try:
            self.namespace = Namespace.make()
        except NotPermitted as error:
            self.skipped["partition"] = str(error)
        if self.store == "ferretdb":
            await self._add_store()
        self._add("hub", self._hub)
        for number in range(SENDERS):
            await self._add_node(f"s{number}", self._sender)
        for number in range(HOSTS):
            await self._add_node(f"g{number}", self._host, inside=number == HOSTS - 1)
        for number in range(CLIENTS):
            self._add(f"c{number}", self._client)
        for child in self.children.values():
            child.begin()
        self.director = Node("director", f"tcp://127.0.0.1:{self.port}", state_dir=self.folder)
        await self.director.start(START_S)
        await self.until(self._all_served, "first logins", START_S)
        for player in sorted(self.guild):
            await self.director.join(GUILD, player, durable=True)

    def _small_disk(self) -> None:
        shutil.rmtree(self.hub_folder, ignore_errors=True)
        self.hub_folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(self.hub_folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            self.disk = self.hub_folder
        else:
            self.skipped["disk_full"] = f"no small tmpfs: {done.stderr.strip()}"

    async def _add_store(self) -> None:
        """A document server, and a route of ours between the hub and it."""
        program, port = await asyncio.to_thread(mongod.program), free_port()
        data = self.folder / "documents"
        await asyncio.to_thread(shutil.rmtree, data, ignore_errors=True)
        self._add("db", lambda name, start, record: [str(program), str(data), str(port)])
        self.store_route = await Route("db", ("127.0.0.1", port)).start()

    def _add(self, name: str, command: Callable[[str, int, Path], list[str]]) -> Child:
        child = Child(
            name, self.folder, lambda start, record: command(name, start, record), self.starts.get(name, 0)
        )
        self.children[name] = child
        return child

    async def _add_node(
        self, name: str, command: Callable[[str, int, Path], list[str]], *, inside: bool = False
    ) -> None:
        host = self.namespace.address if inside and self.namespace is not None else "127.0.0.1"
        self.routes[name] = await Route(name, ("127.0.0.1", self.port)).start(host)
        if inside and self.namespace is not None:
            self._add(name, lambda *values: self.namespace.command(command(*values)))
        else:
            self._add(name, command)

    def _hub(self, name: str, start: int, record: Path) -> list[str]:
        settings = {"hub.listen": f"tcp://127.0.0.1:{self.port}", **HUB_SETTINGS}
        if self.store_route is not None:
            settings["mailbox.url"] = f"mongodb://127.0.0.1:{self.store_route.port}/chaos"
        flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        return [sys.executable, *self._hub_command, "--state-dir", str(self.hub_folder), *flags]

    def _sender(self, name: str, start: int, record: Path) -> list[str]:
        program = [sys.executable, "-m", "tests.chaos.sender", name, str(start), self.routes[name].endpoint]
        names = [*self.players, "--", GUILD, ROOM]
        return [*program, str(record), str(self.folder / f"{name}.state"), self.seed, *names]

    def _host(self, name: str, start: int, record: Path) -> list[str]:
        program = [sys.executable, "-m", "tests.chaos.hosting", name, self.routes[name].endpoint]
        return [*program, str(record), self._socket(name), str(self.folder / f"{name}.state")]

    def _socket(self, host: str) -> str:
        return str(self.folder / f"{host}.socket")

    def _client(self, name: str, start: int, record: Path) -> list[str]:
        self.collect()
        mine = {player: known for player, known in self.players.items() if known.client == name}
        memory = "-"
        if self._keep_memory[name] and all(known.session for known in mine.values()):
            memory = str(self.folder / f"{name}.memory")
            Path(memory).write_bytes(orjson.dumps({player: known.memory() for player, known in mine.items()}))
        else:
            for known in mine.values():
                self.ledger.forgot(known.session)
        self._keep_memory[name] = True
        for known in mine.values():
            known.served = False
        program = [sys.executable, "-m", "tests.chaos.client", f"{name}.{start}", str(record)]
        sockets = [self._socket(f"g{number}") for number in range(HOSTS)]
        return [*program, f"{self.seed}/{start}", memory, *sockets, "--", *mine]

    def lose_memory(self, client: str) -> None:
        """The next process of this client starts with nothing."""
        self._keep_memory[client] = False

    async def close(self) -> None:
        if self.director is not None:
            await self.director.close(0)
        await asyncio.gather(*(child.close() for child in self.children.values()))
        for route in (*self.routes.values(), self.store_route):
            if route is not None:
                await route.close()
        if self.namespace is not None:
            self.namespace.close()
        if self.disk is not None:
            await asyncio.to_thread(
                subprocess.run, ["umount", "--lazy", str(self.disk)], check=False, capture_output=True
            )

    # --- names -------------------------------------------------------------------------------------

    @property
    def hub(self) -> Child:
        return self.children["hub"]

    def named(self, letter: str) -> list[Child]:
        """The senders (s), hosting nodes (g) or clients (c)."""
        return [child for name, child in self.children.items() if name[0] == letter and name != "hub"]

    def say(self, letter: str, order: str) -> None:
        for child in self.named(letter):
            child.say(order)

    def tell_client_of(self, player: str, order: str) -> None:
        self.children[self.players[player].client].say(order)

    # --- what has happened -------------------------------------------------------------------------

    def collect(self) -> None:
        """Read all records. Those of clients first, judged last: what is handled was sent before."""
        handled = [(child, line) for child in self.named("c") for line in child.lines()]
        hosts = [(child, line) for child in self.named("g") for line in child.lines()]
        sent = [(child, line) for child in self.named("s") for line in child.lines()]
        for child, (start, (at_ns, kind, *fields)) in [*sent, *hosts, *handled]:
            if kind == "ready":
                child.ready = start == child.start_number
            elif child.name[0] == "s":
                self._sender_says(child, int(at_ns), kind, fields)
            else:
                self._client_says(int(at_ns), kind, fields)

    def _sender_says(self, child: Child, at_ns: int, kind: str, fields: list[str]) -> None:
        if kind in KINDS:
            self.ledger.sent(fields[0], fields[1], kind)
        elif kind == "receipt":
            self.ledger.receipt(*fields, at_ns)
        elif kind == "report":
            entries = dict(each.rsplit("=", 1) for each in fields[3:])
            self.ledger.report(fields[0], fields[2], entries, at_ns)
        elif kind == "paused":
            self.paused.add(child.name)

    def _client_says(self, at_ns: int, kind: str, fields: list[str]) -> None:
        name = fields[0]
        player = self.players[name]
        if kind == "handled":
            self.ledger.handled(name, fields[1], fields[2], at_ns)
            if fields[3:]:
                mark = tuple(map(int, fields[3:]))
                player.cursor[mark[0]] = mark
        elif kind == "session":
            player.session, player.login, player.cursor = fields[1], 0, {}
        elif kind == "forget":
            player.cursor.pop(int(fields[1]), None)
        elif kind in ("attached", "bound"):
            player.login, player.served = int(fields[1]), True
        else:
            player.served = False

    # --- rest --------------------------------------------------------------------------------------

    def _all_served(self) -> list[str]:
        waiting = [f"{child.name} is not ready" for child in self._reporting() if not child.ready]
        return waiting + [f"{name} is not served" for name, known in self.players.items() if not known.served]

    def _reporting(self) -> list[Child]:
        return [child for child in self.children.values() if child.name not in ("hub", "db")]

    def _unrest(self) -> list[str]:
        alive = {child.name: child.start_number for child in self.named("s")}
        loud = [f"{name} is not paused" for name in alive if name not in self.paused]
        return self._all_served() + loud + self.ledger.waiting(alive)

    async def rest(self, timeout_s: float, log: Callable[[str], None]) -> float:
        """Stop sending, bring all players online, wait until nothing is under way; seconds that it took."""
        began = time.monotonic()
        self.paused.clear()
        asked, told = 0.0, began
        while True:
            if time.monotonic() - asked > 0.3:  # a process may have been killed with the order unread
                asked = time.monotonic()
                self.say("s", "pause")
                self.say("c", "online")
            self.collect()
            waiting = self._unrest()
            if not waiting:
                return time.monotonic() - began
            if time.monotonic() - told > SLOW_S:
                told = time.monotonic()
                log(f"{told - began:.1f} s, {len(waiting)} wait: {'; '.join(waiting[:8])}")
            if time.monotonic() - began > timeout_s:
                raise Stuck(f"no rest after {timeout_s:g} s; {len(waiting)} wait: {'; '.join(waiting[:8])}")
            await asyncio.sleep(LOOK_S)

    async def mailbox_is_empty(self, timeout_s: float) -> None:
        """The last promise: all is handled, so nothing is left in the store; settling may be under way."""
        assert self.director is not None
        end, left = time.monotonic() + timeout_s, None
        while left != []:
            with contextlib.suppress(BusError):
                left = await self.director.query("mailbox", '{"op": "list"}', timeout_s=timeout_s)
            if time.monotonic() > end:
                raise Stuck(f"the mailbox is not empty after {timeout_s:g} s: {left}")
            await asyncio.sleep(LOOK_S)

    def settle(self) -> None:
        """Judge the cycle; nothing is under way."""
        self.ledger.settle()
        for child in self._reporting():
            if child.ready:
                child.drop_old_records()
        for child in self.children.values():
            for code in child.exits:
                if not (child is self.hub and code in (1, 3) and self.store_was_away):
                    self.notes.append(f"{child.name} ended by itself with {code}")
            child.exits.clear()
        self.store_was_away = False

    async def until(self, waiting: Callable[[], list[str]], what: str, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while True:
            self.collect()
            left = waiting()
            if not left:
                return
            if time.monotonic() > end:
                raise Stuck(f"{what}: not within {timeout_s:g} s: {'; '.join(left[:8])}")
            await asyncio.sleep(LOOK_S)
