"""Requests that wait for their answers, and handlers that answer others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import orjson
from zmqgame_native import NodeCore

from zmqgame_bus.carrier import Carrier
from zmqgame_bus.errors import BusError, DeadlineExceeded, NoSuchService, RequestFailed, RequestUnknown
from zmqgame_bus.messages import Payload, Reply, Request, encode

__all__ = ["Calls", "Handler"]

_LOG = logging.getLogger(__name__)
_OK, _FAILED, _NO_SUCH_SERVICE, _UNKNOWN, _DEADLINE, _CANCELLED = range(6)

Handler: TypeAlias = Callable[[Request], Awaitable[Payload] | Payload]


class Calls:
    """Both directions of a node's calls."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[str, asyncio.Future[Reply]]] = {}
        self._handlers: dict[str, Handler] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._ended = False
        self.events: dict[str, Callable[..., None]] = {
            "call": self._call,
            "call_cancelled": self._cancelled,
            "answer": self._answered,
        }

    def start(self, core: NodeCore, carrier: Carrier) -> None:
        """Call and answer by this core from now on."""
        self._core, self._carrier = core, carrier

    def serve(self, service: str, handler: Handler) -> None:
        """Let `handler` answer requests for the service."""
        self._handlers[service] = handler

    # --- ours ---------------------------------------------------------------------------------------

    async def answer(self, call: int | None, what: str) -> Reply:
        """Wait for the answer to a request that the core has taken; None: it had no room."""
        if call is None:
            raise BusError(f"{what}: too many requests wait for the hub")
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[call] = (what, future)
        self._carrier.flush_soon()
        try:
            return await future
        except asyncio.CancelledError:
            self._core.cancel(call)
            self._carrier.flush_soon()
            raise
        finally:
            self._waiting.pop(call, None)

    def _answered(self, call: int, status: int, content: int, payload: bytes) -> None:
        what, future = self._waiting.get(call, ("", None))
        if future is None or future.done():
            return
        if status == _OK:
            future.set_result(Reply(content, payload))
        else:
            future.set_exception(_error(what, status, payload))

    # --- theirs -------------------------------------------------------------------------------------

    def _call(
        self, call: int, sender: str, deadline_ms: int, service: str, content: int, payload: bytes
    ) -> None:
        handler = self._handlers.get(service)
        if handler is None:
            self._reply(call, False, f"no handler for {service}")
            return
        request = Request(content, payload, service, sender, deadline_ms)
        try:
            result = handler(request)
        except Exception as error:
            self._failed(call, request, error)
            return
        if isinstance(result, (bytes, str, dict, list)):
            self._reply(call, True, result)
            return
        # It takes itself out: a callback at its end would be a turn of the loop more.
        self._running[call] = asyncio.ensure_future(self._run(result, call, request))

    async def _run(self, answer: Awaitable[Payload], call: int, request: Request) -> None:
        try:
            payload = await answer
        except Exception as error:
            self._failed(call, request, error)
        else:
            self._reply(call, True, payload)
        finally:
            self._running.pop(call, None)

    def _failed(self, call: int, request: Request, error: Exception) -> None:
        _LOG.warning("%s: request of %s failed", request.service, request.sender, exc_info=error)
        self._reply(call, False, f"{type(error).__name__}: {error}")

    def _reply(self, call: int, ok: bool, payload: Payload) -> None:
        if self._ended:
            return
        try:
            self._core.reply(call, ok, *encode(payload))
        except (ValueError, TypeError, orjson.JSONEncodeError) as error:
            self._core.reply(call, False, *encode(f"the reply can't be sent: {error}"))
        self._carrier.flush_soon()

    def _cancelled(self, call: int) -> None:
        """Stop the handler: nobody waits for its reply."""
        task = self._running.pop(call, None)  # one that did not begin yet never will
        if task is not None:
            task.cancel()

    # --- the end ------------------------------------------------------------------------------------

    def fail(self, error: BusError) -> None:
        """End all that wait: the node is closed or refused."""
        self._ended = True
        for what, future in self._waiting.values():
            if not future.done():
                future.set_exception(RequestUnknown(f"{what}: {error}"))

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
