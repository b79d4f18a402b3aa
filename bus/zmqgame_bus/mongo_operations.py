"""The mailbox's operations on documents: what each changes in memory, writes and deletes.

Each takes the documents, the work of this call and the fields of its tuple. What it changes in memory is true
once the batch is committed; a failure forgets all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bson import Int64

from .errors import StoreUnavailable
from .limits import ROSTER_DAYS, STORE_READ_BYTES, STORE_READ_ROWS
from .mailbox import DEFERRED_KEY
from .mongo_admin import admin
from .mongo_chain import PROMOTION_BITS, epoch_of
from .mongo_documents import (
    ROW_BYTES,
    Documents,
    Node,
    Reading,
    Work,
    id_of,
    message,
    moment,
    signed,
    unsigned,
)

if TYPE_CHECKING:
    from .mailbox import Operation, Result
    from .mongo_players import CachedRow

__all__ = ["Bounds", "perform", "players_of"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the store and one player's mailbox take; 0: any."""

    bytes: int
    player_messages: int
    player_bytes: int


def perform(documents: Documents, work: Work, bounds: Bounds, operation: Operation) -> None:
    """Carry one out; its result is the next of the work."""
    name = operation[0]
    if name in ("append", "defer"):
        work.results.append(_take(documents, work, bounds, operation))
    else:
        work.results.append(_OTHERS[name](documents, work, *operation[1:]))


def players_of(operations: Sequence[Operation]) -> set[str]:
    """The players that a batch names."""
    named = set()
    for operation in operations:
        if operation[0] in ("join", "leave"):
            named.add(str(operation[2]))
        elif operation[0] not in ("open", "roster", "due", "expire", "admin"):
            named.add(str(operation[1]))
    return named


# --- appending ------------------------------------------------------------------------------------


def _take(documents: Documents, work: Work, bounds: Bounds, operation: Operation) -> Result:
    """Append or defer a message, or refuse it, and then the rest of its sender to that player."""
    kind, player, node_key, epoch, seq, *rest = operation
    state = documents.players[player]
    known = state.has_deferred if kind == "defer" else state.has
    if state.known and known(node_key, (epoch, seq)):  # [20, 35] a repeat is never refused
        waits = kind == "defer" or state.has_row(node_key, (epoch, seq))
        return ("appended",) if waits else ("passed",)
    refused = work.refused.get((kind == "defer", player, node_key))
    if refused is not None:
        return refused
    deliver_at_ms = rest.pop(0) if kind == "defer" else 0
    deadline_ms, content, payload = rest[:3]
    first = len(rest) > 3 and rest[3]
    refused = _refusal(documents, bounds, player, len(payload), first)
    if refused is not None:
        work.refused[kind == "defer", player, node_key] = refused
        return refused
    row = message(player, node_key, epoch, seq, deadline_ms, content, payload)
    documents.bytes += len(payload) + ROW_BYTES
    if kind == "defer":
        later = {**row, "deliver_at_ms": moment(deliver_at_ms)}
        document = work.batch.add("deferred", later, len(payload))
        state.defer(document["_id"], node_key, (epoch, seq), len(payload))
    else:
        state.put(documents.cached(work.batch.add("rows", row, len(payload))))
    return ("appended",)


def _refusal(documents: Documents, bounds: Bounds, player: str, size: int, first: bool) -> Result | None:
    state = documents.players[player]
    if not state.known:
        return ("unknown_player",)
    messages, used = state.used()
    over = bounds.player_messages and messages >= bounds.player_messages
    over = over or (bounds.player_bytes and used + size > bounds.player_bytes)
    if first and over:
        return ("over_quota", messages, used)
    if first and documents.bytes + size + ROW_BYTES > bounds.bytes:
        return ("full",)
    return None


# --- deferred sends and expiry [34, 37] -------------------------------------------------------------


def _due(documents: Documents, work: Work, unix_ms: int, limit: int) -> Result:
    """Deferred messages become rows.

    The document `promoted` is committed with the rows and names what they were made of. That is deleted
    before this is confirmed, and by the next open before anything is read; so none becomes a row twice.
    """
    work.write(documents)
    due = {"deliver_at_ms": {"$lte": moment(unix_ms)}}
    fields = ["player", "sender", "epoch", "seq", "deadline_ms", "content", "payload", "bytes"]
    listed = list(documents.find("deferred", due, fields, by="deliver_at_ms", limit=limit))
    found = [each for each in listed if documents.counts(each)]
    documents.delete_ids("deferred", [each["_id"] for each in listed if not documents.counts(each)])
    documents.load(work.batch, {each["player"] for each in found})
    moved = []
    done = []
    for each in found:
        if work.batch.full:
            break
        player = each["player"]
        state = documents.players[player]
        seq = _promotion(documents)
        body = (int(each["deadline_ms"]), each["content"], bytes(each["payload"]))
        row = message(player, DEFERRED_KEY, 1, seq, *body)
        state.put(documents.cached(work.batch.add("rows", row, each["bytes"])))
        state.promote(each["_id"])
        work.marked.add(player)
        moved.append((player, unsigned(each["sender"]), *id_of(each), seq))
        done.append(each["_id"])
    if done:
        document = work.batch.add("promoted", {"ids": done})
        work.write(documents)
        work.batch.delete_ids("deferred", done)
        work.batch.delete_ids("promoted", [document["_id"]])
        documents.fetch(work)  # before what was read is deleted
        work.batch.tidy()
    return ("due", moved, documents.next_due())


def _promotion(documents: Documents) -> int:
    """The next seq of the deferred list: it grows, over runs and hubs, in the order of promotion."""
    documents.promotions += 1
    if documents.promotions >> PROMOTION_BITS:
        raise StoreUnavailable("more deferred messages than one hub epoch can number: start the hub again")
    return epoch_of(documents.chain.run) << PROMOTION_BITS | documents.promotions


def _expire(documents: Documents, work: Work, unix_ms: int, limit: int) -> Result:
    """Rows and deferred messages past their deadline. Their repeats are past it as well: no mark."""
    work.write(documents)
    late = {"deadline_ms": {"$gt": 0, "$lt": moment(unix_ms)}}
    fields = ["player", "sender", "epoch", "seq", "bytes"]
    count = 0
    for name in ("rows", "deferred"):
        found = list(documents.find(name, late, fields, limit=limit - count)) if count < limit else []
        for each in found:
            if not documents.counts(each):
                continue
            count += 1
            documents.bytes -= each["bytes"] + ROW_BYTES
            if each["player"] in documents.players:
                state = documents.players[each["player"]]
                if name == "rows":
                    state.take([documents.cached(each)])
                else:
                    state.undefer(each["_id"])
        work.batch.delete_ids(name, [each["_id"] for each in found])
    return ("expired", count, documents.next_marks(limit))


# --- reading and settling ---------------------------------------------------------------------------


def _read(documents: Documents, work: Work, player: str, after_row: int, limit: int) -> Result:
    limit = max(1, min(limit, STORE_READ_ROWS))
    rows: list[CachedRow] = []
    size = 0
    end = True
    for row in documents.players[player].rows:
        if row.row <= after_row:
            continue
        size += row.bytes
        if len(rows) == limit or (rows and size > STORE_READ_BYTES):
            end = False
            break
        rows.append(row)
    if rows:
        work.readings.append(Reading(len(work.results), player, rows, end))
    return ("rows", [], end)


def _accepted(documents: Documents, _work: Work, player: str) -> Result:
    accepted = documents.players[player].accepted()
    return ("marks", [(key, *accepted[key]) for key in sorted(accepted)])


def _settle(documents: Documents, work: Work, player: str, up_to: int) -> Result:
    documents.settle(work, player, up_to)
    return ("done",)


def _logout(documents: Documents, work: Work, player: str, cursor: Sequence[tuple[int, int, int]]) -> Result:
    state = documents.players[player]
    for sender, epoch, seq in cursor:  # [31] the mark counts before a row goes
        if state.handled(sender, (epoch, seq)):
            work.mark(player, sender)
        rows = [row for row in state.rows if row.sender == sender and row.mark <= (epoch, seq)]
        documents.remove(work, player, rows)
    return ("done",)


def _trim(documents: Documents, work: Work, player: str, node_key: int, epoch: int, seq: int) -> Result:
    if documents.players[player].trim(node_key, (epoch, seq)):
        work.marked.add(player)
    return ("done",)


# --- players, groups, nodes -------------------------------------------------------------------------


def _open(documents: Documents, _work: Work, hub_epoch: int, unix_ms: int) -> Result:
    retired_ms = unix_ms - ROSTER_DAYS * 86_400_000  # [4a] its document keeps the epoch
    roster = sorted(
        (node.name, key, node.epoch, node.linked)
        for key, node in documents.roster.items()
        if node.linked or node.seen_ms > retired_ms
    )
    nodes = [(key, name, epoch, linked) for name, key, epoch, linked in roster]
    groups = documents.groups()
    documents.sweep()
    return ("opened", hub_epoch, nodes, groups, documents.next_due())


def _know(documents: Documents, work: Work, player: str) -> Result:
    state = documents.players[player]
    if not state.known:
        state.known = True
        work.batch.know(player)
    return ("done",)


def _join(documents: Documents, work: Work, group: str, player: str) -> Result:
    if not documents.players[player].known:
        return ("unknown_player",)
    return _member(work, group, player, True)


def _leave(_documents: Documents, work: Work, group: str, player: str) -> Result:
    return _member(work, group, player, False)


def _member(work: Work, group: str, player: str, member: bool) -> Result:
    pair = {"group": group, "player": player}
    document = work.batch.add("members", {**pair, "member": member})
    run, n = document["run"], document["n"]
    older = [{**pair, "run": {"$lt": run}}, {**pair, "run": run, "n": {"$lt": n}}]
    work.batch.delete("members", older)
    if not member:
        work.batch.delete_ids("members", [document["_id"]])
    return ("done",)


def _roster(documents: Documents, work: Work, node_key: int, name: str, epoch: int, linked: bool) -> Result:
    before = documents.roster.get(node_key)
    if before is not None and epoch < before.epoch:
        return ("done",)  # [4b] an epoch never goes back
    seen_ms = time.time_ns() // 1_000_000
    entry = {"node_key": signed(node_key), "name": name, "epoch": signed(epoch)}
    document = work.batch.add("roster", {**entry, "linked": linked, "seen_ms": Int64(seen_ms)})
    documents.roster[node_key] = Node(name, epoch, linked, seen_ms, document["_id"])
    if before is not None:
        work.batch.delete_ids("roster", [before.document])
    return ("done",)


_OTHERS: Final[dict[str, Callable[..., Result]]] = {
    "open": _open,
    "due": _due,
    "expire": _expire,
    "read": _read,
    "accepted": _accepted,
    "settle": _settle,
    "logout": _logout,
    "trim": _trim,
    "know": _know,
    "join": _join,
    "leave": _leave,
    "roster": _roster,
    "admin": admin,
}
