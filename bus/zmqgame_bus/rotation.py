"""Rotation of a CURVE pair in two steps, with both keys valid in between.

====== ============ =========== ====================================
after  NAME.key     NAME.pub    allowed.keys
====== ============ =========== ====================================
before old          old         lines of old
begin  new, old     new, old    lines of old, the same lines for new
finish new          new         lines of new
====== ============ =========== ====================================

A server (the hub) answers to both pairs; a process that connects uses the first one. Before the second step
the others must have the new NAME.pub and allowed.keys. Nobody has to be quick: the time between is the
operator's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from zmqgame_bus.errors import KeyFileError
from zmqgame_bus.keys import (
    Allowed,
    allow,
    encode,
    fresh_pair,
    pairs_text,
    read_allowed,
    read_pairs,
    revoke,
    rewrite,
)

__all__ = ["Rotation", "begin", "finish"]


@dataclass(frozen=True)
class Rotation:
    """What a step has done."""

    name: str
    new: bytes
    old: bytes
    lines: tuple[Allowed, ...]
    """Lines of allowed.keys that were added by the first step, or taken out by the second."""


def begin(folder: Path, name: str) -> Rotation:
    """Make a new pair that is valid beside the old one."""
    pairs = read_pairs(folder / f"{name}.key")
    if len(pairs) > 1:
        raise KeyFileError(
            f"{name} has two pairs already: its rotation is under way",
            hint=f"zmqgame-cli keys rotate {name} --finish --dir {folder}",
        )
    old, new = pairs[0], fresh_pair()
    lines = []
    allowed = folder / "allowed.keys"
    # The list first: a process that starts with the new key finds it allowed.
    for entry in read_allowed(allowed) if allowed.exists() else []:
        if entry.public == old.public:
            lines.append(replace(entry, public=new.public))
            allow(allowed, lines[-1])
    rewrite(folder / f"{name}.pub", f"{encode(new.public)}\n{encode(old.public)}\n", 0o644)
    rewrite(folder / f"{name}.key", pairs_text(name, [new, old]), 0o600)
    return Rotation(name, new.public, old.public, tuple(lines))


def finish(folder: Path, name: str) -> Rotation:
    """Let the old pair go: who still uses it is refused from now on."""
    pairs = read_pairs(folder / f"{name}.key")
    if len(pairs) < 2:
        raise KeyFileError(
            f"{name} has one pair: no rotation is under way",
            hint=f"zmqgame-cli keys rotate {name} --dir {folder}",
        )
    new, old = pairs
    rewrite(folder / f"{name}.pub", encode(new.public) + "\n", 0o644)
    allowed = folder / "allowed.keys"
    lines = revoke(allowed, old.public) if allowed.exists() else []
    # The pairs last: they say that a rotation is under way, so what was cut off here can be done again.
    rewrite(folder / f"{name}.key", pairs_text(name, [new]), 0o600)
    return Rotation(name, new.public, old.public, tuple(lines))
