"""One connection to the hub: a pyzmq DEALER in the event loop, without zmq.asyncio.

The file descriptor of a ZeroMQ socket says only that something changed, and is silent until that was looked
at: so after each send and receive the socket's EVENTS are asked. A monitor tells at once when the peer is
gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq
from zmq.utils.monitor import recv_monitor_message

from zmqgame_bus.keys import NodeKeys
from zmqgame_bus.limits import LINK_CLOSE_MS, LINK_FRAME_BYTES, LINK_QUEUE_FRAMES, LINK_TURN_FRAMES

__all__ = ["Link"]

_NEVER_MS = 3_600_000
_ENDS: dict[int, str] = {
    zmq.EVENT_DISCONNECTED: "the hub closed the connection",
    zmq.EVENT_CLOSED: "the hub does not listen",
    zmq.EVENT_CLOSE_FAILED: "the connection could not be closed",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the hub broke off the handshake",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "the hub speaks another protocol",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the hub does not admit this node's key",
}
_VAGUE = (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED)
"""They follow each failed handshake too, and say less than it."""


def security_trouble(event: int, value: int, curve: bool) -> str:
    """What a failed handshake says about keys, with ``curve`` if this node has some; else nothing."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return _ENDS[event]
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        return "this node uses CURVE and the hub does not" if curve else "the hub wants CURVE keys"
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and curve:
        # A server that can't open our HELLO may say nothing; nor does one that dies in this moment.
        return f"{_ENDS[event]}: this node's copy of the hub's public key may be wrong"
    return ""


class Link:
    """A fresh socket; never reconnects."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        keys: NodeKeys | None,
        *,
        on_frames: Callable[[list[bytes]], None],
        on_writable: Callable[[], None],
        on_end: Callable[[str], None],
    ) -> None:
        """Connect; raises zmq.ZMQError for an address that can't be one."""
        self._loop = asyncio.get_running_loop()
        self._on_frames, self._on_writable, self._on_end = on_frames, on_writable, on_end
        self._again: asyncio.Handle | None = None
        self._blocked = False
        self._curve = keys is not None
        self.key_trouble = ""
        """What is wrong with the keys, if the handshake failed for that."""
        self._socket = context.socket(zmq.DEALER)
        try:
            self._set_options(keys)
            self._monitor = self._socket.get_monitor_socket(sum(_ENDS))
            self._socket.connect(address)
        except BaseException:
            self._socket.close(0)
            raise
        self._fds = (int(self._socket.get(zmq.FD)), int(self._monitor.get(zmq.FD)))
        self._loop.add_reader(self._fds[0], self._turn)
        self._loop.add_reader(self._fds[1], self._look)
        self._look_again()
        # A descriptor speaks only after a look found nothing.
        self._loop.call_soon(self._look)

    def _set_options(self, keys: NodeKeys | None) -> None:
        socket = self._socket
        socket.set(zmq.LINGER, 0)
        # Not -1: then libzmq throws away, with the connection, what it has read and we have not: the hub's
        # last words. This link is closed long before.
        socket.set(zmq.RECONNECT_IVL, _NEVER_MS)
        socket.set(zmq.SNDHWM, LINK_QUEUE_FRAMES)
        socket.set(zmq.RCVHWM, LINK_QUEUE_FRAMES)
        socket.set(zmq.MAXMSGSIZE, LINK_FRAME_BYTES)
        if keys is not None:
            socket.set(zmq.CURVE_SERVERKEY, keys.server_public)
            socket.set(zmq.CURVE_PUBLICKEY, keys.public)
            socket.set(zmq.CURVE_SECRETKEY, keys.secret)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._socket.closed

    def send(self, frame: bytes) -> bool:
        """Hand over a frame; False: the queue is full, `on_writable` will be called."""
        try:
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            self._blocked = True
            self._look_again()
            return False
        self._look_again()
        return True

    def read(self) -> None:
        """Take what has arrived, up to a bound a turn, so that nothing else in the loop waits long."""
        frames: list[bytes] = []
        try:
            while len(frames) < LINK_TURN_FRAMES:
                frames.append(self._socket.recv(zmq.NOBLOCK))
        except zmq.Again:
            pass
        if frames:
            self._on_frames(frames)

    def _turn(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self.read()
        if not self.closed and self._blocked and int(self._socket.get(zmq.EVENTS)) & zmq.POLLOUT:
            self._blocked = False
            self._on_writable()
        if not self.closed:
            self._look_again()

    def _look_again(self) -> None:
        """Come back if something is ready for which the descriptor may not speak again."""
        wanted = zmq.POLLIN | (zmq.POLLOUT if self._blocked else 0)
        if self._again is None and int(self._socket.get(zmq.EVENTS)) & wanted:
            self._again = self._loop.call_soon(self._turn)

    def _look(self) -> None:
        why: str | None = None
        while not self.closed:
            try:
                event = recv_monitor_message(self._monitor, zmq.NOBLOCK)
            except zmq.Again:
                break
            number = int(event["event"])
            if number in _ENDS and (why is None or number not in _VAGUE):
                self.key_trouble = security_trouble(number, int(event["value"]), self._curve)
                why = self.key_trouble or _ENDS[number]
        if why is not None and not self.closed:
            self.read()  # what came before the end
            if not self.closed:
                self._on_end(why)

    def close(self, *, linger: bool = False) -> None:
        """Close at once; `linger`: after what is queued was written, within a short time."""
        if self.closed:
            return
        for fd in self._fds:
            self._loop.remove_reader(fd)
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(LINK_CLOSE_MS if linger else 0)
