"""What stats knows: numbers of every source, events waiting to be inserted, what to ask for, what to
confirm. Pure.

    frames in -> `receive` -> waiting -> `plan` -> (journal, insert, progress) -> `committed` ->
    `confirmations` out
                    gaps -> `asks` out, whose answers are frames again

Everything that is waiting is bounded in bytes. Over the bound, frames are not taken: their numbers stay
missing, so they are asked for again when there is room. The sources' spools are the buffer while ClickHouse
is away.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from zmqgame_bus.records import (
    ANNOUNCE,
    LOST,
    RECORD_ROOM,
    RECORDS,
    Frame,
    FrameError,
    Record,
    decode_frame,
    encode_frame,
    encode_record,
    frame_head,
)

from zmqgame.limits import (
    STATS_EPOCHS_KEPT,
    STATS_EPOCHS_MAX,
    STATS_PLAN_BYTES,
    STATS_SOURCES_MAX,
)
from zmqgame.stats.gaps import EpochTracker, Range, RangeSet

_LENGTH = struct.Struct("<I")


class Ask(NamedTuple):
    """Numbers to ask a source for."""

    source: str
    epoch: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """One batch as it goes to the journal: the frames it is made of. Its bytes decide its tokens and its
    rows."""

    frames: tuple[Frame, ...]
    data: bytes

    @cached_property
    def digest(self) -> str:
        """Names the batch; the same batch after a crash has the same name."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def rows(self) -> int:
        """How many events."""
        return sum(len(frame.records) for frame in self.frames)

    @classmethod
    def of(cls, frames: list[Frame]) -> Plan:
        """A plan of these frames."""
        parts = []
        for frame in frames:
            data = _encode(frame)
            parts += [_LENGTH.pack(len(data)), data]
        return cls(tuple(frames), b"".join(parts))

    @classmethod
    def parse(cls, data: bytes) -> Plan:
        """The plan that `data` was made of; raises FrameError."""
        frames, offset = [], 0
        while offset < len(data):
            if len(data) - offset < _LENGTH.size:
                raise FrameError("length", "a plan that ends in a length")
            (length,) = _LENGTH.unpack_from(data, offset)
            frames.append(decode_frame(data[offset + _LENGTH.size : offset + _LENGTH.size + length]))
            offset += _LENGTH.size + length
        return cls(tuple(frames), data)


@dataclass(slots=True)
class SourceState:
    """One source: its epochs, and below which epoch its frames are refused."""

    epochs: dict[int, EpochTracker] = field(default_factory=dict)
    floor: int = 0


class Collector:
    """The state machine of stats."""

    def __init__(self, *, buffer_bytes: int) -> None:
        self.sources: dict[str, SourceState] = {}
        self.counters: Counter[str] = Counter()
        self.waiting_bytes = 0
        self.waiting_rows = 0
        self._waiting: deque[Frame] = deque()
        self._buffer_bytes = buffer_bytes

    # -- in --------------------------------------------------------------------------------------------------

    def receive(self, frame: Frame) -> None:
        """A frame has come, by PUB or as an answer."""
        self.counters["frames"] += 1
        if frame.kind == ANNOUNCE:
            self._announced(frame)
        elif (tracker := self._tracker(frame.source, frame.epoch)) is None:
            self.counters["frames_refused"] += 1
        elif frame.kind == LOST:
            self._lost(frame, tracker)
        else:
            self._records(frame, tracker)

    def _records(self, frame: Frame, tracker: EpochTracker) -> None:
        if not frame.records or frame.records[0][0] < 1:
            return
        if self.full:
            tracker.announce(frame.records[-1][0])
            self.counters["frames_postponed"] += 1
            return
        for first, run in _runs(frame.records):
            new = tracker.take(first, first + len(run) - 1)
            if new == [(first, first + len(frame.records) - 1)]:
                self._wait(frame)  # all of it is new: its bytes can go to the journal as they are
                continue
            for start, end in new:
                self._wait(Frame(RECORDS, frame.source, frame.epoch, run[start - first : end - first + 1]))

    def _wait(self, frame: Frame) -> None:
        self._waiting.append(frame)
        self.waiting_rows += len(frame.records)
        self.waiting_bytes += _size(frame)

    def _lost(self, frame: Frame, tracker: EpochTracker) -> None:
        first, last = frame.data["first"], frame.data["last"]
        for start, end in tracker.take(first, last):
            data = {"first": start, "last": end, "reason": str(frame.data.get("reason", ""))[:1_000]}
            self._wait(Frame(LOST, frame.source, frame.epoch, [], data))

    def _announced(self, frame: Frame) -> None:
        listed = set()
        for epoch, first, last in frame.data:
            tracker = self._tracker(frame.source, epoch)
            if tracker is None:
                self.counters["frames_refused"] += 1
                continue
            listed.add(epoch)
            tracker.announce(last, first)
        state = self.sources.get(frame.source)
        if state is not None:
            _forget_finished(state, frame.epoch, listed)

    def _tracker(self, source: str, epoch: int) -> EpochTracker | None:
        state = self.sources.get(source)
        if state is None:
            if len(self.sources) >= STATS_SOURCES_MAX:
                return None
            state = self.sources[source] = SourceState()
        if epoch < state.floor:
            return None
        tracker = state.epochs.get(epoch)
        if tracker is None:
            if len(state.epochs) >= STATS_EPOCHS_MAX:
                return None
            tracker = state.epochs[epoch] = EpochTracker()
        return tracker

    # -- out -------------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether nothing more is taken until a batch is committed."""
        return self.waiting_bytes >= self._buffer_bytes

    def plan(self, rows: int) -> Plan | None:
        """The next batch: at most about `rows` and STATS_PLAN_BYTES, at least one frame if any waits."""
        frames: list[Frame] = []
        size = count = 0
        while self._waiting and count < rows and size < STATS_PLAN_BYTES:
            frame = self._waiting.popleft()
            frames.append(frame)
            size += _size(frame)
            count += len(frame.records)
        self.waiting_rows -= count
        return Plan.of(frames) if frames else None

    def committed(self, plan: Plan) -> None:
        """The batch is in ClickHouse (and progress is saved after this)."""
        for frame in plan.frames:
            tracker = self._tracker(frame.source, frame.epoch)
            if tracker is None:
                continue
            if frame.kind == LOST:
                tracker.give_up(*_ends(frame))
            else:
                tracker.commit(*_ends(frame))
        self.counters["rows"] += plan.rows
        self.counters["batches"] += 1

    def released(self, plan: Plan) -> None:
        """The batch, which came from `plan`, no longer takes room."""
        self.waiting_bytes -= sum(_size(frame) for frame in plan.frames)

    def asks(self) -> Iterator[Ask]:
        """For each source the oldest numbers that are missing; none while there is no room for the
        answers."""
        if self.full:
            return
        for source, state in self.sources.items():
            for epoch in sorted(state.epochs):
                gap = next(state.epochs[epoch].gaps(), None)
                if gap is not None:
                    yield Ask(source, epoch, *gap)
                    break

    def confirmations(self) -> Iterator[tuple[str, list[Range]]]:
        """For each source that does not know it yet: epochs, and up to which number each is committed."""
        for source, state in self.sources.items():
            reached = [(epoch, tracker.confirmable()) for epoch, tracker in sorted(state.epochs.items())]
            news = [(epoch, up_to) for epoch, up_to in reached if up_to > state.epochs[epoch].told]
            if news:
                yield source, news

    def confirmed(self, source: str, epochs: list[Range]) -> None:
        """The source has taken these confirmations."""
        for epoch, up_to in epochs:
            tracker = self.sources[source].epochs.get(epoch)
            if tracker is not None:
                tracker.told = max(tracker.told, up_to)

    def adopt(self, plan: Plan) -> None:
        """A plan of an earlier process is under way: its numbers are taken."""
        for frame in plan.frames:
            tracker = self._tracker(frame.source, frame.epoch)
            if tracker is not None:
                first, last = _ends(frame)
                tracker.take(first, last)
            self.waiting_bytes += _size(frame)

    # -- progress --------------------------------------------------------------------------------------------

    def progress(self) -> dict[str, Any]:
        """What is committed, for the progress file."""
        return {
            source: {
                "floor": state.floor,
                "epochs": {
                    str(epoch): {"committed": list(tracker.committed), "lost": list(tracker.lost)}
                    for epoch, tracker in state.epochs.items()
                },
            }
            for source, state in self.sources.items()
        }

    def restore(self, progress: dict[str, Any]) -> None:
        """Go on from a progress file."""
        for source, saved in progress.items():
            state = self.sources[source] = SourceState(floor=saved["floor"])
            for epoch, numbers in saved["epochs"].items():
                tracker = state.epochs[int(epoch)] = EpochTracker()
                tracker.lost = RangeSet((a, b) for a, b in numbers["lost"])
                for first, last in numbers["committed"]:
                    tracker.commit(first, last)

    def found(self, source: str, epoch: int, first: int, last: int, *, lost: bool = False) -> None:
        """ClickHouse has these, or has on record that they are lost."""
        tracker = self._tracker(source, epoch)
        if tracker is None:
            return
        if lost:
            tracker.give_up(first, last)
        else:
            tracker.commit(first, last)

    def status(self) -> list[dict[str, Any]]:
        """What each source has published as far as known, and what became of it."""
        return [
            {
                "source": source,
                "epoch": epoch,
                "published": tracker.known,
                "inserted": tracker.committed.count() - tracker.lost.count(),
                "lost": tracker.lost.count(),
                "waiting": tracker.seen.count() - tracker.committed.count(),
                "missing": tracker.known - tracker.seen.count(),
                "repeated": tracker.repeated,
            }
            for source, state in sorted(self.sources.items())
            for epoch, tracker in sorted(state.epochs.items())
        ]


def check_frame(frame: Frame) -> Frame:
    """The frame, if its JSON is of the shape that its kind has; else FrameError."""
    if frame.kind == ANNOUNCE:
        right = isinstance(frame.data, list) and all(
            isinstance(item, list) and len(item) == 3 and all(_whole(number) for number in item)
            for item in frame.data
        )
    elif frame.kind == LOST:
        right = (
            isinstance(frame.data, dict)
            and _whole(frame.data.get("first"))
            and _whole(frame.data.get("last"))
            and 1 <= frame.data["first"] <= frame.data["last"]
        )
    else:
        right = True
    if not right:
        raise FrameError("json", f"not the shape of kind {frame.kind}")
    return frame


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**63


def _forget_finished(state: SourceState, current: int, listed: set[int]) -> None:
    finished = [
        epoch
        for epoch, tracker in sorted(state.epochs.items())
        if epoch < current and epoch not in listed and tracker.confirmable() >= tracker.known
    ]
    for epoch in finished[: max(0, len(finished) - STATS_EPOCHS_KEPT)]:
        if epoch != min(state.epochs):
            break  # the floor may only pass what is finished
        del state.epochs[epoch]
        state.floor = epoch + 1


def _runs(records: list[Record]) -> Iterator[tuple[int, list[Record]]]:
    """Records cut where their numbers do not follow each other."""
    if [seq for seq, _ in records] == list(range(records[0][0], records[0][0] + len(records))):
        yield records[0][0], records
        return
    begin = 0
    for index in range(1, len(records) + 1):
        if index == len(records) or records[index][0] != records[index - 1][0] + 1:
            yield records[begin][0], records[begin:index]
            begin = index


def _ends(frame: Frame) -> Range:
    if frame.kind == LOST:
        return frame.data["first"], frame.data["last"]
    return frame.records[0][0], frame.records[-1][0]


def _size(frame: Frame) -> int:
    if frame.raw:
        return len(frame.raw) + 64 * len(frame.records)
    return 64 + sum(RECORD_ROOM + 64 + len(body) for _, body in frame.records)


def _encode(frame: Frame) -> bytes:
    if frame.raw:
        return frame.raw
    if frame.kind == LOST:
        return encode_frame(LOST, frame.source, frame.epoch, frame.data)
    return frame_head(RECORDS, frame.source, frame.epoch) + b"".join(encode_record(*r) for r in frame.records)
