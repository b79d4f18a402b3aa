"""Presence as a stream that stays true over a pause of the hub.

A snapshot comes in parts with a flag and ends with an empty one (PROTOCOL.md section 5). What a new snapshot
does not name any more has gone meanwhile: its readers are told so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from zmqgame_native import NodeCore

from zmqgame_bus.carrier import Carrier
from zmqgame_bus.errors import BusError
from zmqgame_bus.limits import PRESENCE_EVENTS
from zmqgame_bus.messages import PRESENCE, PresenceEvent

__all__ = ["PresenceReader", "PresenceReaders"]

_SUBSCRIBE = 1

_COMES = {"node_up": "node_down", "login": "logout"}


class PresenceReader:
    """One reader: what it knows, what waits for it."""

    def __init__(self) -> None:
        self.events: deque[PresenceEvent] = deque()
        self.filled = asyncio.Event()
        self._there: dict[tuple[str, str], str] = {}
        self._snapshot: set[tuple[str, str]] | None = None

    def put(self, snapshot: bool, entries: list[tuple[int, str, str]]) -> bool:
        """Take a message of the hub. False: too many wait, a new snapshot has to be asked for."""
        if snapshot and self._snapshot is None:
            self._snapshot = set()
        for number, name, node in entries:
            self._note(PresenceEvent(PRESENCE[number], name, node, snapshot))
        if snapshot and not entries:
            self._end_snapshot()
        self.filled.set()
        if len(self.events) <= PRESENCE_EVENTS:
            return True
        self.events.clear()
        self._there.clear()
        self._snapshot = None
        return False

    def _note(self, event: PresenceEvent) -> None:
        comes = event.kind in _COMES
        key = (event.kind if comes else {"node_down": "node_up", "logout": "login"}[event.kind], event.name)
        if comes:
            self._there[key] = event.node
            if self._snapshot is not None:
                self._snapshot.add(key)
        else:
            self._there.pop(key, None)
            if self._snapshot is not None:
                self._snapshot.discard(key)
        self.events.append(event)

    def _end_snapshot(self) -> None:
        named, self._snapshot = self._snapshot or set(), None
        for kind, name in [key for key in self._there if key not in named]:
            node = self._there.pop((kind, name))
            self.events.append(PresenceEvent(_COMES[kind], name, node, True))


class PresenceReaders:
    """All readers of one node."""

    def __init__(self) -> None:
        self._readers: list[PresenceReader] = []
        self._error: BusError | None = None
        self.events: dict[str, Callable[..., None]] = {"presence": self._presence}

    def start(self, core: NodeCore, carrier: Carrier) -> None:
        """Ask by this core from now on."""
        self._core, self._carrier = core, carrier

    async def stream(self) -> AsyncIterator[PresenceEvent]:
        """A snapshot, then changes; for one more reader."""
        reader = PresenceReader()
        self._readers.append(reader)
        self._subscribe()
        try:
            while True:
                while not reader.events:
                    if self._error is not None:
                        raise self._error
                    reader.filled.clear()
                    await reader.filled.wait()
                yield reader.events.popleft()
        finally:
            self._readers.remove(reader)

    def _subscribe(self) -> None:
        self._core.subscribe(_SUBSCRIBE)
        self._carrier.flush_soon()

    def _presence(self, snapshot: bool, entries: list[tuple[int, str, str]]) -> None:
        slow = [reader for reader in self._readers if not reader.put(snapshot, entries)]
        if slow:
            self._subscribe()

    def fail(self, error: BusError) -> None:
        """End all readers: the node is closed or refused."""
        self._error = error
        for reader in self._readers:
            reader.filled.set()
