"""What becomes of a match and its players when their game server stops in order, and when it is killed."""

import asyncio

import pytest

from tests.cluster import cluster, until
from tests.players import QUICK, bots, end_of, handled_ids, node, running_on


@pytest.mark.slow
async def test_a_race_is_restored_after_kill_9(tmp_path):
    settings = {**QUICK, "game.checkpoint_ms": 200}
    async with (
        cluster(tmp_path, "game-1", "game-2", **settings) as running,
        node(running) as studio,
        bots(studio, tmp_path, 4) as racers,
    ):
        server = await until(lambda: racing_on(racers), "a race runs")
        match = await until(lambda: running_on(studio, racers, server), "the manager knows")
        await until(lambda: all(bot.client.counters["events"] > 4 for bot in racers), "under way")
        running.kill(server)
        end = await until(lambda: end_of(studio, match), "the race has a result", 40)
        assert end["event"] == "GameFinished", end
        assert [result["outcome"] for result in end["body"]["results"]] == ["finished"] * 4
        await until(lambda: all(bot.counters["finished"] for bot in racers), "all were told")
        for bot in racers:
            assert bot.counters["restored"] == 1
            ids = handled_ids(tmp_path, bot.player)
            assert len(ids) == len(set(ids))


@pytest.mark.slow
async def test_a_server_that_stops_hands_its_race_over(tmp_path):
    async with (
        cluster(tmp_path, "game-1", "game-2", **QUICK) as running,
        node(running) as studio,
        bots(studio, tmp_path, 4) as racers,
    ):
        server = await until(lambda: racing_on(racers), "a race runs")
        match = await until(lambda: running_on(studio, racers, server), "the manager knows")
        logins = [bot.client.counters["logins"] for bot in racers]
        code = await asyncio.to_thread(running.running.pop(server).stop)
        assert code == 0
        end = await until(lambda: end_of(studio, match), "the race has a result", 40)
        assert end["event"] == "GameFinished", end
        assert [result["outcome"] for result in end["body"]["results"]] == ["finished"] * 4
        assert [bot.client.counters["logins"] for bot in racers] == logins
        for bot in racers:
            assert bot.counters["restored"] == 0
            assert bot.client.counters["bye_moved"] == 1
            assert bot.client.counters["resumes"] >= 1


def racing_on(racers):
    if all(bot.state == "running" for bot in racers):
        return racers[0].client.server
    return None
