"""The `zmqgame-hub` process: configuration, hub epoch, mailbox and its thread around the native hub.

The hub's loop is Rust and runs no Python. One thread here waits for store batches without the GIL, runs each
in the mailbox and gives it back; only then does the hub confirm anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import threading
import time
from collections import deque
from typing import Any, Final

import orjson
from zmqgame_native import Hub, SqliteStore, StoreFailed

from zmqgame_bus.buckets import Buckets
from zmqgame_bus.epoch import keep_highest, read
from zmqgame_bus.errors import AddressRefused, Replaced, StoreUnavailable, ZmqgameError, binding
from zmqgame_bus.keys import Keyring
from zmqgame_bus.keywatch import KeyWatch, hub_keys
from zmqgame_bus.linklog import LinkLog, refused
from zmqgame_bus.mailbox import Mailbox, Operation, open_configured
from zmqgame_bus.plain import PlainNotLoopback, refuse_plain
from zmqgame_bus.process import Process, run
from zmqgame_bus.sqlite import SqliteMailbox
from zmqgame_bus.tables import HubConfig, MailboxConfig

__all__ = ["main"]

_EPOCH_ZERO_S: Final = 1_767_225_600
"""2026-01-01 UTC: hub epochs count seconds from here, so that they fit in 32 bits for 136 years."""
_BATCH_WAIT_MS: Final = 500
_LOOK_S: Final = 0.1
_RECENT_S: Final = 300
"""`check` looks at the connections refused in this time."""
_SIZES_S: Final = 10.0
"""How often the mailbox is asked how much it holds; less often if that takes it long."""
_SIZES_SHARE: Final = 100
"""It may take one in so many parts of the store's time."""
_STATUS_EVERY: Final = 10
"""A status line a second."""


def main() -> int:
    """Run `zmqgame-hub`."""
    return run("hub", serve, all_tables=False)


async def serve(process: Process) -> None:
    """Open the mailbox, take an epoch, accept nodes until told to stop."""
    config = process.config.table(HubConfig)
    keyring = Keyring(process.config)
    if not keyring.curve:
        _refuse_open_addresses(config.listen)
    mailbox = await _open_mailbox(process)
    if mailbox is None:
        return
    try:
        epoch = await asyncio.to_thread(_take_epoch, process, mailbox)
        with binding(config.listen, key="hub.listen"):
            hub = _start(config, process.config.table(MailboxConfig), keyring, process.name, epoch)
        keys = asyncio.create_task(_watch_keys(process, hub, keyring))
        try:
            await _serve(process, config, keyring, hub, mailbox, epoch)
        finally:
            keys.cancel()
            hub.stop(0)
    finally:
        await asyncio.to_thread(mailbox.close)


def _refuse_open_addresses(listen: str) -> None:
    try:
        refuse_plain(listen)
    except PlainNotLoopback as error:
        hint = "set security.curve = true and make keys with `zmqgame-cli keys new`, or listen on 127.0.0.1"
        raise AddressRefused(
            f"hub.listen {listen} is reachable from other machines without CURVE", hint=hint
        ) from error


def _start(config: HubConfig, mailbox: MailboxConfig, keyring: Keyring, name: str, epoch: int) -> Hub:
    return Hub(
        [config.listen],
        hub_epoch=epoch,
        name=name,
        heartbeat_ms=config.heartbeat_ms,
        dead_ms=config.dead_ms,
        node_grace_ms=config.node_grace_ms,
        hub_grace_ms=config.hub_grace_ms,
        keep_ms=mailbox.keep_days * 86_400_000,
        player_messages=mailbox.player_messages,
        player_bytes=mailbox.player_bytes,
        **(hub_keys(keyring, name) if keyring.curve else {}),
    )


async def _watch_keys(process: Process, hub: Hub, keyring: Keyring) -> None:
    if keyring.curve:
        take = lambda: hub.set_keys(**hub_keys(keyring, process.name))  # noqa: E731
        await KeyWatch(keyring.server_files(), take, process.log).run()


async def _open_mailbox(process: Process) -> Mailbox | None:
    """Open the store; None when told to stop while another process holds it."""
    config = process.config.table(MailboxConfig)
    deadline = time.monotonic() + config.wait_s
    told = threading.Event()

    def on_wait(reason: str) -> bool:
        if not told.is_set():
            told.set()
            process.log.warning("waiting: %s", reason)
        return time.monotonic() < deadline and not process.stop.is_set()

    try:
        return await asyncio.to_thread(open_configured, process.config, process.state_dir, on_wait=on_wait)
    except ZmqgameError:
        if process.stop.is_set():
            return None
        raise


def _take_epoch(process: Process, mailbox: Mailbox) -> int:
    """Take an epoch above every one before, synced before the first connection is accepted [41].

    While the store is away the hub works without it: nothing is read or confirmed; it claims the epoch later.
    """
    path = process.state_dir / "hub.epoch"
    try:
        highest = mailbox.highest_epoch()
    except StoreUnavailable as error:
        process.log.warning("starting without the mailbox, nothing is stored until it is back: %s", error)
        highest = 0
    epoch = max(highest + 1, read(path) + 1, int(time.time()) - _EPOCH_ZERO_S)
    keep_highest(path, epoch)
    return epoch


async def _serve(
    process: Process, config: HubConfig, keyring: Keyring, hub: Hub, mailbox: Mailbox, epoch: int
) -> None:
    keeper = StoreKeeper(hub, mailbox, process.log)
    keeper.start()
    try:
        await process.ready(f"epoch {epoch} on {', '.join(hub.endpoints)}", {"hub": hub.endpoints[0]})
        observed = asyncio.create_task(_observe(process, keyring, hub, keeper))
        try:
            await _watch(process, hub, keeper, observed)
        finally:
            observed.cancel()
            await asyncio.gather(observed, return_exceptions=True)
        await asyncio.to_thread(hub.stop, config.drain_ms)
        why = await asyncio.to_thread(hub.wait, config.drain_ms + 1_000)
        process.log.info("hub ended: %s", why or "not drained in time", extra={"counters": hub.counters()})
    finally:
        hub.stop(0)
        await asyncio.to_thread(keeper.join)


async def _observe(process: Process, keyring: Keyring, hub: Hub, keeper: StoreKeeper) -> None:
    """Metrics and events: what they need is loaded when nodes can connect already."""
    module = await asyncio.to_thread(importlib.import_module, "zmqgame_bus.hub_observer")
    await module.observe(process, keyring, hub, keeper)


async def _watch(process: Process, hub: Hub, keeper: StoreKeeper, observed: asyncio.Task[None]) -> None:
    """Until told to stop: end the process when hub or store have ended, show what goes on."""
    turn, links = 0, LinkLog(process.log)
    recent: deque[int] = deque(maxlen=_RECENT_S)
    slow: set[str] = set()
    while not process.stop.is_set():
        why = hub.wait(0)
        if keeper.error is not None:
            raise keeper.error
        if observed.done():
            observed.result()
        if why is not None:
            # A broken invariant is cured by a new start; another hub in our place is not.
            raise ZmqgameError(why) if why.startswith("the hub's loop broke") else Replaced(why)
        links.write(hub.take_log(), time.monotonic())
        if turn % _STATUS_EVERY == 0:
            snapshot = orjson.loads(await asyncio.to_thread(hub.metrics))
            status, slow = snapshot["status"], _slow(process.log, snapshot["queues"], slow)
            counters = await asyncio.to_thread(hub.counters)
            process.status(_status(status, counters, keeper))
            hub.set_note(orjson.dumps(_note(counters, keeper, recent)).decode())
        turn += 1
        try:
            await asyncio.wait_for(process.stop.wait(), _LOOK_S)
        except TimeoutError:
            continue


def _slow(log: logging.Logger, queues: dict[str, Any], known: set[str]) -> set[str]:
    """Tell of nodes that begin or end to be slower than what is written to them."""
    found = {node["name"]: node for node in queues["nodes"] if node["players"]}
    for name in sorted(found.keys() - known):
        extra = {
            "node": name,
            "queued_bytes": found[name]["bytes"],
            "waiting_players": found[name]["players"],
        }
        log.warning("%s does not read as fast as it is written to", name, extra=extra)
    for name in sorted(known - found.keys()):
        log.info("%s reads again", name, extra={"node": name})
    return set(found)


def _note(counters: dict[str, int], keeper: StoreKeeper, recent: deque[int]) -> dict[str, Any]:
    """What `status` and `check` say of this process."""
    strangers = refused(counters)
    recent.append(sum(strangers.values()))
    before = recent[0] if len(recent) == recent.maxlen else 0
    note = {"refused": strangers, "refused_5m": recent[-1] - before, "store_trouble": keeper.trouble}
    return {**note, "metrics": keeper.metrics, **({"mailbox": keeper.sizes} if keeper.sizes else {})}


def _status(status: dict[str, Any], counters: dict[str, int], keeper: StoreKeeper) -> str:
    nodes, players = status["nodes_linked"], status["players_online"]
    text = f"{nodes} nodes, {players} players online, {status['counters']['messages_in']} messages"
    strangers = sum(refused(counters).values())
    if strangers:
        text = f"{text}, {strangers} connections refused"
    return f"{text}; {keeper.trouble}" if keeper.trouble else text


class StoreKeeper:
    """The thread between the hub and its mailbox."""

    def __init__(self, hub: Hub, mailbox: Mailbox, log: logging.Logger) -> None:
        self._hub = hub
        self._mailbox = mailbox
        self._log = log
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self.latency = Buckets()
        """How long its batches took."""
        self.sizes: dict[str, int] = {}
        """What the mailbox holds: messages, deferred, bytes."""
        self._sizes_at = 0.0
        self.metrics = ""
        """Where the process shows its metrics, for the status."""
        self.trouble = ""
        """Why the last batch failed; empty when it did not."""
        self.error: BaseException | None = None
        """Why the thread ended before the hub did."""

    def start(self) -> None:
        """Begin to take batches."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of the batch under way, after the hub has stopped."""
        self._thread.join()

    def _run(self) -> None:
        native = self._mailbox.native if isinstance(self._mailbox, SqliteMailbox) else None
        try:
            while self._hub.wait(0) is None:
                busy = self._take() if native is None else self._run_native(native)
                if not busy and time.monotonic() >= self._sizes_at:
                    self._look()
        except BaseException as error:
            self.error = error

    def _take(self) -> bool:
        """Run the next batch here, if there is one."""
        batch = self._hub.next_store_batch(_BATCH_WAIT_MS)
        if batch is not None:
            self._do(batch.number, batch.ops)
        return batch is not None

    def _run_native(self, native: SqliteStore) -> bool:
        """Let batches run without Python, for a while."""
        assert isinstance(self._mailbox, SqliteMailbox)
        try:
            times, purges, failed = self._hub.run_store(native, _BATCH_WAIT_MS)
        except StoreFailed as error:
            raise self._mailbox.failure(error) from error
        for took in times:
            self.latency.add(took)
        for question, answer in purges:
            self._log_purge(question, answer)
        if failed is not None:
            self._failed(str(self._mailbox.failure(StoreFailed("unavailable", failed, ""))))
        elif times:
            self._works()
        else:
            with contextlib.suppress(StoreUnavailable):  # told by the next batch
                self._mailbox.idle()
        return bool(times) or failed is not None

    def _look(self) -> None:
        """Ask the mailbox how much it holds, while nothing waits for it."""
        began = time.monotonic()
        with contextlib.suppress(StoreUnavailable):
            ((_, text),) = self._mailbox.run([("admin", '{"op":"sizes"}')])
            sizes = orjson.loads(text)
            self.sizes = sizes if "messages" in sizes else {}
        took = time.monotonic() - began
        self._sizes_at = began + max(_SIZES_S, took * _SIZES_SHARE)

    def _do(self, number: int, operations: list[Operation]) -> None:
        began = time.perf_counter()
        try:
            results = self._mailbox.run(operations)
        except StoreUnavailable as error:
            self._failed(str(error))
            self._hub.fail(number, str(error))
            return
        for operation, result in zip(operations, results, strict=True):
            if operation[0] == "admin" and "purge" in operation[1]:
                self._log_purge(operation[1], result[1])
        self._works()
        self.latency.add(time.perf_counter() - began)
        self._hub.complete(number, results)

    def _log_purge(self, question: str, answer: str) -> None:
        self._log.warning("mailbox purged by an operator: %s: %s", question, answer)

    def _failed(self, reason: str) -> None:
        if not self.trouble:
            self._log.error("nothing is confirmed as stored: %s", reason)
        self.trouble = reason

    def _works(self) -> None:
        if self.trouble:
            self._log.info("the mailbox works again")
            self.trouble = ""


if __name__ == "__main__":
    raise SystemExit(main())
