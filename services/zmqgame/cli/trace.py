"""`trace`: where a message is, hop by hop."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click
import orjson
from zmqgame_bus.errors import NoSuchService, ZmqgameError

from zmqgame.cli.context import EXIT_CODES, FAILED, Context, finish, json_option, print_json, run

if TYPE_CHECKING:
    from zmqgame_bus.node import Node

HOPS: Final = 1_000
"""Hops shown: a message to a large group has three for each of its recipients."""

FRESH_S: Final = 5.0
"""A hop is in ClickHouse after a second or two: so long is waited for the first one of a new message."""

_ORDER: Final = ("accepted", "stored", "due", "sent", "handed", "client acked", "acked")

EPILOG = f"""\b
Examples:
  zmqgame-cli trace cli-lima-1/18/1            each hop of a message with its time
  zmqgame-cli trace cli-lima-1/18/1 --json     the same for programs
  zmqgame-cli trace 0xc3fd5e3e8c2a1f00/18/1    the sender's key in place of its name

Every hop is kept of messages that an operator sent, that were sent with trace=True, and that went through
the mailbox; of the others one in 1,024. What was sent with --at has another id from its time on, and is
followed there. What became of all: zmqgame-cli audit delivery.

{EXIT_CODES}"""


_KEY: Final = re.compile(r"0x[0-9a-f]{16}/\d{1,20}/\d{1,20}")


class _Unknown(ZmqgameError):
    """No hop of that message is there."""


@click.command(epilog=EPILOG)
@click.argument("message")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, 60),
    default=FRESH_S,
    show_default=True,
    metavar="S",
    help="How long to wait for the first hop.",
)
@json_option
@click.pass_obj
def trace(context: Context, message: str, wait_s: float, as_json: bool) -> None:
    """Each hop of MESSAGE (NAME/EPOCH/SEQ, as `send` prints it) with its time."""
    from zmqgame_bus.hops import hop_id
    from zmqgame_bus.messages import MessageId

    try:
        parsed = MessageId.parse(message)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    key = hop_id(*parsed.numbers())
    hops = run(_hops(context, key, wait_s))
    if as_json:
        print_json({"id": message, "key": key, "hops": hops})
        finish(0 if hops else FAILED)
        return
    if not hops:
        raise _unknown(message, parsed.numbers())
    for line in lines(hops):
        print(line)


async def _hops(context: Context, key: str, wait_s: float) -> list[dict[str, Any]]:
    deadline = time.monotonic() + wait_s
    async with context.node() as node:
        while not (hops := await _look_up(node, [key])) and time.monotonic() < deadline:
            # What was sent a moment ago is still on its way there.
            await _pause()
        # A deferred message has the id of the deferred list from its time on: each recipient one of its own.
        if later := [hop["detail"] for hop in hops if hop["hop"] == "due"]:
            hops += await _look_up(node, later)
        return sorted(hops, key=lambda hop: (hop["at_us"], _rank(hop["hop"])))


async def _look_up(node: Node, keys: Sequence[str]) -> list[dict[str, Any]]:
    ids = ", ".join(f"'{key}'" for key in keys if _KEY.fullmatch(key))
    query = (
        "SELECT at_us, hop, place, player, node, row, detail FROM hops "
        f"WHERE id IN ({ids}) ORDER BY at_us, seq LIMIT {HOPS}"
    )
    body = {"op": "sql", "query": query, "format": "JSONCompact"}
    try:
        reply = await node.request("stats", body, timeout_s=10.0)
    except NoSuchService as error:
        hint = "hops are kept in ClickHouse: start zmqgame-stats; they wait in the spools until then"
        raise NoSuchService(str(error), hint=hint) from error
    answer = orjson.loads(reply.payload)
    names = [column["name"] for column in answer["meta"]]
    hops = [dict(zip(names, row, strict=True)) for row in answer["data"]]
    for hop in hops:
        hop["at_us"], hop["row"] = int(hop["at_us"]), int(hop["row"])
    return hops


async def _pause() -> None:
    import asyncio

    await asyncio.sleep(0.3)


def _rank(hop: str) -> int:
    """Of hops in the same microsecond, or by clocks that differ by less: as they follow each other."""
    return _ORDER.index(hop) if hop in _ORDER else len(_ORDER)


def lines(hops: list[dict[str, Any]]) -> list[str]:
    """For people: a line a hop; the date where it changes."""
    rows = {hop["player"]: hop["row"] for hop in hops if hop["row"]}
    width = max(len(str(hop["place"])) for hop in hops)
    found, day = [], ""
    for hop in hops:
        when = datetime.fromtimestamp(hop["at_us"] / 1e6, UTC).astimezone()
        if (date := when.strftime("%Y-%m-%d")) != day:
            day = date
            found.append(day)
        text = _text(hop, rows)
        found.append(f"{when.strftime('%H:%M:%S.%f')[:-3]} {hop['place']:<{width}}  {text}")
    return found


def _text(hop: dict[str, Any], rows: dict[str, int]) -> str:
    what, player, node, detail = hop["hop"], hop["player"], hop["node"], hop["detail"]
    why = f": {detail}" if detail else ""
    if what == "accepted":
        return f"accepted from {node} for {player}"
    if what == "stored":
        row = f" (row {rows[player]:,})" if player in rows else ""
        return f"stored for {player}{row}"
    if what == "sent":
        return f"{player} on {node}"
    if what == "due":
        return f"due for {player}: {detail} from now on"
    if what == "handed":
        return f"handed to {player}'s client"
    if what == "client acked":
        return f"{player}'s client acked"
    if what == "acked":
        return f"acked by {node}" if node else f"acked for {player}"
    return f"{what} for {player}{why}"


def _unknown(message: str, numbers: tuple[int, int, int]) -> _Unknown:
    from zmqgame_native import message_hash

    sampled = message_hash(*numbers)[1]
    why = (
        "it should be there: is the sender's name right, is hub.trace on, does stats insert (`check`)?"
        if sampled
        else "hops are kept of operators', stored and traced messages, and of one in 1,024; send with "
        "trace=True, or see what became of all: zmqgame-cli audit delivery"
    )
    return _Unknown(f"no hop of {message} is known", hint=why)
