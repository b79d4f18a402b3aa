"""A node of the bus for asyncio: a thin shell around the state machine in zmqgame_native.NodeCore.

One turn: frames in, one batch of events out, everything that waits packed into as few frames as possible.
Example::

    async with Node("billing", hub="tcp://127.0.0.1:7600") as node:
        receipt = await node.unicast("alice", {"gift": 100})
        await node.host("billing-desk")
        async for message in node:
            ...
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn

import orjson
import zmq
from zmqgame_native import NodeCore

from zmqgame_bus.calls import Calls
from zmqgame_bus.epoch import next_epoch
from zmqgame_bus.errors import AddressLost, BusError, CannotReachHub, Refused, Superseded
from zmqgame_bus.keys import NodeKeys
from zmqgame_bus.limits import INBOX_MESSAGES
from zmqgame_bus.link import Link
from zmqgame_bus.messages import (
    OUTCOMES,
    Attached,
    Cursor,
    Delivery,
    Message,
    MessageId,
    Payload,
    PlayerHandler,
    PresenceEvent,
    Receipt,
    Reply,
    Report,
    Request,
    SentRecord,
    encode,
)
from zmqgame_bus.presence import PresenceReader
from zmqgame_bus.sent import Sent

__all__ = ["Node"]

_LOG = logging.getLogger(__name__)
_QUERIES = {"status": 1, "nodes": 2, "players": 3}
_SUBSCRIBE_PRESENCE = 1
_OLD_EPOCH: Final = 3
"""The error of a process whose name a newer one has taken (PROTOCOL.md section 5)."""

_KEYS_HINT: Final = (
    "look at security.curve, key_file and hub_public_key_file here and at allowed_file of the hub; "
    "`zmqgame-cli keys show` shows the public keys"
)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Node:
    """A process on the bus. All methods belong to the event loop in which `start` ran."""

    def __init__(
        self,
        name: str,
        hub: str = "tcp://127.0.0.1:7600",
        *,
        roles: Sequence[str] = (),
        state_dir: Path | None = None,
        keys: NodeKeys | None = None,
        on_receipt: Callable[[SentRecord], None] | None = None,
        host_self: bool = False,
        repeat: MessageId | None = None,
    ) -> None:
        """Make a node; nothing is opened before `start`.

        `host_self` hosts the address `node:NAME`, which `broadcast(scope="nodes")` reaches. `repeat` takes up
        the epoch of a message whose outcome is unknown, so that `message_id=repeat` sends the very same one.
        """
        self.name = name
        self.hub = hub
        self._roles = list(roles)
        self._state_dir = state_dir
        self._keys = keys
        self._host_self = host_self
        self._repeat = repeat
        self._core: NodeCore | None = None
        self._epoch = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._link: Link | None = None
        self._unwritten: bytes | None = None
        self._flush_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._up = asyncio.Event()
        self._ended: BusError | None = None
        self._over = asyncio.Event()
        self._last_down = ""
        self._key_trouble = ""
        self._calls = Calls()
        self._sent = Sent(on_receipt)
        self._handler: PlayerHandler | None = None
        self._attaching: dict[str, asyncio.Future[int]] = {}
        self._leaving: dict[str, asyncio.Future[bool]] = {}
        self._joining: dict[int, asyncio.Future[None]] = {}
        self._own: set[str] = set()
        self._inbox: deque[Message | BusError] = deque()
        self._inbox_filled = asyncio.Event()
        self._open_message: Message | None = None
        self._presence: list[PresenceReader] = []
        self._deliveries: list[Delivery] = []

    # --- life ---------------------------------------------------------------------------------------

    async def __aenter__(self) -> Node:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self, timeout_s: float | None = None) -> None:
        """Connect, and wait for the welcome; with `timeout_s`, CannotReachHub after that time.

        Raises Refused when the hub does not admit this node (name taken, older epoch, version); for wrong
        keys after `timeout_s`, because keys are mended on the other side too.
        """
        if self._core is None:
            self._open_core()
        try:
            await asyncio.wait_for(self._up.wait(), timeout_s)
        except TimeoutError:
            if self._key_trouble:
                text = f"the hub at {self.hub} refuses this node: {self._key_trouble}"
                raise Refused(text, hint=_KEYS_HINT) from None
            why = f": {self._last_down}" if self._last_down else ""
            raise CannotReachHub(f"no hub at {self.hub} after {timeout_s:g} s{why}") from None
        self._check()
        if self._host_self:
            await self.host(f"node:{self.name}")

    def _open_core(self) -> None:
        wall_ms = time.time_ns() // 1_000_000
        if self._repeat is not None:
            self._epoch, first = self._repeat.epoch, self._repeat.seq
        else:
            self._epoch, first = next_epoch(self.name, self._state_dir), 1
        self._core = NodeCore(_now_ms(), self.name, self._epoch, wall_ms, self._roles, first)
        self._on_timer()

    async def close(self, drain_s: float = 2.0) -> None:
        """Log own addresses out, wait for receipts while the hub is there, say goodbye, end."""
        core = self._core
        if core is None:
            return
        deadline = time.monotonic() + drain_s
        if self._ended is None and core.up and drain_s > 0:
            await self._leave_own(drain_s)
            while core.unreceipted and core.up and time.monotonic() < deadline:
                await asyncio.wait([self._sent.any_receipt()], timeout=max(0.0, deadline - time.monotonic()))
        if self._ended is None:
            core.bye()
            self._flush()
        link, self._link = self._link, None
        if link is not None:
            link.close(linger=True)
        self._end(BusError(f"the node {self.name} is closed"))
        self._calls.close()

    async def ended(self) -> NoReturn:
        """Wait until the hub refuses this node for good, and raise why: a service must not live on without
        its bus.
        """
        await self._over.wait()
        assert self._ended is not None
        raise self._ended

    async def _leave_own(self, timeout_s: float) -> None:
        leaving = [asyncio.ensure_future(self.leave_player(address)) for address in self._own]
        self._own.clear()
        if leaving:
            await asyncio.wait(leaving, timeout=timeout_s)
            for task in leaving:
                task.cancel()

    def _end(self, error: BusError) -> None:
        if self._ended is not None:
            return
        self._ended = error
        self._over.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        if self._core is not None:
            self._core.end()
            self._take_events()
        self._up.set()
        self._sent.fail(error)
        self._calls.fail(error)
        futures: list[asyncio.Future[Any]] = [*self._attaching.values(), *self._leaving.values()]
        for future in [*futures, *self._joining.values()]:
            if not future.done():
                future.set_exception(error)
                future.exception()
        self._put(error)
        for reader in self._presence:
            reader.filled.set()

    def _check(self) -> NodeCore:
        if self._ended is not None:
            raise self._ended
        if self._core is None:
            raise BusError(f"the node {self.name} is not started")
        return self._core

    @property
    def key(self) -> int:
        """The stable hash of the node's name, first number of its message ids."""
        return self._check().key

    @property
    def epoch(self) -> int:
        """This start's epoch, second number of its message ids."""
        return self._epoch

    @property
    def up(self) -> bool:
        """Whether the hub is there now."""
        return self._core is not None and self._core.up

    @property
    def counters(self) -> dict[str, int]:
        """What it has counted since its start."""
        return self._core.counters() if self._core is not None else {}

    # --- sending ------------------------------------------------------------------------------------

    async def unicast(
        self,
        player: str,
        payload: Payload,
        *,
        timeout_s: float | None = None,
        message_id: MessageId | None = None,
    ) -> Receipt:
        """Send to a player, wait for the receipt; `unknown` after `timeout_s`, but it stays in the window."""
        core, (content, data) = self._check(), encode(payload)
        repeat = self._seq_of(message_id)
        take = lambda: core.unicast(player, content, data, repeat)  # noqa: E731
        result = await self._send("unicast", player, take, timeout_s)
        assert isinstance(result, Receipt)
        return result

    async def multicast(
        self,
        group: str,
        payload: Payload,
        *,
        timeout_s: float | None = None,
        message_id: MessageId | None = None,
    ) -> Report:
        """Send to the members of a group and wait for the whole report."""
        core, (content, data) = self._check(), encode(payload)
        repeat = self._seq_of(message_id)
        take = lambda: core.multicast(group, content, data, repeat)  # noqa: E731
        result = await self._send("multicast", group, take, timeout_s)
        assert isinstance(result, Report)
        return result

    async def broadcast(
        self,
        payload: Payload,
        *,
        scope: str = "players",
        timeout_s: float | None = None,
        message_id: MessageId | None = None,
    ) -> Report:
        """Send to every online player (`players`) or to every node that hosts itself (`nodes`)."""
        if scope not in ("players", "nodes"):
            raise ValueError(f"scope {scope!r} is neither players nor nodes")
        core, (content, data) = self._check(), encode(payload)
        repeat = self._seq_of(message_id)
        take = lambda: core.broadcast(scope == "nodes", content, data, repeat)  # noqa: E731
        result = await self._send("broadcast", scope, take, timeout_s)
        assert isinstance(result, Report)
        return result

    def _seq_of(self, message_id: MessageId | None) -> int | None:
        if message_id is None:
            return None
        if (message_id.node_key, message_id.epoch) != (self.key, self._epoch):
            raise ValueError(f"{message_id} is not of {self.name}/{self._epoch}: open the node with repeat=")
        return message_id.seq

    async def _send(
        self, kind: str, recipient: str, take: Callable[[], int | None], timeout_s: float | None
    ) -> Receipt | Report:
        seq = await self._sent.room(take)
        sender_id = MessageId(self.key, self._epoch, seq, self.name)
        waiting = self._sent.add(seq, kind, recipient, sender_id)
        self._flush_soon()
        return await self._sent.wait(waiting, timeout_s)

    # --- requests -----------------------------------------------------------------------------------

    async def request(self, service: str, payload: Payload, *, timeout_s: float = 5.0) -> Reply:
        """Ask a service, at most once.

        Raises NoSuchService, RequestFailed, RequestUnknown, DeadlineExceeded.
        """
        core, (content, data) = self._check(), encode(payload)
        timeout_ms = max(1, round(timeout_s * 1000))
        call = core.request(_now_ms(), service, content, data, timeout_ms)
        return await self._answered(core, call, service)

    async def query(self, what: str, argument: str = "", *, timeout_s: float = 5.0) -> Any:
        """Ask the hub for `status`, `nodes` or `players`; the parsed JSON."""
        if what not in _QUERIES:
            raise ValueError(f"query {what!r} is none of {', '.join(_QUERIES)}")
        core = self._check()
        call = core.query(_now_ms(), _QUERIES[what], argument, max(1, round(timeout_s * 1000)))
        return (await self._answered(core, call, f"hub {what}")).json()

    async def _answered(self, core: NodeCore, call: int | None, what: str) -> Reply:
        if call is None:
            raise BusError(f"{what}: too many requests wait for the hub")
        self._flush_soon()
        try:
            return await self._calls.answer(call, what)
        except asyncio.CancelledError:
            core.cancel(call)
            self._flush_soon()
            raise

    def serve(self, service: str, handler: Callable[[Request], Awaitable[Payload]]) -> None:
        """Answer requests for a service; before `start`, because the hub learns it with the hello."""
        if self._core is not None:
            raise BusError(f"serve({service!r}) comes after start: the hub learns services with the hello")
        self._calls.serve(service, handler)
        if service not in self._roles:
            self._roles.append(service)

    def _replied(self, call: int, ok: bool, payload: Payload) -> None:
        if self._ended is not None or self._core is None:
            return
        try:
            content, data = encode(payload)
            self._core.reply(call, ok, content, data)
        except (ValueError, TypeError, orjson.JSONEncodeError) as error:
            content, data = encode(f"the reply can't be sent: {error}")
            self._core.reply(call, False, content, data)
        self._flush_soon()

    # --- own addresses ------------------------------------------------------------------------------

    async def host(self, address: str) -> None:
        """Receive what is sent to this address, by `async for message in node`."""
        self._own.add(address)
        try:
            await self.attach(address)
        except BaseException:
            self._own.discard(address)
            raise

    def __aiter__(self) -> AsyncIterator[Message]:
        if self._open_message is not None:  # the body of an earlier loop did not return: not handled [25]
            self._inbox.appendleft(self._open_message)
            self._open_message = None
        return _Messages(self)

    async def _next_message(self) -> Message:
        if self._open_message is not None:
            self.handled(self._open_message.address, self._open_message.id)
            self._open_message = None
        while not self._inbox:
            self._inbox_filled.clear()
            await self._inbox_filled.wait()
        message = self._inbox[0]
        if isinstance(message, BusError):
            if message is not self._ended:
                self._inbox.popleft()
            raise message
        self._inbox.popleft()
        self._open_message = message
        return message

    def _put(self, message: Message | BusError) -> None:
        self._inbox.append(message)
        self._inbox_filled.set()

    # --- players with clients -----------------------------------------------------------------------

    def set_player_handler(self, handler: PlayerHandler) -> None:
        """Say who is told about the players that are attached."""
        self._handler = handler

    async def attach(self, player: str, *, login: int = 0, cursor: Cursor = ()) -> Attached:
        """Host a player for a client that names its login (0: none) and what it has handled [27, 28]."""
        core = self._check()
        pending = core.attach(player, login, [mark.numbers() for mark in cursor])
        self._flush_soon()
        if pending is not None:
            deliveries = [Delivery(flag, data, player, MessageId(*number)) for number, flag, data in pending]
            return Attached(core.login_of(player) or 0, True, deliveries)
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

    def handled(self, player: str, id: MessageId) -> None:
        """Note that the client has handled this message and all before it of that sender [25, 26]."""
        if self._ended is None and self._core is not None:
            self._core.handled(player, id.numbers())
            self._flush_soon()

    def detach(self, player: str) -> None:
        """Note that the client is gone: the player is logged out after the grace time [30]."""
        if self._ended is None and self._core is not None:
            self._core.detach(_now_ms(), player)
            self._arm()

    async def leave_player(self, player: str) -> bool:
        """Log the player out now. True: committed, its client may forget it. False: not hosted here."""
        if not self._check().leave_player(player):
            return False
        self._flush_soon()
        future = self._leaving.get(player)
        if future is None:
            future = self._leaving[player] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(future)

    async def join(self, group: str, player: str, *, durable: bool = False) -> None:
        """Put a player into a group; until logout, or for good if `durable`."""
        await self._member(True, durable, group, player)

    async def leave(self, group: str, player: str, *, durable: bool = False) -> None:
        """Take a player out of a group."""
        await self._member(False, durable, group, player)

    async def _member(self, join: bool, durable: bool, group: str, player: str) -> None:
        request = self._check().member(join, durable, group, player)
        if request is None:
            raise BusError(f"group {group}: too many changes wait for the hub")
        future = self._joining[request] = asyncio.get_running_loop().create_future()
        self._flush_soon()
        await future

    # --- presence -----------------------------------------------------------------------------------

    async def presence(self) -> AsyncIterator[PresenceEvent]:
        """Who is there (a snapshot), then who comes and goes; after a pause of the hub, again."""
        reader = PresenceReader()
        self._presence.append(reader)
        self._check().subscribe(_SUBSCRIBE_PRESENCE)
        self._flush_soon()
        try:
            while True:
                while not reader.events:
                    if self._ended is not None:
                        raise self._ended
                    reader.filled.clear()
                    await reader.filled.wait()
                yield reader.events.popleft()
        finally:
            self._presence.remove(reader)

    # --- the turn -----------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._link is not None:
            self._link.read()  # a loop that was late must not take waiting bytes for silence
        if self._core is not None and self._ended is None:
            self._core.timeout(_now_ms(), random.getrandbits(64))
            self._turn()

    def _on_frames(self, frames: list[bytes]) -> None:
        if self._core is not None and self._ended is None:
            self._core.receive(_now_ms(), random.getrandbits(64), frames)
            self._turn()

    def _on_end(self, why: str) -> None:
        self._key_trouble = self._link.key_trouble if self._link is not None else ""
        if self._core is not None and self._ended is None:
            self._core.disconnected(_now_ms(), random.getrandbits(64), why)
            self._turn()

    def _turn(self) -> None:
        self._take_events()
        if self._ended is None:
            self._flush()

    def _take_events(self) -> None:
        assert self._core is not None
        for name, *values in self._core.events():
            _EVENTS[name](self, *values)
        if self._deliveries:
            deliveries, self._deliveries = self._deliveries, []
            if self._handler is not None:
                self._handler.delivered(deliveries)

    def _flush_soon(self) -> None:
        """Write at the end of this turn of the loop: what is sent meanwhile shares the frame."""
        if self._flush_handle is None and self._ended is None:
            self._flush_handle = asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        core, link = self._core, self._link
        if core is None:
            return
        now_ms = _now_ms()
        while link is not None and not link.closed:
            frame = self._unwritten or core.frame(now_ms)
            self._unwritten = None
            if frame is None:
                break
            if not link.send(frame):
                self._unwritten = frame
                break
        self._arm()

    def _arm(self) -> None:
        """Wake up when the state machine says so; an early timer is cheaper than a new one each turn."""
        if self._core is None or self._ended is not None:
            return
        due_ms = self._core.next_timeout()
        if due_ms is None:
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + max(0, due_ms - _now_ms()) / 1000
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = loop.call_at(when, self._on_timer)

    # --- events of the state machine ----------------------------------------------------------------

    def _event_connect(self) -> None:
        self._drop_link()
        try:
            self._link = Link(
                self._context,
                self.hub,
                self._keys,
                on_frames=self._on_frames,
                on_writable=self._flush,
                on_end=self._on_end,
            )
        except zmq.ZMQError as error:
            why = f"{self.hub}: {error.strerror}"
            self._last_down = why
            asyncio.get_running_loop().call_soon(self._on_end, why)

    def _drop_link(self) -> None:
        self._unwritten = None
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _event_close(self, why: str) -> None:
        self._drop_link()

    def _event_up(self, hub_epoch: int) -> None:
        _LOG.info("connected to hub epoch %d at %s", hub_epoch, self.hub)
        self._last_down = ""
        self._up.set()

    def _event_down(self, why: str) -> None:
        if self._up.is_set() or why != self._last_down:
            _LOG.warning("no link to the hub at %s: %s", self.hub, why)
        self._last_down = why
        if self._ended is None:
            self._up.clear()

    def _event_refused(self, code: int, text: str) -> None:
        _LOG.error("the hub refuses this node: %s", text)
        if code == _OLD_EPOCH:
            hint = "stop one of the two, or give one another --name"
            self._end(Superseded(f"a newer {self.name} is on the bus: {text}", hint=hint))
        else:
            self._end(Refused(text))

    def _event_receipt(self, seq: int, outcome: int, detail: str) -> None:
        self._sent.receipt(seq, OUTCOMES[outcome], detail)

    def _event_report(
        self, seq: int, counts: list[int], entries: list[tuple[str, int, str]], omitted: int
    ) -> None:
        by_outcome = dict(zip(OUTCOMES[1:], counts, strict=True))
        recipients = {player: (OUTCOMES[outcome], detail) for player, outcome, detail in entries}
        self._sent.report(seq, by_outcome, recipients, omitted)

    def _event_message(self, player: str, number: tuple[int, int, int], content: int, payload: bytes) -> None:
        if player not in self._own:
            self._deliveries.append(Delivery(content, payload, player, MessageId(*number)))
        elif len(self._inbox) < INBOX_MESSAGES:
            self._put(Message(content, payload, player, MessageId(*number)))
        else:
            self._end(BusError(f"more than {INBOX_MESSAGES} messages wait for `async for`"))

    def _event_bound(self, player: str, login: int) -> None:
        if self._handler is not None and player not in self._own:
            self._handler.bound(player, login)
        future = self._attaching.get(player)
        if future is not None and not future.done():
            future.set_result(login)

    def _event_dropped(self, player: str, why: str) -> None:
        future = self._attaching.get(player)
        if future is not None and not future.done():
            future.set_exception(Refused(f"{player}: {why}"))
        elif player in self._own:
            self._own.discard(player)
            self._put(AddressLost(f"{player}: {why}"))
        elif self._handler is not None:
            self._handler.dropped(player, why)
        self._left(player, committed=False)

    def _event_logged_out(self, player: str) -> None:
        self._left(player, committed=True)

    def _left(self, player: str, *, committed: bool) -> None:
        future = self._leaving.pop(player, None)
        if future is not None and not future.done():
            future.set_result(committed)

    def _event_forget(self, player: str, number: tuple[int, int, int]) -> None:
        if self._handler is not None and player not in self._own:
            self._handler.forget(player, MessageId(*number))

    def _event_presence(self, snapshot: bool, entries: list[tuple[int, str, str]]) -> None:
        slow = [reader for reader in self._presence if not reader.put(snapshot, entries)]
        if slow and self._core is not None:
            self._core.subscribe(_SUBSCRIBE_PRESENCE)

    def _event_call(
        self, call: int, sender: str, deadline_ms: int, service: str, content: int, payload: bytes
    ) -> None:
        self._calls.call(call, Request(content, payload, service, sender, deadline_ms), self._replied)

    def _event_call_cancelled(self, call: int) -> None:
        self._calls.cancelled(call)

    def _event_answer(self, call: int, status: int, content: int, payload: bytes) -> None:
        self._calls.answered(call, status, content, payload)

    def _event_joined(self, request: int, ok: bool, detail: str) -> None:
        future = self._joining.pop(request, None)
        if future is None or future.done():
            return
        if ok:
            future.set_result(None)
        else:
            future.set_exception(Refused(detail))


class _Messages:
    """`async for message in node`: the step to the next message acks the one before."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> Message:
        return await self._node._next_message()


_EVENTS: dict[str, Callable[..., None]] = {
    name.removeprefix("_event_"): method for name, method in vars(Node).items() if name.startswith("_event_")
}
