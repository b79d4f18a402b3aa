"""`python -m tests.load flood`: clients and strangers send a server all they can; do ticks keep time?

Real processes: hub, manager, two game servers, of which nobody floods the second: its late ticks are those
of the machine. Attackers stand back (nice 19), as other machines would. Exit code 1 when the share of late or
skipped ticks is over that of the calm server by more than `--most`, or when the flood did not arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import socket
import tempfile
from argparse import Namespace
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from zmqgame.client import Loss
from zmqgame.protocol import ToServer
from zmqgame.resume import Resume
from zmqgame_bus.node import Node

from tests.cluster import cluster, until
from tests.edge_tools import packet
from tests.load._attacks import count, dial, stand_back
from tests.load._options import run
from tests.players import Player, manager

FLOODED, CALM = "game-1", "game-2"
# What clients may send, and what nobody may: pings, acks, actions, inputs, a kind that there is not.
CLIENT = packet(ToServer.PING, 1) + packet(ToServer.ACK, 1) + packet(ToServer.ACTION, 1, b"{}") * 2
CLIENT += packet(ToServer.INPUT, 1, b"\1\0")
STRANGER = packet(ToServer.PING, 1) + packet(0x30, 1, b"junk") + packet(ToServer.LOGIN, 0, b"{}")
TIMES = 200
# What a flood makes a server count.
SHOWN = ("packets_in", "refused_malformed", "after_bye")


def pour(address: str, first: bytes, burst: bytes, over: Event, attacks: Any) -> None:
    """Send as much as goes, read what comes; again from the start when it is thrown out."""
    stand_back()
    client: socket.socket | None = None
    while not over.is_set():
        try:
            if client is None:
                client = dial(address)
                client.sendall(first)
                client.setblocking(False)
                rest = b""
            rest = rest or burst
            rest = rest[client.send(rest) :]
            count(attacks)
            with contextlib.suppress(BlockingIOError):
                if not client.recv(1 << 20):
                    raise ConnectionResetError
        except BlockingIOError:
            over.wait(0.005)
        except OSError:
            if client is not None:
                client.close()
            client = None


def come_again(address: str, login: bytes, over: Event, attacks: Any) -> None:
    """Log in with a token that is right, again and again, each time on a new connection."""
    stand_back()
    while not over.is_set():
        with contextlib.suppress(OSError), dial(address) as client:
            client.sendall(login)
            client.recv(1)
            count(attacks)


async def status(studio: Node, name: str) -> dict[str, Any]:
    """What a game server says of itself, all counters side by side."""
    found = (await studio.request(f"game:{name}", {"op": "status"}, timeout_s=30)).json()
    return {**found, **found["counters"], **found["edge"]}


def between(before: dict[str, Any], after: dict[str, Any], name: str) -> int:
    """By how much a counter has grown; one that does not show is 0."""
    return int(after.get(name, 0)) - int(before.get(name, 0))


async def flood_with(options: Namespace, folder: Path) -> dict[str, Any]:
    """One run."""
    settings = {"game.packets_per_s": options.packets_per_s, "game.bytes_per_s": options.bytes_per_s}
    async with (
        cluster(folder, FLOODED, **settings) as running,
        Node("studio", running.hub_endpoint, state_dir=folder / "studio") as studio,
    ):
        address = running.running[FLOODED].addresses["tcp"]
        spawn = multiprocessing.get_context("spawn")
        over, attacks, processes = spawn.Event(), spawn.Value("q", 0), []

        async def login(name: str) -> bytes:
            ticket = await Player(studio, name).ticket(Loss(0, ""))
            packet = Resume().login(ticket.token)
            return len(packet).to_bytes(4, "little") + packet

        for number in range(options.clients):
            arguments = (address, await login(f"flooder-{number}"), CLIENT * TIMES, over, attacks)
            processes.append(spawn.Process(target=pour, args=arguments))
        for number in range(options.comers):
            arguments = (address, await login(f"comer-{number}"), over, attacks)
            processes.append(spawn.Process(target=come_again, args=arguments))
        for _ in range(options.strangers):
            processes.append(spawn.Process(target=pour, args=(address, b"", STRANGER * TIMES, over, attacks)))
        await running.start("game", CALM)
        try:
            for process in processes:
                process.start()

            async def arrives() -> bool:
                now = await status(studio, FLOODED)
                return now.get("refused_malformed", 0) > 0 and now["players"] >= options.clients

            await until(arrives, "the flood arrives", 120)
            before = {name: await status(studio, name) for name in (FLOODED, CALM)}
            begun = attacks.value
            await asyncio.sleep(options.seconds)

            async def shows() -> bool:
                """Attackers stand back: on a busy machine they need more time than that."""
                now = await status(studio, FLOODED)
                goes_on = attacks.value > begun and now.get("turns_full", 0) > 0
                if options.packets_per_s:
                    goes_on = goes_on and now.get("throttled", 0) > 0
                return goes_on and all(between(before[FLOODED], now, name) for name in SHOWN)

            await until(shows, "the flood goes on", 120)
            after = {name: await status(studio, name) for name in (FLOODED, CALM)}
            assert (await manager(studio, "status"))["ok"]
            poured = attacks.value - begun
        finally:
            over.set()
            for process in processes:
                await asyncio.to_thread(process.join)
    found: dict[str, Any] = {"seconds": options.seconds, "load_average": round(os.getloadavg()[0], 1)}
    for name, word in ((FLOODED, "flooded"), (CALM, "calm")):
        grown = {
            each: between(before[name], after[name], each)
            for each in ("ticks", "late_ticks", "skipped_ticks")
        }
        due = grown["ticks"] + grown["skipped_ticks"]
        bad = grown["late_ticks"] + grown["skipped_ticks"]
        found |= {f"{word}_{each}": value for each, value in grown.items()}
        found[f"{word}_late_share"] = round(bad / max(1, due), 4)
    counters = (
        "packets_in",
        "refused_limit",
        "throttled",
        "turns_full",
        "after_bye",
        "refused_malformed",
        "accepted",
    )
    found |= {name: int(after[FLOODED].get(name, 0)) for name in counters}
    return found | {"attacks_a_second": round(poured / options.seconds)}


def flood(options: Namespace) -> dict[str, Any]:
    """Clients and strangers send all they can."""
    with tempfile.TemporaryDirectory(prefix="zmqgame-flood-") as folder:
        return asyncio.run(flood_with(options, Path(folder)))


def judge(options: Namespace, found: dict[str, Any]) -> list[str]:
    """The flood arrived, and ticks went on."""
    shown = ("attacks_a_second", *SHOWN, "flooded_ticks", "calm_ticks")
    wrong = [f"{name} is 0" for name in shown if not found[name]]
    late, calm = found["flooded_late_share"], found["calm_late_share"]
    if late > calm + options.most:
        wrong.append(f"{late} of the ticks are late or skipped, {calm} at the calm server")
    return wrong


def main(arguments: list[str]) -> int:
    """Run it."""
    numbers = {"clients": 1, "strangers": 1, "comers": 1, "packets_per_s": 500, "bytes_per_s": 262_144}
    return run("flood", flood, judge, arguments, **numbers, seconds=10.0, most=0.02)
