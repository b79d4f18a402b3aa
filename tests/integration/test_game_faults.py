"""What players notice when a game server, the hub, the manager or their connection goes."""

import asyncio

import pytest

from tests.cluster import cluster, until
from tests.players import QUICK, Player, bots, end_of, handled_ids, node, running_on


@pytest.mark.slow
async def test_a_game_server_that_is_killed_without_checkpoints(tmp_path):
    settings = {**QUICK, "game.checkpoint_ms": 0}
    async with (
        cluster(tmp_path, "game-1", "game-2", **settings) as running,
        node(running) as studio,
        bots(studio, tmp_path, 8) as racers,
    ):
        doomed = await until(lambda: running_on(studio, racers, "game-1"), "a race runs on game-1")
        running.kill("game-1")
        end = await until(lambda: end_of(studio, doomed), "the match has an end")
        assert end["event"] == "MatchAborted"
        assert end["body"]["reason"] == "game server died"
        assert len(end["body"]["results"]) == 4
        await until(lambda: all(on(bot, "game-2") for bot in racers), "all are on game-2", 20)
        before = {bot.player: bot.counters["finished"] for bot in racers}
        again = lambda: all(bot.counters["finished"] > before[bot.player] for bot in racers)  # noqa: E731
        await until(again, "all race again")
        for bot in racers:
            ids = handled_ids(tmp_path, bot.player)
            assert len(ids) == len(set(ids))


def on(bot, server):
    return bot.client.online.is_set() and bot.client.server == server


@pytest.mark.slow
async def test_the_hub_is_killed_and_races_go_on(tmp_path):
    async with (
        cluster(tmp_path, "game-1", **QUICK) as running,
        node(running) as studio,
        bots(studio, tmp_path, 4) as racers,
    ):
        await until(lambda: all(bot.state == "running" for bot in racers), "the race runs")
        match = racers[0].match
        running.kill("hub")
        await asyncio.sleep(0.3)
        assert all(bot.client.online.is_set() for bot in racers)
        await running.start("hub")
        end = await until(lambda: end_of(studio, match), "the race has a result")
        assert end["event"] == "GameFinished"
        assert all(bot.client.counters["losses"] == 0 for bot in racers)
        next_one = lambda: all(bot.match != match and bot.state == "running" for bot in racers)  # noqa: E731
        await until(next_one, "the next race runs")


@pytest.mark.slow
async def test_connections_that_drop_during_a_race(tmp_path):
    async with (
        cluster(tmp_path, "game-1", **QUICK) as running,
        node(running) as studio,
        bots(studio, tmp_path, 4) as racers,
    ):
        await until(lambda: all(bot.state == "running" for bot in racers), "the race runs")
        match = racers[0].match
        for _ in range(4):
            await asyncio.sleep(0.4)
            for bot in racers:
                bot.client.break_connection()
        end = await until(lambda: end_of(studio, match), "the race has a result")
        assert [result["outcome"] for result in end["body"]["results"]] == ["finished"] * 4
        await until(lambda: all(bot.counters["finished"] for bot in racers), "all were told")
        for bot in racers:
            assert bot.client.counters["resumes"] >= 1
            assert bot.client.counters["logins"] == 1


async def test_after_the_grace_time_the_player_is_logged_out(tmp_path):
    settings = {**QUICK, "game.grace_s": 0.5}
    async with cluster(tmp_path, "game-1", **settings) as running, node(running) as studio:
        player = Player(studio, "ann")
        async with player.client as client:
            await asyncio.wait_for(client.online.wait(), 60)
            assert (await studio.unicast("ann", "here", timeout_s=60)).outcome == "delivered"
        receipt = await studio.unicast("ann", "gone", timeout_s=60)
        assert receipt.outcome == "stored"
        assert (await studio.request("game:game-1", {"op": "status"}, timeout_s=60)).json()["players"] == 0


async def test_a_manager_that_is_killed_forgets_nobody_who_queues(tmp_path):
    settings = {**QUICK, "manager.match_size": 2, "manager.patience_ms": 60_000}
    async with cluster(tmp_path, "game-1", **settings) as running, node(running) as studio:
        first, second = Player(studio, "ann"), Player(studio, "bob")
        async with first.client, second.client:
            await asyncio.wait_for(
                asyncio.gather(first.client.online.wait(), second.client.online.wait()), 20
            )
            await first.client.action("queue", car="pebble")
            await until(lambda: [each for each in first.events if each["type"] == "queued"], "queued")
            running.kill("manager")
            await running.start("manager")
            await second.client.action("queue", car="pebble")
            both = lambda: all(state_of(player) for player in (first, second))  # noqa: E731
            await until(both, "they are in a match")
            assert state_of(first)["match"] == state_of(second)["match"]


async def test_a_manager_and_a_game_server_that_die_together_are_told_as_an_end(tmp_path):
    settings = {**QUICK, "manager.match_size": 2, "manager.patience_ms": 60_000}
    async with cluster(tmp_path, "game-1", **settings) as running, node(running) as studio:
        players = [Player(studio, "ann"), Player(studio, "bob")]
        async with players[0].client, players[1].client:
            for player in players:
                await asyncio.wait_for(player.client.online.wait(), 60)
                await player.client.action("queue", car="pebble")
            await until(lambda: all(state_of(player) for player in players), "they are in a match", 60)
            match = state_of(players[0])["match"]
            await running.start("game", "game-2")
            running.kill("manager")
            running.kill("game-1")
            await running.start("manager")
            end = await until(lambda: end_of(studio, match), "the match has an end", 90)
            assert end["event"] == "MatchAborted"
            for player in players:
                await until(lambda player=player: aborted(player), "it is told", 60)
                assert aborted(player) == [match]
                assert on(player, "game-2")
                await player.client.action("queue", car="pebble")
            new = lambda: all(state_of(player)["match"] != match for player in players)  # noqa: E731
            await until(new, "they are in another match", 60)


def aborted(player):
    values = [values for _, values in player.messages if isinstance(values, dict)]
    return [each["match"] for each in values if each.get("type") == "match_aborted"]


def state_of(player):
    return next((event for event in reversed(player.events) if event["type"] == "state"), None)


async def test_messages_over_lost_connections_and_offline(tmp_path):
    async with cluster(tmp_path, "game-1", **QUICK) as running, node(running) as studio:
        player = Player(studio, "ann", udp=False)
        async with player.client:
            await asyncio.wait_for(player.client.online.wait(), 60)
            sent = []
            for number in range(20):
                sent.append(asyncio.ensure_future(studio.unicast("ann", {"n": number}, timeout_s=60)))
                if number % 5 == 2:
                    await asyncio.sleep(0.05)
                    player.client.break_connection()
            receipts = await asyncio.gather(*sent)
            assert all(receipt.acked for receipt in receipts)
            await until(lambda: len(player.messages) == 20, "all messages are there")
            assert [payload["n"] for _, payload in player.messages] == list(range(20))
            assert len({welcome["session"] for welcome in player.welcomes}) == 1
            assert any(welcome["resumed"] for welcome in player.welcomes)
            await until(player.client.online.is_set, "online again")
            await player.client.leave()
        receipt = await studio.unicast("ann", "while you were away", timeout_s=60)
        assert receipt.outcome == "stored"
        again = Player(studio, "ann", udp=False)
        async with again.client:
            await until(lambda: again.messages, "the stored message is there")
            await again.client.leave()
        assert [payload for _, payload in again.messages] == ["while you were away"]
