"""The proof that nothing was lost and nothing came twice: what the spools say was published, against the
rows. Pure.

    audit = compare(spool.scan(folder), rows_of(answer))    # what the service `stats` answers to ROWS_SQL

Neither side is a counter of stats: one is the numbers in the sources' own files, the other the rows
themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from zmqgame_bus.spool import Published

from zmqgame.stats.gaps import Range, RangeSet

ROWS_SQL = """
SELECT source, epoch, min(seq) AS first, max(seq) AS last, sum(times) AS rows, countIf(times > 1) AS repeated
FROM
(
    SELECT source, epoch, seq, times, seq - row_number() OVER (PARTITION BY source, epoch ORDER BY seq) AS
    island FROM (SELECT source, epoch, seq, count() AS times FROM events GROUP BY source, epoch, seq)
)
GROUP BY source, epoch, island
ORDER BY source, epoch, first
"""
"""The rows of every event table as (source, epoch, first, last, rows, how many numbers stand there more
than once)."""

LOST_SQL = "SELECT source, epoch, first, last, reason FROM lost ORDER BY source, epoch, first"
"""Numbers that a source could not give any more."""


@dataclass(frozen=True)
class EpochAudit:
    """One epoch of one source."""

    source: str
    epoch: int
    published: int
    rows: int
    missing: tuple[Range, ...]
    repeated: int
    unknown: tuple[Range, ...]
    """Rows whose numbers the source never published."""

    @property
    def holds(self) -> bool:
        """Whether each number that was published is there just once."""
        return not (self.missing or self.repeated or self.unknown)


@dataclass(frozen=True)
class Audit:
    """All of them."""

    epochs: tuple[EpochAudit, ...] = field(default_factory=tuple)

    @property
    def holds(self) -> bool:
        """Whether published = inserted, and no row twice."""
        return all(epoch.holds for epoch in self.epochs)

    @property
    def published(self) -> int:
        """Events published, counted from the spools."""
        return sum(epoch.published for epoch in self.epochs)

    @property
    def rows(self) -> int:
        """Rows in ClickHouse."""
        return sum(epoch.rows for epoch in self.epochs)

    @property
    def lost(self) -> int:
        """Events published that have no row."""
        return sum(last - first + 1 for epoch in self.epochs for first, last in epoch.missing)

    @property
    def repeated(self) -> int:
        """Events with more than one row."""
        return sum(epoch.repeated for epoch in self.epochs)

    def reasons(self) -> list[str]:
        """What does not hold, one line each."""
        lines = []
        for epoch in self.epochs:
            name = f"{epoch.source} epoch {epoch.epoch}"
            if epoch.missing:
                lines.append(f"{name}: published but not inserted: {_text(epoch.missing)}")
            if epoch.repeated:
                lines.append(f"{name}: {epoch.repeated} events were inserted more than once")
            if epoch.unknown:
                lines.append(f"{name}: inserted but never published: {_text(epoch.unknown)}")
        return lines


def rows_of(answer: bytes | str) -> list[tuple[Any, ...]]:
    """The rows in an answer of the service `stats` in format JSONCompact."""
    return [tuple(row) for row in orjson.loads(answer)["data"]]


def compare(published: Mapping[tuple[str, int], Published], rows: Iterable[tuple[Any, ...]]) -> Audit:
    """Compare what was published with what ROWS_SQL found."""
    islands: dict[tuple[str, int], list[tuple[int, int, int, int]]] = {}
    for source, epoch, first, last, count, repeated in rows:
        islands.setdefault((str(source), int(epoch)), []).append(
            (int(first), int(last), int(count), int(repeated))
        )
    audits = []
    for source, epoch in sorted(published.keys() | islands.keys()):
        found = islands.get((source, epoch), [])
        numbers = RangeSet((first, last) for first, last, _, _ in found)
        known = published.get((source, epoch), Published(1, 0, 0, 0))
        expected = RangeSet([(known.first, known.last)])
        audits.append(
            EpochAudit(
                source,
                epoch,
                known.events,
                sum(count for _, _, count, _ in found),
                tuple(numbers.missing(known.first, known.last)),
                sum(repeated for _, _, _, repeated in found),
                tuple(gap for first, last in numbers for gap in expected.missing(first, last)),
            )
        )
    return Audit(tuple(audits))


def _text(ranges: tuple[Range, ...]) -> str:
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges[:10])
    return shown + (f" and {len(ranges) - 10} more ranges" if len(ranges) > 10 else "")
