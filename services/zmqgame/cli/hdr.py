"""Latencies with three significant digits, in a fixed number of buckets: what HDR histograms do.

A value is kept by its exponent and its eleven leading bits, so a percentile is at most 0.1 % off, whatever
the range, and a million values take little more memory than one. The library of that name is a compiled
module; these lines are all of it that a benchmark needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

__all__ = ["Histogram"]

_BITS = 11


class Histogram:
    """Durations in microseconds."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.total = 0
        self.max_us = 0
        self._sum_us = 0

    def add(self, values_us: Iterable[int]) -> None:
        """Some more."""
        for each in values_us:
            value = max(0, each)
            self._counts[_bucket(value)] += 1
            self.total += 1
            self._sum_us += value
            self.max_us = max(self.max_us, value)

    @property
    def mean_us(self) -> float:
        """The average; 0 of none."""
        return self._sum_us / self.total if self.total else 0.0

    def percentiles(self, shares: Sequence[float]) -> list[float]:
        """For each share (0.5 is the median): the value that so many are at or below, in milliseconds."""
        ordered = sorted(self._counts.items())
        found = []
        for share in shares:
            wanted, seen, value = max(1, share * self.total), 0, 0
            for bucket, count in ordered:
                seen += count
                value = _highest(bucket)
                if seen >= wanted:
                    break
            found.append(min(value, self.max_us) / 1_000)
        return found


def _bucket(value: int) -> int:
    """The leading bits as they are, the rest as zeros."""
    shift = max(0, value.bit_length() - _BITS)
    return value >> shift << shift


def _highest(bucket: int) -> int:
    """The largest value that falls into a bucket."""
    shift = max(0, bucket.bit_length() - _BITS)
    return bucket + (1 << shift) - 1
