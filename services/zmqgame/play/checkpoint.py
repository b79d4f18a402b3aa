"""What another server needs to go on with a match: its record up to a frame, its state, its players' actions.

A match is deterministic, so its record is its state. The record travels in parts: a `Head` says where the
match is, a part has the entries since the part before. The manager keeps heads and parts and reads neither;
`restore` makes a match of them, which plays its record again and then goes on (`MatchRun.catch_up`).
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from zmqgame import limits
from zmqgame.play.match import ENDED, MatchRun, State
from zmqgame.play.record import Record
from zmqgame.play.rules import Match, Phases, Refused

COMPRESSION = 1  # the fastest: JSON of inputs shrinks to a tenth


@dataclass
class Progress:
    """How much of a match's record has been handed out."""

    parts: int = 0
    entries: int = 0
    hashes: int = 0
    bytes: int = 0
    full: bool = False  # over the limit: this match can't be restored, and nothing more of it is sent


@dataclass(frozen=True)
class Part:
    """One step of a match's record; `number` 0 begins it anew."""

    match: str
    epoch: int
    number: int
    head: bytes
    body: bytes

    def to_json(self) -> dict[str, Any]:
        """As it travels."""
        return {
            "match": self.match,
            "epoch": self.epoch,
            "part": self.number,
            "head": b64encode(self.head).decode(),
            "body": b64encode(self.body).decode(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Part:
        """What `to_json` made; raises `Refused`."""
        try:
            part = cls(
                str(values["match"]),
                int(values["epoch"]),
                int(values["part"]),
                b64decode(values["head"]),
                b64decode(values["body"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Refused("malformed", f"checkpoint: {type(error).__name__}"[:200]) from error
        if len(part.head) + len(part.body) > limits.CHECKPOINT_BYTES:
            raise Refused("limit", f"checkpoint of {len(part.head) + len(part.body)} bytes")
        return part


def next_part(run: MatchRun, progress: Progress, now_ms: int) -> Part:
    """What is new in a match since the last part; moves `progress`."""
    record = run.record
    if progress.parts >= limits.CHECKPOINT_PARTS:
        progress.parts = progress.entries = progress.hashes = progress.bytes = 0
    frames = sorted(record.hashes)
    body = {
        "entries": record.entries[progress.entries :],
        "hashes": {str(frame): record.hashes[frame] for frame in frames[progress.hashes :]},
    }
    if progress.parts == 0:
        body["base"] = {
            "game": record.game,
            "players": record.players,
            "seed": record.seed,
            "config": record.config,
        }
    head = orjson.dumps(_head(run, now_ms))
    part = Part(run.id, run.epoch, progress.parts, head, zlib.compress(orjson.dumps(body), COMPRESSION))
    progress.parts += 1
    progress.entries, progress.hashes = len(record.entries), len(frames)
    progress.bytes += len(part.body)
    progress.full = progress.full or record.cut or progress.bytes + len(head) > limits.CHECKPOINT_BYTES
    return part


def _head(run: MatchRun, now_ms: int) -> dict[str, Any]:
    return {
        "frame": run.frame,
        "state": run.state,
        "waited_ms": run.waited_ms(now_ms),
        "started": run.started_at_ms is not None,
        "seats": {
            seat.player: {
                "ready": seat.ready,
                "out": seat.out,
                "session": str(seat.session),
                "action": seat.last_action,
                "heard": seat.inputs.heard_frame if seat.inputs is not None else -1,
            }
            for seat in run.seats.values()
        },
    }


def restore(
    rules_class: type[Match],
    match: str,
    epoch: int,
    head: bytes,
    bodies: list[bytes],
    *,
    now_ms: int,
    phases: Phases,
    planned: bool,
) -> MatchRun:
    """A match that goes on from there, once it has caught up; raises `Refused` for what is none."""
    try:
        where = orjson.loads(head)
        record = _record(match, bodies)
        record.frames = int(where["frame"])
        run = MatchRun(
            rules_class,
            match,
            record.players,
            seed=record.seed,
            config=record.config,
            now_ms=now_ms,
            phases=phases,
        )
        run.epoch = epoch
        run.begin_catch_up(Resumption.read(where, record, planned), now_ms)
        return run
    except (KeyError, TypeError, ValueError, AttributeError, zlib.error) as error:
        if isinstance(error, Refused):
            raise
        raise Refused("malformed", f"checkpoint: {type(error).__name__} {error}"[:200]) from error


def _record(match: str, bodies: list[bytes]) -> Record:
    """The whole record; what unpacks to more than any record may be is refused before it is parsed."""
    record: Record | None = None
    left = limits.CHECKPOINT_BYTES * 40
    for body in bodies:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(body, left)
        left -= len(data)
        if unpacker.unconsumed_tail or left <= 0:
            raise Refused("limit", f"a record of over {limits.CHECKPOINT_BYTES * 40} bytes")
        values = orjson.loads(data)
        if record is None:
            record = Record(match=match, **values["base"])
        record.entries += [tuple(entry) for entry in values["entries"]]
        record.hashes |= {int(frame): text for frame, text in values["hashes"].items()}
    if record is None:
        raise Refused("malformed", "checkpoint without a part")
    return record


@dataclass(frozen=True)
class SeatHeld:
    """A player's place as the checkpoint has it."""

    ready: bool
    out: bool
    session: int
    action: int
    heard_frame: int


@dataclass(frozen=True)
class Resumption:
    """Where a restored match goes on."""

    record: Record
    frame: int
    state: State
    waited_ms: int
    started: bool
    planned: bool
    seats: Mapping[str, SeatHeld] = field(default_factory=dict)

    @classmethod
    def read(cls, where: Mapping[str, Any], record: Record, planned: bool) -> Resumption:
        """From a head; raises what a wrong one raises."""
        state = State(where["state"])
        if state in ENDED or not int(where["frame"]) >= 0 or set(where["seats"]) != set(record.players):
            raise Refused("malformed", "checkpoint of a match that can't go on")
        seats = {
            player: SeatHeld(
                bool(seat["ready"]),
                bool(seat["out"]),
                int(seat["session"]),
                int(seat["action"]),
                int(seat["heard"]),
            )
            for player, seat in where["seats"].items()
        }
        waited_ms, started = int(where["waited_ms"]), bool(where["started"])
        return cls(record, int(where["frame"]), state, waited_ms, started, planned, seats)
