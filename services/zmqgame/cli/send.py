"""`send`: an operator's message, and the truth about where it went."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click
import orjson

from zmqgame.cli.context import (
    DONE,
    EXIT_CODES,
    FAILED,
    UNKNOWN,
    Context,
    finish,
    json_option,
    print_json,
    run,
)
from zmqgame.cli.times import Duration, Moment

if TYPE_CHECKING:
    from zmqgame_bus.messages import Receipt, Report

GOOD = ("delivered", "stored", "sent")
SHOWN = 5
_MEANS = {"stored": "offline, delivered at next login", "unknown": "no receipt in time; repeat with --id"}
SECONDS = click.FloatRange(0.01, 3600)

EPILOG = f"""\b
Examples:
  zmqgame-cli send --player alice '{{"gift": 100}}'       JSON, if it is JSON
  zmqgame-cli send --group team-7 'raid at nine'         text, if it is not
  echo 'maintenance in 5 min' | zmqgame-cli send --all   from stdin
  zmqgame-cli send --service manager '{{"op": "status"}}'  prints the reply
  zmqgame-cli send --id cli-lima-1/18/1 --player alice 'x'   the same message again, safely
  zmqgame-cli send --player alice --at 2h 'happy hour'   delivered in two hours (or 2027-01-01T20:00)
  zmqgame-cli send --group team-7 --ttl 10m 'raid now'   not delivered any more after ten minutes
  zmqgame-cli send --all --policy droppable 'hello'      only to who is online and can take it now

{EXIT_CODES}"""


@click.command(epilog=EPILOG)
@click.argument("payload", required=False)
@click.option("--player", metavar="NAME", help="To one player; offline: stored until the next login.")
@click.option("--group", metavar="NAME", help="To each member of a group.")
@click.option("--all", "everybody", is_flag=True, help="To every player who is online.")
@click.option("--service", metavar="NAME", help="A request to a service; prints the reply.")
@click.option(
    "--timeout",
    "timeout_s",
    type=SECONDS,
    default=10.0,
    show_default=True,
    metavar="S",
    help="How long to wait for receipts or the reply.",
)
@click.option("--id", "message_id", metavar="ID", help="Repeat the message with this id, safely.")
@click.option(
    "--ttl", "ttl_s", type=Duration(), help="Not delivered after this long (30s, 10m, 2h, 1d): `expired`."
)
@click.option(
    "--at",
    "deliver_at",
    type=Moment(time.time),
    help="Deliver later, to --player: in 30s, 10m, 2h, 1d; or a date and time.",
)
@click.option(
    "--policy",
    type=click.Choice(["must-deliver", "latest", "droppable"]),
    default="must-deliver",
    show_default=True,
    help="latest: the newest of a key, when the player is there; droppable: now or not at all.",
)
@click.option(
    "--key", default="", metavar="KEY", help="With --policy latest: newer messages of a key replace older."
)
@click.option("--text", "as_text", is_flag=True, help="Send the payload as text, even if it is JSON.")
@json_option
@click.pass_obj
def send(
    context: Context,
    payload: str | None,
    player: str | None,
    group: str | None,
    everybody: bool,
    service: str | None,
    timeout_s: float,
    message_id: str | None,
    ttl_s: float | None,
    deliver_at: float | None,
    policy: str,
    key: str,
    as_text: bool,
    as_json: bool,
) -> None:
    """Send PAYLOAD (text or JSON; from stdin if it is not given) and wait for receipts.

    `stored` counts as done: the mailbox has it on disk and delivers it at the next login.
    """
    targets = [name for name in (player, group, service) if name] + (["all"] if everybody else [])
    if len(targets) != 1:
        raise click.UsageError("give exactly one of --player, --group, --all, --service")
    if message_id and service:
        raise click.UsageError("--id is for messages; a request is carried out at most once")
    if service and (ttl_s or deliver_at or policy != "must-deliver"):
        raise click.UsageError("--ttl, --at and --policy are for messages; a request has --timeout")
    if deliver_at and not player:
        raise click.UsageError("--at is for --player")
    if key and policy != "latest":
        raise click.UsageError("--key goes with --policy latest")
    if message_id and policy != "must-deliver":
        raise click.UsageError("--id is for must-deliver messages: others are never sent again")
    options: dict[str, Any] = {"policy": policy, "key": key, "ttl_s": ttl_s}
    if deliver_at:
        options["deliver_at"] = deliver_at
    body = _payload(payload, as_text)
    try:
        if service:
            code = run(_request(context, service, body, timeout_s, as_json))
        else:
            code = run(_message(context, player, group, body, timeout_s, message_id, as_json, options))
    except ValueError as error:  # a name or a payload over a limit: nothing was sent
        raise click.UsageError(str(error)) from error
    finish(code)


def _payload(text: str | None, as_text: bool) -> Any:
    if text is None:
        if sys.stdin.isatty():
            raise click.UsageError("no payload: give it as an argument or on stdin")
        data = sys.stdin.buffer.read()
        try:
            text = data.decode().removesuffix("\n")
        except UnicodeDecodeError:
            return data
    if as_text:
        return text
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return value if isinstance(value, dict | list) else text


async def _request(context: Context, service: str, body: Any, timeout_s: float, as_json: bool) -> int:
    async with context.node() as node:
        reply = await node.request(service, body, timeout_s=timeout_s)
    if as_json:
        print_json({"service": service, "reply": _readable(reply.payload)})
    else:
        sys.stdout.write(_text(reply.payload) + "\n")
    return DONE


async def _message(
    context: Context,
    player: str | None,
    group: str | None,
    body: Any,
    timeout_s: float,
    message_id: str | None,
    as_json: bool,
    options: dict[str, Any],
) -> int:
    from zmqgame_bus.messages import MessageId

    try:
        again = MessageId.parse(message_id) if message_id else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--id") from error
    async with context.node(repeat=again) as node:
        options = {**options, "timeout_s": timeout_s, "message_id": again, "trace": True}
        if player:
            later = "deliver_at" in options
            return _show_receipt(player, await node.unicast(player, body, **options), as_json, later)
        if group:
            report = await node.multicast(group, body, **options)
        else:
            report = await node.broadcast(body, **options)
        return _show_report(report, as_json)


def _show_receipt(player: str, receipt: Receipt, as_json: bool, later: bool) -> int:
    if as_json:
        shown = {"player": player, "outcome": receipt.outcome, "detail": receipt.detail}
        print_json({**shown, "latency_ms": receipt.latency_ms, "id": str(receipt.id)})
    else:
        kept = later and receipt.outcome == "stored"
        detail = receipt.detail or ("kept until its time" if kept else _MEANS.get(receipt.outcome, ""))
        parts = [
            f"{receipt.outcome:<10} {player}",
            detail,
            f"{receipt.latency_ms:.1f} ms",
            f"id {receipt.id}",
        ]
        print("   ".join(part for part in parts if part))
    return DONE if receipt.outcome in GOOD else UNKNOWN if receipt.outcome == "unknown" else FAILED


def _show_report(report: Report, as_json: bool) -> int:
    counts = {name: count for name, count in report.counts.items() if count}
    bad = {player: result for player, result in report.recipients.items() if result[0] not in GOOD}
    if as_json:
        shown = [{"player": player, "outcome": how, "detail": why} for player, (how, why) in bad.items()]
        head = {"outcome": report.outcome, "detail": report.detail, "counts": counts, "id": str(report.id)}
        print_json({**head, "latency_ms": report.latency_ms, "not_done": shown, "omitted": report.omitted})
    else:
        text = "   ".join(f"{name} {count}" for name, count in counts.items())
        if report.outcome != "done":
            text = "   ".join(part for part in (report.outcome, report.detail, text) if part)
        why = "; ".join(f"{player}: {why or how}" for player, (how, why) in list(bad.items())[:SHOWN])
        tail = f"{report.latency_ms:.1f} ms   id {report.id}"
        print(f"{text or 'nobody there'}{f' ({why})' if why else ''}   {tail}")
    if report.outcome == "unknown" or counts.get("unknown"):
        return UNKNOWN
    return DONE if report.outcome == "done" and all(name in GOOD for name in counts) else FAILED


def _readable(data: bytes) -> object:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return data.decode(errors="replace")


def _text(data: bytes) -> str:
    try:
        return orjson.dumps(orjson.loads(data), option=orjson.OPT_INDENT_2).decode()
    except orjson.JSONDecodeError:
        return data.decode(errors="replace")
