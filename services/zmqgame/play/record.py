"""The record of a match: seed, configuration, and everything that went into its rules, by frame.

Entries are (frame, kind, player, data): an input that differs from the player's last one, an action, a
player who left. Played again they must give the same state hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from zmqgame import limits
from zmqgame.play.rules import Json, Match, Refused

EntryKind = Literal["input", "action", "left"]


@dataclass
class Record:
    """What a replay needs, and the hashes it must come to."""

    match: str
    game: str
    players: list[str]
    seed: int
    config: dict[str, Any]
    entries: list[tuple[int, EntryKind, str, Any]] = field(default_factory=list)
    hashes: dict[int, str] = field(default_factory=dict)
    frames: int = 0
    cut: bool = False

    def add(self, frame: int, kind: EntryKind, player: str, data: Json) -> None:
        """One entry, in order of frames."""
        if len(self.entries) >= limits.MAX_RECORD_ENTRIES:
            self.cut = True
            return
        self.entries.append((frame, kind, player, data))

    def dump(self) -> bytes:
        """As one line of JSON."""
        return orjson.dumps({**self.__dict__, "hashes": {str(k): v for k, v in self.hashes.items()}})

    @classmethod
    def load(cls, data: bytes) -> Record:
        """What `dump` wrote."""
        values = orjson.loads(data)
        values["entries"] = [tuple(entry) for entry in values["entries"]]
        values["hashes"] = {int(frame): text for frame, text in values["hashes"].items()}
        return cls(**values)


class RecordFolder:
    """Records on disk, the newest `keep` of them."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        folder.mkdir(parents=True, exist_ok=True)
        self._names = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)

    def write(self, record: Record) -> Path:
        """Write one record whole or not at all; the oldest ones go."""
        path = self.folder / f"{record.match}.json"
        part = path.with_suffix(".part")
        part.write_bytes(record.dump())
        part.replace(path)
        self._names.append(path)
        while len(self._names) > self.keep:
            self._names.pop(0).unlink(missing_ok=True)
        return path


def apply_action(rules: Match, player: str, payload: Mapping[str, Any]) -> None:
    """Hand an action to the rules' handler for its type; raises `Refused`."""
    found = rules.handlers.get(str(payload.get("type")))
    if found is None:
        raise Refused("unknown_action", str(payload.get("type"))[:64])
    action_type, handler = found
    handler(rules, player, action_type.from_json(payload))


class Replay:
    """A record that is played again, frame by frame."""

    def __init__(self, record: Record, rules_class: type[Match]) -> None:
        self.record = record
        self.rules = rules_class(record.match, tuple(record.players), record.seed, record.config)
        self.frame = 0
        self._input_type = rules_class.input_type
        neutral = self._input_type.neutral() if self._input_type is not None else None
        self.held: dict[str, Any] = dict.fromkeys(record.players, neutral) if self._input_type else {}
        self.held_bytes: dict[str, bytes] = {}
        self._position = 0
        self.rules.start()

    def apply(self) -> None:
        """What happened before the step of this frame."""
        entries = self.record.entries
        while self._position < len(entries) and entries[self._position][0] <= self.frame:
            _, kind, player, data = entries[self._position]
            self._position += 1
            if kind == "input" and self._input_type is not None:
                self.held_bytes[player] = bytes.fromhex(data)
                self.held[player] = self._input_type.unpack(self.held_bytes[player])
            elif kind == "action":
                apply_action(self.rules, player, data)
            elif kind == "left":
                self.rules.left(player)
                self.rules.drop_player(player, data)

    def step(self) -> None:
        """One frame."""
        self.apply()
        self.rules.frame = self.frame
        self.rules.step(self.frame, self.held)
        self.rules.outbox.clear()
        self.frame += 1


def replay(
    record: Record, rules_class: type[Match], until_frame: int | None = None
) -> Iterator[tuple[int, Match]]:
    """Play a record again: yields (frame, rules) after each step."""
    played = Replay(record, rules_class)
    for frame in range(min(record.frames, until_frame or record.frames)):
        played.step()
        yield frame, played.rules
