"""`mailbox`: what waits for players; move it to another store."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import click
import orjson
from zmqgame_bus.errors import AlreadyRunning, StoreUnavailable
from zmqgame_bus.mailbox import Mailbox, open_configured, shown_url
from zmqgame_bus.moving import read_lines, take_in, write_lines

from zmqgame.cli.context import (
    EXIT_CODES,
    Context,
    json_option,
    print_json,
    print_records,
    run,
)

EPILOG = f"""\b
Examples:
  zmqgame-cli mailbox list                                   who has messages waiting
  zmqgame-cli mailbox show alice --payload                   what alice will get, oldest first
  zmqgame-cli mailbox purge alice --up-to 41                 away with rows up to 41; asks first
  zmqgame-cli mailbox export --url sqlite:mailbox.db all.jsonl
  zmqgame-cli mailbox import --url mongodb://db1/zmqgame?replicaSet=rs0 all.jsonl

list, show and purge ask the running hub. With --url they open a store that no hub has; export and
import always do. The password of a database comes from mailbox.password_file, or from the URL.

{EXIT_CODES}"""

PROGRESS_S: Final = 0.2
ASK_S: Final = 30.0
"""How long the hub may take to answer: its store may have a batch under way."""


def url_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--url`, and `--force` for a database whose hub was killed."""
    force = click.option(
        "--force", is_flag=True, help="No hub runs, although the database says so: it was killed."
    )
    text = "The store itself: sqlite:PATH or mongodb://HOST/DATABASE. No hub may run on it."
    return click.option("--url", metavar="URL", help=text)(force(function))


@click.group(epilog=EPILOG)
def mailbox() -> None:
    """Look into the mailbox, clear it, move it to another store."""


@mailbox.command("list", epilog=EPILOG, short_help="Players with messages waiting: how many, and how large.")
@click.option("--from", "first", metavar="PLAYER", default="", help="Begin at this name.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@url_option
@json_option
@click.pass_obj
def list_(context: Context, first: str, limit: int, url: str | None, force: bool, as_json: bool) -> None:
    """Players with messages waiting: how many, how many bytes, how many for later, and the oldest row."""
    found = _ask(context, {"op": "list", "from": first, "limit": limit}, url, force)
    if as_json:
        print_json(found)
    elif found:
        print_records(found)
    else:
        print("no messages wait", file=sys.stderr)


@mailbox.command(epilog=EPILOG)
@click.argument("player")
@click.option("--after", type=click.IntRange(0), default=0, metavar="ROW", help="Rows behind this one.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True)
@click.option("--payload", is_flag=True, help="Show what the messages say.")
@url_option
@json_option
@click.pass_obj
def show(
    context: Context,
    player: str,
    after: int,
    limit: int,
    payload: bool,
    url: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """The messages that wait for PLAYER, oldest first."""
    question = {"op": "show", "player": player, "after": after, "limit": limit, "payload": payload}
    found = _ask(context, question, url, force)
    for row in found:
        row["payload"] = _readable(row["payload"])
        row["node_key"] = f"{row['node_key']:016x}"
        row["deadline"] = _moment(row.pop("deadline_ms"))
    if as_json:
        print_json(found)
    elif found:
        hidden = {"content"} if payload else {"content", "payload"}
        print_records([{name: row[name] for name in row if name not in hidden} for row in found])
    else:
        print(f"no messages wait for {player}", file=sys.stderr)


@mailbox.command(epilog=EPILOG, short_help="Delete messages of PLAYER for good.")
@click.argument("player")
@click.option("--up-to", type=click.IntRange(1), metavar="ROW", help="The last row to go; else all.")
@click.option("--deferred", is_flag=True, help="Messages for later as well.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@url_option
@json_option
@click.pass_obj
def purge(
    context: Context,
    player: str,
    up_to: int | None,
    deferred: bool,
    yes: bool,
    url: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Delete messages of PLAYER for good, though their senders were told `stored`. The hub's log keeps it."""
    if not yes:
        which = f"up to row {up_to}" if up_to else "all"
        click.confirm(f"delete the messages of {player} ({which})? They are lost", abort=True, err=True)
    question = {"op": "purge", "player": player, "deferred": deferred}
    done = _ask(context, {**question, "up_to": up_to} if up_to else question, url, force)
    if as_json:
        print_json(done)
    else:
        later = f", {done['deferred']} for later" if deferred else ""
        print(f"purged {done['purged']} messages of {player}{later}")


@mailbox.command("export", epilog=EPILOG, short_help="Write all of a store to FILE as lines of JSON.")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@url_option
@click.pass_obj
def export(context: Context, file: Path, url: str | None, force: bool) -> None:
    """Write all of a store to FILE (- for stdout) as lines of JSON: messages, marks, groups, nodes."""
    if not _exists(_needed(url)):
        raise StoreUnavailable(f"there is no mailbox {url}")
    with _opened(context, _needed(url), force) as store, _progress("exported") as count:
        if str(file) == "-":
            write_lines(store.export(), sys.stdout.buffer, count)
            return
        part = file.with_name(file.name + ".part")
        with part.open("wb") as out:
            write_lines(store.export(), out, count)
        part.replace(file)


@mailbox.command("import", epilog=EPILOG)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@url_option
@click.pass_obj
def import_(context: Context, file: Path, url: str | None, force: bool) -> None:
    """Take FILE into a store. What is there already is not taken twice: repeat it after an interruption."""
    with file.open("rb") as source:
        for _ in read_lines(source):  # a broken file is refused before anything is taken
            pass
        source.seek(0)
        with _opened(context, _needed(url), force) as store, _progress("imported") as count:
            take_in(store, read_lines(source), count)


def _needed(url: str | None) -> str:
    if url is None:
        raise click.UsageError("which store? --url sqlite:PATH or mongodb://HOST/DATABASE")
    return url


def _ask(context: Context, question: dict[str, Any], url: str | None, force: bool) -> Any:
    """Ask the hub, or with a URL the store itself."""
    text = orjson.dumps(question).decode()
    if url is None:
        answer = run(_ask_hub(context, text))
    else:
        if not _exists(url):
            raise StoreUnavailable(f"there is no mailbox {url}")
        with _opened(context, url, force) as store:
            if question["op"] == "purge":  # a hub that has it after all must end
                store.run([("open", store.highest_epoch() + 1, time.time_ns() // 1_000_000)])
            answer = orjson.loads(store.ask(text))
    if isinstance(answer, dict) and "error" in answer:
        raise StoreUnavailable(str(answer["error"]))
    return answer


async def _ask_hub(context: Context, text: str) -> Any:
    async with context.node() as node:
        return await node.query("mailbox", text, timeout_s=ASK_S)


@contextmanager
def _opened(context: Context, url: str, force: bool) -> Iterator[Mailbox]:
    """A store that no hub has."""
    with closing(open_configured(context.config, Path(), url=url)) as store:
        holder = store.holder()
        if holder and not force:
            raise AlreadyRunning(
                f"mailbox {shown_url(url)} is held by the hub of epoch {holder}",
                hint="stop it first; if it was killed and no hub runs: --force",
            )
        yield store


def _exists(url: str) -> bool:
    """Whether there is something to look into; a database is asked later."""
    return not url.startswith("sqlite:") or Path(url.removeprefix("sqlite:")).exists()


@contextmanager
def _progress(word: str) -> Iterator[Callable[[int], None]]:
    """A counter on a terminal, and a line at the end."""
    shown, started, last = sys.stderr.isatty(), time.monotonic(), 0.0
    done = 0

    def count(number: int) -> None:
        nonlocal done, last
        done = number
        if shown and time.monotonic() - last > PROGRESS_S:
            last = time.monotonic()
            sys.stderr.write(f"\r{word} {number:,} entries")
            sys.stderr.flush()

    yield count
    clear = "\r\x1b[K" if shown else ""
    sys.stderr.write(f"{clear}{word} {done:,} entries in {time.monotonic() - started:.1f} s\n")


def _readable(payload: str | None) -> str | None:
    """Text where it is some, else hexadecimal."""
    if payload is None:
        return None
    try:
        return bytes.fromhex(payload).decode()
    except UnicodeDecodeError:
        return payload


def _moment(unix_ms: int) -> str:
    if not unix_ms:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_ms / 1_000))
