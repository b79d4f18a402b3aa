"""What operators ask of the document store: list, show, purge; and all of it in one stream."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

import orjson

from .mongo_documents import ROW_BYTES, Documents, Work, id_of, unsigned
from .mongo_players import Mark
from .sums import sums

if TYPE_CHECKING:
    from .mailbox import Result

__all__ = ["admin", "export"]

Entry = dict[str, Any]
Marks = dict[int, Mark]


def admin(documents: Documents, work: Work, question: str) -> Result:
    """Answer a question in JSON; see zmqgame_bus.mailbox."""
    asked = orjson.loads(question)
    op = asked.get("op")
    work.write(documents)
    if op == "list":
        answer: Any = _list(documents, asked.get("from", ""), int(asked.get("limit", 100)))
    elif op == "show":
        answer = _show(documents, work, asked)
    elif op == "purge":
        answer = _purge(documents, work, asked)
    elif op == "sizes":
        found = [each for each in documents.find("rows", {}, ["bytes"]) if documents.counts(each)]
        later = sum(map(documents.counts, documents.find("deferred", {}, [])))
        answer = {"messages": len(found), "bytes": sum(each["bytes"] for each in found), "deferred": later}
    elif op == "sums":
        rows = documents.find("rows", {}, ["sender", "epoch", "seq"])
        answer = sums((unsigned(row["sender"]), *id_of(row)) for row in rows if documents.counts(row))
    elif op == "take_in":
        answer = _take_in(documents, work, asked)
    elif op == "take_in_due":
        answer = {}  # our numbers carry the hub epoch, which was chosen above it
    else:
        answer = {"error": f"a mailbox has no operation {op!r}"}
    return ("text", orjson.dumps(answer).decode())


def _list(documents: Documents, first: str, limit: int) -> list[Entry]:
    players: dict[str, Entry] = {}
    for name in ("rows", "deferred"):
        found = documents.find(name, {"player": {"$gte": first}}, ["player", "bytes"], by="player")
        for at, (player, group) in enumerate(groupby(found, key=lambda each: each["player"])):
            if at >= limit:
                break
            valid = [each for each in group if documents.counts(each)]
            if not valid:
                continue
            empty = {"player": player, "messages": 0, "bytes": 0, "deferred": 0, "first_row": None}
            entry = players.setdefault(player, empty)
            entry["bytes"] += sum(each["bytes"] for each in valid)
            if name == "deferred":
                entry["deferred"] = len(valid)
            else:
                entry["messages"] = len(valid)
                entry["first_row"] = documents.chain.row(valid[0]["run"], valid[0]["n"])
    return [players[player] for player in sorted(players)[:limit]]


def _show(documents: Documents, work: Work, asked: Entry) -> list[Entry]:
    player = asked.get("player", "")
    documents.load(work.batch, {player})
    after, limit = int(asked.get("after", 0)), int(asked.get("limit", 100))
    rows = [row for row in documents.players[player].rows if row.row > after][:limit]
    found = {}
    for clause in documents.keys(player, rows):
        for each in documents.find("rows", clause, ["deadline_ms", "content", "payload"]):
            found[documents.chain.row(each["run"], each["n"])] = each
    shown = []
    for row in rows:
        if row.row not in found:
            continue
        each = found[row.row]
        payload = bytes(each["payload"]).hex().upper() if asked.get("payload") else None
        body = {"deadline_ms": each["deadline_ms"], "content": each["content"]}
        key = {"row": row.row, "node_key": row.sender, "epoch": row.epoch, "seq": row.seq}
        shown.append({**key, **body, "bytes": row.bytes, "payload": payload})
    return shown


def _purge(documents: Documents, work: Work, asked: Entry) -> Entry:
    player = asked.get("player", "")
    documents.load(work.batch, {player})
    state = documents.players[player]
    before = len(state.rows)
    documents.settle(work, player, int(asked.get("up_to", sys.maxsize)))
    gone = before - len(state.rows)
    later = 0
    if asked.get("deferred"):
        waiting = list(state.deferred)
        for document in waiting:
            documents.bytes -= state.deferred[document][2] + ROW_BYTES
            state.promote(document)  # its mark stays: a repeat does not bring it back
            work.marked.add(player)
        work.batch.delete_ids("deferred", waiting)
        later = len(waiting)
    return {"purged": gone, "deferred": later}


def _take_in(documents: Documents, work: Work, asked: Entry) -> Entry:
    """A mark of a deferred message that became a row in another store."""
    player = asked.get("player", "")
    documents.load(work.batch, {player})
    documents.players[player].note_deferred(asked["node_key"], (asked["epoch"], asked["seq"]))
    work.marked.add(player)
    return {}


def export(documents: Documents) -> Iterator[Entry]:
    """All that counts, in an order in which it can be taken in again."""
    for found in documents.database["mailbox_players"].find({}, session=documents.session):
        yield {"player": found["_id"]}
    for group, player in documents.groups():
        yield {"group": group, "member": player}
    for key, node in sorted(documents.roster.items()):
        yield {"node": node.name, "node_key": key, "epoch": node.epoch, "linked": node.linked}
    everything = [
        *("player", "sender", "epoch", "seq"),
        *("deadline_ms", "content", "payload", "deliver_at_ms"),
    ]
    marks = _marks(documents)
    later: list[tuple[str, Marks]] = []
    for name, rows in groupby(documents.find("rows", {}, everything, by="player"), _player):
        handled = marks.pop(name, ({}, {}))
        for each in rows:
            key = unsigned(each["sender"])
            if documents.counts(each) and handled[0].get(key, (-1, -1)) < id_of(each):
                yield {"row": name, **_message(each)}
                handled[0].pop(key, None)  # a row says as much as a mark
        yield from _mark_entries("mark", name, handled[0])
        later.append((name, handled[1]))
    for name, handled in marks.items():
        yield from _mark_entries("mark", name, handled[0])
        later.append((name, handled[1]))
    promoted = {
        document
        for each in documents.find("promoted", {}, ["ids"])
        if documents.counts(each)
        for document in each["ids"]
    }
    for each in documents.find("deferred", {}, everything, by="deliver_at_ms"):
        if documents.counts(each) and each["_id"] not in promoted:
            yield {"deferred": each["player"], "deliver_at_ms": each["deliver_at_ms"], **_message(each)}
    for name, kind in later:  # behind the messages, which they would make repeats
        yield from _mark_entries("deferred_mark", name, kind)


def _player(found: Entry) -> str:
    return str(found["player"])


def _message(found: Entry) -> Entry:
    epoch, seq = id_of(found)
    key = {"node_key": unsigned(found["sender"]), "epoch": epoch, "seq": seq}
    body = {"deadline_ms": found["deadline_ms"], "content": found["content"]}
    return {**key, **body, "payload": bytes(found["payload"]).hex()}


def _marks(documents: Documents) -> dict[str, tuple[Marks, Marks]]:
    """By player: what was handled, and what was deferred and became a row; by sender."""
    marks: dict[str, tuple[Marks, Marks]] = {}
    for found in documents.find("marks", {}, ["player", "cursor", "deferred"], by="player"):
        if not documents.counts(found):
            continue
        mine = marks.setdefault(found["player"], ({}, {}))
        for kind, listed in zip(mine, (found["cursor"], found["deferred"]), strict=True):
            for mark in listed:
                key = unsigned(mark["sender"])
                kind[key] = max(kind.get(key, (-1, -1)), id_of(mark))
    return marks


def _mark_entries(name: str, player: str, marks: Marks) -> Iterator[Entry]:
    for key, (epoch, seq) in sorted(marks.items()):
        yield {name: player, "node_key": key, "epoch": epoch, "seq": seq}
