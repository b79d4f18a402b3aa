"""`bench`: how fast is this hub (`bus`), or the edge (`edge`), from here, for a Python program?"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click
from zmqgame_bus.errors import BusError

from zmqgame.cli.bench_edge import edge
from zmqgame.cli.context import EXIT_CODES, FAILED, Context, finish, run
from zmqgame.cli.hdr import Histogram
from zmqgame.cli.measured import latency, mode_option, progress, seconds_option, show, style_options

if TYPE_CHECKING:
    from zmqgame_bus.messages import Delivery, MessageId
    from zmqgame_bus.node import Node

MODES: Final = ("rtt", "throughput", "fanout", "durable")
SHARES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
BATCH: Final = 500
"""Messages handed over at once: some milliseconds of Python."""
BATCHES: Final = 4
"""Of these on their way at once, so that the link never waits for this program."""
RECEIPT_S: Final = 30.0
GOOD: Final = frozenset({"delivered", "stored"})

EPILOG = f"""\b
Examples:
  zmqgame-cli bench bus                                  each mode for 5 s
  zmqgame-cli bench bus --mode rtt --count 10000
  zmqgame-cli bench bus --mode throughput --size 200 --players 1000 --transport native
  zmqgame-cli bench bus --json > today.json              or --csv

\b
Modes:
  rtt         one message at a time, from its sending to its receipt: handled by the other node
  throughput  as many as the window allows, to --players on one node, each with its receipt
  fanout      to a group of --players on two nodes; a delivery is one recipient
  durable     to --players who are offline: a receipt says that the mailbox has committed it

Sender and receivers share this program and its processor; the hub's own limits are higher. Messages are
sent to players named bench:NODE:N and removed at the end, also from the mailbox; nothing else is touched.

{EXIT_CODES}"""


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    count: int
    seconds: float
    size: int
    players: int
    transport: str


@dataclass
class Outcome:
    """What one mode has measured."""

    mode: str
    transport: str
    size: int
    players: int
    messages: int = 0
    deliveries: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=Histogram)

    def row(self) -> dict[str, Any]:
        """For --json and --csv."""
        found = self.latency.percentiles(list(SHARES.values())) if self.latency.total else [0.0] * len(SHARES)
        per_s = self.deliveries / self.seconds if self.seconds else 0.0
        return {
            "mode": self.mode,
            "transport": self.transport,
            "size_bytes": self.size,
            "players": self.players,
            "messages": self.messages,
            "deliveries": self.deliveries,
            "seconds": round(self.seconds, 3),
            "per_s": round(per_s, 1),
            **{f"{name}_ms": value for name, value in zip(SHARES, found, strict=True)},
            "max_ms": self.latency.max_us / 1_000,
            "mean_ms": round(self.latency.mean_us / 1_000, 4),
            "outcomes": dict(self.outcomes),
        }


Tick = Callable[[int], None]


@click.group(epilog=EXIT_CODES)
def bench() -> None:
    """Measure, on this machine, against what runs."""


@bench.command(epilog=EPILOG, short_help="Round trips, throughput, fan-out, durable sends through the hub.")
@mode_option(MODES)
@click.option(
    "--count",
    type=click.IntRange(1, 10_000_000),
    default=1_000_000,
    show_default=True,
    help="Messages, at most.",
)
@seconds_option(5.0, "A mode's time at most.")
@click.option("--size", type=click.IntRange(0, 65_536), default=64, show_default=True, help="Payload bytes.")
@click.option("--players", type=click.IntRange(1, 5_000), default=100, show_default=True, help="Recipients.")
@click.option(
    "--transport",
    type=click.Choice(["pyzmq", "native", "native-thread"]),
    default="pyzmq",
    show_default=True,
    help="The sockets of the nodes.",
)
@style_options
@click.pass_obj
def bus(
    context: Context,
    modes: tuple[str, ...],
    count: int,
    seconds: float,
    size: int,
    players: int,
    transport: str,
    style: str | None,
) -> None:
    """Round trips, throughput, fan-out and durable sends through the hub that runs."""
    plan = Plan(count, seconds, size, players, transport)
    outcomes = run(_bench(context, modes or MODES, plan))
    show(style, [outcome.row() for outcome in outcomes], _line)
    bad = any(set(outcome.outcomes) - GOOD for outcome in outcomes)
    finish(FAILED if bad or not all(outcome.messages for outcome in outcomes) else 0)


async def _bench(context: Context, modes: tuple[str, ...], plan: Plan) -> list[Outcome]:
    done = []
    async with AsyncExitStack() as stack:
        sender, first, second = [
            await stack.enter_async_context(context.node(transport=plan.transport)) for _ in range(3)
        ]
        for mode in modes:
            outcome = Outcome(mode, plan.transport, plan.size, 1 if mode == "rtt" else plan.players)
            with progress(mode, plan.seconds, plan.count) as tick:
                await _MODES[mode](sender, first, second, plan, outcome, tick)
            done.append(outcome)
    return done


class Receiver:
    """Handles whatever comes, at once; counts it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.count = 0
        node.set_player_handler(self)

    def bound(self, player: str, login: int) -> None:
        """Hosted."""

    def delivered(self, deliveries: list[Delivery]) -> None:
        """Handle them."""
        self.count += len(deliveries)
        self.node.handled_many(deliveries)

    def dropped(self, player: str, why: str) -> None:
        """Somebody else took it: the receipts will say so."""

    def forget(self, player: str, up_to: MessageId) -> None:
        """There is no client that keeps marks."""


@asynccontextmanager
async def _hosted(node: Node, count: int) -> AsyncIterator[list[str]]:
    """Players on a node; at the end they are logged out, with nothing left for them."""
    names = [f"bench:{node.name}:{number}" for number in range(count)]
    Receiver(node)
    try:
        for name in names:
            await node.attach(name)
        yield names
    finally:
        for name in names:
            await node.leave_player(name)


def _until(plan: Plan) -> Callable[[int], bool]:
    """Whether to go on after so many messages."""
    end = time.perf_counter() + plan.seconds
    return lambda sent: sent < plan.count and time.perf_counter() < end


async def _rtt(sender: Node, first: Node, _: Node, plan: Plan, outcome: Outcome, tick: Tick) -> None:
    async with _hosted(first, 1) as (player,):
        payload, more, began = bytes(plan.size), _until(plan), time.perf_counter()
        while more(outcome.messages):
            asked = time.perf_counter_ns()
            receipt = await sender.unicast(player, payload, timeout_s=RECEIPT_S)
            outcome.latency.add([(time.perf_counter_ns() - asked) // 1_000])
            outcome.outcomes[receipt.outcome] += 1
            outcome.messages += 1
            outcome.deliveries += 1
            tick(1)
        outcome.seconds = time.perf_counter() - began


async def _throughput(sender: Node, first: Node, _: Node, plan: Plan, outcome: Outcome, tick: Tick) -> None:
    async with _hosted(first, plan.players) as names:
        await _many(sender, names, plan, outcome, tick)


async def _durable(sender: Node, first: Node, _: Node, plan: Plan, outcome: Outcome, tick: Tick) -> None:
    async with _hosted(first, plan.players) as names:
        pass  # known from now on, and offline
    try:
        await _many(sender, names, plan, outcome, tick)
    finally:
        async with _hosted(first, plan.players):
            await _emptied(first, names)


async def _emptied(node: Node, names: list[str]) -> None:
    """Wait until the mailbox has given everything away: nothing of ours stays behind."""
    deadline = time.monotonic() + RECEIPT_S + len(names) / 10
    while time.monotonic() < deadline:
        found = await node.query("players", f"10000 bench:{node.name}:")
        if all(row["phase"] == "live" and not row["sent"] for row in found):
            return
        await asyncio.sleep(0.1)
    raise BusError("messages of the benchmark are still in the mailbox of players bench:" + node.name)


async def _many(sender: Node, names: list[str], plan: Plan, outcome: Outcome, tick: Tick) -> None:
    payload, more, began = bytes(plan.size), _until(plan), time.perf_counter()
    at = sent = 0
    under_way: set[asyncio.Task[None]] = set()
    limit = len(names) * _ROOM if outcome.mode == "durable" else plan.count

    async def one(messages: list[tuple[str, bytes]]) -> None:
        for receipt in await sender.unicast_many(messages, timeout_s=RECEIPT_S):
            outcome.latency.add([int(receipt.latency_ms * 1_000)])
            outcome.outcomes[receipt.outcome] += 1
        outcome.messages += len(messages)
        outcome.deliveries += len(messages)
        tick(len(messages))

    while more(sent) and sent < limit:
        batch = [
            (names[(at + i) % len(names)], payload)
            for i in range(min(BATCH, plan.count - sent, limit - sent))
        ]
        at, sent = at + len(batch), sent + len(batch)
        under_way.add(asyncio.create_task(one(batch)))
        if len(under_way) >= BATCHES:
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    await asyncio.gather(*under_way)
    outcome.seconds = time.perf_counter() - began


_ROOM: Final = 900
"""Messages to one offline player: its mailbox takes 1,000."""


async def _fanout(sender: Node, first: Node, second: Node, plan: Plan, outcome: Outcome, tick: Tick) -> None:
    half = plan.players // 2
    group = f"bench:{sender.name}"
    async with _hosted(first, plan.players - half) as some, _hosted(second, half) as others:
        for node, names in ((first, some), (second, others)):
            await asyncio.gather(*(node.join(group, name) for name in names))
        payload, more, began = bytes(plan.size), _until(plan), time.perf_counter()
        sent, under_way = 0, set[asyncio.Task[None]]()

        async def one() -> None:
            asked = time.perf_counter_ns()
            report = await sender.multicast(group, payload, timeout_s=RECEIPT_S)
            outcome.latency.add([(time.perf_counter_ns() - asked) // 1_000])
            counts = {name: count for name, count in report.counts.items() if count}
            outcome.outcomes.update(counts or {report.outcome: 1})
            outcome.deliveries += sum(counts.values())
            outcome.messages += 1
            tick(1)

        while more(sent):
            sent += 1
            under_way.add(asyncio.create_task(one()))
            if len(under_way) >= BATCHES:
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        await asyncio.gather(*under_way)
        outcome.seconds = time.perf_counter() - began


_MODES: dict[str, Callable[[Node, Node, Node, Plan, Outcome, Tick], Awaitable[None]]] = {
    "rtt": _rtt,
    "throughput": _throughput,
    "fanout": _fanout,
    "durable": _durable,
}


def _line(row: Mapping[str, Any]) -> str:
    what = "deliveries" if row["mode"] == "fanout" else "messages"
    of = f"{row['size_bytes']} B, {row['players']} players, {row['transport']}"
    line = f"{row['mode']:<10} {row['per_s']:>12,.0f} {what}/s   {latency(row)}   {of}"
    bad = {name: count for name, count in row["outcomes"].items() if name not in GOOD}
    if bad:
        line += f"\n{'':<10} not done: " + ", ".join(f"{name} {count:,}" for name, count in bad.items())
    return line


bench.add_command(edge)
