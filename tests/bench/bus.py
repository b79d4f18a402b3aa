"""The bus beside NATS: round trips and throughput, node to node through the hub on loopback.

Ours carries end-to-end receipts (`delivered`: the recipient's node has handled it); NATS core carries
none. Hub and server, responder and requester are processes of their own; rounds alternate, medians.

`raw` is the transport with as little Python as possible on both sides: a blocking pyzmq DEALER that packs the
bus's messages by hand, beside a blocking socket that speaks NATS by hand.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import nats
from zmqgame_bus.messages import Delivery, Payload, Request
from zmqgame_bus.node import Node

from tests.bench.bus_raw import BODY, RawDealer, RawNats, run_raw_dealer, run_raw_nats, until_closed
from tests.support.hub import running_hub

PLAYERS = 1_000
PIPELINE = 2_000
SPAWN = multiprocessing.get_context("spawn")


# --- processes --------------------------------------------------------------------------------------


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """A process that says one thing when it is ready, and ends when its pipe closes."""
    ours, theirs = SPAWN.Pipe()
    child = SPAWN.Process(target=target, args=(theirs, *arguments), daemon=True)
    child.start()
    theirs.close()
    try:
        if not ours.poll(30):
            raise RuntimeError(f"{target.__name__} is not ready after 30 s")
        yield ours.recv()
    finally:
        ours.close()
        child.join(5)
        child.kill()
        child.join()


def hub_process(pipe: Connection, folder: str) -> None:
    """The hub with its mailbox."""
    with running_hub(Path(folder)) as hub:
        pipe.send(hub.endpoints[0])
        until_closed(pipe)


@contextmanager
def nats_server(folder: Path) -> Iterator[str]:
    """A NATS server on a free port."""
    binary = Path(sys.executable).with_name("nats-server")
    command = [
        binary,
        "-a",
        "127.0.0.1",
        "-p",
        "-1",
        "--ports_file_dir",
        folder,
        "--log",
        folder / "nats.log",
    ]
    server = subprocess.Popen(command)
    try:
        end = time.monotonic() + 20
        while not (found := [path for path in folder.glob("*.ports") if path.stat().st_size]):
            if time.monotonic() > end or server.poll() is not None:
                raise RuntimeError("nats-server did not start")
            time.sleep(0.02)
        yield found[0].read_text().split('"nats://')[1].split('"')[0]
    finally:
        server.terminate()
        server.wait()


def run_node(pipe: Connection, endpoint: str, folder: str) -> None:
    """Answers requests for `echo`, and hosts the players as a game server does."""

    async def echo(request: Request) -> Payload:
        return request.payload

    async def main() -> None:
        node = Node("far", endpoint, state_dir=Path(folder) / "far")
        node.serve("echo", echo)

        class Players:
            def delivered(self, deliveries: list[Delivery]) -> None:
                for delivery in deliveries:
                    node.handled(delivery.player, delivery.id)

            def dropped(self, player: str, why: str) -> None: ...
            def bound(self, player: str, login: int) -> None: ...

        node.set_player_handler(Players())
        async with node:
            for first in range(0, PLAYERS, 100):
                await asyncio.gather(*(node.attach(f"p{n}") for n in range(first, first + 100)))
            pipe.send("ready")
            await asyncio.to_thread(until_closed, pipe)

    asyncio.run(main())


def run_nats(pipe: Connection, address: str) -> None:
    """Answers requests on `echo`; counts what comes to players and says when it has all."""

    async def main() -> None:
        connection = await nats.connect(f"nats://{address}")
        counted, wanted, reply = 0, 0, ""

        async def echo(request: Any) -> None:
            await request.respond(request.data)

        async def count(_message: Any) -> None:
            nonlocal counted
            counted += 1
            if counted == wanted:
                await connection.publish(reply, b"all")

        async def want(request: Any) -> None:
            nonlocal counted, wanted, reply
            counted, wanted, reply = 0, int(request.data), request.reply + ".all"
            await request.respond(b"")

        await connection.subscribe("echo", cb=echo)
        await connection.subscribe("player.*", cb=count, pending_msgs_limit=-1, pending_bytes_limit=-1)
        await connection.subscribe("want", cb=want)
        await connection.flush()
        pipe.send("ready")
        await asyncio.to_thread(until_closed, pipe)

    asyncio.run(main())


# --- Python: Node beside nats-py --------------------------------------------------------------------


async def round_trips(once: Callable[[], Awaitable[object]], count: int) -> float:
    """The median round trip in us."""
    times = []
    for _ in range(count):
        begun = time.perf_counter_ns()
        await once()
        times.append(time.perf_counter_ns() - begun)
    return median(times) / 1e3


async def acked(node: Node, count: int) -> float:
    """Messages a second to the players in turn, each with its receipt, PIPELINE of them under way."""
    begun = time.perf_counter()
    for first in range(0, count, PIPELINE):
        numbers = range(first, min(first + PIPELINE, count))
        receipts = await asyncio.gather(*(node.unicast(f"p{n % PLAYERS}", BODY) for n in numbers))
        assert all(receipt.outcome == "delivered" for receipt in receipts), receipts[0]
    return count / (time.perf_counter() - begun)


async def published(connection: Any, count: int) -> float:
    """Messages a second that NATS brought to its subscriber."""
    inbox = connection.new_inbox()
    done = await connection.subscribe(f"{inbox}.all")
    ready = await connection.subscribe(inbox)
    await connection.publish("want", str(count).encode(), reply=inbox)
    await ready.next_msg(timeout=20)
    begun = time.perf_counter()
    for n in range(count):
        await connection.publish(f"player.p{n % PLAYERS}", BODY)
    await connection.flush()
    await done.next_msg(timeout=60)
    return count / (time.perf_counter() - begun)


async def from_python(endpoint: str, address: str, folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Rows of Node beside nats-py."""
    rounds, trips, count = (3, 500, 10_000) if quick else (7, 2_000, 50_000)
    rtt: tuple[list[float], list[float]] = ([], [])
    rate: tuple[list[float], list[float]] = ([], [])
    async with Node("near", endpoint, state_dir=folder / "near") as node:
        connection = await nats.connect(f"nats://{address}")
        for _ in range(rounds):
            rtt[0].append(await round_trips(lambda: node.request("echo", BODY), trips))
            rtt[1].append(await round_trips(lambda: connection.request("echo", BODY), trips))
            rate[0].append(await acked(node, count))
            rate[1].append(await published(connection, count))
        await connection.close()
    return [
        row("RTT p50, Python, 64 B", rtt, "NATS, nats-py", "us", 0.6, "lower"),
        row(f"messages/s, {PLAYERS} players, Python, 64 B", rate, "nats-py, no acks", "1/s", 3.0, "higher"),
    ]


def raw_round_trips(endpoint: str, address: str, quick: bool) -> list[dict[str, Any]]:
    """The row of blocking clients."""
    rounds, trips = (3, 2_000) if quick else (7, 5_000)
    dealer, peer = RawDealer(endpoint, "raw-near", []), RawNats(address, "raw-inbox")

    def times(once: Callable[[], None]) -> float:
        found = []
        for _ in range(trips):
            begun = time.perf_counter_ns()
            once()
            found.append(time.perf_counter_ns() - begun)
        return median(found) / 1e3

    rtt: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        rtt[0].append(times(dealer.request))
        rtt[1].append(times(peer.request))
    dealer.socket.close()
    peer.socket.close()
    return [row("RTT p50, raw, 64 B", rtt, "NATS, raw socket", "us", 0.7, "lower")]


def row(
    name: str, rounds: tuple[list[float], list[float]], peer_name: str, unit: str, goal: float, better: str
) -> dict[str, Any]:
    """One row of the report."""
    ours, peer = median(rounds[0]), median(rounds[1])
    return {
        "name": name,
        "ours": round(ours),
        "peer": round(peer),
        "peer_name": peer_name,
        "unit": unit,
        "ratio": round(ours / peer, 2),
        "goal": goal,
        "better": better,
    }


def measure(*, quick: bool) -> list[dict[str, Any]]:
    """All rows of the bus."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        endpoint = stack.enter_context(process(hub_process, name))
        address = stack.enter_context(nats_server(folder))
        with process(run_raw_dealer, endpoint), process(run_raw_nats, address):
            rows = raw_round_trips(endpoint, address, quick)
        with process(run_node, endpoint, name), process(run_nats, address):
            return rows + asyncio.run(from_python(endpoint, address, folder, quick))
