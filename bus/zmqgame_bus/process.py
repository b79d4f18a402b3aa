"""What every service does around its own work: flags, configuration, logs, the service manager, signals,
exit codes.

::

    async def serve(process: Process) -> None:
        with binding(address, key="hub.listen"):
            ...
        await process.ready("listening", {"hub": address})
        await process.stop.wait()
        ...drain...

    def main() -> int:
        return run("hub", serve)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from zmqgame_bus import logs, systemd
from zmqgame_bus.config import Config, load
from zmqgame_bus.errors import (
    ConfigError,
    Problem,
    Replaced,
    StartError,
    Superseded,
    ZmqgameError,
    explain,
)
from zmqgame_bus.folders import prepare
from zmqgame_bus.limits import DRAIN_S, WATCHDOG_PINGS

__all__ = ["EXIT_DONE", "EXIT_FAILED", "EXIT_REPLACED", "EXIT_START", "EXIT_USAGE", "Main", "Process", "run"]

EXIT_DONE: Final = 0
"""Drained after SIGTERM or SIGINT."""
EXIT_FAILED: Final = 1
"""An error that a restart may cure."""
EXIT_USAGE: Final = 2
"""Wrong flags or configuration: a restart can't cure it."""
EXIT_START: Final = 3
"""The machine is not ready: address in use, folder not writable, disk full."""
EXIT_REPLACED: Final = 4
"""Another process took this one's place: a restart would only fight it."""

_EPILOG = """exit codes:
  0  drained after SIGTERM or SIGINT       3  can't start here: address in use, folder, disk
  1  failed                                4  replaced by another process: don't restart
  2  wrong flags or configuration

configuration: flags go over environment variables (ZMQGAME_TABLE_KEY) over the file.
`zmqgame-cli config docs` lists every key."""


class Process:
    """One running service: its configuration, log, folder and stop signal."""

    def __init__(self, name: str, config: Config, state_dir: Path, *, ready_fd: int | None = None) -> None:
        self.name = name
        self.config = config
        self.state_dir = state_dir
        self.log = logging.getLogger(name)
        self.stop = asyncio.Event()
        """Set by SIGTERM and SIGINT, or by the service itself when it wants to end in order."""
        self._ready_fd = ready_fd
        self._notifier = systemd.Notifier()

    async def ready(self, status: str, addresses: Mapping[str, Any] | None = None) -> None:
        """Tell the service manager and, over ``--ready-fd``, the parent that the service is up and where."""
        self._notifier.ready(status)
        self.log.info("ready: %s", status, extra={"addresses": dict(addresses or {})})
        if self._ready_fd is not None:
            line = json.dumps({"name": self.name, "ready": dict(addresses or {})}) + "\n"
            fd, self._ready_fd = self._ready_fd, None
            with contextlib.suppress(OSError), os.fdopen(fd, "w") as stream:
                stream.write(line)

    def status(self, text: str) -> None:
        """One line on what the service is doing, for `systemctl status`."""
        self._notifier.status(text)

    def request_stop(self) -> None:
        """End in order, as SIGTERM does."""
        if not self.stop.is_set():
            self._notifier.stopping("draining")
            self.log.info("stopping")
            self.stop.set()

    async def _watch(self) -> None:
        """Signs of life, given by the loop itself: a loop that hangs gives none."""
        if self._notifier.watchdog_s is None:
            return
        while True:
            self._notifier.watchdog()
            await asyncio.sleep(self._notifier.watchdog_s / WATCHDOG_PINGS)


Main = Callable[[Process], Awaitable[None]]


def run(name: str, main: Main, argv: Sequence[str] | None = None, *, all_tables: bool = True) -> int:
    """Run a service from its command line to its exit code.

    Without `all_tables`, those that it has not imported are left out where nothing names them.
    """
    try:
        options = _parser(name).parse_args(argv)
    except SystemExit as end:
        return EXIT_DONE if end.code in (0, None) else EXIT_USAGE
    process_name = options.name or name
    logs.set_up(process_name, options.log_level)
    try:
        config = load(options.config, flags=_flags(options.set), others=all_tables)
        state_dir = options.state_dir or systemd.state_dir() or Path("var") / process_name
        prepare(state_dir)
        process = Process(process_name, config, state_dir, ready_fd=options.ready_fd)
        asyncio.run(_supervise(process, main))
    except Exception as error:
        return _failed(process_name, error)
    return EXIT_DONE


async def _supervise(process: Process, main: Main) -> None:
    """Run ``main`` until it returns; after a stop signal it has DRAIN_S, a second signal ends it at once."""
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(main(process))  # it begins with the first await below, after the signals
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, process, work)
    if process._notifier.managed:  # `systemctl reload` ends nobody who has nothing to read again
        loop.add_signal_handler(signal.SIGHUP, process.log.info, "nothing to read again")
    watch = asyncio.create_task(process._watch())
    stopped = asyncio.create_task(process.stop.wait())
    try:
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        process.request_stop()
        began = time.monotonic()
        _, pending = await asyncio.wait({work}, timeout=DRAIN_S)
        if pending:
            work.cancel()
            await asyncio.wait({work})
            raise ZmqgameError(f"not drained after {DRAIN_S:.0f} s: ended anyway")
        await work
        process.log.info("stopped", extra={"drain_ms": round((time.monotonic() - began) * 1000)})
    except asyncio.CancelledError:
        raise ZmqgameError("ended at once by a second signal") from None
    finally:
        watch.cancel()
        stopped.cancel()
        process._notifier.close()


def _on_signal(process: Process, work: asyncio.Future[None]) -> None:
    if process.stop.is_set():
        work.cancel()
    process.request_stop()


def _failed(name: str, error: Exception) -> int:
    """Say what ended the process and give its exit code."""
    ours: Exception = error
    if isinstance(error, OSError):
        ours = explain(error, str(error.filename)) or error if error.filename else error
    if isinstance(ours, ZmqgameError):
        print(ours.report(), file=sys.stderr, flush=True)
        kinds: tuple[tuple[type[ZmqgameError], int], ...] = (
            (ConfigError, EXIT_USAGE),
            (StartError, EXIT_START),
            (Replaced, EXIT_REPLACED),
            (Superseded, EXIT_REPLACED),
        )
        return next((code for kind, code in kinds if isinstance(ours, kind)), EXIT_FAILED)
    logging.getLogger(name).critical("failed: %s", error, exc_info=error)
    return EXIT_FAILED


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"zmqgame-{name}",
        description=f"The {name} service of zmqgame.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    default_config = os.environ.get("ZMQGAME_CONFIG")
    parser.add_argument(
        "--config", metavar="FILE", type=Path, default=default_config, help="configuration (TOML)"
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", type=Path, help=f"where data is kept (default var/{name})"
    )
    parser.add_argument(
        "--set", metavar="TABLE.KEY=VALUE", action="append", default=[], help="set a key; repeatable"
    )
    parser.add_argument(
        "--name", metavar="NAME", default="", help=f"the node's name on the bus (default {name})"
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument(
        "--ready-fd", metavar="N", type=int, help="write one JSON line to this descriptor when ready"
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    return parser


class _Version(argparse.Action):
    """Look the version up when it is asked for: the machinery takes longer to import than the hub."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        from importlib.metadata import version

        print(f"{parser.prog} {version('zmqgame-bus')}")
        parser.exit()


def _flags(items: Sequence[str]) -> dict[str, str]:
    flags: dict[str, str] = {}
    for item in items:
        path, equals, value = item.partition("=")
        if not equals:
            raise ConfigError([Problem(f"--set {item}", "", "write TABLE.KEY=VALUE")])
        flags[path] = value
    return flags
