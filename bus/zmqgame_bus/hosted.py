"""What a node hosts: players with clients, and addresses of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from zmqgame_native import Delivery, NodeCore

from zmqgame_bus.carrier import Carrier, now_ms
from zmqgame_bus.errors import AddressLost, BusError, Refused
from zmqgame_bus.limits import INBOX_MESSAGES
from zmqgame_bus.messages import Attached, Cursor, Message, MessageId, PlayerHandler

__all__ = ["Hosted"]


class Hosted:
    """Attaches, logins and logouts under way; messages for those who take them."""

    def __init__(self, on_overflow: Callable[[BusError], None]) -> None:
        self._on_overflow = on_overflow
        self.handler: PlayerHandler | None = None
        self.on_handled: Callable[[str, tuple[int, int, int]], None] | None = None
        """Hears of each message that is handled, for its trace."""
        self.own: set[str] = set()
        self._attaching: dict[str, asyncio.Future[int]] = {}
        self._leaving: dict[str, asyncio.Future[bool]] = {}
        self._joining: dict[int, asyncio.Future[None]] = {}
        self._inbox: deque[Message | BusError] = deque()
        self._inbox_filled = asyncio.Event()
        self._open_message: Message | None = None
        self._error: BusError | None = None
        self.events: dict[str, Callable[..., None]] = {
            "deliveries": self._deliveries,
            "bound": self._bound,
            "dropped": self._dropped,
            "logged_out": self._logged_out,
            "forget": self._forget,
            "joined": self._joined,
        }

    def start(self, core: NodeCore, carrier: Carrier) -> None:
        """Host by this core from now on."""
        self._core, self._carrier = core, carrier

    # --- players ------------------------------------------------------------------------------------

    async def attach(self, player: str, login: int, cursor: Cursor) -> Attached:
        """Host a player for a client [27, 28]."""
        core = self._core
        pending = core.attach(player, login, [mark.numbers() for mark in cursor])
        self._carrier.flush_soon()
        if pending is not None:
            return Attached(core.login_of(player) or 0, True, pending)
        older = self._attaching.pop(player, None)
        if older is not None and not older.done():
            older.set_exception(Refused(f"{player}: another client attached"))
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._attaching[player] = future
        try:
            return Attached(await future, False, [])
        finally:
            if self._attaching.get(player) is future:
                del self._attaching[player]

    def detach(self, player: str) -> None:
        """The client is gone [30]."""
        self._core.detach(now_ms(), player)
        self._carrier.flush_soon()

    async def leave_player(self, player: str) -> bool:
        """Log the player out now; True: committed. False: not here."""
        if not self._core.leave_player(player):
            return False
        self._carrier.flush_soon()
        future = self._leaving.get(player)
        if future is None:
            future = self._leaving[player] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(future)

    async def leave_own(self, timeout_s: float) -> None:
        """Log the own addresses out, as far as the time allows."""
        leaving = [asyncio.ensure_future(self.leave_player(address)) for address in self.own]
        self.own.clear()
        if leaving:
            await asyncio.wait(leaving, timeout=timeout_s)
            for task in leaving:
                task.cancel()

    async def member(self, join: bool, durable: bool, group: str, player: str) -> None:
        """Change a group, and wait until it is so."""
        request = self._core.member(join, durable, group, player)
        if request is None:
            raise BusError(f"group {group}: too many changes wait for the hub")
        future = self._joining[request] = asyncio.get_running_loop().create_future()
        self._carrier.flush_soon()
        await future

    # --- own addresses ------------------------------------------------------------------------------

    async def host(self, address: str) -> None:
        """Receive what is sent to this address."""
        self.own.add(address)
        try:
            await self.attach(address, 0, ())
        except BaseException:
            self.own.discard(address)
            raise

    def begin(self) -> None:
        """A new `async for`: the message whose body did not return was not handled [25]."""
        if self._open_message is not None:
            self._inbox.appendleft(self._open_message)
            self._open_message = None

    async def next_message(self) -> Message:
        """The next message for an own address; the one before is handled now."""
        if self._open_message is not None:
            self.handled(self._open_message.address, self._open_message.id)
            self._open_message = None
        while not self._inbox:
            self._inbox_filled.clear()
            await self._inbox_filled.wait()
        message = self._inbox[0]
        if isinstance(message, BusError):
            if message is not self._error:
                self._inbox.popleft()
            raise message
        self._inbox.popleft()
        self._open_message = message
        return message

    def _put(self, message: Message | BusError) -> None:
        self._inbox.append(message)
        self._inbox_filled.set()

    def handled(self, player: str, id: MessageId) -> None:
        """Note that this message and all before it of that sender are handled [25, 26]."""
        if self._error is None:
            self._core.handled(player, id.numbers())
            self._carrier.flush_soon()
            if self.on_handled is not None:
                self.on_handled(player, id.numbers())

    def handled_many(self, deliveries: list[Delivery]) -> None:
        """As `handled` for each, in one step."""
        if self._error is None:
            self._core.handled_many(deliveries)
            self._carrier.flush_soon()
            if self.on_handled is not None:
                for delivery in deliveries:
                    self.on_handled(delivery.player, delivery.id.numbers())

    # --- events -------------------------------------------------------------------------------------

    def _deliveries(self, deliveries: list[Delivery]) -> None:
        if self.own:
            deliveries = [delivery for delivery in deliveries if not self._is_own(delivery)]
        if deliveries and self.handler is not None:
            self.handler.delivered(deliveries)

    def _is_own(self, delivery: Delivery) -> bool:
        if delivery.player not in self.own:
            return False
        if len(self._inbox) < INBOX_MESSAGES:
            self._put(Message(delivery.content, delivery.payload, delivery.player, delivery.id))
        else:
            self._on_overflow(BusError(f"more than {INBOX_MESSAGES} messages wait for `async for`"))
        return True

    def _bound(self, player: str, login: int) -> None:
        if self.handler is not None and player not in self.own:
            self.handler.bound(player, login)
        future = self._attaching.get(player)
        if future is not None and not future.done():
            future.set_result(login)

    def _dropped(self, player: str, why: str) -> None:
        future = self._attaching.get(player)
        if future is not None and not future.done():
            future.set_exception(Refused(f"{player}: {why}"))
        elif player in self.own:
            self.own.discard(player)
            self._put(AddressLost(f"{player}: {why}"))
        elif self.handler is not None:
            self.handler.dropped(player, why)
        self._left(player, committed=False)

    def _logged_out(self, player: str) -> None:
        self._left(player, committed=True)

    def _left(self, player: str, *, committed: bool) -> None:
        future = self._leaving.pop(player, None)
        if future is not None and not future.done():
            future.set_result(committed)

    def _forget(self, player: str, id: MessageId) -> None:
        if self.handler is not None and player not in self.own:
            self.handler.forget(player, id)

    def _joined(self, request: int, ok: bool, detail: str) -> None:
        future = self._joining.pop(request, None)
        if future is None or future.done():
            return
        if ok:
            future.set_result(None)
        else:
            future.set_exception(Refused(detail))

    def fail(self, error: BusError) -> None:
        """End all that wait: the node is closed or refused."""
        self._error = error
        futures: list[asyncio.Future[Any]] = [*self._attaching.values(), *self._leaving.values()]
        for future in [*futures, *self._joining.values()]:
            if not future.done():
                future.set_exception(error)
                future.exception()
        self._put(error)
