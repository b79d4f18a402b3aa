"""`audit delivery`: was each message that was acked handled, once, or is it in the mailbox?

Three parties say it, each by itself. The hub: what it told senders, `delivered` and `stored`. The hosts: what
their players have handled. The mailbox: what waits there now. Each gives counts and sums of hashed ids, by
sender; so one lost and another doubled show too, although the counts agree.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click
import orjson

from zmqgame.cli.context import EXIT_CODES, FAILED, Context, finish, json_option, print_json, run
from zmqgame.cli.times import Duration

if TYPE_CHECKING:
    from zmqgame_bus.node import Node

SETTLE_S: Final = 10.0
"""What was acked a moment ago is in ClickHouse in a second or two; how long a difference may last."""

_WRAP: Final = (1 << 64) - 1

EPILOG = f"""\b
Examples:
  zmqgame-cli audit delivery                since records began
  zmqgame-cli audit delivery --since 1d     figures of a day; lost and duplicated since records began
  zmqgame-cli audit delivery --by sender    a line a sender, those that don't agree first
  zmqgame-cli audit delivery --json

`acked` is what the hub told senders (delivered, stored), `handled` what the players of game servers and the
manager have acked, `in mailbox` what waits now. Under load the last seconds differ for a moment: so long as
the difference shrinks to nothing within --settle, it was only under way.

Not compared, and shown: messages to hosts that keep no records (programs of your own, the cli), or that were
sent again as a group. Deferred, expired and purged ones are not in the accounts, nor is the last second of a
process that was killed.

{EXIT_CODES}"""

SUMS_SQL: Final = """
SELECT kind, sender, max(name) AS named, host, sum(messages) AS total, toString(sum(id_sum)) AS ids,
       sumIf(messages, second >= {since}) AS recent
FROM hop_sums GROUP BY kind, sender, host ORDER BY sender, kind, host
"""


@dataclass
class Side:
    """A count, and the sum of the hashes of as many ids."""

    messages: int = 0
    id_sum: int = 0

    def add(self, messages: int, id_sum: int) -> None:
        """As many more."""
        self.messages += messages
        self.id_sum = (self.id_sum + id_sum) & _WRAP


@dataclass
class Account:
    """One sender."""

    sender: str
    name: str = ""
    acked: Side = field(default_factory=Side)
    handled: Side = field(default_factory=Side)
    mailbox: Side = field(default_factory=Side)
    recent_acked: int = 0
    recent_handled: int = 0
    elsewhere: int = 0
    """Delivered by hosts that keep no records."""
    passed: int = 0
    """Told `passed`: handled before, by a group send that came again; nobody knows whether it was acked."""

    @property
    def difference(self) -> int:
        """Acked less handled less waiting: above 0 lost, below 0 doubled, unless it is under way."""
        return self.acked.messages - self.handled.messages - self.mailbox.messages

    @property
    def agrees(self) -> bool:
        """Whether counts and sums agree; where group sends came again, only that nothing is missing."""
        if self.passed:
            return -self.passed <= self.difference <= 0
        sums = (self.acked.id_sum - self.handled.id_sum - self.mailbox.id_sum) & _WRAP
        return self.difference == 0 and sums == 0

    @property
    def lost(self) -> int:
        """Messages that were acked and are nowhere."""
        return max(self.difference, int(not self.agrees and not self.difference), 0)

    @property
    def duplicated(self) -> int:
        """Messages that were handled and not acked, or more than once."""
        return 0 if self.agrees else max(-self.difference, int(not self.difference), 0)

    def row(self) -> dict[str, Any]:
        """For people and programs."""
        return {
            "sender": self.name or self.sender,
            "acked": self.acked.messages,
            "handled": self.handled.messages,
            "in_mailbox": self.mailbox.messages,
            "lost": self.lost,
            "duplicated": self.duplicated,
        }


def accounts(rows: Iterable[Mapping[str, Any]], waiting: Iterable[Mapping[str, Any]]) -> list[Account]:
    """Accounts by sender, from the rows of SUMS_SQL and the mailbox's sums."""
    from zmqgame_native import node_key

    found: dict[str, Account] = {}
    rows = list(rows)
    recording = {row["host"] for row in rows if row["kind"] == "handled"}
    deferred = f"0x{node_key('deferred'):016x}"
    for row in rows:
        account = found.setdefault(row["sender"], Account(row["sender"]))
        account.name = account.name or row["named"]
        messages, id_sum, recent = int(row["total"]), int(row["ids"]), int(row["recent"])
        if row["kind"] == "handled":
            account.handled.add(messages, id_sum)
            account.recent_handled += recent
        elif row["kind"] == "passed":
            account.passed += messages
        elif row["kind"] in ("delivered", "taken") and row["host"] not in recording:
            account.elsewhere += messages
            if row["kind"] == "taken":  # out of the accounts: it was counted when it was stored
                account.acked.add(-messages, -id_sum)
                account.recent_acked -= recent
        elif row["kind"] == "taken":
            pass  # its host counts what is handled
        else:
            account.acked.add(messages, id_sum)
            account.recent_acked += recent
    for each in waiting:
        account = found.setdefault(str(each["sender"]), Account(str(each["sender"])))
        account.mailbox.add(int(each["messages"]), int(each["id_sum"]))
    found.pop(deferred, None)  # what was deferred has another id when its time has come
    return sorted(found.values(), key=lambda account: (account.agrees, account.sender))


@click.group(epilog=EPILOG)
def audit() -> None:
    """Prove that nothing was lost or came twice."""


@audit.command(epilog=EPILOG, short_help="Acked = handled + in the mailbox, for every sender.")
@click.option("--since", "age_s", type=Duration(), default=None, help="Figures of the last 90s, 5m, 1h, 1d.")
@click.option("--by", type=click.Choice(["all", "sender"]), default="all", show_default=True)
@click.option(
    "--settle",
    "settle_s",
    type=click.FloatRange(0, 600),
    default=SETTLE_S,
    show_default=True,
    metavar="S",
    help="How long a difference may last before it counts.",
)
@json_option
@click.pass_obj
def delivery(context: Context, age_s: float | None, by: str, settle_s: float, as_json: bool) -> None:
    """Acked = handled + in the mailbox, for every sender; exit 1 if not."""
    since = int(time.time() - age_s) if age_s is not None else 0
    found = run(_delivery(context, since, settle_s))
    total = _total(found, since)
    bad = [account for account in found if not account.agrees]
    if as_json:
        print_json({**total, "holds": not bad, "senders": [account.row() for account in found]})
    else:
        if by == "sender":
            for account in found:
                print(_line(account.row()) + f"   {account.name or account.sender}")
        print(_line(total))
        for name, text in _NOTES.items():
            if total[name]:
                print(f"not compared: {total[name]:,} {text}")
        for account in bad[:10]:
            print(f"does not agree: {_line(account.row())}   sender {account.name or account.sender}")
    finish(FAILED if bad else 0)


_NOTES: Final = {
    "elsewhere": "delivered by hosts that keep no records",
    "passed": "told `passed` after a group send came again",
}


def _line(row: Mapping[str, Any]) -> str:
    return (
        f"acked {row['acked']:,} · handled {row['handled']:,} · in mailbox {row['in_mailbox']:,}"
        f" · lost {row['lost']:,} · duplicated {row['duplicated']:,}"
    )


def _total(found: list[Account], since: int) -> dict[str, Any]:
    total: dict[str, int] = defaultdict(int)
    for account in found:
        total["acked"] += account.recent_acked if since else account.acked.messages
        total["handled"] += account.recent_handled if since else account.handled.messages
        total["in_mailbox"] += account.mailbox.messages
        for name in ("lost", "duplicated", "elsewhere", "passed"):
            total[name] += int(getattr(account, name))
    names = ("acked", "handled", "in_mailbox", "lost", "duplicated", "elsewhere", "passed")
    return {name: total[name] for name in names}


async def _delivery(context: Context, since: int, settle_s: float) -> list[Account]:
    deadline = time.monotonic() + settle_s
    async with context.node() as node:
        while True:
            found = await _look(node, since)
            if all(account.agrees for account in found) or time.monotonic() >= deadline:
                return found
            await asyncio.sleep(0.5)


async def _look(node: Node, since: int) -> list[Account]:
    """The mailbox before the rows: what leaves it in between is handled, and seen as under way."""
    waiting = await node.query("mailbox", '{"op":"sums"}')
    body = {"op": "sql", "query": SUMS_SQL.format(since=since), "format": "JSON"}
    rows = orjson.loads((await node.request("stats", body, timeout_s=20.0)).payload)["data"]
    return accounts(rows, waiting)
