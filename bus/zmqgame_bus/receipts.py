"""Receipts of many messages: packed columns, that become `Receipt`s when somebody looks at them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, overload

from zmqgame_bus.messages import OUTCOMES, MessageId, Payload, Receipt, SentRecord

__all__ = ["Batch", "Receipts"]

_SAFE = frozenset({"delivered", "stored"})


class _Ids(Protocol):
    def id_of(self, seq: int) -> MessageId:
        """The id of one of our messages."""


class Batch:
    """Messages of consecutive seqs, and their receipts once all are there."""

    __slots__ = ("_details", "_ids", "_latencies", "_outcomes", "count", "first", "future", "messages")

    def __init__(self, first: int, count: int, ids: _Ids, messages: Sequence[tuple[str, Payload]]) -> None:
        self.first, self.count, self.messages = first, count, messages
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ids = ids
        self._outcomes = bytes(count)
        self._latencies = memoryview(bytes(4 * count)).cast("I")
        self._details: Mapping[int, str] = {}

    def fill(self, outcomes: bytes, latencies: bytes, details: Mapping[int, str]) -> None:
        """Take the receipts."""
        self._outcomes, self._details = outcomes, details
        self._latencies = memoryview(latencies).cast("I")
        if not self.future.done():
            self.future.set_result(None)

    def keep(self) -> None:
        """Nobody may be waiting when it ends: that is no mistake."""
        self.future.add_done_callback(lambda future: future.cancelled() or future.exception())

    @property
    def outcomes(self) -> bytes:
        """Outcomes by number, 0 for none in time."""
        return self._outcomes

    def receipt(self, at: int) -> Receipt:
        """The receipt of one message."""
        outcome = OUTCOMES[self._outcomes[at]]
        detail = self._details.get(at, "")
        if outcome == "unknown":
            detail = "no receipt in time; it may still be delivered"
        return Receipt(outcome, detail, self._ids.id_of(self.first + at), self._latencies[at] / 1000)

    def tell(self, told: Callable[[SentRecord], None]) -> None:
        """Give each receipt to the sender's log."""
        for at, (player, _) in enumerate(self.messages):
            receipt = self.receipt(at)
            told(SentRecord(receipt.id, "unicast", player, receipt.outcome, receipt.latency_ms))


class Receipts(Sequence[Receipt]):
    """The receipts of `unicast_many`, in the order of its messages; each is made when it is looked at."""

    def __init__(self, parts: Sequence[Batch]) -> None:
        self._parts = parts
        self._count = sum(part.count for part in parts)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> Receipt: ...
    @overload
    def __getitem__(self, at: slice) -> list[Receipt]: ...
    def __getitem__(self, at: int | slice) -> Receipt | list[Receipt]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(self._count))]
        at = at + self._count if at < 0 else at
        for part in self._parts:
            if 0 <= at < part.count:
                return part.receipt(at)
            at -= part.count
        raise IndexError("receipt index out of range")

    def __iter__(self) -> Iterator[Receipt]:
        for part in self._parts:
            yield from (part.receipt(at) for at in range(part.count))

    @property
    def counts(self) -> dict[str, int]:
        """How many messages had which outcome; without a look at each."""
        counted: Counter[int] = Counter()
        for part in self._parts:
            counted.update(part.outcomes)
        return {OUTCOMES[number]: count for number, count in sorted(counted.items())}

    @property
    def acked(self) -> bool:
        """Whether all are safe: handled, or in the mailbox."""
        return self.counts.keys() <= _SAFE
