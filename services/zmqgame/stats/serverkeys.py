"""The keys of the socket on which stats listens, as their files say by now.

libzmq answers handshakes with one key a listener. So while a rotation is under way stats goes on with the
older pair, which everybody knows, and takes the new one when the rotation is finished: publishers that have
both keys of stats.pub try them in turn. What PUB loses between the two is a gap, and asked for.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import zmq
from zmqgame_bus.admission import Admission
from zmqgame_bus.keys import KeyPair, Keyring
from zmqgame_bus.keywatch import KeyWatch

from zmqgame.stats.service import StatsService

__all__ = ["ServerKeys"]


class ServerKeys:
    """Binds a service under CURVE, and follows the files."""

    def __init__(self, service: StatsService, keyring: Keyring, log: logging.Logger) -> None:
        self._service, self._keyring, self._log = service, keyring, log
        self._admission: Admission | None = None
        self._pair = self._known_pair()
        self._rebinding: asyncio.Task[None] | None = None

    def _known_pair(self) -> KeyPair:
        return self._keyring.pairs()[-1]

    def bind(self) -> str:
        """Listen; the endpoint."""
        return self._service.bind(self._pair, self._admit)

    def _admit(self, context: zmq.Context[Any]) -> Admission:
        self._admission = Admission(context, self._keyring.allowed())
        return self._admission

    def take(self) -> None:
        """The files have changed."""
        assert self._admission is not None
        self._admission.allow(self._keyring.allowed())
        pair = self._known_pair()
        if pair != self._pair:
            self._pair = pair
            self._log.info("publishers find stats by its new key from now on")
            self._rebinding = asyncio.create_task(self._service.rebind(lambda: self._pair))
            self._rebinding.add_done_callback(self._told)

    def _told(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._log.error("stats listens no more, restart it: %s", task.exception())

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            await KeyWatch(self._keyring.server_files(), self.take, self._log).run()
        finally:
            if self._rebinding is not None:
                self._rebinding.cancel()
