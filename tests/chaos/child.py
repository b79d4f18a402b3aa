"""One process of a run: kept alive as a service manager would, killed and stopped by faults."""

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.chaos.record import Tail

RESTART_S = 0.02
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """A role, and the process that has it now."""

    def __init__(
        self, name: str, folder: Path, command: Callable[[int, Path], list[str]], start: int
    ) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / f"{name}.log"
        self.start_number = start
        self.ready = False
        self.busy = asyncio.Lock()
        """Held by a fault that acts on this process: faults of one process don't mix."""
        self.exits: list[int] = []
        """How it ended when nobody had killed it."""
        self.command = command
        self._process: asyncio.subprocess.Process | None = None
        self._started = asyncio.Event()
        self._over = asyncio.Event()
        self._may_run = asyncio.Event()
        self._may_run.set()
        self._killed = False
        self._tails: list[tuple[int, Tail]] = []
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._task = asyncio.ensure_future(self._keep())

    async def _keep(self) -> None:
        while True:
            await self._may_run.wait()
            self.start_number += 1
            record = self.folder / f"{self.name}-{self.start_number}.record"
            self._tails.append((self.start_number, Tail(record)))
            self.ready, self._killed = False, False
            argv = self.command(self.start_number, record)
            with self.log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *argv, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, preexec_fn=_die_with_parent
                )
            self._over.clear()
            self._started.set()
            code = await self._process.wait()
            self._started.clear()
            self._over.set()
            if not self._killed:
                self.exits.append(code)
            await asyncio.sleep(RESTART_S)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._started.is_set()

    def say(self, order: str) -> None:
        """An order; lost if the process is gone."""
        if self.running and self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._process.stdin.write(f"{order}\n".encode())

    def send_signal(self, number: int) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def kill(self, number: int = signal.SIGKILL, *, hold: bool = False) -> None:
        """kill -9, or another end; comes back by itself, with `hold` not before `release`."""
        await self._started.wait()
        if hold:
            self._may_run.clear()
        self._killed = True
        self.send_signal(number)
        await self._over.wait()

    def release(self) -> None:
        self._may_run.set()

    async def started(self) -> None:
        await self._started.wait()

    async def close(self) -> None:
        self._may_run.clear()
        self._killed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def lines(self) -> list[tuple[int, list[str]]]:
        """What its processes have written since the last look, oldest process first."""
        found = []
        for start, tail in self._tails:
            found += [(start, line) for line in tail.lines()]
        return found

    def drop_old_records(self) -> None:
        """Remove the records of processes that are gone; call after `lines` with nothing under way."""
        for start, tail in self._tails[:-1]:
            assert not tail.lines(), f"{self.name} {start} still writes"
            tail.path.unlink(missing_ok=True)
        self._tails = self._tails[-1:]
