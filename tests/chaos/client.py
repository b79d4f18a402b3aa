"""A client process: some players, each with the cursor that tells what it has handled [26, 27, 28].

`python -m tests.chaos.client NAME RECORD SEED MEMORY SOCKET... -- PLAYER...`. A message is handled when its
line is in the record: that is the effect, it comes before the ack, and outlives the process. MEMORY is a file
with what an earlier process of this client knew (a client with a disk), or `-`: a new session then.

Orders: `move PLAYER HOST` attaches elsewhere without leaving, `leave PLAYER` logs out, `online` brings all
back.
"""

import asyncio
import random
import sys
from pathlib import Path

import orjson
from zmqgame_bus.messages import MessageId

from tests.chaos.hosting import LINE_BYTES
from tests.chaos.orders import orders
from tests.chaos.record import Record
from tests.chaos.values import whole

RETRY_S = 0.03
LOOSE = 1 << 63
"""From here on are the seqs of messages that may be dropped."""


class Session:
    """One player's state machine: away, attaching, served, leaving."""

    def __init__(self, client: "Client", player: str, memory: dict | None) -> None:
        self.client, self.player = client, player
        self.host = client.chance.randrange(len(client.hosts))
        self.number = 0
        self.state = "away"
        self.wanted = True
        self.login = 0
        self.cursor: dict[int, MessageId] = {}
        if memory is None:
            self._new()
        else:
            self.name, self.login = memory["session"], memory["login"]
            self.cursor = {mark[0]: MessageId(*mark) for mark in memory["cursor"]}

    def _new(self) -> None:
        self.login, self.cursor = 0, {}
        self.name = self.client.next_session(self.player)
        self.client.record.write("session", self.player, self.name)

    def attach(self) -> None:
        """Say to the wanted host who we are; its connection may be away, then it is said again later."""
        self.number = self.client.next_number()
        self.state = "attaching"
        cursor = [mark.numbers() for mark in self.cursor.values()]
        if not self.client.hosts[self.host].say("attach", self.number, self.player, self.login, cursor):
            self.state = "away"

    def move(self, host: int) -> None:
        if self.state != "leaving":
            self.host, self.wanted = host, True
            self.attach()

    def leave(self) -> None:
        if self.state == "served":
            self.wanted, self.state = False, "leaving"
            self.client.hosts[self.host].say("leave", self.number, self.player)

    def online(self) -> None:
        self.wanted = True
        if self.state == "away":
            self.attach()

    def lost(self) -> None:
        """The host is gone: nothing is confirmed, so the session goes on, elsewhere perhaps."""
        self.state = "away"
        self.client.record.write("away", self.player)
        if self.wanted:
            self.host = self.client.chance.randrange(len(self.client.hosts))

    def said(self, kind: str, *rest) -> None:
        if kind == "deliver":
            self._deliver(MessageId(*rest[0]), rest[1])
        elif kind in ("attached", "bound"):
            self.login = rest[0]
            if self.state == "attaching":
                self.state = "served"
            self.client.record.write(kind, self.player, self.login)
        elif kind == "forget":
            self._forget(MessageId(*rest[0]))
        elif kind == "dropped":
            self.client.record.write("dropped", self.player, rest[0].replace(" ", "_"))
            self.state = "away"
        elif kind == "left":
            self._left(committed=rest[0])

    def _deliver(self, id: MessageId, payload: str) -> None:
        if (
            self.state == "leaving"
        ):  # the logout carries the cursor as it was: nothing is handled behind it [30]
            return
        value = whole(payload) or f"damaged:{payload[:40]!r}".replace(" ", "_")
        if id.seq >= LOOSE:  # neither acked nor in the cursor [33]
            self.client.record.write("handled", self.player, self.name, value)
            return
        mark = self.cursor.get(id.node_key)
        if mark is None or id > mark:
            self.cursor[id.node_key] = id
            self.client.record.write("handled", self.player, self.name, value, *id.numbers())
        self.client.hosts[self.host].say("handled", self.number, self.player, id.numbers())

    def _forget(self, up_to: MessageId) -> None:
        mark = self.cursor.get(up_to.node_key)
        if mark is not None and mark <= up_to:
            del self.cursor[up_to.node_key]
            self.client.record.write("forget", self.player, *up_to.numbers())

    def _left(self, *, committed: bool) -> None:
        self.state = "away"
        self.client.record.write("left" if committed else "away", self.player)
        if committed:
            self._new()


class Connection:
    """The connection of this client to one host; tried again until it is there."""

    def __init__(self, client: "Client", number: int, path: str) -> None:
        self.client, self.number, self.path = client, number, path
        self._writer: asyncio.StreamWriter | None = None

    def say(self, *line: object) -> bool:
        if self._writer is None or self._writer.is_closing():
            return False
        self._writer.write(orjson.dumps(line) + b"\n")
        return True

    async def run(self) -> None:
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(self.path, limit=LINE_BYTES)
                while line := await reader.readline():
                    kind, number, player, *rest = orjson.loads(line)
                    session = self.client.sessions[player]
                    if session.number == number and session.host == self.number:
                        session.said(kind, *rest)
            except OSError:
                pass
            if self._writer is not None:
                self._writer.close()
                self._writer = None
                for session in self.client.sessions.values():
                    if session.host == self.number and session.state != "away":
                        session.lost()
            await asyncio.sleep(RETRY_S)


class Client:
    """All players of this process."""

    def __init__(self, name: str, record: Record, seed: str, memory: dict, sockets: list[str]) -> None:
        self.name, self.record = name, record
        self.chance = random.Random(seed)
        self.hosts = [Connection(self, number, path) for number, path in enumerate(sockets)]
        self.sessions: dict[str, Session] = {}
        self._memory = memory
        self._numbers = 0
        self._session_numbers = 0

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def next_session(self, player: str) -> str:
        self._session_numbers += 1
        return f"{self.name}/{player}/{self._session_numbers}"

    def add(self, player: str) -> None:
        self.sessions[player] = Session(self, player, self._memory.get(player))

    def order(self, words: list[str]) -> None:
        if words[0] == "move":
            self.sessions[words[1]].move(int(words[2]))
        elif words[0] == "leave":
            self.sessions[words[1]].leave()
        elif words[0] == "online":
            for session in self.sessions.values():
                session.online()

    async def run(self) -> None:
        connections = [asyncio.ensure_future(each.run()) for each in self.hosts]
        while True:
            for session in self.sessions.values():
                if session.wanted and session.state == "away":
                    session.attach()
                    if session.state == "away":
                        session.host = self.chance.randrange(len(self.hosts))
            await asyncio.wait(connections, timeout=RETRY_S)
            for connection in connections:
                if connection.done():
                    connection.result()


async def serve(client: Client) -> None:
    await orders(client.order, asyncio.ensure_future(client.run()))


def main() -> None:
    name, record_path, seed, memory, *names = sys.argv[1:]
    bar = names.index("--")
    known = {} if memory == "-" else orjson.loads(Path(memory).read_bytes())
    record = Record(Path(record_path))
    client = Client(name, record, seed, known, names[:bar])
    for player in names[bar + 1 :]:
        client.add(player)
    record.write("ready", 0)
    asyncio.run(serve(client))


if __name__ == "__main__":
    main()
