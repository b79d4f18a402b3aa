"""What carries a node's frames between its state machine and the hub, in turns of the event loop.

One turn: what arrived goes in, one batch of events comes out, what waits goes out in as few frames as
possible. `PyzmqCarrier` has a pyzmq DEALER; `NativeCarrier` has the native module's own socket, watched by
this loop (`native`) or by a thread of its own (`native-thread`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final

import zmq
from zmqgame_native import NodeCore

from zmqgame_bus.keys import NodeKeys
from zmqgame_bus.limits import LINK_CLOSE_MS
from zmqgame_bus.link import Link

__all__ = ["TRANSPORTS", "Carrier", "NativeCarrier", "PyzmqCarrier", "now_ms"]

_LOG = logging.getLogger(__name__)

TRANSPORTS: Final = ("pyzmq", "native", "native-thread")

Events = Mapping[str, Callable[..., None]]


def now_ms() -> int:
    """The clock of all nodes of this process."""
    return time.monotonic_ns() // 1_000_000


class Carrier(ABC):
    """Turns of one node: events in, frames out, timers."""

    def __init__(self, core: NodeCore, handlers: Events) -> None:
        """`handlers`: what to do with each event of the core, by its name."""
        self.core = core
        self.key_trouble = ""
        """What is wrong with the keys, if the last handshake failed for that."""
        self._handlers = dict(handlers)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._end_of_turn: asyncio.Handle | None = None
        self._rest: asyncio.Handle | None = None
        self._more = False
        self._turning = False
        self._ended = False

    @abstractmethod
    def start(self) -> None:
        """Let the core connect."""

    @abstractmethod
    def _write(self) -> int | None:
        """Write what waits, as far as the socket takes it; when the core wants to be called again."""

    @abstractmethod
    def _on_timer(self) -> None:
        """The core wants to be called."""

    @abstractmethod
    def _close(self, linger: bool) -> None:
        """Close the socket."""

    def flush(self) -> None:
        """Write what waits now."""
        if self._ended:
            return
        self._more = False
        due_ms = self._write()
        if due_ms is not None and (self._timer is None or due_ms < self._timer_ms):
            self._arm(due_ms)
        if self._rest is None and self.core.has_events:
            self._rest = self._loop.call_soon(self._take_rest)

    def _take_rest(self) -> None:
        """What calls and writes have to say by themselves: nothing arrives that would bring it along."""
        self._rest = None
        if not self._ended:
            self.take(self.core.events())

    def flush_soon(self) -> None:
        """Write what waits: now for the first call of a turn of the loop, for others at its end."""
        if self._turning or self._ended:
            return
        if self._end_of_turn is not None:
            self._more = True
            return
        self._end_of_turn = self._loop.call_soon(self._turn_ends)
        self.flush()

    def _turn_ends(self) -> None:
        self._end_of_turn = None
        if self._more:
            self.flush()

    def _arm(self, due_ms: int) -> None:
        """Wake up when the core says so; an early timer is cheaper than a new one each turn."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ms = due_ms
        when = self._loop.time() + max(0, due_ms - now_ms()) / 1000
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if not self._ended:
            self._on_timer()

    def take(self, events: list[tuple[Any, ...]]) -> None:
        """Hand events to those who wait for them; then what they said goes out."""
        self._turning = True
        handlers = self._handlers
        try:
            for event in events:
                try:
                    handlers[event[0]](*event[1:])
                except Exception:
                    _LOG.exception("the handler of a %r failed", event[0])
        finally:
            self._turning = False
        self.flush()

    async def drain(self) -> None:
        """Wait a short time until what was sent is on its way."""
        deadline = self._loop.time() + LINK_CLOSE_MS / 1000
        self.flush()
        while not self.core.flushed and self._loop.time() < deadline:
            await asyncio.sleep(0.002)
            self.flush()

    def end(self, *, linger: bool = False) -> list[tuple[Any, ...]]:
        """Close for good; the last events."""
        if self._ended:
            return []
        self._ended = True
        for handle in (self._timer, self._end_of_turn, self._rest):
            if handle is not None:
                handle.cancel()
        self._close(linger)
        self.core.end()
        return self.core.events()


class PyzmqCarrier(Carrier):
    """Frames go through a pyzmq DEALER: a fresh one for each connection."""

    def __init__(self, core: NodeCore, handlers: Events, hub: str, keys: NodeKeys | None) -> None:
        """Connect to `hub` when the core says so."""
        super().__init__(core, {**handlers, "connect": self._connect, "close": self._drop})
        self._hub, self._keys = hub, keys
        self._key_failures = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._link: Link | None = None
        self._unwritten: bytes | None = None

    def start(self) -> None:
        """Let the core connect."""
        self._on_timer()

    def _on_timer(self) -> None:
        if self._link is not None:
            self._link.read()  # a loop that was late must not take waiting bytes for silence
        if not self._ended:
            self.core.timeout(now_ms(), random.getrandbits(64))
            self.take(self.core.events())

    def _on_frames(self, frames: list[bytes]) -> None:
        if not self._ended:
            self.core.receive(now_ms(), random.getrandbits(64), frames)
            self.take(self.core.events())

    def _on_end(self, why: str) -> None:
        self.key_trouble = self._link.key_trouble if self._link is not None else ""
        self._key_failures += bool(self.key_trouble)
        if not self._ended:
            self.core.disconnected(now_ms(), random.getrandbits(64), why)
            self.take(self.core.events())

    def _connect(self) -> None:
        self._drop("")
        try:
            self._link = Link(
                self._context,
                self._hub,
                self._keys.attempt(self._key_failures) if self._keys is not None else None,
                on_frames=self._on_frames,
                on_writable=self.flush,
                on_end=self._on_end,
            )
        except zmq.ZMQError as error:
            self._loop.call_soon(self._on_end, f"{self._hub}: {error.strerror}")

    def _drop(self, _why: str) -> None:
        self._unwritten = None
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _write(self) -> int | None:
        core, link = self.core, self._link
        now = now_ms()
        while link is not None and not link.closed:
            frame = self._unwritten or core.frame(now)
            self._unwritten = None
            if frame is None:
                break
            if not link.send(frame):
                self._unwritten = frame
                break
        return core.next_timeout()

    async def drain(self) -> None:
        """Nothing to wait for: libzmq goes on writing while the socket closes."""
        self.flush()

    def _close(self, linger: bool) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close(linger=linger)


class NativeCarrier(Carrier):
    """The core has its own socket; this loop, or a thread, watches it."""

    def __init__(self, core: NodeCore, handlers: Events, keys: NodeKeys | None) -> None:
        """Watch the core's descriptor from `start` on."""
        super().__init__(core, {**handlers, "down": self._down})
        self._keys = keys
        self._key_failures = 0
        self._told_down = handlers["down"]
        self._fd = core.fileno()

    def start(self) -> None:
        """Let the core connect."""
        self._loop.add_reader(self._fd, self._on_timer)
        self._on_timer()

    def _on_timer(self) -> None:
        self.take(self.core.turn())

    def _down(self, why: str) -> None:
        """The keys for the next try: as the files say by now, those of the hub in turn."""
        self.key_trouble = self.core.key_trouble
        self._key_failures += bool(self.key_trouble)
        if self._keys is not None:  # the files may say something else by now
            self.core.set_keys(self._keys.attempt(self._key_failures).curve())
        self._told_down(why)

    def _write(self) -> int | None:
        return self.core.flush()

    def _close(self, linger: bool) -> None:
        self._loop.remove_reader(self._fd)
