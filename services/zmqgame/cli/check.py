"""`check`: is the backend well? For people, programs and Nagios."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from zmqgame_bus.errors import BusError, CannotReachHub, RequestError, ZmqgameError

from zmqgame.cli.context import EXIT_CODES, Context, exit_code, finish, print_json, run

if TYPE_CHECKING:
    from zmqgame_bus.node import Node

T = TypeVar("T", bound=Callable[..., Any])

ASKS: Final = 5
"""Questions to the hub; the fastest answer is its round trip, the others waited for this machine."""

STATS_S: Final = 2.0

EPILOG = f"""\b
Examples:
  zmqgame-cli check                             a line for each thing that was looked at
  zmqgame-cli check --format nagios             one line, exit 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN
  zmqgame-cli check --format json --lag-s 5,30  warn at 5 s behind, critical at 30

Thresholds are WARN,CRITICAL; a value at or over one counts. --stats off does not look for stats.

{EXIT_CODES}"""


class Level(IntEnum):
    """As Nagios numbers them."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    level: Level
    text: str
    value: float = 0.0
    unit: str = ""
    limits: tuple[float, float] | None = None

    def perfdata(self) -> str:
        """As Nagios draws it: name=value[unit];warn;crit."""
        tail = f";{self.limits[0]:g};{self.limits[1]:g}" if self.limits else ""
        return f"{self.name}={self.value:g}{self.unit}{tail}"


class _Limits(click.ParamType):  # type: ignore[type-arg]
    """Two numbers, the first no higher than the second."""

    name = "WARN,CRITICAL"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        try:
            warn, critical = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: write WARN,CRITICAL, such as 10,60", param, ctx)
        if not 0 <= warn <= critical:
            self.fail(f"{value!r}: 0 <= WARN <= CRITICAL", param, ctx)
        return warn, critical


def _limit(name: str, default: str, text: str) -> Callable[[T], T]:
    return click.option(name, type=_Limits(), default=default, show_default=True, help=text)


@click.command(epilog=EPILOG)
@click.option(
    "--format", "style", type=click.Choice(["text", "json", "nagios"]), default="text", show_default=True
)
@_limit("--rtt-ms", "50,500", "Round trip to the hub.")
@_limit("--slow-nodes", "1,10", "Nodes that do not read as fast as they are written to.")
@_limit("--mailbox", "1000000,10000000", "Messages that wait for absent players.")
@_limit("--lag-s", "10,60", "Age of the oldest event that stats has not inserted.")
@_limit("--refused", "100,10000", "Connections refused in the last five minutes.")
@click.option("--stats", type=click.Choice(["on", "off"]), default="on", show_default=True)
@click.pass_obj
def check(
    context: Context,
    style: str,
    rtt_ms: tuple[float, float],
    slow_nodes: tuple[float, float],
    mailbox: tuple[float, float],
    lag_s: tuple[float, float],
    refused: tuple[float, float],
    stats: str,
) -> None:
    """Hub, nodes, mailbox and stats: well, or what is not."""
    limits = {"hub": rtt_ms, "slow": slow_nodes, "mailbox": mailbox, "lag": lag_s, "refused": refused}
    try:
        findings = run(_look(context, limits, stats == "on"))
    except CannotReachHub as error:
        if style == "text":
            raise
        findings = [Finding("hub", Level.CRITICAL, str(error))]
    except ZmqgameError as error:
        if style == "text":
            raise
        findings = [Finding("check", Level.UNKNOWN, str(error))]
        if style == "json":
            print_json(_json(findings))
            finish(exit_code(error))
    worst = max(finding.level for finding in findings)
    if style == "nagios":
        print(nagios(findings))
        finish(int(worst))
    elif style == "json":
        print_json(_json(findings))
        finish(min(int(worst), 1))
    else:
        for finding in findings:
            print(f"{finding.level.name.lower():<9} {finding.text}")
        finish(min(int(worst), 1))


def nagios(findings: list[Finding]) -> str:
    """One line: the worst level, what is wrong before the rest, numbers to draw."""
    worst = max(finding.level for finding in findings)
    ordered = sorted(findings, key=lambda finding: -finding.level) if worst else findings
    shown = [finding for finding in ordered if finding.level or finding.limits]
    text = ", ".join(finding.text for finding in shown if finding.level or finding.name != "refused")
    numbers = " ".join(finding.perfdata() for finding in findings if finding.limits)
    line = f"{worst.name} - {text}".replace("|", "/").replace("\n", " ")
    return f"{line} | {numbers}" if numbers else line


def _json(findings: Iterable[Finding]) -> dict[str, Any]:
    found = list(findings)
    return {
        "level": max(finding.level for finding in found).name,
        "checks": [
            {
                "name": finding.name,
                "level": finding.level.name,
                "text": finding.text,
                "value": finding.value,
                "unit": finding.unit,
                "limits": finding.limits,
            }
            for finding in found
        ],
    }


async def _look(context: Context, limits: dict[str, tuple[float, float]], with_stats: bool) -> list[Finding]:
    async with context.node() as node:
        findings = [await _hub(node, limits["hub"])]
        snapshot = await node.query("counters")
        findings += judge(snapshot, limits)
        if with_stats:
            findings.append(await _stats(node, limits["lag"]))
        return findings


async def _hub(node: Node, limits: tuple[float, float]) -> Finding:
    best = float("inf")
    for _ in range(ASKS):
        began = time.perf_counter()
        await node.query("players", "1 ?")
        best = min(best, (time.perf_counter() - began) * 1_000)
    return _measured("hub", best, limits, f"hub {best:.1f} ms", "ms")


def judge(snapshot: dict[str, Any], limits: dict[str, tuple[float, float]]) -> list[Finding]:
    """What the hub's counters say."""
    status, queues = snapshot["status"], snapshot["queues"]
    process, store = status.get("process", {}), status["store"]
    slow = int(queues["slow_nodes"])
    names = [node["name"] for node in queues["nodes"] if node.get("slow")]
    whose = f" ({', '.join(names[:3])}{', ...' if slow > 3 else ''})" if names else ""
    findings = [_measured("slow", slow, limits["slow"], f"{slow} slow nodes{whose}")]
    if "mailbox" in process:
        waiting = int(process["mailbox"]["messages"])
        findings.append(_measured("mailbox", waiting, limits["mailbox"], f"mailbox {waiting:,} stored"))
    trouble = process.get("store_trouble") or store["failure"]
    if trouble:
        findings.append(Finding("store", Level.CRITICAL, f"mailbox refuses: {trouble}"))
    refused = int(process.get("refused_5m", 0))
    findings.append(_measured("refused", refused, limits["refused"], f"{refused} connections refused"))
    if status["hold"]:
        findings.append(Finding("hold", Level.WARNING, "the hub waits for nodes after its start"))
    return findings


async def _stats(node: Node, limits: tuple[float, float]) -> Finding:
    try:
        status = (await node.request("stats", {"op": "status"}, timeout_s=STATS_S)).json()
    except (RequestError, BusError) as error:
        return Finding("lag", Level.WARNING, f"stats does not answer: {error}")
    lag = float(status["lag_s"])
    if status["error"]:
        return Finding("lag", Level.CRITICAL, f"stats inserts nothing: {status['error']}", lag, "s", limits)
    return _measured("lag", lag, limits, f"stats lag {lag:.1f} s", "s")


def _measured(name: str, value: float, limits: tuple[float, float], text: str, unit: str = "") -> Finding:
    warn, critical = limits
    level = Level.CRITICAL if value >= critical else Level.WARNING if value >= warn else Level.OK
    return Finding(name, level, text, value, unit, limits)
