"""What the rows of the bus have in common: processes that say when they are ready, medians, ratios."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from tests.bench.report import Row

_SPAWN = multiprocessing.get_context("spawn")
_READY_S = 60


class Late(Exception):
    """A row took longer than it may; the text says what was waited for."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise Late in the main thread when the block takes longer, whatever it waits for."""

    def ring(_number: int, _frame: object) -> None:
        raise Late(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def process(target: Callable[..., None], *arguments: Any, ready_s: float = _READY_S) -> Iterator[Any]:
    """A process that says one thing when it is ready, and ends when its pipe closes."""
    ours, theirs = _SPAWN.Pipe()
    child = _SPAWN.Process(target=target, args=(theirs, *arguments))
    child.start()
    theirs.close()
    try:
        if not ours.poll(ready_s):
            raise Late(f"{target.__name__} is not ready after {ready_s:.0f} s")
        try:
            said = ours.recv()
        except EOFError:
            raise RuntimeError(f"{target.__name__} failed, see its trace above") from None
        yield said
    finally:
        ours.close()
        child.join(15)
        child.kill()
        child.join()


def row(
    name: str, rounds: tuple[list[float], list[float]], peer_name: str, unit: str, goal: float, better: str
) -> Row:
    """One row of the report: medians of the rounds."""
    ours, peer = median(rounds[0]), median(rounds[1])
    digits = 0 if max(ours, peer) >= 10 else 2
    return {
        "name": name,
        "ours": round(ours, digits or None),
        "peer": round(peer, digits or None),
        "peer_name": peer_name,
        "unit": unit,
        "ratio": round(ours / peer, 2),
        "goal": goal,
        "better": better,
    }
