"""The mailbox in SQLite: its lock, start and errors; the work is native (rust/store; BUS.md sections 5, 11).

Two things keep a second hub out: an flock on `PATH.lock` for the life of the process, whose text says
who holds it, and the epoch row, which is looked at whenever the file is opened [23]. What is assumed of
SQLite: in WAL mode with synchronous FULL a commit survives power loss, with NORMAL it survives the process;
AUTOINCREMENT never gives a row number twice [22].

There are two logs: `PATH-batches`, whose records confirm batches, and SQLite's own, into which they go
later, many together. A crash tears what was being written last and no more: so one with more behind what
can't be read is refused at start. Not told are damage to the very last record or transactions, and to pages
of the database.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from zmqgame_native import SqliteStore, StoreFailed, sqlite_log_end

from .errors import AlreadyRunning, Replaced, StoreDamaged, StoreUnavailable, ZmqgameError
from .mailbox import Operation, Result
from .sqlite_export import export

__all__ = ["DURABILITY", "SqliteMailbox"]

# Named for what a confirmed message survives.
DURABILITY = {"power-loss": "FULL", "process-crash": "NORMAL"}

_LOCK_RETRY_S = 0.05
# A crash may tear the transaction that was being written. One that continues another behind the tear began
# after the sync of that one.
_DAMAGED_COMMITS = 2


class SqliteMailbox:
    """A mailbox in one SQLite file. See zmqgame_bus.mailbox.Mailbox."""

    def __init__(
        self,
        path: str | Path,
        *,
        durability: str = "power-loss",
        max_bytes: int = 16 << 30,
        player_messages: int = 0,
        player_bytes: int = 0,
        on_wait: Callable[[str], bool] | None = None,
        on_step: Callable[[str], object] | None = None,
    ) -> None:
        """Lock and open the file; while another process holds it, ask `on_wait` whether to go on waiting."""
        if durability not in DURABILITY:
            raise StoreUnavailable(f"durability {durability!r} is none of {', '.join(DURABILITY)}")
        self._path = Path(path)
        self._synchronous = DURABILITY[durability]
        self._lock = self._take_lock(on_wait or (lambda _reason: False))
        try:
            self._check_log()
            with self._failures():
                self.native = SqliteStore(
                    str(self._path),
                    power_loss=self._synchronous == "FULL",
                    max_bytes=max_bytes,
                    player_messages=player_messages or sys.maxsize,
                    player_bytes=player_bytes or sys.maxsize,
                    on_step=on_step,
                )
                """What the hub runs its batches in, without Python."""
        except OSError as error:
            self._lock.close()
            raise StoreUnavailable(f"mailbox {self._path}: {error}") from error
        except BaseException:
            self._lock.close()
            raise

    # --- the file ---------------------------------------------------------------------------------

    def _take_lock(self, on_wait: Callable[[str], bool]) -> IO[str]:
        path = self._path.with_name(self._path.name + ".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (held until close)
        except OSError as error:
            raise StoreUnavailable(f"mailbox {self._path}: {error.strerror}: {path}") from error
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    lock.seek(0)
                    holder = lock.read().strip() or "another process"
                    reason = f"mailbox {self._path} is held by {holder}"
                    if not on_wait(reason):
                        raise AlreadyRunning(
                            reason, hint="stop it, or give this hub its own state folder"
                        ) from None
                    time.sleep(_LOCK_RETRY_S)
            lock.truncate(0)
            lock.write(f"pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S %z')}")
            lock.flush()
        except OSError as error:
            lock.close()
            raise StoreUnavailable(f"mailbox {self._path}: {error.strerror}: {path}") from error
        except BaseException:
            lock.close()
            raise
        return lock

    def _check_log(self) -> None:
        """Refuse a log with confirmed messages that can't be read: SQLite would leave them out in silence."""
        if self._synchronous != "FULL":
            return  # without a sync for each commit, a loss of power may take several: that was the choice
        path = self._path.with_name(self._path.name + "-wal")
        try:
            end, behind = sqlite_log_end(path.read_bytes())
        except FileNotFoundError:
            return
        if behind >= _DAMAGED_COMMITS:
            raise StoreDamaged(
                f"mailbox {self._path}: its log is damaged at byte {end}, and at least {behind} confirmed"
                f" transactions behind that can't be read",
                hint=f"look at the disk, restore a backup; to go on without them: truncate -s {end} {path}",
            )

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except StoreFailed as error:
            raise self.failure(error) from error

    def failure(self, error: StoreFailed) -> ZmqgameError:
        """What the native side's error is here."""
        kind, reason, hint = error.args
        if kind == "replaced":
            return Replaced(f"mailbox {self._path} {reason}")
        text = f"mailbox {self._path}: {reason}"
        return StoreDamaged(text, hint=hint) if kind == "damaged" else StoreUnavailable(text)

    def close(self) -> None:
        """Close the files and let go of the lock."""
        # What could not be moved into the database is in the log, for the next start.
        with contextlib.suppress(StoreFailed):
            self.native.let_go()
        self._lock.close()

    def highest_epoch(self) -> int:
        """Return the highest hub epoch that was ever claimed in this file."""
        with self._failures():
            return self.native.highest_epoch()

    def run(self, operations: Sequence[Operation]) -> list[Result]:
        """Run a batch; what it changed is durable when this returns."""
        with self._failures():
            return self.native.run(operations)

    def idle(self) -> None:
        """Move the log into the database: nobody waits."""
        with self._failures():
            self.native.idle()

    def holder(self) -> int:
        """Return 0: the lock tells who has the file."""
        return 0

    def ask(self, question: str) -> str:
        """Answer a question of operators."""
        [(_, answer)] = self.run([("admin", question)])
        return str(answer)

    def export(self) -> Iterator[dict[str, Any]]:
        """All that the store holds."""
        with self._failures():
            self.native.let_go()
        try:
            with contextlib.closing(sqlite3.connect(self._path, isolation_level=None)) as database:
                yield from export(database)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"mailbox {self._path}: {error}") from error
