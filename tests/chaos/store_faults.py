"""Faults of the mailbox in SQLite: no room, no writes, a held lock, a torn end of the log."""

import asyncio
import contextlib
import fcntl
import os
import random
import resource
import signal
import sys

from tests.chaos import wal
from tests.chaos.faults import fault, only
from tests.chaos.stage import Stage

SQLITE = ("sqlite",)
_FILL_BYTES = 65_536


@fault(stores=SQLITE)
async def disk_full(stage: Stage, chance: random.Random) -> None:
    """The file system of the mailbox has no byte left for a while."""
    assert stage.disk is not None
    ballast = stage.disk / "ballast"
    stage.disk_was_full = True
    try:
        _fill(ballast)
        await asyncio.sleep(chance.uniform(0.1, 0.8))
    finally:
        ballast.unlink(missing_ok=True)


def _fill(path) -> None:
    """Write until there is no room, down to the last byte."""
    piece = _FILL_BYTES
    with path.open("wb", buffering=0) as file:
        while piece:
            try:
                if file.write(bytes(piece)) < piece:
                    piece //= 2
            except OSError:
                piece //= 2


@fault(stores=SQLITE)
async def store_can_not_write(stage: Stage, chance: random.Random) -> None:
    """Each write of the hub's process that makes a file longer fails with an I/O error."""
    async with only(stage.hub):
        limits = resource.prlimit(stage.hub.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(stage.hub.pid, resource.RLIMIT_FSIZE, (chance.choice([0, 4_096, 65_536]), limits[1]))
        await asyncio.sleep(chance.uniform(0.1, 0.8))
        if stage.hub.running:
            resource.prlimit(stage.hub.pid, resource.RLIMIT_FSIZE, limits)


@fault(weight=1, stores=SQLITE)
async def store_is_held(stage: Stage, chance: random.Random) -> None:
    """The hub is killed, and another process holds the mailbox's lock when it starts again."""
    async with only(stage.hub):
        await stage.hub.kill(hold=True)
        with (stage.hub_folder / "mailbox.db.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            stage.hub.release()
            await stage.hub.started()
            await asyncio.sleep(chance.uniform(0.1, 1.0))


@fault(weight=3, stores=SQLITE)
async def torn_tail(stage: Stage, chance: random.Random) -> None:
    """The hub is killed; the log ends with a transaction that was being written."""
    async with only(stage.hub):
        await stage.hub.kill(hold=True)
        wal.tear(stage.hub_folder / "mailbox.db-wal", chance)
        stage.hub.release()
        await stage.hub.started()


@fault(weight=1, stores=SQLITE)
async def rival_hub(stage: Stage, chance: random.Random) -> None:
    """The hub is stopped and another one starts in its place: it must not get the mailbox."""
    async with only(stage.hub):
        if not await _holds_the_mailbox(stage):
            return
        stage.hub.send_signal(signal.SIGSTOP)
        try:
            code, said = await _rival(stage)
        finally:
            stage.hub.send_signal(signal.SIGCONT)
    if code == 0 or "is held by" not in said:
        stage.notes.append(f"a rival hub ended with {code}: {said[-300:]}")


async def _holds_the_mailbox(stage: Stage) -> bool:
    """Whether the hub has come so far in its start; waited for, as long as a start may take."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            if (stage.hub_folder / "mailbox.db.lock").read_text().startswith(f"pid {stage.hub.pid} "):
                return True
        await asyncio.sleep(0.02)
    return False


async def _rival(stage: Stage) -> tuple[int | None, str]:
    argv = [sys.executable, "-m", "zmqgame_bus.hub", "--state-dir", str(stage.hub_folder)]
    argv += ["--set", "hub.listen=tcp://127.0.0.1:0", "--set", "mailbox.wait_s=0"]
    rival = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(rival.communicate(), 20)
    except TimeoutError:
        os.kill(rival.pid, signal.SIGKILL)
        output, _ = await rival.communicate()
    return rival.returncode, output.decode()
