"""`demo`: the whole backend on one machine, with kills, and the proof that nothing was lost.

The walk: start everything, let players race and operators write, take some players offline and write to
them, kill a game server, bring those players back, kill the hub, end in order, then compare what was
promised with what came.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
import orjson
from zmqgame_bus.errors import BusError, RequestError, StartError, ZmqgameError
from zmqgame_bus.events import Emitter
from zmqgame_bus.logs import JsonFormatter
from zmqgame_bus.messages import MessageId
from zmqgame_bus.node import Node

from zmqgame.cli import evidence
from zmqgame.cli.context import DONE, EXIT_CODES, FAILED, Context, finish, print_json, request, run
from zmqgame.cli.operators import Operators
from zmqgame.cli.proof import Evidence, Sent, Verdict, judge
from zmqgame.cli.stage import Addresses, Stage, free_addresses
from zmqgame.cli.supervise import Supervisor
from zmqgame.cli.view import Board, Screen

__all__ = ["Demo", "Options", "demo"]

PREFIX: Final = "bot-"
GAMES: Final = ("game-1", "game-2")
ASK_S: Final = 2.0
"""A question for the live view: what takes longer is shown late, not waited for."""

BACK_S: Final = 60.0
"""How long a killed service has to come back."""

SETTLED: Final = (
    *("bus.hub", "hub.listen", "events.publish", "events.spool_dir", "stats.listen"),
    *(
        "game.listen",
        "game.udp",
        "mailbox.url",
        "security.curve",
        "bots.count",
        "bots.prefix",
        "bots.log_dir",
    ),
)
"""What the proof relies on, or its own nodes do."""

AWAY: Final = 8
"""One of this many players goes offline for a while."""


@dataclass(frozen=True)
class Options:
    """What the demo is asked for."""

    players: int = 64
    seconds: float = 30.0
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    settle_s: float = 30.0
    """How long receipts, logs and rows have to arrive after the last message was sent."""
    last_race_s: float = 13.0
    """How much longer it waits for the races under way: the slowest car takes so long."""
    warehouse: str = "chdb"
    """Not from a file or the environment: a demo has no business in a warehouse of somebody else."""
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Other programs in the place of services, by name: tests put broken ones in."""


class Demo:
    """One run in one folder."""

    def __init__(self, folder: Path, options: Options, screen: Screen) -> None:
        self.options = options
        self.screen = screen
        self.board = screen.board
        self.board.players = options.players
        self.addresses: Addresses = free_addresses(GAMES)
        settings: dict[str, dict[str, object]] = {
            "game": {"cutscene_ms": 500, "countdown_ms": 1000},
            "manager": {"patience_ms": 2000, "match_config": '{"distance_m": 201.168}'},
        }
        for name, values in options.settings.items():
            settings.setdefault(name, {}).update(values)
        own = ("--set=security.curve=false", f"--set=stats.clickhouse={options.warehouse}")
        self.stage = Stage(
            folder,
            self.addresses,
            settings=settings,
            commands=options.commands,
            extra=own,
            option="--keep",
        )
        self.supervisor = Supervisor(self.stage.logs, self._heard)
        self.players = [f"{PREFIX}{number:04d}" for number in range(1, options.players + 1)]
        self.problems: list[str] = []
        self.finishes: list[dict[str, Any]] = []
        self.tick_p99_ms = 0.0
        self.races = 0
        self._node: Node | None = None

    async def run(self) -> Verdict:
        """Everything, from the first process to the proof."""
        self.stage.prepare()
        self._log()
        try:
            await self._start()
            emitter = Emitter("operators", spool_dir=self.stage.spools, publish=self.addresses.events)
            personal = Node("operator-1", self.addresses.hub, state_dir=self.stage.folder / "operator-1")
            public = Node("operator-2", self.addresses.hub, state_dir=self.stage.folder / "operator-2")
            emitter.attach(personal)
            async with personal, public:
                self._node = public
                operators = Operators(personal, public, emitter, self.players)
                view = asyncio.create_task(self._watch(operators))
                try:
                    await self._play(operators)
                    return await self._end(operators, emitter)
                finally:
                    view.cancel()
                    emitter.close()
        finally:
            await self.supervisor.stop()

    def _log(self) -> None:
        """What the operators' nodes log goes beside the services' logs."""
        self.stage.logs.mkdir(exist_ok=True)
        handler = logging.FileHandler(self.stage.logs / "demo.log")
        handler.setFormatter(JsonFormatter("demo"))
        logging.getLogger().addHandler(handler)

    # -- the walk --------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        await self.supervisor.start(self.stage.hub())
        self.screen.say(f"hub      ready  {self.addresses.hub}   mailbox sqlite")
        await self.supervisor.start_all([self.stage.stats(), self.stage.manager(), *self.stage.games()])
        for name, (tcp, udp) in self.addresses.games.items():
            self.screen.say(f"{name:<8} ready  ws://{tcp}  udp://{udp}")
        self.screen.say("manager  ready")
        self.screen.say(f"stats    ready  {self.addresses.events}   chDB in {self.stage.folder / 'stats'}")
        await self.supervisor.start(self.stage.bots(self.options.players, PREFIX))
        self.screen.say(f"bots     ready  {self.options.players} players")

    async def _play(self, operators: Operators) -> None:
        began = time.monotonic()
        await operators.make_teams()
        stop = asyncio.Event()
        sending = asyncio.create_task(operators.run(stop))
        away = self.players[:: max(2, len(self.players) // AWAY)]
        steps = (
            (0.15, self._take_away(away, operators)),
            (0.30, self._kill("game-1")),
            (0.50, self._bring_back(away)),
            (0.60, self._kill("hub")),
            (0.85, self._quiet()),
        )
        try:
            for share, step in steps:
                await self._until(began + share * self.options.seconds)
                await step
            await self._until(began + self.options.seconds, races=True)
            if self.board.races_running or self.board.races_finished == 0:
                await self._until(time.monotonic() + self.options.last_race_s, races=True)
        finally:
            for _, step in steps:
                step.close()
            stop.set()
            await sending

    async def _take_away(self, players: Sequence[str], operators: Operators) -> None:
        await self._tell_bots({"op": "leave", "players": list(players)})
        operators.write_to(players)
        self.screen.event(f"{len(players)} players log out; messages to them wait in the mailbox")

    async def _bring_back(self, players: Sequence[str]) -> None:
        await self._tell_bots({"op": "login", "players": list(players)})
        self.screen.event(f"{len(players)} players are back and get what waited for them")

    async def _quiet(self) -> None:
        await self._tell_bots({"op": "quiet"})
        self.screen.event("no new races; those under way end")

    async def _tell_bots(self, body: dict[str, Any]) -> None:
        """What bots are told may be repeated, so a hub that is on its way back is no reason to give up."""
        until = time.monotonic() + BACK_S
        while True:
            try:
                await self._ask("bots", body, BACK_S)
                return
            except RequestError:
                if time.monotonic() >= until:
                    raise
            await asyncio.sleep(0.1)

    async def _kill(self, name: str) -> None:
        child = self.supervisor.children[name]
        pid, began = child.pid, time.monotonic()
        self.supervisor.kill(name)
        try:
            await asyncio.wait_for(child.up.wait(), BACK_S)
        except TimeoutError:
            raise StartError(f"{name} did not come back in {BACK_S:.0f} s", hint=f"see {child.log}") from None
        self.screen.event(f"kill -9 {name} (pid {pid}) … back in {time.monotonic() - began:.2f} s")

    async def _until(self, at: float, *, races: bool = False) -> None:
        """Wait until a time, or with ``races`` until no race is under way;
        fail at once if a service gives up.
        """
        assert self.supervisor.failed is not None
        while time.monotonic() < at and not (races and self.board.races_running == 0):
            if self.supervisor.failed.done():
                self.supervisor.failed.result()
            await asyncio.sleep(0.1)

    # -- the end ---------------------------------------------------------------------------------------------

    async def _end(self, operators: Operators, emitter: Emitter) -> Verdict:
        """Let everything arrive, stop who plays, then who counts; then compare."""
        missing = await operators.settle(self.options.settle_s)
        if missing:
            self.problems.append(f"{missing} messages without a receipt after {self.options.settle_s:.0f} s")
        for name in ("bots", *GAMES, "manager"):
            code = await self.supervisor.stop_one(name)
            if code:
                self.problems.append(f"{name} ended with code {code} after SIGTERM")
        if not await emitter.drain(self.options.settle_s):
            self.problems.append("stats did not confirm the operators' events")
        published, inserted = await self._events()
        sent = operators.sent + await self._sent_by_services()
        await self._results()
        self.problems += operators.problems
        for name in ("stats", "hub"):
            code = await self.supervisor.stop_one(name)
            if code:
                self.problems.append(f"{name} ended with code {code} after SIGTERM")
        self.board.races_running, self.board.races_finished = 0, self.races
        self.board.rows = sum(each.rows for each in inserted.values())
        return judge(
            Evidence(
                sent=sent,
                handled=[
                    *evidence.handled(self.stage.bot_logs),
                    *evidence.handled_by_manager(self.stage.folder / "manager" / "manager.sqlite"),
                ],
                mailbox=evidence.mailbox(self.stage.mailbox),
                published=published,
                inserted=inserted,
            )
        )

    async def _sent_by_services(self) -> list[Sent]:
        """Receipts that manager and games hold for what they wrote to players, as they wrote them down."""
        rows = await self._sql(
            "SELECT id, recipient, outcome FROM messages WHERE source != 'operators' AND kind = 'unicast'"
        )
        players = set(self.players)
        return [
            Sent(MessageId.parse(row["id"]).numbers(), "unicast", {row["recipient"]: row["outcome"]})
            for row in rows
            if row["recipient"] in players
        ]

    async def _events(self) -> tuple[dict[tuple[str, int], int], dict[tuple[str, int], Any]]:
        """Numbers of the spools and rows of ClickHouse, once they agree or have had their time.

        The sources that still run (hub, stats) may number one more between the two looks; so look again.
        """
        until = time.monotonic() + self.options.settle_s
        while True:
            published = evidence.published(self.stage.spools)
            inserted = evidence.inserted_rows(await self._sql(evidence.inserted_query()))
            agreed = judge(Evidence([], [], published=published, inserted=inserted)).holds
            if agreed or time.monotonic() >= until:
                return published, inserted
            await asyncio.sleep(0.2)

    async def _results(self) -> None:
        """Winners and figures, out of ClickHouse."""
        self.finishes = await self._sql(
            "SELECT player, car, time_ms / 1000 AS time_s, trap_kmh, match FROM finishes "
            "WHERE place = 1 ORDER BY time_ms, player LIMIT 8"
        )
        finished = await self._sql("SELECT uniqExact(match) AS n FROM matches WHERE event = 'finished'")
        self.races = int(finished[0]["n"])
        ticks = await self._sql(
            "SELECT sum(p99_us * count) / greatest(sum(count), 1) / 1000 AS p99 FROM ticks"
        )
        self.tick_p99_ms = round(float(ticks[0]["p99"]), 3)

    # -- the live view ---------------------------------------------------------------------------------------

    async def _watch(self, operators: Operators) -> None:
        """Ask around twice a second; who is away for a moment is asked again."""
        messages, at = 0, time.monotonic()
        while True:
            self.board.receipts = operators.outcomes
            with contextlib.suppress(ZmqgameError, TimeoutError, KeyError, TypeError, ValueError):
                await self._look()
                now_messages, now = await self._bus_messages(), time.monotonic()
                if now_messages > messages:
                    self.board.bus_per_s = (now_messages - messages) / (now - at)
                messages, at = now_messages, now
            self.screen.refresh()
            await asyncio.sleep(0.5)

    async def _look(self) -> None:
        bots = await self._ask("bots", {"op": "status"}, ASK_S)
        self.board.online = int(bots["online"])
        counts = await self._sql(
            "SELECT (SELECT count() FROM matches WHERE event = 'finished') AS finished, "
            "(SELECT avg(p50_us) FROM (SELECT p50_us FROM ticks ORDER BY time DESC LIMIT 10)) AS p50, "
            "(SELECT max(p99_us) FROM (SELECT p99_us FROM ticks ORDER BY time DESC LIMIT 10)) AS p99, "
            f"({' + '.join(f'(SELECT count() FROM {table})' for table in evidence.TABLES)}) AS rows",
            ASK_S,
        )
        self.board.races_finished = int(counts[0]["finished"])
        self.board.tick_p50_ms = float(counts[0]["p50"] or 0) / 1000
        self.board.tick_p99_ms = float(counts[0]["p99"] or 0) / 1000
        self.board.rows = int(counts[0]["rows"])
        running = 0
        for name in GAMES:
            running += int((await self._ask(f"game:{name}", {"op": "status"}, ASK_S))["matches"])
        self.board.races_running = running

    async def _bus_messages(self) -> int:
        assert self._node is not None
        status = await self._node.query("status", timeout_s=ASK_S)
        return int(status["counters"]["messages_in"]) + int(status["counters"]["deliveries"])

    async def _ask(self, service: str, body: dict[str, Any], timeout_s: float) -> Any:
        assert self._node is not None
        return await request(self._node, service, body, timeout_s)

    async def _sql(self, query: str, timeout_s: float = 10.0) -> list[dict[str, Any]]:
        assert self._node is not None
        reply = await self._node.request(
            "stats", {"op": "sql", "query": query, "format": "JSON"}, timeout_s=timeout_s
        )
        rows: list[dict[str, Any]] = orjson.loads(reply.payload)["data"]
        return rows

    def _heard(self, name: str, what: str, detail: str) -> None:
        if what in ("failed", "killed"):
            self.screen.event(f"{name} {what}: {detail}")


def summary(made: Demo, verdict: Verdict, reasons: Sequence[str]) -> dict[str, Any]:
    """The JSON object of --json."""
    return {
        "players": made.options.players,
        "races_finished": made.races,
        "unicast_acked": verdict.unicast_acked,
        "multicast_acked": verdict.multicast_acked,
        "broadcast_acked": verdict.broadcast_acked,
        "stored_then_delivered": verdict.stored_then_delivered,
        "lost": verdict.lost,
        "duplicated": verdict.duplicated,
        "out_of_order": verdict.out_of_order,
        "untrue": verdict.untrue,
        "unknown": verdict.unknown,
        "events_published": verdict.events_published,
        "rows_inserted": verdict.rows_inserted,
        "tick_p99_ms": made.tick_p99_ms,
        "ok": not reasons,
        "reasons": list(reasons),
    }


async def perform(folder: Path, options: Options, screen: Screen) -> tuple[dict[str, Any], int]:
    """One run, what it shows, its summary and its exit code."""
    made = Demo(folder, options, screen)
    with screen:
        verdict = await made.run()
    header = ["player", "car", "time s", "trap km/h", "race"]
    screen.table("winners (SQL)", header, [list(row.values()) for row in made.finishes])
    reasons = [*verdict.reasons, *made.problems, *_absent(made, verdict)]
    screen.proof(verdict)
    for reason in reasons[len(verdict.reasons) :]:
        screen.say(f"FAILED  {reason}")
    return summary(made, verdict, reasons), FAILED if reasons else DONE


def _absent(made: Demo, verdict: Verdict) -> list[str]:
    """A proof about nothing is none: each kind of traffic must have been there."""
    found = {
        "no race finished": made.races,
        "no unicast was acked": verdict.unicast_acked,
        "no multicast was acked": verdict.multicast_acked,
        "no broadcast was acked": verdict.broadcast_acked,
        "no message was stored and then delivered": verdict.stored_then_delivered,
        "no event was published": verdict.events_published,
    }
    return [what for what, count in found.items() if not count]


EPILOG = f"""\b
Examples:
  zmqgame-cli demo                       64 players, about 40 seconds in all
  zmqgame-cli demo --players 16 --seconds 15
  zmqgame-cli demo --keep var/demo       look at logs, mailbox and analytics afterwards
  zmqgame-cli demo --json | tail -1      one JSON object

{EXIT_CODES}"""


@click.command(epilog=EPILOG)
@click.option("--players", type=click.IntRange(4, 1000), default=64, show_default=True, help="Bot players.")
@click.option(
    "--seconds", type=click.FloatRange(10, 40), default=30.0, show_default=True, help="How long they play."
)
@click.option(
    "--keep", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), help="Keep all data in DIR."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object as the last line.")
@click.pass_obj
def demo(context: Context, players: int, seconds: float, keep: Path | None, as_json: bool) -> None:
    """Run hub, two games, manager, stats and bots on this machine; kill a game and the hub; prove that
    nothing is lost.

    Needs nothing installed and no free port of a certain number. Exit 1 if the proof fails, with the reason.
    """
    context.refuse_flags(SETTLED, "the demo settles this itself; `zmqgame-cli up` runs a backend as you like")
    warehouse = context.flags.get("stats.clickhouse", Options.warehouse)
    options = Options(players, seconds, context.chosen(), warehouse=warehouse)
    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise StartError(f"{keep} is not empty", hint="a proof needs a fresh folder: choose another --keep")
    with _folder(keep) as folder:
        try:
            result, code = run(perform(folder, options, Screen(Board())))
        except ZmqgameError as error:
            if as_json:
                print_json({"players": players, "ok": False, "reasons": [str(error)]})
            if isinstance(error, BusError):
                raise ZmqgameError(f"the demo stopped: {error}", hint=error.hint) from error
            raise
        if as_json:
            print_json(result)
        finish(code)


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Where the demo writes. What a demo that failed has left is evidence, so it stays."""
    if keep is not None:
        yield keep
        return
    folder = Path(tempfile.mkdtemp(prefix="zmqgame-demo-"))
    try:
        yield folder
    except (ZmqgameError, click.exceptions.Exit):
        print(f"logs, mailbox and analytics are kept in {folder}", file=sys.stderr)
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
