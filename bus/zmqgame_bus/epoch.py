"""A node's epoch: a number that grows at each of its starts, also with an empty disk (BUS.md rule 4a)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from urllib.parse import quote

from zmqgame_bus.errors import StartError, explain

__all__ = ["keep_highest", "next_epoch"]

_last = 0


def next_epoch(name: str, state_dir: Path | None) -> int:
    """Return max(stored + 1, unix ms) and store it, synced, before anything goes out under it."""
    global _last
    path = state_dir / f"{quote(name, safe='')}.epoch" if state_dir else None
    stored = read(path) if path else 0
    _last = max(stored + 1, _last + 1, time.time_ns() // 1_000_000)
    if path:
        keep_highest(path, _last)
    return _last


def read(path: Path) -> int:
    """Return the number in the file; 0 if there is none (the wall clock then keeps it growing)."""
    try:
        return int(path.read_text("ascii").strip())
    except (FileNotFoundError, ValueError):
        return 0
    except OSError as error:
        raise explain(error, str(path)) or StartError(f"{path}: {error.strerror}") from error


def keep_highest(path: Path, value: int) -> None:
    """Put a number into the file, so that a power loss leaves the old one or the new one."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(scratch, "w", encoding="ascii") as stream:
            stream.write(f"{value}\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(scratch, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise explain(error, str(path)) or StartError(f"{path}: {error.strerror}") from error
