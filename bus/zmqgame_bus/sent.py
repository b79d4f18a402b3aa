"""Messages on their way: who waits for which receipt, and who waits for room in the window."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from zmqgame_bus.errors import BusError
from zmqgame_bus.messages import MessageId, Receipt, Report, SentRecord

__all__ = ["Sent"]


@dataclass(slots=True)
class _Waiting:
    kind: str
    recipient: str
    id: MessageId
    began: float
    future: asyncio.Future[Receipt | Report]

    def latency_ms(self) -> float:
        return (time.perf_counter() - self.began) * 1000


class Sent:
    """Receipts by seq, also of those for which nobody waits any more."""

    def __init__(self, on_receipt: Callable[[SentRecord], None] | None) -> None:
        self._on_receipt = on_receipt
        self._waiting: dict[int, _Waiting] = {}
        self._for_room: deque[asyncio.Event] = deque()
        self._error: BusError | None = None
        self._next_receipt: asyncio.Future[None] | None = None

    async def room(self, take: Callable[[], int | None]) -> int:
        """Take a seq, first come first served; waits while the window is full."""
        if not self._for_room:
            seq = take()
            if seq is not None:
                return seq
        turn = asyncio.Event()
        self._for_room.append(turn)
        try:
            while True:
                await turn.wait()
                if self._error is not None:
                    raise self._error
                seq = take()
                if seq is not None:
                    return seq
                turn.clear()
        finally:
            self._for_room.remove(turn)
            self._wake()

    def _wake(self) -> None:
        """Only the first of those that wait: the order in which they came is the order of their messages."""
        if self._for_room:
            self._for_room[0].set()

    def add(self, seq: int, kind: str, recipient: str, id: MessageId) -> _Waiting:
        """Note a message that was taken."""
        future = asyncio.get_running_loop().create_future()
        waiting = _Waiting(kind, recipient, id, time.perf_counter(), future)
        self._waiting[seq] = waiting
        return waiting

    async def wait(self, waiting: _Waiting, timeout_s: float | None) -> Receipt | Report:
        """Wait for the receipt; after the time-out it is unknown, and the message goes on."""
        if timeout_s is None:
            return await asyncio.shield(waiting.future)
        done, _ = await asyncio.wait([waiting.future], timeout=timeout_s)
        if done:
            return waiting.future.result()
        detail = f"no receipt after {timeout_s:g} s; it may still be delivered"
        if waiting.kind == "unicast":
            return Receipt("unknown", detail, waiting.id, waiting.latency_ms())
        return Report("unknown", detail, waiting.id, waiting.latency_ms())

    def receipt(self, seq: int, outcome: str, detail: str) -> None:
        """The final receipt of a unicast, or of a group send that was refused as a whole."""
        waiting = self._waiting.pop(seq, None)
        if waiting is None:
            return
        if waiting.kind == "unicast":
            self._finish(waiting, Receipt(outcome, detail, waiting.id, waiting.latency_ms()))
        else:
            self._finish(waiting, Report(outcome, detail, waiting.id, waiting.latency_ms()))

    def report(
        self, seq: int, counts: Mapping[str, int], recipients: Mapping[str, tuple[str, str]], omitted: int
    ) -> None:
        """The whole report of a group send."""
        waiting = self._waiting.pop(seq, None)
        if waiting is not None:
            report = Report("done", "", waiting.id, waiting.latency_ms(), counts, recipients, omitted)
            self._finish(waiting, report)

    def _finish(self, waiting: _Waiting, result: Receipt | Report) -> None:
        if not waiting.future.done():
            waiting.future.set_result(result)
        if self._on_receipt is not None:
            report = result if isinstance(result, Report) else None
            self._on_receipt(
                SentRecord(
                    waiting.id, waiting.kind, waiting.recipient, result.outcome, result.latency_ms, report
                )
            )
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
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(error)
                waiting.future.exception()
        self._waiting.clear()
        self._error = error
        for turn in self._for_room:
            turn.set()
