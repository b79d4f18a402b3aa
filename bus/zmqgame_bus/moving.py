"""Moving a mailbox to another store: what one exports, as lines of JSON, the other takes in.

Ids and order stay; so does all that makes repeats harmless: marks, the epochs of hubs and nodes, the numbers
of the deferred list. A row or mark that is there already is not taken twice, so an interrupted import is
simply repeated. The last line says how many there are: a file without it was cut off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Final

import orjson

from .errors import StoreUnavailable
from .limits import EXPORT_LINE_BYTES
from .mailbox import Mailbox, Operation

__all__ = ["BrokenExport", "read_lines", "take_in", "write_lines"]

Entry = dict[str, Any]

_FORMAT: Final = 1
_BATCH: Final = 500
"""Operations between two commits of an import."""
_DUE_BITS: Final = 31


class BrokenExport(StoreUnavailable):
    """The file is no export, or not a whole one."""


def write_lines(entries: Iterable[Entry], out: IO[bytes], count: Callable[[int], None]) -> int:
    """Write an export; returns how many entries."""
    number = 0
    for number, entry in enumerate(entries, 1):
        head = {"zmqgame_mailbox": _FORMAT} if number == 1 else {}
        out.write(orjson.dumps({**head, **entry}) + b"\n")
        count(number)
    out.write(orjson.dumps({"end": number}) + b"\n")
    out.flush()
    return number


def read_lines(source: IO[bytes]) -> Iterator[Entry]:
    """Read an export: first its head; the end is checked."""
    number = 0
    while line := source.readline(EXPORT_LINE_BYTES + 1):
        number += 1
        if len(line) > EXPORT_LINE_BYTES:
            raise BrokenExport(f"line {number} is over the limit of {EXPORT_LINE_BYTES} bytes")
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise BrokenExport(f"line {number} is not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise BrokenExport(f"line {number} is no entry of a mailbox")
        if number == 1 and entry.get("zmqgame_mailbox") != _FORMAT:
            raise BrokenExport("this is no export of a mailbox, or one of a newer version")
        if "end" in entry:
            if entry["end"] != number - 1:
                raise BrokenExport(f"{number - 1} entries, the last line says {entry['end']}")
            return
        yield entry
    raise BrokenExport(f"cut off after {number} entries: the last line is missing")


def take_in(store: Mailbox, entries: Iterator[Entry], count: Callable[[int], None]) -> int:
    """Take all entries into a store that no hub has; returns how many."""
    head = next(entries, None)
    if head is None:
        raise BrokenExport("the file is empty")
    # Hubs that come after it, here too, have a higher epoch than any before, and so have its numbers.
    epoch = max(store.highest_epoch(), head["hub_epoch"], head["last_due"] >> _DUE_BITS) + 1
    store.run([("open", epoch, time.time_ns() // 1_000_000)])
    store.run([_admin({"op": "take_in_due", "last_due": head["last_due"]})])
    number, batch = 1, []
    for number, entry in enumerate(entries, 2):
        batch.append(_operation(entry, number))
        if len(batch) >= _BATCH:
            _commit(store, batch)
            count(number)
            batch = []
    _commit(store, batch)
    count(number)
    return number


def _commit(store: Mailbox, batch: list[Operation]) -> None:
    for operation, (kind, *_) in zip(batch, store.run(batch) if batch else [], strict=True):
        if kind in ("full", "unknown_player", "over_quota"):
            text = "is full: raise mailbox.max_bytes" if kind == "full" else f"refused a message ({kind})"
            raise StoreUnavailable(f"the mailbox of {operation[1]} {text}")


def _operation(entry: Entry, number: int) -> Operation:
    try:
        return _operation_of(entry)
    except (KeyError, ValueError, TypeError) as error:
        raise BrokenExport(f"line {number} is no entry of a mailbox ({error})") from error


def _operation_of(entry: Entry) -> Operation:
    if "member" in entry:
        return ("join", entry["group"], entry["member"])
    if "node" in entry:
        return ("roster", entry["node_key"], entry["node"], entry["epoch"], entry["linked"])
    if "player" in entry:
        return ("know", entry["player"])
    key = (entry["node_key"], entry["epoch"], entry["seq"])
    if "mark" in entry:
        return ("logout", entry["mark"], [key])
    if "deferred_mark" in entry:
        mark = dict(zip(("node_key", "epoch", "seq"), key, strict=True))
        return _admin({"op": "take_in", "player": entry["deferred_mark"], **mark})
    body = (entry["deadline_ms"], entry["content"], bytes.fromhex(entry["payload"]))
    if "row" in entry:
        return ("append", entry["row"], *key, *body, False)
    return ("defer", entry["deferred"], *key, entry["deliver_at_ms"], *body, False)


def _admin(question: Entry) -> Operation:
    return ("admin", orjson.dumps(question).decode())
