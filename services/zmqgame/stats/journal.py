"""What makes a batch exactly once: the plan in flight, and what is committed, on disk.

    1  journal   the plan is written and synced
    2  insert    table by table, each with the token (digest of the plan, table)
    3  progress  what is committed is replaced by what is committed with this plan; it names the plan
    4  confirm   the sources may forget

Killed before 1: the events are in the spools. Between 1 and 3: the next start finds a plan that progress
doesn't name, and inserts exactly the same batch with the same tokens, so ClickHouse drops what it has.
After 3: the plan is named and nothing is done. After any of them the sources may not have heard the
confirmation: they announce, and are told again.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import orjson

from zmqgame.stats.collector import Plan

_MAGIC = b"ZGPLAN1\n"


class JournalDamaged(Exception):
    """The journal or the progress file is not what this program wrote."""


class Journal:
    """The two files of stats, in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._plan, self._progress = folder / "plan", folder / "progress.json"

    def write_plan(self, plan: Plan) -> None:
        """Make the plan durable."""
        _replace(self._plan, _MAGIC + plan.digest.encode() + plan.data)

    def read_plan(self) -> Plan | None:
        """The plan in flight when the last process ended."""
        try:
            data = self._plan.read_bytes()
        except FileNotFoundError:
            return None
        plan = Plan.parse(data[len(_MAGIC) + 64 :])
        if data[: len(_MAGIC)] != _MAGIC or plan.digest.encode() != data[len(_MAGIC) : len(_MAGIC) + 64]:
            raise JournalDamaged(f"{self._plan} is not a plan of this program, or is damaged")
        return plan

    def write_progress(self, installation: str, digest: str, sources: dict[str, Any]) -> None:
        """Make what is committed durable; `digest` names the plan that it includes."""
        _replace(
            self._progress, orjson.dumps({"installation": installation, "plan": digest, "sources": sources})
        )

    def read_progress(self) -> dict[str, Any] | None:
        """{"installation", "plan", "sources"}, or None before the first batch."""
        try:
            found: dict[str, Any] = orjson.loads(self._progress.read_bytes())
        except FileNotFoundError:
            return None
        except orjson.JSONDecodeError as error:
            raise JournalDamaged(f"{self._progress}: {error}") from error
        return found

    def remove_plan(self) -> None:
        """The plan is in progress: it needs no room any more."""
        with contextlib.suppress(FileNotFoundError):
            self._plan.unlink()


def _replace(path: Path, data: bytes) -> None:
    scratch = path.with_name(path.name + ".new")
    with scratch.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
