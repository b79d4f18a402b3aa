"""`python -m tests.load kill [--clients 1000]`: a game server with all the clients is killed with -9.

Real processes: hub, manager, two game servers, lean clients in two processes, a sender that writes to all
of them all the time. For each client two times count from the kill: until another server has welcomed it,
and until it has handled a message that was sent after the kill; before them its steps on the way. What counts
more: each message was handled, once and in order, and has its receipt. `dead_s`: how long the system took to
end the process, before which nobody can notice. `--planned`: the server is stopped in order instead, and
hands its sessions over; `resumed` says how many went on without a gap. The last line is JSON; exit code 1
when a promise was broken, or somebody had to wait for longer than `--most` seconds.
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
from pathlib import Path
from typing import Any

from zmqgame_bus.node import Node

from tests.cluster import Cluster, until

DOOMED, OTHER = "game-1", "game-2"
ROUND_S = 0.25
# A client's way back: it notices, has a token for another server, is connected there.
STEPS = ("lost", "ticket", "connected")


class CrowdProcess:
    """One process of clients."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.names: list[str] = []

    @classmethod
    async def start(cls, running: Cluster, name: str, count: int) -> "CrowdProcess":
        command = ["-m", "tests.load._crowd", "--name", name, "--count", str(count)]
        command += ["--hub", running.hub_endpoint, "--state", str(running.folder)]
        made = cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=64 << 20,
            )
        )
        made.names = (await made._answer())["ready"]
        return made

    async def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise AssertionError("a process of clients has ended")
        return json.loads(line)

    async def tell(self, do: str, **more: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
        return await self._answer()


class Sender:
    """Writes a number to every player, again and again; remembers what got a receipt."""

    def __init__(self, node: Node, players: list[str]) -> None:
        self.node, self.players = node, players
        self.rounds = 0
        self.sent_at: list[float] = []
        self.unacked = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self.sent_at.append(time.monotonic())
            number, self.rounds = self.rounds, self.rounds + 1
            self._tasks.add(asyncio.create_task(self._round(number)))
            await asyncio.sleep(ROUND_S)
        await asyncio.gather(*self._tasks)

    async def _round(self, number: int) -> None:
        receipts = await self.node.unicast_many(
            [(player, {"n": number}) for player in self.players], timeout_s=120
        )
        self.unacked += sum(not receipt.acked for receipt in receipts)


async def kill(
    folder: Path,
    clients: int,
    processes: int,
    quiet_s: float,
    *,
    planned: bool = False,
    dead_ms: int = 3_000,
) -> dict[str, Any]:
    """One run."""
    room = clients * 2 + 100
    running = Cluster(folder, **{"game.max_players": room, "game.checkpoint_ms": 0, "hub.dead_ms": dead_ms})
    crowds: list[CrowdProcess] = []
    try:
        await running.start("hub")
        await running.start("manager")
        await running.start("game", DOOMED)
        for number in range(processes):
            crowds.append(await CrowdProcess.start(running, f"crowd-{number}", clients // processes))
        began = time.monotonic()
        await asyncio.gather(*(crowd.tell("login", spread_s=clients / 1_000) for crowd in crowds))
        await until(lambda: online(crowds, clients), "all are online", 120)
        login_s = time.monotonic() - began
        await running.start("game", OTHER)
        async with Node("studio", running.hub_endpoint, state_dir=folder / "studio") as studio:
            names = [name for crowd in crowds for name in crowd.names]
            stop, sender = asyncio.Event(), Sender(studio, names)
            sending = asyncio.create_task(sender.run(stop))
            await quiet(sender, quiet_s)
            before = cpu_s(running, crowds)
            killed = died = time.monotonic()
            if planned:
                running.running[DOOMED].process.send_signal(signal.SIGTERM)
                await until(lambda: elsewhere(crowds, clients), "all are at the other server", 120)
            else:
                running.kill(DOOMED)
                died = time.monotonic()
            await until(lambda: online(crowds, clients), "all are served again", 120)
            after = cpu_s(running, crowds)
            cost = {name: round(after[name] - before[name], 2) for name in after}
            clients_own = sum(spent for name, spent in cost.items() if name.startswith("crowd-"))
            await quiet(sender, quiet_s)
            stop.set()
            await sending
            await until(lambda: handled(crowds, clients * sender.rounds), "all has been handled", 120)
            reports: dict[str, Any] = {}
            for crowd in crowds:
                reports |= await crowd.tell("report")
        return judge(reports, sender, killed) | {
            "clients": clients,
            "login_storm_s": round(login_s, 3),
            "dead_s": round(died - killed, 3),
            "cpu_s_until_served": cost,
            "cpu_share_of_the_clients": round(clients_own / max(0.01, sum(cost.values())), 2),
            "load_average": round(os.getloadavg()[0], 1),
        }
    except BaseException:
        print(running.logs(), file=sys.stderr)
        raise
    finally:
        for crowd in crowds:
            with contextlib.suppress(AssertionError, OSError, TimeoutError):
                await asyncio.wait_for(crowd.tell("stop"), 5)
            with contextlib.suppress(ProcessLookupError):
                crowd.process.kill()
            await crowd.process.wait()
        await asyncio.to_thread(running.close)


async def quiet(sender: Sender, seconds: float) -> None:
    """So long, and on a slow machine until as many rounds were begun as fit into it."""
    wanted = sender.rounds + int(seconds / ROUND_S)
    await asyncio.sleep(seconds)
    await until(lambda: sender.rounds >= wanted, "messages are sent", 120)


def cpu_s(running: Cluster, crowds: list[CrowdProcess]) -> dict[str, float]:
    """Processor time of each process: on a loaded machine it says more than the clock."""
    pids = {name: each.process.pid for name, each in running.running.items() if name != DOOMED}
    pids |= {f"crowd-{number}": crowd.process.pid for number, crowd in enumerate(crowds)}
    found = {}
    for name, pid in pids.items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


async def online(crowds: list[CrowdProcess], clients: int) -> bool:
    return sum([(await crowd.tell("status"))["online"] for crowd in crowds]) == clients


async def elsewhere(crowds: list[CrowdProcess], clients: int) -> bool:
    return sum([(await crowd.tell("status", at=OTHER))["at"] for crowd in crowds]) == clients


async def handled(crowds: list[CrowdProcess], count: int) -> bool:
    return sum([(await crowd.tell("status"))["handled"] for crowd in crowds]) >= count


def judge(reports: dict[str, Any], sender: Sender, killed: float) -> dict[str, Any]:
    """What became of the promises, and how long it took."""
    welcomed, first, lost, twice, disordered = [], [], 0, 0, 0
    after = next(number for number, at in enumerate(sender.sent_at) if at > killed)
    for report in reports.values():
        numbers = report["handled"]
        lost += len(set(range(sender.rounds)) - set(numbers))
        twice += len(numbers) - len(set(numbers))
        disordered += numbers != sorted(numbers)
        again = [at for at, server, _ in report["welcomes"] if server == OTHER]
        welcomed.append(min(again) - killed if again else float("inf"))
        since = [at for number, at in zip(numbers, report["handled_at"], strict=True) if number >= after]
        first.append(min(since) - killed if since else float("inf"))
    steps = {
        f"{step}_s": spread([report["steps"].get(step, float("inf")) - killed for report in reports.values()])
        for step in STEPS
    }
    return {
        "messages": len(reports) * sender.rounds,
        "without_receipt": sender.unacked,
        "lost": lost,
        "twice": twice,
        "out_of_order": disordered,
        "repeats_dropped_by_clients": sum(report["repeated"] for report in reports.values()),
        "resumed": sum(report["welcomes"][-1][2] for report in reports.values()),
        **steps,
        "welcomed_s": spread(welcomed),
        "first_message_s": spread(first),
    }


def spread(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "p50": round(ordered[len(ordered) // 2], 3),
        "p99": round(ordered[len(ordered) * 99 // 100], 3),
        "max": round(ordered[-1], 3),
    }


def broken(result: dict[str, Any], most_s: float = float("inf")) -> list[str]:
    """Which promises were broken; `most_s`: until the last client was served again."""
    wrong = [
        f"{name} is {result[name]}, not 0"
        for name in ("lost", "twice", "out_of_order", "without_receipt")
        if result[name]
    ]
    if result["first_message_s"]["max"] > most_s:
        wrong.append(f"the last client was served after {result['first_message_s']['max']} s, not {most_s}")
    return wrong


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.load kill", description=__doc__)
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quiet-s", type=float, default=3.0, help="traffic before the kill, and after")
    parser.add_argument("--most", type=float, default=2.0, help="seconds until all are served again")
    parser.add_argument("--planned", action="store_true", help="SIGTERM in the place of kill -9")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="zmqgame-kill-") as folder:
        work = kill(
            Path(folder), options.clients, options.processes, options.quiet_s, planned=options.planned
        )
        result = asyncio.run(work)
    wrong = broken(result, options.most)
    for sentence in wrong:
        print(f"wrong: {sentence}", file=sys.stderr)
    print(json.dumps({"load": "kill", **result, "wrong": wrong}))
    return int(bool(wrong))
