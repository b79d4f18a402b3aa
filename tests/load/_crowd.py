"""Lean clients, hundreds a process: the library's resume logic on bare TCP, without tasks or inputs.

A process of its own. Commands come as JSON lines on stdin, answers go out as JSON lines on stdout; times are
of the monotonic clock, which all processes of a machine share.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from pathlib import Path

from zmqgame import protocol, resume
from zmqgame.client import MOVES, Ticket
from zmqgame_bus.errors import BusError
from zmqgame_bus.node import Node

RETRY_S = 0.05


class Player(asyncio.Protocol):
    """One client: connects, logs in, handles, acks; comes back by itself."""

    def __init__(self, crowd: "Crowd", name: str) -> None:
        self.crowd, self.name = crowd, name
        self.resume = resume.Resume()
        self.ticket: Ticket | None = None
        self.transport: asyncio.Transport | None = None
        self.buffer = b""
        self.welcomes: list[tuple[float, str, bool]] = []
        self.handled: list[int] = []
        self.handled_at: list[float] = []
        self.repeated = 0
        self.avoid = ""
        self.steps: dict[str, float] = {}  # of the way back after the last loss: when each was done
        self.stopped = False

    async def connect(self) -> None:
        """Until it stands; then the protocol's callbacks go on."""
        while not self.stopped:
            try:
                if self.ticket is None:
                    self.ticket = await self.crowd.ticket(self.name, self.resume.session, self.avoid)
                    self.steps["ticket"] = time.monotonic()
                host, _, port = self.ticket.tcp.rpartition(":")
                await asyncio.get_running_loop().create_connection(lambda: self, host, int(port))
                return
            except OSError:
                if self.ticket is not None:
                    self.avoid, self.ticket = self.ticket.name, None
            await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.5))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.buffer = transport, b""
        assert self.ticket is not None
        self.steps["connected"] = time.monotonic()
        self._write([self.resume.login(self.ticket.token)])

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.steps = {"lost": time.monotonic()}
        self.resume.lost()
        if not self.stopped:
            self.crowd.start(self.connect())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        position = 0
        while len(self.buffer) - position >= 4:
            (length,) = protocol.LENGTH.unpack_from(self.buffer, position)
            if len(self.buffer) - position - 4 < length:
                break
            packet = protocol.read_packet(self.buffer[position + 4 : position + 4 + length])
            position += 4 + length
            self._packet(*packet)
        self.buffer = self.buffer[position:]
        self._write(self.resume.take())

    def _packet(self, kind: int, sequence: int, payload: bytes) -> None:
        for received in self.resume.receive(kind, sequence, payload):
            match received:
                case resume.Message():
                    self._message(received)
                case resume.Welcome(values=values):
                    self.welcomes.append((time.monotonic(), values["server"], values["resumed"]))
                case resume.Repeated():
                    self.repeated += 1
                case resume.Bye():
                    self.ticket, self.avoid = None, self.resume.server if received.again == "other" else ""
                    if received.server is not None:
                        server = received.server
                        self.ticket = Ticket(self.resume.token, server["name"], server["tcp"], server["ws"])

    def _message(self, message: resume.Message) -> None:
        values = json.loads(message.payload)
        if "n" in values:
            self.handled.append(values["n"])
            self.handled_at.append(time.monotonic())
        elif values.get("type") in MOVES and values["server"]["name"] != self.resume.server:
            server = values["server"]
            self.ticket = Ticket(self.resume.token, server["name"], server["tcp"], server["ws"])
            assert self.transport is not None
            self.transport.close()

    def _write(self, packets: list[bytes]) -> None:
        if self.transport is not None and packets:
            self.transport.write(b"".join(protocol.LENGTH.pack(len(each)) + each for each in packets))


class Crowd:
    """All players of this process, and their login service."""

    def __init__(self, node: Node, names: list[str]) -> None:
        self.node = node
        self.players = [Player(self, name) for name in names]
        self._tasks: set[asyncio.Task[None]] = set()

    async def ticket(self, player: str, session: int, avoid: str) -> Ticket:
        request = {"op": "token", "player": player, "session": str(session), "avoid": avoid}
        while True:
            try:
                reply = (await self.node.request("manager", request, timeout_s=3.0)).json()
                if reply.get("ok") and reply["server"]["name"] != avoid:
                    return Ticket.from_reply(reply)
            except BusError:
                pass
            await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.5))

    def start(self, work: object) -> None:
        task = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def command(self, values: dict) -> dict:
        match values["do"]:
            case "login":
                for player in self.players:
                    self.start(player.connect())
                    await asyncio.sleep(values["spread_s"] / len(self.players))
            case "report":
                return {
                    player.name: {
                        "welcomes": player.welcomes,
                        "handled": player.handled,
                        "handled_at": player.handled_at,
                        "repeated": player.repeated,
                        "steps": player.steps,
                    }
                    for player in self.players
                }
            case "stop":
                for player in self.players:
                    player.stopped = True
                    if player.transport is not None:
                        player.transport.close()
        return {
            "online": sum(player.resume.online for player in self.players),
            "at": sum(
                player.resume.online and player.resume.server == values.get("at") for player in self.players
            ),
            "handled": sum(len(player.handled) for player in self.players),
        }


async def run(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    names = [f"{options.name}-{number:04d}" for number in range(options.count)]
    async with Node(options.name, options.hub, state_dir=Path(options.state) / options.name) as node:
        crowd = Crowd(node, names)
        print(json.dumps({"ready": names}), flush=True)
        while line := await reader.readline():
            command = json.loads(line)
            print(json.dumps(await crowd.command(command)), flush=True)
            if command["do"] == "stop":
                return


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--hub", required=True)
    parser.add_argument("--state", required=True)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
