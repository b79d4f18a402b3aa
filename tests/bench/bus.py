"""The bus beside NATS and Redis: each row of the table of speed, ours and the peer in the same run, in turns.

Ours carries end-to-end receipts (`delivered`: the recipient's node has handled it; `stored`: the mailbox has
committed it); NATS core and Redis publish carry none. Servers are on one core, clients on the other.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.bus_native import Bench, beside_nats, curve, disturbed, many_nodes, memory, stored
from tests.bench.bus_peers import Missing
from tests.bench.bus_python import from_python
from tests.bench.report import Row, show


def measure(*, quick: bool) -> list[Row]:
    """All rows of the bus; what is missing for some is said on stderr."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(folder, quick=quick)
        parts: list[Callable[[Bench], Iterator[Row]]] = [
            beside_nats,
            lambda bench: from_python(bench.folder, quick=bench.quick),
            stored,
            disturbed,
            memory,
            many_nodes,
            curve,
        ]
        for part in parts:
            try:
                for found in part(bench):
                    rows.append(found)
                    print(show([found]).splitlines()[1], file=sys.stderr, flush=True)
            except Missing as missing:
                print(f"bus: rows left out: {missing}", file=sys.stderr)
    return rows
