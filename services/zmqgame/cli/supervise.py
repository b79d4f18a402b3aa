"""Child processes: started, known to be ready, restarted with patience, and never left behind.

Invariants:
- A child dies with its parent, also when the parent is killed with -9: the launcher asks the kernel for it
  (PR_SET_PDEATHSIG) before it becomes the service.
- A child is restarted in 0.1 s after a long life, and later each time it dies young; exit codes 2 and 4 of a
service (wrong configuration, replaced by another) are not cured by a restart, so they end the supervision.
- Children are in process groups of their own: Ctrl-C of the terminal reaches the parent alone, which stops
them in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from zmqgame_bus.errors import StartError
from zmqgame_bus.process import EXIT_REPLACED, EXIT_USAGE

__all__ = ["Child", "Spec", "Supervisor", "program"]

READY_S: Final = 60.0
"""A child that is not ready by then hangs: one that dies is seen at once. Opening a store or logging in
64 bots takes a second or two, and with ten busy processes a core more than half a minute.
"""

STOP_S: Final = 25.0
"""From SIGTERM to SIGKILL: a service's own drain (20 s), and a little."""

BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Waits before restarts in a row;
the last one is kept, so a broken machine is not kept busy with starting.
"""

LONG_LIFE_S: Final = 10.0
"""A child that lived so long was well: the next restart is a first one again."""

LOG_TAIL_BYTES: Final = 4_000
"""What an error quotes of a dead child's log: its last words, one screen."""

_LAUNCHER: Final = (
    "import ctypes,os,sys\n"
    "ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)\n"  # PR_SET_PDEATHSIG, SIGKILL
    "os.getppid() == int(sys.argv[1]) or os._exit(1)\n"  # the parent died before the line above
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


@dataclass(frozen=True)
class Spec:
    """What to run: a name, a command, and what to call it on screen."""

    name: str
    command: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    restart: bool = True


def program(name: str) -> list[str]:
    """The command of a service of ours: `zmqgame-hub` of the environment that we run in, or a module."""
    if "." in name:
        return [sys.executable, "-m", name]
    return [str(Path(sys.executable).with_name(name))]


class Child:
    """One supervised process."""

    def __init__(self, spec: Spec, log: Path) -> None:
        self.spec = spec
        self.log = log
        self.process: asyncio.subprocess.Process | None = None
        self.ready: dict[str, Any] = {}
        self.starts = 0
        self.up = asyncio.Event()
        """Set while the child is ready."""

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None and self.process.returncode is None:
            self.up.clear()
            self.process.kill()

    async def start(self) -> None:
        """Start it and wait for its ready line; StartError quotes its last words if it dies instead."""
        self.starts += 1
        reader, writer = os.pipe()
        words = [*self.spec.command, f"--ready-fd={writer}"]
        try:
            with self.log.open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *words),
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **self.spec.environ},
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[writer],
                    process_group=0,
                )
        finally:
            os.close(writer)
        line = await self._ready_line(reader)
        if not line:
            raise await self._failure()
        self.ready = json.loads(line).get("ready", {})
        self.up.set()

    async def _ready_line(self, reader: int) -> bytes:
        """The line, or nothing if the child closed the pipe by ending or took too long."""
        loop = asyncio.get_running_loop()
        stream = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reader, "rb", buffering=0)
        )
        try:
            return await asyncio.wait_for(stream.readline(), READY_S)
        except TimeoutError:
            return b""
        finally:
            transport.close()

    async def _failure(self) -> StartError:
        assert self.process is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), 1.0)
        code = self.process.returncode
        if code is None:
            self.kill()
            return StartError(f"{self.spec.name} was not ready after {READY_S:.0f} s", hint=f"see {self.log}")
        said = last_words(self.log)
        return StartError(f"{self.spec.name} ended with code {code}: {said}", hint=f"all of it: {self.log}")


class Supervisor:
    """Some children. ``on_event(name, what, detail)`` hears of each start, death and restart."""

    def __init__(self, logs: Path, on_event: Callable[[str, str, str], None] | None = None) -> None:
        self.children: dict[str, Child] = {}
        self.failed: asyncio.Future[None] | None = None
        self._logs = logs
        self._tell = on_event or (lambda *_: None)
        self._keepers: dict[str, asyncio.Task[None]] = {}

    async def start(self, spec: Spec) -> Child:
        """Start a child, wait until it is ready, and keep it running."""
        if self.failed is None:
            self.failed = asyncio.get_running_loop().create_future()
        self._logs.mkdir(parents=True, exist_ok=True)
        child = self.children[spec.name] = Child(spec, self._logs / f"{spec.name}.log")
        await child.start()
        self._tell(spec.name, "ready", "")
        self._keepers[spec.name] = asyncio.create_task(self._keep(child))
        return child

    async def start_all(self, specs: Sequence[Spec]) -> None:
        """Start several at once; the first failure is raised when all have an answer."""
        for result in await asyncio.gather(*map(self.start, specs), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def kill(self, name: str) -> None:
        """kill -9 of a child; it is restarted like any other that dies."""
        self.children[name].kill()

    async def stop(self) -> dict[str, int]:
        """SIGTERM in the opposite order of starting; SIGKILL for what does not end.

        Returns the exit codes.
        """
        for keeper in self._keepers.values():
            keeper.cancel()
        codes: dict[str, int] = {}
        for name in reversed(self.children):
            codes[name] = await self.stop_one(name)
        if self.failed is not None and self.failed.done():
            self.failed.exception()
        return codes

    async def stop_one(self, name: str) -> int:
        """Stop one child and wait for its end."""
        if name in self._keepers:
            self._keepers[name].cancel()
        process = self.children[name].process
        if process is None:
            return 0
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                self._tell(name, "killed", f"did not end in {STOP_S:.0f} s")
                process.kill()
                await process.wait()
        return process.returncode or 0

    async def _keep(self, child: Child) -> None:
        """Restart the child whenever it ends."""
        young = 0
        while True:
            assert child.process is not None
            born = time.monotonic()
            code = await child.process.wait()
            child.up.clear()
            self._tell(child.spec.name, "ended", _code(code))
            if not child.spec.restart or code in (EXIT_USAGE, EXIT_REPLACED):
                self._give_up(StartError(f"{child.spec.name} ended: {last_words(child.log)}"))
                return
            young = 0 if time.monotonic() - born > LONG_LIFE_S else young + 1
            await asyncio.sleep(BACKOFF_S[min(young, len(BACKOFF_S)) - 1] if young else BACKOFF_S[0])
            died = time.monotonic()
            try:
                await child.start()
            except StartError as error:
                self._tell(child.spec.name, "failed", str(error))
                continue
            self._tell(child.spec.name, "back", f"in {time.monotonic() - died:.2f} s")

    def _give_up(self, error: StartError) -> None:
        if self.failed is not None and not self.failed.done():
            self.failed.set_exception(error)


def last_words(log: Path) -> str:
    """The last error in a log: what a person would look for."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return "no log"
    for index in range(len(lines) - 1, -1, -1):
        if lines[index].startswith("error: "):
            return "\n".join(line.removeprefix("error: ") for line in lines[index : index + 2])
        if '"level":"critical"' in lines[index]:
            with contextlib.suppress(ValueError):
                return str(json.loads(lines[index])["message"])
    return lines[-1] if lines else "it said nothing"


def _code(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"code {code}"
