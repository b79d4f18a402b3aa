"""Rows of the bus from Python: Node beside nats-py and redis-py; blocking clients with little Python."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import nats
import redis
from zmqgame_bus.messages import Delivery, Payload, Request
from zmqgame_bus.node import Node

from tests.bench.bus_peers import CLIENT, hub_process, nats_server, pin, redis_server
from tests.bench.bus_raw import BODY, RawDealer, RawNats, run_raw_dealer, run_raw_nats, until_closed
from tests.bench.bus_rows import process, row
from tests.bench.report import Row

PLAYERS = 1_000
PIPELINE = 2_000
_ALL_S = 600
TRANSPORTS = ("native", "pyzmq")
"""That of game servers, and that of everyone else."""


def run_node(pipe: Connection, endpoint: str, folder: str, transport: Any) -> None:
    """Answers requests for `echo`, and hosts the players as a game server does."""
    pin(CLIENT)

    async def echo(request: Request) -> Payload:
        return request.payload

    async def main() -> None:
        node = Node("far", endpoint, state_dir=Path(folder) / "far", transport=transport)
        node.serve("echo", echo)

        class Players:
            def delivered(self, deliveries: list[Delivery]) -> None:
                node.handled_many(deliveries)

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
    pin(CLIENT)

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


def run_redis(pipe: Connection, port: int) -> None:
    """Reads what comes to players, and counts it under the key `got`, now and then and at the end."""
    pin(CLIENT)
    client = redis.Redis("127.0.0.1", port)
    channel = client.pubsub(ignore_subscribe_messages=True)
    channel.psubscribe("player.*")
    channel.get_message(timeout=5)
    pipe.send("ready")
    counted = 0
    while not pipe.poll():
        message = channel.get_message(timeout=0.1)
        if message is not None:
            counted += 1
            if message["data"] == b"end":
                client.rpush("done", counted)
                counted = 0


async def round_trips(once: Callable[[], Awaitable[object]], count: int) -> float:
    """The median round trip in us."""
    times = []
    for _ in range(count):
        begun = time.perf_counter_ns()
        await once()
        times.append(time.perf_counter_ns() - begun)
    return median(times) / 1e3


async def acked(node: Node, count: int) -> float:
    """Messages a second to the players in turn, each with its receipt, sent in bulk."""
    begun = time.perf_counter()
    for first in range(0, count, PIPELINE * 5):
        numbers = range(first, min(first + PIPELINE * 5, count))
        receipts = await node.unicast_many([(f"p{n % PLAYERS}", BODY) for n in numbers])
        assert receipts.counts == {"delivered": len(numbers)}, receipts.counts
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


def piped(client: redis.Redis, count: int) -> float:
    """Messages a second that Redis brought to its subscriber, published in pipelines."""
    begun = time.perf_counter()
    for first in range(0, count, PIPELINE):
        pipeline = client.pipeline(transaction=False)
        for n in range(first, min(first + PIPELINE, count)):
            pipeline.publish(f"player.p{n % PLAYERS}", BODY)
        pipeline.execute()
    client.publish("player.p0", b"end")
    client.blpop(["done"], timeout=60)
    return count / (time.perf_counter() - begun)


async def nodes(
    endpoint: str, address: str, port: int, folder: Path, transport: Any, quick: bool
) -> list[Row]:
    """Rows of Node beside nats-py and redis-py."""
    rounds, trips, count = (3, 500, 20_000) if quick else (7, 2_000, 100_000)
    rtt: tuple[list[float], list[float]] = ([], [])
    ours: list[float] = []
    peers: dict[str, list[float]] = {"nats-py, no acks": [], "redis-py pipelines, no acks": []}
    client = redis.Redis("127.0.0.1", port)
    async with Node("near", endpoint, state_dir=folder / "near", transport=transport) as node:
        connection = await nats.connect(f"nats://{address}")
        for _ in range(rounds):
            rtt[0].append(await round_trips(lambda: node.request("echo", BODY), trips))
            rtt[1].append(await round_trips(lambda: connection.request("echo", BODY), trips))
            ours.append(await acked(node, count))
            peers["nats-py, no acks"].append(await published(connection, count))
            peers["redis-py pipelines, no acks"].append(await asyncio.to_thread(piped, client, count))
        await connection.close()
    name = f"messages/s, {PLAYERS} players, Python, {transport}, 64 B"
    return [
        row(f"RTT p50, Python, {transport}, 64 B", rtt, "NATS, nats-py", "us", 0.6, "lower"),
        *(row(name, (ours, figures), peer, "1/s", 3.0, "higher") for peer, figures in peers.items()),
    ]


def raw_round_trips(endpoint: str, address: str, quick: bool) -> Row:
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
    return row("RTT p50, raw, 64 B", rtt, "NATS, raw socket", "us", 0.7, "lower")


def run_raw(pipe: Connection, endpoint: str, address: str, _port: int, _folder: str, quick: bool) -> None:
    """Measure blocking clients in a process of its own, on the core of the clients."""
    pin(CLIENT)
    with process(run_raw_dealer, endpoint), process(run_raw_nats, address):
        rows = [raw_round_trips(endpoint, address, quick)]
    pipe.send(rows)
    until_closed(pipe)


def run_nodes(
    pipe: Connection, endpoint: str, address: str, port: int, folder: str, quick: bool, transport: str
) -> None:
    """Measure `Node` with that transport the same way."""
    pin(CLIENT)
    far = process(run_node, endpoint, folder, transport)
    with far, process(run_nats, address), process(run_redis, port):
        rows = asyncio.run(nodes(endpoint, address, port, Path(folder), transport, quick))
    pipe.send(rows)
    until_closed(pipe)


def from_python(bench: Any, run: Callable[..., None], *arguments: str) -> Iterator[Row]:
    """Rows of Python clients."""
    with (
        process(hub_process, str(bench.folder), {}) as (address, _),
        nats_server(bench.folder / "nats") as peer,
        redis_server(bench.folder / "redis", always=False) as port,
        process(
            run,
            f"tcp://{address}",
            peer,
            port,
            str(bench.folder),
            bench.quick,
            *arguments,
            ready_s=_ALL_S,
        ) as rows,
    ):
        yield from rows


PYTHON: dict[str, Callable[[Any], Iterator[Row]]] = {
    "python-raw": lambda bench: from_python(bench, run_raw),
    **{
        f"python-{transport}": lambda bench, transport=transport: from_python(bench, run_nodes, transport)
        for transport in TRANSPORTS
    },
}
