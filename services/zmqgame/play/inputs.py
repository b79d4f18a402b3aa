"""Frame-numbered inputs of one player: a small window ahead of the match, missing frames filled by rule.

A client sends the inputs of its last few frames in each packet, so a lost packet costs nothing. An input
that comes too late for its own frame still counts as the newest one known, which is what is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

from zmqgame import limits
from zmqgame.play.rules import Missing, Refused


@dataclass
class InputCounters:
    """What became of the inputs of one player."""

    taken: int = 0
    filled: int = 0
    late: int = 0
    early: int = 0
    repeated: int = 0


class InputBuffer:
    """The inputs of one player that the match has not come to yet; at most `window` frames of them."""

    def __init__(
        self, size: int, neutral: bytes, missing: Missing, window: int = limits.INPUT_WINDOW_FRAMES
    ) -> None:
        self.size = size
        self.neutral = neutral
        self.missing = missing
        self.window = window
        self.counters = InputCounters()
        self._ahead: dict[int, bytes] = {}
        self._next_frame = 0  # the frame that `take` is asked for next
        self._newest_frame = -1  # of what `_newest` holds: the last input known at or before the next frame
        self._newest = neutral

    def add(self, frame: int, payload: bytes) -> None:
        """A packet: count u8, then that many inputs, newest first, for frame, frame - 1 and so on."""
        count = payload[0] if payload else 0
        if not 1 <= count <= limits.MAX_INPUTS_PER_PACKET or len(payload) != 1 + count * self.size:
            raise Refused(
                "malformed", f"input packet of {len(payload)} bytes with {count} inputs of {self.size}"
            )
        if frame > self._next_frame + self.window:
            self.counters.early += count
            return
        for index in range(count):
            if frame - index >= 0:
                self._put(frame - index, payload[1 + index * self.size : 1 + (index + 1) * self.size])

    def _put(self, frame: int, data: bytes) -> None:
        if frame >= self._next_frame:
            if frame in self._ahead:
                self.counters.repeated += 1
            else:
                self._ahead[frame] = data
        elif frame > self._newest_frame:
            self.counters.late += 1
            self._newest_frame, self._newest = frame, data

    def take(self, frame: int) -> bytes:
        """The input of a frame, asked for in order: what came, else what the rule says."""
        self._next_frame = frame + 1
        data = self._ahead.pop(frame, None)
        if data is not None:
            self.counters.taken += 1
            self._newest_frame, self._newest = frame, data
            return data
        self.counters.filled += 1
        if self.missing == "repeat" and frame - self._newest_frame <= limits.INPUT_REPEAT_FRAMES:
            return self._newest
        return self.neutral

    @property
    def heard_frame(self) -> int:
        """The frame of the newest input that is known, of those the match has come to; -1: none."""
        return self._newest_frame

    def start_at(self, frame: int, held: bytes, heard_frame: int) -> None:
        """Go on from a frame, with the input held before it, which was heard at that earlier frame."""
        self._ahead.clear()
        self._next_frame, self._newest_frame, self._newest = frame, min(heard_frame, frame - 1), held

    def __len__(self) -> int:
        return len(self._ahead)
