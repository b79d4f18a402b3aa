"""A second process of one name takes the bus over: the first one ends and says so, and is not restarted."""

import asyncio
import sys

import pytest

from tests.cluster import MODULES, cluster

pytestmark = pytest.mark.slow

REPLACED = 4


async def end_of(process):
    return await asyncio.to_thread(process.wait, 90)


@pytest.mark.parametrize("role", ["game", "manager", "bots"])
async def test_the_older_of_two_ends_with_the_reason(tmp_path, role):
    names = {"game": "game-1", "manager": "manager", "bots": "bots-1"}
    async with cluster(tmp_path, "game-1") as running:
        if role == "bots":
            await running.start("bots", "bots-1", **{"bots.count": 1})
        older = running.running[names[role]]
        (tmp_path / "second").mkdir()
        command = [sys.executable, "-m", MODULES[role], "--config", str(running.config)]
        command += ["--name", names[role], "--state-dir", str(tmp_path / "second")]
        settings = {**running.settings, "bus.hub": running.hub_endpoint}
        settings |= {"game.listen": "127.0.0.1:0", "game.udp": "127.0.0.1:0"}
        command += [f"--set={key}={value}" for key, value in settings.items()]
        newer = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        try:
            assert await end_of(older.process) == REPLACED, older.log.read_text()[-2000:]
            assert f"error: a newer {names[role]} is on the bus" in older.log.read_text()
            assert newer.returncode is None
        finally:
            running.running.pop(names[role])
            newer.terminate()
            await asyncio.wait_for(newer.wait(), 60)
