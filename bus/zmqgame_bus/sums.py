"""Counts and sums of hashed ids, by sender: two such lists are equal if nothing is missing or there twice."""

from __future__ import annotations

from collections.abc import Iterable

from zmqgame_native import message_hash

__all__ = ["WRAP", "sums"]

WRAP = (1 << 64) - 1


def sums(ids: Iterable[tuple[int, int, int]]) -> list[dict[str, object]]:
    """Of (node key, epoch, seq): [{sender, messages, id_sum}], in the order of keys; sums wrap at 2**64."""
    found: dict[int, tuple[int, int]] = {}
    for key, epoch, seq in ids:
        count, total = found.get(key, (0, 0))
        found[key] = count + 1, (total + message_hash(key, epoch, seq)[0]) & WRAP
    return [
        {"sender": f"0x{key:016x}", "messages": count, "id_sum": total}
        for key, (count, total) in sorted(found.items())
    ]
