"""Requests that wait for their answers, and handlers that answer others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from zmqgame_bus.errors import BusError, DeadlineExceeded, NoSuchService, RequestFailed, RequestUnknown
from zmqgame_bus.messages import Payload, Reply, Request

__all__ = ["Calls"]

_LOG = logging.getLogger(__name__)
_OK, _FAILED, _NO_SUCH_SERVICE, _UNKNOWN, _DEADLINE, _CANCELLED = range(6)

Handler = Callable[[Request], Awaitable[Payload]]
Replied = Callable[[int, bool, Payload], None]


class Calls:
    """Both directions of a node's calls."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[str, asyncio.Future[Reply]]] = {}
        self._handlers: dict[str, Handler] = {}
        self._running: dict[int, asyncio.Task[None]] = {}

    def serve(self, service: str, handler: Handler) -> None:
        """Let `handler` answer requests for the service."""
        self._handlers[service] = handler

    async def answer(self, call: int, what: str) -> Reply:
        """Wait for the answer to a request."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[call] = (what, future)
        try:
            return await future
        finally:
            self._waiting.pop(call, None)

    def answered(self, call: int, status: int, content: int, payload: bytes) -> None:
        """Give an answer to whoever waits for it."""
        what, future = self._waiting.get(call, ("", None))
        if future is None or future.done():
            return
        if status == _OK:
            future.set_result(Reply(content, payload))
        else:
            future.set_exception(_error(what, status, payload))

    def fail(self, error: BusError) -> None:
        """End all that wait: the node is closed or refused."""
        for what, future in self._waiting.values():
            if not future.done():
                future.set_exception(RequestUnknown(f"{what}: {error}"))

    def call(self, call: int, request: Request, replied: Replied) -> None:
        """Run the handler of a request that came."""
        handler = self._handlers.get(request.service)
        if handler is None:
            replied(call, False, f"no handler for {request.service}")
            return
        task = asyncio.ensure_future(self._run(handler, call, request, replied))
        self._running[call] = task
        task.add_done_callback(lambda _task: self._running.pop(call, None))

    @staticmethod
    async def _run(handler: Handler, call: int, request: Request, replied: Replied) -> None:
        try:
            payload = await handler(request)
        except Exception as error:
            _LOG.warning("%s: request of %s failed", request.service, request.sender, exc_info=True)
            replied(call, False, f"{type(error).__name__}: {error}")
        else:
            replied(call, True, payload)

    def cancelled(self, call: int) -> None:
        """Stop the handler: nobody waits for its reply."""
        task = self._running.get(call)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """Stop all handlers."""
        for task in self._running.values():
            task.cancel()


def _error(what: str, status: int, payload: bytes) -> BusError:
    text = payload.decode(errors="replace")
    if status == _FAILED:
        return RequestFailed(f"{what}: {text}")
    if status == _NO_SUCH_SERVICE:
        return NoSuchService(
            f"no node serves {what}", hint="is that service running, and connected to this hub?"
        )
    if status == _DEADLINE:
        return DeadlineExceeded(f"{what}: no answer before the deadline; it may have been carried out")
    return RequestUnknown(f"{what}: the link or the service went away; it may have been carried out")
