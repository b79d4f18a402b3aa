"""The hub's log of links that ended. The native loop notes each; a stranger who tries twenty times a second
must not fill a disk with it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from zmqgame_bus.limits import LINK_LOG_HOSTS, LINK_LOG_LINES, LINK_LOG_S

__all__ = ["ORDINARY", "LinkLog", "refused"]

Line = tuple[str, str, str, str]
"""Event, kind, address, text."""

ORDINARY = ("disconnected", "closed_by_hub")
"""Ends of links that say nothing about who was at the other end."""


_CLOSED = "link_closed_"


def refused(counters: Mapping[str, int]) -> dict[str, int]:
    """Connections that were refused or cut, by reason; most of them never said hello."""
    return {
        name.removeprefix(_CLOSED): count
        for name, count in counters.items()
        if name.startswith(_CLOSED) and name.removeprefix(_CLOSED) not in ORDINARY
    }


class LinkLog:
    """Writes LINK_LOG_LINES lines of a kind and host in LINK_LOG_S, then how many there were more.

    Nothing is lost by it: the hub's counters (`link_closed_KIND`) have them all.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}

    def write(self, lines: Iterable[Line], now_s: float) -> None:
        """Log what came since the last call."""
        for key in [key for key, (began, _) in self._windows.items() if now_s - began >= LINK_LOG_S]:
            self._close(key)
        for event, kind, address, text in lines:
            key = kind, address.rpartition(":")[0]
            if key not in self._windows and len(self._windows) >= LINK_LOG_HOSTS:
                self._close(next(iter(self._windows)))
            began, count = self._windows.get(key, (now_s, 0))
            self._windows[key] = began, count + 1
            if count < LINK_LOG_LINES:
                extra = {"kind": kind, "peer": address}
                self._log.log(_level(kind), "link %s: %s", event, text, extra=extra)

    def _close(self, key: tuple[str, str]) -> None:
        kind, host = key
        more = self._windows.pop(key)[1] - LINK_LOG_LINES
        if more > 0:
            extra = {"kind": kind, "peer": host}
            self._log.log(_level(kind), "%d more links from %s ended: %s", more, host, kind, extra=extra)


def _level(kind: str) -> int:
    return logging.INFO if kind in ORDINARY else logging.WARNING
