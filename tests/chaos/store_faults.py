"""Faults of the mailbox. SQLite: no room, no writes, a held lock, a torn end of the log, a turned bit. A
document server: killed, stopped, and the ways in which the hub's connection to it can end.
"""

import asyncio
import contextlib
import fcntl
import os
import random
import resource
import signal
import sys

from tests.chaos import batches, wal
from tests.chaos.faults import fault, only
from tests.chaos.stage import Stage
from tests.support.proxy import DOWN, UP

SQLITE = ("sqlite",)
DOCUMENTS = ("ferretdb",)
_FILL_BYTES = 65_536


@fault(stores=SQLITE)
async def disk_full(stage: Stage, chance: random.Random) -> None:
    """The file system of the mailbox has no byte left for a while."""
    assert stage.disk is not None
    ballast = stage.disk / "ballast"
    stage.store_was_away = True
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
        stage.store_was_away = True
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
    """The hub is killed; its logs end with a transaction and a batch that were being written."""
    async with only(stage.hub):
        await stage.hub.kill(hold=True)
        if chance.random() < 0.8:
            batches.tear(stage.hub_folder / "mailbox.db", chance)
        if chance.random() < 0.5:
            wal.tear(stage.hub_folder / "mailbox.db-wal", chance)
        stage.hub.release()
        await stage.hub.started()


@fault(weight=1, stores=SQLITE)
async def bit_turned(stage: Stage, chance: random.Random) -> None:
    """The hub is killed, and the disk turns a bit of what was synced: the next hub must refuse it."""
    async with only(stage.hub):
        await stage.hub.kill(hold=True)
        in_batches = chance.random() < 0.7
        path = stage.hub_folder / ("mailbox.db-batches" if in_batches else "mailbox.db-wal")
        kept = path.read_bytes() if path.exists() else b""
        if batches.turn(stage.hub_folder / "mailbox.db", chance) if in_batches else wal.turn(path, chance):
            code, said = await _rival(stage)
            if code == 0 or ("its log is damaged at byte" not in said and not stage.store_was_away):
                stage.notes.append(f"a hub took a damaged log: {code}, {said[-300:]}")
            path.write_bytes(kept)
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
    if code == 0 or ("is held by" not in said and not stage.store_was_away):
        stage.notes.append(f"a rival hub ended with {code}: {said[-300:]}")


async def _holds_the_mailbox(stage: Stage) -> bool:
    """Whether the hub has come so far in its start; waited for, as long as a start may take."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            if (stage.hub_folder / "mailbox.db.lock").read_text().startswith(f"pid {stage.hub.pid} "):
                return True
        await asyncio.sleep(0.02)
    return False


@fault(weight=4, stores=DOCUMENTS)
async def store_killed(stage: Stage, chance: random.Random) -> None:
    """kill -9 of the document server; it is away for a while."""
    store = stage.children["db"]
    async with only(store):
        await store.kill(hold=True)
        await asyncio.sleep(chance.uniform(0.0, 0.8))
        store.release()
        await store.started()


@fault(weight=3, stores=DOCUMENTS)
async def store_stopped(stage: Stage, chance: random.Random) -> None:
    """SIGSTOP of the document server: its operations wait, and are carried out later."""
    store = stage.children["db"]
    async with only(store):
        store.send_signal(signal.SIGSTOP)
        await asyncio.sleep(chance.uniform(0.1, 1.0))
        store.send_signal(signal.SIGCONT)


@fault(weight=4, stores=DOCUMENTS)
async def store_link_cut(stage: Stage, chance: random.Random) -> None:
    """The hub's connections to the store are reset: what was under way has an unknown outcome."""
    assert stage.store_route is not None
    for _ in range(chance.randint(1, 6)):
        stage.store_route.cut(refuse=chance.random() < 0.3)
        await asyncio.sleep(chance.uniform(0.0, 0.15))
    stage.store_route.mend()


@fault(weight=3, stores=DOCUMENTS)
async def store_link_swallows(stage: Stage, chance: random.Random) -> None:
    """Commands never arrive, or their answers don't; then the connections are cut."""
    assert stage.store_route is not None
    stage.store_route.swallow(chance.choice([UP, DOWN]))
    await asyncio.sleep(chance.uniform(0.0, 0.6))
    stage.store_route.mend()


@fault(weight=2, stores=DOCUMENTS)
async def store_link_stalled(stage: Stage, chance: random.Random) -> None:
    """Commands or answers come late; meanwhile the hub may be killed by another fault."""
    assert stage.store_route is not None
    stage.store_route.stall(chance.choice([UP, DOWN]))
    await asyncio.sleep(chance.uniform(0.1, 1.0))
    stage.store_route.mend()


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
