"""Messages on their way: who waits for which receipt, and who waits for room in the window."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import TypeVar

from zmqgame_native import NodeCore

from zmqgame_bus.carrier import Carrier
from zmqgame_bus.errors import BusError, WindowFull
from zmqgame_bus.messages import OUTCOMES, MessageId, Payload, Receipt, Report, SentRecord, encode
from zmqgame_bus.options import Options, not_supported, send_options, supported
from zmqgame_bus.receipts import Batch, Receipts

__all__ = ["Sent"]

_Taken = TypeVar("_Taken")


class _Waiting:
    """One message without a final receipt."""

    __slots__ = ("began", "future", "kind", "recipient", "seq", "told")

    def __init__(
        self,
        seq: int,
        kind: str,
        recipient: str,
        future: asyncio.Future[Receipt | Report] | None,
        told: Callable[[Receipt], None] | None = None,
    ) -> None:
        self.seq, self.kind, self.recipient = seq, kind, recipient
        self.future, self.told = future, told
        self.began = time.perf_counter()

    def latency_ms(self) -> float:
        return (time.perf_counter() - self.began) * 1000


class Sent:
    """Sends, and gives receipts to those who wait for them, by seq."""

    def __init__(self, on_receipt: Callable[[SentRecord], None] | None) -> None:
        self._on_receipt = on_receipt
        self._waiting: dict[int, _Waiting] = {}
        self._batches: dict[int, Batch] = {}
        self._for_room: deque[asyncio.Event] = deque()
        self._error: BusError | None = None
        self._next_receipt: asyncio.Future[None] | None = None
        self._of = (0, 0, "")
        self.events: dict[str, Callable[..., None]] = {
            "receipts": self._receipts,
            "batch": self._batch,
            "report": self._report,
        }

    def start(self, core: NodeCore, carrier: Carrier, epoch: int, name: str) -> None:
        """Send by this core from now on."""
        self._core, self._carrier = core, carrier
        self._of = (core.key, epoch, name)

    def id_of(self, seq: int) -> MessageId:
        """The id of one of our messages."""
        key, epoch, name = self._of
        return MessageId(key, epoch, seq, name)

    # --- sending ------------------------------------------------------------------------------------

    async def send(
        self, kind: str, recipient: str, take: Callable[[], int | None], timeout_s: float | None
    ) -> Receipt | Report:
        """Send one message and wait for its receipt; after the time-out it is unknown, and goes on."""
        seq = take() if not self._for_room else None
        if seq is None:
            seq = await self._room(take)
        future: asyncio.Future[Receipt | Report] = asyncio.get_running_loop().create_future()
        waiting = self._waiting[seq] = _Waiting(seq, kind, recipient, future)
        self._carrier.flush_soon()
        if timeout_s is None:
            return await future
        done, _ = await asyncio.wait([future], timeout=timeout_s)
        if done:
            return future.result()
        detail = f"no receipt after {timeout_s:g} s; it may still be delivered"
        return self._result(waiting, "unknown", detail)

    def post(
        self,
        player: str,
        payload: Payload,
        told: Callable[[Receipt], None] | None,
        policy: str,
        key: str,
        ttl_s: float | None,
        deliver_at: datetime | float | None,
        trace: bool,
    ) -> MessageId:
        """Send one message and wait for nothing; raises WindowFull."""
        core, untold = self._core, told is None and self._on_receipt is None
        options = supported(core, send_options(policy, key, ttl_s, deliver_at, trace, quiet=untold))
        id: MessageId | None = None
        if self._for_room:
            pass  # they came first
        elif untold:
            id = core.post(player, payload, options)
        else:
            seq = core.unicast(player, *encode(payload), None, options)
            if seq is not None:
                self._waiting[seq] = _Waiting(seq, "unicast", player, None, told)
                id = self.id_of(seq)
        if id is None:
            raise WindowFull(f"{player}: the window is full, {core.unreceipted} messages wait")
        self._carrier.flush_soon()
        return id

    def posted(self) -> dict[str, int]:
        """Counted receipts by outcome."""
        counts = self._core.posted()
        return {name: counts[number] for number, name in enumerate(OUTCOMES)}

    async def unicast_many(
        self, messages: Iterable[tuple[str, Payload]], timeout_s: float | None, options: Options | None
    ) -> Receipts:
        """Send messages in order, in as few steps as the window allows; wait for all receipts."""
        messages = list(messages)
        parts: list[Batch] = []
        at = 0
        try:
            while at < len(messages):
                first, taken = await self._room(partial(self._take_many, messages, at, options))
                part = Batch(first, taken, self, messages[at : at + taken] if self._on_receipt else [])
                self._batches[first] = part
                parts.append(part)
                at += taken
                self._carrier.flush_soon()
        finally:
            for part in parts[:-1]:
                part.keep()
        await self._whole(parts, timeout_s)
        return Receipts(parts)

    def _take_many(
        self, messages: list[tuple[str, Payload]], at: int, options: Options | None
    ) -> tuple[int, int] | None:
        first, taken = self._core.unicast_many(messages, at, options)
        return (first, taken) if taken else None

    @staticmethod
    async def _whole(parts: list[Batch], timeout_s: float | None) -> None:
        futures = [part.future for part in parts if not part.future.done()]
        if timeout_s is not None and futures:
            await asyncio.wait(futures, timeout=timeout_s)
            return
        for future in futures:
            await future

    async def _room(self, take: Callable[[], _Taken | None]) -> _Taken:
        """Take a place in the window, first come first served; waits while it is full."""
        if not self._for_room:
            taken = take()
            if taken is not None:
                return taken
        turn = asyncio.Event()
        self._for_room.append(turn)
        try:
            while True:
                await turn.wait()
                if self._error is not None:
                    raise self._error
                taken = take()
                if taken is not None:
                    return taken
                turn.clear()
        finally:
            self._for_room.remove(turn)
            self._wake()

    def _wake(self) -> None:
        """Only the first of those that wait: the order in which they came is the order of their messages."""
        if self._for_room:
            self._for_room[0].set()

    # --- receipts -----------------------------------------------------------------------------------

    def _receipts(self, receipts: list[tuple[int, int, str]]) -> None:
        """Final receipts of messages that were sent alone, or of group sends refused as a whole."""
        for seq, outcome, detail in receipts:
            waiting = self._waiting.pop(seq, None)
            if waiting is not None:
                self._finish(waiting, self._result(waiting, OUTCOMES[outcome], detail))
        self._came()

    def _result(self, waiting: _Waiting, outcome: str, detail: str) -> Receipt | Report:
        kind = Receipt if waiting.kind == "unicast" else Report
        return kind(outcome, detail, self.id_of(waiting.seq), waiting.latency_ms())

    def _batch(self, first: int, outcomes: bytes, latencies: bytes, details: list[tuple[int, str]]) -> None:
        """All receipts of a batch."""
        batch = self._batches.pop(first, None)
        if batch is not None:
            batch.fill(outcomes, latencies, dict(details))
            if self._on_receipt is not None:
                batch.tell(self._on_receipt)
        self._came()

    def _report(self, seq: int, counts: list[int], entries: list[tuple[str, int, str]], omitted: int) -> None:
        """The whole report of a group send."""
        waiting = self._waiting.pop(seq, None)
        if waiting is not None:
            by_outcome: Mapping[str, int] = dict(zip(OUTCOMES[1:], counts, strict=False))
            recipients = {player: (OUTCOMES[outcome], detail) for player, outcome, detail in entries}
            report = Report(
                "done", "", self.id_of(seq), waiting.latency_ms(), by_outcome, recipients, omitted
            )
            self._finish(waiting, report)
        self._came()

    def _finish(self, waiting: _Waiting, result: Receipt | Report) -> None:
        future = waiting.future
        if future is not None and not future.done():
            error = not_supported(self._core, result.detail) if result.detail else None
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
        if waiting.told is not None:
            assert isinstance(result, Receipt)
            waiting.told(result)
        if self._on_receipt is not None:
            report = result if isinstance(result, Report) else None
            self._on_receipt(
                SentRecord(
                    result.id, waiting.kind, waiting.recipient, result.outcome, result.latency_ms, report
                )
            )

    def _came(self) -> None:
        if self._next_receipt is not None:
            self._next_receipt.set_result(None)
            self._next_receipt = None
        self._wake()

    def any_receipt(self) -> asyncio.Future[None]:
        """Done at the next receipt."""
        if self._next_receipt is None:
            self._next_receipt = asyncio.get_running_loop().create_future()
        return self._next_receipt

    def fail(self, error: BusError) -> None:
        """End all that wait: the node is closed or refused. What became of their messages is unknown."""
        futures: list[asyncio.Future[None] | asyncio.Future[Receipt | Report]] = []
        futures += [waiting.future for waiting in self._waiting.values() if waiting.future is not None]
        futures += [batch.future for batch in self._batches.values()]
        for future in futures:
            if not future.done():
                future.set_exception(error)
                future.exception()
        self._waiting.clear()
        self._batches.clear()
        self._error = error
        for turn in self._for_room:
            turn.set()
