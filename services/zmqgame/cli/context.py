"""What all commands share: configuration, a node on the bus, exit codes, output."""

from __future__ import annotations

import asyncio
import csv
import logging
import sys
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import orjson
from zmqgame_bus.config import Config, load
from zmqgame_bus.errors import (
    CannotReachHub,
    ConfigError,
    DeadlineExceeded,
    KeyFileError,
    NoSuchService,
    Problem,
    RequestUnknown,
    ZmqgameError,
)
from zmqgame_bus.keys import Keyring
from zmqgame_bus.tables import BusConfig

from zmqgame.cli.names import borrowed_name

if TYPE_CHECKING:  # the node brings pyzmq and the native module, which `--help` does not need
    from zmqgame_bus.messages import MessageId
    from zmqgame_bus.node import Node

T = TypeVar("T")

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
UNKNOWN: Final = 4

EXIT_CODES = """\b
Exit codes:
  0  done: delivered, stored, answered, or the check passed
  1  not delivered, or a check failed
  2  wrong usage or configuration
  3  can't reach the hub or the service
  4  unknown: no receipt in time; send again with the same --id"""

REACH_S: Final = 5.0
"""How long a command tries to reach the hub: two heartbeats and a restart of the hub fit in."""


class Context:
    """The options before the command, and what follows from them."""

    def __init__(self, file: Path | None, hub: str | None, settings: Sequence[str]) -> None:
        self.file = file
        self._hub = hub
        self._settings = settings

    @cached_property
    def flags(self) -> dict[str, str]:
        """What --set and --hub say."""
        flags: dict[str, str] = {}
        for item in self._settings:
            path, equals, value = item.partition("=")
            if not equals:
                raise ConfigError([Problem(f"--set {item}", "", "write TABLE.KEY=VALUE")])
            flags[path] = value
        if self._hub:
            flags["bus.hub"] = self._hub
        return flags

    @cached_property
    def config(self) -> Config:
        """The configuration, checked."""
        return load(self.file, flags=self.flags)

    def chosen(self) -> dict[str, dict[str, object]]:
        """What the file and --set say, by table: for services that this command starts.

        They have a configuration file elsewhere, so the names of key files become whole paths.
        """
        tables: dict[str, dict[str, object]] = {}
        keyring = Keyring(self.config)
        for setting in self.config.settings.values():
            if setting.source == "default" or setting.source.startswith("environment "):
                continue
            value = setting.value
            if setting.key.table == "security" and setting.key.unit == "file":
                value = str(keyring.locate(value).resolve())
            tables.setdefault(setting.key.table, {})[setting.key.name] = value
        return tables

    def refuse_flags(self, paths: Collection[str], because: str) -> None:
        """Wrong usage, if --set or --hub names what the command settles itself."""
        for path in self.flags:
            if path in paths:
                what = "--hub" if path == "bus.hub" and self._hub else f"--set {path}"
                raise click.UsageError(f"{what}: {because}")

    @asynccontextmanager
    async def node(self, *, repeat: MessageId | None = None, transport: str = "pyzmq") -> AsyncIterator[Node]:
        """A node on the bus with a name of its own for as long as the command runs.

        ``repeat``: the node that sent this message once, so that it can be sent again.
        """
        from zmqgame_bus.node import Node

        hub = self.config.table(BusConfig).hub
        keys = Keyring(self.config).node()
        with borrowed_name(repeat.name if repeat else None) as (name, state_dir):
            node = Node(
                name, hub, roles=["cli"], state_dir=state_dir, keys=keys, repeat=repeat, transport=transport
            )
            try:
                await node.start(REACH_S)
                yield node
            except CannotReachHub as error:
                hint = "is it running? `zmqgame-cli up` starts everything; --hub ENDPOINT names another"
                raise CannotReachHub(str(error), hint=hint) from error
            finally:
                await node.close()


def exit_code(error: ZmqgameError) -> int:
    """The exit code that stands for an error."""
    kinds: tuple[tuple[type[ZmqgameError], int], ...] = (
        (ConfigError, USAGE),
        (KeyFileError, USAGE),
        (CannotReachHub, UNREACHABLE),
        (NoSuchService, UNREACHABLE),
        (RequestUnknown, UNKNOWN),
        (DeadlineExceeded, UNKNOWN),
    )
    return next((code for kind, code in kinds if isinstance(error, kind)), FAILED)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine. What its node logs is no output of the command."""
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        return asyncio.run(work)
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What the first of several tasks said: the others were ended because of it."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def finish(code: int) -> None:
    """End the command with an exit code."""
    if code:
        raise click.exceptions.Exit(code)


def print_json(value: object) -> None:
    """One JSON document on one line."""
    sys.stdout.write(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode() + "\n")
    sys.stdout.flush()


def print_csv(rows: Sequence[Mapping[str, object]]) -> None:
    """Rows with the same keys, and a head."""
    writer = csv.writer(sys.stdout)
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)


def print_table(rows: Iterable[Sequence[object]], header: Sequence[str]) -> None:
    """Columns for people on a terminal; tab-separated lines without decoration for programs."""
    if not sys.stdout.isatty():
        print("\t".join(header))
        for row in rows:
            print("\t".join(_cell(value) for value in row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = list(zip(*(list(row) for row in rows), strict=True)) or [() for _ in header]
    for name, values in zip(header, columns, strict=True):
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        table.add_column(name, overflow="fold", justify="right" if numbers else "left")
    shown = [_column(values) for values in columns]
    for row in zip(*shown, strict=True):
        table.add_row(*row)
    Console().print(table)


def print_records(rows: Sequence[Mapping[str, object]]) -> None:
    """A table of dictionaries; the first one names the columns. Nothing, if there is none."""
    if not rows:
        return
    header = list(rows[0])
    print_table(([row.get(name, "") for name in header] for row in rows), header)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`, the same for every command that prints."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


async def request(node: Node, service: str, body: dict[str, Any], timeout_s: float = 10.0) -> Any:
    """Ask a service and read its JSON answer."""
    return (await node.request(service, body, timeout_s=timeout_s)).json()


def _column(values: Sequence[object]) -> list[str]:
    """The cells of a column; its numbers have as many decimals as the one that needs most."""
    floats = [value for value in values if isinstance(value, float)]
    decimals = max((len(_cell(value).partition(".")[2]) for value in floats), default=0)
    return [
        f"{value:.{decimals}f}" if decimals and isinstance(value, int | float) else _cell(value)
        for value in values
    ]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").removesuffix(".")
    if isinstance(value, list | tuple):
        return ",".join(_cell(item) for item in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value).replace("\t", " ").replace("\n", " ")
