"""What the demo shows: a live board on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from zmqgame.cli.proof import Verdict

__all__ = ["Board", "Screen"]

PLAIN_EVERY_S = 5.0
BOARD_WIDTH = 78
SAFE = ("delivered", "stored")
"""Shown before the other outcomes."""

STYLES = (
    (r"^\d\d:\d\d:\d\d", "dim"),
    (r"kill -9 \S+", "bold red"),
    (r"\bready\b", "green"),
    (r"^FAILED", "bold red"),
    (r"^proof", "bold"),
    (r"back in [\d.]+ s|lost 0\b|duplicated 0\b|out of order 0\b", "green"),
    (r"(lost|duplicated|out of order) [1-9][\d,]*|≠", "bold red"),
)


@dataclass
class Board:
    """The figures of this moment."""

    players: int = 0
    online: int = 0
    races_running: int = 0
    races_finished: int = 0
    tick_p50_ms: float = 0.0
    tick_p99_ms: float = 0.0
    bus_per_s: float = 0.0
    rows: int = 0
    receipts: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """Two lines that say it all, for logs."""
        ticks = f"tick {self._ticks()}"
        return [
            f"players {self._players()} · races {self._races()} · {ticks}",
            f"bus {self.bus_per_s:,.0f} msg/s · {self._receipts()} · ClickHouse {self.rows:,} rows",
        ]

    def render(self) -> Group:
        """The same for a terminal: each figure keeps its place, and no line wraps."""
        rows = (
            (("players", self._players()), ("races", self._races())),
            (("ticks", self._ticks()), ("ClickHouse", f"{self.rows:,} rows")),
            (("bus", f"{self.bus_per_s:,.0f} msg/s · {self._receipts()}"),),
        )
        lines = [Text("─" * BOARD_WIDTH, style="dim", no_wrap=True, overflow="crop")]
        for row in rows:
            line = Text(no_wrap=True, overflow="ellipsis")
            for name, value in row:
                line.append(f"{name:<11}", style="cyan").append(f"{value:<26}", style="bold")
            line.rstrip()
            lines.append(line)
        return Group(*lines)

    def _players(self) -> str:
        return f"{self.online} of {self.players} online"

    def _races(self) -> str:
        return f"{self.races_running} running, {self.races_finished} finished"

    def _ticks(self) -> str:
        return f"p50 {self.tick_p50_ms:.2f} ms p99 {self.tick_p99_ms:.2f} ms"

    def _receipts(self) -> str:
        order = sorted(self.receipts.items(), key=lambda item: (item[0] not in SAFE, item[0]))
        return " · ".join(f"{name} {count:,}" for name, count in order) or "no receipts yet"


class Screen:
    """Where the demo writes."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._console = Console(highlight=False)
        self._live: Live | None = None
        self._plain_at = 0.0
        self._terminal = sys.stdout.isatty()
        if self._terminal:
            self._live = Live(console=self._console, refresh_per_second=4, get_renderable=board.render)

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
            self._live = None

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self._terminal:
            print(text, flush=True)
        else:
            shown = Text(text)
            for pattern, style in STYLES:
                shown.highlight_regex(pattern, style)
            self._console.print(shown, soft_wrap=True)

    def event(self, text: str) -> None:
        """A line with its time."""
        self.say(f"{time.strftime('%H:%M:%S')}  {text}")

    def refresh(self) -> None:
        """Show the board: at once on a terminal, now and then elsewhere."""
        if not self._terminal and time.monotonic() >= self._plain_at:
            self._plain_at = time.monotonic() + PLAIN_EVERY_S
            for line in self.board.lines():
                self.event(line)

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table with a title."""
        if not self._terminal:
            self.say(title)
            for row in (header, *rows):
                self.say("  " + "  ".join(f"{_cell(value):<12}" for value in row).rstrip())
            return
        self.say("")
        table = Table(
            title=title,
            title_justify="left",
            title_style="bold",
            box=None,
            header_style="cyan",
            pad_edge=False,
        )
        for number, name in enumerate(header):
            first = rows[0][number] if rows else ""
            table.add_column(name, justify="right" if isinstance(first, int | float) else "left")
        for row in rows:
            table.add_row(*(_cell(value) for value in row))
        self._console.print(table)

    def proof(self, verdict: Verdict) -> None:
        """The last word."""
        waiting = f" + in mailbox {verdict.waiting:,}" if verdict.waiting else ""
        self.say("")
        same = "=" if verdict.events_published == verdict.rows_inserted else "≠"
        self.say(
            f"proof  acked {verdict.acked:,} · handled {verdict.handled:,}{waiting} "
            f"(stored first {verdict.stored_then_delivered:,})"
        )
        events = f"events {verdict.events_published:,} {same} rows {verdict.rows_inserted:,}"
        self.say(
            f"       lost {verdict.lost} · duplicated {verdict.duplicated} · "
            f"out of order {verdict.out_of_order} · {events}"
        )
        for reason in verdict.reasons:
            self.say(f"FAILED  {reason}")


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
