"""The proof that nothing was lost and nothing came twice. Pure: evidence in, verdict out.

Two comparisons, neither of which trusts a service's own counters:

1. What senders hold as receipts, against what clients wrote down. Each bot writes the id of every message it
   handles, before its ack. A receipt `delivered` or `stored` for (message, player) must be matched by
   exactly one such line, or, for `stored`, by a row that still waits in the mailbox.
2. What sources numbered in their spools, against the rows in ClickHouse. A source numbers its events 1, 2, 3
... in each of its epochs; ClickHouse must hold each number once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Events", "Evidence", "Handled", "Sent", "Verdict", "judge"]

Id = tuple[int, int, int]
"""(node key, epoch, seq)"""

EXAMPLES = 5
"""How many findings of a kind are spelled out: enough to look for the cause, few enough to read."""


@dataclass(frozen=True)
class Sent:
    """A message as its sender knows it."""

    id: Id
    kind: str
    """unicast, multicast or broadcast"""
    outcomes: Mapping[str, str]
    """The outcome by player, where the receipt names them."""
    delivered: int = 0
    """For a report that counts and does not name: how many recipients have handled it,"""
    stored: int = 0
    """and for how many the mailbox has it."""


@dataclass(frozen=True)
class Handled:
    """A line of a client's log, in the order written."""

    player: str
    id: Id


@dataclass(frozen=True)
class Events:
    """Rows of one (source, epoch) in ClickHouse."""

    rows: int
    distinct: int
    highest: int


@dataclass(frozen=True)
class Evidence:
    """Everything that was written down by those who send and those who receive."""

    sent: Sequence[Sent]
    handled: Sequence[Handled]
    mailbox: frozenset[tuple[str, Id]] = frozenset()
    published: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """By (source, epoch): how many events have a number."""
    inserted: Mapping[tuple[str, int], Events] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The figures, and each reason why the proof fails; it holds when there is none."""

    unicast_acked: int
    multicast_acked: int
    broadcast_acked: int
    stored_then_delivered: int
    handled: int
    waiting: int
    lost: int
    duplicated: int
    out_of_order: int
    untrue: int
    unknown: int
    events_published: int
    rows_inserted: int
    reasons: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether everything that was promised was kept."""
        return not self.reasons

    @property
    def acked(self) -> int:
        """Receipts that promise something."""
        return self.unicast_acked + self.multicast_acked + self.broadcast_acked


GOOD = ("delivered", "stored")
REFUSED = ("refused", "expired")


def judge(evidence: Evidence) -> Verdict:
    """Compare what was promised with what came."""
    reasons: list[str] = []
    times = Counter((line.player, line.id) for line in evidence.handled)
    acked = Counter({"unicast": 0, "multicast": 0, "broadcast": 0})
    stored_then_delivered = 0
    lost: list[str] = []
    untrue: list[str] = []
    unknown = 0
    came = Counter(id for _, id in times)
    waiting = Counter(id for _, id in evidence.mailbox)
    for sent in evidence.sent:
        named = [(player, outcome) for player, outcome in sent.outcomes.items() if outcome in GOOD]
        acked[sent.kind] += max(len(named), sent.delivered + sent.stored)
        unknown += sum(1 for outcome in sent.outcomes.values() if outcome not in GOOD + REFUSED)
        stored_then_delivered += sum(
            1 for player, outcome in named if outcome == "stored" and times[player, sent.id]
        )
        by_name = _lost(sent, named, times, evidence.mailbox)
        lost += by_name
        lost += _lost_of_counted(sent, came[sent.id], waiting[sent.id])[len(by_name) :]
        untrue += [
            f"{player} handled {_id(sent.id)}, its sender was told {outcome}"
            for player, outcome in sent.outcomes.items()
            if outcome in REFUSED and times[player, sent.id]
        ]
    doubled = [
        f"{player} handled {_id(id)} {count} times" for (player, id), count in times.items() if count > 1
    ]
    disorder = _disorder(evidence.handled)
    duplicated = sum(count - 1 for count in times.values() if count > 1)
    _explain(reasons, "lost", lost)
    _explain(reasons, "duplicated", doubled)
    _explain(reasons, "out of order", disorder)
    _explain(reasons, "untrue receipts", untrue)
    _events(evidence, reasons)
    return Verdict(
        unicast_acked=acked["unicast"],
        multicast_acked=acked["multicast"],
        broadcast_acked=acked["broadcast"],
        stored_then_delivered=stored_then_delivered,
        handled=len(times),
        waiting=len(evidence.mailbox),
        lost=len(lost),
        duplicated=duplicated,
        out_of_order=len(disorder),
        untrue=len(untrue),
        unknown=unknown,
        events_published=sum(evidence.published.values()),
        rows_inserted=sum(each.rows for each in evidence.inserted.values()),
        reasons=tuple(reasons),
    )


def _lost(
    sent: Sent,
    named: Iterable[tuple[str, str]],
    times: Mapping[tuple[str, Id], int],
    mailbox: frozenset[tuple[str, Id]],
) -> list[str]:
    """Receipts that name their recipient, without a handling to show for it."""
    return [
        f"{sent.kind} {_id(sent.id)} to {player}: {outcome}, and never handled"
        for player, outcome in named
        if (player, sent.id) not in times and not (outcome == "stored" and (player, sent.id) in mailbox)
    ]


def _lost_of_counted(sent: Sent, came: int, waiting: int) -> list[str]:
    """Reports that count: as many players as promised have handled the message or will find it waiting."""
    missing = max(sent.delivered - came, sent.delivered + sent.stored - came - waiting)
    promised = f"{sent.delivered} delivered, {sent.stored} stored"
    return [f"{sent.kind} {_id(sent.id)}: {promised}, handled by {came}"] * missing


def _disorder(handled: Iterable[Handled]) -> list[str]:
    """Lines that come after a later message of the same sender to the same player."""
    newest: dict[tuple[str, int], tuple[int, int]] = {}
    found = []
    for line in handled:
        key, epoch, seq = line.id
        before = newest.get((line.player, key), (0, 0))
        if (epoch, seq) < before:
            found.append(f"{line.player} handled {_id(line.id)} after {before[0]}/{before[1]}")
        newest[line.player, key] = max(before, (epoch, seq))
    return found


def _events(evidence: Evidence, reasons: list[str]) -> None:
    missing: list[str] = []
    repeated: list[str] = []
    strange: list[str] = []
    nothing = Events(0, 0, 0)
    for (source, epoch), count in sorted(evidence.published.items()):
        got = evidence.inserted.get((source, epoch), nothing)
        if got.distinct < count:
            missing.append(f"{source}/{epoch}: {count} events published, {got.distinct} rows")
        if got.rows > got.distinct:
            repeated.append(f"{source}/{epoch}: {got.rows - got.distinct} rows twice")
        if got.highest > count or got.distinct > count:
            strange.append(f"{source}/{epoch}: row {got.highest}, though {count} events have a number")
    for source, epoch in sorted(set(evidence.inserted) - set(evidence.published)):
        strange.append(f"{source}/{epoch}: rows of a source that has no spool")
    _explain(reasons, "events without a row", missing)
    _explain(reasons, "rows inserted twice", repeated)
    _explain(reasons, "rows without an event", strange)


def _explain(reasons: list[str], what: str, findings: Sequence[str]) -> None:
    if findings:
        more = f"; and {len(findings) - EXAMPLES} more" if len(findings) > EXAMPLES else ""
        reasons.append(f"{what}: {'; '.join(findings[:EXAMPLES])}{more}")


def _id(id: Id) -> str:
    return f"{id[0]:016x}/{id[1]}/{id[2]}"
