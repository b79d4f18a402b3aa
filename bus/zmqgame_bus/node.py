"""A node of the bus for asyncio: a thin shell around the state machine in zmqgame_native.NodeCore.

One turn: frames in, one batch of events out, everything that waits packed into as few frames as possible.
Example::

    async with Node("billing", hub="tcp://127.0.0.1:7600") as node:
        receipt = await node.unicast("alice", {"gift": 100})
        await node.host("billing-desk")
        async for message in node:
            ...

The parts: `carrier` takes the turns, `sent` has what is on its way, `hosted` what lives here, `calls` the
requests of both directions, `presence` those who watch others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn

from zmqgame_native import NodeCore

from zmqgame_bus.calls import Calls, Handler
from zmqgame_bus.carrier import TRANSPORTS, Carrier, NativeCarrier, PyzmqCarrier, now_ms
from zmqgame_bus.epoch import next_epoch
from zmqgame_bus.errors import BusError, CannotReachHub, Refused, Superseded
from zmqgame_bus.hosted import Hosted
from zmqgame_bus.keys import NodeKeys
from zmqgame_bus.messages import (
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
    SentRecord,
    encode,
)
from zmqgame_bus.options import send_options, supported
from zmqgame_bus.presence import PresenceReaders
from zmqgame_bus.receipts import Receipts
from zmqgame_bus.sent import Sent

__all__ = ["Node"]

_LOG = logging.getLogger(__name__)
_QUERIES = {"status": 1, "nodes": 2, "players": 3, "mailbox": 4, "counters": 5, "trace": 6}
_OLD_EPOCH: Final = 3
"""The error of a process whose name a newer one has taken (PROTOCOL.md section 5)."""

_KEYS_HINT: Final = (
    "look at security.curve, key_file and hub_public_key_file here and at allowed_file of the hub; "
    "`zmqgame-cli keys show` shows the public keys"
)


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
        transport: str = "pyzmq",
    ) -> None:
        """Make a node; nothing is opened before `start`.

        `host_self` hosts the address `node:NAME`, which `broadcast(scope="nodes")` reaches. `repeat` takes up
        the epoch of a message whose outcome is unknown, so that `message_id=repeat` sends the very same one.
        `transport` is `pyzmq`, or `native` for the native module's own socket in this event loop, or
        `native-thread` for one on a thread of its own, which answers the hub also while this loop is busy.
        """
        if transport not in TRANSPORTS:
            raise ValueError(f"transport {transport!r} is none of {', '.join(TRANSPORTS)}")
        self.name = name
        self.hub = hub
        self.transport = transport
        self._roles = list(roles)
        self._state_dir = state_dir
        self._keys = keys
        self._host_self = host_self
        self._repeat = repeat
        self._core: NodeCore | None = None
        self._carrier: Carrier | None = None
        self._epoch = 0
        self._up = asyncio.Event()
        self._ended: BusError | None = None
        self._over = asyncio.Event()
        self._last_down = ""
        self._calls = Calls()
        self._sent = Sent(on_receipt)
        self._hosted = Hosted(self._end)
        self._presence = PresenceReaders()

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
            self._open()
        try:
            await asyncio.wait_for(self._up.wait(), timeout_s)
        except TimeoutError:
            key_trouble = self._carrier.key_trouble if self._carrier is not None else ""
            if key_trouble:
                text = f"the hub at {self.hub} refuses this node: {key_trouble}"
                raise Refused(text, hint=_KEYS_HINT) from None
            why = f": {self._last_down}" if self._last_down else ""
            raise CannotReachHub(f"no hub at {self.hub} after {timeout_s:g} s{why}") from None
        self._check()
        if self._host_self:
            await self.host(f"node:{self.name}")

    def _open(self) -> None:
        if self._repeat is not None:
            self._epoch, seq = self._repeat.epoch, self._repeat.seq
        else:
            self._epoch, seq = next_epoch(self.name, self._state_dir), 1
        who = (now_ms(), self.name, self._epoch, time.time_ns() // 1_000_000, self._roles, seq)
        handlers: dict[str, Callable[..., None]] = {
            "up": self._on_up,
            "down": self._on_down,
            "refused": self._on_refused,
            **self._sent.events,
            **self._hosted.events,
            **self._calls.events,
            **self._presence.events,
        }
        if self.transport == "pyzmq":
            self._core = NodeCore(*who)
            self._carrier = PyzmqCarrier(self._core, handlers, self.hub, self._keys)
        else:
            keys = self._keys.attempt(0).curve() if self._keys is not None else None
            thread = self.transport == "native-thread"
            self._core = NodeCore.native(*who, hub=self.hub, keys=keys, thread=thread)
            self._carrier = NativeCarrier(self._core, handlers, self._keys)
        self._sent.start(self._core, self._carrier, self._epoch, self.name)
        self._hosted.start(self._core, self._carrier)
        self._calls.start(self._core, self._carrier)
        self._presence.start(self._core, self._carrier)
        self._carrier.start()

    async def close(self, drain_s: float = 2.0) -> None:
        """Log own addresses out, wait for receipts while the hub is there, say goodbye, end."""
        core, carrier = self._core, self._carrier
        if core is None or carrier is None:
            return
        deadline = time.monotonic() + drain_s
        if self._ended is None and core.up and drain_s > 0:
            await self._hosted.leave_own(drain_s)
            while core.unreceipted and core.up and time.monotonic() < deadline:
                await asyncio.wait([self._sent.any_receipt()], timeout=max(0.0, deadline - time.monotonic()))
        if self._ended is None:
            core.bye()
            await carrier.drain()
        self._end(BusError(f"the node {self.name} is closed"), linger=True)
        self._calls.close()

    async def ended(self) -> NoReturn:
        """Wait until the hub refuses this node for good, and raise why: a service must not live on without
        its bus.
        """
        await self._over.wait()
        assert self._ended is not None
        raise self._ended

    def _end(self, error: BusError, *, linger: bool = False) -> None:
        if self._ended is not None:
            return
        self._ended = error
        self._over.set()
        if self._carrier is not None:
            self._carrier.take(self._carrier.end(linger=linger))
        self._up.set()
        self._sent.fail(error)
        self._calls.fail(error)
        self._hosted.fail(error)
        self._presence.fail(error)

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
        policy: str = "must-deliver",
        key: str = "",
        ttl_s: float | None = None,
        deliver_at: datetime | float | None = None,
        trace: bool = False,
    ) -> Receipt:
        """Send to a player, wait for the receipt; `unknown` after `timeout_s`, but it stays in the window.

        `policy`: `must-deliver` is acked and stored for a player who is offline; `latest` (the newest of a
        `key` replaces older ones that wait) and `droppable` go out when the player is online and there is
        room, and their receipts say `sent` or `dropped`; that of a `latest` for a player who is away comes
        when it goes out, is replaced, or after an hour: give `timeout_s`. After `ttl_s` the hub does not
        deliver it any more: `expired`. `deliver_at` (a datetime or unix seconds) keeps it in the mailbox
        until then. `trace` records each hop of it for `zmqgame-cli trace`, if the hub can.

        Raises NotSupportedByHub for what an older hub can't do (policy, `ttl_s`, `deliver_at`): at the call,
        or for a message that was taken while no hub was there, in place of its receipt. (The receipts of
        `unicast_many` and `post` say `refused` then, with the detail `not supported: ...`.)
        """
        core, (content, data) = self._check(), encode(payload)
        repeat = self._seq_of(message_id)
        options = supported(core, send_options(policy, key, ttl_s, deliver_at, trace))
        take = lambda: core.unicast(player, content, data, repeat, options)  # noqa: E731
        result = await self._sent.send("unicast", player, take, timeout_s)
        assert isinstance(result, Receipt)
        return result

    async def unicast_many(
        self,
        messages: Iterable[tuple[str, Payload]],
        *,
        timeout_s: float | None = None,
        policy: str = "must-deliver",
        key: str = "",
        ttl_s: float | None = None,
        trace: bool = False,
    ) -> Receipts:
        """Send (player, payload) many times, in order, and wait for all receipts: one future for all.

        For hundreds of messages at once: the receipts come as packed columns, with `counts` and `acked` for
        all of them; each one is made when it is looked at. Waits for room while the window is full. After
        `timeout_s` those without a receipt are `unknown`, and stay in the window. ValueError for a payload
        or name that can't be sent: what is before it in the list was sent, what is behind it not.
        The other arguments are those of `unicast`, for all of them.
        """
        options = supported(self._check(), send_options(policy, key, ttl_s, None, trace))
        return await self._sent.unicast_many(messages, timeout_s, options)

    def post(
        self,
        player: str,
        payload: Payload,
        *,
        on_receipt: Callable[[Receipt], None] | None = None,
        policy: str = "must-deliver",
        key: str = "",
        ttl_s: float | None = None,
        deliver_at: datetime | float | None = None,
        trace: bool = False,
    ) -> MessageId:
        """Send to a player without waiting; its id. Raises WindowFull while too many wait for receipts.

        `on_receipt` is called with the receipt; without it, the receipt is counted: see `posted`. With
        another policy than must-deliver and nobody to tell, the hub sends none. The other arguments are
        those of `unicast`.
        """
        self._check()
        return self._sent.post(player, payload, on_receipt, policy, key, ttl_s, deliver_at, trace)

    @property
    def posted(self) -> dict[str, int]:
        """Posted messages whose receipts are only counted, by outcome; `unknown`: no receipt yet."""
        return self._sent.posted()

    async def multicast(
        self,
        group: str,
        payload: Payload,
        *,
        timeout_s: float | None = None,
        message_id: MessageId | None = None,
        policy: str = "must-deliver",
        key: str = "",
        ttl_s: float | None = None,
        trace: bool = False,
    ) -> Report:
        """Send to the members of a group and wait for the whole report; other arguments as for `unicast`."""
        core, (content, data) = self._check(), encode(payload)
        repeat = self._seq_of(message_id)
        options = supported(core, send_options(policy, key, ttl_s, None, trace))
        take = lambda: core.multicast(group, content, data, repeat, options)  # noqa: E731
        result = await self._sent.send("multicast", group, take, timeout_s)
        assert isinstance(result, Report)
        return result

    async def broadcast(
        self,
        payload: Payload,
        *,
        scope: str = "players",
        timeout_s: float | None = None,
        message_id: MessageId | None = None,
        policy: str = "must-deliver",
        key: str = "",
        ttl_s: float | None = None,
        trace: bool = False,
    ) -> Report:
        """Send to every online player (`players`) or to every node that hosts itself (`nodes`).

        The other arguments are those of `unicast`.
        """
        if scope not in ("players", "nodes"):
            raise ValueError(f"scope {scope!r} is neither players nor nodes")
        core, (content, data) = self._check(), encode(payload)
        repeat = self._seq_of(message_id)
        options = supported(core, send_options(policy, key, ttl_s, None, trace))
        nodes = scope == "nodes"
        take = lambda: core.broadcast(nodes, content, data, repeat, options)  # noqa: E731
        result = await self._sent.send("broadcast", scope, take, timeout_s)
        assert isinstance(result, Report)
        return result

    def _seq_of(self, message_id: MessageId | None) -> int | None:
        if message_id is None:
            return None
        if (message_id.node_key, message_id.epoch) != (self.key, self._epoch):
            raise ValueError(f"{message_id} is not of {self.name}/{self._epoch}: open the node with repeat=")
        return message_id.seq

    # --- requests -----------------------------------------------------------------------------------

    async def request(self, service: str, payload: Payload, *, timeout_s: float = 5.0) -> Reply:
        """Ask a service, at most once. Cancelling the call cancels the service's handler.

        Raises NoSuchService, RequestFailed, RequestUnknown, DeadlineExceeded.
        """
        core, (content, data) = self._check(), encode(payload)
        timeout_ms = max(1, round(timeout_s * 1000))
        call = core.request(now_ms(), service, content, data, timeout_ms)
        return await self._calls.answer(call, service)

    async def query(self, what: str, argument: str = "", *, timeout_s: float = 5.0) -> Any:
        """Ask the hub for `status`, `nodes`, `players`, `mailbox`, `counters` or `trace`; the parsed JSON."""
        if what not in _QUERIES:
            raise ValueError(f"query {what!r} is none of {', '.join(_QUERIES)}")
        core = self._check()
        call = core.query(now_ms(), _QUERIES[what], argument, max(1, round(timeout_s * 1000)))
        return (await self._calls.answer(call, f"hub {what}")).json()

    def serve(self, service: str, handler: Handler) -> None:
        """Answer requests for a service; before `start`, because the hub learns it with the hello.

        The handler is a coroutine function, or for an answer that is there at once a plain function: that
        spares a task and a turn of the loop.
        """
        if self._core is not None:
            raise BusError(f"serve({service!r}) comes after start: the hub learns services with the hello")
        self._calls.serve(service, handler)
        if service not in self._roles:
            self._roles.append(service)

    # --- own addresses ------------------------------------------------------------------------------

    async def host(self, address: str) -> None:
        """Receive what is sent to this address, by `async for message in node`."""
        self._check()
        await self._hosted.host(address)

    def __aiter__(self) -> AsyncIterator[Message]:
        self._hosted.begin()
        return _Messages(self._hosted)

    # --- players with clients -----------------------------------------------------------------------

    def set_player_handler(self, handler: PlayerHandler) -> None:
        """Say who is told about the players that are attached."""
        self._hosted.handler = handler

    async def attach(self, player: str, *, login: int = 0, cursor: Cursor = ()) -> Attached:
        """Host a player for a client that names its login (0: none) and what it has handled [27, 28]."""
        self._check()
        return await self._hosted.attach(player, login, cursor)

    def handled(self, player: str, id: MessageId) -> None:
        """Note that the client has handled this message and all before it of that sender [25, 26]."""
        if self._core is not None:
            self._hosted.handled(player, id)

    def watch_handled(self, note: Callable[[str, tuple[int, int, int]], None]) -> None:
        """Let `note(player, numbers of the id)` hear of each message that is handled here."""
        self._hosted.on_handled = note

    def handled_many(self, deliveries: list[Delivery]) -> None:
        """As `handled` for each of them, in one step: what `PlayerHandler.delivered` got, or a part of it."""
        if self._core is not None:
            self._hosted.handled_many(deliveries)

    def detach(self, player: str) -> None:
        """Note that the client is gone: the player is logged out after the grace time [30]."""
        if self._ended is None and self._core is not None:
            self._hosted.detach(player)

    async def leave_player(self, player: str) -> bool:
        """Log the player out now. True: committed, its client may forget it. False: not hosted here."""
        self._check()
        return await self._hosted.leave_player(player)

    async def join(self, group: str, player: str, *, durable: bool = False) -> None:
        """Put a player into a group; until logout, or for good if `durable`."""
        self._check()
        await self._hosted.member(True, durable, group, player)

    async def leave(self, group: str, player: str, *, durable: bool = False) -> None:
        """Take a player out of a group."""
        self._check()
        await self._hosted.member(False, durable, group, player)

    # --- presence -----------------------------------------------------------------------------------

    async def presence(self) -> AsyncIterator[PresenceEvent]:
        """Who is there (a snapshot), then who comes and goes; after a pause of the hub, again."""
        self._check()
        async for event in self._presence.stream():
            yield event

    # --- events of the state machine ----------------------------------------------------------------

    def _on_up(self, hub_epoch: int) -> None:
        _LOG.info("connected to hub epoch %d at %s", hub_epoch, self.hub)
        self._last_down = ""
        self._up.set()

    def _on_down(self, why: str) -> None:
        if self._up.is_set() or why != self._last_down:
            _LOG.warning("no link to the hub at %s: %s", self.hub, why)
        self._last_down = why
        if self._ended is None:
            self._up.clear()

    def _on_refused(self, code: int, text: str) -> None:
        _LOG.error("the hub refuses this node: %s", text)
        if code == _OLD_EPOCH:
            hint = "stop one of the two, or give one another --name"
            self._end(Superseded(f"a newer {self.name} is on the bus: {text}", hint=hint))
        else:
            self._end(Refused(text))


class _Messages:
    """`async for message in node`: the step to the next message acks the one before."""

    def __init__(self, hosted: Hosted) -> None:
        self._hosted = hosted

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> Message:
        return await self._hosted.next_message()
