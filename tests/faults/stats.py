"""`zmqgame-stats` with a fault, for tests of the proof: `python tests/faults/stats.py FAULT [flags of
zmqgame-stats]`.

FAULT is `drop` (one batch is never inserted, though everything behaves as if it were), `repeat` (one batch is
inserted once more under another token) or `none`. The product has no such switch; this replaces its
warehouse.
"""

from __future__ import annotations

import sys

import pyarrow as pa
from zmqgame.stats import stats
from zmqgame.stats.clickhouse import Warehouse
from zmqgame_bus.process import run

SPARED = 3
"""Inserts before the fault, so that there is something right to compare with."""


class Dropping(Warehouse):
    inserts = 0

    def insert(self, table: str, rows: pa.Table, token: str) -> None:
        self.inserts += 1
        if self.inserts != SPARED:
            super().insert(table, rows, token)


class Repeating(Warehouse):
    inserts = 0

    def insert(self, table: str, rows: pa.Table, token: str) -> None:
        self.inserts += 1
        super().insert(table, rows, token)
        if self.inserts == SPARED:
            super().insert(table, rows, token + ":again")


FAULTS = {"drop": Dropping, "repeat": Repeating, "none": Warehouse}

if __name__ == "__main__":
    stats.Warehouse = FAULTS[sys.argv[1]]  # type: ignore[misc]
    sys.exit(run("stats", stats.serve, sys.argv[2:]))
