"""Game servers, the manager, clients and bots as real processes: races, deaths, takeovers, bad input."""

import asyncio
import contextlib
import json
import struct

import pytest
from zmqgame import protocol
from zmqgame.client import ActionRefused, Client, Ticket
from zmqgame.play.bots import Bots
from zmqgame.play.config import BotsConfig
from zmqgame.play.drag import DragRace
from zmqgame.play.record import Record, replay
from zmqgame.protocol import ToClient, ToServer
from zmqgame_bus.errors import BusError
from zmqgame_bus.messages import MessageId
from zmqgame_bus.node import Node

from tests.cluster import cluster, until

QUICK = {
    "game.cutscene_ms": 100,
    "game.countdown_ms": 200,
    "game.ready_ms": 5_000,
    "game.disconnect_ms": 5_000,
    "manager.match_size": 4,
    "manager.patience_ms": 3_000,
    "manager.down_ms": 300,
    "manager.stale_ms": 2_000,
}


class Player:
    """A client that writes down what it is told."""

    def __init__(self, node, name, **options):
        self.node, self.name = node, name
        self.welcomes, self.messages, self.events, self.snapshots = [], [], [], []
        self.client = Client(self.ticket, self, **options)

    async def ticket(self, loss):
        while True:
            request = {"op": "token", "player": self.name, "session": str(loss.session), "avoid": loss.avoid}
            reply = (await self.node.request("manager", request)).json()
            if reply["ok"]:
                return Ticket.from_reply(reply)
            await asyncio.sleep(0.1)

    def welcome(self, welcome):
        self.welcomes.append(welcome)

    def message(self, message_id, content, payload):
        self.messages.append((message_id, protocol.decode_payload(content, payload)))

    def event(self, event):
        self.events.append(event)

    def snapshot(self, snapshot):
        self.snapshots.append(snapshot)


@contextlib.asynccontextmanager
async def node(running, name="studio"):
    async with Node(name, running.hub_endpoint, state_dir=running.folder / name) as made:
        yield made


async def manager(asking, op, **values):
    return (await asking.request("manager", {"op": op, **values})).json()


@contextlib.asynccontextmanager
async def bots(asking, folder, count, **options):
    made = Bots(BotsConfig(count=count, spread_ms=200, log_dir=str(folder / "bots"), **options), asking)
    play = asyncio.ensure_future(made.play())
    await made.start()
    try:
        await asyncio.wait_for(made.online(), 30)
        yield made.bots
    finally:
        play.cancel()
        await made.close()


def handled_ids(folder, player):
    lines = (folder / "bots" / f"{player}.log").read_text().splitlines()
    return [MessageId.parse(line.split()[0]) for line in lines]


async def finished(asking, count):
    status = await manager(asking, "status")
    return status if status["log"]["GameFinished"] >= count else None


async def end_of(asking, match):
    with contextlib.suppress(BusError):
        entries = (await manager(asking, "matches", match=match))["entries"]
        ends = ("MatchAborted", "GameFinished")
        return next((entry for entry in entries if entry["event"] in ends), None)


async def running_on(asking, racers, server):
    playing = {bot.match for bot in racers if bot.state == "running"}
    for match in (await manager(asking, "matches"))["open"]:
        if match["server"] == server and match["match"] in playing:
            return match["match"]
    return None


@pytest.mark.slow
async def test_a_race_from_login_to_result(tmp_path):
    async with cluster(tmp_path, "game-1", **QUICK) as running, node(running) as studio:
        async with bots(studio, tmp_path, 4) as racers:
            status = await until(lambda: finished(studio, 1), "a race is finished", 60)
            assert status["log"]["MatchAborted"] == 0
            entries = (await manager(studio, "matches"))["entries"]
            assert "GameServerIsReady" in [entry["event"] for entry in entries]
            end = next(entry for entry in entries if entry["event"] == "GameFinished")
            results = end["body"]["results"]
            assert sorted(result["player"] for result in results) == sorted(bot.player for bot in racers)
            assert [result["place"] for result in results] == [1, 2, 3, 4]
            assert all(5_000 < result["values"]["time_ms"] < 40_000 for result in results)
            for bot in racers:
                assert bot.client.counters["inputs_udp"] > bot.client.counters["inputs_stream"]
                ids = handled_ids(tmp_path, bot.player)
                assert len(ids) == len(set(ids)) >= 1
        check_record(next((tmp_path / "game-1" / "records").glob("*.json")))
    assert set(running.codes.values()) == {0}


def check_record(path):
    """A race that was played over sockets gives the same states when it is played again."""
    record = Record.load(path.read_bytes())
    found = {frame: rules.state_hash() for frame, rules in replay(record, DragRace) if frame in record.hashes}
    assert len(found) > 5
    assert found == record.hashes


@pytest.mark.slow
async def test_a_game_server_that_is_killed(tmp_path):
    async with (
        cluster(tmp_path, "game-1", "game-2", **QUICK) as running,
        node(running) as studio,
        bots(studio, tmp_path, 8) as racers,
    ):
        doomed = await until(lambda: running_on(studio, racers, "game-1"), "a race runs on game-1")
        running.kill("game-1")
        end = await until(lambda: end_of(studio, doomed), "the match has an end", 15)
        assert end["event"] == "MatchAborted"
        assert end["body"]["reason"] == "game server died"
        assert len(end["body"]["results"]) == 4
        await until(lambda: all(on(bot, "game-2") for bot in racers), "all are on game-2", 20)
        before = {bot.player: bot.counters["finished"] for bot in racers}
        again = lambda: all(bot.counters["finished"] > before[bot.player] for bot in racers)  # noqa: E731
        await until(again, "all race again", 60)
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
        end = await until(lambda: end_of(studio, match), "the race has a result", 60)
        assert end["event"] == "GameFinished"
        assert all(bot.client.counters["losses"] == 0 for bot in racers)
        next_one = lambda: all(bot.match != match and bot.state == "running" for bot in racers)  # noqa: E731
        await until(next_one, "the next race runs", 30)


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
        end = await until(lambda: end_of(studio, match), "the race has a result", 60)
        assert [result["outcome"] for result in end["body"]["results"]] == ["finished"] * 4
        await until(lambda: all(bot.counters["finished"] for bot in racers), "all were told")
        for bot in racers:
            assert bot.client.counters["resumes"] >= 1
            assert bot.client.counters["logins"] == 1


async def test_a_second_login_takes_over(tmp_path):
    async with cluster(tmp_path, "game-1", "game-2", **QUICK) as running, node(running) as studio:
        first, second = Player(studio, "ann"), Player(studio, "ann", transport="tcp")
        async with first.client:
            await asyncio.wait_for(first.client.online.wait(), 10)
            async with second.client:
                assert await asyncio.wait_for(first.client.ended(), 10) == "taken_over"
                await asyncio.wait_for(second.client.online.wait(), 10)
                receipt = await studio.unicast("ann", "hello", timeout_s=10)
                assert receipt.outcome == "delivered"
                assert [text for _, text in second.messages] == ["hello"]
                assert first.messages == []


async def test_messages_over_lost_connections_and_offline(tmp_path):
    async with cluster(tmp_path, "game-1", **QUICK) as running, node(running) as studio:
        player = Player(studio, "ann", udp=False)
        async with player.client:
            await asyncio.wait_for(player.client.online.wait(), 10)
            sent = []
            for number in range(20):
                sent.append(asyncio.ensure_future(studio.unicast("ann", {"n": number}, timeout_s=20)))
                if number % 5 == 2:
                    await asyncio.sleep(0.05)
                    player.client.break_connection()
            receipts = await asyncio.gather(*sent)
            assert all(receipt.acked for receipt in receipts)
            await until(lambda: len(player.messages) == 20, "all messages are there", 20)
            assert [payload["n"] for _, payload in player.messages] == list(range(20))
            assert len({welcome["session"] for welcome in player.welcomes}) == 1
            assert any(welcome["resumed"] for welcome in player.welcomes)
            await until(player.client.online.is_set, "online again")
            await player.client.leave()
        receipt = await studio.unicast("ann", "while you were away", timeout_s=10)
        assert receipt.outcome == "stored"
        again = Player(studio, "ann", udp=False)
        async with again.client:
            await until(lambda: again.messages, "the stored message is there")
            await again.client.leave()
        assert [payload for _, payload in again.messages] == ["while you were away"]


async def test_after_the_grace_time_the_player_is_logged_out(tmp_path):
    settings = {**QUICK, "game.grace_s": 0.5}
    async with cluster(tmp_path, "game-1", **settings) as running, node(running) as studio:
        player = Player(studio, "ann")
        async with player.client as client:
            await asyncio.wait_for(client.online.wait(), 10)
            assert (await studio.unicast("ann", "here", timeout_s=10)).outcome == "delivered"
        receipt = await studio.unicast("ann", "gone", timeout_s=20)
        assert receipt.outcome == "stored"
        assert (await studio.request("game:game-1", {"op": "status"})).json()["players"] == 0


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
            await until(both, "they are in a match", 20)
            assert state_of(first)["match"] == state_of(second)["match"]


def state_of(player):
    return next((event for event in reversed(player.events) if event["type"] == "state"), None)


async def test_actions_that_can_not_be_done(tmp_path):
    async with cluster(tmp_path, "game-1", **QUICK) as running, node(running) as studio:
        player = Player(studio, "ann")
        async with player.client as client:
            await asyncio.wait_for(client.online.wait(), 10)
            for kind, fields, expected in [
                ("ready", {}, "no_match"),
                ("dance", {}, "no_match"),
                ("queue", {"car": 7}, "malformed"),
                ("queue", {"car": "x" * 4_096}, "limit"),
            ]:
                with pytest.raises(ActionRefused) as error:
                    await client.action(kind, **fields)
                assert error.value.kind == expected
            await client.action("queue", car="pebble")
            await until(lambda: [each for each in player.events if each["type"] == "queued"], "queued")
            assert (await manager(studio, "status"))["waiting"] == 1
            await client.action("unqueue")
            await until(lambda: waiting(studio, 0), "not queued any more")


async def waiting(asking, count):
    return (await manager(asking, "status"))["waiting"] == count


async def raw(address):
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def talk(address, data):
    """Send bytes; what the server says until it closes."""
    reader, writer = await raw(address)
    writer.write(data)
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), 15)
    return b""


def framed(kind, sequence, payload=b""):
    packet = protocol.packet(kind, sequence, payload)
    return struct.pack("<I", len(packet)) + packet


def bye(answer):
    (length,) = struct.unpack_from("<I", answer)
    kind, _, payload = protocol.read_packet(answer[4 : 4 + length])
    assert kind == ToClient.BYE
    return json.loads(payload)["reason"]


async def test_bad_bytes_are_refused_and_nobody_else_notices(tmp_path):
    async with cluster(tmp_path, "game-1", **QUICK) as running, node(running) as studio:
        player = Player(studio, "ann", transport="tcp")
        async with player.client as client:
            await asyncio.wait_for(client.online.wait(), 10)
            address = running.running["game-1"].addresses["tcp"]
            good = (await manager(studio, "token", player="bob"))["token"]
            login = protocol.Login(good, 0, 0, 0, [])
            wrong = {
                framed(ToServer.ACTION, 1, b"{}"): "malformed",
                framed(ToServer.LOGIN, 0, b"not json"): "malformed",
                framed(ToServer.LOGIN, 0, login._replace(token="x.y.z").dump()): "bad_token",
                framed(ToServer.LOGIN, 0, login._replace(session=5).dump()): "bad_token",
                framed(ToServer.LOGIN, 0, login._replace(cursor=[(1, 1, 1)] * 65).dump()): "malformed",
                framed(99, 0): "malformed",
            }
            for data, reason in wrong.items():
                assert bye(await talk(address, data)) == reason
            assert await talk(address, b"\xff" * 100) == b""
            await talk(address, b"GET / HTTP/1.1\r\n\r\n")
            await unknown_kind_after_login(address, login)
            client.send_inputs(2**63, [b"\0" * 300])
            with pytest.raises(ActionRefused):
                await client.action("nothing")
            assert client.counters["losses"] == 0


async def unknown_kind_after_login(address, login):
    reader, writer = await raw(address)
    writer.write(framed(ToServer.LOGIN, 0, login.dump()))
    (length,) = struct.unpack("<I", await asyncio.wait_for(reader.readexactly(4), 10))
    kind, _, _ = protocol.read_packet(await reader.readexactly(length))
    assert kind == ToClient.WELCOME
    writer.write(framed(0x77, 0))
    assert bye(await asyncio.wait_for(reader.read(), 10)) == "malformed"
    writer.close()


@pytest.mark.slow
async def test_who_is_never_ready_did_not_finish(tmp_path):
    settings = {**QUICK, "manager.match_size": 3, "game.ready_ms": 1_000}
    async with (
        cluster(tmp_path, "game-1", **settings) as running,
        node(running) as studio,
        bots(studio, tmp_path, 2),
    ):
        lazy = Player(studio, "lazy")
        async with lazy.client as client:
            await asyncio.wait_for(client.online.wait(), 10)
            await client.action("queue")
            await until(lambda: finished(studio, 1), "the race is finished", 60)
            entries = (await manager(studio, "matches"))["entries"]
            end = next(entry for entry in entries if entry["event"] == "GameFinished")
            outcomes = {result["player"]: result["reason"] for result in end["body"]["results"]}
            assert outcomes == {"bot-0001": "", "bot-0002": "", "lazy": "never ready"}
