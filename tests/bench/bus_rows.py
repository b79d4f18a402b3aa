"""What the rows of the bus have in common: processes that say when they are ready, medians, ratios."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from tests.bench.report import Row

_SPAWN = multiprocessing.get_context("spawn")
_READY_S = 60


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """A process that says one thing when it is ready, and ends when its pipe closes."""
    ours, theirs = _SPAWN.Pipe()
    child = _SPAWN.Process(target=target, args=(theirs, *arguments))
    child.start()
    theirs.close()
    try:
        if not ours.poll(_READY_S):
            raise RuntimeError(f"{target.__name__} is not ready after {_READY_S} s")
        yield ours.recv()
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
