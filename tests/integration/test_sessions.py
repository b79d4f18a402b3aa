"""What becomes of a match and its players when their game server stops in order, and when it is killed."""

import asyncio
import contextlib
import random
import signal

import pytest
from zmqgame.faults import BadNetwork, Faults

from tests.cluster import cluster, until
from tests.players import QUICK, Player, bots, end_of, handled_ids, manager, node, running_on


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
        end = await until(lambda: end_of(studio, match), "the race has a result")
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
        end = await until(lambda: end_of(studio, match), "the race has a result")
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


BAD = Faults(latency_ms=20, jitter_ms=15, loss=0.05, reorder=0.1, repeat=0.05, disconnect=0.002)


@pytest.mark.slow
@pytest.mark.parametrize(("transport", "seed"), [("ws", 7), ("tcp", 8)])
async def test_a_bad_network_loses_nothing(tmp_path, transport, seed):
    """Connections that break, a server that is killed, one that stops: all is there, once, in order."""
    async with cluster(tmp_path, "game-1", "game-2", **QUICK) as running, node(running) as studio:
        networks = [BadNetwork(BAD, seed=seed * 10 + number) for number in range(3)]
        players = [
            Player(studio, f"p{number}", transport=transport, network=network, seed=seed)
            for number, network in enumerate(networks)
        ]
        for player in players:
            player.client.start()
        try:
            await asyncio.gather(*(asyncio.wait_for(each.client.online.wait(), 60) for each in players))
            receipts = []
            for number in range(60):
                for player in players:
                    receipts.append(
                        asyncio.ensure_future(studio.unicast(player.name, {"n": number}, timeout_s=60))
                    )
                await asyncio.sleep(0.05)
                if number == 20:
                    running.kill("game-1")
                if number == 30:
                    networks[0].down = True
                    await running.start("game", "game-1")
                    networks[0].down = False
                if number == 45:
                    await asyncio.to_thread(running.running.pop("game-2").stop)
            for receipt in await asyncio.gather(*receipts):
                assert receipt.acked, receipt
            await until(lambda: all(len(told(each)) >= 60 for each in players), "all is there", 30)
            assert [told(each) for each in players] == [list(range(60))] * 3
            assert sum(network.counters["broken"] for network in networks) > 0
        finally:
            for player in players:
                await player.client.close()


def told(player):
    return [payload["n"] for _, payload in player.messages if isinstance(payload, dict) and "n" in payload]


async def test_tokens_are_renewed_before_they_are_old(tmp_path):
    settings = {**QUICK, "game.token_s": 8}
    async with cluster(tmp_path, "game-1", **settings) as running, node(running) as studio:
        player = Player(studio, "ann", udp=False)
        async with player.client as client:
            await asyncio.wait_for(client.online.wait(), 60)
            await asyncio.sleep(9)
            player.ticket = None  # no manager for it any more: only its renewed token lets it in
            client.break_connection()
            await until(lambda: len(player.welcomes) == 2, "it is back")
            assert player.welcomes[1]["resumed"]


async def test_a_session_goes_on_with_the_managers_token_when_its_own_are_too_old(tmp_path):
    settings = {**QUICK, "game.token_s": 5, "game.session_max_s": 5}
    async with cluster(tmp_path, "game-1", **settings) as running, node(running) as studio:
        player = Player(studio, "ann", udp=False)
        async with player.client as client:
            await asyncio.wait_for(client.online.wait(), 60)
            await asyncio.sleep(6.5)
            client.break_connection()
            await until(lambda: len(player.welcomes) == 2, "it is back")
            assert client.counters["bye_token_expired"] == 1
            assert player.welcomes[1]["resumed"]


@pytest.mark.slow
async def test_a_server_that_stood_still_has_lost_its_match(tmp_path):
    """It is not dead, only stopped: another one goes on with the match, what the first says of it is void."""
    settings = {**QUICK, "game.ping_ms": 500, "game.checkpoint_ms": 200, "hub.dead_ms": 3_000}
    async with (
        cluster(tmp_path, "game-1", "game-2", **settings) as running,
        node(running) as studio,
        bots(studio, tmp_path, 4) as racers,
    ):
        server = await until(lambda: racing_on(racers), "a race runs")
        match = await until(lambda: running_on(studio, racers, server), "the manager knows")
        await asyncio.sleep(1.0)
        stopped = running.running[server].process
        stopped.send_signal(signal.SIGSTOP)
        try:
            gone_on = lambda: all(bot.counters["restored"] == 1 for bot in racers)  # noqa: E731
            await until(gone_on, "all race on elsewhere")
        finally:
            stopped.send_signal(signal.SIGCONT)
        end = await until(lambda: end_of(studio, match), "the race has a result")
        assert end["event"] == "GameFinished", end
        assert end["server"] != server
        assert [result["outcome"] for result in end["body"]["results"]] == ["finished"] * 4
        given_up = lambda: "goes on at another server" in running.running[server].log.read_text()  # noqa: E731
        await until(given_up, "the first one gave it up")
        entries = (await manager(studio, "matches", match=match))["entries"]
        assert [entry["event"] for entry in entries] == ["GameFinished", "MatchMoved", "MatchCreated"]


async def test_any_bytes_on_the_game_port_hurt_nobody_else(tmp_path):
    chance = random.Random(11)
    async with cluster(tmp_path, "game-1", **QUICK) as running, node(running) as studio:
        player = Player(studio, "ann")
        host, _, port = running.running["game-1"].addresses["tcp"].rpartition(":")
        async with player.client as client:
            await asyncio.wait_for(client.online.wait(), 60)
            for number in range(150):
                _, writer = await asyncio.open_connection(host, int(port))
                body = chance.randbytes(chance.randrange(200))
                if number % 3:  # whole packets of any kind
                    head = bytes([chance.choice((1, 2, 3, 4, 5, 6, chance.randrange(0xF0))), 0, 0, 0])
                    body = head + chance.randbytes(8) + chance.choice((b"{}", b'{"token":""}', body))
                    body = len(body).to_bytes(4, "little") + body
                writer.write(body)
                with contextlib.suppress(OSError):
                    await writer.drain()
                writer.close()
            assert (await studio.unicast("ann", "still here", timeout_s=60)).outcome == "delivered"
            assert client.counters["losses"] == 0
        assert running.running["game-1"].process.poll() is None
        assert "Traceback" not in running.running["game-1"].log.read_text()
