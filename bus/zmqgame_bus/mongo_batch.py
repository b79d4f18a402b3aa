"""The documents of one batch: written together, made to count by one commit, and what is deleted after it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bson import Int64, ObjectId
from pymongo.errors import BulkWriteError

from .errors import StoreUnavailable
from .limits import MONGO_BATCH_BYTES, MONGO_BATCH_ROWS, MONGO_CLAUSES
from .mongo_chain import number

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.database import Database

    from .mongo_chain import Chain

__all__ = ["Batch", "chunks", "make_indexes", "table"]

Document = dict[str, Any]
T = TypeVar("T")

_DUPLICATE: Final = 11000

# Unique keys carry the promises; the others are for `due` and `expire`.
_INDEXES: Final[dict[str, list[tuple[list[str], bool]]]] = {
    "chain": [(["lease", "run", "batch"], True)],
    "rows": [
        (["player", "run", "n"], True),
        (["player", "sender", "epoch", "seq", "run"], True),
        (["deadline_ms"], False),
    ],
    "deferred": [
        (["player", "sender", "epoch", "seq", "run"], True),
        (["deliver_at_ms", "run", "n"], False),
        (["deadline_ms"], False),
    ],
    "marks": [(["player", "run", "n"], True)],
    "members": [(["group", "player", "run", "n"], True)],
    "roster": [(["node_key", "run", "n"], True)],
}


def table(database: Database[Document], name: str) -> Collection[Document]:
    """A collection of the mailbox."""
    return database[f"mailbox_{name}"]


def make_indexes(database: Database[Document]) -> None:
    """Make what is not there yet."""
    for name, indexes in _INDEXES.items():
        for fields, unique in indexes:  # one at a time: not every server takes several of which some exist
            keys = [(field, 1) for field in fields]
            table(database, name).create_index(keys, unique=unique, name="_".join(fields))


def chunks(items: Iterable[T], size: int) -> Iterable[list[T]]:
    """Lists of at most `size`."""
    source = iter(items)
    while part := list(islice(source, size)):
        yield part


class Batch:
    """What one call of `run` writes; long ones become several commits."""

    def __init__(self, database: Database[Document], chain: Chain, session: ClientSession) -> None:
        self._database = database
        self._chain = chain
        self._session = session
        self._documents: dict[str, list[Document]] = {}
        self._players: list[str] = []
        self._after: list[tuple[str, list[Document]]] = []
        self._index = 0
        self._size = 0

    @property
    def full(self) -> bool:
        """No further document may join: commit first."""
        return self._index >= MONGO_BATCH_ROWS or self._size >= MONGO_BATCH_BYTES

    @property
    def empty(self) -> bool:
        """Nothing waits for a commit."""
        return not self._documents

    def add(self, name: str, document: Document, size: int = 0) -> Document:
        """Join a document; it gets its key in the chain."""
        if self._index > 0xFFFF:
            raise StoreUnavailable("more documents in one batch than it has numbers")
        n = number(self._chain.next_batch(), self._index)
        whole = {"_id": ObjectId(), **document, "run": Int64(self._chain.run), "n": Int64(n)}
        self._documents.setdefault(name, []).append(whole)
        self._index += 1
        self._size += size
        return whole

    def know(self, player: str) -> None:
        """A player exists; this alone needs no commit, for it confirms nothing and is never undone."""
        self._players.append(player)

    def delete(self, name: str, queries: Iterable[Document]) -> None:
        """Delete what these name, after the commit, in the order of the calls."""
        listed = list(queries)
        if listed:
            self._after.append((name, listed))

    def delete_ids(self, name: str, ids: Sequence[Any]) -> None:
        """The same by identity."""
        self.delete(name, [{"_id": {"$in": part}} for part in chunks(ids, MONGO_CLAUSES)])

    def commit(self) -> None:
        """Write everything; it counts when this returns."""
        known = [{"_id": player} for player in self._players]
        self._insert("players", known)
        for name, documents in self._documents.items():
            self._insert(name, documents)
        if self._documents:
            self._chain.commit(self._session)
        self._documents, self._players, self._index, self._size = {}, [], 0, 0

    def _insert(self, name: str, documents: list[Document]) -> None:
        if not documents:
            return
        try:
            table(self._database, name).insert_many(documents, ordered=False, session=self._session)
        except BulkWriteError as error:
            details = error.details or {}
            others = [each for each in details.get("writeErrors", []) if each.get("code") != _DUPLICATE]
            if others or details.get("writeConcernErrors"):
                raise
            # What is there already is in: a known player, or an id that this run has appended before.

    def tidy(self) -> None:
        """Delete what was superseded; all of it may be repeated."""
        after, self._after = self._after, []
        for name, queries in after:
            for part in chunks(queries, MONGO_CLAUSES):
                query = part[0] if len(part) == 1 else {"$or": part}
                table(self._database, name).delete_many(query, session=self._session)
