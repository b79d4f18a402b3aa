"""The chain of runs: what makes a document of the mailbox count (BUS.md section 11).

A run lasts from an open of the store by a hub to that hub's end or its first operation of unknown outcome. It
writes batches 1, 2, 3 ... one at a time, and a document counts once the commit of its batch is in. A new hub
ends every lower run by a seal under the number that the run's next commit would have: one of the two fails.

Documents: lease (0: one hub), run, batch, kind: claim (batch 0), commit, seal; unique (lease, run, batch).
Claims and seals are never deleted; of the commits of a run only the last is needed. So a seal that was
decided on a read older than such a clean-up may find its number free although the run went on: a seal counts
when a read *behind* its insert finds nothing above it, and only then.

run = hub epoch << 31 | counter, n = batch << 16 | index. The hub counts rows in one u64: the place of the run
among all runs (20 bits), batch (34), index (10). Places are given when the chain is read and only grow.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, Any, Final

from bson import Int64
from pymongo.errors import DuplicateKeyError

from .errors import Replaced, StoreUnavailable
from .limits import MONGO_BATCH_ROWS, MONGO_CHAIN_TIDY, MONGO_CLAIMS, MONGO_RUNS, MONGO_SEALS

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

__all__ = ["Chain"]

PROMOTION_BITS: Final = 31
"""Deferred messages that one hub epoch can make due: the low part of their seq."""
_LEASE: Final = 0
_COUNTER_BITS: Final = 31
_INDEX_BITS: Final = 10
_BATCH_BITS: Final = 34
_BATCH_MASK: Final = (1 << _BATCH_BITS) - 1
_INDEX_MASK: Final = (1 << _INDEX_BITS) - 1
assert MONGO_BATCH_ROWS <= _INDEX_MASK + 1


def epoch_of(run: int) -> int:
    """The hub epoch of a run."""
    return run >> _COUNTER_BITS


def number(batch: int, index: int) -> int:
    """The `n` of a document."""
    return batch << 16 | index


class Chain:
    """Runs as this process knows them, and the one that it writes."""

    def __init__(self, collection: Collection[dict[str, Any]], name: str) -> None:
        self._collection = collection
        self._name = name
        self._owner = secrets.token_hex(16)
        self._places: dict[int, int] = {}
        self._runs: list[int] = []
        self._ended: dict[int, int] = {}  # run: the batch of its seal
        self._counter = 0
        self._tidied = 0
        self.run = 0
        """The run that this process writes; 0 before a claim and after an unknown outcome."""
        self.committed = 0
        """Its last batch."""

    # --- claim and seal ---------------------------------------------------------------------------

    def highest_epoch(self, session: ClientSession) -> int:
        """The highest hub epoch that ever claimed this store; 0 none."""
        last = self._collection.find_one({"lease": _LEASE}, sort=[("run", -1)], session=session)
        return epoch_of(last["run"]) if last else 0

    def claim(self, epoch: int, session: ClientSession) -> None:
        """Begin a new run of this hub epoch and end every lower one; only then may anything be read."""
        run = self._insert_claim(epoch, session)
        heads = self._heads({"lease": _LEASE}, session)
        self._check_owner(run, heads)
        ended = {}
        for lower in sorted(heads):
            if lower < run:
                ended[lower] = self._end(lower, heads[lower], session)
        self._ended = ended
        for known in sorted(heads):
            if known not in self._places and known <= run:
                self._place(known)
        self.run, self.committed, self._tidied = run, 0, 0

    def _insert_claim(self, epoch: int, session: ClientSession) -> int:
        for _ in range(MONGO_CLAIMS):
            self._counter += 1
            run = epoch << _COUNTER_BITS | self._counter
            try:
                self._insert(run, 0, "claim", session)
            except DuplicateKeyError:
                continue
            return run
        raise StoreUnavailable(f"{self._name}: the first {MONGO_CLAIMS} runs of epoch {epoch} are taken")

    def _insert(self, run: int, batch: int, kind: str, session: ClientSession) -> None:
        entry = {"lease": _LEASE, "run": Int64(run), "batch": Int64(batch), "kind": kind}
        self._collection.insert_one({**entry, "owner": self._owner}, session=session)

    def _heads(self, query: dict[str, Any], session: ClientSession) -> dict[int, dict[str, Any]]:
        """The last document of each run, with the owner that its claim names."""
        heads: dict[int, dict[str, Any]] = {}
        for found in self._collection.find(query, session=session).sort([("run", 1), ("batch", 1)]):
            before = heads.get(found["run"])
            heads[found["run"]] = {**found, "owner": before["owner"] if before else found["owner"]}
        return heads

    def _check_owner(self, run: int, heads: dict[int, dict[str, Any]]) -> None:
        """Whether the store is ours: no higher epoch, and nobody who claimed this epoch before us.

        Of two that claim one epoch, the one with the higher counter found the other's claim in its way, so it
        sees it here and goes; the other may stay.
        """
        epoch, highest = epoch_of(run), epoch_of(max(heads))
        same = [other for other in sorted(heads) if epoch_of(other) == epoch]
        if highest > epoch or (same and heads[same[0]]["owner"] != self._owner):
            raise Replaced(f"{self._name} was claimed by hub epoch {highest}, this is {epoch}")

    def _end(self, run: int, head: dict[str, Any], session: ClientSession) -> int:
        """Seal a run; the seal's batch is the first that does not count."""
        for _ in range(MONGO_SEALS):
            if head["kind"] == "seal":
                return int(head["batch"])
            with contextlib.suppress(DuplicateKeyError):  # It committed meanwhile, or another sealed it.
                self._insert(run, head["batch"] + 1, "seal", session)
            head = self._heads({"lease": _LEASE, "run": Int64(run)}, session)[run]
        raise StoreUnavailable(f"{self._name}: run {run} commits faster than it can be sealed")

    def _place(self, run: int) -> None:
        if len(self._runs) >= MONGO_RUNS:
            raise StoreUnavailable(f"{self._name} has had {MONGO_RUNS} runs: export it and import it anew")
        if self._runs and run < self._runs[-1]:
            # Claimed late by a hub that then saw ours and ended: it wrote nothing.
            return
        self._places[run] = len(self._runs)
        self._runs.append(run)

    # --- commits ----------------------------------------------------------------------------------

    def next_batch(self) -> int:
        """The number of the batch that is being written."""
        return self.committed + 1

    def commit(self, session: ClientSession) -> None:
        """Make the batch count, whole. Everything in it was acknowledged before."""
        batch = self.next_batch()
        if batch >= _BATCH_MASK:
            raise StoreUnavailable(f"{self._name}: a new run is due after {batch} batches")
        try:
            self._insert(self.run, batch, "commit", session)
        except DuplicateKeyError:
            newer = self.highest_epoch(session)
            epoch = epoch_of(self.run)
            raise Replaced(f"{self._name} was claimed by hub epoch {newer}, this is {epoch}") from None
        self.committed = batch
        if batch - self._tidied >= MONGO_CHAIN_TIDY:
            self._collection.delete_many(
                {"lease": _LEASE, "run": Int64(self.run), "kind": "commit", "batch": {"$lt": Int64(batch)}},
                session=session,
            )
            self._tidied = batch

    def seal_own(self, session: ClientSession) -> None:
        """End this process's run in peace: who looks sees that no hub has the store."""
        if self.run:
            self._insert(self.run, self.next_batch(), "seal", session)
            self.run = 0

    def holder(self, session: ClientSession) -> int:
        """The hub epoch of the last run, if it was not ended: a hub runs, or was killed. Else 0."""
        last = self._collection.find_one(
            {"lease": _LEASE}, sort=[("run", -1), ("batch", -1)], session=session
        )
        return epoch_of(last["run"]) if last and last["kind"] != "seal" else 0

    def last_due(self, session: ClientSession) -> int:
        """A seq of the deferred list that none is above: they carry the hub epoch."""
        return (self.highest_epoch(session) + 1) << PROMOTION_BITS

    def look(self, session: ClientSession) -> None:
        """Read what counts now, without a claim: for a look from outside."""
        heads = self._heads({"lease": _LEASE}, session)
        self._ended = {run: head["batch"] + (head["kind"] != "seal") for run, head in heads.items()}
        for run in sorted(heads):
            if run not in self._places:
                self._place(run)

    # --- what counts ------------------------------------------------------------------------------

    def counts(self, run: int, batch: int) -> bool:
        """Whether a document of this batch counts. A run above ours: another hub has the store."""
        if run == self.run:
            return batch <= self.committed
        if self.run and run > self.run:
            newer, epoch = epoch_of(run), epoch_of(self.run)
            raise Replaced(f"{self._name} was claimed by hub epoch {newer}, this is {epoch}")
        return batch < self._ended.get(run, 0)

    def knows(self, run: int) -> bool:
        """Whether the run stands in the chain: what is of no run is not ours to delete."""
        return run == self.run or run in self._ended

    def row(self, run: int, n: int) -> int:
        """The hub's number for a row."""
        place = self._places[run]
        return place << (_BATCH_BITS + _INDEX_BITS) | n >> 16 << _INDEX_BITS | n & 0xFFFF

    def key(self, row: int) -> tuple[int, int]:
        """Run and n of a row that `row` numbered."""
        run = self._runs[row >> (_BATCH_BITS + _INDEX_BITS)]
        return run, number(row >> _INDEX_BITS & _BATCH_MASK, row & _INDEX_MASK)
