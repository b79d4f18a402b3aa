"""The documents of the mailbox: how they are read, and what is remembered of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bson import Int64
from pymongo.errors import OperationFailure

from .limits import MONGO_CLAUSES, STORE_READ_BYTES
from .mailbox import DEFERRED_KEY
from .mongo_batch import Batch, chunks, table
from .mongo_chain import Chain
from .mongo_players import CachedRow, Mark, Players, PlayerState

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from .mailbox import Result

__all__ = ["ROW_BYTES", "Documents", "Node", "Work"]

Document = dict[str, Any]

_BIAS: Final = 1 << 63

ROW_BYTES: Final = 128
"""What a row costs beside its payload, for the byte limit, as in the SQLite store."""

_COUNT_ROWS: Final = 5_000
"""Up to so many rows their bytes are added up at open; beyond it the database's own figure does."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the roster, and the document that says so."""

    name: str
    epoch: int
    linked: bool
    seen_ms: int
    document: Any


@dataclass(frozen=True, slots=True)
class Reading:
    """Rows that were asked for; their payloads are read after the commit."""

    index: int
    player: str
    rows: list[CachedRow]
    end: bool


class Work:
    """One call of `run`."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.results: list[Result] = []
        self.marked: set[str] = set()
        """Players whose marks are written with the next commit."""
        self.listed: set[str] = set()
        """Those whose mark of the deferred list was raised: it hides rows until they are deleted."""
        self.refused: dict[tuple[bool, str, int], Result] = {}
        """Of a sender to a player: what the rest of the batch gets as well."""
        self.readings: list[Reading] = []

    def mark(self, player: str, sender: int) -> None:
        """A mark was raised."""
        self.marked.add(player)
        if sender == DEFERRED_KEY:
            self.listed.add(player)

    def write(self, documents: Documents) -> None:
        """Commit what has come together."""
        for player in sorted(self.marked):
            self._write_marks(documents.players[player], player)
        self.marked.clear()
        self.listed.clear()
        self.batch.commit()

    def _write_marks(self, state: PlayerState, player: str) -> None:
        """One document holds all marks of a player; the older ones go after the commit."""
        self.batch.delete_ids("marks", state.mark_ids)
        state.mark_ids = []
        if player not in self.listed:
            state.marks.pop(DEFERRED_KEY, None)
        if state.marks or state.deferred_marks:
            marks = {"cursor": cursor(state.marks), "deferred": cursor(state.deferred_marks)}
            state.mark_ids = [self.batch.add("marks", {"player": player, **marks})["_id"]]


class Documents:
    """What the store holds, as far as it was looked at."""

    def __init__(self, database: Database[Document], chain: Chain) -> None:
        self.database = database
        self.chain = chain
        self.session: ClientSession | None = None
        self.players = Players()
        self.roster: dict[int, Node] = {}
        self.bytes = 0
        """Payload of all rows and deferred messages, and what each costs beside it."""
        self._stale: list[tuple[str, Any]] = []
        self._looked = ""
        self.promotions = 0
        """Deferred messages that became rows in this process."""

    def begin(self, session: ClientSession) -> None:
        """A run was claimed: finish what a dead hub had begun, and read what is read once."""
        self.session = session
        promoted = table(self.database, "promoted")
        for found in promoted.find({}, session=session):
            # Deferred messages that have a row already. Nothing was read since, so the row is still there.
            if self.counts(found):
                self.delete_ids("deferred", found["ids"])
            promoted.delete_one({"_id": found["_id"]}, session=session)
        self.bytes = self._stored_bytes()
        self.roster = self._load_roster()
        self.sweep()

    def look(self, session: ClientSession) -> None:
        """The same from outside: nothing is changed."""
        self.session = session
        self.roster = self._load_roster()

    def forget(self) -> None:
        """Nobody knows what the store has."""
        self.players.clear()
        self.roster.clear()

    # --- finding ----------------------------------------------------------------------------------

    def counts(self, found: Document) -> bool:
        """Whether its batch was committed."""
        return self.chain.counts(found["run"], found["n"] >> 16)

    def find(
        self, name: str, query: Document, fields: Iterable[str], by: str = "", limit: int = 0
    ) -> Iterator[Document]:
        """Documents in the order of writing, or by fields that an index begins with; also void ones."""
        projection = dict.fromkeys(("run", "n", *fields), 1)
        order = [(field, 1) for field in by.split()]
        found = table(self.database, name).find(query, projection, session=self.session, limit=limit)
        yield from found.sort([*order, ("run", 1), ("n", 1)])

    def delete_ids(self, name: str, ids: Sequence[Any]) -> None:
        """Delete at once; for what no commit is awaited."""
        for part in chunks(ids, MONGO_CLAUSES):
            table(self.database, name).delete_many({"_id": {"$in": part}}, session=self.session)

    def _stored_bytes(self) -> int:
        """Bytes of all rows as the limit counts them: exact while they are few, else the database's."""
        total = 0
        for name in ("rows", "deferred"):
            collection = table(self.database, name).name
            try:
                stats = self.database.command("collStats", collection, session=self.session)
            except OperationFailure:
                continue  # no such collection yet
            if stats["count"] > _COUNT_ROWS:
                total += int(stats["size"])
                continue
            total += sum(found["bytes"] + ROW_BYTES for found in self.find(name, {}, ["bytes"]))
        return total

    def _load_roster(self) -> dict[int, Node]:
        """The last document of each node counts."""
        roster: dict[int, Node] = {}
        for found in self.find("roster", {}, ["node_key", "name", "epoch", "linked", "seen_ms"]):
            if not self.counts(found):
                self._stale.append(("roster", found["_id"]))
                continue
            key = unsigned(found["node_key"])
            if key in roster:
                self._stale.append(("roster", roster[key].document))
            node = (found["name"], unsigned(found["epoch"]), found["linked"], found["seen_ms"])
            roster[key] = Node(*node, found["_id"])
        return roster

    def groups(self) -> list[tuple[str, str]]:
        """Every durable membership: group and player. The last document of each pair counts."""
        last: dict[tuple[str, str], tuple[bool, Any]] = {}
        for found in self.find("members", {}, ["group", "player", "member"], by="group player"):
            pair = (found["group"], found["player"])
            if not self.counts(found):
                self._stale.append(("members", found["_id"]))
                continue
            if pair in last:
                self._stale.append(("members", last[pair][1]))
            last[pair] = (found["member"], found["_id"])
        # Behind what they supersede: only once that is gone may the endings go.
        self._stale += [("members", document) for member, document in last.values() if not member]
        return sorted(pair for pair, (member, _) in last.items() if member)

    def sweep(self) -> None:
        """Delete what was found to be superseded, in the order of finding."""
        stale, self._stale = self._stale, []
        for name in ("roster", "members"):
            self.delete_ids(name, [document for kind, document in stale if kind == name])

    def next_due(self) -> int:
        """When the next deferred message is due; 0 for none."""
        found = self.find("deferred", {}, ["deliver_at_ms"], by="deliver_at_ms")
        return next((int(each["deliver_at_ms"]) for each in found if self.counts(each)), 0)

    def next_marks(self, limit: int) -> list[tuple[str, int, int, int]]:
        """Marks of the deferred list, of the next players in order, and round again."""
        after = {"player": {"$gt": self._looked}}
        found = list(self.find("marks", after, ["player", "deferred"], by="player", limit=limit))
        self._looked = found[-1]["player"] if len(found) == limit else ""
        return [
            (each["player"], unsigned(mark["sender"]), *id_of(mark))
            for each in found
            if self.counts(each)
            for mark in each["deferred"]
        ]

    # --- players ----------------------------------------------------------------------------------

    def load(self, batch: Batch, players: set[str]) -> None:
        """Remember the players that a batch names; what a crash left of them is deleted after its commit."""
        new = sorted(player for player in players if player not in self.players)
        for player in players - set(new):
            self.players.touch(player)
        for part in chunks(new, MONGO_CLAUSES):
            self._load_part(batch, part)

    def _load_part(self, batch: Batch, players: list[str]) -> None:
        states = {player: PlayerState() for player in players}
        among = {"player": {"$in": players}}
        for found in table(self.database, "players").find({"_id": {"$in": players}}, session=self.session):
            states[found["_id"]].known = True
        for found in self.find("marks", among, ["player", "cursor", "deferred"]):
            state = states[found["player"]]
            state.mark_ids.append(found["_id"])
            if self.counts(found):
                for mark in found["cursor"]:
                    state.handled(unsigned(mark["sender"]), id_of(mark))
                for mark in found["deferred"]:
                    state.note_deferred(unsigned(mark["sender"]), id_of(mark))
        fields = ["player", "sender", "epoch", "seq", "bytes"]
        dead = []
        for found in self.find("rows", among, fields):
            state = states[found["player"]]
            row = self.row(found)
            if row is None or state.is_handled(row.sender, row.mark):
                dead.append(found["_id"])
            else:
                state.put(row)
        batch.delete_ids("rows", dead)
        dead = []
        for found in self.find("deferred", among, fields):
            if self.counts(found):
                sender = unsigned(found["sender"])
                states[found["player"]].defer(found["_id"], sender, id_of(found), found["bytes"])
            else:
                dead.append(found["_id"])
        batch.delete_ids("deferred", dead)
        for player, state in states.items():
            self.players.add(player, state)

    def settle(self, work: Work, player: str, up_to: int) -> None:
        """Delete handled rows, and leave marks of those that may be repeated."""
        state = self.players[player]
        rows = [row for row in state.rows if row.row <= up_to]
        for row in rows:
            if not state.is_trimmed(row.sender, row.mark) and state.handled(row.sender, row.mark):
                work.mark(player, row.sender)
        self.remove(work, player, rows)

    def remove(self, work: Work, player: str, rows: list[CachedRow]) -> None:
        """Delete rows of a player after the commit."""
        gone = self.players[player].take(rows)
        self.bytes -= sum(row.bytes + ROW_BYTES for row in gone)
        work.batch.delete("rows", self.keys(player, gone))

    def row(self, found: Document) -> CachedRow | None:
        """A row as the hub counts it; None if it does not count."""
        return self.cached(found) if self.counts(found) else None

    def cached(self, found: Document) -> CachedRow:
        """The same of a row that is being written."""
        row = self.chain.row(found["run"], found["n"])
        return CachedRow(row, unsigned(found["sender"]), *id_of(found), found["bytes"])

    # --- payloads ---------------------------------------------------------------------------------

    def fetch(self, work: Work) -> None:
        """Read the payloads of the rows that were asked for, at a time about what one answer may hold."""
        group: list[Reading] = []
        size = 0
        for reading in work.readings:
            group.append(reading)
            size += sum(row.bytes for row in reading.rows)
            if size >= STORE_READ_BYTES or len(group) >= MONGO_CLAUSES:
                self._fetch_group(work, group)
                group, size = [], 0
        if group:
            self._fetch_group(work, group)
        work.readings.clear()

    def _fetch_group(self, work: Work, group: Sequence[Reading]) -> None:
        clauses = [clause for reading in group for clause in self.keys(reading.player, reading.rows)]
        found = {
            (each["player"], self.chain.row(each["run"], each["n"])): each
            for each in self.find("rows", either(clauses), ["player", "deadline_ms", "content", "payload"])
        }
        for reading in group:
            rows = []
            for row in reading.rows:
                each = found.get((reading.player, row.row))
                if each is None:  # Taken out by hand.
                    self.players[reading.player].take([row])
                    continue
                message = (row.row, row.sender, row.epoch, row.seq)
                rows.append((*message, each["deadline_ms"], each["content"], bytes(each["payload"])))
            work.results[reading.index] = ("rows", rows, reading.end)

    def keys(self, player: str, rows: Iterable[CachedRow]) -> list[Document]:
        """Queries that name these rows."""
        runs: dict[int, list[Int64]] = {}
        for row in rows:
            run, n = self.chain.key(row.row)
            runs.setdefault(run, []).append(Int64(n))
        return [{"player": player, "run": Int64(run), "n": {"$in": ns}} for run, ns in runs.items()]


def either(clauses: Sequence[Document]) -> Document:
    """What any of these names."""
    return clauses[0] if len(clauses) == 1 else {"$or": list(clauses)}


def signed(value: int) -> Int64:
    """A u64 as the database's signed integer, in the same order."""
    return Int64(value - _BIAS)


def unsigned(value: int) -> int:
    """And back."""
    return int(value) + _BIAS


def moment(unix_ms: int) -> Int64:
    """A time, in the clear; what is beyond the database's integers is its last."""
    return Int64(min(unix_ms, _BIAS - 1))


def message(
    player: str, node_key: int, epoch: int, seq: int, deadline_ms: int, content: int, payload: bytes
) -> Document:
    """A row without its key in the chain."""
    key = {"player": player, "sender": signed(node_key), "epoch": signed(epoch), "seq": signed(seq)}
    body = {"content": content, "payload": payload, "bytes": len(payload)}
    return {**key, "deadline_ms": moment(deadline_ms), **body}


def id_of(found: Document) -> Mark:
    """Epoch and seq."""
    return unsigned(found["epoch"]), unsigned(found["seq"])


def cursor(marks: dict[int, Mark]) -> list[dict[str, Int64]]:
    """Marks as a document holds them."""
    return [
        {"sender": signed(key), "epoch": signed(epoch), "seq": signed(seq)}
        for key, (epoch, seq) in sorted(marks.items())
    ]
