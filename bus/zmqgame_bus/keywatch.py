"""Key files of a running server: read again when they change, or at SIGHUP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zmqgame_bus.errors import KeyFileError
from zmqgame_bus.keys import Keyring
from zmqgame_bus.limits import KEY_WATCH_S

__all__ = ["KeyWatch", "hub_keys"]

NOBODY = (bytes(32), "", [""])
"""An entry that no key can prove: to the hub an empty list means that everybody may connect."""


def hub_keys(keyring: Keyring, name: str) -> dict[str, Any]:
    """The keys as the native hub takes them; its own may be a node of its name, for its events."""
    pair, *previous = keyring.pairs()
    allowed = [(each.public, each.pattern, list(each.roles)) for each in keyring.allowed()]
    own = [(each.public, name, [f"spool:{name}"]) for each in keyring.pairs()]
    return {
        "curve_secret_key": pair.secret,
        "previous_secret_key": previous[0].secret if previous else None,
        "allowed": [*(allowed or [NOBODY]), *own],
    }


class KeyWatch:
    """Calls ``take`` after each change of the files. What can't be read changes nothing and is logged."""

    def __init__(self, paths: Sequence[Path], take: Callable[[], None], log: logging.Logger) -> None:
        self._paths, self._take, self._log = paths, take, log
        self._seen = self._look()

    async def run(self) -> None:
        """Watch until cancelled."""
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, told.set)
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(told.wait(), KEY_WATCH_S)
                seen = self._look()
                if told.is_set() or seen != self._seen:
                    told.clear()
                    self._seen = seen
                    self._read()
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    def _read(self) -> None:
        try:
            self._take()
        except KeyFileError as error:
            self._log.error("the keys stay as they were: %s", error)
        else:
            self._log.info("keys read again from %s", ", ".join(map(str, self._paths)))

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_signature(path) for path in self._paths]


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
