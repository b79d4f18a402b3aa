"""How a benchmark's rows are shown: a table for people, and one JSON array as the last line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
"""name, ours, peer, peer_name, unit, ratio, goal, better ("higher" or "lower"); or name and reason."""

KEYS = (
    "name",
    "ours",
    "peer",
    "peer_name",
    "unit",
    "ratio",
    "goal",
    "better",
    "reason",
    "cpu_us",
    "cpu_ratio",
)


def met(row: Row) -> bool:
    """Whether the ratio of ours to the peer's reaches the goal."""
    return bool(row["ratio"] >= row["goal"] if row["better"] == "higher" else row["ratio"] <= row["goal"])


def show(rows: Sequence[Row]) -> str:
    """The table and the last line."""
    head = ("name", "ours", "peer", "unit", "ratio", "goal", "")
    lines = [head]
    for row in rows:
        if row.get("reason"):
            lines.append((row["name"], "-", "-", "", "-", "", f"not measured: {row['reason']}"))
            continue
        peer = f"{row['peer']:,} ({row['peer_name']})"
        goal = f"{'>=' if row['better'] == 'higher' else '<='} {row['goal']}"
        verdict = "met" if met(row) else "not met"
        lines.append((row["name"], f"{row['ours']:,}", peer, row["unit"], str(row["ratio"]), goal, verdict))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([*text, json.dumps([{key: row[key] for key in KEYS if key in row} for row in rows])])
