"""What the demo shows: a live board on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from zmqgame.cli.proof import Verdict

__all__ = ["Board", "Screen"]

PLAIN_EVERY_S = 5.0


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
        """Two lines that say it all."""
        outcomes = " · ".join(f"{name} {count:,}" for name, count in sorted(self.receipts.items()))
        ticks = f"tick p50 {self.tick_p50_ms:.2f} ms p99 {self.tick_p99_ms:.2f} ms"
        rows = f"ClickHouse {self.rows:,} rows"
        return [
            f"players {self.online} of {self.players} online · races {self.races_running} running, "
            f"{self.races_finished} finished · {ticks}",
            f"bus {self.bus_per_s:,.0f} msg/s · {outcomes or 'no receipts yet'} · {rows}",
        ]


class Screen:
    """Where the demo writes."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._console = Console(highlight=False)
        self._live: Live | None = None
        self._plain_at = 0.0
        if sys.stdout.isatty():
            self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self._render)

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
        if self._live is None:
            print(text, flush=True)
        else:
            self._console.print(text, markup=False, soft_wrap=True)

    def event(self, text: str) -> None:
        """A line with its time."""
        self.say(f"{time.strftime('%H:%M:%S')}  {text}")

    def refresh(self) -> None:
        """Show the board: at once on a terminal, now and then elsewhere."""
        if self._live is None and time.monotonic() >= self._plain_at:
            self._plain_at = time.monotonic() + PLAIN_EVERY_S
            for line in self.board.lines():
                self.event(line)

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table with a title."""
        if self._live is None and not self._console.is_terminal:
            self.say(title)
            for row in (header, *rows):
                self.say("  " + "  ".join(f"{_cell(value):<12}" for value in row).rstrip())
            return
        table = Table(
            *header, title=title, title_justify="left", box=None, header_style="bold", pad_edge=False
        )
        for row in rows:
            table.add_row(*(_cell(value) for value in row))
        self._console.print(table)

    def proof(self, verdict: Verdict) -> None:
        """The last word."""
        counted = f"handled {verdict.handled:,} (of them stored first {verdict.stored_then_delivered:,})"
        waiting = f" · in mailbox {verdict.waiting:,}" if verdict.waiting else ""
        same = "=" if verdict.events_published == verdict.rows_inserted else "≠"
        self.say(
            f"proof  acked {verdict.acked:,} · {counted}{waiting} · lost {verdict.lost} · "
            f"duplicated {verdict.duplicated} · out of order {verdict.out_of_order} · "
            f"events {verdict.events_published:,} {same} rows {verdict.rows_inserted:,}"
        )
        for reason in verdict.reasons:
            self.say(f"FAILED  {reason}")

    def _render(self) -> Any:
        return Group(*(Text(line, style="bold") for line in self.board.lines()))


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
