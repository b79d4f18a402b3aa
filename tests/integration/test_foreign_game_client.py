"""CLIENT.md is enough to write a client: foreign_game_client.py imports nothing of ours."""

import ast
import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.cluster import cluster, until
from tests.players import QUICK, bots, manager, node

SCRIPT = Path(__file__).with_name("foreign_game_client.py")
STANDARD = {"base64", "hashlib", "json", "os", "select", "socket", "struct", "sys", "time"}


def test_the_foreign_client_imports_nothing_of_ours():
    names = set()
    for each in ast.walk(ast.parse(SCRIPT.read_text())):
        if isinstance(each, ast.Import):
            names |= {alias.name for alias in each.names}
        elif isinstance(each, ast.ImportFrom):
            names.add(each.module)
    assert names == STANDARD


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["tcp", "ws", "udp"])
async def test_a_client_from_the_protocol_alone_plays(tmp_path, transport):
    settings = {**QUICK, "manager.match_size": 2}
    async with (
        cluster(tmp_path, "game-1", "game-2", **settings) as running,
        node(running) as studio,
        bots(studio, tmp_path, 1) as racers,
    ):
        reply = await manager(studio, "token", player="zoe")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", str(SCRIPT), transport,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        ticket = {"token": reply["token"], **reply["server"]}
        process.stdin.write(json.dumps(ticket).encode() + b"\n")
        lines = []
        reading = asyncio.create_task(read(process, lines))
        try:
            await until(lambda: [line for line in lines if "welcome" in line], "logged in")
            for message in [{"n": 0}, {"n": 1}, {"do": "drop"}, {"n": 2}, {"n": 3}]:
                assert (await studio.unicast("zoe", message, timeout_s=60)).acked
            await until(lambda: racers[0].state == "running", "the race runs")
            await asyncio.sleep(0.5)
            server = racers[0].client.server
            await asyncio.to_thread(running.running.pop(server).stop)
            await until(lambda: {"bye": "moved"} in lines, "moved")
            assert (await studio.unicast("zoe", {"n": 4}, timeout_s=60)).acked
            await until(lambda: racers[0].counters["finished"] == 1, "the race is over")
            assert (await studio.unicast("zoe", {"do": "leave"}, timeout_s=60)).acked
            await asyncio.wait_for(reading, 20)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        check(lines, transport)


def check(lines, transport):
    end = lines[-1]
    assert end["over"] == "left", lines
    assert end["handled"] == [0, 1, 2, 3, 4]
    assert [1, ""] in end["done"]
    assert [2, "no_match"] in end["done"]
    assert (end["by_udp"] > 0) == (transport == "udp")
    assert "running" in end["states"]
    assert "finished" in end["states"]
    after_move = lines[lines.index({"bye": "moved"}) + 1]
    assert after_move["resumed"]
    assert after_move["last_frame"] > 0


async def read(process, lines):
    while line := await process.stdout.readline():
        lines.append(json.loads(line))
    await process.wait()
