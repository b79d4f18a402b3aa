"""The mailbox in MongoDB, or in what speaks its protocol with less (BUS.md section 11).

Used are inserts that a unique key may refuse, deletes that may be repeated, and finds: no transactions, no
updates, no find-and-modify, no TTL, no clock and no retries of the driver. No document is ever changed. All
writes: majority and journal, whatever the durability level; all reads: primary, majority, in one causally
consistent session that began before the seals.

A batch of the hub is carried out in this order, each step awaited: what is remembered of its players is
completed (`mongo_players`), all documents go in, the commit makes them count (`mongo_chain`), payloads of
rows that were asked for are read, and only then is deleted what the commit superseded. Any failure leaves
an unknown outcome: everything remembered is forgotten, and the next batch begins with a new run.

Settling: a row that is deleted leaves a mark of its id, in the same batch's commit, unless `trim` said before
that its sender is done with it. So a resend of a settled message makes no new row, as on SQLite, also after a
restart of the hub.

Ids are kept less 2**63, so that the database's signed integers keep their order.
"""

from __future__ import annotations

import contextlib
import re
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pymongo
from bson import Int64
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from .errors import StoreUnavailable
from .limits import (
    MONGO_CLAUSES,
    MONGO_REPLY_MS,
    MONGO_SELECT_MS,
    PROBLEM_TEXT_CHARS,
    ROSTER_DAYS,
    STORE_READ_BYTES,
    STORE_READ_ROWS,
)
from .mailbox import Operation, Result
from .mongo_batch import Batch, chunks, make_indexes, table
from .mongo_chain import Chain
from .mongo_players import CachedRow, Mark, Players, PlayerState

__all__ = ["MongoMailbox", "shown_url"]

_BIAS: Final = 1 << 63
_ROW_BYTES: Final = 128
"""What a row costs beside its payload, for the byte limit, as in the SQLite store."""
_COUNT_ROWS: Final = 5_000
"""Up to so many rows their bytes are added up at open; beyond it the database's own figure does."""
_CLOSE_S: Final = 2.0
"""How long closing tries to end the run: it is a courtesy, the next open does it as well."""


def shown_url(url: str) -> str:
    """The URL without user, password and options: for logs."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _signed(value: int) -> Int64:
    return Int64(value - _BIAS)


def _unsigned(value: int) -> int:
    return int(value) + _BIAS


def _time(unix_ms: int) -> Int64:
    return Int64(min(unix_ms, _BIAS - 1))


class MongoMailbox:
    """A mailbox in a document database. See zmqgame_bus.mailbox.Mailbox."""

    def __init__(self, url: str, *, max_bytes: int = 16 << 30, password: str | None = None) -> None:
        """Read the URL; nothing is connected before the first operation."""
        self._name = shown_url(url)
        self._max_bytes = max_bytes
        options: dict[str, Any] = {**_unless_said(url), "appname": "zmqgame-hub"}
        options |= {"retryWrites": False, "retryReads": False}
        if password:
            options["password"] = password
        try:
            self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(url, **options)
            name = self._client.get_default_database("zmqgame").name
        except (PyMongoError, ValueError, TypeError) as error:
            # The driver's text may quote a part of the URL that is a secret.
            kind = type(error).__name__
            raise StoreUnavailable(
                f"mailbox {self._name}: not a URL that can be used ({kind})",
                hint="write mongodb://USER@HOST:PORT/DATABASE?replicaSet=NAME; escape special characters",
            ) from None
        self._database = self._client.get_database(
            name,
            write_concern=WriteConcern("majority", j=True, wtimeout=MONGO_REPLY_MS),
            read_concern=ReadConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )
        self._chain = Chain(table(self._database, "chain"), f"mailbox {self._name}")
        self._session: ClientSession | None = None
        self._indexed = False
        self._epoch = 0
        self._bytes = 0
        self._players = Players()
        self._roster: dict[int, _Node] = {}

    # --- the connection ---------------------------------------------------------------------------

    def highest_epoch(self) -> int:
        """Return the highest hub epoch that was ever claimed in this store."""
        with self._known_outcome():
            return self._chain.highest_epoch(self._live_session())

    def holder(self) -> int:
        """Return the epoch of a hub that has the store, or was killed with it; 0 none."""
        with self._known_outcome():
            return self._chain.holder(self._live_session())

    def close(self) -> None:
        """End the run, so that who looks sees that no hub has the store, and let go of the connection."""
        with contextlib.suppress(PyMongoError):
            if self._chain.run and self._session is not None:
                with pymongo.timeout(_CLOSE_S):
                    self._chain.seal_own(self._session)
        self._forget()
        self._client.close()

    def _live_session(self) -> ClientSession:
        if self._session is None:
            self._session = self._client.start_session(causal_consistency=True)
        return self._session

    def _forget(self) -> None:
        """Nobody knows what the store has: begin anew."""
        self._chain.run = 0
        self._players.clear()
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(PyMongoError):
                session.end_session()

    @contextlib.contextmanager
    def _known_outcome(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._forget()
            if isinstance(error, PyMongoError | OSError):
                raise StoreUnavailable(f"mailbox {self._name}: {_brief(error)}") from error
            raise

    # --- batches ----------------------------------------------------------------------------------

    def run(self, operations: Sequence[Operation]) -> list[Result]:
        """Run a batch; what it confirms is committed."""
        with self._known_outcome():
            if operations and operations[0][0] == "open":
                self._epoch = operations[0][1]
            if not self._epoch:
                raise StoreUnavailable(f"mailbox {self._name}: not opened")
            if not self._chain.run:
                self._open_run()
            batch = Batch(self._database, self._chain, self._live_session())
            self._load(batch, {str(player) for player in map(_player_of, operations) if player is not None})
            work = _Work(batch)
            for operation in operations:
                if batch.full:
                    self._write(work)
                work.results.append(_HANDLERS[operation[0]](self, work, *operation[1:]))
            self._write(work)
            self._fetch(work)
            batch.tidy()
            self._players.shrink()
            return work.results

    def _write(self, work: _Work) -> None:
        """Commit what has come together."""
        for player in sorted(work.marked):
            self._write_marks(work.batch, player)
        work.marked.clear()
        work.batch.commit()

    def _write_marks(self, batch: Batch, player: str) -> None:
        """One document holds all marks of a player; the older ones go after the commit."""
        state = self._players[player]
        batch.delete_ids("marks", state.mark_ids)
        state.mark_ids = []
        if state.marks or state.deferred_marks:
            document = {
                "player": player,
                "cursor": _cursor(state.marks),
                "deferred": _cursor(state.deferred_marks),
            }
            state.mark_ids = [batch.add("marks", document)["_id"]]

    # --- reading the store ------------------------------------------------------------------------

    def _open_run(self) -> None:
        """Claim a run, end the lower ones, and finish what a dead hub had begun; only then read."""
        session = self._live_session()
        if not self._indexed:
            make_indexes(self._database)
            self._indexed = True
        self._chain.claim(self._epoch, session)
        promoted = table(self._database, "promoted")
        for found in promoted.find({}, session=session):
            # Deferred messages that have a row already. Nothing was read since, so the row is still there.
            if self._counts(found):
                for part in chunks(found["ids"], MONGO_CLAUSES):
                    table(self._database, "deferred").delete_many({"_id": {"$in": part}}, session=session)
            promoted.delete_one({"_id": found["_id"]}, session=session)
        self._bytes = self._stored_bytes()
        self._roster = self._load_roster()

    def _counts(self, found: dict[str, Any]) -> bool:
        return self._chain.counts(found["run"], found["n"] >> 16)

    def _find(self, name: str, query: dict[str, Any], fields: Iterable[str]) -> Iterator[dict[str, Any]]:
        projection = dict.fromkeys(("run", "n", *fields), 1)
        return iter(
            table(self._database, name)
            .find(query, projection, session=self._live_session())
            .sort([("run", 1), ("n", 1)])
        )

    def _stored_bytes(self) -> int:
        """Bytes of all rows as the limit counts them: exact while they are few, else the database's."""
        total = 0
        for name in ("rows", "deferred"):
            try:
                stats = self._database.command(
                    "collStats", table(self._database, name).name, session=self._live_session()
                )
            except OperationFailure:
                continue  # no such collection yet
            if stats["count"] > _COUNT_ROWS:
                total += int(stats["size"])
                continue
            total += sum(found["bytes"] + _ROW_BYTES for found in self._find(name, {}, ["bytes"]))
        return total

    def _load_roster(self) -> dict[int, _Node]:
        roster: dict[int, _Node] = {}
        stale = []
        for found in self._find("roster", {}, ["node_key", "name", "epoch", "linked", "seen_ms"]):
            key = _unsigned(found["node_key"])
            if not self._counts(found):
                stale.append(found["_id"])
                continue
            if key in roster:
                stale.append(roster[key].document)
            node = (found["name"], _unsigned(found["epoch"]), found["linked"], found["seen_ms"])
            roster[key] = _Node(*node, found["_id"])
        self._delete_ids("roster", stale)
        return roster

    def _load_groups(self) -> list[tuple[str, str]]:
        last: dict[tuple[str, str], tuple[bool, Any]] = {}
        stale = []
        for found in self._find("members", {}, ["group", "player", "member"]):
            pair = (found["group"], found["player"])
            if not self._counts(found):
                stale.append(found["_id"])
                continue
            if pair in last:
                stale.append(last[pair][1])
            last[pair] = (found["member"], found["_id"])
        self._delete_ids("members", stale)
        # Only once what they supersede is gone may the endings go.
        self._delete_ids("members", [document for member, document in last.values() if not member])
        return sorted(pair for pair, (member, _) in last.items() if member)

    def _delete_ids(self, name: str, ids: Sequence[Any]) -> None:
        for part in chunks(ids, MONGO_CLAUSES):
            table(self._database, name).delete_many({"_id": {"$in": part}}, session=self._live_session())

    def _load(self, batch: Batch, players: set[str]) -> None:
        """Remember the players that a batch names; delete what a crash left of them."""
        new = sorted(player for player in players if player not in self._players)
        for player in players - set(new):
            self._players.touch(player)
        for part in chunks(new, MONGO_CLAUSES):
            self._load_part(batch, part)

    def _load_part(self, batch: Batch, players: list[str]) -> None:
        states = {player: PlayerState() for player in players}
        among = {"player": {"$in": players}}
        session = self._live_session()
        for found in table(self._database, "players").find({"_id": {"$in": players}}, session=session):
            states[found["_id"]].known = True
        for found in self._find("marks", among, ["player", "cursor", "deferred"]):
            state = states[found["player"]]
            state.mark_ids.append(found["_id"])
            if self._counts(found):
                for mark in found["cursor"]:
                    state.handled(_unsigned(mark["sender"]), _id_of(mark))
                for mark in found["deferred"]:
                    state.note_deferred(_unsigned(mark["sender"]), _id_of(mark))
        rows = ["player", "sender", "epoch", "seq", "bytes"]
        dead = []
        for found in self._find("rows", among, rows):
            state = states[found["player"]]
            row = self._row_of(found)
            if row is None or state.marks.get(row.sender, (-1, -1)) >= row.mark:
                dead.append(found["_id"])
            else:
                state.put(row)
        batch.delete_ids("rows", dead)
        dead = []
        for found in self._find("deferred", among, rows):
            if self._counts(found):
                states[found["player"]].defer(
                    found["_id"], _unsigned(found["sender"]), _id_of(found), found["bytes"]
                )
            else:
                dead.append(found["_id"])
        batch.delete_ids("deferred", dead)
        for player, state in states.items():
            self._players.add(player, state)

    def _row_of(self, found: dict[str, Any]) -> CachedRow | None:
        """A row as the hub counts it; None if it does not count."""
        if not self._counts(found):
            return None
        row = self._chain.row(found["run"], found["n"])
        return CachedRow(row, _unsigned(found["sender"]), *_id_of(found), found["bytes"])

    def _fetch(self, work: _Work) -> None:
        """Read the payloads of the rows that were asked for, at a time about what one answer may hold."""
        group: list[_Reading] = []
        size = 0
        for reading in work.readings:
            group.append(reading)
            size += sum(row.bytes for row in reading.rows)
            if size >= STORE_READ_BYTES or len(group) >= MONGO_CLAUSES:
                self._fetch_group(work, group)
                group, size = [], 0
        if group:
            self._fetch_group(work, group)

    def _fetch_group(self, work: _Work, group: Sequence[_Reading]) -> None:
        clauses = [clause for reading in group for clause in self._keys(reading.player, reading.rows)]
        query = clauses[0] if len(clauses) == 1 else {"$or": clauses}
        found = {
            (each["player"], self._chain.row(each["run"], each["n"])): each
            for each in self._find("rows", query, ["player", "deadline_ms", "content", "payload"])
        }
        for reading in group:
            rows = []
            for row in reading.rows:
                each = found.get((reading.player, row.row))
                if each is None:  # Taken out by hand.
                    self._players[reading.player].take([row])
                    continue
                message = (row.row, row.sender, row.epoch, row.seq)
                rows.append((*message, each["deadline_ms"], each["content"], bytes(each["payload"])))
            work.results[reading.index] = ("rows", rows, reading.end)

    def _keys(self, player: str, rows: Iterable[CachedRow]) -> list[dict[str, Any]]:
        """Queries that name these rows."""
        runs: dict[int, list[Int64]] = {}
        for row in rows:
            run, n = self._chain.key(row.row)
            runs.setdefault(run, []).append(Int64(n))
        return [{"player": player, "run": Int64(run), "n": {"$in": ns}} for run, ns in runs.items()]

    # --- operations -------------------------------------------------------------------------------

    def _open(self, _work: _Work, hub_epoch: int, unix_ms: int) -> Result:
        retired_ms = unix_ms - ROSTER_DAYS * 86_400_000  # [4a] its document keeps the epoch
        roster = sorted(
            (node.name, key, node.epoch, node.linked)
            for key, node in self._roster.items()
            if node.linked or node.seen_ms > retired_ms
        )
        nodes = [(key, name, epoch, linked) for name, key, epoch, linked in roster]
        return ("opened", hub_epoch, nodes, self._load_groups())

    def _append(
        self,
        work: _Work,
        player: str,
        node_key: int,
        epoch: int,
        seq: int,
        deadline_ms: int,
        content: int,
        payload: bytes,
    ) -> Result:
        state = self._players[player]
        if not state.known:
            return ("unknown_player",)
        if state.has(node_key, (epoch, seq)):  # [20, 35] a repeat is never refused
            return ("appended",)
        size = len(payload) + _ROW_BYTES
        if self._bytes + size > self._max_bytes:
            return ("full",)
        row = _message(player, node_key, epoch, seq, deadline_ms, content, payload)
        self._put(work, player, work.batch.add("rows", row, size))
        self._bytes += size
        return ("appended",)

    def _put(self, work: _Work, player: str, document: dict[str, Any]) -> None:
        row = self._chain.row(document["run"], document["n"])
        sender = _unsigned(document["sender"])
        self._players[player].put(CachedRow(row, sender, *_id_of(document), document["bytes"]))

    def _read(self, work: _Work, player: str, after_row: int, limit: int) -> Result:
        limit = max(1, min(limit, STORE_READ_ROWS))
        rows: list[CachedRow] = []
        size = 0
        end = True
        for row in self._players[player].rows:
            if row.row <= after_row:
                continue
            size += row.bytes
            if len(rows) == limit or (rows and size > STORE_READ_BYTES):
                end = False
                break
            rows.append(row)
        if rows:
            work.readings.append(_Reading(len(work.results), player, rows, end))
        return ("rows", [], end)

    def _accepted(self, _work: _Work, player: str) -> Result:
        accepted = self._players[player].accepted()
        return ("marks", [(key, *accepted[key]) for key in sorted(accepted)])

    def _settle(self, work: _Work, player: str, up_to: int) -> Result:
        state = self._players[player]
        rows = [row for row in state.rows if row.row <= up_to]
        for row in rows:
            if row.mark > state.trimmed.get(row.sender, (-1, -1)) and state.handled(row.sender, row.mark):
                work.marked.add(player)
        self._remove(work, player, rows)
        return ("done",)

    def _logout(self, work: _Work, player: str, cursor: Sequence[tuple[int, int, int]]) -> Result:
        state = self._players[player]
        for sender, epoch, seq in cursor:  # [31] the mark counts before a row goes
            if state.handled(sender, (epoch, seq)):
                work.marked.add(player)
            rows = [row for row in state.rows if row.sender == sender and row.mark <= (epoch, seq)]
            self._remove(work, player, rows)
        return ("done",)

    def _remove(self, work: _Work, player: str, rows: list[CachedRow]) -> None:
        gone = self._players[player].take(rows)
        self._bytes -= sum(row.bytes + _ROW_BYTES for row in gone)
        work.batch.delete("rows", self._keys(player, gone))

    def _trim(self, work: _Work, player: str, node_key: int, epoch: int, seq: int) -> Result:
        if self._players[player].trim(node_key, (epoch, seq)):
            work.marked.add(player)
        return ("done",)

    def _know(self, work: _Work, player: str) -> Result:
        state = self._players[player]
        if not state.known:
            state.known = True
            work.batch.know(player)
        return ("done",)

    def _join(self, work: _Work, group: str, player: str) -> Result:
        if not self._players[player].known:
            return ("unknown_player",)
        self._member(work, group, player, True)
        return ("done",)

    def _leave(self, work: _Work, group: str, player: str) -> Result:
        self._member(work, group, player, False)
        return ("done",)

    def _member(self, work: _Work, group: str, player: str, member: bool) -> None:
        pair = {"group": group, "player": player}
        document = work.batch.add("members", {**pair, "member": member})
        run, n = document["run"], document["n"]
        older = [{**pair, "run": {"$lt": run}}, {**pair, "run": run, "n": {"$lt": n}}]
        work.batch.delete("members", older)
        if not member:
            work.batch.delete_ids("members", [document["_id"]])

    def _roster_entry(self, work: _Work, node_key: int, name: str, epoch: int, linked: bool) -> Result:
        before = self._roster.get(node_key)
        if before is not None and epoch < before.epoch:
            return ("done",)  # [4b] an epoch never goes back
        seen_ms = time.time_ns() // 1_000_000
        entry = {"node_key": _signed(node_key), "name": name, "epoch": _signed(epoch)}
        document = work.batch.add("roster", {**entry, "linked": linked, "seen_ms": Int64(seen_ms)})
        self._roster[node_key] = _Node(name, epoch, linked, seen_ms, document["_id"])
        if before is not None:
            work.batch.delete_ids("roster", [before.document])
        return ("done",)


@dataclass(frozen=True, slots=True)
class _Node:
    name: str
    epoch: int
    linked: bool
    seen_ms: int
    document: Any


@dataclass(frozen=True, slots=True)
class _Reading:
    """Rows that were asked for; their payloads are read after the commit."""

    index: int
    player: str
    rows: list[CachedRow]
    end: bool


class _Work:
    """One call of `run`."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.results: list[Result] = []
        self.marked: set[str] = set()
        self.readings: list[_Reading] = []


def _message(
    player: str, node_key: int, epoch: int, seq: int, deadline_ms: int, content: int, payload: bytes
) -> dict[str, Any]:
    key = {"player": player, "sender": _signed(node_key), "epoch": _signed(epoch), "seq": _signed(seq)}
    body = {"content": content, "payload": payload, "bytes": len(payload)}
    return {**key, "deadline_ms": _time(deadline_ms), **body}


def _id_of(found: dict[str, Any]) -> Mark:
    return _unsigned(found["epoch"]), _unsigned(found["seq"])


def _cursor(marks: dict[int, Mark]) -> list[dict[str, Int64]]:
    return [
        {"sender": _signed(key), "epoch": _signed(epoch), "seq": _signed(seq)}
        for key, (epoch, seq) in sorted(marks.items())
    ]


def _unless_said(url: str) -> dict[str, int]:
    """Bounds in time, where the URL names none."""
    said = {key.lower() for key, _ in urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query)}
    bounds = {
        "serverSelectionTimeoutMS": MONGO_SELECT_MS,
        "connectTimeoutMS": MONGO_SELECT_MS,
        "socketTimeoutMS": MONGO_REPLY_MS,
    }
    return {key: value for key, value in bounds.items() if key.lower() not in said}


def _brief(error: BaseException) -> str:
    """The driver's text without the description of the topology."""
    if isinstance(error, BulkWriteError):
        listed = [each.get("errmsg", "") for each in (error.details or {}).get("writeErrors", [])]
        return "; ".join(listed)[:PROBLEM_TEXT_CHARS] or "not written by the majority"
    text = re.sub(r",? ?(Timeout|full error|Topology Description): .*", "", str(error), flags=re.DOTALL)
    return text[:PROBLEM_TEXT_CHARS] or type(error).__name__


def _player_of(operation: Operation) -> str | None:
    name = operation[0]
    if name in ("open", "roster", "due", "expire", "admin"):
        return None
    return str(operation[2] if name in ("join", "leave") else operation[1])


_HANDLERS: dict[str, Callable[..., Result]] = {
    "open": MongoMailbox._open,
    "append": MongoMailbox._append,
    "read": MongoMailbox._read,
    "accepted": MongoMailbox._accepted,
    "settle": MongoMailbox._settle,
    "logout": MongoMailbox._logout,
    "trim": MongoMailbox._trim,
    "know": MongoMailbox._know,
    "join": MongoMailbox._join,
    "leave": MongoMailbox._leave,
    "roster": MongoMailbox._roster_entry,
}
