"""Durations in fixed buckets; apart from metrics.py, whose library a starting hub need not wait for."""

from __future__ import annotations

from typing import Final

__all__ = ["Buckets"]


class Buckets:
    """A histogram that one thread adds to and any other reads; bounds in seconds."""

    BOUNDS_S: Final = (0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)

    def __init__(self) -> None:
        self.counts = [0] * (len(self.BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        at = next((i for i, bound in enumerate(self.BOUNDS_S) if seconds <= bound), len(self.BOUNDS_S))
        self.counts[at] += 1
        self.sum_s += seconds
