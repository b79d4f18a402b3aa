"""The node name of a command: `cli-HOST-N`, held under a file lock while the command runs.

The hub keeps one connection a name, so two operators at once need two names; and a small number of names
that come back (not one per process) lets the next run end what a killed one has left in the hub [BUS rule
4a].
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from zmqgame_bus.errors import StartError

__all__ = ["borrowed_name", "kept_name"]

NAMES: Final = 64
"""Commands at once on one host:
more is a script gone wrong, and each name costs the hub a place in its roster.
"""

WAIT_S: Final = 30.0
"""How long to wait for a name that must be this one (--id): longer than any command waits for a receipt."""


@contextmanager
def borrowed_name(wanted: str | None = None) -> Iterator[tuple[str, Path]]:
    """A free name and its state folder; or the name ``wanted`` once it is free."""
    host = _host()
    if wanted is not None:
        if not re.fullmatch(rf"cli-{re.escape(host)}-\d{{1,2}}", wanted):
            raise StartError(
                f"{wanted} is not a name of a command on this host", hint=f"names are cli-{host}-N"
            )
        numbers = [int(wanted.rpartition("-")[2])]
    else:
        numbers = list(range(1, NAMES + 1))
    folder = _lock_folder()
    number, fd = _take(folder, numbers, WAIT_S if wanted else 0)
    try:
        state = _state_folder() / f"cli-{host}-{number}"
        state.mkdir(parents=True, exist_ok=True)
        yield f"cli-{host}-{number}", state
    finally:
        os.close(fd)


def kept_name(kind: str) -> str:
    """A free name `KIND-HOST-N`: ours until this process ends, also as the program that it turns into."""
    number, fd = _take(_lock_folder(), list(range(1, NAMES + 1)), 0, kind)
    os.set_inheritable(fd, True)
    return f"{kind}-{_host()}-{number}"


def _host() -> str:
    return re.sub(r"[^a-z0-9-]", "-", socket.gethostname().split(".")[0].lower())[:40] or "host"


def _take(folder: Path, numbers: list[int], wait_s: float, kind: str = "") -> tuple[int, int]:
    until = time.monotonic() + wait_s
    while True:
        for number in numbers:
            fd = _open(folder / f"{kind}{number}.lock")
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return number, fd
            except OSError:
                os.close(fd)
        if time.monotonic() >= until:
            raise StartError(
                f"all {len(numbers)} command names of this host are in use", hint="end some commands"
            )
        time.sleep(0.05)


def _open(path: Path) -> int:
    """Locks are shared by all users of the host: another user's file can be locked, though not written."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _lock_folder() -> Path:
    folder = Path(os.environ.get("ZMQGAME_CLI_LOCKS") or Path(tempfile.gettempdir()) / "zmqgame-cli")
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)
    return folder


def _state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(os.environ.get("ZMQGAME_CLI_STATE") or Path(base) / "zmqgame")
