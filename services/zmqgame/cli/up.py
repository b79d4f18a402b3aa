"""`up`: every service on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
from zmqgame_bus import ports
from zmqgame_bus.errors import AddressInUse
from zmqgame_bus.tables import BusConfig

from zmqgame.cli.context import EXIT_CODES, Context, finish, run
from zmqgame.cli.stage import Addresses, Stage, free_addresses
from zmqgame.cli.supervise import Supervisor

__all__ = ["up"]

SETTLED: Final = (
    "hub.listen",
    "events.publish",
    "stats.listen",
    "game.listen",
    "game.udp",
    "metrics.listen",
)

EPILOG = f"""\b
Examples:
  zmqgame-cli up                                     hub on 7600, games on 7611 and 7621
  zmqgame-cli --hub tcp://127.0.0.1:7700 up --dir /tmp/other
  zmqgame-cli up --bots 16                           with some life in it
  zmqgame-cli up --free-ports                        wherever there is room

{EXIT_CODES}"""


@click.command(epilog=EPILOG)
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("var/up"),
    show_default=True,
    help="Where all data is kept; the next `up` goes on with it.",
)
@click.option("--games", type=click.IntRange(1, 16), default=2, show_default=True, help="Game servers.")
@click.option(
    "--bots", "players", type=click.IntRange(0, 1000), default=0, show_default=True, help="Bot players."
)
@click.option("--free-ports", is_flag=True, help="Take free ports instead of the usual ones.")
@click.pass_obj
def up(context: Context, folder: Path, games: int, players: int, free_ports: bool) -> None:
    """Run hub, games, manager and stats until Ctrl-C; print each address; restart what dies."""
    context.refuse_flags(SETTLED, "`up` settles who listens where: --hub and --free-ports choose")
    if free_ports:
        context.refuse_flags(("bus.hub",), "--free-ports chooses the hub's address too")
    names = [f"game-{number}" for number in range(1, games + 1)]
    if free_ports:
        addresses = free_addresses(names)
    else:
        addresses = usual_addresses(names, context.config.table(BusConfig).hub)
    extra = [f"--set={path}={value}" for path, value in context.flags.items() if path != "bus.hub"]
    stage = Stage(folder, addresses, settings=context.chosen(), extra=extra)
    finish(run(_up(stage, players)))


def usual_addresses(games: Sequence[str], hub: str) -> Addresses:
    """Where everything listens unless told otherwise: ten ports a game server, its metrics on the third."""
    pairs = {
        name: (f"127.0.0.1:{port + 1}", f"127.0.0.1:{port + 2}")
        for name, port in zip(games, range(7610, 7610 + 10 * len(games), 10), strict=True)
    }
    metrics = {"hub": "127.0.0.1:7602", "stats": "127.0.0.1:7603", "manager": "127.0.0.1:7604"}
    metrics |= {name: f"127.0.0.1:{7613 + 10 * at}" for at, name in enumerate(games)}
    return replace(Addresses(), hub=hub, games=pairs, metrics=metrics)


async def _up(stage: Stage, players: int) -> int:
    check_free(stage.addresses)
    stage.prepare()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    supervisor = Supervisor(stage.logs, _tell)
    try:
        starting = asyncio.create_task(_start(stage, supervisor, players))
        ending = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        if not stop.is_set() and supervisor.failed is not None:
            if stage.addresses.metrics:
                print(
                    f"metrics  http://{stage.addresses.metrics['hub']}/metrics, and of each service",
                    flush=True,
                )
            print(f"all up; data and logs in {stage.folder}; Ctrl-C ends it", flush=True)
            waits: set[asyncio.Future[Any]] = {ending, supervisor.failed}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if supervisor.failed.done():
                supervisor.failed.result()
    finally:
        print("stopping", flush=True)
        codes = await supervisor.stop()
    bad = {name: code for name, code in codes.items() if code}
    for name, code in bad.items():
        print(f"{name} ended with code {code}: see {stage.logs / name}.log", flush=True)
    return 1 if bad else 0


async def _start(stage: Stage, supervisor: Supervisor, players: int) -> None:
    await supervisor.start(stage.hub())
    print(f"hub      ready  {stage.addresses.hub}   mailbox sqlite", flush=True)
    await supervisor.start_all([stage.stats(), stage.manager(), *stage.games()])
    print(f"stats    ready  {stage.addresses.events}   chDB in {stage.folder / 'stats'}", flush=True)
    print("manager  ready", flush=True)
    for name, (tcp, udp) in stage.addresses.games.items():
        print(f"{name:<8} ready  ws://{tcp}  udp://{udp}", flush=True)
    if players:
        await supervisor.start(stage.bots(players, "bot-"))
        print(f"bots     ready  {players} players", flush=True)


def check_free(addresses: Addresses) -> None:
    """Say which address is taken, by whom and what to do, before anything is started."""
    pairs = addresses.games.values()
    listening = [addresses.hub, addresses.events, *(f"tcp://{tcp}" for tcp, _ in pairs)]
    listening += [f"http://{metrics}" for metrics in addresses.metrics.values()]
    for address in [*listening, *(f"udp://{udp}" for _, udp in pairs)]:
        host, port = ports.split(address)
        holder = ports.holder(port, udp=address.startswith("udp")) if port else None
        if holder is not None:
            raise AddressInUse(
                f"port {port} on {host} is in use by another process ({holder})",
                hint="stop it, or take other ports: zmqgame-cli up --free-ports",
            )


def _tell(name: str, what: str, detail: str) -> None:
    if what != "ready":
        print(f"{time.strftime('%H:%M:%S')}  {name} {what} {detail}".rstrip(), flush=True)
