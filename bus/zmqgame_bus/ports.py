"""Who holds a port: the socket's inode from /proc/net, its process from /proc/PID/fd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Holder", "holder", "split"]

_LISTEN = "0A"
_PROC = Path("/proc")


@dataclass(frozen=True)
class Holder:
    """A process that has a socket open."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"pid {self.pid}, {self.name}"


def split(address: str) -> tuple[str, int | None]:
    """Host and port of ``tcp://127.0.0.1:7600`` or ``127.0.0.1:7600``;
    port None when there is none (``ipc://``).
    """
    rest = address.split("://", 1)[-1]
    host, _, port = rest.rpartition(":")
    return (host, int(port)) if port.isdigit() else (rest, None)


def holder(port: int, *, udp: bool = False) -> Holder | None:
    """The process that listens on ``port``, if /proc lets this user see it."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port, udp)}
    if not wanted:
        return None
    for folder in _PROC.iterdir():
        if folder.name.isdigit() and _holds(folder, wanted):
            return Holder(int(folder.name), _command(folder))
    return None


def _inodes(port: int, udp: bool) -> Iterator[str]:
    for table in ("udp", "udp6") if udp else ("tcp", "tcp6"):
        try:
            lines = (_PROC / "self" / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and (udp or fields[3] == _LISTEN):
                yield fields[9]


def _holds(folder: Path, wanted: set[str]) -> bool:
    try:
        return any(os.readlink(entry.path) in wanted for entry in os.scandir(folder / "fd"))
    except OSError:
        return False  # gone, or another user's


def _command(folder: Path) -> str:
    """The script or program, as its user would name it: ``zmqgame-hub``, not ``python3``."""
    try:
        words = [word for word in (folder / "cmdline").read_text().split("\0") if word]
    except OSError:
        return "unknown"
    if not words:
        return "unknown"
    program = Path(words[0]).name
    if not program.startswith("python"):
        return program
    for index, word in enumerate(words[1:], start=1):
        if word == "-c":
            return program
        if word == "-m" and index + 1 < len(words):
            return words[index + 1]
        if not word.startswith("-"):
            return Path(word).name
    return program
