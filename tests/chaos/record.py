"""What a child writes down: one line an event, in one write, so that kill -9 leaves whole lines.

A line is `MONOTONIC_NS KIND FIELD...`: the clock is one for all processes of a machine.
"""

import os
import time
from pathlib import Path


class Record:
    """The writing end."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, *fields: object) -> None:
        line = " ".join(map(str, (time.monotonic_ns(), *fields)))
        os.write(self._fd, line.encode() + b"\n")


class Tail:
    """The reading end: whole lines that came since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def lines(self) -> list[list[str]]:
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [line.split(" ") for line in whole.decode().splitlines()]
