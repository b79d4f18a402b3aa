"""The loop of stats: frames from a SUB socket, batches into ClickHouse, gaps and confirmations over the bus.

Three tasks share one `Collector`, all on one event loop: `_listen` (frames in), `_write` (the four steps of
journal.py, one batch at a time, in a thread) and `_talk` (asks and confirmations, a few at a time, each
source with its own pause).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import orjson
import zmq
import zmq.asyncio
from zmqgame_bus.admission import Admission
from zmqgame_bus.errors import BusError, binding
from zmqgame_bus.events import refuse_plain
from zmqgame_bus.keys import KeyPair
from zmqgame_bus.limits import EVENT_FRAME_BYTES_MAX
from zmqgame_bus.records import LOST, RECORDS, Frame, FrameError, decode_frame

from zmqgame.limits import STATS_QUERIES_WAITING
from zmqgame.stats.audit import LOST_SQL, ROWS_SQL
from zmqgame.stats.clickhouse import SqlRefused, Warehouse, insert_tables
from zmqgame.stats.collector import Ask, Collector, Plan, check_frame
from zmqgame.stats.config import StatsConfig
from zmqgame.stats.gaps import Range
from zmqgame.stats.journal import Journal
from zmqgame.stats.rows import to_tables

log = logging.getLogger(__name__)

T = TypeVar("T")

RECEIVE_FRAMES = 64
"""Frames that libzmq holds for us, of at most EVENT_FRAME_BYTES_MAX; the next ones are dropped there and
asked for later."""

HEARTBEAT_MS = 5_000
"""A publisher that vanished without a word is noticed after this; its events are in its spool."""

REBIND_S = 10.0
"""libzmq lets go of an address within milliseconds, on a busy machine later."""
REBIND_PAUSE_S = 0.01

TALKS = 16
"""Requests under way at once: one source's slow disk holds up nobody else."""

REQUEST_S = 5.0
PAUSE_MIN_S, PAUSE_MAX_S = 0.1, 5.0
"""After a request that failed; doubled each time."""


class Answering(Protocol):
    """What a request gives back."""

    @property
    def payload(self) -> bytes:
        """The reply's bytes."""


class Bus(Protocol):
    """What stats needs of a node."""

    async def request(self, service: str, payload: Any, *, timeout_s: float = ...) -> Answering:
        """Ask a service."""


class StatsService:
    """Stats without process, flags and configuration file."""

    def __init__(self, config: StatsConfig, warehouse: Warehouse, journal: Journal, bus: Bus) -> None:
        self.collector = Collector(buffer_bytes=config.buffer_bytes)
        self.error = ""
        self._config, self._warehouse, self._journal, self._bus = config, warehouse, journal, bus
        self._writer = ThreadPoolExecutor(1, "stats-write")
        self._reader = ThreadPoolExecutor(1, "stats-sql")
        self._queries = 0
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._admission: Admission | None = None
        self._endpoint = ""
        self._arrived = asyncio.Event()
        self._changed = asyncio.Event()
        self._stopping = False
        self._pauses: dict[str, tuple[float, float]] = {}
        self._talking: set[str] = set()
        self._last_commit = 0.0
        self._behind_since: float | None = None
        self._replay = self._restore()

    # -- starting and ending ---------------------------------------------------------------------------------

    def _restore(self) -> Plan | None:
        progress = self._journal.read_progress()
        if progress is None or progress["installation"] != self._warehouse.installation:
            self._rebuild()
            return None
        self.collector.restore(progress["sources"])
        plan = self._journal.read_plan()
        if plan is None or plan.digest == progress["plan"]:
            return None
        log.info("repeating the batch %s that was under way: %d events", plan.digest[:12], plan.rows)
        self.collector.adopt(plan)
        return plan

    def _rebuild(self) -> None:
        """Without a progress file that belongs to these tables, the rows themselves tell what is
        committed."""
        self._journal.remove_plan()
        for source, epoch, first, last, _, _ in self._warehouse.rows(ROWS_SQL):
            self.collector.found(source, epoch, first, last)
        for source, epoch, first, last, _ in self._warehouse.rows(LOST_SQL):
            self.collector.found(source, epoch, first, last, lost=True)
        # Saved before the first batch: else a crash in it would be taken for a missing progress file.
        self._journal.write_progress(self._warehouse.installation, "", self.collector.progress())

    def bind(self, pair: KeyPair | None, admission: Callable[[zmq.Context[Any]], Admission] | None) -> str:
        """Bind the SUB socket, with CURVE if there is a key pair; returns the endpoint with its port."""
        socket = self._socket
        socket.setsockopt(zmq.RCVHWM, RECEIVE_FRAMES)
        socket.setsockopt(zmq.MAXMSGSIZE, EVENT_FRAME_BYTES_MAX)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.LINGER, 0)
        if pair is None or admission is None:
            refuse_plain(self._config.listen)
        else:
            self._admission = admission(self._context)
            self._admission.protect(socket, pair)
        socket.subscribe(b"")
        with binding(self._config.listen, key="stats.listen"):
            socket.bind(self._config.listen)
        self._endpoint = str(socket.getsockopt_string(zmq.LAST_ENDPOINT))
        return self._endpoint

    async def rebind(self, pair: Callable[[], KeyPair]) -> None:
        """Answer handshakes with another pair from now on; who was connected comes back by it."""
        assert self._admission is not None
        deadline = time.monotonic() + REBIND_S
        with contextlib.suppress(zmq.ZMQError):  # a change before this one may be on its way still
            self._socket.unbind(self._endpoint)
        while True:
            self._admission.protect(self._socket, pair())
            try:
                self._socket.bind(self._endpoint)
                return
            except zmq.ZMQError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(REBIND_PAUSE_S)  # libzmq lets go of the address in its own time

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`, then insert what is here, confirm it, and close."""
        listener = asyncio.create_task(self._listen())
        writer = asyncio.create_task(self._write())
        talker = asyncio.create_task(self._talk())
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait(
                {listener, writer, talker, stopped}, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done - {stopped}:
                task.result()  # none of them ends by itself: raise what ended it
            self._stopping = True
            self._arrived.set()
            listener.cancel()
            await asyncio.wait({writer})
            await self._confirm_once()
        finally:
            for task in (listener, writer, talker, stopped):
                task.cancel()
            await asyncio.gather(listener, writer, talker, stopped, return_exceptions=True)
            self.close()

    def close(self) -> None:
        """Let go of sockets and threads; what waits in memory is in the spools."""
        if self._socket.closed:
            return
        if self._admission is not None:
            self._admission.close()
        self._socket.close()
        self._context.term()
        self._writer.shutdown(wait=True)
        self._reader.shutdown(wait=True, cancel_futures=True)

    # -- frames in -------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            message = await self._socket.recv(copy=False)
            self._receive(message)
            await asyncio.sleep(0)  # recv returns at once while frames wait: let the others turn too

    def _receive(self, message: Any) -> None:
        counters = self.collector.counters
        try:
            frame = check_frame(decode_frame(message.buffer))
        except FrameError as error:
            counters["frames_malformed"] += 1
            if counters["frames_malformed"] == 1 or counters["frames_malformed"] % 1_000 == 0:
                log.warning("%s (%d so far)", error, counters["frames_malformed"])
            return
        if self._admission is not None and not self._admission.may_speak_for(message, frame.source):
            counters["frames_forged"] += 1
            if counters["frames_forged"] == 1 or counters["frames_forged"] % 1_000 == 0:
                log.warning("a key that is not allowed for the name %s sends its events", frame.source)
            return
        self._take(frame)

    def _take(self, frame: Frame) -> None:
        self.collector.receive(frame)
        self._changed.set()
        if self.collector.waiting_rows or frame.kind == LOST:
            self._arrived.set()
            if self._behind_since is None:
                self._behind_since = time.monotonic()

    # -- batches out -----------------------------------------------------------------------------------------

    async def _write(self) -> None:
        plan = self._replay
        while True:
            if plan is not None:
                await self._write_plan(plan)
            elif self._stopping:
                return
            elif not self._arrived.is_set():
                await self._arrived.wait()
            else:
                self._arrived.clear()
                await self._gather()
            plan = self.collector.plan(self._config.batch_rows)

    async def _gather(self) -> None:
        """Wait for more, unless there is enough for a batch."""
        deadline = time.monotonic() + self._config.flush_ms / 1_000
        while not (
            self._stopping or self.collector.full or self.collector.waiting_rows >= self._config.batch_rows
        ):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(left, 0.05))

    async def _write_plan(self, plan: Plan) -> None:
        began = time.monotonic()
        await self._until_done("journal", lambda: self._journal.write_plan(plan))
        await self._until_done("insert", lambda: self._insert(plan))
        self.collector.committed(plan)
        progress = self.collector.progress()
        installation = self._warehouse.installation
        await self._until_done(
            "progress", lambda: self._journal.write_progress(installation, plan.digest, progress)
        )
        self.collector.released(plan)
        self._last_commit = time.time()
        self._behind_since = began if self.collector.waiting_rows else None
        self._changed.set()

    def _insert(self, plan: Plan) -> None:
        insert_tables(self._warehouse, to_tables(plan.frames, self._warehouse.schemas), plan.digest)

    async def _until_done(self, step: str, work: Callable[[], None]) -> None:
        """Do a step in the writing thread, again and again until it is done: the batch must not be passed
        over."""
        pause = PAUSE_MIN_S
        while True:
            try:
                await asyncio.get_running_loop().run_in_executor(self._writer, work)
            except Exception as error:
                if self._stopping and pause > 1.0:
                    raise  # the batch is in the journal or in the spools; the next start goes on with it
                if self.error != f"{step}: {error}":
                    log.warning("%s failed, trying again: %s", step, error)
                self.error = f"{step}: {error}"
                self.collector.counters[f"{step}_failed"] += 1
                await asyncio.sleep(pause)
                pause = min(PAUSE_MAX_S, pause * 2)
            else:
                if self.error.startswith(f"{step}:"):
                    log.warning("%s works again", step)
                    self.error = ""
                return

    # -- asks and confirmations ------------------------------------------------------------------------------

    async def _talk(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed_or(PAUSE_MIN_S)
                for ask in list(self.collector.asks()):
                    self._start(group, f"ask {ask.source}", lambda ask=ask: self._ask(ask))  # type: ignore[misc]
                for source, epochs in list(self.collector.confirmations()):
                    self._start(
                        group,
                        f"confirm {source}",
                        lambda source=source, epochs=epochs: self._confirm(source, epochs),  # type: ignore[misc]
                    )

    async def _changed_or(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()

    def _start(self, group: asyncio.TaskGroup, name: str, work: Callable[[], Awaitable[bool]]) -> None:
        not_before, _ = self._pauses.get(name, (0.0, 0.0))
        if name in self._talking or len(self._talking) >= TALKS or not_before > time.monotonic():
            return
        self._talking.add(name)
        group.create_task(self._talk_once(name, work))

    async def _talk_once(self, name: str, work: Callable[[], Awaitable[bool]]) -> None:
        """One request; one that fails or brings nothing new is followed by a pause."""
        try:
            useful = await work()
        except (BusError, FrameError, ValueError) as error:
            useful = False
            self.collector.counters["requests_failed"] += 1
            log.debug("%s: %s", name, error)
        finally:
            self._talking.discard(name)
        if useful:
            self._pauses.pop(name, None)
            self._changed.set()
        else:
            pause = min(PAUSE_MAX_S, max(PAUSE_MIN_S, 2 * self._pauses.get(name, (0.0, 0.0))[1]))
            self._pauses[name] = time.monotonic() + pause, pause

    async def _ask(self, ask: Ask) -> bool:
        request = {"op": "read", "epoch": ask.epoch, "first": ask.first, "last": ask.last}
        reply = await self._bus.request(f"spool:{ask.source}", request, timeout_s=REQUEST_S)
        frame = check_frame(decode_frame(reply.payload))
        if frame.source != ask.source:
            raise FrameError("source", f"asked {ask.source}, {frame.source} answered")
        self.collector.counters["asks"] += 1
        self._take(frame)
        return frame.kind in (RECORDS, LOST) and ask not in self.collector.asks()

    async def _confirm(self, source: str, epochs: list[Range]) -> bool:
        await self._bus.request(f"spool:{source}", {"op": "confirm", "epochs": epochs}, timeout_s=REQUEST_S)
        self.collector.confirmed(source, epochs)
        return True

    async def _confirm_once(self) -> None:
        waiting = [self._confirm(source, epochs) for source, epochs in list(self.collector.confirmations())]
        await asyncio.gather(*waiting, return_exceptions=True)

    # -- answers ---------------------------------------------------------------------------------------------

    async def answer(self, request: dict[str, Any]) -> bytes | dict[str, Any]:
        """{"op": "sql", "query", "format"} -> the result's bytes; {"op": "status"} -> what is where."""
        if request.get("op") == "status":
            return self.status()
        if request.get("op") != "sql":
            raise SqlRefused("query", f"stats knows sql and status, not {request.get('op')!r}")
        if self._queries >= STATS_QUERIES_WAITING:
            raise SqlRefused("busy", f"STATS_QUERIES_WAITING = {STATS_QUERIES_WAITING} queries wait already")
        query, format_name = str(request.get("query", "")), str(request.get("format", "JSONCompact"))
        return await self._ask_reader(lambda: self._warehouse.sql(query, format_name))

    async def _ask_reader(self, work: Callable[[], T]) -> T:
        self._queries += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader, work)
        finally:
            self._queries -= 1

    async def serve(self, request: Any) -> bytes | dict[str, Any]:
        """The handler of the service `stats` on the bus."""
        return await self.answer(orjson.loads(request.payload))

    def summary(self) -> str:
        """The status in one line."""
        collector = self.collector
        text = f"{collector.counters['rows']} rows inserted, {collector.waiting_rows} events wait"
        return f"{text}; {self.error}" if self.error else text

    def lag_s(self) -> float:
        """How long the oldest event that waits here has waited; 0: none waits."""
        return time.monotonic() - self._behind_since if self._behind_since is not None else 0.0

    def status(self) -> dict[str, Any]:
        """What each source published as far as stats knows, what is inserted, and what waits."""
        return {
            "clickhouse": "chdb" if self._warehouse.embedded else "server",
            "error": self.error,
            "waiting_rows": self.collector.waiting_rows,
            "waiting_bytes": self.collector.waiting_bytes,
            "lag_s": round(self.lag_s(), 3),
            "last_commit_unix_ms": int(self._last_commit * 1_000),
            "counters": dict(self.collector.counters),
            "sources": self.collector.status(),
        }
