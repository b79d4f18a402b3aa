"""Game servers, the manager, clients and bots as real processes: races, takeovers, bad input."""

import asyncio
import contextlib
import json
import socket
import struct

import pytest
from zmqgame import protocol
from zmqgame.client import ActionRefused
from zmqgame.play.drag import DragRace
from zmqgame.play.record import Record, replay
from zmqgame.protocol import ToClient, ToServer

from tests.cluster import cluster, until
from tests.players import QUICK, Player, bots, finished, handled_ids, manager, node


@pytest.mark.slow
async def test_a_race_from_login_to_result(tmp_path):
    async with cluster(tmp_path, "game-1", **QUICK) as running, node(running) as studio:
        async with bots(studio, tmp_path, 4) as racers:
            status = await until(lambda: finished(studio, 1), "a race is finished")
            assert status["log"]["MatchAborted"] == 0
            entries = (await manager(studio, "matches"))["entries"]
            assert "GameServerIsReady" in [entry["event"] for entry in entries]
            end = next(entry for entry in entries if entry["event"] == "GameFinished")
            results = end["body"]["results"]
            assert sorted(result["player"] for result in results) == sorted(bot.player for bot in racers)
            assert [result["place"] for result in results] == [1, 2, 3, 4]
            assert all(4_000 < result["values"]["time_ms"] < 40_000 for result in results)
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
    assert len(found) > 4
    assert found == record.hashes


async def test_a_second_login_takes_over(tmp_path):
    async with cluster(tmp_path, "game-1", "game-2", **QUICK) as running, node(running) as studio:
        first, second = Player(studio, "ann"), Player(studio, "ann", transport="tcp")
        async with first.client:
            await asyncio.wait_for(first.client.online.wait(), 60)
            async with second.client:
                assert await asyncio.wait_for(first.client.ended(), 60) == "taken_over"
                await asyncio.wait_for(second.client.online.wait(), 60)
                receipt = await studio.unicast("ann", "hello", timeout_s=60)
                assert receipt.outcome == "delivered"
                assert [text for _, text in second.messages] == ["hello"]
                assert first.messages == []


async def test_latest_and_droppable_reach_the_client_at_once_and_leave_no_trace(tmp_path):
    async with cluster(tmp_path, "game-1", **QUICK) as running, node(running) as studio:
        for transport in ("ws", "tcp"):
            player = Player(studio, transport, transport=transport)
            async with player.client as client:
                await asyncio.wait_for(client.online.wait(), 60)
                assert (await studio.unicast(player.name, "firm 1", timeout_s=60)).outcome == "delivered"
                cursor, frame = client.cursor, client.last_frame
                for policy in ("latest", "droppable"):
                    receipt = await studio.unicast(player.name, policy, policy=policy, timeout_s=60)
                    assert receipt.outcome == "sent"
                await until(lambda player=player: len(player.messages) == 3, "both are there")
                assert [text for _, text in player.messages] == ["firm 1", "latest", "droppable"]
                assert [message_id.must_deliver for message_id, _ in player.messages] == [True, False, False]
                assert (client.cursor, client.last_frame) == (cursor, frame)
                assert client.counters["loose_messages"] == 2
                # Nothing of them comes again with a connection that is resumed, and frames go on as before.
                client.break_connection()
                await until(lambda client=client: client.counters["resumes"] == 1, "resumed")
                assert (await studio.unicast(player.name, "firm 2", timeout_s=60)).outcome == "delivered"
                assert (
                    await studio.unicast(player.name, "x", policy="droppable", timeout_s=60)
                ).outcome == "sent"
                await until(lambda player=player: len(player.messages) == 5, "the last one is there")
                assert [text for _, text in player.messages][3:] == ["firm 2", "x"]
                assert client.last_frame == frame + 1
                assert client.counters["repeated_frames"] == client.counters["repeated_messages"] == 0
                # A flood is cut, and what must be delivered passes through it. A slow machine has to try more
                # often: the rate allows a quarter of a megabyte a second.
                for _ in range(20):
                    flood = [
                        studio.unicast(player.name, b"x" * 200_000, policy="droppable", timeout_s=60)
                        for _ in range(10)
                    ]
                    await asyncio.gather(*flood)
                    if await loose_over_rate(studio):
                        break
                assert (await studio.unicast(player.name, "firm 3", timeout_s=60)).outcome == "delivered"
                assert await loose_over_rate(studio) >= 1
                assert client.counters["losses"] == 1
                await client.leave()


async def loose_over_rate(asking):
    status = (await asking.request("game:game-1", {"op": "status"}, timeout_s=60)).json()
    return status["counters"]["loose_over_rate"]


async def test_actions_that_can_not_be_done(tmp_path):
    async with cluster(tmp_path, "game-1", **QUICK) as running, node(running) as studio:
        player = Player(studio, "ann")
        async with player.client as client:
            await asyncio.wait_for(client.online.wait(), 60)
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
        return await asyncio.wait_for(reader.read(), 60)
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
            await asyncio.wait_for(client.online.wait(), 60)
            address = running.running["game-1"].addresses["tcp"]
            good = (await manager(studio, "token", player="bob"))["token"]
            login = protocol.Login(good, 0, 0, 0, [])
            wrong = {
                framed(ToServer.ACTION, 1, b"{}"): "malformed",
                framed(ToServer.LOGIN, 0, b"not json"): "malformed",
                framed(ToServer.LOGIN, 0, login._replace(token="x.y.z").dump()): "bad_token",
                framed(ToServer.LOGIN, 0, login._replace(session=5).dump()): "bad_token",
                framed(ToServer.LOGIN, 0, login._replace(cursor=[(1, 1, 1)] * 65).dump()): "limit",
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
            host, _, port = running.running["game-1"].addresses["udp"].rpartition(":")
            with socket.socket(type=socket.SOCK_DGRAM) as stranger:
                for length in (1, 18, 1078):
                    stranger.sendto(b"\x85" * length, (host, int(port)))
            await until(lambda: refusals(studio), "status shows what the sockets refused")
            log = running.running["game-1"].log
            await until(lambda: "datagrams_refused 3" in log.read_text(), "the log tells it")


async def refusals(studio):
    status = (await studio.request("game:game-1", {"op": "status"}, timeout_s=60)).json()
    assert status["counters"]["refused_bad_token"] == 2
    return status["edge"].get("datagrams_refused") == 3 and status["edge"]["bad_bytes"] >= 1


async def unknown_kind_after_login(address, login):
    reader, writer = await raw(address)
    writer.write(framed(ToServer.LOGIN, 0, login.dump()))
    (length,) = struct.unpack("<I", await asyncio.wait_for(reader.readexactly(4), 60))
    kind, _, _ = protocol.read_packet(await reader.readexactly(length))
    assert kind == ToClient.WELCOME
    writer.write(framed(0x77, 0))
    assert bye(await asyncio.wait_for(reader.read(), 60)) == "malformed"
    writer.close()


@pytest.mark.slow
async def test_who_is_never_ready_did_not_finish(tmp_path):
    settings = {**QUICK, "manager.match_size": 3, "game.ready_ms": 4_000}
    async with (
        cluster(tmp_path, "game-1", **settings) as running,
        node(running) as studio,
        bots(studio, tmp_path, 2),
    ):
        lazy = Player(studio, "lazy")
        async with lazy.client as client:
            await asyncio.wait_for(client.online.wait(), 60)
            await client.action("queue")
            await until(lambda: finished(studio, 1), "the race is finished")
            entries = (await manager(studio, "matches"))["entries"]
            end = next(entry for entry in entries if entry["event"] == "GameFinished")
            outcomes = {result["player"]: result["reason"] for result in end["body"]["results"]}
            assert outcomes == {"bot-0001": "", "bot-0002": "", "lazy": "never ready"}
