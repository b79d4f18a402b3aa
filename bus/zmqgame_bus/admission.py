"""Who may connect to a libzmq socket of ours: the ZAP side of CURVE (RFC 27), with the keys that the hub
admits.

    admission = Admission(context, allowed)
    admission.protect(socket, pair)                 # before bind
    ...
    message = await socket.recv(copy=False)
    admission.may_speak_for(message, "game-1")      # whether the key's name pattern covers that source
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import zmq
from zmq.auth.asyncio import AsyncioAuthenticator

from zmqgame_bus.keys import Allowed, KeyPair, decode

__all__ = ["Admission"]

log = logging.getLogger(__name__)

DOMAIN = "zmqgame"


class Admission:
    """Admits the given keys to the sockets of one context. One a context: ZAP allows no second handler."""

    def __init__(self, context: zmq.Context[Any], allowed: Sequence[Allowed]) -> None:
        self.counters: Counter[str] = Counter()
        self._patterns: dict[bytes, list[str]] = {}
        self.allow(allowed)
        self._authenticator = AsyncioAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(domain=DOMAIN, credentials_provider=self)

    def allow(self, allowed: Sequence[Allowed]) -> None:
        """Another list, also for who is connected: a revoked key may speak for nobody any more."""
        patterns: dict[bytes, list[str]] = {}
        for entry in allowed:
            patterns.setdefault(entry.public, []).append(entry.pattern)
        self._patterns = patterns

    def protect(self, socket: zmq.Socket[Any], pair: KeyPair) -> None:
        """Make the socket a CURVE server: who has no admitted key gets no further than the handshake."""
        socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN.encode())
        socket.curve_secretkey = pair.secret
        socket.curve_publickey = pair.public
        socket.curve_server = True

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether the authenticator lets this key (Z85) in."""
        admitted = _raw(key) in self._patterns
        self.counters["admitted" if admitted else "refused"] += 1
        if not admitted:
            log.warning(
                "refused the CURVE key %s: it is not among the allowed ones", key.decode(errors="replace")
            )
        return admitted

    def may_speak_for(self, message: zmq.Frame, name: str) -> bool:
        """Whether the key that sent the message is allowed for nodes of this name."""
        try:
            key = message.get("User-Id")
        except zmq.ZMQError:
            return False
        patterns = self._patterns.get(_raw(str(key).encode()), [])
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    def close(self) -> None:
        """Let nobody in any more."""
        self._authenticator.stop()


def _raw(key: bytes) -> bytes:
    try:
        return decode(key.decode())
    except ValueError:
        return b""
