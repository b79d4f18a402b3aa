"""The bus beside NATS and Redis: each row of the table of speed, ours and the peer in the same run, in turns.

Ours carries end-to-end receipts (`delivered`: the recipient's node has handled it; `stored`: the mailbox has
committed it); NATS core and Redis publish carry none. Servers are on one core, clients on the other.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench import bus_native
from tests.bench.bus_peers import Missing, native_load
from tests.bench.bus_python import PYTHON
from tests.bench.bus_rows import at_most
from tests.bench.report import Row, show

PARTS = {**bus_native.BESIDE_NATS, **PYTHON, **bus_native.REST}
"""What measures the rows, by the name that `--only` takes the beginning of."""
_PART_S, _QUICK_PART_S = 900, 120


def measure(*, quick: bool, only: Sequence[str] = ()) -> list[Row]:
    """All rows of the bus, or those whose part begins with one of `only`; a row without a figure says why."""
    chosen = [name for name in PARTS if not only or name.startswith(tuple(only))]
    if not chosen:
        raise SystemExit(f"bus: no rows {', '.join(only)}: there are {', '.join(PARTS)}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for part in chosen:
            # Each part on its own: a file, a hub, a peer that another part has used is never its own again.
            (folder := Path(name) / part).mkdir()
            for found in _rows(part, bus_native.Bench(folder, quick=quick)):
                rows.append(found)
                print(show([found]).splitlines()[1], file=sys.stderr, flush=True)
    return rows


def _rows(part: str, bench: bus_native.Bench) -> list[Row]:
    found: list[Row] = []
    try:
        if part not in PYTHON:
            # A build is not part of the row's time.
            native_load()
        with at_most(_QUICK_PART_S if bench.quick else _PART_S):
            found.extend(PARTS[part](bench))
    except Missing as missing:
        found.append({"name": part, "reason": str(missing)})
    except Exception as error:
        # The rows of other parts are worth having: this one says what went wrong.
        found.append({"name": part, "reason": f"{type(error).__name__}: {error}"})
    return found
