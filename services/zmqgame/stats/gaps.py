"""Which numbers of a source's epoch are here, which are missing, which are committed. Pure.

A number goes through: missing -> seen (in memory) -> committed (in ClickHouse). What the source has lost
for good is `given up`: it counts as seen and committed, so that confirmation can go on, and as lost for
ever.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from zmqgame.limits import STATS_RANGES_MAX

Range = tuple[int, int]
"""First and last number, both included."""


class RangeSet:
    """A set of whole numbers as disjoint ranges in order, neighbours joined."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._firsts, self._lasts, strict=True)

    def __len__(self) -> int:
        """How many ranges, not how many numbers."""
        return len(self._firsts)

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self._firsts, number) - 1
        return index >= 0 and number <= self._lasts[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self._firsts == other._firsts and self._lasts == other._lasts

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"

    def count(self) -> int:
        """How many numbers."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def add(self, first: int, last: int) -> None:
        """Add a range; what overlaps or touches becomes one."""
        if first > last:
            return
        begin = bisect_right(self._firsts, first)
        if begin and self._lasts[begin - 1] >= first - 1:
            begin -= 1
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first = min(first, self._firsts[begin])
            last = max(last, self._lasts[end - 1])
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]

    def remove(self, first: int, last: int) -> None:
        """Take a range out."""
        kept = []
        for start, end in self:
            kept += [(start, min(end, first - 1)), (max(start, last + 1), end)]
        whole = [(start, end) for start, end in kept if start <= end]
        self._firsts = [start for start, _ in whole]
        self._lasts = [end for _, end in whole]

    def missing(self, first: int, last: int) -> Iterator[Range]:
        """The ranges of `first` to `last` that are not in the set, in order."""
        index = max(0, bisect_right(self._firsts, first) - 1)
        for start, end in zip(self._firsts[index:], self._lasts[index:], strict=True):
            if first > last or start > last:
                break
            if start > first:
                yield first, start - 1
            first = max(first, end + 1)
        if first <= last:
            yield first, last

    def prefix(self) -> int:
        """The greatest number up to which everything from 1 on is in the set; 0 if 1 is not."""
        return self._lasts[0] if self._firsts and self._firsts[0] <= 1 else 0


@dataclass(slots=True)
class EpochTracker:
    """The numbers of one epoch of one source."""

    seen: RangeSet = field(default_factory=RangeSet)
    committed: RangeSet = field(default_factory=RangeSet)
    lost: RangeSet = field(default_factory=RangeSet)
    known: int = 0
    """The greatest number that is known to exist."""
    told: int = 0
    """Up to which number the source has taken our confirmation."""
    repeated: int = 0
    """Numbers that came again and were dropped."""

    def take(self, first: int, last: int) -> list[Range]:
        """Numbers have come: the ranges of them that are new, and now seen.

        Nothing is taken if the set would have more than STATS_RANGES_MAX holes: the source has them still,
        and will be asked when the earlier holes are filled.
        """
        self.known = max(self.known, last)
        new = list(self.seen.missing(first, last))
        self.repeated += last - first + 1 - sum(end - start + 1 for start, end in new)
        if len(self.seen) >= STATS_RANGES_MAX and new and new[-1][1] > self.seen.prefix() + 1:
            new = [(start, end) for start, end in new if start == self.seen.prefix() + 1]
        for start, end in new:
            self.seen.add(start, end)
        return new

    def untake(self, first: int, last: int) -> None:
        """Numbers that were taken are dropped before they were committed: they are missing again."""
        self.seen.remove(first, last)

    def announce(self, last: int, first_unconfirmed: int | None = None) -> None:
        """The source says that numbers up to `last` exist, and from where on it waits for confirmation."""
        self.known = max(self.known, last)
        if first_unconfirmed is not None:
            self.told = min(self.told, first_unconfirmed - 1)

    def commit(self, first: int, last: int) -> None:
        """Numbers are in ClickHouse, whether this process took them or an earlier one."""
        self.seen.add(first, last)
        self.committed.add(first, last)
        self.known = max(self.known, last)

    def give_up(self, first: int, last: int) -> None:
        """The source can't give these any more, and that is on record."""
        for start, end in list(self.committed.missing(first, last)):
            self.lost.add(start, end)
            self.commit(start, end)

    def gaps(self) -> Iterator[Range]:
        """What is missing of the numbers known to exist."""
        return self.seen.missing(1, self.known)

    def confirmable(self) -> int:
        """Up to which number the source may forget."""
        return self.committed.prefix()
