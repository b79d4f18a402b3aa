"""The checker: what was sent, what receipts said, what clients handled, and whether these agree.

It holds the messages since the last rest and those of the cycle before it, and for ever those whose sender
died before it had a receipt: they may be handled, once, in order, or never.

What counts:

- lost: a receipt said `delivered` or `stored`, and at rest, with the player online, it was never handled.
- duplicated: a session handled it twice; or a later session did after the earlier one ended with a confirmed
  logout, or with its memory kept. Only a client that lost its memory (kill -9, no disk) may see again what it
  had handled in this or the last cycle, because nobody else can know that it had (BUS.md section 7).
- out of order: of one sender's messages to one player a session handled an older one behind a newer one, or
  one was handled for the first time behind a newer one.
  What was sent for later comes when it is due, in any order; what may be dropped too, and at most once.
- never sent: nobody sent it, not to this player, or it came damaged.
- untrue: `delivered` was said before the client handled it.
- refused: a final receipt that is neither, of what must be delivered; or a report that misses a member.
"""

from dataclasses import dataclass, field

from tests.chaos.values import Value

KINDS = ("to", "group", "later", "loose")
"""To a player, to a group, to a player at a later time, to a player and nobody minds if it is dropped."""

ACKED = ("delivered", "stored")
FINDINGS = ("lost", "duplicated", "out_of_order", "never_sent", "untrue", "refused")
SAMPLES = 20
"""Findings that are kept as text; the rest is counted."""


@dataclass(slots=True)
class Sent:
    """One message."""

    value: Value
    to: str
    kind: str
    final: bool = False
    outcomes: dict[str, tuple[str, int]] = field(default_factory=dict)
    """By player: outcome and when the receipt was there."""
    handled: dict[str, tuple[str, int]] = field(default_factory=dict)
    """By player: the last session that handled it, and when one first did."""


@dataclass(slots=True)
class Totals:
    """Sums of a run."""

    acked: int = 0
    unknown: int = 0
    handled: int = 0
    repeated: int = 0
    """Seen again by a client that had lost its memory, which is allowed."""
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    never_sent: int = 0
    untrue: int = 0
    refused: int = 0

    def violations(self) -> int:
        return sum(getattr(self, name) for name in FINDINGS)


class Ledger:
    """One run."""

    def __init__(self, groups: dict[str, set[str]]) -> None:
        self.totals = Totals()
        self.samples: list[str] = []
        self._groups = groups
        """Groups whose members never change: their reports must name each."""
        self._now: dict[str, Sent] = {}
        self._before: dict[str, Sent] = {}
        self._unknown: dict[str, Sent] = {}
        self._highest: dict[tuple[str, int], int] = {}
        self._first: dict[tuple[str, str], tuple[int, int]] = {}
        self._of_session: dict[tuple[str, str], tuple[int, int]] = {}
        self._forgetful: set[str] = set()

    # --- what senders say --------------------------------------------------------------------------

    def sent(self, text: str, to: str, kind: str) -> None:
        value = Value.parse(text)
        self._now[text] = Sent(value, to, kind)
        self._highest[value.sender, value.start] = value.number

    def receipt(self, text: str, player: str, outcome: str, detail: str, at_ns: int) -> None:
        entry = self._find(text)
        assert entry is not None, text
        entry.final = True
        entry.outcomes[player] = (outcome, at_ns)
        self._judge(entry, player, outcome, detail, at_ns)

    def report(self, text: str, outcome: str, entries: dict[str, str], at_ns: int) -> None:
        entry = self._find(text)
        assert entry is not None, text
        entry.final = True
        members = self._groups.get(entry.to)
        if members is not None and (outcome != "done" or set(entries) != members):
            self._found("refused", f"{text} to {entry.to}: {outcome}, {len(entries)} recipients")
        for player, each in entries.items():
            if each == "passed":  # its mark is past it: handled before, or it joined later
                if members is not None:
                    entry.outcomes[player] = ("stored", at_ns)
                continue
            entry.outcomes[player] = (each, at_ns)
            self._judge(entry, player, each, "", at_ns)

    def _judge(self, entry: Sent, player: str, outcome: str, detail: str, at_ns: int) -> None:
        if entry.kind == "loose":
            if outcome == "dropped" and player in entry.handled:
                self._found("untrue", f"{entry.value} to {player} was handled and then {outcome}")
        elif outcome in ACKED:
            self.totals.acked += 1
        else:
            self._found("refused", f"{entry.value} to {player}: {outcome} {detail} at {at_ns}")

    # --- what clients say --------------------------------------------------------------------------

    def handled(self, player: str, session: str, text: str, at_ns: int) -> None:
        self.totals.handled += 1
        entry = self._find(text)
        if entry is None:
            self._strange(player, session, text)
            return
        if entry.kind != "group" and entry.to != player:
            self._found("never_sent", f"{text} for {entry.to} came to {player}")
            return
        earlier = entry.handled.get(player)
        if earlier is not None:
            if earlier[0] == session or earlier[0] not in self._forgetful or entry.kind == "loose":
                self._found("duplicated", f"{text} by {player} in {earlier[0]} and in {session}")
            else:
                self.totals.repeated += 1
        entry.handled[player] = (session, earlier[1] if earlier else at_ns)
        if entry.kind == "loose" and entry.outcomes.get(player, ("", 0))[0] == "dropped":
            self._found("untrue", f"{text} to {player} was dropped and then handled")
        if entry.kind in ("to", "group"):
            self._in_order(entry.value, player, session, first=earlier is None)

    def _strange(self, player: str, session: str, text: str) -> None:
        try:
            value = Value.parse(text)
            old = value.number <= self._highest.get((value.sender, value.start), 0)
        except ValueError:
            old = False
        self._found("duplicated" if old else "never_sent", f"{text} by {player} in {session}")

    def _in_order(self, value: Value, player: str, session: str, *, first: bool) -> None:
        marks = [(self._of_session, (session, value.sender))]
        if first:
            marks.append((self._first, (player, value.sender)))
        for table, key in marks:
            last = table.get(key, (0, 0))
            if value.order < last:
                self._found("out_of_order", f"{value} by {player} in {session} behind {last}")
                return
            table[key] = value.order

    def forgot(self, session: str) -> None:
        """The client of this session was killed and has no disk."""
        self._forgetful.add(session)

    # --- at rest -----------------------------------------------------------------------------------

    def waiting(self, alive: dict[str, int]) -> list[str]:
        """What keeps the run from rest: receipts of living senders, acked messages not handled yet."""
        found = []
        for text, entry in self._now.items():
            if (
                not entry.final
                and entry.kind != "loose"
                and alive.get(entry.value.sender) == entry.value.start
            ):
                found.append(f"{text} to {entry.to} has no receipt")
            for player, (outcome, _) in entry.outcomes.items():
                if outcome in ACKED and player not in entry.handled:
                    found.append(f"{text} was {outcome} to {player} and is not handled")
        return found

    def settle(self) -> None:
        """Close a cycle: judge what is there, and keep it for one more cycle."""
        for text, entry in self._now.items():
            if not entry.final and entry.kind != "loose":
                self.totals.unknown += 1
                self._unknown[text] = entry
            for player, (outcome, at_ns) in entry.outcomes.items():
                handled = entry.handled.get(player)
                if outcome in ACKED and handled is None:
                    self._found("lost", f"{text} was {outcome} to {player}")
                elif outcome == "delivered" and handled is not None and handled[1] > at_ns:
                    self._found("untrue", f"{text} was delivered before {player} handled it")
        self._before, self._now = self._now, {}

    def _find(self, text: str) -> Sent | None:
        return self._now.get(text) or self._before.get(text) or self._unknown.get(text)

    def _found(self, kind: str, text: str) -> None:
        setattr(self.totals, kind, getattr(self.totals, kind) + 1)
        if len(self.samples) < SAMPLES:
            self.samples.append(f"{kind}: {text}")
