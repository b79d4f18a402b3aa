"""Events: what a service tells stats. `emit` never waits; a thread writes to the spool, then publishes.

    emitter = Emitter("game-1", spool_dir=state_dir / "events", publish="tcp://127.0.0.1:7601")
    emitter.attach(node)                                            # before node.start()
    emitter.emit("finishes", match="m-1", player="ada", time_ms=13_207)
    ...
    emitter.close()

The order of things for each event: queue (bounded in bytes), spool (committed), PUB. PUB may lose what it
likes: every second the emitter announces which numbers exist, and stats asks for those it lacks by
`spool:SOURCE`, a service on the bus. Stats confirms what it has committed, and the spool lets go of it.

When queue or spool is full, `emit` refuses: it returns False, the refusal is counted (`counters`, and the
spool's marks, so that an audit sees it too) and `last_refusal` tells which limit. Nothing that was accepted
is lost by that. It does not raise, since no match should end because analytics are slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
import zmq
from zmq.utils.monitor import recv_monitor_message

from zmqgame_bus.errors import ZmqgameError
from zmqgame_bus.keys import Keyring, NodeKeys
from zmqgame_bus.limits import EVENT_BATCH_BYTES, EVENT_BYTES_MAX, EVENT_QUEUE_BYTES, SPOOL_BYTES
from zmqgame_bus.plain import PlainNotLoopback, refuse_plain
from zmqgame_bus.records import ANNOUNCE, LOST, RECORD_ROOM, RECORDS, encode_frame, frame_head
from zmqgame_bus.spool import Durability, Spool, SpoolFull, SpoolWriteFailed, folder_of
from zmqgame_bus.tables import EventsConfig

if TYPE_CHECKING:
    from types import TracebackType

    from zmqgame_bus.process import Process

__all__ = ["Emitter", "EventInvalid", "PlainNotLoopback", "SpoolFull", "open_emitter", "refuse_plain"]

ANNOUNCE_S: Final = 1.0
"""How long a lost last event can stay unnoticed. One frame of about 100 bytes a source and second."""

_HANDSHAKE_FAILED: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)

RETRY_S: Final = 0.5
"""Between two tries to write to a disk that refuses."""

log = logging.getLogger(__name__)

Value = str | int | float | bool | None


class EventInvalid(ZmqgameError):
    """The event can't be written as JSON, or is longer than EVENT_BYTES_MAX: a mistake of the caller."""


class _Request(Protocol):
    @property
    def payload(self) -> bytes | str: ...


class _Serving(Protocol):
    def serve(self, service: str, handler: Callable[[Any], Awaitable[Any]], /) -> None: ...


class Emitter:
    """One source's events: `emit` from any thread, a background thread does the rest."""

    def __init__(
        self,
        source: str,
        *,
        spool_dir: Path,
        publish: str,
        spool_bytes: int = SPOOL_BYTES,
        queue_bytes: int = EVENT_QUEUE_BYTES,
        durability: Durability = "power",
        keys: NodeKeys | None = None,
        announce_s: float = ANNOUNCE_S,
    ) -> None:
        if keys is None:
            refuse_plain(publish)
        self.source = source
        self.last_refusal: SpoolFull | None = None
        self.write_error: str = ""
        self._queue_limit = queue_bytes
        self._publish, self._keys, self._announce_s = publish, keys, announce_s
        self._spool = Spool(
            folder_of(spool_dir, source), source, bytes_limit=spool_bytes, durability=durability
        )
        self._wake = threading.Condition()
        self._queue: list[bytes] = []
        self._queue_bytes = 0
        self._spool_bytes = self._spool.bytes
        self._accepted = self._refused = self._published = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"events-{source}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Emitter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def epoch(self) -> int:
        """The number of this start of the source; greater than all earlier ones."""
        return self._spool.epoch

    @property
    def counters(self) -> dict[str, int]:
        """What was emitted, refused and published, and what the spool holds."""
        return {
            "accepted": self._accepted,
            "refused": self._refused,
            "published": self._published,
            "spool_bytes": self._spool.bytes,
            "spool_damaged": self._spool.damaged,
        }

    def emit(self, table: str, /, **fields: Value) -> bool:
        """Hand over an event of `table`; False if a limit refused it. Never waits; raises only
        EventInvalid."""
        try:
            body = orjson.dumps([table, time.time_ns() // 1_000, fields])
        except orjson.JSONEncodeError as error:
            raise EventInvalid(f"event of {self.source} for {table}: {error}") from None
        if len(body) > EVENT_BYTES_MAX:
            raise EventInvalid(
                f"event of {self.source} for {table}: {len(body)} bytes, "
                f"limit EVENT_BYTES_MAX = {EVENT_BYTES_MAX}"
            )
        size = len(body) + RECORD_ROOM
        with self._wake:
            if self._closing:
                return self._refuse(SpoolFull(self.source, "closed", 0, 0, "the emitter is closed"))
            if self._queue_bytes + size > self._queue_limit:
                return self._refuse(
                    SpoolFull(
                        self.source, "queue_bytes", self._queue_limit, self._queue_bytes, self.write_error
                    )
                )
            if self._spool_bytes + self._queue_bytes + size > self._spool.bytes_limit:
                return self._refuse(
                    SpoolFull(self.source, "spool_bytes", self._spool.bytes_limit, self._spool_bytes)
                )
            if not self._queue:
                self._wake.notify()
            self._queue.append(body)
            self._queue_bytes += size
            self._accepted += 1
        return True

    def _refuse(self, refusal: SpoolFull) -> bool:
        if self._refused == 0 or self.last_refusal is None or self.last_refusal.limit != refusal.limit:
            log.warning("%s", refusal)
        self.last_refusal = refusal
        self._refused += 1
        self._spool.count_refused(self._refused)
        return False

    # -- what stats asks -------------------------------------------------------------------------------------

    def attach(self, node: _Serving) -> None:
        """Serve `spool:SOURCE` on the bus; call it before the node starts."""
        node.serve(f"spool:{self.source}", self._serve)

    async def _serve(self, request: _Request) -> bytes | dict[str, Any]:
        return await asyncio.to_thread(self.answer, orjson.loads(request.payload))

    def answer(self, request: dict[str, Any]) -> bytes | dict[str, Any]:
        """Answer one request of stats.

        {"op": "read", "epoch", "first", "last"} -> a frame: records, or which numbers are lost, or an
        announce; {"op": "confirm", "epochs": [[epoch, up_to], ...]} -> {"ok": true}.
        """
        if request["op"] == "confirm":
            for epoch, up_to in request["epochs"]:
                self._spool.confirm(int(epoch), int(up_to))
            self._spool_bytes = self._spool.bytes
            return {"ok": True}
        if request["op"] != "read":
            raise ValueError(f"spool:{self.source} knows read and confirm, not {request['op']!r}")
        epoch = int(request["epoch"])
        reading = self._spool.read(epoch, int(request["first"]), int(request["last"]))
        if reading is None:
            return self._announcement()
        if reading.lost:
            data = {"first": reading.first, "last": reading.last, "reason": reading.lost}
            return encode_frame(LOST, self.source, epoch, data)
        return frame_head(RECORDS, self.source, epoch) + reading.records

    def _announcement(self) -> bytes:
        return encode_frame(ANNOUNCE, self.source, self._spool.epoch, self._spool.unconfirmed())

    def unconfirmed(self) -> int:
        """How many events stats has not confirmed, over all epochs; those not yet written are among them."""
        in_memory = self._accepted - self._published  # first: what is written meanwhile may count twice
        return in_memory + sum(last - first + 1 for _, first, last in self._spool.unconfirmed())

    async def drain(self, timeout_s: float) -> bool:
        """Wait until stats has confirmed everything; False after `timeout_s`. For an orderly end, while the
        bus is up."""
        deadline = time.monotonic() + timeout_s
        while self.unconfirmed():
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.05)
        return True

    def close(self) -> None:
        """Write and publish what is queued, and stop. What stats did not get stays in the spool for the
        next start."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    # -- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.PUB)
        try:
            self._connect(socket)
            self._turn_until_closed(socket)
        except Exception:
            log.exception("events of %s stopped; what is emitted from now on is refused", self.source)
        finally:
            with self._wake:
                self._closing = True
            monitor = socket.get_monitor_socket(_HANDSHAKE_FAILED)
            socket.disable_monitor()
            monitor.close(0)
            socket.close(linger=200)
            context.term()
            self._spool.close()

    def _connect(self, socket: zmq.Socket[bytes]) -> None:
        socket.get_monitor_socket(_HANDSHAKE_FAILED)  # kept by the socket; from before the first handshake
        socket.setsockopt(zmq.SNDHWM, 1_000)
        # What a connection with a key of yesterday still holds is in the spool: it must not go on for that.
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1_000)
        self._connect_with_keys(socket, 0)

    def _connect_with_keys(self, socket: zmq.Socket[bytes], failures: int) -> None:
        """Connect, under CURVE with the key by which stats may be known next."""
        if self._keys is not None:
            keys = self._keys.attempt(failures)
            socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
            socket.curve_serverkey = keys.server_public
        socket.connect(self._publish)

    def _change_keys(self, socket: zmq.Socket[bytes], failures: int) -> int:
        """After handshakes that failed: the next key; how often that has happened."""
        monitor, failed = socket.get_monitor_socket(_HANDSHAKE_FAILED), False
        with contextlib.suppress(zmq.Again):
            while True:
                recv_monitor_message(monitor, zmq.NOBLOCK)
                failed = True
        if failed and self._keys is not None:
            failures += 1
            with contextlib.suppress(zmq.ZMQError):
                socket.disconnect(self._publish)
            self._connect_with_keys(socket, failures)
        return failures

    def _turn_until_closed(self, socket: zmq.Socket[bytes]) -> None:
        announce_at = 0.0
        failures = 0
        in_hand = 0  # bytes taken from the queue and not yet committed; they count as queued until then
        while True:
            with self._wake:
                if not self._queue and not self._closing:
                    self._wake.wait(max(0.0, announce_at - time.monotonic()))
                bodies, self._queue = self._queue, []
                closing, in_hand = self._closing, self._queue_bytes
            if bodies:
                self._spool.append(bodies)
            written = self._commit(socket)
            if written:
                with self._wake:
                    self._queue_bytes -= in_hand
                    self._spool_bytes = self._spool.bytes
            if time.monotonic() >= announce_at or closing:
                failures = self._change_keys(socket, failures)
                socket.send(self._announcement())
                announce_at = time.monotonic() + self._announce_s
            if closing:
                if not written:
                    log.error(
                        "%d bytes of events of %s were never written: %s",
                        in_hand,
                        self.source,
                        self.write_error,
                    )
                return
            if not written:
                time.sleep(RETRY_S)

    def _commit(self, socket: zmq.Socket[bytes]) -> bool:
        try:
            runs = self._spool.commit()
        except SpoolWriteFailed as error:
            if self.write_error != str(error):
                log.warning("%s; events wait in memory, up to %d bytes", error, self._queue_limit)
            self.write_error = str(error)
            return False
        if self.write_error and runs:
            log.warning("spool of %s can be written again", self.source)
            self.write_error = ""
        head = frame_head(RECORDS, self.source, self._spool.epoch)
        for _, records in runs:
            socket.send(head + records)
        self._published = self._spool.last
        return True


def open_emitter(process: Process, *, spool_bytes: int | None = None) -> Emitter:
    """The emitter of a service, as its configuration says; the source is the process's name.

    ``spool_bytes``: at most so much, whatever the configuration says.
    """
    config = process.config.table(EventsConfig)
    return Emitter(
        process.name,
        spool_dir=Path(config.spool_dir) if config.spool_dir else process.state_dir / "events",
        publish=config.publish,
        spool_bytes=min(config.spool_bytes, spool_bytes or config.spool_bytes),
        durability="power" if config.durability == "power" else "process",
        keys=Keyring(process.config).publisher(),
    )


assert EVENT_BATCH_BYTES + EVENT_BYTES_MAX + 256 <= 1_048_576 - 4_096, "an answer must fit a bus payload"
