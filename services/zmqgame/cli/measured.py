"""What the benchmarks of `bench` share: options, the bar, tables, and what a process has used."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from zmqgame.cli.context import print_csv, print_json

SHARES: Final = ("p50", "p90", "p99", "p99.9", "max")
"""Of latencies; in rows `p50_ms` and so on."""
_TICKS_S: Final = os.sysconf("SC_CLK_TCK")

Command = Callable[..., Any]


def mode_option(modes: Sequence[str]) -> Callable[[Command], Command]:
    """Which modes are measured."""
    return click.option(
        "--mode", "modes", type=click.Choice(modes), multiple=True, help="Repeatable; default: all."
    )


def seconds_option(default: float, what: str) -> Callable[[Command], Command]:
    """How long a mode takes."""
    kind = click.FloatRange(0.1, 600)
    return click.option("--seconds", type=kind, default=default, show_default=True, metavar="S", help=what)


def style_options(command: Command) -> Command:
    """How the rows are printed."""
    command = click.option("--csv", "style", flag_value="csv", help="Print CSV.")(command)
    return click.option("--json", "style", flag_value="json", help="Print JSON.")(command)


def show(
    style: str | None, rows: Sequence[Mapping[str, Any]], line: Callable[[Mapping[str, Any]], str]
) -> None:
    """Rows as they are asked for; `line` is how people read one. CSV has no nested values."""
    if style == "json":
        print_json(rows)
    elif style == "csv":
        print_csv(
            [{name: value for name, value in row.items() if not isinstance(value, dict)} for row in rows]
        )
    else:
        for row in rows:
            print(line(row))


def latency(row: Mapping[str, Any]) -> str:
    """The latencies of a row in milliseconds."""
    return "   ".join(f"{name} {row[f'{name}_ms']:.3f}" for name in SHARES) + " ms"


@contextmanager
def progress(name: str, seconds: float, count: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, of time or of `count` messages; call it with how many more there are."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    counted = TextColumn("{task.fields[sent]:,}") if count else TextColumn("")
    columns = (TextColumn(f"{name:<10}"), BarColumn(), counted, TimeRemainingColumn())
    began, sent = time.perf_counter(), 0
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=1.0, sent=0)

        def tick(more: int) -> None:
            nonlocal sent
            sent += more
            share = max((time.perf_counter() - began) / seconds, sent / count if count else 0.0)
            bar.update(task, completed=min(share, 1.0), sent=sent)

        yield tick


def cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_S


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that is its own, not a file's."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
